"""Conversion of arguments (numbers, lists, any numeric dtype, one system or a batch) into the arrays of the
native layer.

Every function here either returns C-contiguous arrays of the native dtype or raises
:class:`electret.InputError` with the name of the array, the offending index and value, and a remedy. Nothing
is clipped or repaired silently.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any, ParamSpec, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from electret.errors import InputError
from electret.kernels.arguments import Options, Receivers, Sources, Systems

FloatArray = NDArray[np.float64]
P = ParamSpec("P")
R = TypeVar("R")

MAX_IMPLIED_SYSTEMS = 2**20
"""Most systems that `batch` alone may imply, so that a stray label cannot require terabytes of cells."""

COEFFICIENTS = tuple((l + 1) ** 2 for l in range(17))
"""Coefficients per atom of each order that the shape of `multipoles` may have."""

PRECISIONS = ("float64", "float32")
"""Precisions accepted for sums over pairs, k-vectors and mesh points on a GPU."""


ON_THE_CPU = dict.fromkeys(
    ("device", "precision"),
    "functions of numpy arrays run on the CPU in float64; for a GPU pass tensors of it to electret.torch",
)
"""Remedies for keywords that the numpy layer has no more, for :func:`refuses`."""


RECEIVER_ORDER = "the highest order of the receivers is called features_max_l"
"""Remedy for the keyword max_l of functions of features."""


def refuses(**remedies: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator: calls with one of these keywords raise an InputError with its remedy."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        error = InputError

        def checked(*arguments: P.args, **keywords: P.kwargs) -> R:
            for name in remedies:
                if name in keywords:
                    raise error(f"{name} = {keywords[name]!r}: {remedies[name]}")
            return function(*arguments, **keywords)

        # with the globals of the function, by which doctest recognises the functions of a module
        namespace = function.__globals__  # type: ignore[attr-defined]
        found = FunctionType(checked.__code__, namespace, checked.__name__, None, checked.__closure__)
        return functools.wraps(function)(found)

    return decorate


def array_of(name: str, values: ArrayLike) -> NDArray[Any]:
    """`values` as an array of numbers or truth values (any shape).

    Raises:
        InputError: not numeric, ragged, or on another device.
    """
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{name} cannot be read as an array ({error}); give a rectangular array or list of real numbers "
            "(for tensors on a device or with gradients use electret.torch)"
        ) from error
    if array.dtype.kind in "fiub":
        return array
    if array.size == 0 and array.dtype.kind == "O":
        return array.astype(np.float64)
    raise InputError(f"{name} has dtype {array.dtype}; give real numbers (float or integer)")


def numbers(name: str, values: ArrayLike) -> FloatArray:
    """`values` as a C-contiguous float64 array of finite numbers (any shape).

    Raises:
        InputError: as :func:`array_of`, or an entry is a truth value, NaN or infinite.
    """
    array = array_of(name, values)
    if array.dtype.kind == "b" and array.size:
        raise InputError(f"{name} has dtype {array.dtype}; give real numbers (float or integer)")
    if array.dtype != np.float64 or not array.flags.c_contiguous:
        array = np.require(array, dtype=np.float64, requirements="C")
    if not np.isfinite(array).all():
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        place = f"[{', '.join(map(str, index))}]" if index else ""
        raise InputError(f"{name}{place} is {array[index]}; every entry must be finite")
    return array


def array(name: str, values: ArrayLike, shape: tuple[int, ...]) -> FloatArray:
    """Finite numbers of exactly this shape."""
    found = numbers(name, values)
    if found.shape != shape:
        raise InputError(f"{name} has shape {list(found.shape)}; expected {list(shape)}")
    return found


def points(name: str, values: ArrayLike) -> FloatArray:
    """Cartesian points ``[n, 3]`` in Å; an empty list is zero points."""
    array = numbers(name, values)
    if array.size == 0 and array.ndim < 2:
        return np.zeros((0, 3))
    require_points(name, array.shape)
    return array


def systems(
    positions: ArrayLike,
    cell: ArrayLike | None = None,
    pbc: ArrayLike = False,
    batch: ArrayLike | None = None,
) -> Systems:
    """Check and broadcast the geometry of one or more systems.

    Args:
        positions: ``[n_atoms, 3]`` in Å.
        cell: None, ``[3]`` (orthorhombic lengths), ``[3, 3]`` (rows are vectors) or ``[n_systems, 3, 3]``, in
            Å.
        pbc: one flag, ``[3]``, ``[1, 3]`` (of all systems) or ``[n_systems, 3]``.
        batch: ``[n_atoms]`` integers, the system of each atom in any order; None puts all atoms in one
            system.

    Raises:
        InputError: wrong shape or dtype, non-finite entries, a periodic axis without a cell, labels out of
        range.
    """
    r = points("positions", positions)
    return Systems(r, *lattices(r.shape[0], cell, pbc, batch))


def lattices(
    n_atoms: int, cell: ArrayLike | None = None, pbc: ArrayLike = False, batch: ArrayLike | None = None
) -> tuple[FloatArray, NDArray[np.bool_], NDArray[np.int64]]:
    """Cells ``[n_systems, 3, 3]``, periodic axes ``[n_systems, 3]`` and the system of each atom.

    Arguments and errors are those of :func:`systems`.
    """
    cells = None if cell is None else numbers("cell", cell)
    if cells is not None:
        require_cell(cells.shape)
        cells = np.diag(cells) if cells.ndim == 1 else cells
    periodic = flags(pbc)
    stated = stated_systems(None if cells is None else cells.shape, periodic.shape)
    index, n_systems = _labels("batch", batch, n_atoms, stated)
    full_cell = np.zeros((n_systems, 3, 3))
    if cells is not None:
        full_cell[:] = cells
    full_pbc = np.empty((n_systems, 3), dtype=bool)
    full_pbc[:] = periodic
    missing = full_pbc & ~full_cell.any(axis=2)
    if missing.any():
        system, axis = (int(i) for i in np.argwhere(missing)[0])
        if cells is None:
            require_open(full_pbc)
        raise InputError(f"pbc[{system}, {axis}] is True but cell[{system}, {axis}] is zero; {EVERY_PERIOD}")
    return full_cell, full_pbc, index


def labels(name: str, values: ArrayLike | None, n: int, n_systems: int) -> NDArray[np.int64]:
    """System indices ``[n]`` below `n_systems`; None means system 0, allowed for one system only."""
    return _labels(name, values, n, ("the number of systems", n_systems))[0]


def multipoles(values: ArrayLike, n_atoms: int) -> FloatArray:
    """Multipole coefficients ``[n_atoms, (max_l + 1)**2]`` in e·Å^l."""
    p = numbers("multipoles", values)
    if p.size == 0 and p.ndim < 2 and n_atoms == 0:
        return np.zeros((0, 1))
    require_multipoles(p.shape, n_atoms)
    return p


def max_order(name: str, value: Any) -> int:
    """A multipole order as a non-negative int."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 0 <= value < 2**31:
        raise InputError(f"{name} = {value!r}; give an integer from 0 to 6")
    return int(value)


def sources(multipoles_: ArrayLike, sigma: ArrayLike, n_atoms: int) -> Sources:
    """Multipoles ``[n_atoms, (max_l + 1)**2]`` and widths, one or ``[n_atoms]`` in Å."""
    return Sources(multipoles(multipoles_, n_atoms), widths("sigma", sigma, n_atoms))


def receivers(widths_: ArrayLike, max_l: Any, normalization: object, may_be_empty: bool = False) -> Receivers:
    """Receivers of one or more widths in Å, or of none where there `may_be_empty`."""
    require_normalization(normalization)
    order = max_order("features_max_l", max_l)
    found = array_of("widths", widths_) if may_be_empty else None
    found = np.empty(0) if found is not None and found.size == 0 else widths("widths", widths_)
    return Receivers(found, order, str(normalization))


def widths(name: str, values: ArrayLike, n: int | None = None) -> FloatArray:
    """Positive Gaussian widths in Å: one or more, or broadcast to ``[n]`` when `n` is given."""
    array = numbers(name, values)
    if n is None:
        require_list(name, array.shape)
    else:
        require_per(name, array.shape, n, "n_atoms")
    if array.size and array.min() <= 0.0:
        index = np.argwhere(array <= 0.0)[0]
        place = f"[{int(index[0])}]" if array.ndim else ""
        raise InputError(
            f"{name}{place} = {float(array[tuple(index)])}; a Gaussian width must be positive (in Å)"
        )
    if n is None:
        return np.atleast_1d(array)
    full = np.empty(n)
    full[:] = array
    return full


def per(name: str, values: ArrayLike, n: int, unit: str) -> FloatArray:
    """One number or ``[n]`` numbers as ``[n]``; `unit` says what n counts, for messages."""
    found = numbers(name, values)
    require_per(name, found.shape, n, unit)
    return np.ascontiguousarray(np.broadcast_to(found, (n,)))


def field(values: ArrayLike | None, n_systems: int) -> FloatArray | None:
    """External field ``[n_systems, 3]`` in V/Å from ``[3]`` or ``[n_systems, 3]``; None stays None."""
    if values is None:
        return None
    array = numbers("external_field", values)
    require_field(array.shape, n_systems)
    return np.broadcast_to(array, (n_systems, 3))


def tolerance(value: Any, name: str = "accuracy") -> float:
    """The requested relative accuracy as a float between 0 and 1 (both excluded)."""
    try:
        accuracy = float(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} = {value!r}; give a number such as 1e-8") from error
    if not 0.0 < accuracy < 1.0:
        raise InputError(f"{name} = {accuracy}; give a relative {name} between 0 and 1, such as 1e-8")
    return accuracy


def require_finite(quantity: str, values: FloatArray) -> None:
    """Refuse a result that overflowed: valid inputs can still be too large or too small together."""
    if not np.isfinite(values).all():
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
        raise InputError(
            f"{quantity}{list(index)} is {values[index]}: it overflows with these arguments; check the "
            "magnitudes of multipoles (e·Å^l), sigma and positions (Å), and external_field (V/Å)"
        )


def flags(pbc: Any) -> NDArray[np.bool_]:
    """Periodic axes as truth values: one, ``[3]`` or ``[n_systems, 3]``."""
    try:
        array = array_of("pbc", pbc)
    except InputError:
        array = np.empty(0)
    if array.dtype.kind in "iu" and np.isin(array, (0, 1)).all():
        array = array.astype(bool)
    if array.dtype != bool:
        raise InputError(
            f"pbc = {pbc!r} is not a flag; give True, False, three flags or [n_systems, 3] flags"
        )
    require_flags(array.shape)
    return array


def _labels(
    name: str, values: ArrayLike | None, n: int, stated: tuple[str, int] | None
) -> tuple[NDArray[np.int64], int]:
    """System of each of `n` entries and the number of systems, which other arrays may have `stated`."""
    if values is None:
        require_labels(name, None, n, stated)
        return np.zeros(n, dtype=np.int64), 1
    array = array_of(name, values)
    if array.dtype.kind not in "iu" and array.size:
        raise InputError(f"{name} has dtype {array.dtype}; give integers, the system of each entry")
    require_labels(name, array.shape, n, stated)
    if n and array.min() < 0:
        i = int(np.argmin(array))
        raise InputError(f"{name}[{i}] = {int(array[i])}; systems are numbered from 0")
    highest = int(array.max()) if n else 0
    if stated is None:
        n_systems = implied_systems(f"{name}[{int(np.argmax(array)) if n else 0}]", highest, n)
    else:
        n_systems = stated[1]
    if stated is not None and highest >= n_systems and n:
        i = int(np.argmax(array))
        raise InputError(f"{name}[{i}] = {highest}; {stated[0]} says {n_systems} systems, numbered from 0")
    return np.ascontiguousarray(array, dtype=np.int64), n_systems


# --- shapes and settings: one specification for arrays, and for tensors while torch.compile traces them ---

Shape = Sequence[int]


def require_points(name: str, shape: Shape) -> None:
    """Refuse what is not ``[n, 3]``."""
    if len(shape) != 2 or shape[1] != 3:
        remedy = "; for one point add an axis: [[x, y, z]]" if len(shape) == 1 and shape[0] == 3 else ""
        raise InputError(f"{name} has shape {list(shape)}; expected [n, 3]{remedy}")


def require_multipoles(shape: Shape, n_atoms: int) -> None:
    """Refuse what is not ``[n_atoms, (max_l + 1)**2]``."""
    if len(shape) != 2 or shape[0] != n_atoms:
        remedy = "; for charges alone pass charges[:, None]" if len(shape) == 1 else ""
        raise InputError(
            f"multipoles has shape {list(shape)}; expected [n_atoms = {n_atoms}, (max_l + 1)**2]{remedy}"
        )
    if shape[1] not in COEFFICIENTS:
        raise InputError(
            f"multipoles has {shape[1]} coefficients per atom; expected (max_l + 1)**2 = 1, 4, 9, 16, ...: "
            "all orders up to max_l"
        )


def require_cell(shape: Shape) -> None:
    """Refuse what is neither ``[3]`` nor ``[3, 3]`` nor ``[n_systems, 3, 3]``."""
    if len(shape) not in (1, 2, 3) or shape[-1] != 3 or (len(shape) > 1 and shape[-2] != 3):
        raise InputError(
            f"cell has shape {list(shape)}; expected [3] (orthorhombic lengths), [3, 3] (rows are vectors) "
            "or [n_systems, 3, 3], in Å"
        )


def require_flags(shape: Shape) -> None:
    """Refuse what is neither one flag nor ``[3]`` nor ``[n_systems, 3]``."""
    if len(shape) > 2 or (len(shape) > 0 and shape[-1] != 3):
        raise InputError(f"pbc has shape {list(shape)}; expected one flag, [3], [1, 3] or [n_systems, 3]")


def require_per(name: str, shape: Shape, n: int, unit: str) -> None:
    """Refuse what is neither one number nor ``[n]``; `unit` says what n counts."""
    if len(shape) > 1 or (len(shape) == 1 and shape[0] != n):
        raise InputError(f"{name} has shape {list(shape)}; expected one number or [{unit} = {n}]")


def require_list(name: str, shape: Shape) -> None:
    """Refuse what is neither one number nor a list of at least one."""
    if len(shape) > 1 or (len(shape) == 1 and shape[0] == 0):
        raise InputError(f"{name} has shape {list(shape)}; expected one number or a list of numbers")


def require_field(shape: Shape, n_systems: int) -> None:
    """Refuse what is neither ``[3]`` nor ``[n_systems, 3]``."""
    if len(shape) not in (1, 2) or shape[-1] != 3 or (len(shape) == 2 and shape[0] != n_systems):
        raise InputError(
            f"external_field has shape {list(shape)}; expected [3] or [n_systems = {n_systems}, 3] in V/Å"
        )


EVERY_PERIOD = "give the cell vector of every periodic axis or set pbc=False"
"""Remedy for periodic axes without a vector."""


def require_open(pbc: NDArray[np.bool_]) -> None:
    """Refuse periodic axes where no cell was given."""
    rows = np.atleast_2d(pbc)
    periodic = np.argwhere(np.broadcast_to(rows, (len(rows), 3)))
    if len(periodic):
        system, axis = periodic[0]
        raise InputError(f"pbc[{system}, {axis}] is True but no cell was given; {EVERY_PERIOD}")


def stated_systems(cell: Shape | None, pbc: Shape) -> tuple[str, int] | None:
    """Number of systems that the shapes of cell and pbc state, after the name of the one that does.

    None where they do not: ``[3, 3]``, ``[3]`` and ``[1, 3]`` serve any number.
    """
    flags = pbc[0] if len(pbc) == 2 and pbc[0] != 1 else None
    if cell is None or len(cell) != 3:
        return None if flags is None else ("pbc", flags)
    if flags is not None and flags != cell[0]:
        raise InputError(
            f"the numbers of systems disagree (cell: {cell[0]}, pbc: {flags}); give one entry per system "
            "everywhere"
        )
    return ("cell", cell[0])


def require_labels(name: str, shape: Shape | None, n: int, stated: tuple[str, int] | None) -> None:
    """Refuse labels that are not ``[n]``, or none (shape None) where there are several systems."""
    if shape is None:
        if stated is not None and stated[1] != 1:
            raise InputError(
                f"{name} is None but {stated[0]} says {stated[1]} systems; "
                f"give {name} with the system of each entry"
            )
    elif len(shape) != 1 or shape[0] != n:
        raise InputError(f"{name} has shape {list(shape)}; expected [{n}], one system per entry")


def implied_systems(place: str, highest: int, n: int) -> int:
    """Number of systems of `n` entries whose highest label is the one at `place`."""
    if highest >= max(n, MAX_IMPLIED_SYSTEMS):
        raise InputError(
            f"{place} = {highest} would make {highest + 1} systems for {n} atoms; number the systems "
            "consecutively from 0 or give cell as [n_systems, 3, 3]"
        )
    return max(highest, 0) + 1


def switch(name: str, value: Any) -> bool:
    """A flag: a truth value of Python or numpy, or a number as one.

    Raises:
        InputError: anything else.
    """
    if isinstance(value, (bool, int, np.bool_, np.integer)) and value in (0, 1):
        return bool(value)
    raise InputError(f"{name} = {value!r}; give True or False")


def options(
    boundary: object,
    method: object,
    accuracy: Any,
    precision: object = "float64",
    self_interaction: object = True,
) -> Options:
    """Settings of the sums. The native layer holds the names of boundaries and methods, and refuses others.

    Raises:
        InputError: a setting is of another kind, or the accuracy no number between 0 and 1.
    """
    if boundary is not None and not isinstance(boundary, str):
        raise InputError(
            f"boundary = {boundary!r}; leave None (the boundary follows pbc) or give a name, as "
            "'slab_dipole_correction' or 'molecule_in_box'"
        )
    if not isinstance(method, str):
        raise InputError(f"method = {method!r}; give a name, as 'auto', 'ewald' or 'mesh'")
    require_precision(precision)
    own = switch("self_interaction", self_interaction)
    return Options(boundary, method, tolerance(accuracy), str(precision), own)


def require_normalization(name: object) -> None:
    """Refuse what is no name. The native layer holds the names of normalisations."""
    if not isinstance(name, str):
        raise InputError(f"normalization = {name!r}; give 'receiver' or 'multipoles'")


def require_precision(name: object) -> None:
    """Refuse what is none of :data:`PRECISIONS`."""
    if name not in PRECISIONS:
        raise InputError(f"precision = {name!r}; use 'float64' or 'float32'")
