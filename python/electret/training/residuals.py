"""Differences between predictions and labels, where a frame carries the label."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch

from electret.graph import Graph
from electret.training.targets import TARGETS, Target

__all__ = ["DIPOLE_DERIVATIVES", "Residual", "open_components", "residual"]

DIPOLE_DERIVATIVES = frozenset({"polarizability", "born_effective_charges"})
"""Targets that along periodic axes are defined by a polarisation only: a dipole there depends on the image in
which an atom is listed."""

_AXES = {"x": 0, "y": 1, "z": 2}


@dataclass(frozen=True)
class Residual:
    """Prediction, label and difference of one target in a batch, unlabelled entries masked.

    Attributes:
        prediction: `[n_rows, n_components]`, rows are atoms, systems or points of grids.
        label: same shape, arbitrary finite where there is none.
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
    stability_limit: float = 0.9,
    periodic_responses: Collection[str] = (),
) -> Residual | None:
    """Residual of a target, or None if no frame of the batch carries it or the model does not predict it.

    Systems that did not converge (`scf_converged` of the predictions) never count. Multipoles are
    compared up to the lower of the two highest l. `dipole_components` names the components of the dipole
    that count; None takes those along which the frame is not periodic, where alone a dipole is defined,
    and its derivatives but for the `periodic_responses` of the family. Potentials on the grid of a
    crystal are compared without their means over the grid, which are a matter of convention. `stability`
    is what exceeds `stability_limit`.
    """
    target = TARGETS[name]
    if name not in predictions:
        return None
    system = _systems(target, graph)
    if len(system) == 0:
        return None
    prediction = predictions[name].reshape(len(system), -1)  # [n_rows, n_components]
    label = _label(name, prediction, graph, stability_limit)
    if label is None:
        return None
    if name == "multipoles":
        n_lm = min(prediction.shape[1], label.shape[1])
        prediction, label = prediction[:, :n_lm], label[:, :n_lm]
    mask = torch.isfinite(label)
    if name == "stationarity":
        mask = torch.isfinite(prediction)  # nan where the reference density lacks a component
    if name == "dipole":
        mask = mask & open_components(graph, dipole_components)
    if name in DIPOLE_DERIVATIVES and name not in periodic_responses:
        along = open_components(graph)[system]  # [n_rows, 3]
        other = along if name == "polarizability" else torch.ones_like(along)
        mask = mask & (along[:, :, None] & other[:, None, :]).flatten(1)
    if "scf_converged" in predictions:
        mask = mask & predictions["scf_converged"].to(mask.device)[system][:, None]
    if not bool(mask.any()):
        return None
    # The prediction itself stands in for absent labels, so that no NaN reaches the gradient.
    prediction = torch.where(mask, prediction, torch.nan_to_num(prediction.detach()))
    label = torch.where(mask, label, prediction.detach().to(label.dtype))
    if name == "grid_potentials":
        prediction, label = (_without_mean(values, system, graph) for values in (prediction, label))
    difference = prediction - label
    if name == "stability":
        difference = torch.relu(difference)
    if target.extensive:
        difference = difference / graph.n_atoms_per_system.to(difference.dtype)[:, None]
    return Residual(target, prediction, label, difference, mask, system)


def _systems(target: Target, graph: Graph) -> torch.Tensor:
    """System of each row of a target."""
    if target.rows == "atom":
        return graph.batch
    if target.rows == "point":
        return graph.labels.get("grid_batch", graph.batch[:0])
    return torch.arange(graph.n_systems, device=graph.device)


def _label(name: str, prediction: torch.Tensor, graph: Graph, stability_limit: float) -> torch.Tensor | None:
    """Label `[n_rows, n_components]` of a target; derivatives that should vanish are compared with zero."""
    if name == "stability":
        return torch.full_like(prediction.detach(), stability_limit)
    if not TARGETS[name].has_own_label:
        return torch.zeros_like(prediction.detach())
    label = graph.total_charge if name == "total_charge" else graph.labels.get(name)
    return None if label is None else label.to(prediction.device).reshape(len(prediction), -1)


def _without_mean(values: torch.Tensor, system: torch.Tensor, graph: Graph) -> torch.Tensor:
    """`values [n_points, 1]` without their mean over the grid of each system that is periodic throughout."""
    count = torch.bincount(system, minlength=graph.n_systems).clamp(min=1).to(values.dtype)
    mean = values.new_zeros(graph.n_systems).index_add(0, system, values[:, 0]) / count
    return values - torch.where(graph.pbc.all(dim=1), mean, torch.zeros_like(mean))[system][:, None]


def open_components(graph: Graph, components: Sequence[str] | None = None) -> torch.Tensor:
    """Cartesian components of the dipole that count in each system, `[n_systems, 3]` bool."""
    if components is not None:
        chosen = torch.zeros(graph.n_systems, 3, dtype=torch.bool, device=graph.device)
        chosen[:, [_AXES[component] for component in components]] = True
        return chosen
    periodic = graph.cell * graph.pbc[:, :, None]  # [n_systems, 3, 3], zero rows along open axes
    return (periodic.abs() <= 1e-6 * graph.cell.abs().amax(dim=(1, 2), keepdim=True)).all(dim=1)
