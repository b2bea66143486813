"""Errors of method="mesh" in units of the accuracy asked for.

``python benches/mesh_accuracy.py --large`` writes ``benches/results/mesh_accuracy.md``: for each system,
degree, width and boundary the relative RMS error of the forces and of the features, and the largest error of
energy and virial relative to the sum of the energy's absolute parts by atom, all against ``method="ewald"``
at accuracy 1e-13, divided by `accuracy`. Forces are promised to stay below 1.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import electret
from water import water

RESULTS = Path(__file__).parent / "results" / "mesh_accuracy.md"
EXACT = 1e-13
ACCURACIES = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9)
WIDTHS = (0.3, 0.6, 1.0, 2.0)


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


def systems(max_l: int) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Name, arguments of `coulomb` and periodic axes."""
    yield "water 192", liquid(max_l), "xyz"
    yield "rock salt 64", rock_salt(max_l), "xyz"
    yield "rock salt 64, sheared cell", rock_salt(max_l, shear=1.0), "xyz"
    yield "caesium chloride 54", caesium_chloride(max_l), "xyz"
    yield "gas 40, 8 Å", gas(max_l, 40, (8.0, 8.0, 8.0)), "xyz"
    yield "charged gas 40, 4 × 8 × 30 Å", gas(max_l, 40, (4.0, 8.0, 30.0), True), "xyz"
    yield "gas 5, 6 Å", gas(max_l, 5, (6.0, 6.0, 6.0)), "xyz"
    if max_l > 0:
        alone = gas(max_l, 40, (8.0, 8.0, 8.0))
        alone["multipoles"][:, : max_l**2] = 0.0
        yield "gas 40, 8 Å, highest degree alone", alone, "xyz"
    for axes in ("xy", "x", ""):
        yield "water 192", liquid(max_l), axes
        yield "gas 5, 6 Å", gas(max_l, 5, (6.0, 6.0, 6.0), True), axes


def large(max_l: int) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Systems of many atoms."""
    yield "water 1,536", liquid(max_l, (2, 2, 2)), "xyz"
    yield "rock salt 512", rock_salt(max_l, 4), "xyz"


def results(system: dict[str, Any], **settings: Any) -> dict[str, np.ndarray]:
    """Energy by atom summed, forces, virial and features."""
    r = electret.coulomb(**system, **settings)
    max_l = int(np.sqrt(system["multipoles"].shape[1])) - 1
    v = electret.features(**system, widths=[1.0], max_l=max_l, self_interaction=True, **settings)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--degrees", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--widths", type=float, nargs="+", default=WIDTHS)
    parser.add_argument("--accuracies", type=float, nargs="+", default=ACCURACIES)
    parser.add_argument("--methods", nargs="+", default=["mesh"])
    parser.add_argument("--large", action="store_true", help="systems of many atoms too")
    options = parser.parse_args()
    accuracies = tuple(options.accuracies)
    lines, forces = [], []
    for max_l in options.degrees:
        chosen = itertools.chain(systems(max_l), large(max_l) if options.large else ())
        for name, system, axes in chosen:
            for width in options.widths:
                pbc = [axis in axes for axis in "xyz"]
                given = {**system, "pbc": pbc, "sigma": width}
                ratios = measure(given, tuple(options.methods), accuracies)
                for method in options.methods:
                    rows = [ratios[method, accuracy] for accuracy in accuracies]
                    forces += [row["forces"] for row in rows]
                    worst = [max(row[key] for row in rows) for key in ("energy", "features", "virial")]
                    cells = [f"{value:.2g}" for value in [row["forces"] for row in rows] + worst]
                    lines.append(
                        f"| {name} | {axes or 'open'} | {max_l} | {width} | {method} | {' | '.join(cells)} |"
                    )
                    print(lines[-1], flush=True)
    forces_array = np.array(forces)
    quantiles = np.quantile(forces_array, [0.05, 0.5, 0.95])
    summary = (
        f"{len(forces)} ratios of forces: largest {forces_array.max():.2g}, {np.sum(forces_array > 1)} above "
        "1; "
        f"5, 50, 95 %: {quantiles[0]:.2g}, {quantiles[1]:.2g}, {quantiles[2]:.2g}; "
        f"geometric mean {np.exp(np.log(forces_array).mean()):.2g}."
    )
    columns = [f"F {accuracy:.0e}" for accuracy in accuracies] + ["energy", "features", "virial"]
    header = [
        "# Errors of the particle mesh",
        "",
        '`python benches/mesh_accuracy.py --large`: relative error / `accuracy`, against `method="ewald"` '
        '(open: `"direct"`) at accuracy 1e-13. F: RMS of forces at each accuracy; energy and virial '
        "(relative to the sum of the energy's absolute parts by atom) and features (width 1 Å, RMS): the "
        "largest over accuracies.",
        "",
        summary,
        "",
        f"| system | periodic | l | width / Å | method | {' | '.join(columns)} |",
        "|---" * (5 + len(columns)) + "|",
    ]
    options.output.write_text("\n".join(header + lines) + "\n")
    print(summary)


if __name__ == "__main__":
    main()
