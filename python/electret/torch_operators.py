"""The PyTorch operators ``electret::coulomb`` and ``electret::features`` with their derivatives.

Each operator calls one native function on CPU float64 tensors; :mod:`electret.torch` prepares the arguments.
The gradient operators are operators too, so that autograd can differentiate them once more through the native
tangents.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from electret import _native
from electret.inputs import require_finite


def _array(tensor: Tensor) -> np.ndarray:
    """The tensor's memory as a C-contiguous numpy array; copies only what is strided."""
    return tensor.detach().contiguous().numpy()


def _tensors(arrays: Sequence[np.ndarray]) -> Any:
    """The arrays' memory as a tuple of tensors (of the length that the operator declares)."""
    return tuple(torch.from_numpy(array) for array in arrays)


def _third_derivative(name: str) -> NotImplementedError:
    return NotImplementedError(
        f"electret.torch: the third derivative of {name} is not available; positions, multipoles and "
        "cell can be differentiated twice (detach what needs no further derivative)"
    )


@torch.library.custom_op("electret::coulomb", mutates_args=(), device_types="cpu")
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
    self_interaction: bool,
    gradients: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """energy [n_systems], dE/dmultipoles, dE/dpositions, dE/dcell; empty without `gradients`."""
    energy, potential, gradient, cell_gradient = _tensors(
        _native.coulomb(
            _array(positions),
            _array(multipoles),
            _array(sigma),
            _array(cell),
            _array(pbc),
            _array(batch),
            boundary=boundary,
            method=method,
            accuracy=accuracy,
            self_interaction=self_interaction,
            gradients=gradients,
        )
    )
    require_finite("energy", energy.numpy())
    if not gradients:
        return energy, energy.new_empty(0), energy.new_empty(0), energy.new_empty(0)
    require_finite("forces", gradient.numpy())
    return energy, potential, gradient, cell_gradient


@coulomb.register_fake
def _(
    positions, multipoles, cell, sigma, pbc, batch, boundary, method, accuracy, self_interaction, gradients
):  # fmt: skip
    energy = positions.new_empty(cell.shape[0])
    if not gradients:
        return energy, positions.new_empty(0), positions.new_empty(0), positions.new_empty(0)
    return (
        energy,
        multipoles.new_empty(multipoles.shape),
        positions.new_empty(positions.shape),
        cell.new_empty(cell.shape),
    )


def _coulomb_setup(ctx, inputs, output):
    positions, multipoles, cell, sigma, pbc, batch, *settings, gradients = inputs
    _, potential, gradient, cell_gradient = output
    ctx.set_materialize_grads(False)
    ctx.settings = settings
    ctx.gradients = gradients
    ctx.save_for_backward(
        positions, multipoles, cell, sigma, pbc, batch, potential, gradient, cell_gradient
    )  # fmt: skip


def _coulomb_backward(ctx, energy_bar, potential_bar, gradient_bar, cell_gradient_bar):
    """Cotangents of the energy scale the saved derivatives; those of the derivatives themselves are
    directions of a Hessian-vector product, because sum(bar · dE/d(...)) is the derivative of E along bar."""
    positions, multipoles, cell, sigma, pbc, batch, potential, gradient, cell_gradient = ctx.saved_tensors
    to_positions = to_multipoles = to_cell = None
    if energy_bar is not None:
        if not ctx.gradients:
            _, potential, gradient, cell_gradient = coulomb(
                positions, multipoles, cell, sigma, pbc, batch, *ctx.settings, True
            )
        per_atom = energy_bar[batch][:, None]
        to_positions = per_atom * gradient
        to_multipoles = per_atom * potential
        to_cell = energy_bar[:, None, None] * cell_gradient
    if ctx.gradients and not (potential_bar is None and gradient_bar is None and cell_gradient_bar is None):
        _, potential_dot, gradient_dot, cell_gradient_dot = coulomb_tangent(
            positions,
            multipoles,
            cell,
            torch.zeros_like(positions) if gradient_bar is None else gradient_bar,
            torch.zeros_like(multipoles) if potential_bar is None else potential_bar,
            torch.zeros_like(cell) if cell_gradient_bar is None else cell_gradient_bar,
            sigma,
            pbc,
            batch,
            *ctx.settings,
        )
        to_positions = gradient_dot if to_positions is None else to_positions + gradient_dot
        to_multipoles = potential_dot if to_multipoles is None else to_multipoles + potential_dot
        to_cell = cell_gradient_dot if to_cell is None else to_cell + cell_gradient_dot
    return (to_positions, to_multipoles, to_cell, *(None,) * 8)


coulomb.register_autograd(_coulomb_backward, setup_context=_coulomb_setup)


@torch.library.custom_op("electret::coulomb_tangent", mutates_args=(), device_types="cpu")
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
    self_interaction: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Derivatives of the outputs of `electret::coulomb` along tangents of positions, multipoles, cell."""
    return _tensors(
        _native.coulomb_tangent(
            _array(positions),
            _array(multipoles),
            _array(sigma),
            _array(cell),
            _array(pbc),
            _array(batch),
            _array(positions_tangent),
            _array(multipoles_tangent),
            _array(cell_tangent),
            boundary=boundary,
            method=method,
            accuracy=accuracy,
            self_interaction=self_interaction,
        )
    )


@coulomb_tangent.register_fake
def _(positions, multipoles, cell, *others):
    return (
        positions.new_empty(cell.shape[0]),
        multipoles.new_empty(multipoles.shape),
        positions.new_empty(positions.shape),
        cell.new_empty(cell.shape),
    )


def _coulomb_tangent_backward(ctx, *bars):
    raise _third_derivative("the energy")


coulomb_tangent.register_autograd(_coulomb_tangent_backward)


@torch.library.custom_op("electret::features", mutates_args=(), device_types="cpu")
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
    self_interaction: bool,
) -> Tensor:
    """Features [n_atoms, n_widths, (max_l + 1)**2]."""
    values = _native.features(
        _array(positions),
        _array(multipoles),
        _array(sigma),
        _array(widths),
        max_l,
        _array(cell),
        _array(pbc),
        _array(batch),
        normalization=normalization,
        boundary=boundary,
        method=method,
        accuracy=accuracy,
        self_interaction=self_interaction,
    )
    require_finite("features", values)
    return torch.from_numpy(values)


@features.register_fake
def _(positions, multipoles, cell, sigma, widths, pbc, batch, max_l, *others):
    return positions.new_empty((positions.shape[0], widths.shape[0], (max_l + 1) ** 2))


def _features_setup(ctx, inputs, output):
    *tensors, max_l, normalization, boundary, method, accuracy, self_interaction = inputs
    ctx.settings = (max_l, normalization, boundary, method, accuracy, self_interaction)
    ctx.save_for_backward(*tensors)


def _features_backward(ctx, features_bar):
    positions, multipoles, cell, sigma, widths, pbc, batch = ctx.saved_tensors
    gradients = features_gradient(
        positions, multipoles, features_bar, cell, sigma, widths, pbc, batch, *ctx.settings
    )
    return (*gradients, *(None,) * 10)


features.register_autograd(_features_backward, setup_context=_features_setup)


@torch.library.custom_op("electret::features_gradient", mutates_args=(), device_types="cpu")
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
    self_interaction: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient of U = sum(features * cotangent) in positions, multipoles and cell."""
    return _tensors(
        _native.features_gradient(
            _array(positions),
            _array(multipoles),
            _array(cotangent),
            _array(sigma),
            _array(widths),
            max_l,
            _array(cell),
            _array(pbc),
            _array(batch),
            normalization=normalization,
            boundary=boundary,
            method=method,
            accuracy=accuracy,
            self_interaction=self_interaction,
        )
    )


@features_gradient.register_fake
def _(positions, multipoles, cotangent, cell, *others):
    return (
        positions.new_empty(positions.shape),
        multipoles.new_empty(multipoles.shape),
        cell.new_empty(cell.shape),
    )


def _features_gradient_setup(ctx, inputs, output):
    *tensors, max_l, normalization, boundary, method, accuracy, self_interaction = inputs
    ctx.settings = (max_l, normalization, boundary, method, accuracy, self_interaction)
    ctx.save_for_backward(*tensors)


def _features_gradient_backward(ctx, positions_bar, multipoles_bar, cell_bar):
    """The cotangents are directions: sum(bar · dU/d(...)) is the derivative of U along them."""
    positions, multipoles, cotangent, cell, sigma, widths, pbc, batch = ctx.saved_tensors
    to_positions, to_multipoles, to_cotangent, to_cell = features_tangent(
        positions,
        multipoles,
        cotangent,
        cell,
        positions_bar,
        multipoles_bar,
        torch.zeros_like(cotangent),
        cell_bar,
        sigma,
        widths,
        pbc,
        batch,
        *ctx.settings,
    )
    return (to_positions, to_multipoles, to_cotangent, to_cell, *(None,) * 10)


features_gradient.register_autograd(_features_gradient_backward, setup_context=_features_gradient_setup)


@torch.library.custom_op("electret::features_tangent", mutates_args=(), device_types="cpu")
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
    self_interaction: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Derivative of dU/d(positions, multipoles, cotangent, cell) along the tangents."""
    return _tensors(
        _native.features_tangent(
            _array(positions),
            _array(multipoles),
            _array(cotangent),
            _array(sigma),
            _array(widths),
            max_l,
            _array(cell),
            _array(pbc),
            _array(batch),
            _array(positions_tangent),
            _array(multipoles_tangent),
            _array(cotangent_tangent),
            _array(cell_tangent),
            normalization=normalization,
            boundary=boundary,
            method=method,
            accuracy=accuracy,
            self_interaction=self_interaction,
        )
    )


@features_tangent.register_fake
def _(positions, multipoles, cotangent, cell, *others):
    return (
        positions.new_empty(positions.shape),
        multipoles.new_empty(multipoles.shape),
        cotangent.new_empty(cotangent.shape),
        cell.new_empty(cell.shape),
    )


def _features_tangent_backward(ctx, *bars):
    raise _third_derivative("the features")


features_tangent.register_autograd(_features_tangent_backward)
