"""Induced dipoles of models against GFN1-xTB: structures in a field and in the opposite one.

    python examples/train/silver_water_field/induced_dipoles.py DATA MODEL...

The difference of the two dipoles is the response of the density to the field. Prints, for
each kind of structure and model, the slope of predicted against reference induced dipoles along the field
(1 is exact, 0 is no response) and the mean absolute error of all components.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from ase.io import read

from electret import Calculator

sys.path.insert(0, str(Path(__file__).parents[2] / "demo_data"))
from labels import XTB

FIELD = 0.1  # V/Å
PER_KIND = 6
DIRECTIONS = np.random.default_rng(0).normal(size=(200, 3))


def induced(calculator_of, atoms, direction: np.ndarray) -> np.ndarray:
    """Half the difference of the dipoles in the field and in the opposite one, e·Å."""
    dipoles = [
        calculator_of(sign * FIELD * direction).get_property("dipole", with_field(atoms, sign * direction))
        for sign in (1, -1)
    ]
    return (dipoles[0] - dipoles[1]) / 2


def with_field(atoms, direction: np.ndarray):
    """A copy with its charge and the field as conditions."""
    copy = atoms.copy()
    copy.info = {"total_charge": atoms.info["total_charge"], "external_field": FIELD * direction}
    return copy


def main(data: str, *models: str) -> None:
    """Print the table."""
    chosen: dict[str, list] = {}
    for atoms in read(data, ":"):
        kind = chosen.setdefault(atoms.info["config_type"], [])
        if atoms.info["total_charge"] == 0 and len(kind) < PER_KIND:
            kind.append(atoms)
    calculators = {Path(model).parent.name: Calculator(model) for model in models}
    print("| structures | model | slope | MAE, e·Å | RMS of the reference, e·Å |\n|---|---|---|---|---|")
    for kind, frames in chosen.items():
        reference, predicted, along = [], {name: [] for name in calculators}, []
        for index, atoms in enumerate(frames):
            direction = DIRECTIONS[index] / np.linalg.norm(DIRECTIONS[index])
            along.append(direction)
            reference.append(induced(lambda field: XTB(0.0, field), atoms, direction))
            for name, calculator in calculators.items():
                predicted[name].append(induced(lambda field, c=calculator: c, atoms, direction))
        true, axes = np.array(reference), np.array(along)
        parallel = (true * axes).sum(axis=1)
        for name, values in predicted.items():
            found = np.array(values)
            slope = (found * axes).sum(axis=1) @ parallel / (parallel @ parallel)
            error, size = np.abs(found - true).mean(), np.sqrt((true**2).mean())
            print(f"| {kind} ({len(frames)}) | `{name}` | {slope:.3f} | {error:.4f} | {size:.4f} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
