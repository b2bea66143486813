"""Errors of a model over a data set: MAE and RMSE of each target, overall and per config_type."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from electret.graph import Graph
from electret.training.convergence import Convergence
from electret.training.residuals import residual
from electret.training.targets import TARGETS

__all__ = ["ErrorSums", "Metrics", "MetricsAccumulator"]


@dataclass
class ErrorSums:
    """Sums over residuals d (per atom of the system for extensive targets) in eV, Å, e."""

    count: int = 0
    signed: float = 0.0
    absolute: float = 0.0
    squared: float = 0.0
    largest: float = 0.0

    def add(self, differences: NDArray[np.float64]) -> None:
        """Take in one-dimensional residuals."""
        self.count += differences.size
        self.signed += float(differences.sum())
        self.absolute += float(np.abs(differences).sum())
        self.squared += float(np.square(differences).sum())
        self.largest = max(self.largest, float(np.abs(differences).max()))

    def merge(self, other: ErrorSums) -> None:
        """Take in the residuals of another rank."""
        self.count += other.count
        self.signed += other.signed
        self.absolute += other.absolute
        self.squared += other.squared
        self.largest = max(self.largest, other.largest)

    @property
    def mae(self) -> float:
        """Mean absolute error."""
        return self.absolute / self.count

    @property
    def rmse(self) -> float:
        """Root of the mean squared error."""
        return math.sqrt(self.squared / self.count)

    @property
    def offset(self) -> float:
        """Mean signed error."""
        return self.signed / self.count

    @property
    def spread(self) -> float:
        """Standard deviation of the error: what is left of the RMSE without the offset."""
        return math.sqrt(max(self.squared / self.count - self.offset**2, 0.0))


@dataclass(repr=False)
class Metrics:
    """Errors per target and config_type; config_type `all` is everything.

    Attributes:
        errors: config_type -> target -> sums.
        n_frames: frames evaluated.
        loss: mean loss per frame if a loss was given, over the converged frames, divided by their share of
            all frames; infinite where none converged.
        parity: target -> (labels, predictions), flat, on request; energies per atom.
        convergence: how the self-consistency went, for the families that have one.
    """

    errors: dict[str, dict[str, ErrorSums]]
    n_frames: int
    loss: float | None = None
    parity: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = field(default_factory=dict)
    convergence: Convergence | None = None

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{name} MAE {sums.mae * TARGETS[name].scale:.3g} {TARGETS[name].unit}"
            for name, sums in self.overall.items()
        )
        return f"Metrics({self.n_frames} frames: {shown or 'no labels'})"

    @property
    def overall(self) -> dict[str, ErrorSums]:
        """Errors over all frames, by target."""
        return self.errors["all"]

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers in eV, Å, e for JSON: mae, rmse, max, offset, spread and count."""
        return {
            "n_frames": self.n_frames,
            "loss": self.loss,
            "self_consistency": None if self.convergence is None else self.convergence.as_dict(),
            "errors": {
                kind: {
                    name: {
                        "mae": sums.mae,
                        "rmse": sums.rmse,
                        "max": sums.largest,
                        "offset": sums.offset,
                        "spread": sums.spread,
                        "count": sums.count,
                    }
                    for name, sums in targets.items()
                }
                for kind, targets in self.errors.items()
            },
        }


class MetricsAccumulator:
    """Collects residuals batch by batch.

    Args:
        dipole_components: see `residual`.
        parity: keep labels and predictions, and how each self-consistency went from iteration to iteration.
        stability_limit: see `residual`.
        periodic_responses: see `residual`.
    """

    def __init__(
        self,
        dipole_components: Sequence[str] | None = None,
        parity: bool = False,
        stability_limit: float = 0.9,
        periodic_responses: frozenset[str] = frozenset(),
    ) -> None:
        self._dipole_components = dipole_components
        self._stability_limit = stability_limit
        self._periodic_responses = periodic_responses
        self._keep_parity = parity
        self._convergence = Convergence()
        self._errors: dict[str, dict[str, ErrorSums]] = {"all": {}}
        self._parity: dict[str, list[NDArray[np.float64]]] = {}
        self._n_frames = 0
        self._loss = 0.0
        self._n_in_loss = 0
        self._has_loss = False

    def add(self, predictions: Mapping[str, torch.Tensor], graph: Graph, loss: float | None = None) -> None:
        """Take in a batch; `loss` is its mean loss over the converged frames."""
        self._n_frames += graph.n_systems
        n_converged = self._convergence.add(predictions, graph.n_systems, self._keep_parity)
        if loss is not None:
            self._loss += loss * n_converged
            self._n_in_loss += n_converged
            self._has_loss = True
        kinds = np.array(graph.config_type)
        for name in TARGETS:
            entry = residual(
                name,
                predictions,
                graph,
                self._dipole_components,
                self._stability_limit,
                self._periodic_responses,
            )
            if entry is None:
                continue
            mask = entry.mask.cpu().numpy()
            if name == "total_charge":
                # Frames that do not mention a charge are neutral in the loss, but have no label to report on.
                label = graph.labels.get(name, torch.full_like(graph.total_charge, torch.nan))
                mask = mask & torch.isfinite(label).cpu().numpy()[:, None]
                if not mask.any():
                    continue
            difference = entry.difference.detach().cpu().numpy().astype(np.float64)
            self._add_errors("all", name, difference[mask])
            row_kinds = kinds[entry.system.cpu().numpy()]
            for kind in np.unique(row_kinds):
                chosen = mask & (row_kinds == kind)[:, None]
                if chosen.any():
                    self._add_errors(str(kind), name, difference[chosen])
            if self._keep_parity:
                per_atom = graph.n_atoms_per_system.cpu().numpy()[:, None] if name == "energy" else 1
                both = (
                    np.stack([entry.label.cpu().numpy(), entry.prediction.detach().cpu().numpy()]) / per_atom
                )
                self._parity.setdefault(name, []).append(both[:, mask])

    def _add_errors(self, kind: str, name: str, differences: NDArray[np.float64]) -> None:
        self._errors.setdefault(kind, {}).setdefault(name, ErrorSums()).add(differences)

    def merge(self, other: MetricsAccumulator) -> None:
        """Take in the batches of another rank."""
        self._n_frames += other._n_frames
        self._loss += other._loss
        self._n_in_loss += other._n_in_loss
        self._has_loss |= other._has_loss
        self._convergence.merge(other._convergence)
        for kind, targets in other._errors.items():
            for name, sums in targets.items():
                self._errors.setdefault(kind, {}).setdefault(name, ErrorSums()).merge(sums)
        for name, parts in other._parity.items():
            self._parity.setdefault(name, []).extend(parts)

    def result(self) -> Metrics:
        """Metrics of everything taken in."""
        loss = None
        if self._has_loss:
            # Frames without a density would otherwise make an epoch look better by being left out.
            share = self._n_in_loss / self._n_frames
            loss = self._loss / self._n_in_loss / share if self._n_in_loss else math.inf
        parity = {name: np.concatenate(parts, axis=1) for name, parts in self._parity.items()}
        return Metrics(
            errors=self._errors,
            n_frames=self._n_frames,
            loss=loss,
            parity={name: (both[0], both[1]) for name, both in parity.items()},
            convergence=self._convergence if self._convergence.n_frames else None,
        )
