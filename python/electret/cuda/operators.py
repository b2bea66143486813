"""The kernels of the PyTorch operators on a device: tensors are used in place, work is queued on torch's
current stream, results are torch's memory. Nothing waits, except for a new plan
(:mod:`electret.cuda.plans`); values are not checked for NaN, because reading them would wait.

Names and arguments are those of :mod:`electret.torch.operators`. CPU tensors are taken for tensors of the
emulated device.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from electret import _native
from electret.cuda.plans import Place, Request, find_plan, place_of, require_one_device
from electret.kernels.arguments import Options, Receivers, Sources, Systems, Tangents

__all__ = [
    "coulomb",
    "coulomb_tangent",
    "emulated",
    "emulation",
    "features",
    "features_gradient",
    "features_tangent",
    "potential",
    "queue",
]

_emulated = False


def emulated() -> bool:
    """True if CPU tensors go through the emulated device."""
    return _emulated


@contextmanager
def emulation() -> Iterator[None]:
    """CPU tensors go through the emulated device, as in :func:`electret.testing.emulated_device`."""
    global _emulated
    before, _emulated = _emulated, True
    try:
        yield
    finally:
        _emulated = before


def queue(
    place: Place, plan: _native.DevicePlan, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]
) -> None:
    """Queue one evaluation of a plan.

    Args:
        place: of all tensors.
        plan: of the batch.
        inputs: tensors by the names of `DevicePlan.evaluate`.
        outputs: likewise, dense tensors to write to.
    """
    dense = {name: _plain(tensor) for name, tensor in inputs.items()}  # alive until the work is queued
    addresses = {name: tensor.data_ptr() for name, tensor in (*dense.items(), *outputs.items())}
    with place.current():
        plan.evaluate(place.stream, **addresses)


def coulomb(
    systems: Systems, sources: Sources, options: Options, gradients: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """energy [n_systems], dE/dmultipoles, dE/dpositions, dE/dcell; empty without `gradients`."""
    variables = (sources.multipoles, systems.positions, systems.cell)
    to_p, to_x, to_h = _like(*variables) if gradients else [x.new_empty(0) for x in variables]
    energy = to_x.new_empty(systems.n_systems)
    outputs = {"value": energy, **_gradients(to_x, to_p, to_h)}
    _evaluate(Request(_order(sources), options=options), systems, sources, outputs)
    return energy, to_p, to_x, to_h


def coulomb_tangent(
    systems: Systems, sources: Sources, options: Options, tangents: Tangents
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Derivatives of the outputs of `coulomb` along tangents of positions, multipoles, cell."""
    to_p, to_x, to_h = _like(sources.multipoles, systems.positions, systems.cell)
    energy = to_x.new_empty(systems.n_systems)
    outputs = {"value": energy, **_gradients(to_x, to_p, to_h)}
    _evaluate(Request(_order(sources), options=options), systems, sources, outputs, tangents=tangents)
    return energy, to_p, to_x, to_h


def features(systems: Systems, sources: Sources, receivers: Receivers, options: Options) -> Tensor:
    """Features [n_atoms, n_widths, (features_max_l + 1)**2]."""
    shape = (systems.n_atoms, receivers.widths.shape[0], receivers.n_lm)
    values = systems.positions.new_empty(shape)
    request = _request(sources, receivers, options)
    _evaluate(request, systems, sources, {"features": values}, receivers.widths)
    return values


def features_gradient(
    systems: Systems, sources: Sources, receivers: Receivers, options: Options, cotangent: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient of U = sum(features * cotangent) in positions, multipoles and cell."""
    to_x, to_p, to_h = _like(systems.positions, sources.multipoles, systems.cell)
    outputs = _gradients(to_x, to_p, to_h)
    request = _request(sources, receivers, options)
    _evaluate(request, systems, sources, outputs, receivers.widths, cotangent=cotangent)
    return to_x, to_p, to_h


def features_tangent(
    systems: Systems,
    sources: Sources,
    receivers: Receivers,
    options: Options,
    cotangent: Tensor,
    tangents: Tangents,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Derivative of dU/d(positions, multipoles, cotangent, cell) along the tangents."""
    to_x, to_p, to_g, to_h = _like(systems.positions, sources.multipoles, cotangent, systems.cell)
    outputs = {"features": to_g, **_gradients(to_x, to_p, to_h)}
    request = _request(sources, receivers, options)
    _evaluate(request, systems, sources, outputs, receivers.widths, tangents=tangents, cotangent=cotangent)
    return to_x, to_p, to_g, to_h


def potential(
    systems: Systems, sources: Sources, options: Options, points: Tensor, points_batch: Tensor
) -> Tensor:
    """Potential [n_points] in V at points [n_points, 3]; without derivatives."""
    values = points.new_empty(points.shape[0])
    if points.shape[0] == 0:
        return values
    request = Request(_order(sources), 0, "multipoles", options)
    _evaluate(request, systems, sources, {"features": values}, points_batch=points_batch, points=points)
    return values


def _evaluate(
    request: Request,
    systems: Systems,
    sources: Sources,
    outputs: Mapping[str, Tensor],
    widths: Tensor | None = None,
    points_batch: Tensor | None = None,
    tangents: Tangents | None = None,
    **inputs: Tensor,
) -> None:
    """Finds the plan of a batch and queues its evaluation; zeros where there are no atoms."""
    inputs |= {
        "positions": systems.positions,
        "multipoles": sources.multipoles,
        "cell": systems.cell,
    }
    if tangents is not None:
        named = zip(tangents._fields, tangents, strict=True)
        inputs |= {f"{name}_tangent": tensor for name, tensor in named if tensor is not None}
    others = {"sigma": sources.sigma, "pbc": systems.pbc, "batch": systems.batch, "widths": widths}
    require_one_device(systems.positions.device, **inputs, **others, points_batch=points_batch)
    if systems.n_atoms == 0:
        for tensor in outputs.values():
            tensor.zero_()
        return
    place = place_of(systems.positions)
    with place.current():
        plan = find_plan(place, request, systems, sources.sigma, widths, inputs.get("points"), points_batch)
    queue(place, plan, inputs, outputs)


def _gradients(positions: Tensor, multipoles: Tensor, cell: Tensor) -> dict[str, Tensor]:
    """Gradients by the names of `DevicePlan.evaluate`."""
    return {"positions_gradient": positions, "multipoles_gradient": multipoles, "cell_gradient": cell}


def _like(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Dense tensors of these shapes, with any content."""
    return tuple(
        torch.empty_like(tensor) if tensor.is_contiguous() else tensor.new_empty(tensor.shape)
        for tensor in tensors
    )


def _plain(tensor: Tensor) -> Tensor:
    """Equal numbers, dense in memory, for their address alone."""
    if tensor.is_contiguous() and not tensor.is_neg():
        return tensor
    return tensor.detach().resolve_neg().contiguous()


def _order(sources: Sources) -> int:
    return math.isqrt(sources.multipoles.shape[1]) - 1


def _request(sources: Sources, receivers: Receivers, options: Options) -> Request:
    return Request(_order(sources), receivers.max_l, receivers.normalization, options)
