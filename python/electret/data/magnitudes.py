"""Magnitudes of data sets, and warnings of units and signs that no system has."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from ase.data import covalent_radii
from numpy.typing import NDArray
from rich.text import Text

from electret.data.dataset import GraphDataset
from electret.data.frames import Frames, spread
from electret.data.reading import Frame
from electret.support.console import PlainTable

__all__ = ["magnitudes"]

_CLOSEST = 0.35  # Å; half the bond of H2
_FARTHEST = 1.7  # in sums of covalent radii, the median over frames of their closest pair
_STRONGEST = 30.0  # eV per atom, without E0s; solids are bound by up to 9
_LARGEST_FORCE = 100.0  # eV/Å, RMS
_NOBLE = (2, 10, 18, 36, 54, 86)  # not bonded
_CONDITIONS = ("total_charge", "external_field")
_JUDGED = 5_000  # frames of a set on disk from which pairs and the work of the forces are judged
_MOST_COMPARED = 200  # frames of one composition
_FEWEST_STEPS = 8
_CORRELATION = 0.95
_LEAST_SPREAD = 0.01  # Å
_ATTRACTS = 0.6
_SLOPES = {
    -1.0: "the forces have the wrong sign, as gradients have",
    1 / 27.2114: "energies in Hartree",
    27.2114: "forces in Hartree/Å",
    51.4221: "forces in Hartree/bohr",
    0.529177: "positions in bohr",
    1 / 0.529177: "forces in eV/bohr, or in Hartree/bohr with energies in Hartree",
    23.0605: "energies in kcal/mol",
    1 / 23.0605: "forces in kcal/mol/Å",
    96.4853: "energies in kJ/mol",
    1 / 96.4853: "forces in kJ/mol/Å",
    13.6057: "forces in Rydberg/Å",
    1 / 13.6057: "energies in Rydberg",
    25.7110: "forces in Rydberg/bohr",
}
"""Change of the energy over the work of the forces, and the units that give it."""


def magnitudes(sets: Mapping[str, GraphDataset], e0s: Mapping[int, float]) -> tuple[PlainTable, list[str]]:
    """Magnitudes of sets of frames, and what in them looks wrong.

    Args:
        sets: by their names.
        e0s: atomic energies in eV by atomic number.

    Returns:
        A table with one row per set, closest pair, RMS force, and mean and spread of the energy per atom
        without E0s; and sentences on sets whose numbers are those of other units or of another sign.
    """
    headings = ("closest pair (Å)", "RMS force (eV/Å)", "energy per atom without E0s (eV)", "spread (eV)")
    table = PlainTable("Magnitudes", ("set", *headings), right=headings)
    if any(len(_judged(dataset.frames)) < len(dataset) for dataset in sets.values()):
        table.caption = Text(f"closest pairs of {_JUDGED} frames of each larger set on disk")
    warnings = []
    for name, dataset in sets.items():
        closest, energies = _closest(dataset), _bound_energies(dataset.frames, e0s)
        numbers = (
            min((pair.distance for pair in closest), default=math.nan),
            dataset.frames.rms_force,
            float(np.mean(energies)) if len(energies) else math.nan,
            float(np.std(energies)) if len(energies) else math.nan,
        )
        table.add_row(name, *(f"{number:.3g}" if math.isfinite(number) else "—" for number in numbers))
        warnings += [f"{name}: {text}" for text in _warnings(dataset.frames, closest, energies)]
    return table, warnings


def _warnings(frames: Frames, closest: Sequence[_Pair], energies: NDArray[np.float64]) -> Iterator[str]:
    least = min((pair.distance for pair in closest), default=math.inf)
    if least < _CLOSEST:
        yield (f"two atoms are {least:.3g} Å apart, closer than in any system; are positions and cell in Å?")
    ratios = [pair.ratio for pair in closest if math.isfinite(pair.ratio)]
    if ratios and np.median(ratios) > _FARTHEST:
        yield (
            f"in most frames the closest atoms are {np.median(ratios):.2f} times the sum of their covalent "
            "radii apart; are the positions in bohr? They must be in Å"
        )
    if len(energies) and abs(np.mean(energies)) > _STRONGEST:
        yield (
            f"the energy without E0s is {np.mean(energies):.4g} eV per atom, while no system is bound by "
            "more than about 10; are energies and E0s in eV, and of the same code?"
        )
    if frames.rms_force > _LARGEST_FORCE:
        yield f"the RMS force is {frames.rms_force:.3g} eV/Å; are forces in eV/Å?"
    if _attracts_when_close(closest):
        yield (
            "the closest atoms repel each other less the closer they are; are the forces gradients? They "
            "must be -dE/dR"
        )
    slope = _energy_over_work(frames)
    if slope is not None and not 0.65 < slope < 1.6:
        near = min(_SLOPES, key=lambda known: math.inf if known * slope < 0 else abs(math.log(known / slope)))
        fits = near * slope > 0 and abs(math.log(near / slope)) < 0.2
        yield (
            f"between similar frames the energy changes by {slope:.3g} times the work of the "
            f"forces{f' ({_SLOPES[near]})' if fits else ''}; energies must be in eV, forces -dE/dR in eV/Å "
            "and positions in Å"
        )


class _Pair(NamedTuple):
    """The closest pair of a frame."""

    elements: tuple[int, ...]
    distance: float  # Å
    ratio: float  # to the sum of the covalent radii, NaN for noble gases
    repulsion: float  # eV/Å, NaN without labelled forces


def _closest(dataset: GraphDataset) -> list[_Pair]:
    """Closest pair of each frame that has a neighbour."""
    found = []
    for index in _judged(dataset.frames):
        graph = dataset.graphs[index]
        if graph.n_edges:
            frame = dataset.frames[index]
            sender, receiver = graph.edge_index.numpy()
            positions, numbers = graph.positions.numpy(), frame.atoms.numbers
            vectors = (
                positions[receiver] - positions[sender] + graph.unit_shifts.numpy() @ graph.cell.numpy()[0]
            )
            distances = np.linalg.norm(vectors, axis=1)
            pair = int(distances.argmin())
            ends, distance = [sender[pair], receiver[pair]], float(distances[pair])
            radii = math.nan if np.isin(numbers[ends], _NOBLE).any() else covalent_radii[numbers[ends]].sum()
            forces = frame.value("forces")[ends] if frame.has("forces") else np.full((2, 3), np.nan)
            repulsion = float(0.5 * (forces[1] - forces[0]) @ vectors[pair] / max(distance, 1e-9))
            found.append(_Pair(tuple(sorted(numbers[ends].tolist())), distance, distance / radii, repulsion))
    return found


def _judged(frames: Frames) -> list[int]:
    """Frames to judge: all in memory, and runs of neighbours of a large set on disk."""
    everything = np.arange(len(frames))
    return (everything if frames.in_memory else spread(everything, _JUDGED)).tolist()


def _attracts_when_close(pairs: Sequence[_Pair]) -> bool:
    """True if the closest pairs of equal elements repel each other more the farther they are apart, as with
    gradients in place of forces."""
    found = []
    for elements in {pair.elements for pair in pairs}:
        rows = [
            (p.distance, p.repulsion) for p in pairs if p.elements == elements and math.isfinite(p.repulsion)
        ]
        distances, repulsions = np.array(rows).reshape(-1, 2).T
        if len(rows) >= _FEWEST_STEPS and distances.std() > _LEAST_SPREAD and repulsions.std() > 0:
            found.append(float(np.corrcoef(distances, repulsions)[0, 1]))
    return bool(found) and min(found) > _ATTRACTS


def _bound_energies(frames: Frames, e0s: Mapping[int, float]) -> NDArray[np.float64]:
    """Energy per atom without E0s of each labelled frame whose elements have one, eV."""
    elements, counts = frames.composition()
    unknown = counts[:, ~np.isin(elements, list(e0s))].any(axis=1)
    chosen = frames.take(frames.has("energy") & ~unknown)
    return chosen.energies_without(e0s) / chosen.column("atoms", 0)


def _energy_over_work(frames: Frames) -> float | None:
    """Slope of energy differences against the work of the mean forces, over pairs of similar frames under
    equal conditions; None where the two do not go together well enough to decide."""
    groups: dict[tuple[object, ...], list[Frame]] = {}
    labelled = frames.has("energy") & frames.has("forces")
    for index in _judged(frames):
        if not labelled[index]:
            continue
        frame = frames[index]
        conditions = [np.round(frame.value(name), 6) if frame.has(name) else 0.0 for name in _CONDITIONS]
        atoms = frame.atoms
        cell = np.round(atoms.cell.array, 6).tobytes()
        key = (atoms.numbers.tobytes(), cell, atoms.pbc.tobytes(), *(str(value) for value in conditions))
        group = groups.setdefault(key, [])
        if len(group) < _MOST_COMPARED:
            group.append(frame)
    steps = [step for group in groups.values() for step in _steps(group)]
    if len(steps) < _FEWEST_STEPS:
        return None
    work, energy = np.array(steps).T
    scale = np.sqrt((work @ work) * (energy @ energy))
    if scale == 0 or abs(work @ energy) < _CORRELATION * scale:
        return None
    return float(work @ energy / (work @ work))


def _steps(frames: Sequence[Frame]) -> list[tuple[float, float]]:
    """Work of the mean forces (eV) from each frame to the most similar one after it, and the change of the
    energy."""
    cell, pbc = frames[0].atoms.cell, frames[0].atoms.pbc
    positions = np.stack([frame.atoms.positions for frame in frames])
    forces = np.stack([frame.value("forces") for frame in frames])
    energies = [frame.value("energy") for frame in frames]
    found = []
    for index in range(len(frames) - 1):
        moves = positions[index + 1 :] - positions[index]
        if pbc.any():
            complete = cell.complete()
            moves -= (
                np.round(np.linalg.solve(complete.T, moves.reshape(-1, 3).T).T.reshape(moves.shape))
                * pbc
                @ complete
            )
        nearest = int(np.square(moves).sum(axis=(1, 2)).argmin())
        other = index + 1 + nearest
        work = -0.5 * float(np.sum((forces[index] + forces[other]) * moves[nearest]))
        found.append((work, energies[other] - energies[index]))
    return found
