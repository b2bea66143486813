"""One-line descriptions of results that hold arrays."""

from __future__ import annotations

from dataclasses import fields
from typing import Any


def with_shapes(result: Any) -> str:
    """Name of a dataclass with the shape of each array, or its entry where it has a single one."""
    parts = []
    for field in fields(result):
        array = getattr(result, field.name)
        single = f"={array.item():.6g}" if array.size == 1 else str(list(array.shape))
        parts.append(field.name + single)
    return f"{type(result).__name__}({', '.join(parts)})"
