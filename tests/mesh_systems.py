"""Liquids, crystals and gases with multipoles, and the errors of meshes on them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

import electret
from water_boxes import water

EXACT = 1e-13


def with_multipoles(charges: np.ndarray, max_l: int, rng: np.random.Generator) -> np.ndarray:
    """Charges with random multipoles of 0.1 e·Å^l beside them."""
    higher = rng.normal(scale=0.1, size=(len(charges), (max_l + 1) ** 2 - 1))
    return np.concatenate([charges[:, None], higher], axis=1)


def liquid(max_l: int, repeats: tuple[int, int, int] = (1, 1, 1)) -> dict[str, Any]:
    """Water-like, 192 atoms times `repeats`."""
    system = water(repeats)
    p = with_multipoles(system["multipoles"][:, 0], max_l, np.random.default_rng(1))
    return {"positions": system["positions"], "multipoles": p, "cell": system["cell"]}


def rock_salt(max_l: int, n: int = 2, displacement: float = 0.1, shear: float = 0.0) -> dict[str, Any]:
    """8 n³ ions ±1 of rock salt, a = 5.64 Å, with random displacements, in a box that may be sheared by
    lattice vectors."""
    rng = np.random.default_rng(2)
    grid = np.stack(np.meshgrid(*[np.arange(2 * n)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    charges = 1.0 - 2.0 * (grid.sum(axis=1) % 2)
    cell = np.eye(3) * 5.64 * n
    cell[1, 0], cell[2, 1] = shear * cell[0, 0], -shear * cell[1, 1]
    positions = grid * 2.82 + rng.normal(scale=displacement, size=grid.shape)
    return {"positions": positions, "multipoles": with_multipoles(charges, max_l, rng), "cell": cell}


def caesium_chloride(max_l: int, n: int = 3, displacement: float = 0.1) -> dict[str, Any]:
    """2 n³ ions ±1 of caesium chloride, a = 4.12 Å, with random displacements: the waves of its density run
    along the mesh, which is the worst direction."""
    rng = np.random.default_rng(4)
    grid = np.stack(np.meshgrid(*[np.arange(n)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    positions = 4.12 * np.concatenate([grid, grid + 0.5]) + rng.normal(scale=displacement, size=(2 * n**3, 3))
    charges = np.repeat([1.0, -1.0], n**3)
    return {
        "positions": positions,
        "multipoles": with_multipoles(charges, max_l, rng),
        "cell": np.eye(3) * 4.12 * n,
    }


def gas(max_l: int, n: int, lengths: tuple[float, float, float], charged: bool = False) -> dict[str, Any]:
    """Random sites in a box with some shear."""
    rng = np.random.default_rng([3, n])
    cell = np.diag(lengths) @ (np.eye(3) + rng.uniform(-0.2, 0.2, (3, 3)))
    charges = rng.normal(size=n)
    charges += (1.0 if charged else 0.0) - charges.mean()
    return {
        "positions": rng.random((n, 3)) @ cell,
        "multipoles": with_multipoles(charges, max_l, rng),
        "cell": cell,
    }


def results(system: dict[str, Any], **settings: Any) -> dict[str, np.ndarray]:
    """Energy by atom summed, forces, virial and features."""
    r = electret.coulomb(**system, **settings)
    max_l = int(np.sqrt(system["multipoles"].shape[1])) - 1
    v = electret.features(**system, widths=[1.0], features_max_l=max_l, self_interaction=True, **settings)
    parts = 0.5 * np.sum(system["multipoles"] * r.potential, axis=1)
    return {"forces": r.forces, "features": v, "virial": r.virial, "energy": r.energy, "parts": parts}


def errors(found: dict[str, np.ndarray], exact: dict[str, np.ndarray]) -> dict[str, float]:
    """Relative errors."""
    out = {}
    for name in ("forces", "features"):
        out[name] = float(np.linalg.norm(found[name] - exact[name]) / np.linalg.norm(exact[name]))
    scale = np.abs(exact["parts"]).sum()
    for name in ("energy", "virial"):
        out[name] = float(np.abs(found[name] - exact[name]).max() / scale)
    return out


def measure(
    system: dict[str, Any], methods: tuple[str, ...], accuracies: tuple[float, ...]
) -> dict[tuple[str, float], dict[str, float]]:
    """Errors over accuracy for each method and accuracy."""
    reference = "ewald" if np.any(system["pbc"]) else "direct"
    exact = results(system, method=reference, accuracy=EXACT)
    out = {}
    for method, accuracy in itertools.product(methods, accuracies):
        found = errors(results(system, method=method, accuracy=accuracy), exact)
        out[method, accuracy] = {name: error / accuracy for name, error in found.items()}
    return out
