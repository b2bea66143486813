"""Take the answer of the dipoles on atoms out of the labels of open frames with silver (GFN1-xTB).

    python examples/metal_water/charges_alone.py IN.xyz OUT.xyz

The outer field acts on dipoles of atoms, which the charges do not screen (`dipoles_on_atoms.py`): no density
whose dipoles answer the total field can have them. With D_at = D - sum q r at the field F, D_at(0) at none:

    D <- D - D_at(F) + D_at(0),  E <- E + ½ F·(D_at(F) - D_at(0)),  polarisability <- that of the charges.

Forces, whose change is of second order in the field, stay. Frames without silver are left alone: a tenth of
the little that water polarises is on its atoms.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import read, write
from numpy.typing import NDArray
from polarizabilities import TYPICAL
from rich.progress import track

sys.path.insert(0, str(Path(__file__).parents[1] / "demo_data"))
from labels import XTB


def dipoles(atoms: Atoms, field: NDArray[np.float64]) -> NDArray[np.float64]:
    """Dipole of the charges and of the rest `[2, 3]`, e·Å."""
    calculator = XTB(float(atoms.info.get("total_charge", 0.0)), field)
    total = calculator.get_property("dipole", atoms)
    by_charges = calculator.results["charges"] @ atoms.positions
    return np.array([by_charges, total - by_charges])


def relabel(atoms: Atoms, step: float) -> None:
    """Change the labels of a frame in place."""
    field = np.asarray(atoms.info.get("external_field", np.zeros(3)), dtype=float)
    answer = dipoles(atoms, field)[1] - dipoles(atoms, np.zeros(3))[1]
    atoms.info["REF_dipole"] = np.asarray(atoms.info["REF_dipole"]) - answer
    atoms.info["REF_energy"] = float(atoms.info["REF_energy"] + 0.5 * field @ answer)
    if "REF_polarizability" not in atoms.info:
        return
    rows = [dipoles(atoms, step * axis)[0] - dipoles(atoms, -step * axis)[0] for axis in np.eye(3)]
    tensor = np.array(rows) / (2 * step)
    tensor = (tensor + tensor.T) / 2
    atoms.info["REF_polarizability"] = tensor
    atoms.info["config_polarizability_weight"] = (TYPICAL * len(atoms) / (np.trace(tensor) / 3)) ** 2


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("frames", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--step", type=float, default=0.02, help="field of the differences, V/Å")
    options = parser.parse_args()
    frames = read(options.frames, ":")
    chosen = [atoms for atoms in frames if "Ag" in atoms.symbols and not atoms.pbc.any()]
    for atoms in track(chosen, description="Labels of the charges alone"):
        relabel(atoms, options.step)
    write(options.output, frames, format="extxyz")


if __name__ == "__main__":
    main()
