"""Split polarisabilities of GFN1-xTB into flow of charge and dipoles on atoms (tblite).

    python examples/metal_water/dipoles_on_atoms.py

Layers of silver and rows of waters, along z. If charges screen the field inside, dipoles that respond
to the total field vanish; those of GFN1-xTB, whose self-consistency has charges alone, do not.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from arrangements import silver_layers, water_row
from ase import Atoms

sys.path.insert(0, str(Path(__file__).parents[1] / "demo_data"))
from labels import XTB


def parts(atoms: Atoms, step: float) -> tuple[float, float]:
    """Polarisability along z by the charges of the atoms and by the rest, e·Å²/V, from fields of ±`step`
    V/Å."""
    total, flow = [], []
    for field in (-step, step):
        calculator = XTB(0.0, (0.0, 0.0, field))
        dipole = calculator.get_property("dipole", atoms)
        total.append(dipole[2])
        flow.append(calculator.results["charges"] @ atoms.positions[:, 2])
    by_flow = float(np.diff(flow)[0]) / (2 * step)
    return by_flow, float(np.diff(total)[0]) / (2 * step) - by_flow


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 2, 3, 5], help="of six silver atoms")
    parser.add_argument("--waters", type=int, nargs="+", default=[1, 6], help="in a row")
    parser.add_argument("--step", type=float, default=0.05, help="V/Å")
    options = parser.parse_args()
    structures = {f"{n} layers of silver": silver_layers(n) for n in options.layers}
    structures |= {f"{n} waters": water_row(n) for n in options.waters}
    for name, atoms in structures.items():
        flow, on_atoms = parts(atoms, options.step)
        print(
            f"{name}: {len(atoms)} atoms, flow {flow:.4f} e·Å²/V, "
            f"on atoms {on_atoms:.4f}, {on_atoms / len(atoms):.4f} per atom"
        )


if __name__ == "__main__":
    main()
