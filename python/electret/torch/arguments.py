"""Conversion of arguments into tensors of the native shapes, by the specification of
:mod:`electret.kernels.inputs`.

Shapes, dtypes and devices are checked here; values are checked by the native layer on the CPU, and not at all
on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from electret.cuda.operators import emulated
from electret.cuda.plans import Recent, require_one_device
from electret.errors import InputError
from electret.kernels import inputs
from electret.kernels.arguments import Sources, Systems

__all__ = [
    "cast",
    "constant",
    "implied_systems",
    "joined",
    "labels",
    "moved",
    "on_host",
    "prepare",
    "require_real",
    "require_supported",
    "require_together",
]

LARGEST_KEPT_CONSTANT = 4096
"""Bytes of numbers and lists up to which their tensors on a GPU are cached."""


def joined(
    name: str,
    points: Tensor,
    points_batch: Tensor | None,
    positions: Tensor,
    multipoles: Tensor,
    sigma: float | Tensor,
    cell: Tensor | None,
    pbc: bool | Sequence[bool] | Tensor,
    batch: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Positions, multipoles, widths and systems of the atoms followed by points, which are atoms without a
    density, as wide as the widest."""
    require_real(positions=positions, multipoles=multipoles, **{name: points})
    require_together(positions, multipoles=multipoles, **{name: points})
    inputs.require_points(name, points.shape)
    inputs.require_points("positions", positions.shape)
    n_atoms, n_points = positions.shape[0], points.shape[0]
    inputs.require_multipoles(multipoles.shape, n_atoms)
    stated = _stated(cell, pbc, positions)
    index = labels("batch", batch, n_atoms, stated, positions)
    points_index = labels(f"{name}_batch", points_batch, n_points, stated, positions)
    widths = constant("sigma", sigma, positions)
    inputs.require_per("sigma", widths.shape, n_atoms, "n_atoms")
    widths = widths.expand(n_atoms)
    widest = widths.amax() if n_atoms else widths.new_ones(())
    return (
        torch.cat([positions, points.to(positions.dtype)]),
        torch.cat([multipoles, multipoles.new_zeros(n_points, multipoles.shape[1])]),
        torch.cat([widths, widest.expand(n_points)]),
        torch.cat([index, points_index]),
    )


def prepare(
    positions: Tensor,
    multipoles: Tensor,
    sigma: float | Tensor,
    cell: Tensor | None,
    pbc: bool | Sequence[bool] | Tensor,
    batch: Tensor | None,
) -> tuple[Systems, Sources, torch.dtype]:
    """Systems and sources in the native shapes and float64, and the dtype of the result.

    Shapes are checked by the specification of :mod:`electret.kernels.inputs`, values by the native layer.
    """
    require_real(positions=positions, multipoles=multipoles)
    require_supported(positions)
    require_together(positions, multipoles=multipoles)
    inputs.require_points("positions", positions.shape)
    n_atoms = positions.shape[0]
    inputs.require_multipoles(multipoles.shape, n_atoms)
    x, p = cast(positions, torch.float64), cast(multipoles, torch.float64)
    h = None if cell is None else _cell(cell, x)
    if h is None and pbc is not False and not isinstance(pbc, Tensor) and not torch.compiler.is_compiling():
        inputs.require_open(inputs.flags(pbc))
    flags = None if isinstance(pbc, bool) else _flags(pbc, x)
    stated = inputs.stated_systems(None if h is None else h.shape, () if flags is None else flags.shape)
    index = None if batch is None else labels("batch", batch, n_atoms, stated, x)
    n_systems = 1 if index is None else implied_systems(index) if stated is None else stated[1]
    if index is None:
        index = labels("batch", None, n_atoms, stated, x)
    if h is None:
        h = _filled(0.0, (n_systems, 3, 3), torch.float64, x)
    elif h.dim() == 2:
        h = h.expand(n_systems, 3, 3)
    every = (n_systems, 3)
    flags = _filled(bool(pbc), every, torch.bool, x) if flags is None else flags.expand(every)
    if isinstance(sigma, float):
        s = _filled(sigma, (n_atoms,), torch.float64, x)
    else:
        s = constant("sigma", sigma, x)
        inputs.require_per("sigma", s.shape, n_atoms, "n_atoms")
        if s.dim() == 0:
            s = s.expand(n_atoms)
    dtype = torch.promote_types(positions.dtype, multipoles.dtype)
    return Systems(x, h, flags, index), Sources(p, s), dtype


def _cell(cell: object, like: Tensor) -> Tensor:
    """Float64 cell, `[3, 3]` or `[n_systems, 3, 3]`."""
    if isinstance(cell, Tensor):
        require_together(like, cell=cell)
        h = cast(cell, torch.float64)
    else:
        h = moved("cell", cell, torch.float64, like)
    inputs.require_cell(h.shape)
    return torch.diag(h) if h.dim() == 1 else h


def _flags(pbc: object, like: Tensor) -> Tensor:
    """Periodic axes as booleans: one, `[3]` or `[n_systems, 3]`."""
    require_together(like, pbc=pbc)
    if not isinstance(pbc, Tensor) and not torch.compiler.is_compiling():
        pbc = inputs.flags(pbc)
    flags = moved("pbc", pbc, None, like)
    if flags.dtype != torch.bool:
        if flags.dtype.is_floating_point or flags.dtype.is_complex:
            raise InputError(f"pbc has dtype {flags.dtype}; give flags")
        flags = flags.to(torch.bool)
    inputs.require_flags(flags.shape)
    return flags


def _stated(cell: object, pbc: object, like: Tensor) -> tuple[str, int] | None:
    """The argument, cell or pbc, whose shape states the number of systems, and that number."""
    h = None if cell is None else _cell(cell, like).shape
    return inputs.stated_systems(h, () if isinstance(pbc, bool) else _flags(pbc, like).shape)


def labels(name: str, values: object, n: int, stated: tuple[str, int] | None, like: Tensor) -> Tensor:
    """System of each entry, `[n]` int64; None puts all into one system."""
    if values is None:
        inputs.require_labels(name, None, n, stated)
        return _filled(0, (n,), torch.int64, like)
    require_together(like, **{name: values})
    index = moved(name, values, None, like)
    whole = not (index.dtype.is_floating_point or index.dtype.is_complex or index.dtype == torch.bool)
    if not whole and index.numel() > 0:
        raise InputError(f"{name} has dtype {index.dtype}; give integers, the system of each entry")
    inputs.require_labels(name, index.shape, n, stated)
    return cast(index, torch.int64)


def implied_systems(batch: Tensor) -> int:
    if batch.is_meta:
        raise InputError(
            "batch is on meta and holds no values; give cell as [n_systems, 3, 3], which states the number "
            "of systems"
        )
    return inputs.implied_systems("batch.max()", int(batch.max()), batch.shape[0]) if batch.shape[0] else 1


def on_host(name: str, values: object) -> Any:
    """A tensor's numbers as an array, float64 where they are real."""
    if not isinstance(values, Tensor):
        return values
    _require_dense(name, values)
    if values.is_meta:
        raise InputError(f"{name} is on meta and holds no values; give a real tensor")
    values = values.detach()
    return (values.to(torch.float64) if values.dtype.is_floating_point else values).cpu().numpy()


def require_real(**arguments: object) -> None:
    for name, value in arguments.items():
        if not isinstance(value, Tensor):
            raise InputError(
                f"{name} is a {type(value).__name__}; give a torch.Tensor (arrays and lists are for the "
                "functions of electret itself)"
            )
        _require_dense(name, value)
        if value.dtype not in (torch.float32, torch.float64):
            raise InputError(
                f"{name} has dtype {value.dtype}; give float32 or float64, as {name}.to(torch.float64)"
            )


def _require_dense(name: str, value: Tensor) -> None:
    if value.layout != torch.strided:
        raise InputError(f"{name} has layout {value.layout}; give a dense tensor, as {name}.to_dense()")


def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in a dtype; without a call of torch where it has that dtype."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def require_together(like: Tensor, **arguments: object) -> None:
    tensors = {name: value for name, value in arguments.items() if isinstance(value, Tensor)}
    for name, tensor in tensors.items():
        _require_dense(name, tensor)
    require_one_device(like.device, **tensors)


def require_supported(positions: Tensor) -> None:
    if positions.device.type not in ("cpu", "cuda", "meta"):
        raise InputError(
            f"positions is on {positions.device}; the electrostatics run on CPUs and NVIDIA GPUs: pass "
            "positions.cpu() and move the result back with .to(device)"
        )


def constant(name: str, value: object, like: Tensor) -> Tensor:
    """A float64 tensor of settings that have no gradient, on the device of `like`."""
    if not isinstance(value, Tensor):
        return moved(name, value, torch.float64, like)
    require_together(like, **{name: value})
    if value.requires_grad:
        raise InputError(f"{name} requires grad, but no derivative in it is defined; pass {name}.detach()")
    return cast(value, torch.float64)


def moved(name: str, value: Any, dtype: torch.dtype | None, like: Tensor) -> Tensor:
    """The value as a tensor on the device of `like`; for numbers on a GPU always the same tensor, so that
    plans are found without reading it."""
    if isinstance(value, Tensor):
        return value if dtype is None else cast(value, dtype)
    if torch.compiler.is_compiling():
        return torch.as_tensor(value, dtype=dtype, device=like.device)
    array = inputs.numbers(name, value) if dtype is not None else inputs.array_of(name, value)

    def make() -> Tensor:
        try:
            return torch.as_tensor(array, dtype=dtype, device=like.device)
        except TypeError as error:
            raise InputError(
                f"{name} has dtype {array.dtype}, which PyTorch lacks; give int64 or float64"
            ) from error

    if not _keeps_constants(like) or array.nbytes > LARGEST_KEPT_CONSTANT:
        return make()
    return _kept((array.tobytes(), array.dtype.str, array.shape, dtype, like.device), make)


def _filled(value: float, shape: tuple[int, ...], dtype: torch.dtype, like: Tensor) -> Tensor:
    """A read-only tensor of one number; on a GPU always the same tensor."""

    def make() -> Tensor:
        return torch.full(shape, value, dtype=dtype, device=like.device)

    return _kept((value, shape, dtype, like.device), make) if _keeps_constants(like) else make()


_constants: Recent[Tensor] = Recent(64)


def _keeps_constants(like: Tensor) -> bool:
    on_device = like.device.type == "cuda" or emulated()
    return on_device and not torch.compiler.is_compiling() and type(like) in (Tensor, torch.nn.Parameter)


def _kept(key: Hashable, make: Callable[[], Tensor]) -> Tensor:
    tensor = _constants.get(key)
    if tensor is None:
        tensor = make()
        if not tensor.is_inference():  # inference tensors cannot be saved for a backward pass
            _constants.put(key, tensor)
    return tensor
