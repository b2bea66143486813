"""The header of a model file, read without PyTorch."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from pathlib import Path
from typing import Any

from electret._native import __version__
from electret.errors import InputError

__all__ = [
    "CHECKSUM_KEY",
    "FORMAT_VERSION",
    "HEADER_KEY",
    "ModelFileError",
    "is_pickle",
    "read_header",
    "text_checksum",
    "untrusted",
]

FORMAT_VERSION = 3
"""Raised when a change makes files unreadable for earlier versions; every released version stays readable."""

UNREADABLE = {
    2: ("energy_functional", "fixed_point"),
    1: ("qeq", "energy_functional", "fixed_point"),
}
"""Families of earlier versions, which no release wrote, whose parameters mean something else."""

HEADER_KEY = "electret"
CHECKSUM_KEY = "electret_checksum"
"""Entry with the SHA-256 of the header's text, which holds the checksum of the tensors. Files written before
it existed have no such entry."""

_LENGTH = struct.Struct("<Q")


class ModelFileError(InputError):
    """A model file cannot be read: the message names the file, the reason and a remedy."""


def is_pickle(path: str | os.PathLike[str]) -> bool:
    """True for a file that begins as those of `torch.save` do, and not as a safetensors file."""
    if not Path(path).is_file():
        return False
    with open(path, "rb") as file:
        start = file.read(_LENGTH.size + 1)
    return start.startswith((b"PK\x03\x04", b"\x80")) and not start.endswith(b"{")


def untrusted(path: str | os.PathLike[str]) -> str:
    """Message about a pickle without a word of trust."""
    return (
        f"{path} is a pickle, and reading it runs whatever code it holds. If it is from a source that you "
        "trust, say so: trust=True in Python (Calculator, from_mace), trust: true in YAML, or "
        f"'electret import {path} -o {Path(path).stem}.electret --trust' on the command line"
    )


def text_checksum(text: str) -> str:
    """SHA-256 of a header."""
    return hashlib.sha256(text.encode()).hexdigest()


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Header of a model file, read without its tensors: `format_version`, `versions`, `config`,
    `statistics`, `metadata`, `checksum`.

    Raises:
        ModelFileError: as for `load`.
    """
    metadata = _safetensors_metadata(path)
    text = metadata.get(HEADER_KEY)
    if text is None:
        raise ModelFileError(f"{path}: a safetensors file without electret's header; save it with electret")
    unknown = sorted(set(metadata) - {HEADER_KEY, CHECKSUM_KEY})
    if unknown:
        raise ModelFileError(
            f"{path}: the header has unknown entries {unknown[:4]}; the file is damaged, copy it again"
        )
    if metadata.get(CHECKSUM_KEY, text_checksum(text)) != text_checksum(text):
        raise ModelFileError(
            f"{path}: the checksum of the header does not match; the file is damaged, copy it again"
        )
    try:
        header = json.loads(text)
        version = int(header["format_version"])
        missing = {"versions", "config", "statistics", "metadata", "checksum"} - set(header)
        family = header.get("config", {}).get("family")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelFileError(f"{path}: the header is damaged ({error}); copy the file again") from error
    if version > FORMAT_VERSION:
        raise ModelFileError(
            f"{path}: format version {version} is newer than {FORMAT_VERSION}, the newest that electret "
            f"{__version__} reads; upgrade electret (written by {header.get('versions')})"
        )
    if family in UNREADABLE.get(version, ()):
        raise ModelFileError(
            f"{path}: format version {version} has other equations of the density for family "
            f"{family!r}, which electret {__version__} cannot read; train the model again"
        )
    if missing:
        raise ModelFileError(f"{path}: the header lacks {sorted(missing)}; copy the file again")
    return header


def _safetensors_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """`__metadata__` of a safetensors file whose length fits its tensors."""
    if not Path(path).is_file():
        reason = "not a regular file" if Path(path).exists() else "no such file"
        raise ModelFileError(f"{path}: {reason}; give the path of an .electret file")
    if is_pickle(path):
        raise ModelFileError(untrusted(path))
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
            start = _LENGTH.size + length
            if start > size:
                raise ValueError(f"its header would have {length} bytes, the file has {size}")
            entries = json.loads(file.read(length))
        metadata = entries.pop("__metadata__", {})
        stop = start + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        if stop != size:
            raise ValueError(f"{stop} bytes expected, {size} found")
        return {str(name): str(value) for name, value in metadata.items()}
    except (
        OSError,
        ValueError,
        struct.error,
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise ModelFileError(
            f"{path}: not a complete .electret file ({error}); copy it again, or save the model again"
        ) from error
