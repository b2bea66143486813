"""Neighbour lists: pairs of atoms within a cutoff, in any cell, in linear time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from electret import _native
from electret.errors import InputError
from electret.kernels import inputs
from electret.kernels.inputs import FloatArray

__all__ = ["NeighborList", "PairArrays", "neighbor_list"]

PairArrays: TypeAlias = Any
"""One array for a single letter, else a tuple of arrays."""


@inputs.refuses(**inputs.ON_THE_CPU)
def neighbor_list(
    quantities: str,
    positions: ArrayLike,
    cell: ArrayLike | None = None,
    pbc: ArrayLike = False,
    cutoff: float | ArrayLike | Mapping[tuple[Any, Any], float] | None = None,
    batch: ArrayLike | None = None,
    half: bool = False,
    self_interaction: bool = False,
    numbers: ArrayLike | None = None,
) -> PairArrays:
    """Pairs of atoms (i, j, S) with ``|positions[j] - positions[i] + S @ cell|`` below ``cutoff``.

    Works for any cell (triclinic, left-handed, far smaller than the cutoff), any mix of periodic axes, atoms
    outside their cell, and open systems without a cell. Time and memory grow linearly with the pairs.

    Args:
        quantities: Letters of the arrays, as in ASE and matscipy: ``i`` and ``j`` (atoms, int64),
            ``S`` (cell shifts, int64), ``d`` (distances), ``D`` (vectors from i to j).
        positions: ``[n_atoms, 3]``, Å.
        cell: Cell vectors as rows, ``[3, 3]``, or ``[n_systems, 3, 3]`` with ``batch``, or ``[3]`` lengths,
            Å. Rows along open axes are ignored and may be zero. None for open systems.
        pbc: Periodic axes: one bool, ``[3]``, ``[1, 3]`` or ``[n_systems, 3]``.
        cutoff: Å, as in ASE and matscipy: one for all pairs; ``[n_atoms]`` radii, where a pair's cutoff is
            the sum of two; or a dictionary of pairs of elements such as ``{("H", "C"): 1.2}``, with
            `numbers`, where other pairs are none.
        batch: ``[n_atoms]`` index of each atom's system, in any order. None for one system.
        half: List each pair once: i < j, or i = j where the first non-zero entry of S is positive.
        self_interaction: List each atom with itself (S = 0, d = 0), once, where its cutoff is above zero.
        numbers: ``[n_atoms]`` atomic numbers or symbols, for a dictionary of cutoffs.

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
    if not isinstance(quantities, str):
        raise InputError(f"quantities = {quantities!r}; give letters of 'ijSdD'")
    half, self_interaction = inputs.switch("half", half), inputs.switch("self_interaction", self_interaction)
    s = inputs.systems(positions, cell, pbc, batch)
    within = reach(cutoff, s.n_atoms, numbers)
    letters = quantities + "ijd" if within.filters and quantities else quantities
    arrays = _native.neighbor_list(letters, s, within.searched, half, self_interaction)
    if within.filters:
        i, j, d = arrays[-3:]
        kept = within.kept(i, j, d)
        arrays = tuple(array[kept] for array in arrays[:-3])
    return arrays[0] if len(arrays) == 1 else arrays


class NeighborList:
    """Pairs of moving atoms, as :func:`neighbor_list` returns them, at a lower cost.

    Candidates within ``cutoff + skin`` are found once and serve until an atom may have moved further than
    ``skin / 2`` since then. Motion is counted relative to the deformation of the cell, which uses part of
    the skin too, and modulo cell vectors, so that atoms may drift through the cell or be wrapped by the
    caller. A change of the periodic axes, of `batch` or of the number of atoms or systems always rebuilds
    the list.

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
            _length("cutoff", cutoff),
            _length("skin", skin),
            inputs.switch("half", half),
            inputs.switch("self_interaction", self_interaction),
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
            True if the candidates were rebuilt.

        Raises:
            InputError: as :func:`neighbor_list`. The list then stays at the last accepted positions.
        """
        return self._native.update(inputs.systems(positions, cell, pbc, batch))

    def get(self, quantities: str) -> PairArrays:
        """The arrays named by the letters, as :func:`neighbor_list` returns them. The caller owns them.

        Raises:
            InputError: an unknown letter, no positions yet, or more pairs than memory can hold.
        """
        arrays = self._native.get(quantities)
        return arrays[0] if len(arrays) == 1 else arrays

    __call__ = get

    @property
    def n_builds(self) -> int:
        """Number of times that the candidates were rebuilt."""
        return self._native.n_builds

    @property
    def n_updates(self) -> int:
        """Number of times that positions were accepted."""
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
        """Copies and pickles hold the settings alone and start without positions."""
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


@dataclass(frozen=True)
class Reach:
    """Cutoffs of pairs: a list at the largest one, then a filter that keeps the pairs below their own.

    Attributes:
        largest: Å.
        radii: ``[n_atoms]``, a pair's cutoff is the sum of two; or
        table: ``[n_kinds, n_kinds]`` with the `kinds` ``[n_atoms]`` of the atoms.
    """

    largest: float
    radii: FloatArray | None = None
    table: FloatArray | None = None
    kinds: NDArray[np.int64] | None = None

    @property
    def searched(self) -> float:
        """Cutoff of the list before the filter, above zero."""
        return self.largest or 1e-3

    @property
    def filters(self) -> bool:
        return self.largest == 0.0 or self.radii is not None or self.table is not None

    def kept(self, i: Any, j: Any, d: Any, moved: Callable[[Any], Any] = lambda array: array) -> Any:
        """Flags of the pairs to keep, for arrays, or for tensors with arrays `moved` to their device."""
        if self.radii is not None:
            radii = moved(self.radii)
            return d < radii[i] + radii[j]
        if self.table is not None:
            table, kinds = moved(self.table), moved(self.kinds)
            return d < table[kinds[i], kinds[j]]
        return d < self.largest


def reach(cutoff: Any, n_atoms: int, numbers: Any = None) -> Reach:
    """Cutoffs from the argument of :func:`neighbor_list`.

    Raises:
        InputError: a cutoff is negative, not finite or of another shape; a dictionary comes without the
            elements of the atoms, or has keys that are not pairs of elements.
    """
    if cutoff is None:
        raise InputError("cutoff is missing; give the largest distance of a pair, in Å")
    if isinstance(cutoff, Mapping):
        return _reach_of_elements(cutoff, n_atoms, numbers)
    try:
        values = inputs.numbers("cutoff", cutoff)
    except InputError as error:
        raise InputError(
            f"{error}; a cutoff is a length in Å, one for each atom (its radius), or a dictionary such as "
            "{('H', 'C'): 1.2}"
        ) from None
    inputs.require_per("cutoff", values.shape, n_atoms, "n_atoms")
    if values.size and values.min() < 0.0:
        raise InputError(f"cutoff = {values.min()}; give a length of at least zero, in Å")
    if values.ndim == 0:
        return Reach(float(values))
    return Reach(2.0 * float(values.max(initial=0.0)), radii=values)


def _reach_of_elements(cutoff: Mapping[Any, Any], n_atoms: int, numbers: Any) -> Reach:
    if numbers is None:
        raise InputError(
            "cutoff is a dictionary, but numbers is missing; give the elements of the atoms, as atomic "
            "numbers or symbols"
        )
    elements = [_element(number) for number in np.asarray(numbers).ravel().tolist()]
    if len(elements) != n_atoms:
        raise InputError(f"numbers has {len(elements)} entries; expected [n_atoms = {n_atoms}]")
    present = sorted(set(elements))
    table = np.zeros((len(present), len(present)))
    for pair, value in cutoff.items():
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise InputError(f"cutoff has the key {pair!r}; give pairs of elements, as ('H', 'C') or (1, 6)")
        length = float(inputs.array(f"cutoff[{pair!r}]", value, ()))
        if length < 0.0:
            raise InputError(f"cutoff[{pair!r}] = {length}; give a length of at least zero, in Å")
        first, second = (_element(name) for name in pair)
        if first in present and second in present:
            a, b = present.index(first), present.index(second)
            table[a, b] = table[b, a] = length
    kinds = np.array([present.index(element) for element in elements], dtype=np.int64)
    return Reach(float(table.max(initial=0.0)), table=table, kinds=kinds)


SYMBOLS = """
H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb
Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu
Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db
Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og
""".split()  # noqa: SIM905


def _element(name: Any) -> int:
    """Atomic number of a number or symbol."""
    if isinstance(name, str) and name in SYMBOLS:
        return SYMBOLS.index(name) + 1
    if isinstance(name, (int, np.integer)) and not isinstance(name, bool) and name >= 0:
        return int(name)
    raise InputError(f"{name!r} is not an element; give a symbol such as 'H' or an atomic number")
