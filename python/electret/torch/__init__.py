"""Electrostatics of Gaussian multipoles for PyTorch, differentiable twice in positions, multipoles and cell.

The operators ``electret::coulomb`` and ``electret::features`` call the same native functions as the numpy
layer. First derivatives come with the forward call, second derivatives (force training, Hessian-vector
products) from dual numbers in the native layer; no finite differences. Third derivatives raise
``NotImplementedError``.

Tensors are used on their device, the CPU or an NVIDIA GPU: float64 without a copy; float32 is computed in
float64 and returned as float32. ``precision="float32"`` has a GPU do its long
sums in float32, whatever the dtype of the tensors, for an `accuracy` of 1e-5 or more. On a GPU the work is
queued on torch's current stream and nothing waits, except for the first call with new tensors of cell, pbc,
batch or widths, whose values are read (:mod:`electret.cuda.plans`), for a `batch` without the number of
systems (give `cell` as ``[n_systems, 3, 3]``), and for open axes with a sum over k-vectors or a mesh, where
every call reads the extent of the atoms. Give numbers or lists, or the same tensors in every call, to stay
free of that. Values are not looked at there, so NaN in positions or multipoles gives NaN. Tensors on several
devices are refused with a remedy, never copied silently; numbers and lists go where they are needed.

Under ``torch.compile(fullgraph=True)`` the number of systems must follow from shapes: pass `batch`
together with a cell tensor ``[n_systems, 3, 3]`` (zeros for open systems), or no `batch` at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from electret.cuda.neighbors import pairs_on_device
from electret.cuda.operators import emulated
from electret.cuda.plans import Recent
from electret.errors import InputError
from electret.kernels import inputs
from electret.kernels.arguments import Options, Receivers, Sources, Systems
from electret.kernels.external_field import CARTESIAN_OF_L1
from electret.kernels.neighbors import neighbor_list as numpy_neighbor_list
from electret.kernels.neighbors import reach
from electret.torch import operators
from electret.torch.per_system import sum_over_atoms

__all__ = ["coulomb_energy", "dipole", "features", "field_features", "neighbor_list", "potential"]

LARGEST_KEPT_CONSTANT = 4096
"""Bytes of numbers and lists up to which their tensors on a GPU are cached."""

POINT_WIDTH = 1e-5
"""Width in Å of the receivers that stand for points: the potential is exact to 2 pi K rho width² (1e-8 V)."""


def coulomb_energy(
    positions: Tensor,
    multipoles: Tensor,
    sigma: float | Tensor = 1.0,
    cell: Tensor | None = None,
    pbc: bool | Sequence[bool] | Tensor = False,
    batch: Tensor | None = None,
    external_field: Tensor | None = None,
    self_interaction: bool = True,
    boundary: str | None = None,
    method: str = "auto",
    accuracy: float = 1e-8,
    precision: str = "float64",
) -> Tensor:
    """Electrostatic energy of each system, ``[n_systems]`` in eV.

    Arguments, units and conventions are those of :func:`electret.coulomb`. Differentiable twice in
    `positions`, `multipoles` and `cell`, and in `external_field`, with any `method`: forces are
    ``-grad(energy.sum(), positions)``, the potential dE/dp is ``grad(energy.sum(), multipoles)``, and
    straining positions and cell together gives the stress.

    Raises:
        InputError: an argument cannot be used; the message names array, index, value and remedy.

    Example:
        >>> import torch
        >>> from electret.torch import coulomb_energy
        >>> r = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 3.0]], dtype=torch.float64, requires_grad=True)
        >>> q = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
        >>> (gradient,) = torch.autograd.grad(coulomb_energy(r, q, sigma=0.3).sum(), r)
        >>> round(float(-gradient[0, 2]), 4)  # pulled towards the other charge by K / r²
        1.6
    """
    options = inputs.options(boundary, method, accuracy, precision, self_interaction)
    systems, sources, dtype = _prepare(positions, multipoles, sigma, cell, pbc, batch)
    x, p, n_systems = systems.positions, sources.multipoles, systems.n_systems
    differentiable = x.requires_grad or p.requires_grad or systems.cell.requires_grad
    energy = operators.coulomb(systems, sources, options, torch.is_grad_enabled() and differentiable)[0]
    if external_field is not None:
        f = _field(external_field, x, n_systems)
        energy = energy - (f * _dipole(x, p, systems.batch, n_systems)).sum(dim=1)
    return _cast(energy, dtype)


@inputs.refuses(max_l=inputs.RECEIVER_ORDER)
def features(
    positions: Tensor,
    multipoles: Tensor,
    sigma: float | Tensor = 1.0,
    widths: Sequence[float] | Tensor = (1.5, 3.0),
    features_max_l: int = 1,
    normalization: str = "receiver",
    self_interaction: bool = False,
    cell: Tensor | None = None,
    pbc: bool | Sequence[bool] | Tensor = False,
    batch: Tensor | None = None,
    external_field: Tensor | None = None,
    boundary: str | None = None,
    method: str = "auto",
    accuracy: float = 1e-8,
    precision: str = "float64",
    receivers: Tensor | None = None,
    receivers_batch: Tensor | None = None,
) -> Tensor:
    """Projections of the potential on Gaussian receivers, ``[n_atoms, n_widths, (features_max_l + 1)**2]``.

    Arguments, units and conventions are those of :func:`electret.features`; with `receivers`
    ``[n_receivers, n_widths, (features_max_l + 1)**2]``. Differentiable twice in `positions`, `receivers`,
    `multipoles` and `cell`, and in `external_field`.

    Raises:
        InputError: an argument cannot be used; the message names array, index, value and remedy.
    """
    options = inputs.options(boundary, method, accuracy, precision, self_interaction)
    inputs.require_normalization(normalization)
    n_sources = 0
    if receivers is not None:
        places = (positions, multipoles, sigma, cell, pbc, batch)
        positions, multipoles, sigma, batch = _joined("receivers", receivers, receivers_batch, *places)
        n_sources = positions.shape[0] - receivers.shape[0]
    elif receivers_batch is not None:
        raise InputError("receivers_batch is given without receivers; give their positions, or batch")
    systems, sources, dtype = _prepare(positions, multipoles, sigma, cell, pbc, batch)
    x = systems.positions
    w = _constant("widths", widths, x)
    inputs.require_list("widths", w.shape)
    if w.dim() != 1:
        w = w.reshape(1)
    projected = Receivers(w, inputs.max_order("features_max_l", features_max_l), normalization)
    values = operators.features(systems, sources, projected, options)
    if external_field is not None:
        f = _field(external_field, x, systems.n_systems)
        values = values + field_features(x, f[systems.batch], *projected)
    return _cast(values[n_sources:] if n_sources else values, dtype)


def potential(
    points: Tensor,
    positions: Tensor,
    multipoles: Tensor,
    sigma: float | Tensor = 1.0,
    cell: Tensor | None = None,
    pbc: bool | Sequence[bool] | Tensor = False,
    batch: Tensor | None = None,
    points_batch: Tensor | None = None,
    external_field: Tensor | None = None,
    boundary: str | None = None,
    method: str = "auto",
    accuracy: float = 1e-8,
    precision: str = "float64",
    differentiable: bool = True,
) -> Tensor:
    """Electrostatic potential of the density at arbitrary points, ``[n_points]`` in V.

    Arguments, units and conventions are those of :func:`electret.potential`. Differentiable twice in
    `points`, `positions`, `multipoles`, `cell` and `external_field`. Points are then receivers without a
    charge of their own and so narrow that their width does not matter (to 1e-8 V). Pairs of points cost time
    as pairs of atoms do, so this is for some hundred points per system.

    Args:
        differentiable: False takes any number of points at the cost of each alone, as
            :func:`electret.potential` does; the result has no derivatives.

    Raises:
        InputError: an argument cannot be used; the message names array, index, value and remedy.
    """
    places = (positions, multipoles, sigma, cell, pbc, batch)
    if not inputs.switch("differentiable", differentiable):
        options = inputs.options(boundary, method, accuracy, precision)
        return _plain_potential(points, points_batch, places, external_field, options)
    positions, multipoles, sigma, batch = _joined("points", points, points_batch, *places)
    values = features(
        positions,
        multipoles,
        sigma,
        widths=[POINT_WIDTH],
        features_max_l=0,
        normalization="multipoles",
        cell=cell,
        pbc=pbc,
        batch=batch,
        external_field=external_field,
        boundary=boundary,
        method=method,
        accuracy=accuracy,
        precision=precision,
    )
    return values[positions.shape[0] - points.shape[0] :, 0, 0]


@torch.no_grad()
def _plain_potential(
    points: Tensor, points_batch: Tensor | None, places: Any, external_field: Tensor | None, options: Options
) -> Tensor:
    """Potential at points without derivatives."""
    systems, sources, dtype = _prepare(*places)
    x = systems.positions
    _require_real(points=points)
    _require_together(x, points=points)
    inputs.require_points("points", points.shape)
    index = _labels("points_batch", points_batch, len(points), ("cell", systems.n_systems), x)
    values = operators.potential(systems, sources, options, _cast(points, torch.float64), index)
    if external_field is not None:
        f = _field(external_field, x, systems.n_systems)
        values = values - (f[index] * points).sum(dim=1)
    return _cast(values, torch.promote_types(dtype, points.dtype))


def neighbor_list(
    quantities: str,
    positions: Tensor,
    cell: Tensor | None = None,
    pbc: bool | Sequence[bool] | Tensor = False,
    cutoff: float | Sequence[float] | Tensor | Mapping[tuple[Any, Any], float] | None = None,
    batch: Tensor | Sequence[int] | None = None,
    half: bool = False,
    self_interaction: bool = False,
    numbers: Tensor | Sequence[Any] | None = None,
) -> Tensor | tuple[Tensor, ...]:
    """Pairs of atoms within a cutoff: :func:`electret.neighbor_list` of tensors, where these are.

    Arguments, order of the pairs and errors are those of that function. On a GPU the list is found there;
    the host waits for the number of pairs. The tensors carry no derivatives: distances that need them follow
    from ``positions[j] - positions[i] + S @ cell``.

    Returns:
        The tensors in the order of the letters: i, j ``[n_pairs]`` int64, S ``[n_pairs, 3]`` int64,
        d ``[n_pairs]``, D ``[n_pairs, 3]`` float64; the tensor alone for a single letter.

    Raises:
        InputError: an argument cannot be used; the message names array, index, value and remedy.

    Example:
        >>> import torch
        >>> from electret.torch import neighbor_list
        >>> r = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.5]], dtype=torch.float64)
        >>> neighbor_list("ij", r, cutoff=2.0)
        (tensor([0, 1]), tensor([1, 0]))
    """
    _require_real(positions=positions)
    _require_supported(positions)
    if positions.is_meta:
        raise InputError(
            "positions is on meta and holds no values, so pairs cannot be found; give a real tensor"
        )
    inputs.require_points("positions", positions.shape)
    cell, pbc, batch, cutoff, numbers = (
        _on_host(name, values)
        for name, values in (
            ("cell", cell),
            ("pbc", pbc),
            ("batch", batch),
            ("cutoff", cutoff),
            ("numbers", numbers),
        )
    )
    half, self_interaction = inputs.switch("half", half), inputs.switch("self_interaction", self_interaction)
    if not isinstance(quantities, str):
        raise InputError(f"quantities = {quantities!r}; give letters of 'ijSdD'")
    within = reach(cutoff, positions.shape[0], numbers)
    letters = quantities + "ijd" if within.filters and quantities else quantities
    if positions.device.type == "cpu" and not emulated():
        x = positions.detach().numpy()
        found = numpy_neighbor_list(letters, x, cell, pbc, within.searched, batch, half, self_interaction)
        arrays = found if isinstance(found, tuple) else (found,)
        pairs = tuple(torch.from_numpy(values) for values in arrays)
    else:
        systems = Systems(positions, *inputs.lattices(positions.shape[0], cell, pbc, batch))
        pairs = pairs_on_device(letters, systems, within.searched, half, self_interaction)
    if within.filters:
        i, j, d = pairs[-3:]
        kept = within.kept(i, j, d, lambda array: torch.from_numpy(array).to(positions.device))
        pairs = tuple(tensor[kept] for tensor in pairs[:-3])
    return pairs[0] if len(pairs) == 1 else pairs


def dipole(
    positions: Tensor, multipoles: Tensor, batch: Tensor | None = None, n_systems: int | None = None
) -> Tensor:
    """Total dipole ``sum(q r + d)`` of each system, ``[n_systems, 3]`` as (x, y, z) in e·Å."""
    _require_real(positions=positions, multipoles=multipoles)
    inputs.require_points("positions", positions.shape)
    inputs.require_multipoles(multipoles.shape, positions.shape[0])
    stated = None if n_systems is None else ("n_systems", n_systems)
    index = _labels("batch", batch, positions.shape[0], stated, positions)
    if n_systems is None:
        n_systems = 1 if batch is None else _implied_systems(index)
    return _dipole(positions, multipoles, index, n_systems)


# --- arguments ---


def _joined(
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
    _require_real(positions=positions, multipoles=multipoles, **{name: points})
    _require_together(positions, multipoles=multipoles, **{name: points})
    inputs.require_points(name, points.shape)
    inputs.require_points("positions", positions.shape)
    n_atoms, n_points = positions.shape[0], points.shape[0]
    inputs.require_multipoles(multipoles.shape, n_atoms)
    stated = _stated(cell, pbc, positions)
    index = _labels("batch", batch, n_atoms, stated, positions)
    points_index = _labels(f"{name}_batch", points_batch, n_points, stated, positions)
    widths = _constant("sigma", sigma, positions)
    inputs.require_per("sigma", widths.shape, n_atoms, "n_atoms")
    widths = widths.expand(n_atoms)
    widest = widths.amax() if n_atoms else widths.new_ones(())
    return (
        torch.cat([positions, points.to(positions.dtype)]),
        torch.cat([multipoles, multipoles.new_zeros(n_points, multipoles.shape[1])]),
        torch.cat([widths, widest.expand(n_points)]),
        torch.cat([index, points_index]),
    )


def _prepare(
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
    _require_real(positions=positions, multipoles=multipoles)
    _require_supported(positions)
    _require_together(positions, multipoles=multipoles)
    inputs.require_points("positions", positions.shape)
    n_atoms = positions.shape[0]
    inputs.require_multipoles(multipoles.shape, n_atoms)
    x, p = _cast(positions, torch.float64), _cast(multipoles, torch.float64)
    h = None if cell is None else _cell(cell, x)
    if h is None and pbc is not False and not isinstance(pbc, Tensor) and not torch.compiler.is_compiling():
        inputs.require_open(inputs.flags(pbc))
    flags = None if isinstance(pbc, bool) else _flags(pbc, x)
    stated = inputs.stated_systems(None if h is None else h.shape, () if flags is None else flags.shape)
    index = None if batch is None else _labels("batch", batch, n_atoms, stated, x)
    n_systems = 1 if index is None else _implied_systems(index) if stated is None else stated[1]
    if index is None:
        index = _labels("batch", None, n_atoms, stated, x)
    if h is None:
        h = _filled(0.0, (n_systems, 3, 3), torch.float64, x)
    elif h.dim() == 2:
        h = h.expand(n_systems, 3, 3)
    every = (n_systems, 3)
    flags = _filled(bool(pbc), every, torch.bool, x) if flags is None else flags.expand(every)
    if isinstance(sigma, float):
        s = _filled(sigma, (n_atoms,), torch.float64, x)
    else:
        s = _constant("sigma", sigma, x)
        inputs.require_per("sigma", s.shape, n_atoms, "n_atoms")
        if s.dim() == 0:
            s = s.expand(n_atoms)
    dtype = torch.promote_types(positions.dtype, multipoles.dtype)
    return Systems(x, h, flags, index), Sources(p, s), dtype


def _cell(cell: object, like: Tensor) -> Tensor:
    """Float64 cell, `[3, 3]` or `[n_systems, 3, 3]`."""
    if isinstance(cell, Tensor):
        _require_together(like, cell=cell)
        h = _cast(cell, torch.float64)
    else:
        h = _moved("cell", cell, torch.float64, like)
    inputs.require_cell(h.shape)
    return torch.diag(h) if h.dim() == 1 else h


def _flags(pbc: object, like: Tensor) -> Tensor:
    """Periodic axes as booleans: one, `[3]` or `[n_systems, 3]`."""
    _require_together(like, pbc=pbc)
    if not isinstance(pbc, Tensor) and not torch.compiler.is_compiling():
        pbc = inputs.flags(pbc)
    flags = _moved("pbc", pbc, None, like)
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


def _labels(name: str, values: object, n: int, stated: tuple[str, int] | None, like: Tensor) -> Tensor:
    """System of each entry, `[n]` int64; None puts all into one system."""
    if values is None:
        inputs.require_labels(name, None, n, stated)
        return _filled(0, (n,), torch.int64, like)
    _require_together(like, **{name: values})
    index = _moved(name, values, None, like)
    whole = not (index.dtype.is_floating_point or index.dtype.is_complex or index.dtype == torch.bool)
    if not whole and index.numel() > 0:
        raise InputError(f"{name} has dtype {index.dtype}; give integers, the system of each entry")
    inputs.require_labels(name, index.shape, n, stated)
    return _cast(index, torch.int64)


def _implied_systems(batch: Tensor) -> int:
    if batch.is_meta:
        raise InputError(
            "batch is on meta and holds no values; give cell as [n_systems, 3, 3], which states the number "
            "of systems"
        )
    return inputs.implied_systems("batch.max()", int(batch.max()), batch.shape[0]) if batch.shape[0] else 1


def _on_host(name: str, values: object) -> Any:
    """A tensor's numbers as an array, float64 where they are real."""
    if not isinstance(values, Tensor):
        return values
    _require_dense(name, values)
    if values.is_meta:
        raise InputError(f"{name} is on meta and holds no values; give a real tensor")
    values = values.detach()
    return (values.to(torch.float64) if values.dtype.is_floating_point else values).cpu().numpy()


def _require_real(**arguments: object) -> None:
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


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in a dtype; without a call of torch where it has that dtype."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def _require_together(like: Tensor, **arguments: object) -> None:
    for name, value in arguments.items():
        if isinstance(value, Tensor):
            _require_dense(name, value)
        if isinstance(value, Tensor) and value.device != like.device:
            raise InputError(
                f"{name} is on {value.device} but positions on {like.device}; bring them together with "
                f"{name}.to(positions.device)"
            )


def _require_supported(positions: Tensor) -> None:
    if positions.device.type not in ("cpu", "cuda", "meta"):
        raise InputError(
            f"positions is on {positions.device}; the electrostatics run on CPUs and NVIDIA GPUs: pass "
            "positions.cpu() and move the result back with .to(device)"
        )


def _constant(name: str, value: object, like: Tensor) -> Tensor:
    """A float64 tensor of settings that have no gradient, on the device of `like`."""
    if not isinstance(value, Tensor):
        return _moved(name, value, torch.float64, like)
    _require_together(like, **{name: value})
    if value.requires_grad:
        raise InputError(f"{name} requires grad, but no derivative in it is defined; pass {name}.detach()")
    return _cast(value, torch.float64)


def _moved(name: str, value: Any, dtype: torch.dtype | None, like: Tensor) -> Tensor:
    """The value as a tensor on the device of `like`; for numbers on a GPU always the same tensor, so that
    plans are found without reading it."""
    if isinstance(value, Tensor):
        return value if dtype is None else _cast(value, dtype)
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


# --- external field: plain torch, so that its derivatives are torch's ---


def _field(external_field: Tensor, like: Tensor, n_systems: int) -> Tensor:
    _require_together(like, external_field=external_field)
    f = _moved("external_field", external_field, torch.float64, like)
    inputs.require_field(f.shape, n_systems)
    return f.expand(n_systems, 3)


def _dipole(positions: Tensor, multipoles: Tensor, batch: Tensor, n_systems: int) -> Tensor:
    atomic = multipoles[:, :1] * positions  # [n_atoms, 3]
    if multipoles.shape[1] > 1:
        atomic = atomic + multipoles[:, 1:4].roll(1, dims=1)  # y, z, x in the order of m
    return sum_over_atoms(atomic, batch, n_systems)


def field_features(
    positions: Tensor, local_field: Tensor, widths: Tensor, max_l: int, normalization: str
) -> Tensor:
    """Projections of the potential -F·r of a uniform field on the receivers.

    Args:
        positions: ``[n_atoms, 3]`` in Å.
        local_field: the field at each atom, ``[n_atoms, 3]`` in V/Å.
        widths: of the receivers, ``[n_widths]`` in Å.
        max_l: highest order of the receivers.
        normalization: as in :func:`features`.

    Returns:
        ``[n_atoms, n_widths, (max_l + 1)**2]``; zero from l = 2 on.
    """
    x = positions
    if normalization == "receiver":  # see electret.kernels.external_field.receiver_scale
        scale0 = torch.full_like(widths, math.sqrt(4.0 * math.pi))
        scale1 = math.sqrt(4.0 * math.pi / 3.0) * 1.5 * math.sqrt(math.pi / 2.0) * widths
    else:
        scale0 = scale1 = torch.ones_like(widths)
    parts = [-(local_field * x).sum(dim=1)[:, None, None] * scale0[None, :, None]]
    if max_l > 0:
        parts.append(-local_field[:, None, list(CARTESIAN_OF_L1)] * scale1[None, :, None])
    if max_l > 1:
        parts.append(x.new_zeros((x.shape[0], widths.shape[0], (max_l + 1) ** 2 - 4)))
    return torch.cat(parts, dim=2)
