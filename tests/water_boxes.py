"""Water-like periodic systems for the benchmarks: 64 molecules in a cube of 13.73 Å, repeated."""

from __future__ import annotations

import numpy as np

CELL_LENGTH = 13.73  # Å, 192 atoms
REPEATS = {
    192: (1, 1, 1),
    768: (2, 2, 1),
    1_536: (2, 2, 2),
    5_184: (3, 3, 3),
    12_288: (4, 4, 4),
    41_472: (6, 6, 6),
    98_304: (8, 8, 8),
    998_784: (17, 17, 18),
}
MOLECULES = {24: (2, 2, 2), 48: (2, 2, 4), 96: (2, 4, 4)}
"""Smaller boxes are cut from the grid of 4 × 4 × 4 molecules."""


def water(repeats: tuple[int, int, int] = (1, 1, 1), seed: int = 0) -> dict[str, np.ndarray]:
    """Positions, multipoles (charges -0.8 / 0.4 e, dipoles near 0.1 e·Å) and cell of 192 atoms, repeated."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(4)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    oxygen = (grid + 0.5) * CELL_LENGTH / 4 + rng.uniform(-0.3, 0.3, (64, 3))
    first = rng.normal(size=(64, 3))
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    other = np.cross(first, rng.normal(size=(64, 3)))
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    angle = np.radians(104.5)
    second = np.cos(angle) * first + np.sin(angle) * other
    molecule = np.stack([oxygen, oxygen + 0.96 * first, oxygen + 0.96 * second], axis=1)  # [64, 3, 3]
    positions = molecule.reshape(-1, 3)
    multipoles = np.concatenate(
        [np.tile([-0.8, 0.4, 0.4], 64)[:, None], rng.normal(scale=0.1, size=(192, 3))], axis=1
    )
    shifts = np.stack(np.meshgrid(*[np.arange(n) for n in repeats], indexing="ij"), axis=-1).reshape(-1, 3)
    return {
        "positions": (positions[None] + CELL_LENGTH * shifts[:, None]).reshape(-1, 3),
        "multipoles": np.tile(multipoles, (len(shifts), 1)),
        "cell": np.diag(CELL_LENGTH * np.array(repeats, dtype=float)),
    }


def batch_of(n: int) -> dict[str, np.ndarray]:
    """`n` different 192-atom systems as one batch."""
    systems = [water(seed=seed) for seed in range(n)]
    return {
        "positions": np.concatenate([s["positions"] for s in systems]),
        "multipoles": np.concatenate([s["multipoles"] for s in systems]),
        "cell": np.stack([s["cell"] for s in systems]),
        "batch": np.repeat(np.arange(n), 192),
    }


def water_of(n_atoms: int) -> dict[str, np.ndarray]:
    """Repeats of the 192-atom box, or a box of 24 to 96 atoms cut from it at its grid of molecules."""
    if n_atoms in REPEATS:
        return water(REPEATS[n_atoms])
    system, counts = water(), np.array(MOLECULES[n_atoms])
    grid = np.stack(np.meshgrid(*[np.arange(4)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    inside = np.repeat((grid < counts).all(axis=1), 3)
    return {
        "positions": system["positions"][inside],
        "multipoles": system["multipoles"][inside],
        "cell": np.diag(counts * CELL_LENGTH / 4),
    }


def unit_of(n_atoms: int) -> tuple[dict[str, np.ndarray], int]:
    """The box that `water_of(n_atoms)` repeats, and how often: per-atom results of the large system are tiles
    of those of this one."""
    if n_atoms in REPEATS:
        return water(), n_atoms // 192
    return water_of(n_atoms), 1
