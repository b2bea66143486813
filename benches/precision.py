"""Rounding of ``precision="float32"``: ``python benches/precision.py [--device cuda]``.

Writes ``results/precision.md``: for each system, width and method, relative RMS differences of potentials,
forces, stress and features, and that of the energy relative to the sum of its parts by atom, between float32
and float64 with the same plan (accuracy 1e-5). The emulated device rounds as a GPU does but for the order of
some sums, fused multiply-adds and the last digits of transcendental functions.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import electret
from water import water

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from numpy_on_device import numpy_layer_on

RESULTS = Path(__file__).parent / "results" / "precision.md"
ACCURACY = 1e-5
QUANTITIES = ("energy", "potential", "forces", "stress", "features")


def liquid(repeats: tuple[int, int, int] = (1, 1, 1), density: float = 1.0) -> dict[str, Any]:
    """Water-like, 192 atoms times `repeats`, at a multiple of the density of water."""
    scale = density ** (-1 / 3)
    system = water(repeats)
    return system | {
        "positions": scale * system["positions"],
        "cell": scale * system["cell"],
        "pbc": True,
    }


def salt(shear: float = 0.0) -> dict[str, Any]:
    """64 ions ±1 of rock salt with random dipoles, displaced by 0.1 Å, in a box that may be sheared."""
    rng = np.random.default_rng(2)
    grid = np.stack(np.meshgrid(*[np.arange(4)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    charges = 1.0 - 2.0 * (grid.sum(axis=1) % 2)
    cell = 11.28 * np.eye(3)
    cell[1, 0], cell[2, 1] = shear * 11.28, -shear * 11.28
    p = np.concatenate([charges[:, None], rng.normal(scale=0.1, size=(64, 3))], axis=1)
    return {
        "positions": 2.82 * grid + rng.normal(scale=0.1, size=(64, 3)),
        "multipoles": p,
        "cell": cell,
        "pbc": True,
    }


def along(system: dict[str, Any], pbc: tuple[bool, bool, bool]) -> dict[str, Any]:
    """A copy, periodic along these axes only."""
    return system | {"pbc": pbc}


SYSTEMS: dict[str, dict[str, Any]] = {
    "water, 192 atoms": liquid(),
    "water, 192 atoms, half as dense": liquid(density=0.5),
    "water, 192 atoms, twice as dense": liquid(density=2.0),
    "water, 768 atoms": liquid((2, 2, 1)),
    "rock salt, 64 ions": salt(),
    "rock salt, 64 ions, sheared": salt(shear=1.0),
    "water, slab": along(liquid(), (True, True, False)),
    "water, wire": along(liquid(), (True, False, False)),
    "water, open": along(liquid(), (False, False, False)),
}


def rms(a: np.ndarray, b: np.ndarray) -> float:
    """RMS difference relative to the RMS of `b`."""
    return float(np.sqrt(((a - b) ** 2).sum() / (b**2).sum()))


def differences(system: dict[str, Any], sigma: float, method: str, device: str) -> dict[str, float]:
    """Differences of float32 from float64, by quantity."""
    settings = {"sigma": sigma, "method": method, "accuracy": ACCURACY}
    results, features = [], []
    for precision in ("float32", "float64"):
        with numpy_layer_on(device, precision):
            results.append(electret.coulomb(**system, **settings))
            features.append(electret.features(**system, **settings, widths=[1.5, 3.0]))
    a, b = results
    parts = np.abs(0.5 * (b.potential * system["multipoles"]).sum(axis=1)).sum()
    return {
        "energy": float(np.abs(a.energy - b.energy)[0] / parts),
        "potential": rms(a.potential, b.potential),
        "forces": rms(a.forces, b.forces),
        "stress": rms(a.virial, b.virial),
        "features": rms(*features),
    }


def rows(device: str) -> Iterator[tuple[str, float, str, dict[str, float]]]:
    for name, system in SYSTEMS.items():
        opened = not np.any(system["pbc"])
        for sigma in (0.3, 1.0, 2.0):
            for method in ("auto", "direct", "mesh") if opened else ("auto", "reciprocal", "ewald", "mesh"):
                if method == "reciprocal" and sigma < 1.0:
                    continue  # too many k-vectors for an emulation
                found = differences(system, sigma, method, device)
                print(name, sigma, method, {key: f"{value:.1e}" for key, value in found.items()}, flush=True)
                yield name, sigma, method, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="emulated")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    lines = [
        "# Rounding of float32",
        "",
        f"Written by `python benches/precision.py --device {arguments.device}`. Relative RMS differences of "
        "float32 from float64 with the same plan, accuracy 1e-5.",
        "",
        "| system | width, Å | method | " + " | ".join(QUANTITIES) + " |",
        "|---|---|---|" + "---|" * len(QUANTITIES),
    ]
    for name, sigma, method, found in rows(arguments.device):
        values = " | ".join(f"{found[quantity]:.1e}" for quantity in QUANTITIES)
        lines.append(f"| {name} | {sigma:g} | {method} | {values} |")
    arguments.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
