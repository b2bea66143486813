"""Add polarisabilities (GFN1-xTB, central differences of the dipole) to open-boundary frames.

    python examples/metal_water/polarizabilities.py IN.xyz OUT.xyz --every 3

Each labelled frame also gets `config_polarizability_weight` = (typical / mean polarisability per atom)²: with
it the loss compares relative errors, so that water, a hundred times less polarisable than silver, matters.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import read, write
from numpy.typing import NDArray
from rich.progress import track

sys.path.insert(0, str(Path(__file__).parents[1] / "demo_data"))
from labels import XTB

TYPICAL = 0.1
"""Polarisability per atom that has the weight 1, e·Å²/V."""


def polarizability(atoms: Atoms, charge: float, step: float) -> NDArray[np.float64]:
    """Symmetrised dD_a/dF_b `[3, 3]`, e·Å²/V, from fields ±`step` (V/Å) about zero field."""

    def dipole(field: NDArray[np.float64]) -> NDArray[np.float64]:
        return XTB(charge, field).get_property("dipole", atoms)

    rows = [(dipole(step * axis) - dipole(-step * axis)) / (2 * step) for axis in np.eye(3)]
    tensor = np.array(rows)
    return (tensor + tensor.T) / 2


def add_polarizability(atoms: Atoms, step: float) -> None:
    """Write tensor and weight into the frame."""
    tensor = polarizability(atoms, float(atoms.info.get("total_charge", 0.0)), step)
    atoms.info["REF_polarizability"] = tensor
    atoms.info["config_polarizability_weight"] = (TYPICAL * len(atoms) / (np.trace(tensor) / 3)) ** 2


def label(frames: Sequence[Atoms], every: int, step: float) -> None:
    """Label open frames in place: all without metal, and one in `every` with it, which cost more."""
    seen: dict[str, int] = {}
    chosen = []
    for atoms in frames:
        if atoms.pbc.any():
            continue
        chain = str(atoms.info.get("chain"))
        place = seen.get(chain, 0)
        seen[chain] = place + 1
        if "Ag" not in atoms.symbols or place == (len(seen) - 1) % every:
            chosen.append(atoms)
    for atoms in track(chosen, description="Polarisabilities"):
        add_polarizability(atoms, step)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("frames", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument(
        "--every", type=int, default=3, help="frames with metal: one in so many of each chain"
    )
    parser.add_argument("--step", type=float, default=0.02, help="field of the differences, V/Å")
    options = parser.parse_args()
    frames = read(options.frames, ":")
    label(frames, options.every, options.step)
    write(options.output, frames, format="extxyz")


if __name__ == "__main__":
    main()
