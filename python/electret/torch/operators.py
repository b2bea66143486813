"""The PyTorch operators ``electret::coulomb`` and ``electret::features`` with their derivatives.

Each operator calls one native function on CPU float64 tensors, or queues one evaluation on a device
(:mod:`electret.cuda.operators`); :mod:`electret.torch` prepares the arguments. The gradient operators are
operators too, so that autograd can differentiate them once more through the native tangents.

Operators of torch take tensors and plain values alone. The functions here take the values of
:mod:`electret.kernels.arguments`; :class:`_Schema` converts them to flat arguments and back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from electret import _native
from electret.cuda import operators as device_operators
from electret.errors import InputError
from electret.kernels.arguments import Options, Receivers, Sources, Systems, Tangents
from electret.kernels.inputs import require_finite
from electret.support import torch_internals
from electret.torch.per_system import sum_over_atoms

__all__ = ["coulomb", "coulomb_tangent", "features", "features_gradient", "features_tangent"]

_library = torch.library.Library("electret", "FRAGMENT")

FIELDS: dict[Any, str] = {
    Systems: "Tensor positions, Tensor cell, Tensor pbc, Tensor batch",
    Sources: "Tensor multipoles, Tensor sigma",
    Receivers: "Tensor widths, SymInt features_max_l, str normalization",
    Options: "str? boundary, str method, float accuracy, str precision, bool self_interaction",
    Tangents: "Tensor positions_tangent, Tensor multipoles_tangent, Tensor cell_tangent, "
    "Tensor? cotangent_tangent",
}
"""Flat arguments of each structured one."""


class _Schema:
    """Arguments of an operator: flat ones for `torch.library`, and the structured ones that hold them.

    Args:
        parts: keys of `FIELDS`, or the declarations of single arguments.
    """

    def __init__(self, *parts: Any) -> None:
        self.text = ", ".join(FIELDS.get(part, part) for part in parts)
        declared = [argument.split() for argument in self.text.split(", ")]
        self.names = [name for _, name in declared]
        # places of the tensors, of the others, and of each argument in both together
        tensors = [place for place, (kind, _) in enumerate(declared) if kind == "Tensor"]
        others = [place for place in range(len(declared)) if place not in tensors]
        self.n_tensors = len(tensors)
        self.tensors_of, self.others_of = itemgetter(*tensors), itemgetter(*others)
        self.joined = itemgetter(*map([*tensors, *others].index, range(len(declared))))
        self.place = {name: place for place, name in enumerate(self.names)}
        self.places: list[tuple[Any, int, int]] = []
        start = 0
        for part in parts:
            end = start + (len(part._fields) if part in FIELDS else 1)
            self.places.append((part if part in FIELDS else None, start, end))
            start = end

    def flat(self, structured: Sequence[Any]) -> list[Any]:
        """Flat arguments."""
        found: list[Any] = []
        for (kind, _, _), value in zip(self.places, structured, strict=True):
            if kind is None:
                found.append(value)
            else:
                found.extend(value)
        return found

    def structured(self, flat: Sequence[Any]) -> list[Any]:
        """Structured arguments."""
        return [flat[start] if kind is None else kind(*flat[start:end]) for kind, start, end in self.places]

    def by_name(self, values: Mapping[str, Any]) -> tuple[Any, ...]:
        """A value for each flat argument, None for those that are not named."""
        return tuple(map(values.get, self.names))


class _Saved:
    """Arguments and results of a call, for its derivatives."""

    def __init__(self, schema: _Schema, ctx: Any) -> None:
        saved = ctx.saved_tensors
        flat = schema.joined((*saved[: schema.n_tensors], *ctx.others))
        self.arguments = schema.structured(flat)
        self.outputs = saved[schema.n_tensors :]
        self._needs, self._place = ctx.needs_input_grad, schema.place

    def needs(self, name: str) -> bool:
        """True if the gradient in an argument is needed."""
        return self._needs[self._place[name]]


def _operator(
    name: str,
    schema: _Schema,
    n_results: int,
    host: Callable[..., Any],
    device: Callable[..., Any],
    fake: Callable[..., Any],
    backward: Callable[..., Mapping[str, Tensor | None]],
    tangents: Callable[..., Any],
    saves_outputs: bool = False,
) -> Callable[..., Any]:
    """Register ``electret::name`` and return it as a function of structured arguments that the transforms of
    `torch.func` accept too.

    Kernels and formula are called by torch's dispatcher directly, which takes a third of the time that
    `torch.library.custom_op` adds to a call.

    Args:
        name: of the operator.
        schema: of the arguments.
        n_results: number of tensors that it returns.
        host: kernel for CPU tensors.
        device: kernel for CUDA tensors, and for CPU tensors under `electret.testing.emulated_device`.
        fake: shapes of the results.
        backward: `backward(saved, *cotangents)`, gradients by the name of their argument.
        tangents: `tangents(saved, named)`, tangents of the results from those of the arguments by name
            (forward mode).
        saves_outputs: True if derivatives use the results.
    """
    results = "Tensor" if n_results == 1 else f"({', '.join(['Tensor'] * n_results)})"
    _library.define(f"{name}({schema.text}) -> {results}", tags=torch.Tag.pt2_compliant_tag)
    overload = getattr(torch.ops.electret, name).default

    def below(arguments):
        with torch_internals.below_autograd():
            return overload(*arguments)

    def keep(ctx, arguments, output):
        ctx.set_materialize_grads(False)
        ctx.others = schema.others_of(arguments)
        tensors = schema.tensors_of(arguments)
        return (*tensors, *output) if saves_outputs else tensors

    def gradients(ctx, *cotangents):
        return schema.by_name(backward(_Saved(schema, ctx), *cotangents))

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
        def jvp(ctx, *directions):
            return tangents(_Saved(schema, ctx), dict(zip(schema.names, directions, strict=True)))

        @staticmethod
        def vmap(info, in_dims, *arguments):
            output = apply(*_one_batch(schema.names, info.batch_size, in_dims, arguments))
            if isinstance(output, Tensor):
                return _split(output, info.batch_size), 0
            return tuple(_split(tensor, info.batch_size) for tensor in output), (0,) * len(output)

    Derivatives.backward = Transformed.backward = staticmethod(gradients)  # type: ignore[assignment]

    def with_derivatives(*arguments):
        if torch_internals.forward_mode():
            return Transformed.apply(*arguments)
        if torch.is_grad_enabled() and torch_internals.any_requires_grad(*arguments):
            return Derivatives.apply(*arguments)
        return below(arguments)

    def on_cpu(*arguments):
        kernel = device if device_operators.emulated() else host
        return kernel(*schema.structured(arguments))

    def on_device(*arguments):
        return device(*schema.structured(arguments))

    def shapes(*arguments):
        return fake(*schema.structured(arguments))

    def apply(*arguments):
        return (Transformed.apply if torch_internals.function_transforms() else overload)(*arguments)

    def call(*structured):
        return apply(*schema.flat(structured))

    _library.impl(name, with_derivatives, "Autograd")
    _library.impl(name, on_cpu, "CPU")
    _library.impl(name, on_device, "CUDA")
    torch.library.register_fake(f"electret::{name}", shapes, lib=_library)
    return call


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


# --- parts of the operators ---


def _along(systems: Systems, sources: Sources, directions: Mapping[str, Tensor | None]) -> Tangents:
    """Directions by the name of their argument, zero where there is none."""

    def of(name: str, like: Tensor) -> Tensor:
        found = directions.get(name)
        return torch.zeros_like(like) if found is None else found

    return Tangents(
        of("positions", systems.positions),
        of("multipoles", sources.multipoles),
        of("cell", systems.cell),
    )


def _third_derivative(name: str) -> Callable[..., Any]:
    """Refuse derivatives of an operator that is a second derivative itself."""

    def refuse(saved, *others):
        raise NotImplementedError(
            f"electret.torch: the third derivative of {name} is not available; positions, multipoles and "
            "cell can be differentiated twice, for features with forward mode outside of reverse mode "
            "(detach what needs no further derivative)"
        )

    return refuse


def array(tensor: Tensor) -> np.ndarray:
    """The tensor's memory as a C-contiguous numpy array; copies only what is strided or lazily negated."""
    return tensor.detach().resolve_neg().contiguous().numpy()


def arrays(value: Any) -> Any:
    """A value whose tensors are numpy arrays of the same memory."""
    if isinstance(value, Tensor):
        return array(value)
    if isinstance(value, tuple):
        return type(value)(*map(arrays, value))  # type: ignore[call-arg]
    return value


def _on_host(native: Callable[..., Any]) -> Callable[..., Any]:
    """A function of arrays as one of tensors."""

    def host(*structured):
        found = native(*map(arrays, structured))
        if isinstance(found, np.ndarray):
            return torch.from_numpy(found)
        return tuple(map(torch.from_numpy, found))

    return host


_native_potential = _on_host(_native.potential)


def potential(
    systems: Systems, sources: Sources, options: Options, points: Tensor, points_batch: Tensor
) -> Tensor:
    """Potential [n_points] in V at points [n_points, 3]; without derivatives, so not an operator of torch."""
    arguments = (systems, sources, options, points, points_batch)
    if points.device.type != "cpu" or device_operators.emulated():
        return device_operators.potential(*arguments)
    return _native_potential(*arguments)


def _like(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor.new_empty(tensor.shape) for tensor in tensors)


# --- energy ---

_native_coulomb = _on_host(_native.coulomb)


def _coulomb_on_host(
    systems: Systems, sources: Sources, options: Options, gradients: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """energy [n_systems], dE/dmultipoles, dE/dpositions, dE/dcell; empty without `gradients`."""
    energy, *others = _native_coulomb(systems, sources, options, gradients)
    require_finite("energy", energy.numpy())
    if not gradients:
        return energy, energy.new_empty(0), energy.new_empty(0), energy.new_empty(0)
    require_finite("forces", others[1].numpy())
    return energy, *others


def _coulomb_fake(systems, sources, options, gradients):
    energy = systems.positions.new_empty(systems.n_systems)
    if not gradients:
        return energy, energy.new_empty(0), energy.new_empty(0), energy.new_empty(0)
    return energy, *_like(sources.multipoles, systems.positions, systems.cell)


def _coulomb_backward(saved, energy_bar, potential_bar, gradient_bar, cell_gradient_bar):
    """Cotangents of the energy scale the saved derivatives; those of the derivatives themselves are
    directions of a Hessian-vector product, because sum(bar · dE/d(...)) is the derivative of E along bar."""
    systems, sources, options, with_gradients = saved.arguments
    found: dict[str, Tensor | None] = dict.fromkeys(("positions", "multipoles", "cell"))
    if energy_bar is not None:
        _, potential, gradient, cell_gradient = (
            saved.outputs if with_gradients else coulomb(systems, sources, options, True)
        )
        # the cotangent of a single system is the same number for all of its atoms
        per_atom = energy_bar if systems.n_systems == 1 else energy_bar[systems.batch][:, None]
        found["positions"] = per_atom * gradient if saved.needs("positions") else None
        found["multipoles"] = per_atom * potential if saved.needs("multipoles") else None
        found["cell"] = energy_bar[:, None, None] * cell_gradient if saved.needs("cell") else None
    bars = {"positions": gradient_bar, "multipoles": potential_bar, "cell": cell_gradient_bar}
    if with_gradients and any(bar is not None for bar in bars.values()):
        along = _along(systems, sources, bars)
        _, potential, gradient, cell_gradient = coulomb_tangent(systems, sources, options, along)
        for name, second in (("positions", gradient), ("multipoles", potential), ("cell", cell_gradient)):
            first = found[name]
            found[name] = second if first is None else first + second
    return found


def _coulomb_tangents(saved, directions):
    """The tangent of the energy from its derivatives, which can be differentiated once more."""
    systems, sources, options, with_gradients = saved.arguments
    along = _along(systems, sources, directions)
    _, potential, gradient, cell_gradient = (
        saved.outputs if with_gradients else coulomb(systems, sources, options, True)
    )
    per_atom = (gradient * along.positions).sum(dim=1) + (potential * along.multipoles).sum(dim=1)
    energy = sum_over_atoms(per_atom, systems.batch, systems.n_systems)
    energy = energy + (cell_gradient * along.cell).sum(dim=(1, 2))
    if not with_gradients:
        return energy, energy.new_zeros(0), energy.new_zeros(0), energy.new_zeros(0)
    _, *others = coulomb_tangent(systems, sources, options, along)
    return energy, *others


coulomb = _operator(
    "coulomb",
    _Schema(Systems, Sources, Options, "bool gradients"),
    4,
    _coulomb_on_host,
    device_operators.coulomb,
    _coulomb_fake,
    _coulomb_backward,
    _coulomb_tangents,
    saves_outputs=True,
)


def _coulomb_tangent_fake(systems, sources, options, tangents):
    return _coulomb_fake(systems, sources, options, True)


coulomb_tangent = _operator(
    "coulomb_tangent",
    _Schema(Systems, Sources, Options, Tangents),
    4,
    _on_host(_native.coulomb_tangent),
    device_operators.coulomb_tangent,
    _coulomb_tangent_fake,
    _third_derivative("the energy"),
    _third_derivative("the energy"),
)


# --- features ---

_native_features = _on_host(_native.features)


def _features_on_host(systems: Systems, sources: Sources, receivers: Receivers, options: Options) -> Tensor:
    """Features [n_atoms, n_widths, (features_max_l + 1)**2]."""
    values = _native_features(systems, sources, receivers, options)
    require_finite("features", values.numpy())
    return values


def _features_fake(systems, sources, receivers, options):
    shape = (systems.positions.shape[0], receivers.widths.shape[0], receivers.n_lm)
    return systems.positions.new_empty(shape)


def _features_backward(saved, features_bar):
    if features_bar is None:
        return {}
    gradients = features_gradient(*saved.arguments, features_bar)
    return dict(zip(("positions", "multipoles", "cell"), gradients, strict=True))


def _features_tangents(saved, directions):
    """U(p, g) is linear in g, and dU/dg are the features: their tangent is that of the gradient in g."""
    systems, sources, receivers, _ = saved.arguments
    none = systems.positions.new_zeros((systems.n_atoms, receivers.widths.shape[0], receivers.n_lm))
    along = _along(systems, sources, directions)._replace(cotangent=none)
    return features_tangent(*saved.arguments, none, along)[2]


features = _operator(
    "features",
    _Schema(Systems, Sources, Receivers, Options),
    1,
    _features_on_host,
    device_operators.features,
    _features_fake,
    _features_backward,
    _features_tangents,
)


def _features_gradient_fake(systems, sources, receivers, options, cotangent):
    return _like(systems.positions, sources.multipoles, systems.cell)


def _features_gradient_backward(saved, positions_bar, multipoles_bar, cell_bar):
    """The cotangents are directions: sum(bar · dU/d(...)) is the derivative of U along them."""
    systems, sources, _, _, cotangent = saved.arguments
    bars = {"positions": positions_bar, "multipoles": multipoles_bar, "cell": cell_bar}
    along = _along(systems, sources, bars)._replace(cotangent=torch.zeros_like(cotangent))
    gradients = features_tangent(*saved.arguments, along)
    return dict(zip(("positions", "multipoles", "cotangent", "cell"), gradients, strict=True))


def _features_gradient_tangents(saved, directions):
    systems, sources, _, _, cotangent = saved.arguments
    direction = directions["cotangent"]
    direction = torch.zeros_like(cotangent) if direction is None else direction
    along = _along(systems, sources, directions)._replace(cotangent=direction)
    to_positions, to_multipoles, _, to_cell = features_tangent(*saved.arguments, along)
    return to_positions, to_multipoles, to_cell


features_gradient = _operator(
    "features_gradient",
    _Schema(Systems, Sources, Receivers, Options, "Tensor cotangent"),
    3,
    _on_host(_native.features_gradient),
    device_operators.features_gradient,
    _features_gradient_fake,
    _features_gradient_backward,
    _features_gradient_tangents,
)


def _features_tangent_fake(systems, sources, receivers, options, cotangent, tangents):
    return _like(systems.positions, sources.multipoles, cotangent, systems.cell)


features_tangent = _operator(
    "features_tangent",
    _Schema(Systems, Sources, Receivers, Options, "Tensor cotangent", Tangents),
    4,
    _on_host(_native.features_tangent),
    device_operators.features_tangent,
    _features_tangent_fake,
    _third_derivative("the features"),
    _third_derivative("the features"),
)
