"""`electret data prepare`: frames of any files to a folder of shards, in memory that does not grow with their
number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from electret.data.frames import Frames
from electret.data.keys import DataKeys, DipoleOrigin
from electret.data.reading import Frame, iterate_frames
from electret.data.shards import open_set, shard_content, write_index
from electret.errors import InputError
from electret.support.outputs import atomic_write, check_outputs, claimed, writing

__all__ = ["prepare", "prepare_frames"]

SHARD_SIZE = 4096
"""Frames per shard by default."""


def prepare(
    files: Sequence[str | Path],
    folder: str | Path,
    *,
    keys: DataKeys | None = None,
    dipole_origin: DipoleOrigin | None = None,
    shard_size: int = SHARD_SIZE,
    advance: Callable[[int], object] = lambda _: None,
) -> Frames:
    """Write the frames of files to a prepared set, which stands for them wherever a data file is named.

    Frames are read one by one and checked as `read_frames` does. They are written to `<folder>.incomplete`,
    which is renamed at the end: a preparation that was stopped leaves no set, and the next one replaces what
    it left.

    Args:
        files: extended XYZ, or any format of ASE.
        folder: of the set, which must not exist.
        keys: names of the labels in the files.
        dipole_origin: point about which dipole labels of charged open systems are given; None: the origin.
        shard_size: frames per file of the set, which are held in memory at once.
        advance: called with numbers of frames that are written.

    Returns:
        The frames of the set.

    Raises:
        InputError: as `read_frames`; prepared sets among the files.
        OutputError: a folder that exists, or cannot be written.
    """
    sources = [Path(file) for file in files]
    for source in sources:
        if source.is_dir():
            raise InputError(f"'{source}' is a folder; give the files that it was made of")
    check_outputs([Path(folder)], sources, remedy="give another name, or remove it")
    names, origin = keys or DataKeys(), dipole_origin or "origin"
    frames = (frame for source in sources for frame in iterate_frames(source, names, origin))
    return prepare_frames(
        frames,
        folder,
        keys=names,
        dipole_origin=dipole_origin,
        shard_size=shard_size,
        advance=advance,
    )


def prepare_frames(
    frames: Iterable[Frame],
    folder: str | Path,
    *,
    keys: DataKeys | None = None,
    dipole_origin: DipoleOrigin | None = None,
    shard_size: int = SHARD_SIZE,
    advance: Callable[[int], object] = lambda _: None,
) -> Frames:
    """Write checked frames to a prepared set, see `prepare`.

    Example:
        >>> import tempfile
        >>> from ase import Atoms
        >>> from electret.data import prepare_frames, wrap_atoms
        >>> structures = [Atoms("H", info={"REF_energy": -13.6})]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     frames = prepare_frames(wrap_atoms(structures), folder + "/set")
        ...     frames[0].value("energy")
        -13.6
    """
    if shard_size < 1:
        raise InputError(f"shard_size is {shard_size}; give 1 or more")
    folder = Path(folder)
    check_outputs([folder], remedy="give another name, or remove it")
    beside = folder.with_name(f"{folder.name}.incomplete")
    try:
        with claimed(beside):
            _clear(beside)
            try:
                shards = []
                for number, chunk in enumerate(_chunks(iter(frames), shard_size)):
                    content = shard_content(chunk)
                    name = f"{number:05d}.safetensors"
                    atomic_write(beside / name, content)
                    shards.append({"file": name, "frames": len(chunk), "bytes": len(content)})
                    advance(len(chunk))
                if not shards:
                    raise InputError(f"'{folder}' would hold no frame")
                write_index(beside, shards, keys or DataKeys(), dipole_origin)
            except BaseException:
                _clear(beside)
                raise
        with writing(folder):
            if folder.is_dir():
                folder.rmdir()  # empty
            beside.rename(folder)
    finally:
        with suppress(OSError):
            beside.rmdir()  # empty after an error
    return open_set(folder)


def _clear(folder: Path) -> None:
    """Remove the shards of a preparation that has not ended."""
    for left in folder.glob("[0-9]*.safetensors"):
        left.unlink()


def _chunks(frames: Iterator[Frame], size: int) -> Iterator[list[Frame]]:
    while chunk := list(islice(frames, size)):
        yield chunk
