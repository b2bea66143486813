"""Measurements that are kept in files, so that an interrupted comparison goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from electret.analysis.probes.base import Probe
from electret.support.outputs import atomic_write

__all__ = ["fingerprint", "read_measurement", "write_measurement"]


def fingerprint(probe: Probe, model_file: Path) -> str:
    """Hash of the kind and the options of a probe, of its structures and of the model."""
    options = probe.model_dump(mode="json", exclude={"data", "models"})
    digest = hashlib.sha256(f"{type(probe).__name__} {json.dumps(options, sort_keys=True)}".encode())
    files = [probe.data, model_file] if model_file.is_file() else [probe.data, *sorted(model_file.iterdir())]
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def read_measurement(path: Path, expected: str) -> dict[str, Any] | None:
    """The numbers in a file that belong to this fingerprint; None where there are none."""
    if not path.is_file():
        return None
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None  # half a file from an older crash is measured again
    return stored["numbers"] if stored.get("fingerprint") == expected else None


def write_measurement(path: Path, expected: str, numbers: dict[str, Any]) -> None:
    """Keep the numbers; the file appears only when it is whole."""
    atomic_write(path, json.dumps({"fingerprint": expected, "numbers": numbers}).encode())
