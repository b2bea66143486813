"""Starting structures: alpha-quartz supercells, strained, with and without an oxygen vacancy."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.geometry import get_distances
from ase.spacegroup import crystal
from numpy.typing import NDArray

BOND = 2.2
"""Si and O closer than this are bonded, Å."""


def quartz(repeats: tuple[int, int, int]) -> Atoms:
    """Alpha-quartz (P3221; Levien, Prewitt, Weidner, Am. Mineral. 65, 920 (1980)); 9 atoms per cell."""
    cell = crystal(
        ["Si", "O"],
        [(0.4697, 0.0, 2 / 3), (0.4135, 0.2669, 0.1191 + 2 / 3)],
        spacegroup=154,
        cellpar=[4.9134, 4.9134, 5.4052, 90, 90, 120],
    )
    block = cell.repeat(repeats)
    return Atoms(block.numbers, block.positions, cell=block.cell, pbc=True)


def strained(rng: np.random.Generator, atoms: Atoms, size: float) -> Atoms:
    """A copy with a random symmetric strain of components within ±`size`."""
    strain = rng.uniform(-size, size, (3, 3))
    copy = atoms.copy()
    copy.set_cell(atoms.cell @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
    return copy


def without_oxygen(rng: np.random.Generator, atoms: Atoms) -> Atoms:
    """A copy that lacks one random O."""
    copy = atoms.copy()
    del copy[int(rng.choice(np.flatnonzero(atoms.numbers == 8)))]
    return copy


def vacancy_position(atoms: Atoms) -> NDArray[np.float64] | None:
    """Middle between the two Si atoms with three O neighbours `[3]`, Å; None for another coordination."""
    silicon, oxygen = np.flatnonzero(atoms.numbers == 14), np.flatnonzero(atoms.numbers == 8)
    distances = get_distances(
        atoms.positions[silicon], atoms.positions[oxygen], cell=atoms.cell, pbc=atoms.pbc
    )[1]
    lacking = silicon[(distances < BOND).sum(axis=1) == 3]
    if len(lacking) != 2:
        return None
    first, second = (int(index) for index in lacking)
    return atoms.positions[first] + atoms.get_distance(first, second, mic=True, vector=True) / 2
