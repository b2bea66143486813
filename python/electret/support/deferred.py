"""Public names of a package, imported when they are first read."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["names_from"]


def names_from(package: str, modules: Sequence[str]) -> Callable[[str], Any]:
    """`__getattr__` of a package.

    Args:
        package: its name.
        modules: modules below the package that define the names of its `__all__`, in the order in which they
            are searched: those that are quick to import first.
    """

    def read(name: str) -> Any:
        this = sys.modules[package]
        missing = f"module {package!r} has no attribute {name!r}"
        if name.startswith("_"):
            raise AttributeError(missing)
        if name in this.__all__:
            found = (importlib.import_module(f"{package}.{module}") for module in modules)
            value = next(vars(module)[name] for module in found if name in vars(module))
        else:
            try:
                value = importlib.import_module(f"{package}.{name}")
            except ModuleNotFoundError as error:
                if error.name != f"{package}.{name}":
                    raise
                raise AttributeError(f"{missing} ({error})") from None
        setattr(this, name, value)
        return value

    return read
