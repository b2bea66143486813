"""Atomic reference energies E0 from isolated atoms, given numbers, or least squares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from electret import InputError
from electret.data.reading import ISOLATED_ATOM, Frame

__all__ = ["E0Source", "atomic_energies", "elements_of"]

E0Source = Literal["auto", "isolated", "average"] | dict[str, float]
"""Where E0s come from: `auto` is `isolated` if such frames exist, else `average`; or {symbol: eV}."""


def elements_of(frames: Sequence[Frame]) -> list[int]:
    """Sorted atomic numbers in the frames."""
    return sorted({int(z) for frame in frames for z in np.unique(frame.atoms.numbers)})


def atomic_energies(frames: Sequence[Frame], source: E0Source) -> dict[int, float]:
    """E0 in eV of each element in `frames` (training frames, isolated atoms included), by atomic number.

    `average` solves least squares E = sum n_Z E0_Z over the neutral frames, or over all frames if the
    neutral ones lack an element: a charged frame's energy holds an ionisation energy that is no atom's own.
    """
    elements = elements_of(frames)
    if isinstance(source, Mapping):
        return _given(source, elements)
    isolated = _isolated(frames)
    if source == "isolated" or (source == "auto" and isolated):
        missing = [chemical_symbols[z] for z in elements if z not in isolated]
        if missing:
            raise InputError(
                f"no neutral frame with config_type={ISOLATED_ATOM} and an energy for "
                f"{', '.join(missing)}; add such "
                "frames, give data.e0s as a mapping {symbol: eV}, or use data.e0s: average"
            )
        return {z: isolated[z] for z in elements}
    bound = [frame for frame in frames if frame.has("energy") and not frame.is_isolated_atom]
    return _least_squares(bound, elements)


def _given(source: Mapping[str, float], elements: Sequence[int]) -> dict[int, float]:
    energies = {}
    for name, energy in source.items():
        z = int(name) if str(name).isdigit() else atomic_numbers.get(str(name), 0)
        if not 0 < z < len(chemical_symbols):
            raise InputError(f"data.e0s: '{name}' is no chemical element")
        if not np.isfinite(energy):
            raise InputError(f"data.e0s: the energy of '{name}' is {energy}")
        energies[z] = float(energy)
    missing = [chemical_symbols[z] for z in elements if z not in energies]
    if missing:
        raise InputError(f"data.e0s has no energy for {', '.join(missing)}; add it, or use data.e0s: average")
    return {z: energies[z] for z in elements}


def _isolated(frames: Sequence[Frame]) -> dict[int, float]:
    energies: dict[int, float] = {}
    for frame in frames:
        if not (frame.is_isolated_atom and frame.has("energy")):
            continue
        if len(frame.atoms) != 1:
            raise InputError(
                f"{frame.where}: config_type={ISOLATED_ATOM} but the frame has {len(frame.atoms)} atoms"
            )
        if not (frame.has("total_charge") and abs(frame.value("total_charge")) > 1e-6):
            energies[int(frame.atoms.numbers[0])] = float(frame.value("energy"))
    return energies


def _least_squares(frames: Sequence[Frame], elements: Sequence[int]) -> dict[int, float]:
    if not frames:
        raise InputError(
            "E0s cannot be fitted: no training frame has an energy; give data.e0s as {symbol: eV}"
        )
    neutral = [f for f in frames if not (f.has("total_charge") and abs(f.value("total_charge")) > 1e-6)]
    used = neutral if elements_of(neutral) == list(elements) else frames
    counts = np.array(
        [[np.count_nonzero(f.atoms.numbers == z) for z in elements] for f in used], dtype=np.float64
    )
    energies = np.array([f.value("energy") for f in used])
    solution = np.linalg.lstsq(counts, energies, rcond=None)[0]
    return {z: float(e) for z, e in zip(elements, solution, strict=True)}
