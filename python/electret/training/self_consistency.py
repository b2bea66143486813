"""Requests of a stage beside energy and forces: how the density is found, and further properties.

Training never starts a self-consistency from the density of an earlier epoch: the result would depend on it
within the tolerance, and a resumed run would not repeat bit for bit what the interrupted one would have done.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from electret.data.frames import Frames
from electret.graph import Graph
from electret.models import Model
from electret.models.family import Family
from electret.scf import ScfRequest
from electret.torch import potential
from electret.training.config import StageConfig
from electret.training.targets import DENSITY_LABELS, TARGETS, resolved_mode

__all__ = [
    "add_grid_potentials",
    "evaluated_targets",
    "has_density",
    "requested_properties",
    "scf_options",
]


def scf_options(family: str, stage: StageConfig | None = None, mode: str | None = None) -> dict[str, Any]:
    """Options of `Model.forward` that say how the density is found: none where it is explicit.

    Args:
        family: of the model.
        stage: whose mode and number of unrolled steps to use; None is the default mode.
        mode: instead of that of the stage.
    """
    wanted = resolved_mode(family, mode if mode is not None or stage is None else stage.mode)
    if wanted is None:
        return {}
    steps = {} if stage is None else {"unrolled_steps": stage.unrolled_steps}
    return {"scf": ScfRequest(mode=wanted, **steps)}  # type: ignore[arg-type]


def requested_properties(targets: Collection[str], graph: Graph) -> dict[str, Any]:
    """Options of `Model.forward` for the response properties among the targets that the batch has labels of
    (`stability` needs none)."""
    names = tuple(
        name
        for name, target in TARGETS.items()
        if target.on_request and name in targets and (not target.has_own_label or name in graph.labels)
    )
    return {"properties": names} if names else {}


def evaluated_targets(family: Family, weighted: Iterable[str] = ()) -> set[str]:
    """Targets to compute in an evaluation: all of the family with a label, `stability` and `stationarity`
    only where the loss has them."""
    labelled = {name for name in family.targets if TARGETS[name].has_own_label}
    return labelled | set(weighted)


def has_density(frames: Frames) -> NDArray[np.bool_]:
    """True for each frame that has labelled charges, so that `direct` training can use it."""
    return np.logical_or.reduce([frames.has(name) for name in DENSITY_LABELS])


def add_grid_potentials(model: Model, output: dict[str, torch.Tensor], graph: Graph) -> None:
    """Put `grid_potentials [n_points]` in V beside the other predictions: of the density and the external
    field at the points that the frames bring along. Their gradients go through the multipoles."""
    output["grid_potentials"] = potential(
        graph.labels["grid_points"],
        graph.positions,
        output["multipoles"],
        model.sigma[model.backbone.elements_of(graph)],
        cell=graph.cell,
        pbc=graph.pbc,
        batch=graph.batch,
        points_batch=graph.labels["grid_batch"],
        external_field=graph.external_field,
        **model.config.electrostatics.sums,
    )
