"""The PyTorch operators ``electret::coulomb`` and ``electret::features`` with their derivatives.

Each operator calls one native function on CPU float64 tensors, or queues one evaluation on a device
(:mod:`electret.cuda.operators`); :mod:`electret.torch` prepares the arguments. The gradient operators are
operators too, so that autograd can differentiate them once more through the native tangents. `precision` is
that of a device's sums; those of the CPU are float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from electret import _native
from electret.cuda import operators as device_operators
from electret.errors import InputError
from electret.kernels.inputs import require_finite
from electret.torch.per_system import sum_over_atoms

_library = torch.library.Library("electret", "FRAGMENT")


def _operator(
    name: str,
    host: Callable,
    device: Callable,
    fake: Callable,
    backward: Callable,
    tangents: Callable,
    keep: Callable,
) -> Callable[..., Any]:
    """Registers ``electret::name``, with the schema of the annotations of `host`; returns it as a function
    that the transforms of `torch.func` accept too.

    Kernels and formula are called by torch's dispatcher directly, which takes a third of the time that
    `torch.library.custom_op` adds to a call.

    Args:
        name: of the operator.
        host: kernel for CPU tensors.
        device: kernel for CUDA tensors, and for CPU tensors under `electret.testing.emulated_device`.
        fake: shapes of the results.
        backward: `backward(ctx, *cotangents)`, a cotangent for each tensor argument and None for the others.
        tangents: `tangents(ctx, *tangents)` of the arguments, those of the results (forward mode).
        keep: `keep(ctx, arguments, output)`, the tensors that `backward` and `tangents` need.
    """
    schema = torch.library.infer_schema(host, mutates_args=())
    _library.define(name + schema, tags=torch.Tag.pt2_compliant_tag)
    overload = getattr(torch.ops.electret, name).default
    names = [argument.name for argument in overload._schema.arguments]

    def below(arguments):
        with torch._C._AutoDispatchBelowAutograd():
            return overload(*arguments)

    class Derivatives(torch.autograd.Function):
        """Reverse mode: without `setup_context`, for which torch binds all arguments once more."""

        @staticmethod
        def forward(ctx, *arguments):
            output = below(arguments)
            ctx.save_for_backward(*keep(ctx, arguments, output))
            return output

    class Transformed(torch.autograd.Function):
        """Forward mode and the transforms of `torch.func`."""

        @staticmethod
        def forward(*arguments):
            return below(arguments)

        @staticmethod
        def setup_context(ctx, inputs, output):
            kept = keep(ctx, inputs, output)
            ctx.save_for_backward(*kept)
            ctx.save_for_forward(*kept)

        @staticmethod
        def vmap(info, in_dims, *arguments):
            output = apply(*_one_batch(names, info.batch_size, in_dims, arguments))
            if isinstance(output, Tensor):
                return _split(output, info.batch_size), 0
            return tuple(_split(tensor, info.batch_size) for tensor in output), (0,) * len(output)

    Derivatives.backward = Transformed.backward = staticmethod(backward)  # type: ignore[assignment]
    Transformed.jvp = staticmethod(tangents)  # type: ignore[assignment]

    def with_derivatives(*arguments):
        if torch.autograd.forward_ad._current_level >= 0:
            return Transformed.apply(*arguments)
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*arguments):
            return Derivatives.apply(*arguments)
        return below(arguments)

    def on_cpu(*arguments):
        return (device if device_operators.emulated() else host)(*arguments)

    def apply(*arguments):
        if torch._C._are_functorch_transforms_active():
            return Transformed.apply(*arguments)
        return overload(*arguments)

    _library.impl(name, with_derivatives, "Autograd")
    _library.impl(name, on_cpu, "CPU")
    _library.impl(name, device, "CUDA")
    torch.library.register_fake(f"electret::{name}", fake, lib=_library)
    return apply


def _one_batch(
    names: Sequence[str], n: int, in_dims: Sequence[int | None], arguments: Sequence[Any]
) -> list[Any]:
    """Arguments of `n` batches of systems, along the dimensions of a vmap, as those of one larger batch."""
    n_systems = 0
    rows: list[Any] = []
    for name, value, dim in zip(names, arguments, in_dims, strict=True):
        if isinstance(value, Tensor):
            if name == "widths":
                if dim is not None:
                    raise InputError("widths cannot be mapped by vmap; give all widths in one call")
            else:
                value = value.expand(n, *value.shape) if dim is None else value.movedim(dim, 0)
                if name == "cell":
                    n_systems = value.shape[1]
        rows.append(value)
    for place, (name, value) in enumerate(zip(names, rows, strict=True)):
        if name == "batch":
            value = value + n_systems * torch.arange(n, device=value.device)[:, None]
        if isinstance(value, Tensor) and name != "widths":
            rows[place] = value.flatten(0, 1)
    return rows


def _split(tensor: Tensor, n: int) -> Tensor:
    return tensor.reshape(n, tensor.shape[0] // n, *tensor.shape[1:])


def _keep_nothing(ctx, inputs, output):
    return ()


def _zeros_for(tangents: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor]:
    """The tangents, zero where there is none."""
    return [torch.zeros_like(t) if d is None else d for d, t in zip(tangents, like, strict=True)]


def _array(tensor: Tensor) -> np.ndarray:
    """The tensor's memory as a C-contiguous numpy array; copies only what is strided."""
    return tensor.detach().contiguous().numpy()


def _tensors(arrays: Sequence[np.ndarray]) -> Any:
    """The arrays' memory as a tuple of tensors (of the length that the operator declares)."""
    return tuple(torch.from_numpy(array) for array in arrays)


def _third_derivative(name: str) -> Callable[..., Any]:
    """Refuses derivatives of an operator that is a second derivative itself."""

    def refuse(ctx, *others):
        raise NotImplementedError(
            f"electret.torch: the third derivative of {name} is not available; positions, multipoles and "
            "cell can be differentiated twice, for features with forward mode outside of reverse mode "
            "(detach what needs no further derivative)"
        )

    return refuse


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


def _coulomb_keep(ctx, inputs, output):
    positions, multipoles, cell, sigma, pbc, batch, *settings, gradients = inputs
    _, potential, gradient, cell_gradient = output
    ctx.set_materialize_grads(False)
    ctx.settings = settings
    ctx.gradients = gradients
    return positions, multipoles, cell, sigma, pbc, batch, potential, gradient, cell_gradient


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
        along = _zeros_for((gradient_bar, potential_bar, cell_gradient_bar), (positions, multipoles, cell))
        _, potential_dot, gradient_dot, cell_gradient_dot = coulomb_tangent(
            positions, multipoles, cell, *along, sigma, pbc, batch, *ctx.settings
        )
        to_positions = gradient_dot if to_positions is None else to_positions + gradient_dot
        to_multipoles = potential_dot if to_multipoles is None else to_multipoles + potential_dot
        to_cell = cell_gradient_dot if to_cell is None else to_cell + cell_gradient_dot
    return (to_positions, to_multipoles, to_cell, *(None,) * 9)


def _coulomb_tangents(ctx, *tangents):
    """The tangent of the energy from its derivatives, which can be differentiated once more."""
    positions, multipoles, cell, sigma, pbc, batch, potential, gradient, cell_gradient = ctx.saved_tensors
    arguments = (positions, multipoles, cell)
    along = _zeros_for(tangents[:3], arguments)
    if not ctx.gradients:
        _, potential, gradient, cell_gradient = coulomb(*arguments, sigma, pbc, batch, *ctx.settings, True)
    per_atom = (gradient * along[0]).sum(dim=1) + (potential * along[1]).sum(dim=1)
    energy = sum_over_atoms(per_atom, batch, cell.shape[0]) + (cell_gradient * along[2]).sum(dim=(1, 2))
    if not ctx.gradients:
        return energy, energy.new_zeros(0), energy.new_zeros(0), energy.new_zeros(0)
    _, *others = coulomb_tangent(*arguments, *along, sigma, pbc, batch, *ctx.settings)
    return energy, *others


coulomb = _operator(
    "coulomb",
    _coulomb_on_host,
    device_operators.coulomb,
    _coulomb_fake,
    _coulomb_backward,
    _coulomb_tangents,
    _coulomb_keep,
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


coulomb_tangent = _operator(
    "coulomb_tangent",
    _coulomb_tangent_on_host,
    device_operators.coulomb_tangent,
    _coulomb_tangent_fake,
    _third_derivative("the energy"),
    _third_derivative("the energy"),
    _keep_nothing,
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


def _features_keep(ctx, inputs, output):
    tensors, ctx.settings = inputs[:7], inputs[7:]
    return tensors


def _features_backward(ctx, features_bar):
    positions, multipoles, cell, sigma, widths, pbc, batch = ctx.saved_tensors
    gradients = features_gradient(
        positions, multipoles, features_bar, cell, sigma, widths, pbc, batch, *ctx.settings
    )
    return (*gradients, *(None,) * 11)


def _features_tangents(ctx, *tangents):
    """U(p, g) is linear in g, and dU/dg are the features: their tangent is that of the gradient in g."""
    positions, multipoles, cell, sigma, widths, pbc, batch = ctx.saved_tensors
    dx, dp, dh = _zeros_for(tangents[:3], (positions, multipoles, cell))
    none = positions.new_zeros((positions.shape[0], widths.shape[0], (ctx.settings[0] + 1) ** 2))
    return features_tangent(
        positions, multipoles, none, cell, dx, dp, none, dh, sigma, widths, pbc, batch, *ctx.settings
    )[2]


features = _operator(
    "features",
    _features_on_host,
    device_operators.features,
    _features_fake,
    _features_backward,
    _features_tangents,
    _features_keep,
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


def _features_gradient_keep(ctx, inputs, output):
    tensors, ctx.settings = inputs[:8], inputs[8:]
    return tensors


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


def _features_gradient_tangents(ctx, *tangents):
    positions, multipoles, cotangent, cell, *fixed = ctx.saved_tensors
    arguments = (positions, multipoles, cotangent, cell)
    along = _zeros_for(tangents[:4], arguments)
    to_positions, to_multipoles, _, to_cell = features_tangent(*arguments, *along, *fixed, *ctx.settings)
    return to_positions, to_multipoles, to_cell


features_gradient = _operator(
    "features_gradient",
    _features_gradient_on_host,
    device_operators.features_gradient,
    _features_gradient_fake,
    _features_gradient_backward,
    _features_gradient_tangents,
    _features_gradient_keep,
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


features_tangent = _operator(
    "features_tangent",
    _features_tangent_on_host,
    device_operators.features_tangent,
    _features_tangent_fake,
    _third_derivative("the features"),
    _third_derivative("the features"),
    _keep_nothing,
)
