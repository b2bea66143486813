"""Exact forces of periodic water of any size, and errors against them."""

from __future__ import annotations

from functools import cache

import numpy as np

import electret
from water import batch_of, unit_of

POINT = 0.05
"""Width in Å that stands for a point charge: at 0.9 Å the two potentials differ by erfc(9) = 4e-37."""


@cache
def exact_forces(n_atoms: int, sigma: float, max_l: int = 1) -> np.ndarray:
    """At accuracy 1e-13 from the 192-atom box, of which larger ones are exact repeats."""
    unit, tiles = unit_of(n_atoms)
    unit["multipoles"] = np.ascontiguousarray(unit["multipoles"][:, : (max_l + 1) ** 2])
    forces = electret.coulomb(**unit, sigma=sigma, pbc=True, method="ewald", accuracy=1e-13).forces
    return np.tile(forces, (tiles, 1))


@cache
def exact_forces_of_batch(n_systems: int, sigma: float) -> np.ndarray:
    return electret.coulomb(
        **batch_of(n_systems), sigma=sigma, pbc=True, method="ewald", accuracy=1e-13
    ).forces


def relative(values: np.ndarray, exact: np.ndarray) -> float:
    """Relative RMS (L2) error."""
    return float(np.linalg.norm(values - exact) / np.linalg.norm(exact))
