"""Errors of method="mesh" in units of the requested accuracy.

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

import water  # noqa: F401 (the path to the helpers of tests)
from mesh_systems import caesium_chloride, gas, liquid, measure, rock_salt

RESULTS = Path(__file__).parent / "results" / "mesh_accuracy.md"
ACCURACIES = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9)
WIDTHS = (0.3, 0.6, 1.0, 2.0)


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
        f"1; 5, 50, 95 %: {quantiles[0]:.2g}, {quantiles[1]:.2g}, {quantiles[2]:.2g}; geometric mean "
        f"{np.exp(np.log(forces_array).mean()):.2g}."
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
