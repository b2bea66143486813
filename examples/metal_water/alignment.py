"""Refer energies and Fermi levels of charged periodic slabs (GFN1-xTB) to a potential that models represent.

    python examples/metal_water/alignment.py IN.xyz OUT.xyz --fit SLABS.xyz
    python examples/metal_water/alignment.py IN.xyz OUT.xyz --constants Ag=97.5 O=-37.1 Na=-67.5 Cl=31.7

In a periodic cell GFN1-xTB measures the Fermi level from the mean of a potential to which the shells of an
atom contribute even where its charge is zero (its interaction 1/sqrt(R² + a²) differs from 1/R by a²/2R³,
with another a for each shell). Therefore the Fermi level of a slab depends on its vacuum,

    mu = mu' + delta,    delta = sum_i c(element of i) / volume,

by electronvolts, and a charged cell the energy E = E' - Q delta. A model with Gaussian densities on the
atoms and a short-range part of some Å cannot depend on the volume. E' and mu' = -dE'/dQ do not contain
this term; forces do not change, the stress does. The constants are fitted to the Fermi levels of
neutral slabs at two heights each, from which the change of the potential of Gaussians of the width `--sigma`
with the Mulliken charges is subtracted. Frames that are not periodic are unchanged.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import read, write
from numpy.typing import NDArray
from rich.progress import track

import electret

sys.path.insert(0, str(Path(__file__).parents[1] / "demo_data"))
from labels import XTB

REFERENCE = "O"
"""Stands for the molecule H2O, whose atoms always come together."""


def level(atoms: Atoms, sigma: float) -> float:
    """Fermi level minus the level that the density at the metal atoms accounts for, eV."""
    calculator = XTB(0.0)
    calculator.get_potential_energy(atoms)
    charges = np.array(calculator.results["charges"])
    potential = electret.coulomb(
        atoms.positions, charges[:, None], sigma, cell=atoms.cell[:], pbc=atoms.pbc
    ).potential[:, 0]
    return calculator.results["fermi_level"] + float(potential[atoms.symbols == "Ag"].mean())


def fit(slabs: Sequence[Atoms], elements: Sequence[str], extra: float, sigma: float) -> dict[str, float]:
    """Constants c of the elements, eV·Å³, from neutral slabs at their height and at `extra` Å more."""
    rows, differences = [], []
    for atoms in track(slabs, description="alignment"):
        taller = atoms.copy()
        taller.cell[2, 2] += extra
        change = 1 / atoms.get_volume() - 1 / taller.get_volume()
        rows.append([change * np.sum(atoms.symbols == element) for element in elements])
        differences.append(level(atoms, sigma) - level(taller, sigma))
    matrix: NDArray[np.float64] = np.array(rows)
    constants = np.linalg.lstsq(matrix, np.array(differences), rcond=None)[0]
    left = np.abs(np.array(differences) - matrix @ constants)
    print(f"the constants leave at most {left.max():.3f} eV of {np.abs(differences).max():.3f} eV")
    return dict(zip(elements, constants.tolist(), strict=True))


def align(atoms: Atoms, constants: Mapping[str, float]) -> None:
    """Subtract delta from the labels of a periodic frame, in place, once."""
    if not atoms.pbc.all() or "alignment" in atoms.info:
        return
    volume = atoms.get_volume()
    delta = sum(constants.get(symbol, 0.0) for symbol in atoms.symbols) / volume
    charge = float(atoms.info["total_charge"])
    atoms.info["fermi_level"] -= delta
    atoms.info["REF_energy"] += charge * delta
    if "REF_stress" in atoms.info:
        stress = np.array(atoms.info["REF_stress"], dtype=float)
        stress[:3] -= charge * delta / volume
        atoms.info["REF_stress"] = stress
    atoms.info["alignment"] = delta


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("frames", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--constants", nargs="+", metavar="ELEMENT=VALUE", help="eV·Å³; or --fit")
    parser.add_argument(
        "--fit", type=Path, metavar="FRAMES", help="fit to the neutral slabs among these frames"
    )
    parser.add_argument("--slabs", type=int, default=12, help="of the fit, one of each chain")
    parser.add_argument("--extra", type=float, default=15.0, help="additional height, Å")
    parser.add_argument("--sigma", type=float, default=1.5, help="width of the Gaussians, Å")
    options = parser.parse_args()
    if options.constants:
        constants = {name: float(value) for name, value in (word.split("=") for word in options.constants)}
    elif options.fit:
        chosen: dict[str, Atoms] = {}
        for atoms in read(options.fit, ":"):
            if atoms.pbc.all() and atoms.info["total_charge"] == 0:
                chosen.setdefault(str(atoms.info["chain"]), atoms)
        slabs = list(chosen.values())[: options.slabs]
        elements = [name for name in ("Ag", REFERENCE, "Na", "Cl") if any(name in a.symbols for a in slabs)]
        constants = fit(slabs, elements, options.extra, options.sigma)
    else:
        parser.error("give --constants or --fit")
    print("constants: " + " ".join(f"{name}={value:.2f}" for name, value in constants.items()))
    frames = read(options.frames, ":")
    for atoms in frames:
        align(atoms, constants)
    write(options.output, frames, format="extxyz")


if __name__ == "__main__":
    main()
