"""Sets of frames, in memory or on disk, as one sequence with columns."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from electret.data.columns import WEIGHTS, Columns, columns_of
from electret.data.keys import DipoleOrigin
from electret.data.reading import ISOLATED_ATOM, Frame
from electret.labels import LABELS
from electret.support.locks import cached_property

__all__ = ["Frames", "as_frames", "bound", "join", "spread"]


class Part(Protocol):
    """Frames from one source, with their columns."""

    in_memory: bool
    path: Path | None
    dipole_origin: DipoleOrigin | None

    @property
    def columns(self) -> Columns:
        """Columns of the frames."""

    @property
    def positions(self) -> NDArray[np.float64]:
        """Positions of all atoms in Å."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Frame: ...


class Memory:
    """Frames in memory, whose columns are made at first use."""

    in_memory = True
    path: Path | None = None
    dipole_origin: DipoleOrigin | None = None

    def __init__(self, frames: Sequence[Frame]) -> None:
        self.frames = frames

    @cached_property
    def columns(self) -> Columns:
        """Columns of the frames."""
        return columns_of(self.frames)

    @property
    def positions(self) -> NDArray[np.float64]:
        """Positions of all atoms in Å."""
        return np.concatenate([frame.atoms.positions for frame in self.frames])

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Frame:
        return self.frames[index]


class Weighted(Memory):
    """Frames with a factor on their weight in the loss."""

    frames: Frames

    def __init__(self, frames: Frames, factor: float) -> None:
        super().__init__(frames)
        self.factor = factor
        self.in_memory, self.path = frames.in_memory, frames.path
        self.dipole_origin = frames.dipole_origin

    @cached_property
    def columns(self) -> Columns:
        """Columns of the frames, with the factor."""
        found = self.frames.columns()
        weight = self.factor * self.frames.weights("frame")
        return replace(found, arrays={**found.arrays, "weight_frame": weight})

    def __getitem__(self, index: int) -> Frame:
        frame = self.frames[index]
        atoms = copy(frame.atoms)
        weight = frame.atoms.info.get(WEIGHTS["frame"], 1.0) * self.factor
        atoms.info = {**frame.atoms.info, WEIGHTS["frame"]: weight}
        return replace(frame, atoms=atoms)


class Frames(Sequence[Frame]):
    """Frames of one or several sources, in memory or in prepared sets, from which they are read when they are
    asked for.

    Numbers of all frames come as columns, see `electret.data.columns.Columns`; a slice, or `take`, is a view.

    Args:
        parts: the sources, one after the other.
        rows: positions of the frames in their concatenation; None: all.
    """

    def __init__(self, parts: Sequence[Part], rows: NDArray[np.int64] | None = None) -> None:
        self.parts = list(parts)
        self._starts = np.cumsum([0] + [len(part) for part in self.parts])
        self.rows = np.arange(self._starts[-1]) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Frame: ...

    @overload
    def __getitem__(self, index: slice) -> Frames: ...

    def __getitem__(self, index: int | slice) -> Frame | Frames:
        if isinstance(index, slice):
            return Frames(self.parts, self.rows[index])
        row = int(self.rows[index])
        part = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self.parts[part][row - int(self._starts[part])]

    def take(self, indices: Any) -> Frames:
        """The frames with these indices, or of this mask."""
        return Frames(self.parts, self.rows[np.asarray(indices)])

    @property
    def in_memory(self) -> bool:
        """True if no frame is read from disk."""
        return all(part.in_memory for part in self.parts)

    @property
    def path(self) -> Path | None:
        """A file of a prepared set among the sources."""
        return next((part.path for part in self.parts if part.path is not None), None)

    @property
    def dipole_origin(self) -> DipoleOrigin | None:
        """Origin of dipole labels that a prepared set was read with, None if none says."""
        return next((part.dipole_origin for part in self.parts if part.dipole_origin is not None), None)

    @property
    def elements(self) -> list[int]:
        """Atomic numbers in the frames, ascending."""
        elements, counts = self.composition()
        return [elements[place] for place in np.flatnonzero(counts.sum(axis=0))]

    def column(self, name: str, default: Any = np.nan) -> NDArray[Any]:
        """An entry for each frame, `default` where a source lacks the column."""
        found = [part.columns.arrays.get(name) for part in self.parts]
        known = next((array for array in found if array is not None), None)
        if known is None:
            return np.full(len(self), default)
        filled = [
            np.full((len(part), *known.shape[1:]), default) if array is None else array
            for part, array in zip(self.parts, found, strict=True)
        ]
        return np.concatenate(filled)[self.rows]

    def by_element(self, name: str) -> NDArray[Any]:
        """A column of numbers for each of all elements of the sources, 0 where there are none."""
        elements = self._all_elements
        found = np.zeros((int(self._starts[-1]), len(elements)))
        for part, start in zip(self.parts, self._starts, strict=False):
            own = part.columns
            if name in own.arrays:
                places = np.searchsorted(elements, own.elements)
                found[start : start + len(part), places] = own.arrays[name]
        return found[self.rows]

    @property
    def _all_elements(self) -> list[int]:
        return sorted({z for part in self.parts for z in part.columns.elements})

    def composition(self) -> tuple[list[int], NDArray[np.float64]]:
        """Atomic numbers of the sources, and the number of atoms of each in every frame."""
        return self._all_elements, self.by_element("counts")

    def codes(self, name: str) -> tuple[NDArray[np.int64], list[Any]]:
        """Position of each frame's name (`file`, `config_type`, `chain`, `other_keys`) among the distinct
        ones of the sources, -1 for none; and these names."""
        known: dict[Any, int] = {}
        found = [np.empty(0, dtype=np.int64)]
        for part in self.parts:
            own = part.columns
            places = [known.setdefault(entry, len(known)) for entry in own.names[name]]
            found.append(np.array([*places, -1], dtype=np.int64)[own.arrays[name]])
        return np.concatenate(found)[self.rows], list(known)

    def names(self, name: str) -> list[Any]:
        """Distinct names of the frames, in the order of their sources; see `codes`."""
        codes, known = self.codes(name)
        return [known[code] for code in np.unique(codes) if code >= 0]

    def has(self, name: str) -> NDArray[np.bool_]:
        """True for each frame that carries quantity `name` (of `DataKeys`)."""
        if LABELS[name].rows != "system":
            return self.column(f"has_{name}", False)
        known = np.isfinite(self.column(name))
        return known if known.ndim == 1 else known.all(axis=tuple(range(1, known.ndim)))

    @property
    def is_isolated_atom(self) -> NDArray[np.bool_]:
        """True for each frame that only holds an atomic energy."""
        codes, known = self.codes("config_type")
        return np.array([*(kind == ISOLATED_ATOM for kind in known), False])[codes]

    @property
    def total_charge(self) -> NDArray[np.float64]:
        """Total charge of each frame in e, 0 where none is given."""
        return np.nan_to_num(self.column("total_charge"), nan=0.0)

    def weights(self, name: str) -> NDArray[np.float64]:
        """Weight of each frame (`frame`) or of a label in it, 1 where none is given."""
        return np.nan_to_num(self.column(f"weight_{name}"), nan=1.0)

    @property
    def rms_force(self) -> float:
        """RMS of the components of the labelled forces in eV/Å, nan without any."""
        has = self.has("forces")
        n_components = 3 * int(self.column("atoms", 0)[has].sum())
        squares = float(self.column("forces_squared")[has].sum())
        return math.sqrt(squares / n_components) if n_components else math.nan

    def energies_without(self, e0s: Mapping[int, float]) -> NDArray[np.float64]:
        """Energy of each frame that has one, without the given energies of atoms, eV."""
        labelled = self.has("energy")
        numbers, counts = self.composition()
        own = sum((counts[labelled, k] * e0s[z] for k, z in enumerate(numbers) if z in e0s), np.zeros(1))
        rest: NDArray[np.float64] = self.column("energy")[labelled] - own
        return rest

    def columns(self) -> Columns:
        """All columns of the frames."""
        names = ("file", "config_type", "chain", "other_keys")
        by_element = ("counts", "charges_by_element")
        arrays = {name: None for part in self.parts for name in part.columns.arrays}
        plain = [name for name in arrays if name not in (*names, *by_element)]
        found: dict[str, NDArray[Any]] = {
            name: self.column(name, False if name.startswith("has_") else np.nan) for name in plain
        }
        found |= {name: self.by_element(name) for name in by_element if name in arrays}
        coded = {name: self.codes(name) for name in names}
        found |= {name: codes for name, (codes, _) in coded.items()}
        return Columns(found, {name: known for name, (_, known) in coded.items()}, self._all_elements)


def as_frames(frames: Sequence[Frame]) -> Frames:
    """Frames with columns."""
    return frames if isinstance(frames, Frames) else Frames([Memory(list(frames))])


def join(sets: Iterable[Sequence[Frame]]) -> Frames:
    """Frames of several sets, one after the other."""
    found = [as_frames(frames) for frames in sets]
    starts = np.cumsum([0] + [int(frames._starts[-1]) for frames in found])
    rows = [frames.rows + start for frames, start in zip(found, starts, strict=False)]
    parts = [part for frames in found for part in frames.parts]
    return Frames(parts, np.concatenate([*rows, np.empty(0, dtype=np.int64)]))


def bound(frames: Sequence[Frame]) -> Frames:
    """Frames without those that only hold the energy of an isolated atom."""
    found = as_frames(frames)
    return found.take(~found.is_isolated_atom)


def spread(indices: NDArray[Any], limit: int, runs: int = 50) -> NDArray[Any]:
    """At most `limit` of the indices, in runs of neighbours that are spread evenly."""
    if len(indices) <= limit:
        return indices
    length = limit // runs
    starts = np.linspace(0, len(indices) - length, runs).astype(np.int64)
    return np.concatenate([indices[start : start + length] for start in starts])
