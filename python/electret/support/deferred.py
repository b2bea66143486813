"""Public names of a package, imported when they are first read."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["names_from"]


def names_from(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """`__getattr__` of a package.

    Args:
        package: its name.
        modules: module below the package that defines each public name.
    """

    def read(name: str) -> Any:
        if name in modules:
            value = getattr(importlib.import_module(f"{package}.{modules[name]}"), name)
        elif name.startswith("_"):
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        else:
            try:
                value = importlib.import_module(f"{package}.{name}")
            except ModuleNotFoundError as error:
                if error.name != f"{package}.{name}":
                    raise
                raise AttributeError(f"module {package!r} has no attribute {name!r} ({error})") from None
        setattr(importlib.import_module(package), name, value)
        return value

    return read
