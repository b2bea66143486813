"""Neighbour lists: pairs of atoms within a cutoff, in any cell, in linear time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from electret import _native
from electret._native import InputError

__all__ = ["neighbor_list"]


def neighbor_list(
    quantities: str,
    positions: ArrayLike,
    cell: ArrayLike | None = None,
    pbc: ArrayLike = False,
    cutoff: float | None = None,
    batch: ArrayLike | None = None,
    half: bool = False,
    self_interaction: bool = False,
) -> Any:
    """Pairs of atoms (i, j, S) with ``|positions[j] - positions[i] + S @ cell|`` below ``cutoff``.

    Works for any cell (triclinic, left-handed, far smaller than the cutoff), any mix of periodic axes, atoms
    outside their cell, and open systems without a cell. Time and memory grow linearly with the pairs.

    Args:
        quantities: Letters of the arrays wanted, as in ASE and matscipy: ``i`` and ``j`` (atoms, int64),
            ``S`` (cell shifts, int64), ``d`` (distances), ``D`` (vectors from i to j).
        positions: ``[n_atoms, 3]``, Å.
        cell: Cell vectors as rows, ``[3, 3]``, or ``[n_systems, 3, 3]`` with ``batch``, Å. Rows along
            open axes are ignored and may be zero. None for open systems.
        pbc: Periodic axes: one bool, ``[3]``, or ``[n_systems, 3]``.
        cutoff: Å.
        batch: ``[n_atoms]`` index of each atom's system, in any order. None for one system.
        half: List each pair once: i < j, or i = j where the first non-zero entry of S is positive.
        self_interaction: List each atom with itself (S = 0, d = 0), once.

    Returns:
        The arrays in the order of the letters, ``[n_pairs]`` or (for S and D) ``[n_pairs, 3]``; the array
        alone for a single letter. Pairs are sorted by i, then j, then S (lexicographically), and are bitwise
        the same for any number of threads (environment variable ``RAYON_NUM_THREADS``).

    Raises:
        InputError: Something is not finite, has the wrong shape or is out of range; the periodic vectors of a
            cell are linearly dependent; there are more pairs than memory can hold.

    Example:
        >>> import electret
        >>> i, j, S, d = electret.neighbor_list("ijSd", [[0, 0, 0]], 2.0 * np.eye(3), True, cutoff=2.5)
        >>> len(i), float(d.max())
        (6, 2.0)
        >>> S[0].tolist()
        [-1, 0, 0]
    """
    if cutoff is None:
        raise InputError("cutoff is missing; give the largest distance of a pair, in Å")
    try:
        cutoff = float(cutoff)
    except (TypeError, ValueError) as error:
        raise InputError(f"cutoff is {cutoff!r}; give a length in Å") from error
    positions = _array("positions", positions, np.float64)
    if positions.size == 0 and positions.ndim < 2:
        positions = positions.reshape(0, 3)
    _check_shape("positions", positions, (None, 3), "[n_atoms, 3]")
    if batch is not None:
        batch = _array("batch", batch, np.int64)
        _check_shape("batch", batch, (len(positions),), f"[{len(positions)}], one index for each atom")
    periodic = _array("pbc", pbc, np.bool_)
    cells = _cells(cell, periodic, batch)
    if periodic.shape not in ((), (3,), (len(cells), 3)):
        raise InputError(
            f"pbc has shape {list(periodic.shape)}; expected one bool, [3], "
            f"or [n_systems, 3] = [{len(cells)}, 3]"
        )
    arrays = _native.neighbor_list(
        quantities,
        positions,
        cells,
        np.ascontiguousarray(np.broadcast_to(periodic, (len(cells), 3))),
        cutoff,
        batch,
        half,
        self_interaction,
    )
    return arrays[0] if len(arrays) == 1 else arrays


def _cells(
    cell: ArrayLike | None, periodic: NDArray[np.bool_], batch: NDArray[np.int64] | None
) -> NDArray[np.float64]:
    """The cell of each system, ``[n_systems, 3, 3]``; a single cell serves all systems."""
    if cell is None and periodic.any():
        raise InputError("cell is missing, but pbc has periodic axes; give a cell, or pbc=False")
    cells = np.zeros((3, 3)) if cell is None else _array("cell", cell, np.float64)
    if cells.shape == (3, 3):
        n_systems = len(periodic) if periodic.ndim == 2 else 1
        if batch is not None and periodic.ndim != 2:
            n_systems = int(batch.max(initial=-1)) + 1
            if n_systems > len(batch):
                raise InputError(
                    f"batch holds {n_systems - 1}, but there are only {len(batch)} atoms; "
                    "number the systems from 0, or give a cell for each as [n_systems, 3, 3]"
                )
        cells = np.ascontiguousarray(np.broadcast_to(cells, (n_systems, 3, 3)))
    _check_shape("cell", cells, (None, 3, 3), "[3, 3] or [n_systems, 3, 3]")
    return cells


def _array(name: str, values: ArrayLike, dtype: type) -> NDArray[Any]:
    """A C-contiguous array of the type, where the values have it up to precision."""
    try:
        array = np.asarray(values)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{name} is not an array of numbers ({error}); give nested lists or an array"
        ) from error
    # Whole numbers do for real ones and 0 and 1 for truth values, as long as nothing is lost.
    if array.size == 0 or np.can_cast(array.dtype, dtype, "same_kind"):
        return np.ascontiguousarray(array, dtype).reshape(array.shape)
    if dtype is np.bool_ and array.dtype.kind in "iu" and np.isin(array, (0, 1)).all():
        return np.ascontiguousarray(array, dtype).reshape(array.shape)
    raise InputError(f"{name} has entries of type {array.dtype}; give {np.dtype(dtype).name}")


def _check_shape(name: str, array: NDArray[Any], shape: tuple[int | None, ...], expected: str) -> None:
    if array.ndim != len(shape) or any(
        size is not None and size != found for size, found in zip(shape, array.shape, strict=True)
    ):
        raise InputError(f"{name} has shape {list(array.shape)}; expected {expected}")
