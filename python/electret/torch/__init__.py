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
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from electret.cuda.neighbors import pairs_on_device
from electret.cuda.operators import emulated
from electret.errors import InputError
from electret.kernels import inputs
from electret.kernels.arguments import Options, Receivers, Systems
from electret.kernels.external_field import CARTESIAN_OF_L1
from electret.kernels.neighbors import neighbor_list as numpy_neighbor_list
from electret.kernels.neighbors import reach
from electret.torch import arguments, operators
from electret.torch.geometry import Geometry
from electret.torch.per_system import sum_over_atoms

__all__ = [
    "Geometry",
    "coulomb_energy",
    "dipole",
    "features",
    "field_features",
    "neighbor_list",
    "potential",
]

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
    systems, sources, dtype = arguments.prepare(positions, multipoles, sigma, cell, pbc, batch)
    x, p, n_systems = systems.positions, sources.multipoles, systems.n_systems
    differentiable = x.requires_grad or p.requires_grad or systems.cell.requires_grad
    energy = operators.coulomb(systems, sources, options, torch.is_grad_enabled() and differentiable)[0]
    if external_field is not None:
        f = _field(external_field, x, n_systems)
        energy = energy - (f * _dipole(x, p, systems.batch, n_systems)).sum(dim=1)
    return arguments.cast(energy, dtype)


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
        positions, multipoles, sigma, batch = arguments.joined(
            "receivers", receivers, receivers_batch, *places
        )
        n_sources = positions.shape[0] - receivers.shape[0]
    elif receivers_batch is not None:
        raise InputError("receivers_batch is given without receivers; give their positions, or batch")
    systems, sources, dtype = arguments.prepare(positions, multipoles, sigma, cell, pbc, batch)
    x = systems.positions
    w = arguments.constant("widths", widths, x)
    inputs.require_list("widths", w.shape)
    if w.dim() != 1:
        w = w.reshape(1)
    projected = Receivers(w, inputs.max_order("features_max_l", features_max_l), normalization)
    values = operators.features(systems, sources, projected, options)
    if external_field is not None:
        f = _field(external_field, x, systems.n_systems)
        values = values + field_features(x, f[systems.batch], *projected)
    return arguments.cast(values[n_sources:] if n_sources else values, dtype)


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
    positions, multipoles, sigma, batch = arguments.joined("points", points, points_batch, *places)
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
    systems, sources, dtype = arguments.prepare(*places)
    x = systems.positions
    arguments.require_real(points=points)
    arguments.require_together(x, points=points)
    inputs.require_points("points", points.shape)
    index = arguments.labels("points_batch", points_batch, len(points), ("cell", systems.n_systems), x)
    values = operators.potential(systems, sources, options, arguments.cast(points, torch.float64), index)
    if external_field is not None:
        f = _field(external_field, x, systems.n_systems)
        values = values - (f[index] * points).sum(dim=1)
    return arguments.cast(values, torch.promote_types(dtype, points.dtype))


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
    arguments.require_real(positions=positions)
    arguments.require_supported(positions)
    if positions.is_meta:
        raise InputError(
            "positions is on meta and holds no values, so pairs cannot be found; give a real tensor"
        )
    inputs.require_points("positions", positions.shape)
    cell, pbc, batch, cutoff, numbers = (
        arguments.on_host(name, values)
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
    arguments.require_real(positions=positions, multipoles=multipoles)
    inputs.require_points("positions", positions.shape)
    inputs.require_multipoles(multipoles.shape, positions.shape[0])
    stated = None if n_systems is None else ("n_systems", n_systems)
    index = arguments.labels("batch", batch, positions.shape[0], stated, positions)
    if n_systems is None:
        n_systems = 1 if batch is None else arguments.implied_systems(index)
    return _dipole(positions, multipoles, index, n_systems)


# --- external field: plain torch, so that its derivatives are torch's ---


def _field(external_field: Tensor, like: Tensor, n_systems: int) -> Tensor:
    arguments.require_together(like, external_field=external_field)
    f = arguments.moved("external_field", external_field, torch.float64, like)
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
