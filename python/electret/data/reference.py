"""Atomic reference energies E0 from isolated atoms, given numbers, or least squares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from electret.data.frames import Frames, as_frames
from electret.data.reading import ISOLATED_ATOM, Frame
from electret.errors import InputError

__all__ = ["FROM_START", "E0Source", "atomic_energies", "energy_warnings"]

NEUTRAL = 1e-6
"""Largest total charge of neutral frames in e."""

FROM_START = ("foundation", "fit to residual")
"""Rules that take the E0s from the model to start from."""

E0Source = Literal["auto", "isolated", "average", "foundation", "fit to residual"] | dict[str, float]
"""Source of the E0s: `auto` is `isolated` if such frames exist, else `average`; or {symbol: eV}. With a model
to start from, `auto` is `foundation`, the E0s of that model; `fit to residual` changes them by the
least-squares fit of its errors."""


def atomic_energies(frames: Sequence[Frame], source: E0Source) -> dict[int, float]:
    """E0 in eV of each element in `frames` (training frames, isolated atoms included), by atomic number.

    `average` solves least squares E = sum n_Z E0_Z over the neutral frames, or over all frames if the
    neutral ones lack an element: a charged frame's energy holds an ionisation energy that is no atom's own.
    Compositions that leave combinations of E0s open get the solution nearest to one energy for all atoms
    (`energy_warnings` says so).

    Raises:
        InputError: no energies, elements without an E0, two E0s of one element.
    """
    frames = as_frames(frames)
    elements = frames.elements
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
    return _least_squares(frames, elements)[0]


def energy_warnings(frames: Sequence[Frame], source: E0Source) -> list[str]:
    """Sentences on atomic energies that are not what they seem: not determined by the compositions of the
    frames, or single atoms that are not taken as isolated ones."""
    frames = as_frames(frames)
    given = isinstance(source, Mapping) or source in FROM_START
    if given or not frames.has("energy").any():
        return []
    if source == "isolated" or (source == "auto" and _isolated(frames)):
        return []
    found = []
    open_atoms = (frames.column("atoms", 0) == 1) & ~frames.column("pbc", False).any(axis=-1)
    single = np.flatnonzero(open_atoms & frames.has("energy") & ~frames.is_isolated_atom)
    if len(single):
        frame = frames[int(single[0])]
        found.append(
            f"{frame.where} holds a single atom ({frame.atoms.symbols[0]}, config_type="
            f"{frame.config_type}) and is an ordinary frame; with config_type={ISOLATED_ATOM} its energy "
            "is the E0 of the element"
        )
    elements = frames.elements
    energies, rank, n_frames = _least_squares(frames, elements)
    if rank < len(elements):
        values = ", ".join(f"{chemical_symbols[z]} {energies[z]:.4g}" for z in elements)
        found.append(
            f"E0s by least squares: the compositions of {n_frames} frames determine {rank} of "
            f"{len(elements)} combinations of E0s; of all solutions the nearest to one energy for all atoms "
            f"is taken ({values} eV). Energies of other compositions, as of fragments, have no meaning then: "
            f"give data.e0s as {{symbol: eV}}, or frames with config_type={ISOLATED_ATOM}"
        )
    return found


def _given(source: Mapping[str, float], elements: Sequence[int]) -> dict[int, float]:
    energies = {}
    for name, energy in source.items():
        z = int(name) if str(name).isdigit() else atomic_numbers.get(str(name), 0)
        if not 0 < z < len(chemical_symbols):
            raise InputError(f"data.e0s: '{name}' is no chemical element")
        if not np.isfinite(energy):
            raise InputError(f"data.e0s: the energy of '{name}' is {energy}")
        if z in energies:
            raise InputError(
                f"data.e0s names {chemical_symbols[z]} twice, the second time as '{name}'; remove one"
            )
        energies[z] = float(energy)
    missing = [chemical_symbols[z] for z in elements if z not in energies]
    if missing:
        raise InputError(f"data.e0s has no energy for {', '.join(missing)}; add it, or use data.e0s: average")
    return {z: energies[z] for z in elements}


def _isolated(frames: Frames) -> dict[int, float]:
    energies: dict[int, tuple[float, Frame]] = {}
    for index in np.flatnonzero(frames.is_isolated_atom & frames.has("energy")).tolist():
        frame = frames[index]
        if len(frame.atoms) != 1:
            raise InputError(
                f"{frame.where}: config_type={ISOLATED_ATOM} but the frame has {len(frame.atoms)} atoms"
            )
        if frame.has("total_charge") and abs(frame.value("total_charge")) > NEUTRAL:
            continue
        z, energy = int(frame.atoms.numbers[0]), float(frame.value("energy"))
        other, first = energies.setdefault(z, (energy, frame))
        if abs(energy - other) > 1e-6:
            raise InputError(
                f"two energies of the isolated atom {chemical_symbols[z]}: {other} eV ({first.where}) and "
                f"{energy} eV ({frame.where}); keep one of these frames"
            )
    return {z: energy for z, (energy, _) in energies.items()}


def _least_squares(frames: Frames, elements: Sequence[int]) -> tuple[dict[int, float], int, int]:
    """E0s, the number of combinations of them that the frames determine, and the number of frames used."""
    bound = frames.take(frames.has("energy") & ~frames.is_isolated_atom)
    if not len(bound):
        raise InputError(
            "E0s cannot be fitted: no training frame has an energy; give data.e0s as {symbol: eV}"
        )
    neutral = bound.take(np.abs(bound.total_charge) <= NEUTRAL)
    used = neutral if neutral.elements == list(elements) else bound
    numbers, counts = used.composition()
    counts = counts[:, np.searchsorted(numbers, elements)]
    energies = used.column("energy")
    rank = int(np.linalg.matrix_rank(counts))
    # The smallest solution itself would give an element the more, the more atoms of it there are.
    common = float(np.mean(energies / counts.sum(axis=1))) if rank < len(elements) else 0.0
    solution = common + np.linalg.lstsq(counts, energies - common * counts.sum(axis=1), rcond=None)[0]
    return {z: float(e) for z, e in zip(elements, solution, strict=True)}, rank, len(used)
