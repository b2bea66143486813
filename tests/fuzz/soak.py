"""`python -m fuzz.soak --steps 20000`: calculators of all families in one process; atoms, cells and
conditions change from step to step. Memory and file handles have to stay flat, and results reproducible."""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
import warnings
from typing import Any

import numpy as np
from ase import Atoms

import model_cases
from electret import Calculator, ElectretError

CHARGED = ("qeq", "energy_functional", "fixed_point")
REPEAT = 50
"""Steps whose results are computed again at the end."""


def step_atoms(number: int, family: str) -> Atoms:
    """Atoms of one step: a random walk of the geometry, and another system or condition every few steps."""
    generator = np.random.default_rng([number // 7, 1])
    kind = (model_cases.molecule, model_cases.bulk, model_cases.slab)[int(generator.integers(3))]
    atoms = kind()
    if generator.random() < 0.3:
        atoms = atoms.repeat((2, 1, 1)) if atoms.pbc.any() else atoms[: int(generator.integers(1, 5))]
    if atoms.pbc.any():
        atoms.set_cell(atoms.cell.array * (1.0 + 0.02 * generator.normal()), scale_atoms=True)
    atoms.rattle(0.02, rng=np.random.default_rng([number, 2]))
    if family in CHARGED:
        choice = generator.integers(4)
        if choice == 1:
            atoms.info["total_charge"] = float(generator.uniform(-0.5, 0.5))
        elif choice == 2:
            atoms.info["fermi_level"] = float(generator.uniform(-0.5, 0.5))
        if not atoms.pbc.any() and generator.random() < 0.3:
            atoms.info["external_field"] = generator.normal(size=3) * 0.05
    if number % 97 == 0:  # a request that is refused, and leaves nothing behind
        atoms.info["efield"] = 1.0
    return atoms


def evaluate(calculator: Calculator, number: int, family: str) -> tuple[float, np.ndarray] | None:
    """Energy and forces of one step; None where it is refused."""
    atoms = step_atoms(number, family)
    atoms.calc = calculator
    try:
        return atoms.get_potential_energy(), atoms.get_forces()
    except ElectretError:
        return None


def usage() -> tuple[float, int]:
    """Resident memory in MB, and open files."""
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as file:
        pages = int(file.read().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 2**20, len(os.listdir("/proc/self/fd"))


def soak(steps: int, families: tuple[str, ...] = tuple(model_cases.FAMILY_OPTIONS)) -> dict[str, Any]:
    """Memory, open files, refusals, and the largest difference of a repeated step of a run."""
    calculators = {family: Calculator(model_cases.small_model(family)) for family in families}
    first: dict[int, Any] = {}
    samples, refused = [], 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(steps):
            family = families[number % len(families)]
            found = evaluate(calculators[family], number, family)
            refused += found is None
            if number < REPEAT:
                first[number] = found
            if number % max(1, steps // 20) == 0 or number == steps - 1:
                samples.append((number, *usage()))
        worst = 0.0
        for number, before in first.items():
            family = families[number % len(families)]
            again = evaluate(calculators[family], number, family)
            assert (again is None) == (before is None)
            if before is not None and again is not None:
                worst = max(worst, abs(again[0] - before[0]), float(np.abs(again[1] - before[1]).max()))
    return {"samples": samples, "refused": refused, "difference": worst}


def main() -> int:
    """Prints memory and files along the run; exit status 1 where they grow or results change."""
    parser = argparse.ArgumentParser(prog="python -m fuzz.soak", description=__doc__)
    parser.add_argument("--steps", type=int, default=20000)
    start = time.monotonic()
    found = soak(parser.parse_args().steps)
    for number, memory, files in found["samples"]:
        print(f"step {number:6d}: {memory:7.1f} MB, {files} open files")
    half = found["samples"][len(found["samples"]) // 2 :]
    growth = half[-1][1] - half[0][1]
    print(
        f"{time.monotonic() - start:.0f} s; {found['refused']} steps refused; repeated steps differ by "
        f"{found['difference']:.1e} eV, eV/Å; second half: {growth:+.1f} MB"
    )
    flat = growth < 20.0 and half[-1][2] <= half[0][2]
    return 0 if flat and found["difference"] < 1e-8 else 1


if __name__ == "__main__":
    sys.exit(main())
