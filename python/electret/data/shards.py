"""Prepared sets: folders of shards from which frames are read by memory mapping.

A shard is a safetensors file: flat arrays of its frames (positions, numbers, labels per atom) with the place
of each frame in them, and their columns. `set.json` lists the shards; a folder without it is no set.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from electret.data.columns import SYSTEM_SHAPES, WEIGHTS, Columns, columns_of
from electret.data.frames import Frames
from electret.data.keys import DataKeys, DipoleOrigin
from electret.data.reading import Frame
from electret.errors import InputError
from electret.labels import LABELS
from electret.support.locks import cached_property
from electret.support.outputs import atomic_write
from electret.support.tensor_files import tensor_file

__all__ = ["INDEX_FILE", "Shard", "is_prepared", "open_set", "read_index", "shard_content", "write_index"]

INDEX_FILE = "set.json"
FORMAT = "electret frames 1"
"""Format of a prepared set; another number is another meaning of the arrays."""

_TYPES = {"F64": "<f8", "I64": "<i8", "I32": "<i4", "U8": "u1", "BOOL": "?"}
_RAGGED = [name for name, label in LABELS.items() if label.rows != "system"]
_ROWS: dict[str, tuple[int, ...]] = {"forces": (3,), "grid_points": (3,), "born_effective_charges": (9,)}


def shard_content(frames: Sequence[Frame]) -> bytes:
    """File of some frames."""
    columns = columns_of(frames)
    arrays = {f"column/{name}": array for name, array in columns.arrays.items()}
    arrays["numbers"] = np.concatenate([frame.atoms.numbers for frame in frames]).astype(np.uint8)
    arrays["positions"] = np.concatenate([frame.atoms.positions for frame in frames])
    for name in _RAGGED:
        if f"has_{name}" in columns.arrays:
            values = [np.ravel(frame.value(name)) if frame.has(name) else np.empty(0) for frame in frames]
            arrays[f"values/{name}"] = np.concatenate(values)
            arrays[f"starts/{name}"] = np.cumsum([0] + [len(value) for value in values])
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
    about = {"format": FORMAT, "names": columns.names, "elements": columns.elements}
    return tensor_file(tensors, {"electret": json.dumps(about, ensure_ascii=False)})


class Shard:
    """Frames of one file, read when they are asked for.

    Args:
        path: of the file.
        n_frames: their number.
        dipole_origin: with which they were read.
    """

    in_memory = False

    def __init__(self, path: Path, n_frames: int, dipole_origin: DipoleOrigin | None) -> None:
        self.path: Path | None = path
        self._file = path
        self.n_frames, self.dipole_origin = n_frames, dipole_origin

    def __reduce__(self) -> tuple[Any, ...]:  # another process maps the file again
        return Shard, (self.path, self.n_frames, self.dipole_origin)

    def __len__(self) -> int:
        return self.n_frames

    @cached_property
    def _content(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays on the disk and what the file says of them."""
        try:
            buffer = np.memmap(self._file, np.uint8, "r")
            start = 8 + int.from_bytes(buffer[:8].tobytes(), "little")
            header = json.loads(buffer[8:start].tobytes())
            about = json.loads(header.pop("__metadata__")["electret"])
            arrays = {}
            for name, entry in header.items():
                low, high = (start + offset for offset in entry["data_offsets"])
                # A plain view: one of a memmap costs microseconds per slice.
                view = buffer[low:high].view(np.ndarray).view(_TYPES[entry["dtype"]])
                arrays[name] = view.reshape(entry["shape"])
            if about["format"] != FORMAT or len(arrays["column/atoms"]) != self.n_frames:
                raise ValueError(about["format"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{self.path}: the shard is damaged or of another version ({error}); prepare the set again"
            ) from error
        return arrays, about

    @cached_property
    def columns(self) -> Columns:
        """Columns of the frames."""
        arrays, about = self._content
        own = {name[7:]: array for name, array in arrays.items() if name.startswith("column/")}
        names = about["names"]
        names["other_keys"] = [tuple(keys) for keys in names["other_keys"]]
        return Columns(own, names, about["elements"])

    @property
    def positions(self) -> NDArray[np.float64]:
        """Positions of all atoms in Å."""
        return self._content[0]["positions"]

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        return np.concatenate([[0], np.cumsum(self.columns.arrays["atoms"])])

    @cached_property
    def _ragged(self) -> list[tuple[str, NDArray[Any], NDArray[Any]]]:
        arrays, _ = self._content
        return [
            (name, arrays[f"values/{name}"], arrays[f"starts/{name}"])
            for name in _RAGGED
            if f"values/{name}" in arrays
        ]

    @cached_property
    def _of_systems(self) -> list[tuple[str, NDArray[Any]]]:
        """Key in `atoms.info` and column of quantities of systems and of weights."""
        own = self.columns.arrays
        found = [(LABELS[name].key, own[name]) for name in SYSTEM_SHAPES if name in own]
        return found + [
            (key, own[f"weight_{name}"]) for name, key in WEIGHTS.items() if f"weight_{name}" in own
        ]

    def __getitem__(self, index: int) -> Frame:
        arrays, columns = self._content[0], self.columns
        own, start, stop = columns.arrays, self._starts[index], self._starts[index + 1]
        atoms = Atoms(
            arrays["numbers"][start:stop],
            positions=arrays["positions"][start:stop],
            cell=own["cell"][index].reshape(3, 3),
            pbc=own["pbc"][index],
        )
        for key, values in self._of_systems:
            value = values[index]
            if value.ndim:
                if not np.isnan(value).any():
                    atoms.info[key] = value.copy()
            elif not math.isnan(value):
                atoms.info[key] = float(value)
        for name, values, starts in self._ragged:
            low, high = starts[index], starts[index + 1]
            if high == low:
                continue
            row = _ROWS.get(name, ())
            value = (
                values[low:high].reshape((stop - start, -1) if name == "multipoles" else (-1, *row)).copy()
            )
            if LABELS[name].per_atom:
                atoms.arrays[LABELS[name].key] = value
            else:
                atoms.info[LABELS[name].key] = value
        text: dict[str, Any] = {}
        for name in ("file", "config_type", "chain", "other_keys"):
            code = own[name][index]
            text[name] = None if code < 0 else columns.names[name][code]
        if text["config_type"] != "Default":
            atoms.info["config_type"] = text["config_type"]
        if text["chain"] is not None:
            atoms.info["chain"] = text["chain"]
        return Frame(atoms, str(text["file"]), int(own["index"][index]), frozenset(text["other_keys"]))


def write_index(
    folder: Path, shards: Sequence[dict[str, Any]], keys: DataKeys, dipole_origin: DipoleOrigin | None
) -> None:
    """Write the file that makes a folder of shards a set.

    Args:
        folder: of the shards.
        shards: `file`, `frames`, `bytes` of each.
        keys: with which the frames were read.
        dipole_origin: the same; None where it was not stated.
    """
    index = {"format": FORMAT, "keys": keys.model_dump(), "dipole_origin": dipole_origin, "shards": shards}
    atomic_write(folder / INDEX_FILE, json.dumps(index, indent=1).encode())


def is_prepared(path: Path) -> bool:
    """True for a folder with a prepared set."""
    return (path / INDEX_FILE).is_file()


def read_index(folder: Path) -> dict[str, Any]:
    """Content of `set.json`; raises `InputError` for another format."""
    try:
        index: dict[str, Any] = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
        if index["format"] != FORMAT:
            raise ValueError(f"its format is {index['format']!r}, this electret reads {FORMAT!r}")
        index["keys"] = DataKeys(**index["keys"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / INDEX_FILE} cannot be used: {error}; prepare the set again") from error
    return index


def open_set(folder: Path, keys: DataKeys | None = None, dipole_origin: DipoleOrigin | None = None) -> Frames:
    """Frames of a prepared set.

    Args:
        folder: of the set.
        keys: names that were given for the labels; they must be those that the set was prepared with.
        dipole_origin: the same.

    Raises:
        InputError: no such set, a damaged one, or one that was prepared with other keys.
    """
    index = read_index(folder)
    _check_keys(folder, index, keys or DataKeys(), dipole_origin)
    parts = []
    for entry in index["shards"]:
        path = folder / entry["file"]
        size = path.stat().st_size if path.is_file() else 0
        if size != entry["bytes"]:
            raise InputError(f"{path} has {size} bytes, expected {entry['bytes']}; prepare the set again")
        parts.append(Shard(path, entry["frames"], index["dipole_origin"]))
    return Frames(parts)


def _check_keys(folder: Path, index: dict[str, Any], keys: DataKeys, origin: DipoleOrigin | None) -> None:
    default, prepared = DataKeys(), index["keys"]
    differing: Iterator[tuple[str, Any, Any]] = (
        (f"data.keys.{name}", getattr(keys, name), getattr(prepared, name))
        for name in DataKeys.model_fields
        if getattr(keys, name) not in (getattr(default, name), getattr(prepared, name))
    )
    if origin is not None and origin != (index["dipole_origin"] or "origin"):
        differing = iter([("data.dipole_origin", origin, index["dipole_origin"])])
    for name, given, own in differing:
        raise InputError(
            f"{name} is {given!r}, but '{folder}' was prepared with {own!r}; remove the option, or prepare "
            "the set again"
        )
