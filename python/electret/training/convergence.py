"""How the self-consistency of the frames of a data set or an epoch went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["Convergence", "add_convergence", "convergence_row", "epoch_columns"]


@dataclass
class Convergence:
    """Iterations and residuals of each frame, in the order of evaluation.

    Attributes:
        converged: whether the density of each frame converged.
        iterations: iterations of each frame.
        residuals: last residual of each frame in e (mean absolute residual per multipole component).
        histories: residual before each iteration and at the end, of each frame, if kept.
    """

    converged: list[bool] = field(default_factory=list)
    iterations: list[int] = field(default_factory=list)
    residuals: list[float] = field(default_factory=list)
    histories: list[NDArray[np.float64]] = field(default_factory=list)

    def add(self, predictions: Mapping[str, torch.Tensor], n_systems: int, keep_history: bool = False) -> int:
        """Take in a batch, and return the number of its systems that count: all for explicit densities."""
        if "scf_converged" not in predictions:
            return n_systems
        converged = predictions["scf_converged"].tolist()
        self.converged += converged
        self.iterations += predictions["scf_iterations"].tolist()
        self.residuals += torch.nan_to_num(predictions["scf_residual"].double(), nan=np.inf).tolist()
        if keep_history and "scf_history" in predictions:
            rows = predictions["scf_history"].detach().double().cpu().numpy()
            self.histories += [row[np.isfinite(row)] for row in rows]
        return sum(converged)

    def merge(self, other: Convergence) -> None:
        """Take in the frames of another rank."""
        for entry in fields(self):
            getattr(self, entry.name).extend(getattr(other, entry.name))

    @property
    def n_frames(self) -> int:
        """Frames with a self-consistent density."""
        return len(self.converged)

    @property
    def unconverged(self) -> int:
        """Frames whose density did not converge."""
        return self.converged.count(False)

    @property
    def histogram(self) -> dict[int, int]:
        """Number of converged frames by their number of iterations."""
        counts = Counter(n for n, done in zip(self.iterations, self.converged, strict=True) if done)
        return dict(sorted(counts.items()))

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON."""
        return {
            "frames": self.n_frames,
            "unconverged": self.unconverged,
            "iterations_mean": float(np.mean(self.iterations)),
            "iterations_max": max(self.iterations),
            "residual_median": float(np.median(self.residuals)),
            "residual_max": max(self.residuals),
            "iterations_of_converged": {str(n): count for n, count in self.histogram.items()},
        }


_SUMS = ("scf_frames", "unconverged", "scf_iterations")
_MAXIMA = ("scf_iterations_max", "scf_residual_max")


def convergence_row(predictions: Mapping[str, torch.Tensor], n_systems: int) -> list[Any]:
    """Number of systems of a training batch that count in its loss, and how the self-consistency went: six
    numbers that `add_convergence` takes from all ranks."""
    if "scf_converged" not in predictions:
        return [n_systems, 0, 0, 0, 0, 0]
    iterations, converged = predictions["scf_iterations"], predictions["scf_converged"].sum()
    worst = torch.nan_to_num(predictions["scf_residual"].double(), nan=np.inf).max()
    return [converged, n_systems, n_systems - converged, iterations.sum(), iterations.max(), worst]


def add_convergence(sums: dict[str, float], rows: torch.Tensor) -> int:
    """Add a training batch, the rows of `convergence_row` of all ranks, to the sums of an epoch, and give the
    number of systems that count in its loss."""
    if bool(rows[:, 1].any()):
        for name, column in zip(_SUMS, rows[:, 1:4].T, strict=True):
            sums[name] = sums.get(name, 0.0) + float(column.sum())
        for name, column in zip(_MAXIMA, rows[:, 4:6].T, strict=True):
            sums[name] = max(sums.get(name, 0.0), float(column.max()))
    return int(rows[:, 0].sum())


def epoch_columns(sums: Mapping[str, float], convergence: Convergence | None) -> dict[str, float]:
    """Columns of an epoch's record: of training where its mode iterates, and of validation."""
    columns: dict[str, float] = {}
    if sums.get("scf_frames"):
        columns["train_unconverged"] = sums["unconverged"]
        columns["train_scf_iterations"] = sums["scf_iterations"] / sums["scf_frames"]
        columns["train_scf_iterations_max"] = sums["scf_iterations_max"]
        columns["train_scf_residual_max"] = sums["scf_residual_max"]
    if convergence is not None:
        found = convergence.as_dict()
        columns["valid_unconverged"] = found["unconverged"]
        columns["valid_scf_iterations"] = found["iterations_mean"]
        columns["valid_scf_iterations_max"] = found["iterations_max"]
        columns["valid_scf_residual_max"] = found["residual_max"]
    return columns
