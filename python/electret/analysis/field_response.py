"""How the dipole of a model follows an external field, measured on labelled frames.

Let x_k = |F_k| be the strength of the field on frame k and y_k = D_k·F_k/|F_k| the dipole along it. Over the
frames of a group, the regression through the origin

    slope = sum_k x_k y_k / sum_k x_k²        (e Å²/V)

is the polarisability along the field, averaged over the frames with weights x_k², as long as the permanent
dipoles are not oriented by the field. These permanent dipoles are in the labels and in the predictions alike,
so they cancel in the *difference* of the slopes, the error of the polarisability. The *ratio* of the slopes
is 0 for a density without a response to the field and 1 for the right response; it is uncertain where
permanent dipoles hide the induced ones in the labels. Uncertainties are the jackknife over frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from electret.analysis.scf_statistics import converged
from electret.graph import Graph

__all__ = ["FieldDipoles", "FieldResponse"]

_FEWEST = 3
"""Frames below which no slope is given."""
_NO_FIELD = 1e-6
"""V/Å; fields below have no direction."""


@dataclass(frozen=True)
class FieldResponse:
    """The response of a group of frames.

    Attributes:
        n_frames: frames in the group.
        mae: mean absolute error of the dipole along the field, e Å.
        reference_slope, slope: of labels and predictions, e Å²/V.
        difference: slope - reference_slope, in which permanent dipoles that the model has cancel frame by
            frame; e Å²/V.
        difference_error: its standard error (jackknife), as all errors here.
        ratio: slope / reference_slope; nan where the reference does not respond or frames are too few.
        ratio_error: its standard error.
    """

    n_frames: int
    mae: float
    reference_slope: float
    slope: float
    difference: float
    difference_error: float
    ratio: float
    ratio_error: float

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON, null for what is not known."""
        return {
            name: None if isinstance(value, float) and not np.isfinite(value) else value
            for name, value in vars(self).items()
        }


@dataclass
class FieldDipoles:
    """Dipoles along the field of the neutral frames of a data set that are open along their field.

    Charged frames are left out, as their dipole depends on the origin.

    Attributes:
        groups: config_type of each frame.
        strength: [n] V/Å.
        reference, predicted: [n] e Å, labels and predictions along the field.
    """

    groups: list[str] = field(default_factory=list)
    strength: list[float] = field(default_factory=list)
    reference: list[float] = field(default_factory=list)
    predicted: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.groups)

    def add(self, output: Mapping[str, torch.Tensor], graph: Graph) -> None:
        """Take in the frames of a batch with a field and a labelled dipole."""
        if "dipole" not in output or "dipole" not in graph.labels:
            return
        strength = torch.linalg.vector_norm(graph.external_field, dim=1)  # [n_systems]
        # The dipole is defined along the field only where the field has no component along a period.
        along = torch.einsum("si,ski->sk", graph.external_field.double(), graph.cell).abs() * graph.pbc
        usable = (
            (strength > _NO_FIELD)
            & (graph.total_charge.abs() < 1e-6)
            & (along <= _NO_FIELD).all(dim=1)
            & torch.isfinite(graph.labels["dipole"]).all(dim=1)
            & converged(graph, output)
        )
        for system in torch.nonzero(usable)[:, 0].tolist():
            direction = graph.external_field[system] / strength[system]
            self.groups.append(graph.config_type[system])
            self.strength.append(float(strength[system]))
            self.reference.append(float(graph.labels["dipole"][system] @ direction))
            self.predicted.append(float(output["dipole"][system].to(direction.dtype) @ direction))

    def rows(self, group: str | None = None) -> tuple[NDArray[np.float64], ...]:
        """Strength, reference and prediction `[n]` of one group, or of all frames."""
        chosen = [index for index, name in enumerate(self.groups) if group in (None, name)]
        columns = (self.strength, self.reference, self.predicted)
        return tuple(np.array(column, dtype=np.float64)[chosen] for column in columns)

    def responses(self) -> dict[str, FieldResponse]:
        """Response of each config_type, `all` first; empty without such frames."""
        if not self.groups:
            return {}
        kinds: Iterable[str] = sorted(set(self.groups)) if len(set(self.groups)) > 1 else ()
        return {"all": _response(*self.rows()), **{kind: _response(*self.rows(kind)) for kind in kinds}}


def _response(
    strength: NDArray[np.float64], reference: NDArray[np.float64], predicted: NDArray[np.float64]
) -> FieldResponse:
    n_frames = len(strength)
    mae = float(np.abs(predicted - reference).mean())
    if n_frames < _FEWEST:
        return FieldResponse(n_frames, mae, *[float("nan")] * 6)
    squares, with_reference, with_predicted = strength**2, strength * reference, strength * predicted
    norm, up, down = squares.sum(), with_predicted.sum(), with_reference.sum()
    difference = (up - down) / norm
    others = (up - down - with_predicted + with_reference) / (norm - squares)  # [n_frames]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = up / down
        ratios = (up - with_predicted) / (down - with_reference)  # [n_frames]
    return FieldResponse(
        n_frames,
        mae,
        reference_slope=float(down / norm),
        slope=float(up / norm),
        difference=float(difference),
        difference_error=_jackknife(others),
        ratio=float(ratio),
        ratio_error=_jackknife(ratios),
    )


def _jackknife(left_out: NDArray[np.float64]) -> float:
    """Standard error from the estimates `[n_frames]` without each frame."""
    n_frames = len(left_out)
    with np.errstate(invalid="ignore"):
        squares = np.square(left_out - left_out.mean())
    return float(np.sqrt((n_frames - 1) / n_frames * squares.sum()))
