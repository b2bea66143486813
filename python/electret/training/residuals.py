"""Differences between predictions and labels, where a frame carries the label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from electret.graph import Graph
from electret.training.targets import TARGETS, Target

__all__ = ["Residual", "open_components", "residual"]

_AXES = {"x": 0, "y": 1, "z": 2}


@dataclass(frozen=True)
class Residual:
    """Prediction, label and difference of one target in a batch, unlabelled entries masked.

    Attributes:
        prediction: `[n_rows, n_components]`, rows are atoms or systems.
        label: same shape, 0 where there is none.
        difference: prediction - label, 0 where there is none; per atom of the system for extensive targets.
        mask: whether an entry counts, same shape.
        system: system of each row, `[n_rows]`.
    """

    target: Target
    prediction: torch.Tensor
    label: torch.Tensor
    difference: torch.Tensor
    mask: torch.Tensor
    system: torch.Tensor


def residual(
    name: str,
    predictions: Mapping[str, torch.Tensor],
    graph: Graph,
    dipole_components: Sequence[str] | None = None,
) -> Residual | None:
    """Residual of a target, or None if no frame of the batch carries it or the model does not predict it.

    Multipoles are compared up to the lower of the two highest l. `dipole_components` names the components of
    the dipole that count; None takes those along which the frame is not periodic, where alone a dipole is
    defined.
    """
    target = TARGETS[name]
    label = graph.total_charge if name == "total_charge" else graph.labels.get(name)
    if label is None or name not in predictions:
        return None
    n_rows = graph.n_atoms if target.per_atom else graph.n_systems
    prediction = predictions[name].reshape(n_rows, -1)  # [n_rows, n_components]
    label = label.to(prediction.device).reshape(n_rows, -1)
    if name == "multipoles":
        n_lm = min(prediction.shape[1], label.shape[1])
        prediction, label = prediction[:, :n_lm], label[:, :n_lm]
    mask = torch.isfinite(label)
    if name == "dipole":
        mask = mask & open_components(graph, dipole_components)
    if not bool(mask.any()):
        return None
    system = graph.batch if target.per_atom else torch.arange(n_rows, device=graph.device)
    # The prediction itself stands in for absent labels, so that no NaN reaches the gradient.
    label = torch.where(mask, label, prediction.detach().to(label.dtype))
    difference = prediction - label
    if target.extensive:
        difference = difference / graph.n_atoms_per_system.to(difference.dtype)[:, None]
    return Residual(target, prediction, label, difference, mask, system)


def open_components(graph: Graph, components: Sequence[str] | None = None) -> torch.Tensor:
    """Cartesian components of the dipole that count in each system, `[n_systems, 3]` bool."""
    if components is not None:
        chosen = torch.zeros(graph.n_systems, 3, dtype=torch.bool, device=graph.device)
        chosen[:, [_AXES[component] for component in components]] = True
        return chosen
    periodic = graph.cell * graph.pbc[:, :, None]  # [n_systems, 3, 3], zero rows along open axes
    return (periodic.abs() <= 1e-6 * graph.cell.abs().amax(dim=(1, 2), keepdim=True)).all(dim=1)
