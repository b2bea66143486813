"""The kernels of the PyTorch operators on a device: tensors are used in place, work is queued on torch's
current stream, results are torch's memory. Nothing waits, except for a plan that is not known yet
(:mod:`electret.cuda.plans`); values are not checked for NaN, because looking at them would wait.

Names and arguments are those of :mod:`electret.torch.operators`. CPU tensors are taken for tensors of the
emulated device.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from electret.cuda.plans import Place, Request, find_plan, place_of
from electret.errors import InputError

__all__ = [
    "coulomb",
    "coulomb_tangent",
    "emulated",
    "emulation",
    "features",
    "features_gradient",
    "features_tangent",
    "potential",
]

_emulated = False


def emulated() -> bool:
    """Whether CPU tensors go through the emulated device."""
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


def coulomb(
    positions: Tensor,
    multipoles: Tensor,
    cell: Tensor,
    sigma: Tensor,
    pbc: Tensor,
    batch: Tensor,
    boundary: str | None,
    method: str,
    accuracy: float,
    precision: str,
    self_interaction: bool,
    gradients: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """energy [n_systems], dE/dmultipoles, dE/dpositions, dE/dcell; empty without `gradients`."""
    device = _one_device(
        positions=positions, multipoles=multipoles, cell=cell, sigma=sigma, pbc=pbc, batch=batch
    )
    x, p, h = _plain(positions), _plain(multipoles), _plain(cell)
    energy = x.new_empty(h.shape[0])
    to_p, to_x, to_h = (torch.empty_like(like) if gradients else like.new_empty(0) for like in (p, x, h))
    if x.shape[0] == 0:
        return energy.zero_(), to_p.zero_(), to_x.zero_(), to_h.zero_()
    request = Request(_order(p), 0, "receiver", boundary, method, accuracy, precision, self_interaction)
    with device.current():
        plan = find_plan(device, request, cell, pbc, batch, sigma, None, None, x)
        plan.evaluate(
            device.stream,
            positions=x.data_ptr(),
            multipoles=p.data_ptr(),
            cell=h.data_ptr(),
            value=energy.data_ptr(),
            multipoles_gradient=to_p.data_ptr(),
            positions_gradient=to_x.data_ptr(),
            cell_gradient=to_h.data_ptr(),
        )
    return energy, to_p, to_x, to_h


def coulomb_tangent(
    positions: Tensor,
    multipoles: Tensor,
    cell: Tensor,
    positions_tangent: Tensor,
    multipoles_tangent: Tensor,
    cell_tangent: Tensor,
    sigma: Tensor,
    pbc: Tensor,
    batch: Tensor,
    boundary: str | None,
    method: str,
    accuracy: float,
    precision: str,
    self_interaction: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Derivatives of the outputs of `coulomb` along tangents of positions, multipoles, cell."""
    device = _one_device(
        positions=positions,
        multipoles=multipoles,
        cell=cell,
        positions_tangent=positions_tangent,
        multipoles_tangent=multipoles_tangent,
        cell_tangent=cell_tangent,
        sigma=sigma,
        pbc=pbc,
        batch=batch,
    )
    x, p, h = _plain(positions), _plain(multipoles), _plain(cell)
    dx, dp, dh = _plain(positions_tangent), _plain(multipoles_tangent), _plain(cell_tangent)
    energy, to_p, to_x, to_h = (
        x.new_empty(h.shape[0]),
        torch.empty_like(p),
        torch.empty_like(x),
        torch.empty_like(h),
    )
    if x.shape[0] == 0:
        return energy.zero_(), to_p.zero_(), to_x.zero_(), to_h.zero_()
    request = Request(_order(p), 0, "receiver", boundary, method, accuracy, precision, self_interaction)
    with device.current():
        plan = find_plan(device, request, cell, pbc, batch, sigma, None, None, x)
        plan.evaluate(
            device.stream,
            positions=x.data_ptr(),
            multipoles=p.data_ptr(),
            cell=h.data_ptr(),
            tangents=True,
            positions_tangent=dx.data_ptr(),
            multipoles_tangent=dp.data_ptr(),
            cell_tangent=dh.data_ptr(),
            value=energy.data_ptr(),
            multipoles_gradient=to_p.data_ptr(),
            positions_gradient=to_x.data_ptr(),
            cell_gradient=to_h.data_ptr(),
        )
    return energy, to_p, to_x, to_h


def features(
    positions: Tensor,
    multipoles: Tensor,
    cell: Tensor,
    sigma: Tensor,
    widths: Tensor,
    pbc: Tensor,
    batch: Tensor,
    max_l: int,
    normalization: str,
    boundary: str | None,
    method: str,
    accuracy: float,
    precision: str,
    self_interaction: bool,
) -> Tensor:
    """Features [n_atoms, n_widths, (max_l + 1)**2]."""
    device = _one_device(
        positions=positions,
        multipoles=multipoles,
        cell=cell,
        sigma=sigma,
        widths=widths,
        pbc=pbc,
        batch=batch,
    )
    x, p, h = _plain(positions), _plain(multipoles), _plain(cell)
    values = x.new_empty((x.shape[0], widths.shape[0], (max_l + 1) ** 2))
    if x.shape[0] == 0:
        return values
    request = Request(
        _order(p), max_l, normalization, boundary, method, accuracy, precision, self_interaction
    )
    with device.current():
        plan = find_plan(device, request, cell, pbc, batch, sigma, widths, None, x)
        plan.evaluate(
            device.stream,
            positions=x.data_ptr(),
            multipoles=p.data_ptr(),
            cell=h.data_ptr(),
            features=values.data_ptr(),
        )
    return values


def features_gradient(
    positions: Tensor,
    multipoles: Tensor,
    cotangent: Tensor,
    cell: Tensor,
    sigma: Tensor,
    widths: Tensor,
    pbc: Tensor,
    batch: Tensor,
    max_l: int,
    normalization: str,
    boundary: str | None,
    method: str,
    accuracy: float,
    precision: str,
    self_interaction: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient of U = sum(features * cotangent) in positions, multipoles and cell."""
    device = _one_device(
        positions=positions,
        multipoles=multipoles,
        cotangent=cotangent,
        cell=cell,
        sigma=sigma,
        widths=widths,
        pbc=pbc,
        batch=batch,
    )
    x, p, g, h = _plain(positions), _plain(multipoles), _plain(cotangent), _plain(cell)
    to_x, to_p, to_h = torch.empty_like(x), torch.empty_like(p), torch.empty_like(h)
    if x.shape[0] == 0:
        return to_x, to_p, to_h.zero_()
    request = Request(
        _order(p), max_l, normalization, boundary, method, accuracy, precision, self_interaction
    )
    with device.current():
        plan = find_plan(device, request, cell, pbc, batch, sigma, widths, None, x)
        plan.evaluate(
            device.stream,
            positions=x.data_ptr(),
            multipoles=p.data_ptr(),
            cell=h.data_ptr(),
            cotangent=g.data_ptr(),
            multipoles_gradient=to_p.data_ptr(),
            positions_gradient=to_x.data_ptr(),
            cell_gradient=to_h.data_ptr(),
        )
    return to_x, to_p, to_h


def features_tangent(
    positions: Tensor,
    multipoles: Tensor,
    cotangent: Tensor,
    cell: Tensor,
    positions_tangent: Tensor,
    multipoles_tangent: Tensor,
    cotangent_tangent: Tensor,
    cell_tangent: Tensor,
    sigma: Tensor,
    widths: Tensor,
    pbc: Tensor,
    batch: Tensor,
    max_l: int,
    normalization: str,
    boundary: str | None,
    method: str,
    accuracy: float,
    precision: str,
    self_interaction: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Derivative of dU/d(positions, multipoles, cotangent, cell) along the tangents."""
    device = _one_device(
        positions=positions,
        multipoles=multipoles,
        cotangent=cotangent,
        cell=cell,
        positions_tangent=positions_tangent,
        multipoles_tangent=multipoles_tangent,
        cotangent_tangent=cotangent_tangent,
        cell_tangent=cell_tangent,
        sigma=sigma,
        widths=widths,
        pbc=pbc,
        batch=batch,
    )
    x, p, g, h = _plain(positions), _plain(multipoles), _plain(cotangent), _plain(cell)
    dx, dp, dg, dh = (
        _plain(t) for t in (positions_tangent, multipoles_tangent, cotangent_tangent, cell_tangent)
    )
    to_x, to_p, to_g, to_h = (torch.empty_like(t) for t in (x, p, g, h))
    if x.shape[0] == 0:
        return to_x, to_p, to_g, to_h.zero_()
    request = Request(
        _order(p), max_l, normalization, boundary, method, accuracy, precision, self_interaction
    )
    with device.current():
        plan = find_plan(device, request, cell, pbc, batch, sigma, widths, None, x)
        plan.evaluate(
            device.stream,
            positions=x.data_ptr(),
            multipoles=p.data_ptr(),
            cell=h.data_ptr(),
            cotangent=g.data_ptr(),
            tangents=True,
            positions_tangent=dx.data_ptr(),
            multipoles_tangent=dp.data_ptr(),
            cotangent_tangent=dg.data_ptr(),
            cell_tangent=dh.data_ptr(),
            multipoles_gradient=to_p.data_ptr(),
            features=to_g.data_ptr(),
            positions_gradient=to_x.data_ptr(),
            cell_gradient=to_h.data_ptr(),
        )
    return to_x, to_p, to_g, to_h


def potential(
    points: Tensor,
    points_batch: Tensor,
    positions: Tensor,
    multipoles: Tensor,
    cell: Tensor,
    sigma: Tensor,
    pbc: Tensor,
    batch: Tensor,
    boundary: str | None,
    method: str,
    accuracy: float,
    precision: str,
) -> Tensor:
    """Potential [n_points] in V at points [n_points, 3]; without derivatives."""
    device = _one_device(
        positions=positions,
        multipoles=multipoles,
        cell=cell,
        sigma=sigma,
        pbc=pbc,
        batch=batch,
        points=points,
        points_batch=points_batch,
    )
    x, p, h, r = _plain(positions), _plain(multipoles), _plain(cell), _plain(points)
    values = x.new_empty(r.shape[0])
    if x.shape[0] == 0 or r.shape[0] == 0:
        return values.zero_()
    request = Request(_order(p), 0, "multipoles", boundary, method, accuracy, precision, True)
    with device.current():
        plan = find_plan(device, request, cell, pbc, batch, sigma, None, points_batch, x, r)
        plan.evaluate(
            device.stream,
            positions=x.data_ptr(),
            multipoles=p.data_ptr(),
            cell=h.data_ptr(),
            points=r.data_ptr(),
            features=values.data_ptr(),
        )
    return values


def _plain(tensor: Tensor) -> Tensor:
    """The same numbers, dense in memory, for their address alone."""
    if tensor.is_contiguous() and not tensor.is_neg():
        return tensor
    return tensor.detach().resolve_neg().contiguous()


def _order(multipoles: Tensor) -> int:
    return math.isqrt(multipoles.shape[1]) - 1


def _one_device(**tensors: Tensor) -> Place:
    """The device of all arguments.

    Raises:
        InputError: they are on several.
    """
    first, leader = next(iter(tensors.items()))
    device = leader.device
    for name, tensor in tensors.items():
        if tensor.device != device:
            raise InputError(
                f"{name} is on {tensor.device} but {first} on {device}; bring them together with "
                f"{name}.to({first}.device)"
            )
    return place_of(leader)
