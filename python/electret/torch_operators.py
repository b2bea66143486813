"""The PyTorch operators ``electret::coulomb`` and ``electret::features`` with their derivatives.

Each operator calls one native function on CPU float64 tensors, or queues one evaluation on a device
(:mod:`electret.device_operators`); :mod:`electret.torch` prepares the arguments. The gradient operators are
operators too, so that autograd can differentiate them once more through the native tangents. `precision` is
that of a device's sums; those of the CPU are float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from electret import _native, device_operators
from electret.inputs import require_finite

_library = torch.library.Library("electret", "FRAGMENT")


def _operator(
    name: str, host: Callable, device: Callable, fake: Callable, backward: Callable, setup: Callable | None
) -> Callable[..., Any]:
    """Registers ``electret::name``, with the schema of the annotations of `host`.

    Kernels and formula are called by torch's dispatcher directly, which takes a third of the time that
    `torch.library.custom_op` adds to a call.

    Args:
        name: of the operator.
        host: kernel for CPU tensors.
        device: kernel for CUDA tensors, and for CPU tensors under `electret.testing.emulated_device`.
        fake: shapes of the results.
        backward: `backward(ctx, *cotangents)`, a cotangent for each tensor argument and None for the others.
        setup: `setup(ctx, arguments, output)`, keeps what `backward` needs.
    """
    schema = torch.library.infer_schema(host, mutates_args=())
    _library.define(name + schema, tags=torch.Tag.pt2_compliant_tag)
    overload = getattr(torch.ops.electret, name).default

    class Derivatives(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *arguments):
            with torch._C._AutoDispatchBelowAutograd():
                output = overload(*arguments)
            if setup is not None:
                setup(ctx, arguments, output)
            return output

    Derivatives.backward = staticmethod(backward)  # type: ignore[assignment]

    def with_derivatives(*arguments):
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*arguments):
            return Derivatives.apply(*arguments)
        with torch._C._AutoDispatchBelowAutograd():
            return overload(*arguments)

    def on_cpu(*arguments):
        return (device if device_operators.emulated() else host)(*arguments)

    _library.impl(name, with_derivatives, "Autograd")
    _library.impl(name, on_cpu, "CPU")
    _library.impl(name, device, "CUDA")
    torch.library.register_fake(f"electret::{name}", fake, lib=_library)
    return overload


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


def _coulomb_on_host(
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


def _coulomb_fake(
    positions, multipoles, cell, sigma, pbc, batch, boundary, method, accuracy, precision, self_interaction,
    gradients,
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
        wanted = ctx.needs_input_grad
        # the cotangent of a single system is the same number for all of its atoms
        per_atom = energy_bar if cell.shape[0] == 1 else energy_bar[batch][:, None]
        to_positions = per_atom * gradient if wanted[0] else None
        to_multipoles = per_atom * potential if wanted[1] else None
        to_cell = energy_bar[:, None, None] * cell_gradient if wanted[2] else None
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
    return (to_positions, to_multipoles, to_cell, *(None,) * 9)


coulomb = _operator(
    "coulomb",
    _coulomb_on_host,
    device_operators.coulomb,
    _coulomb_fake,
    _coulomb_backward,
    _coulomb_setup,
)


def _coulomb_tangent_on_host(
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


def _coulomb_tangent_fake(positions, multipoles, cell, *others):
    return (
        positions.new_empty(cell.shape[0]),
        multipoles.new_empty(multipoles.shape),
        positions.new_empty(positions.shape),
        cell.new_empty(cell.shape),
    )


def _coulomb_tangent_backward(ctx, *bars):
    raise _third_derivative("the energy")


coulomb_tangent = _operator(
    "coulomb_tangent",
    _coulomb_tangent_on_host,
    device_operators.coulomb_tangent,
    _coulomb_tangent_fake,
    _coulomb_tangent_backward,
    None,
)


def _features_on_host(
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


def _features_fake(positions, multipoles, cell, sigma, widths, pbc, batch, max_l, *others):
    return positions.new_empty((positions.shape[0], widths.shape[0], (max_l + 1) ** 2))


def _features_setup(ctx, inputs, output):
    tensors, ctx.settings = inputs[:7], inputs[7:]
    ctx.save_for_backward(*tensors)


def _features_backward(ctx, features_bar):
    positions, multipoles, cell, sigma, widths, pbc, batch = ctx.saved_tensors
    gradients = features_gradient(
        positions, multipoles, features_bar, cell, sigma, widths, pbc, batch, *ctx.settings
    )
    return (*gradients, *(None,) * 11)


features = _operator(
    "features",
    _features_on_host,
    device_operators.features,
    _features_fake,
    _features_backward,
    _features_setup,
)


def _features_gradient_on_host(
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


def _features_gradient_fake(positions, multipoles, cotangent, cell, *others):
    return (
        positions.new_empty(positions.shape),
        multipoles.new_empty(multipoles.shape),
        cell.new_empty(cell.shape),
    )


def _features_gradient_setup(ctx, inputs, output):
    tensors, ctx.settings = inputs[:8], inputs[8:]
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
    return (to_positions, to_multipoles, to_cotangent, to_cell, *(None,) * 11)


features_gradient = _operator(
    "features_gradient",
    _features_gradient_on_host,
    device_operators.features_gradient,
    _features_gradient_fake,
    _features_gradient_backward,
    _features_gradient_setup,
)


def _features_tangent_on_host(
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


def _features_tangent_fake(positions, multipoles, cotangent, cell, *others):
    return (
        positions.new_empty(positions.shape),
        multipoles.new_empty(multipoles.shape),
        cotangent.new_empty(cotangent.shape),
        cell.new_empty(cell.shape),
    )


def _features_tangent_backward(ctx, *bars):
    raise _third_derivative("the features")


features_tangent = _operator(
    "features_tangent",
    _features_tangent_on_host,
    device_operators.features_tangent,
    _features_tangent_fake,
    _features_tangent_backward,
    None,
)
