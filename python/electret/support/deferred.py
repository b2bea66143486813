"""Public names of a package, imported when they are first read."""

from __future__ import annotations

import ast
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

__all__ = ["names_from"]


def names_from(package: str) -> Callable[[str], Any]:
    """`__getattr__` of a package. Its public names are the imports under `if TYPE_CHECKING:` of its
    `__init__.py`, one list for type checkers and for Python."""
    modules: dict[str, str] = {}

    def listed() -> dict[str, str]:
        if not modules:
            spec = importlib.util.find_spec(package)
            source = spec.loader.get_source(package)  # type: ignore[union-attr]
            for node in ast.walk(ast.parse(source)):
                if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith(f"{package}."):
                    modules.update((alias.name, str(node.module)) for alias in node.names)
        return modules

    def read(name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if name in listed():
            value = getattr(importlib.import_module(modules[name]), name)
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
