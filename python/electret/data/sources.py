"""Frames of files and of prepared sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from electret.data.frames import Frames, as_frames, join
from electret.data.keys import DataKeys, DipoleOrigin
from electret.data.reading import iterate_frames
from electret.data.shards import INDEX_FILE, is_prepared, open_set
from electret.errors import InputError

__all__ = ["read_frames"]


def read_frames(
    paths: str | Path | Sequence[str | Path],
    keys: DataKeys | None = None,
    dipole_origin: DipoleOrigin | None = None,
) -> Frames:
    """All frames of a file (extended XYZ, or any format of ASE), or of several.

    Grand potentials become energies, virials stresses, and dipole labels of charged systems are moved from
    `dipole_origin` (None: the origin of the coordinates) to the origin. A folder is a prepared set, see
    `prepare`, whose frames stay on the disk until they are used.

    Raises `InputError` naming file, frame and line (extended XYZ) for malformed content, and file, frame
    and key for labels of the wrong shape or with NaN or infinite values, for charges and fields under names
    that are not read, and for labels that contradict each other.
    """
    files = [paths] if isinstance(paths, (str, Path)) else paths
    return join(_read(Path(file), keys, dipole_origin) for file in files)


def _read(path: Path, keys: DataKeys | None, dipole_origin: DipoleOrigin | None) -> Frames:
    if is_prepared(path):
        return open_set(path, keys, dipole_origin)
    if path.is_dir():
        raise InputError(
            f"data folder '{path}' is no prepared set: it has no {INDEX_FILE}, which electret data prepare "
            "writes at its end"
        )
    return as_frames(list(iterate_frames(path, keys, dipole_origin or "origin")))
