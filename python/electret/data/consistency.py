"""Labels and conditions of frames that contradict each other, or are not what they seem."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from electret.conditions import CHARGE_TOLERANCE, SPIN, meant
from electret.data.frames import Frames, as_frames, spread
from electret.data.keys import DataKeys, DipoleOrigin
from electret.data.reading import ENERGY_KIND, Frame, origin_of_dipole

__all__ = ["data_warnings"]

SLOPE_TOLERANCE = 0.5
"""eV by which the slope of the energy in the charge may miss the labelled Fermi levels."""

JUDGED = 20_000
"""Frames from which dipoles and Fermi levels are judged where there are more."""

MANY = 8
"""Frames of one composition from which their slope is judged where each has a geometry of its own."""


_POINTS = {
    "origin": "the origin of the coordinates",
    "center_of_mass": "the centre of mass",
    "center_of_charge": "the centre of the nuclear charges",
}


def data_warnings(
    frames: Sequence[Frame],
    keys: DataKeys,
    dipole_origin: DipoleOrigin | None = None,
) -> list[str]:
    """Sentences on what a user should look at, each with the number of frames and the first of them.

    Args:
        frames: as read with these keys.
        keys: names in the files.
        dipole_origin: with which the frames were read; None is the default, the origin of the coordinates.
    """
    found = as_frames(frames)
    return [
        *_charges(found, keys),
        *_other_names(found),
        *_dipoles(found, dipole_origin or found.dipole_origin),
        *_fermi_levels(found, keys),
        *_responses(found, keys),
    ]


def _charge(frame: Frame) -> float:
    return float(frame.value("total_charge")) if frame.has("total_charge") else 0.0


def _count(frames: Frames, chosen: NDArray[np.bool_]) -> str:
    number = int(np.count_nonzero(chosen))
    return f"{number} frame{'s' if number > 1 else ''} (first: {frames[int(chosen.argmax())].where})"


def _charges(frames: Frames, keys: DataKeys) -> Iterator[str]:
    """Labelled charges that do not add up to the total charge."""
    for name in ("charges", "multipoles"):
        totals, charges = frames.column(f"{name}_sum"), frames.total_charge
        wrong = np.abs(totals - charges) > CHARGE_TOLERANCE
        if wrong.any():
            first = int(wrong.argmax())
            yield (
                f"'{getattr(keys, name)}' of {_count(frames, wrong)} do not add up to the "
                f"total charge: {totals[first]:.4g} e there, while '{keys.total_charge}' is "
                f"{charges[first]:g} e{'' if frames[first].has('total_charge') else ' (absent)'}"
            )


def _other_names(frames: Frames) -> Iterator[str]:
    """Spins and Fermi levels under names that are not read."""
    codes, sets = frames.codes("other_keys")
    holders: dict[tuple[str, str], list[int]] = defaultdict(list)
    for code, names in enumerate(sets):
        for key in names:
            condition = meant(key)
            if condition in (SPIN, "fermi_level"):
                holders[key, condition].append(code)
    for (key, condition), chosen in sorted(holders.items()):
        found = np.isin(codes, chosen) & ~frames.has(condition)
        if not found.any():
            continue
        hint = (
            f"every frame is a singlet; if it is the multiplicity 2S + 1, set data.keys.{SPIN} to '{key}'"
            if condition == SPIN
            else f"if it is the Fermi level (eV), set data.keys.fermi_level to '{key}'"
        )
        yield f"'{key}' of {_count(frames, found)} is not read: {hint}"


def _dipoles(frames: Frames, chosen: DipoleOrigin | None) -> Iterator[str]:
    """Dipole labels of charged open systems that seem to be about another point."""
    found = frames.has("dipole") & (np.abs(frames.total_charge) > CHARGE_TOLERANCE)
    found &= ~frames.column("pbc", False).all(axis=-1)
    if not found.any():
        return
    charged = [frames[index] for index in spread(np.flatnonzero(found), JUDGED)]
    now = chosen or "origin"
    errors = {choice: _distance(charged, now, choice) for choice in get_args(DipoleOrigin)}
    best = min(errors, key=lambda choice: errors[choice])
    if errors[best] < 0.5 * errors[now] and errors[now] - errors[best] > 0.05:
        yield (
            f"dipole labels of {_count(frames, found)} with a charge are taken about {_POINTS[now]}, but fit "
            f"{_POINTS[best]} better: {errors[best]:.3g} against {errors[now]:.3g} e·Å (rms) are left. "
            f"Set data.dipole_origin: {best} (electret eval --dipole-origin) if they are about it"
        )
    elif chosen is None:
        yield (
            f"dipole labels of {_count(frames, found)} with a charge are taken about {_POINTS[now]}; "
            "state their origin with data.dipole_origin (electret eval --dipole-origin)"
        )


def _distance(frames: Sequence[Frame], now: DipoleOrigin, choice: DipoleOrigin) -> float:
    """Rms, along open axes, of the dipoles about `choice` less those of the labelled densities or, without
    one, of the dipoles about the centre of mass, which are small beside charge times position of an ion."""
    rest = []
    for frame in frames:
        atoms, charge = frame.atoms, _charge(frame)
        shift = origin_of_dipole(atoms, choice) - origin_of_dipole(atoms, now)
        if frame.has("multipoles") or frame.has("charges"):
            multipoles = (
                frame.value("multipoles") if frame.has("multipoles") else frame.value("charges")[:, None]
            )
            density = multipoles[:, 0] @ atoms.positions
            if multipoles.shape[1] >= 4:
                density = density + multipoles[:, [3, 1, 2]].sum(axis=0)
        else:
            density = charge * origin_of_dipole(atoms, "center_of_mass")
        periodic = atoms.cell.array[atoms.pbc]
        along_open = (np.abs(periodic) <= 1e-6 * np.abs(periodic).max(initial=0.0)).all(axis=0)
        rest.append((frame.value("dipole") + charge * shift - density)[along_open])
    values = np.concatenate(rest)
    return float(np.sqrt(np.mean(values**2))) if values.size else 0.0


def _fermi_levels(frames: Frames, keys: DataKeys) -> Iterator[str]:
    """Energies whose change with the charge is not that of the labelled Fermi levels."""
    labelled = np.flatnonzero(frames.has("energy") & frames.has("fermi_level"))
    for group, noisy in _compositions(frames[index] for index in spread(labelled, JUDGED)):
        slope, expected, error = _slopes(group)
        tolerance = max(SLOPE_TOLERANCE, 0.2 * abs(expected), 4 * error if noisy else 0.0)
        if abs(slope - expected) <= tolerance:
            continue
        members = [frame for geometry in group for frame in geometry]
        converted = all(frame.has("grand_potential") for frame in members)
        other = _slopes(group, 1.0 if converted else -1.0)[0]
        if abs(slope + expected) <= tolerance:
            hint = "the charge or the Fermi level seems to have the opposite sign"
        elif noisy and abs(other - expected) > tolerance:
            continue  # charge states of different geometries may well differ by that
        else:
            hint = "look at the signs of both, the zero of the Fermi level, and what the energy is"
        if abs(other - expected) <= tolerance and converted:
            hint = (
                "they were read as grand potentials and look like energies E; if they are, remove "
                f"data.keys.grand_potential and {ENERGY_KIND}"
            )
        elif abs(other - expected) <= tolerance:
            hint = (
                f"they look like grand potentials E + mu Q; if they are, set data.keys.grand_potential to "
                f"'{keys.energy}', or {ENERGY_KIND}=grand_potential in these frames"
            )
        first, formula = members[0].where, members[0].atoms.get_chemical_formula()
        yield (
            f"'{keys.energy}' and '{keys.fermi_level}' of {len(members)} frames (first: {first}) of "
            f"{formula} contradict dE/dQ = -mu: the energies change by "
            f"{slope:.3g} eV/e, the Fermi levels say {expected:.3g}; {hint}"
        )


def _compositions(frames: Iterable[Frame]) -> Iterator[tuple[list[list[Frame]], bool]]:
    """Frames of one composition, boundary and field in different charge states, by geometry; as one, and
    noisy, where no geometry has two charges."""
    groups: dict[tuple[bytes, ...], dict[bytes, list[Frame]]] = defaultdict(lambda: defaultdict(list))
    for frame in frames:
        atoms = frame.atoms
        field = frame.value("external_field") if frame.has("external_field") else np.zeros(3)
        group = groups[np.sort(atoms.numbers).tobytes(), atoms.pbc.tobytes(), field.tobytes()]
        group[np.round(np.concatenate([atoms.positions, atoms.cell.array]), 4).tobytes()].append(frame)
    for geometries in groups.values():
        scans = [scan for scan in geometries.values() if np.ptp([_charge(frame) for frame in scan]) > 1e-3]
        members = [frame for geometry in geometries.values() for frame in geometry]
        if scans:
            yield scans, False
        elif len(members) >= MANY and np.ptp([_charge(frame) for frame in members]) > 1e-3:
            yield [members], True


def _slopes(group: Sequence[Sequence[Frame]], added: float = 0.0) -> tuple[float, float, float]:
    """Slope of the energy in the charge, that of the Fermi levels, and the standard error of the first, eV/e.

    The fit to all pairs of a geometry of E_i - E_j and of -(mu_i + mu_j)/2 (Q_i - Q_j), which are equal for a
    quadratic energy. `added` times mu Q is added to the energies.
    """
    moments, rest, n_frames = np.zeros(3), 0.0, 0
    for geometry in group:
        charge = np.array([_charge(frame) for frame in geometry])
        level = np.array([frame.value("fermi_level") for frame in geometry])
        energy = np.array([frame.value("energy") for frame in geometry])
        energy = energy + added * level * charge
        charge, energy = charge - charge.mean(), energy - energy.mean()
        weight = (charge**2 + np.mean(charge**2)) / 2
        moments += [charge @ charge, energy @ charge, -level @ weight]
        rest += energy @ energy
        n_frames += len(geometry)
    slope, expected = moments[1] / moments[0], moments[2] / moments[0]
    variance = max(rest - slope * moments[1], 0.0) / max(n_frames - 2, 1)
    return slope, expected, float(np.sqrt(variance / moments[0]))


def _responses(frames: Frames, keys: DataKeys) -> Iterator[str]:
    """Derivatives of the dipole of periodic systems."""
    for name in ("polarizability", "born_effective_charges"):
        found = frames.has(name) & frames.column("pbc", False).any(axis=-1)
        if found.any():
            yield (
                f"'{getattr(keys, name)}' of {_count(frames, found)} with periodic axes count along open "
                "axes only: a dipole along a periodic axis depends on the image in which an atom is listed "
                "(families with local charges or a polarisation, as 'local_charges', take all Born charges)"
            )
