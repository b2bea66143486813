"""Neighbour lists: pairs of atoms within a cutoff, in any cell, in linear time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from electret import _native
from electret._native import InputError
from electret.backends import functions_on

__all__ = ["NeighborList", "neighbor_list"]


def neighbor_list(
    quantities: str,
    positions: ArrayLike,
    cell: ArrayLike | None = None,
    pbc: ArrayLike = False,
    cutoff: float | None = None,
    batch: ArrayLike | None = None,
    half: bool = False,
    self_interaction: bool = False,
    device: str = "cpu",
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
        self_interaction: List each atom with itself (S = 0, d = 0), once; on the CPU.
        device: "cpu", or "cuda", "cuda:1", ... (needs torch): the arrays are copied there and back. For
            tensors that are there already use :func:`electret.torch.neighbor_list`.

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
    positions, cells, periodic, batch = as_systems(positions, cell, pbc, batch)
    arrays = functions_on(device).neighbor_list(
        quantities,
        positions,
        cells,
        periodic,
        _length("cutoff", cutoff),
        batch,
        half,
        self_interaction,
    )
    return arrays[0] if len(arrays) == 1 else arrays


class NeighborList:
    """Pairs of moving atoms, as :func:`neighbor_list` gives them, at a lower price.

    Candidates within ``cutoff + skin`` are found once and serve until an atom may have moved further than
    ``skin / 2`` since then. Motion is counted relative to the deformation of the cell, which takes its part
    of the skin too, and modulo cell vectors, so that atoms may drift through the cell or be wrapped by the
    caller. Other periodic axes, another `batch` or another number of atoms or systems always make the list
    anew.

    The pairs, their order and every bit of ``d`` and ``D`` are those of :func:`neighbor_list` for the
    positions of the last :meth:`update`.

    Args:
        cutoff: Å.
        skin: Å. A larger one is rebuilt less often and costs more at every step; 0 rebuilds whenever an atom
            moves.
        half, self_interaction: as in :func:`neighbor_list`.

    Raises:
        InputError: a length that is not finite, a cutoff that is not positive, a negative skin.

    Example:
        >>> import numpy as np, electret
        >>> positions, cell = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.5]]), 8.0 * np.eye(3)
        >>> pairs = electret.NeighborList(cutoff=2.0, skin=1.0)
        >>> pairs.update(positions, cell, True)
        True
        >>> positions[1, 2] += 0.3
        >>> pairs.update(positions, cell, True)  # within skin / 2: the candidates are kept
        False
        >>> i, j, d = pairs.get("ijd")
        >>> i.tolist(), j.tolist(), d.round(3).tolist()
        ([0, 1], [1, 0], [1.8, 1.8])
        >>> pairs.n_updates, pairs.n_builds
        (2, 1)
    """

    def __init__(
        self, cutoff: float, skin: float = 1.0, half: bool = False, self_interaction: bool = False
    ) -> None:
        self._native = _native.NeighborList(
            _length("cutoff", cutoff), _length("skin", skin), bool(half), bool(self_interaction)
        )

    def update(
        self,
        positions: ArrayLike,
        cell: ArrayLike | None = None,
        pbc: ArrayLike = False,
        batch: ArrayLike | None = None,
    ) -> bool:
        """Move the atoms; the arguments are those of :func:`neighbor_list`.

        Returns:
            True where the candidates were found anew.

        Raises:
            InputError: as :func:`neighbor_list`. The list then stays at the last accepted positions.
        """
        return self._native.update(*as_systems(positions, cell, pbc, batch))

    def get(self, quantities: str) -> Any:
        """The arrays named by the letters, as :func:`neighbor_list` returns them. They belong to the caller.

        Raises:
            InputError: an unknown letter, no positions yet, or more pairs than memory can hold.
        """
        arrays = self._native.get(quantities)
        return arrays[0] if len(arrays) == 1 else arrays

    __call__ = get

    @property
    def n_builds(self) -> int:
        """How often the candidates were found anew."""
        return self._native.n_builds

    @property
    def n_updates(self) -> int:
        """How often positions were accepted."""
        return self._native.n_updates

    @property
    def cutoff(self) -> float:
        """Å."""
        return self._native.cutoff

    @property
    def skin(self) -> float:
        """Å."""
        return self._native.skin

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles have the settings alone: they start without positions."""
        native = self._native
        return type(self), (native.cutoff, native.skin, native.half, native.self_interaction)

    def __repr__(self) -> str:
        counts = f"{self.n_builds} builds in {self.n_updates} updates"
        return f"NeighborList(cutoff={self.cutoff}, skin={self.skin}), {counts}"


def _length(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} is {value!r}; give a length in Å") from error


def as_systems(
    positions: ArrayLike,
    cell: ArrayLike | None,
    pbc: ArrayLike,
    batch: ArrayLike | None,
    n_atoms: int | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64] | None]:
    """The arguments as the arrays of the native layer, which checks their values.

    `n_atoms` is given where the positions themselves stay elsewhere.
    """
    positions = _array("positions", positions, np.float64)
    if positions.size == 0 and positions.ndim < 2:
        positions = positions.reshape(0, 3)
    _check_shape("positions", positions, (None, 3), "[n_atoms, 3]")
    if batch is not None:
        batch = _array("batch", batch, np.int64)
        n_atoms = len(positions) if n_atoms is None else n_atoms
        _check_shape("batch", batch, (n_atoms,), f"[{n_atoms}], one index for each atom")
    periodic = _array("pbc", pbc, np.bool_)
    cells = _cells(cell, periodic, batch)
    if periodic.shape not in ((), (3,), (len(cells), 3)):
        raise InputError(
            f"pbc has shape {list(periodic.shape)}; expected one bool, [3], "
            f"or [n_systems, 3] = [{len(cells)}, 3]"
        )
    return positions, cells, np.ascontiguousarray(np.broadcast_to(periodic, (len(cells), 3))), batch


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
    if type(values) is np.ndarray and values.dtype == dtype and values.flags.c_contiguous:
        return values
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
