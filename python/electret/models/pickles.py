"""Reads pickles of PyTorch in a process of their own, which hands back plain data.

Unpickling runs code that the file names. It runs here only on the user's explicit word, and in a child
process: its imports, monkey patches and global switches (MACE turns off `weights_only` of `torch.load` for a
whole process) end with that process, and the caller receives tensors as safetensors and a description as
JSON. This is no sandbox: the child has the permissions of the user.

Classes of packages that are absent or unwanted become placeholders, empty `torch.nn.Module`s whose attributes
are those of the file.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MethodType, ModuleType
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from electret.errors import ElectretError, InputError
from electret.models.header import untrusted

__all__ = ["Placeholder", "placeholder_packages", "read_pickle", "trusted_pickle"]


def read_pickle(
    path: str | os.PathLike[str],
    describe: str,
    *,
    trust: bool,
    placeholders: Sequence[str] = (),
    moved: Mapping[str, str] | None = None,
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Description and tensors of the object in a pickle of `torch.save`, found in another process.

    Args:
        path: the file.
        describe: function as `package.module:name`, imported in the child before the pickle is read. It takes
            the object (tensors on the CPU) and returns a dictionary that JSON can hold and tensors by name.
        trust: the user's word that the file may run code; without it nothing is read.
        placeholders: packages in whose place stand empty modules, installed or not (`placeholder_packages`).
        moved: present place `package.module:name` of a class by the place that the file may name.

    Raises:
        InputError: no word of trust, no such file, no pickle of PyTorch, a class that is not installed, or
            an object that `describe` refuses.
    """
    path = trusted_pickle(path, trust)
    with tempfile.TemporaryDirectory(prefix="electret-") as folder:
        request = {
            "path": str(path.resolve()),
            "describe": describe,
            "placeholders": list(placeholders),
            "moved": dict(moved or {}),
            "folder": folder,
        }
        places = os.pathsep.join(place or os.getcwd() for place in sys.path)
        child = subprocess.run(
            [sys.executable, "-c", f"import {__name__} as pickles; pickles._answer()"],
            input=json.dumps(request),
            text=True,
            capture_output=True,
            env={**os.environ, "PYTHONPATH": places},
        )
        answer = Path(folder, "answer.json")
        if not answer.is_file():
            last = (child.stderr.strip().splitlines() or ["no message"])[-1]
            raise InputError(
                f"{path}: the process that reads the file ended with status {child.returncode} ({last}); the "
                "file may be damaged or need more memory than there is"
            )
        found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
        if "error" in found:
            raise InputError(f"{path}: {found['error']}")
        return found["description"], load_file(Path(folder, "tensors.safetensors"))


def trusted_pickle(path: str | os.PathLike[str], trust: bool) -> Path:
    """The path of a pickle that may be read.

    Raises:
        InputError: no such file, or no word of trust.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"{path}: no such file; give the path of a model file (those that mace-torch downloads by name, "
            "as 'small', are in ~/.cache/mace)"
        )
    if not trust:
        raise InputError(untrusted(path))
    return path


def _answer() -> None:
    """Work of the child: read the request from standard input, write answer and tensors to its folder."""
    request = json.loads(sys.stdin.read())
    folder = Path(request.pop("folder"))
    try:
        found: dict[str, Any] = {}
        description, tensors = _described(**request)
        save_file(tensors, folder / "tensors.safetensors")
        found = {"description": description}
    except ElectretError as error:
        found = {"error": str(error)}
    except Exception as error:
        found = {"error": f"the object cannot be described ({type(error).__name__}: {error})"}
    (folder / "answer.json").write_text(json.dumps(found), encoding="utf-8")


def _described(
    path: str, describe: str, placeholders: Sequence[str], moved: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Description and tensors, found in this process."""
    with placeholder_packages(placeholders):
        function = _named(describe)
        for former, place in moved.items():
            module, _, name = former.partition(":")
            if name not in vars(importlib.import_module(module)):
                setattr(sys.modules[module], name, _named(place))
        description, tensors = function(_unpickled(path))
    return description, {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def _named(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def _unpickled(path: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=False)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"a class that the file names is not available ({error}); install the package it comes from, in "
            "a version that has this class"
        ) from error
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(": ")
        raise InputError(f"not a pickle of PyTorch that can be read ({reason})") from error


@contextmanager
def placeholder_packages(packages: Sequence[str]) -> Iterator[None]:
    """Packages of these names, and all their modules, are empty inside the context; installed ones are not
    used. Any public name in them is a class derived from `torch.nn.Module`, whose objects hold the attributes
    that a pickle gives them.

    Modules that are imported inside the context keep the placeholders they have taken.
    """
    finder = _Placeholders(packages)
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if finder.stands_for(name)}
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if finder.stands_for(name)]:
            del sys.modules[name]
        sys.modules.update(hidden)


class Placeholder(torch.nn.Module):
    """Stands for a class that is absent: takes any arguments and computes nothing."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__()

    def __getattr__(self, name: str) -> Any:
        """Objects may hold bound methods of their class, which a pickle has by name."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__") or not name.startswith("_"):
                raise

        def method(self: Any, *arguments: Any, **options: Any) -> Any:
            raise ElectretError(f"{name} of {type(self).__name__} is code of a package that is absent")

        method.__name__ = name
        return MethodType(method, self)


class _Placeholders(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finder and loader of empty modules."""

    def __init__(self, packages: Sequence[str]) -> None:
        self.packages = tuple(packages)

    def stands_for(self, name: str) -> bool:
        return any(name == package or name.startswith(f"{package}.") for package in self.packages)

    def find_spec(
        self, name: str, path: Any = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if self.stands_for(name) else None

    def exec_module(self, module: ModuleType) -> None:
        def attribute(name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
            made = type(name, (Placeholder,), {"__module__": module.__name__})
            setattr(module, name, made)
            return made

        module.__getattr__ = attribute  # type: ignore[method-assign]
