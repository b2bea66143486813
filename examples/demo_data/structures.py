"""Random starting structures: silver clusters, water clusters, both together, and silver slabs with water
and an ion."""

from collections.abc import Callable

import numpy as np
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from scipy.spatial.distance import cdist

SILVER_LATTICE_CONSTANT = 4.09  # Å
NEAREST = {  # closest approach in Å of a new atom to one already there, by the pair's elements
    frozenset("O"): 2.55,
    frozenset("OH"): 1.75,
    frozenset("H"): 1.9,
    frozenset(("Ag", "O")): 2.3,
    frozenset(("Ag", "H")): 2.2,
    frozenset(("Ag", "Na")): 2.7,
    frozenset(("Ag", "Cl")): 2.4,
    frozenset(("Na", "O")): 2.2,
    frozenset(("Na", "H")): 2.4,
    frozenset(("Cl", "O")): 2.9,
    frozenset(("Cl", "H")): 2.0,
}
ATTEMPTS = 2000


def random_rotation(rng: np.random.Generator) -> np.ndarray:
    """A rotation matrix [3, 3], uniform over SO(3)."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q *= np.sign(np.diag(r))
    return q if np.linalg.det(q) > 0 else -q


def silver_cluster(rng: np.random.Generator, n_atoms: int) -> Atoms:
    """The ``n_atoms`` fcc sites nearest to a random point, in a random orientation."""
    block = bulk("Ag", "fcc", a=SILVER_LATTICE_CONSTANT, cubic=True).repeat(5)
    centre = block.cell.sum(axis=0) / 2 + rng.uniform(-0.5, 0.5, 3) * SILVER_LATTICE_CONSTANT
    nearest = np.argsort(np.linalg.norm(block.positions - centre, axis=1))[:n_atoms]
    positions = (block.positions[nearest] - centre) @ random_rotation(rng).T
    return Atoms(f"Ag{n_atoms}", positions)


def _clashes(atoms: Atoms, group: Atoms) -> bool:
    if len(atoms) == 0:
        return False
    shifts = [np.zeros(3)]
    if atoms.pbc.any():  # slabs are periodic in the plane of the first two cell vectors
        shifts = [a * atoms.cell[0] + b * atoms.cell[1] for a in (-1, 0, 1) for b in (-1, 0, 1)]
    nearest = np.array([[NEAREST[frozenset((s, t))] for t in group.symbols] for s in atoms.symbols])
    return any((cdist(atoms.positions + shift, group.positions) < nearest).any() for shift in shifts)


def _place(atoms: Atoms, group: Atoms, sites: Callable[[], np.ndarray]) -> None:
    """Add ``group`` at the first site of ``sites()`` that keeps the closest approaches."""
    for _ in range(ATTEMPTS):
        trial = group.copy()
        trial.positions += sites()
        if not _clashes(atoms, trial):
            atoms.extend(trial)
            return
    raise RuntimeError(f"no room for {group.symbols} among {atoms.symbols}: ask for fewer molecules")


def _water(rng: np.random.Generator) -> Atoms:
    water = molecule("H2O")
    water.positions -= water.positions[0]
    water.positions = water.positions @ random_rotation(rng).T
    return water


def add_waters(rng: np.random.Generator, atoms: Atoms, n_waters: int) -> Atoms:
    """Add waters, each within 3.5 Å of an atom already there (or at the origin)."""

    def site() -> np.ndarray:
        if len(atoms) == 0:
            return np.zeros(3)
        direction = rng.normal(size=3)
        distance = rng.uniform(2.3, 3.5)
        return atoms.positions[rng.integers(len(atoms))] + distance * direction / np.linalg.norm(direction)

    for _ in range(n_waters):
        _place(atoms, _water(rng), site)
    return atoms


def silver_slab(rng: np.random.Generator, n_waters: int, ion: str | None, vacuum: float) -> Atoms:
    """Ag(111) 2 × 2 with 3 or 4 layers, waters on top and optionally an ion (``"Na"``, ``"Cl"``); 3-D
    periodic."""
    slab = fcc111("Ag", (2, 2, int(rng.integers(3, 5))), a=SILVER_LATTICE_CONSTANT)
    top = slab.positions[:, 2].max()
    slab = Atoms(slab.symbols, slab.positions, cell=slab.cell, pbc=True)
    height = 3.2 + 0.9 * n_waters

    def site() -> np.ndarray:
        a, b = rng.uniform(size=2)
        return a * slab.cell[0] + b * slab.cell[1] + np.array([0.0, 0.0, top + rng.uniform(2.3, height)])

    if ion is not None:
        _place(slab, Atoms(ion), site)
    for _ in range(n_waters):
        _place(slab, _water(rng), site)
    slab.cell[2] = [0.0, 0.0, slab.positions[:, 2].max() + vacuum]
    return slab
