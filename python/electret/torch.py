"""Electrostatics of Gaussian multipoles for PyTorch, differentiable twice in positions, multipoles and cell.

The operators ``electret::coulomb`` and ``electret::features`` call the same native functions as the numpy
layer. First derivatives come with the forward call, second derivatives (force training, Hessian-vector
products) from dual numbers in the native layer; no finite differences. Third derivatives raise
``NotImplementedError``.

Tensors are used where they are, on the CPU or on an NVIDIA GPU: float64 ones without a copy, float32 ones
are computed in float64 and the result is returned as float32. ``precision="float32"`` has a GPU do its long
sums in float32, whatever the dtype of the tensors, for an `accuracy` of 1e-5 or more. On a GPU the work is
queued on torch's current stream and nothing waits, but for the first call with new tensors of cell, pbc,
batch or widths, whose values are read (:mod:`electret.device_plans`), for a `batch` without the number of
systems (give `cell` as ``[n_systems, 3, 3]``), and for open axes with a sum over k-vectors or a mesh, where
every call reads the extent of the atoms. Give numbers or lists, or the same tensors in every call, to stay
free of that. Values are not looked at there, so NaN in positions or multipoles gives NaN. Tensors on several
devices are refused with a remedy, never copied silently; numbers and lists go where they are needed.

Under ``torch.compile(fullgraph=True)`` the number of systems must be known without reading data: pass `batch`
together with a cell tensor ``[n_systems, 3, 3]`` (zeros for open systems), or no `batch` at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence

import numpy as np
import torch
from torch import Tensor

from electret._native import InputError
from electret.backends import require_precision
from electret.device_neighbors import pairs_on_device
from electret.device_operators import emulated
from electret.device_plans import Recent
from electret.external_field import CARTESIAN_OF_L1
from electret.neighbors import as_systems
from electret.neighbors import neighbor_list as numpy_neighbor_list
from electret.per_system import sum_over_atoms
from electret.torch_operators import coulomb as coulomb_operator
from electret.torch_operators import features as features_operator

__all__ = ["coulomb_energy", "dipole", "features", "field_features", "neighbor_list", "potential"]

HIGHEST_ORDER = 16
"""Highest multipole order l that is looked for in the shape of `multipoles`."""

COEFFICIENTS = tuple((l + 1) ** 2 for l in range(HIGHEST_ORDER + 1))
"""Coefficients per atom of each order."""

LARGEST_KEPT_CONSTANT = 4096
"""Bytes of numbers and lists up to which their tensors on a GPU are kept."""

POINT_WIDTH = 1e-5
"""Width in Å of the receivers that stand for points: they see the potential to 2 pi K rho width² (1e-8 V)."""


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
    require_precision(precision)
    x, p, h, s, flags, index, dtype = _prepare(positions, multipoles, sigma, cell, pbc, batch)
    gradients = torch.is_grad_enabled() and (x.requires_grad or p.requires_grad or h.requires_grad)
    energy = coulomb_operator(
        x, p, h, s, flags, index, boundary, method, float(accuracy), precision, self_interaction, gradients
    )[0]
    if external_field is not None:
        f = _field(external_field, x, h.shape[0])
        energy = energy - (f * _dipole(x, p, index, h.shape[0])).sum(dim=1)
    return _cast(energy, dtype)


def features(
    positions: Tensor,
    multipoles: Tensor,
    sigma: float | Tensor = 1.0,
    widths: Sequence[float] | Tensor = (1.5, 3.0),
    max_l: int = 1,
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
) -> Tensor:
    """Projections of the potential on Gaussian receivers, ``[n_atoms, n_widths, (max_l + 1)**2]``.

    Arguments, units and conventions are those of :func:`electret.features`. Differentiable twice in
    `positions`, `multipoles` and `cell`, and in `external_field`.

    Raises:
        InputError: an argument cannot be used; the message names array, index, value and remedy.
    """
    require_precision(precision)
    x, p, h, s, flags, index, dtype = _prepare(positions, multipoles, sigma, cell, pbc, batch)
    w = _constant("widths", widths, x)
    if w.dim() != 1:
        w = w.reshape(-1)
    values = features_operator(
        x,
        p,
        h,
        s,
        w,
        flags,
        index,
        max_l,
        normalization,
        boundary,
        method,
        float(accuracy),
        precision,
        self_interaction,
    )
    if external_field is not None:
        f = _field(external_field, x, h.shape[0])
        values = values + field_features(x, f[index], w, max_l, normalization)
    return _cast(values, dtype)


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
) -> Tensor:
    """Electrostatic potential of the density at arbitrary points, ``[n_points]`` in V.

    Arguments, units and conventions are those of :func:`electret.potential`. Differentiable twice in
    `positions`, `multipoles`, `cell` and `external_field`. Points are receivers without a charge of their own
    and so narrow that their width does not matter. Pairs of points cost time as pairs of atoms do, so this is
    for some hundred points per system; :func:`electret.potential` has no such limit and no derivatives.

    Raises:
        InputError: an argument cannot be used; the message names array, index, value and remedy.
    """
    if not isinstance(points, Tensor) or points.dim() != 2 or points.shape[1] != 3:
        shape = list(points.shape) if isinstance(points, Tensor) else type(points).__name__
        raise InputError(f"points is {shape}; expected a tensor [n_points, 3] in Å")
    n_points = points.shape[0]
    if batch is None:
        batch = torch.zeros(positions.shape[0], dtype=torch.int64, device=positions.device)
    _require_together(positions, points=points, points_batch=points_batch)
    if points_batch is None:
        points_batch = torch.zeros(n_points, dtype=torch.int64, device=positions.device)
    if points_batch.shape != (n_points,):
        raise InputError(
            f"points_batch has shape {list(points_batch.shape)}; expected [n_points = {n_points}]"
        )
    widths = _constant("sigma", sigma, positions).expand(positions.shape[0])
    values = features(
        torch.cat([positions, points.to(positions.dtype)]),
        torch.cat([multipoles, multipoles.new_zeros(n_points, multipoles.shape[1])]),
        torch.cat([widths, widths.new_full((n_points,), POINT_WIDTH)]),
        widths=[POINT_WIDTH],
        max_l=0,
        normalization="multipoles",
        cell=cell,
        pbc=pbc,
        batch=torch.cat([batch, points_batch]),
        external_field=external_field,
        boundary=boundary,
        method=method,
        accuracy=accuracy,
        precision=precision,
    )
    return values[positions.shape[0] :, 0, 0]


def neighbor_list(
    quantities: str,
    positions: Tensor,
    cell: Tensor | None = None,
    pbc: bool | Sequence[bool] | Tensor = False,
    cutoff: float | None = None,
    batch: Tensor | None = None,
    half: bool = False,
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
    if not isinstance(positions, Tensor):
        raise InputError(f"positions is a {type(positions).__name__}; give a torch.Tensor")
    if cutoff is None:
        raise InputError("cutoff is missing; give the largest distance of a pair, in Å")

    def host(values: object) -> np.ndarray:
        return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)

    there = None if cell is None else host(cell)
    index = None if batch is None else host(batch)
    if positions.device.type == "cpu" and not emulated():
        found = numpy_neighbor_list(quantities, host(positions), there, host(pbc), cutoff, index, half)
        arrays = (found,) if len(quantities) == 1 else found
        pairs = tuple(torch.from_numpy(values) for values in arrays)
    else:
        _, cells, flags, index = as_systems(np.empty((0, 3)), there, host(pbc), index, len(positions))
        pairs = pairs_on_device(quantities, positions, cells, flags, float(cutoff), index, half)
    return pairs[0] if len(pairs) == 1 else pairs


def dipole(
    positions: Tensor, multipoles: Tensor, batch: Tensor | None = None, n_systems: int | None = None
) -> Tensor:
    """Total dipole ``sum(q r + d)`` of each system, ``[n_systems, 3]`` as (x, y, z) in e·Å."""
    if batch is None:
        batch = torch.zeros(positions.shape[0], dtype=torch.int64, device=positions.device)
        n_systems = 1 if n_systems is None else n_systems
    if n_systems is None:
        n_systems = int(batch.max()) + 1 if batch.numel() else 1
    return _dipole(positions, multipoles, batch, n_systems)


# --- arguments ---


def _prepare(
    positions: Tensor,
    multipoles: Tensor,
    sigma: float | Tensor,
    cell: Tensor | None,
    pbc: bool | Sequence[bool] | Tensor,
    batch: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, torch.dtype]:
    """Broadcasts to the native shapes; values are checked by the native layer."""
    for name, value in (("positions", positions), ("multipoles", multipoles)):
        if not isinstance(value, Tensor):
            raise InputError(
                f"{name} is a {type(value).__name__}; give a torch.Tensor (numpy: electret.coulomb)"
            )
        if value.dtype not in (torch.float32, torch.float64):
            raise InputError(f"{name} has dtype {value.dtype}; give float32 or float64")
    _require_supported(positions)
    _require_together(positions, multipoles=multipoles, cell=cell, pbc=pbc, batch=batch)
    if positions.dim() != 2 or positions.shape[1] != 3:
        raise InputError(f"positions has shape {list(positions.shape)}; expected [n_atoms, 3]")
    n_atoms = positions.shape[0]
    if multipoles.dim() != 2 or multipoles.shape[0] != n_atoms:
        raise InputError(
            f"multipoles has shape {list(multipoles.shape)}; expected [n_atoms = {n_atoms}, (max_l + 1)**2]; "
            "for charges alone pass charges[:, None]"
        )
    n_lm = multipoles.shape[1]
    if n_lm not in COEFFICIENTS:  # traceable, unlike isqrt
        raise InputError(
            f"multipoles has {n_lm} coefficients per atom; expected (max_l + 1)**2 = 1, 4, 9, 16, ..."
        )
    x, p = _cast(positions, torch.float64), _cast(multipoles, torch.float64)

    flags = None if isinstance(pbc, bool) else _moved(pbc, None, x)
    if flags is not None:
        if flags.dtype != torch.bool:
            if flags.dtype.is_floating_point or flags.dtype.is_complex:
                raise InputError(f"pbc has dtype {flags.dtype}; give flags")
            flags = flags.to(torch.bool)
        if flags.dim() > 2 or (flags.dim() > 0 and flags.shape[-1] != 3):
            raise InputError(f"pbc has shape {list(flags.shape)}; expected one flag, [3] or [n_systems, 3]")
    h = None
    if cell is not None:
        h = _cast(cell, torch.float64) if isinstance(cell, Tensor) else _constant("cell", cell, x)
        if h.dim() == 1 and h.shape[0] == 3:
            h = torch.diag(h)
        if h.shape[-2:] != (3, 3) or h.dim() not in (2, 3):
            raise InputError(
                f"cell has shape {list(h.shape)}; expected [3], [3, 3] or [n_systems, 3, 3], in Å"
            )
    if h is not None and h.dim() == 3:
        n_systems = h.shape[0]
    elif flags is not None and flags.dim() == 2:
        n_systems = flags.shape[0]
    elif batch is None:
        n_systems = 1
    else:
        n_systems = int(batch.max()) + 1 if n_atoms else 1
    if h is None:
        h = _filled(0.0, (n_systems, 3, 3), torch.float64, x)
    elif h.dim() == 2:
        h = h.expand(n_systems, 3, 3)
    if flags is None:
        flags = _filled(bool(pbc), (n_systems, 3), torch.bool, x)
    elif flags.dim() < 2:
        flags = flags.expand(n_systems, 3)
    elif flags.shape[0] != n_systems:
        raise InputError(f"pbc has shape {list(flags.shape)}; expected [n_systems = {n_systems}, 3]")

    if batch is None:
        if n_systems != 1:
            raise InputError(
                f"batch is None but there are {n_systems} systems; give batch with the system of each atom"
            )
        index = _filled(0, (n_atoms,), torch.int64, x)
    else:
        if batch.dtype.is_floating_point or batch.dtype == torch.bool or batch.shape != (n_atoms,):
            raise InputError(
                f"batch has dtype {batch.dtype} and shape {list(batch.shape)}; "
                f"expected integers [n_atoms = {n_atoms}]"
            )
        index = _cast(batch, torch.int64)
    if isinstance(sigma, float):
        s = _filled(sigma, (n_atoms,), torch.float64, x)
    else:
        s = _constant("sigma", sigma, x)
        if s.dim() > 1 or (s.dim() == 1 and s.shape[0] not in (1, n_atoms)):
            raise InputError(f"sigma has shape {list(s.shape)}; expected one number or [n_atoms = {n_atoms}]")
        if s.dim() == 0 or s.shape[0] != n_atoms:
            s = s.expand(n_atoms)
    return x, p, h, s, flags, index, torch.promote_types(positions.dtype, multipoles.dtype)


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in a dtype; without a call of torch where it has it."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def _require_together(like: Tensor, **arguments: object) -> None:
    for name, value in arguments.items():
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
        return _moved(value, torch.float64, like)
    _require_together(like, **{name: value})
    if value.requires_grad:
        raise InputError(f"{name} requires grad, but no derivative in it is defined; pass {name}.detach()")
    return _cast(value, torch.float64)


def _moved(value: object, dtype: torch.dtype | None, like: Tensor) -> Tensor:
    """The value as a tensor on the device of `like`; of numbers on a GPU always the same tensor, so that
    plans are found without reading it."""

    def make() -> Tensor:
        return torch.as_tensor(value, dtype=dtype, device=like.device)

    if isinstance(value, Tensor):
        return value if dtype is None else _cast(value, dtype)
    if not _keeps_constants(like):
        return make()
    array = np.asarray(value)
    if array.dtype == object or array.nbytes > LARGEST_KEPT_CONSTANT:
        return make()
    return _kept((array.tobytes(), array.dtype.str, array.shape, dtype, like.device), make)


def _filled(value: float, shape: tuple[int, ...], dtype: torch.dtype, like: Tensor) -> Tensor:
    """A tensor of one number, that nobody writes to; on a GPU always the same tensor."""

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
        if not tensor.is_inference():  # those cannot be saved for a backward pass
            _constants.put(key, tensor)
    return tensor


# --- external field: plain torch, so that its derivatives are torch's ---


def _field(external_field: Tensor, like: Tensor, n_systems: int) -> Tensor:
    _require_together(like, external_field=external_field)
    f = torch.as_tensor(external_field, dtype=torch.float64, device=like.device)
    if f.shape not in ((3,), (n_systems, 3)):
        raise InputError(
            f"external_field has shape {list(f.shape)}; expected [3] or [n_systems = {n_systems}, 3] in V/Å"
        )
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
        ``[n_atoms, n_widths, (max_l + 1)**2]``; zero from l=2 on.
    """
    x = positions
    n_atoms, n_widths, n_lm = x.shape[0], widths.shape[0], (max_l + 1) ** 2
    if normalization == "receiver":  # see electret.external_field.receiver_scale
        scale0 = torch.full_like(widths, math.sqrt(4.0 * math.pi))
        scale1 = math.sqrt(4.0 * math.pi / 3.0) * 1.5 * math.sqrt(math.pi / 2.0) * widths
    else:
        scale0 = scale1 = torch.ones_like(widths)
    parts = [-(local_field * x).sum(dim=1)[:, None, None] * scale0[None, :, None]]
    if max_l > 0:
        parts.append(-local_field[:, None, list(CARTESIAN_OF_L1)] * scale1[None, :, None])
    if max_l > 1:
        parts.append(x.new_zeros((n_atoms, n_widths, n_lm - 4)))
    return torch.cat(parts, dim=2)
