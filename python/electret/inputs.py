"""Turns what users pass (numbers, lists, any numeric dtype, one system or a batch) into the arrays of the
native layer.

Every function here either returns C-contiguous arrays of the native dtype or raises
:class:`electret.InputError` with the name of the array, the offending index and value, and a remedy. Nothing
is clipped or repaired silently.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from electret._native import InputError

FloatArray = NDArray[np.float64]

MAX_IMPLIED_SYSTEMS = 2**20
"""Most systems that `batch` alone may imply, so that a stray label cannot ask for terabytes of cells."""


@dataclass(frozen=True)
class Systems:
    """Atoms of one or more systems with their cells, ready for the native layer.

    Attributes:
        positions: ``[n_atoms, 3]`` in Å.
        cell: ``[n_systems, 3, 3]`` in Å, rows are vectors; zero where no cell was given.
        pbc: ``[n_systems, 3]``, whether each axis is periodic.
        batch: ``[n_atoms]``, the system of each atom.
    """

    positions: FloatArray
    cell: FloatArray
    pbc: NDArray[np.bool_]
    batch: NDArray[np.int64]

    @property
    def n_atoms(self) -> int:
        return self.positions.shape[0]

    @property
    def n_systems(self) -> int:
        return self.cell.shape[0]

    def sum(self, values: FloatArray) -> FloatArray:
        """Sum of per-atom values ``[n_atoms, n]`` over the atoms of each system, ``[n_systems, n]``."""
        if self.n_systems == 1:
            return values.sum(axis=0)[None]
        columns = [np.bincount(self.batch, column, self.n_systems) for column in values.T]
        return np.stack(columns, axis=1)


def numbers(name: str, values: ArrayLike) -> FloatArray:
    """`values` as a C-contiguous float64 array of finite numbers (any shape).

    Raises:
        InputError: not numeric, ragged, on another device, or an entry is NaN or infinite.
    """
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{name} cannot be read as an array ({error}); give a rectangular array or list of real numbers "
            "(for tensors on a device or with gradients use electret.torch)"
        ) from error
    if array.dtype.kind not in "fiu":
        if array.size == 0 and array.dtype.kind in "Ob":
            array = array.astype(np.float64)
        else:
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
    if array.ndim != 2 or array.shape[1] != 3:
        remedy = "; for one point add an axis: [[x, y, z]]" if array.shape == (3,) else ""
        raise InputError(f"{name} has shape {list(array.shape)}; expected [n, 3]{remedy}")
    return array


def systems(
    positions: ArrayLike,
    cell: ArrayLike | None = None,
    pbc: ArrayLike = False,
    batch: ArrayLike | None = None,
) -> Systems:
    """Checks and broadcasts the geometry of one or more systems.

    Args:
        positions: ``[n_atoms, 3]`` in Å.
        cell: None, ``[3]`` (orthorhombic lengths), ``[3, 3]`` (rows are vectors) or ``[n_systems, 3, 3]``, in
            Å.
        pbc: one flag, ``[3]`` or ``[n_systems, 3]``.
        batch: ``[n_atoms]`` integers, the system of each atom in any order; None puts all atoms in one
            system.

    Raises:
        InputError: wrong shape or dtype, non-finite entries, a periodic axis without a cell, labels out of
        range.
    """
    r = points("positions", positions)
    cells = _cells(cell)
    flags = _flags(pbc)
    stated = {
        name: array.shape[0]
        for name, array, per_system in (("cell", cells, 3), ("pbc", flags, 2))
        if array is not None and array.ndim == per_system
    }
    index, n_systems = _labels("batch", batch, r.shape[0], stated)
    full_cell = np.zeros((n_systems, 3, 3))
    if cells is not None:
        full_cell[:] = cells
    full_pbc = np.empty((n_systems, 3), dtype=bool)
    full_pbc[:] = flags
    missing = full_pbc & ~full_cell.any(axis=2)
    if missing.any():
        system, axis = (int(i) for i in np.argwhere(missing)[0])
        given = "no cell was given" if cells is None else f"cell[{system}, {axis}] is zero"
        raise InputError(
            f"pbc[{system}, {axis}] is True but {given}; "
            "give the cell vector of every periodic axis or set pbc=False"
        )
    return Systems(r, full_cell, full_pbc, index)


def labels(name: str, values: ArrayLike | None, n: int, n_systems: int) -> NDArray[np.int64]:
    """System indices ``[n]`` below `n_systems`; None means system 0, allowed for one system only."""
    return _labels(name, values, n, {"the number of systems": n_systems})[0]


def multipoles(values: ArrayLike, n_atoms: int) -> FloatArray:
    """Multipole coefficients ``[n_atoms, (max_l + 1)**2]`` in e·Å^l."""
    p = numbers("multipoles", values)
    if p.size == 0 and p.ndim < 2 and n_atoms == 0:
        return np.zeros((0, 1))
    if p.ndim != 2 or p.shape[0] != n_atoms:
        remedy = "; for charges alone pass charges[:, None]" if p.shape == (n_atoms,) else ""
        raise InputError(
            f"multipoles has shape {list(p.shape)}; expected [n_atoms = {n_atoms}, (max_l + 1)**2]{remedy}"
        )
    order(p.shape[1])
    return p


def order(n_lm: int) -> int:
    """max_l for a number of coefficients per atom; refuses numbers that are no square."""
    max_l = math.isqrt(max(n_lm, 0)) - 1
    if max_l < 0 or (max_l + 1) ** 2 != n_lm:
        raise InputError(
            f"multipoles has {n_lm} coefficients per atom; expected (max_l + 1)**2 = 1, 4, 9, 16, ...: "
            "all orders up to max_l"
        )
    return max_l


def max_order(name: str, value: Any) -> int:
    """A multipole order as a non-negative int."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
        raise InputError(f"{name} = {value!r}; give an integer of at least 0")
    return int(value)


def widths(name: str, values: ArrayLike, n: int | None = None) -> FloatArray:
    """Positive Gaussian widths in Å: one or more, or broadcast to ``[n]`` when `n` is given."""
    array = numbers(name, values)
    if array.ndim > 1 or (n is None and array.size == 0):
        raise InputError(f"{name} has shape {list(array.shape)}; expected one number or a list of numbers")
    if n is not None and array.ndim == 1 and array.shape[0] != n:
        raise InputError(f"{name} has shape {list(array.shape)}; expected one number or [n_atoms = {n}]")
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
    if found.shape not in ((), (n,)):
        raise InputError(f"{name} has shape {list(found.shape)}; expected one number or [{unit} = {n}]")
    return np.ascontiguousarray(np.broadcast_to(found, (n,)))


def field(values: ArrayLike | None, n_systems: int) -> FloatArray | None:
    """External field ``[n_systems, 3]`` in V/Å from ``[3]`` or ``[n_systems, 3]``; None stays None."""
    if values is None:
        return None
    array = numbers("external_field", values)
    if array.shape not in ((3,), (n_systems, 3)):
        raise InputError(
            f"external_field has shape {list(array.shape)}; "
            f"expected [3] or [n_systems = {n_systems}, 3] in V/Å"
        )
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
    """Refuses a result that overflowed: valid inputs can still be too large or too small together."""
    if not np.isfinite(values).all():
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
        raise InputError(
            f"{quantity}{list(index)} is {values[index]}: it overflows with these arguments; check the "
            "magnitudes of multipoles (e·Å^l), sigma and positions (Å)"
        )


def _cells(cell: ArrayLike | None) -> FloatArray | None:
    if cell is None:
        return None
    array = numbers("cell", cell)
    if array.shape == (3,):
        return np.diag(array)
    if array.shape == (3, 3) or (array.ndim == 3 and array.shape[1:] == (3, 3)):
        return array
    raise InputError(
        f"cell has shape {list(array.shape)}; expected [3] (orthorhombic lengths), [3, 3] (rows are vectors) "
        "or [n_systems, 3, 3], in Å"
    )


def _flags(pbc: ArrayLike) -> NDArray[np.bool_]:
    array = np.asarray(pbc)
    if array.dtype.kind in "iu" and np.isin(array, (0, 1)).all():
        array = array.astype(bool)
    if array.dtype != bool:
        raise InputError(
            f"pbc = {pbc!r} is not a flag; give True, False, three flags or [n_systems, 3] flags"
        )
    if array.shape not in ((), (3,)) and not (array.ndim == 2 and array.shape[1] == 3):
        raise InputError(f"pbc has shape {list(array.shape)}; expected one flag, [3] or [n_systems, 3]")
    return array


def _labels(
    name: str, values: ArrayLike | None, n: int, stated: dict[str, int]
) -> tuple[NDArray[np.int64], int]:
    """System of each of `n` entries and the number of systems, which other arrays may have `stated`."""
    if len(set(stated.values())) > 1:
        sizes = ", ".join(f"{array}: {size}" for array, size in stated.items())
        raise InputError(f"the numbers of systems disagree ({sizes}); give one entry per system everywhere")
    n_systems = next(iter(stated.values()), None)
    if values is None:
        if n_systems is not None and n_systems != 1:
            source = next(iter(stated))
            raise InputError(
                f"{name} is None but {source} says {n_systems} systems; "
                f"give {name} with the system of each entry"
            )
        return np.zeros(n, dtype=np.int64), 1
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} cannot be read as an array ({error}); give integers [{n}]") from error
    if array.size == 0:
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise InputError(f"{name} has dtype {array.dtype}; give integers, the system of each entry")
    if array.shape != (n,):
        raise InputError(f"{name} has shape {list(array.shape)}; expected [{n}], one system per entry")
    if n and array.min() < 0:
        i = int(np.argmin(array))
        raise InputError(f"{name}[{i}] = {int(array[i])}; systems are numbered from 0")
    highest = int(array.max()) if n else 0
    if n_systems is None:
        n_systems = highest + 1
        if n_systems > max(n, MAX_IMPLIED_SYSTEMS):
            i = int(np.argmax(array))
            raise InputError(
                f"{name}[{i}] = {highest} would make {n_systems} systems for {n} atoms; number the systems "
                "consecutively from 0 or give cell as [n_systems, 3, 3]"
            )
    elif highest >= n_systems and n:
        i = int(np.argmax(array))
        raise InputError(
            f"{name}[{i}] = {highest}; {next(iter(stated))} says {n_systems} systems, numbered from 0"
        )
    return np.ascontiguousarray(array, dtype=np.int64), n_systems
