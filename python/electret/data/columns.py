"""Columns of a set of frames: one entry per frame of each number that the checks of data and the statistics
need, so that no check walks over structures."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from electret.data.reading import Frame
from electret.labels import LABELS

__all__ = ["SYSTEM_SHAPES", "WEIGHTS", "Columns", "columns_of"]

Array = NDArray[Any]

SYSTEM_SHAPES: Mapping[str, tuple[int, ...]] = {
    name: (6,) if name in ("stress", "virials") else label.shape or ()
    for name, label in LABELS.items()
    if label.rows == "system"
}
"""Shape of each quantity of a whole system in a frame."""

WEIGHTS = {"frame": "config_weight"} | {
    name: f"config_{name}_weight" for name, label in LABELS.items() if label.in_graph
}
"""Keys of the weights in the loss."""

_CONDITIONS = ("total_charge", "external_field", "spin_multiplicity")


@dataclass(frozen=True)
class Columns:
    """One entry per frame in every array.

    Attributes:
        arrays: `atoms` (their number), `index` (in the file), `cell` [9] in Å, `pbc` [3]; each quantity of a
            system under its name (`energy`, `stress`, ...), nan where a frame lacks it; `has_<name>` for
            those per atom or point; `charges_sum`, `multipoles_sum` in e; `forces_squared` in (eV/Å)²;
            `weight_<name>`, nan where not given; `counts` of atoms and `charges_by_element` (sums, e) for
            each of `elements`; `structure`, a hash of elements, positions, cell and conditions; `digest` [16]
            of everything. Arrays that no frame needs are absent. `file`, `config_type`, `chain` and
            `other_keys` are positions in `names`, -1 for none.
        names: distinct names of each of the latter.
        elements: atomic numbers, ascending.
    """

    arrays: Mapping[str, Array]
    names: Mapping[str, list[Any]]
    elements: list[int]


def columns_of(frames: Sequence[Frame]) -> Columns:
    """Columns of frames in memory."""
    n = len(frames)
    numbers = [frame.atoms.numbers for frame in frames]
    lengths = np.array([len(z) for z in numbers], dtype=np.int64)
    owner = np.repeat(np.arange(n), lengths)
    flat = np.concatenate([*numbers, np.empty(0, dtype=np.int64)]).astype(np.int64)
    elements, place = np.unique(flat, return_inverse=True)

    def by_element(values: Array | None = None, chosen: Array | slice = slice(None)) -> Array:
        cells = (owner * len(elements) + place.reshape(-1))[chosen]
        return np.bincount(cells, values, n * len(elements)).reshape(n, len(elements))

    arrays: dict[str, Array] = {
        "atoms": lengths,
        "index": np.array([frame.index for frame in frames], dtype=np.int64),
        "cell": np.array([frame.atoms.cell.array.reshape(9) for frame in frames]).reshape(n, 9),
        "pbc": np.array([frame.atoms.pbc for frame in frames], dtype=bool).reshape(n, 3),
        "counts": by_element().astype(np.int32),
    }
    for name, label in LABELS.items():
        has = np.array([frame.has(name) for frame in frames], dtype=bool)
        if not has.any():
            continue
        if label.rows == "system":
            values = np.full((n, *SYSTEM_SHAPES[name]), np.nan)
            values[has] = [frame.value(name) for frame, own in zip(frames, has, strict=True) if own]
            arrays[name] = values
        else:
            arrays[f"has_{name}"] = has
    for name in ("charges", "multipoles"):
        if f"has_{name}" in arrays:
            sums = [_monopoles(frame, name).sum() if frame.has(name) else np.nan for frame in frames]
            arrays[f"{name}_sum"] = np.array(sums)
    if "has_charges" in arrays:
        has = arrays["has_charges"]
        own = np.concatenate([_monopoles(f, "charges") for f, h in zip(frames, has, strict=True) if h])
        arrays["charges_by_element"] = by_element(own, has[owner])
    if "has_forces" in arrays:
        squares = [float((f.value("forces") ** 2).sum()) if f.has("forces") else np.nan for f in frames]
        arrays["forces_squared"] = np.array(squares)
    for name, key in WEIGHTS.items():
        given = [frame.atoms.info.get(key, np.nan) for frame in frames]
        if not np.isnan(given).all():
            arrays[f"weight_{name}"] = np.array(given)
    arrays["structure"] = np.array([_structure(frame) for frame in frames], dtype=np.int64)
    digests = bytearray().join(map(_digest, frames))
    arrays["digest"] = np.frombuffer(digests, dtype=np.uint8).reshape(n, 16)
    names: dict[str, list[Any]] = {}
    kinds: dict[str, Callable[[Frame], Any]] = {
        "file": lambda frame: frame.file,
        "config_type": lambda frame: frame.config_type,
        "chain": lambda frame: frame.chain,
        "other_keys": lambda frame: tuple(sorted(map(str, frame.other_keys))),
    }
    for name, entry in kinds.items():
        known: dict[Any, int] = {None: -1}
        codes = [known.setdefault(entry(frame), len(known) - 1) for frame in frames]
        arrays[name] = np.array(codes, dtype=np.int32)
        names[name] = list(known)[1:]
    return Columns(arrays, names, elements.tolist())


def _monopoles(frame: Frame, name: str) -> NDArray[np.float64]:
    values: NDArray[np.float64] = frame.value(name)
    return values if values.ndim == 1 else values[:, 0]


def _arrays_of_structure(frame: Frame) -> list[Array]:
    atoms = frame.atoms
    given = [np.asarray(frame.value(name)) for name in _CONDITIONS if frame.has(name)]
    return [atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, *given]


def _structure(frame: Frame) -> int:
    digest = hashlib.blake2b(digest_size=8)
    for array in _arrays_of_structure(frame):
        digest.update(array.tobytes())
    return int.from_bytes(digest.digest(), "little", signed=True)


def _digest(frame: Frame) -> bytes:
    digest = hashlib.blake2b(frame.config_type.encode(), digest_size=16)
    for array in _arrays_of_structure(frame):
        digest.update(array.tobytes())
    for name in LABELS:
        if frame.has(name):
            digest.update(name.encode())
            digest.update(np.asarray(frame.value(name), dtype=np.float64).tobytes())
    for key in WEIGHTS.values():
        if key in frame.atoms.info:
            digest.update(f"{key} {frame.atoms.info[key]!r}".encode())
    return digest.digest()
