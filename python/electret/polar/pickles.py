"""Whole-model pickles of PolarMACE, with or without graph_longrange installed."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from electret.cuda.found_device import found_device
from electret.errors import InputError
from electret.models.hosted import quiet
from electret.models.pickles import placeholder_packages, trusted_pickle
from electret.polar.acceleration import accelerate
from electret.polar.hosted import Part, polar_class
from electret.support.locks import Lock
from electret.support.outputs import atomic_write

__all__ = ["load", "save"]

PEER = "graph_longrange"
_IMPORTING = Lock()


def _part(module: str, name: str) -> type:
    return type(name, (Part,), {"__module__": f"{PEER}.{module}", "__qualname__": name})


GTOElectrostaticFeatures = _part("features", "GTOElectrostaticFeatures")
GTOElectrostaticEnergy = _part("energy", "GTOElectrostaticEnergy")


@contextlib.contextmanager
def _importable(classes: Any = ()) -> Iterator[None]:
    """graph_longrange can be imported inside the context; where it is absent, as `classes` and empty ones."""
    polar_class()  # before there are placeholders, which mace would take for the package
    with _IMPORTING:
        try:
            importlib.import_module(PEER)
        except ImportError:
            with placeholder_packages([PEER]):
                for made in classes:
                    setattr(importlib.import_module(made.__module__), made.__name__, made)
                yield
        else:
            yield


def load(
    path: str | os.PathLike[str],
    *,
    trust: bool,
    device: str | torch.device = "cpu",
    **settings: Any,
) -> Any:
    """A PolarMACE from a pickle of it, accelerated.

    Args:
        path: the file, as MACE writes it.
        trust: the word that the file may run code, as reading any pickle does.
        device: where its tensors go.
        settings: those of `accelerate`.

    Raises:
        InputError: no word of trust, no such file, a file that is no pickle of a PolarMACE.
    """
    path = trusted_pickle(path, trust)
    place = found_device(device)
    with _importable((GTOElectrostaticFeatures, GTOElectrostaticEnergy)), quiet():
        try:
            model = torch.load(path, map_location=place, weights_only=False)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise InputError(f"{path}: no pickle of a PolarMACE that can be read ({reason})") from error
    return accelerate(model, **settings)


def save(model: torch.nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a PolarMACE, accelerated or not, as a pickle of the plain model, which MACE reads.

    `torch.save` does the same where graph_longrange is installed.

    Raises:
        InputError: the model is no PolarMACE.
        OutputError: the file cannot be written.
    """
    if not isinstance(model, polar_class()):
        raise InputError(f"the model is a {type(model).__name__}; give a PolarMACE")
    kinds = {getattr(type(part), "first_class", type(part)) for part in model.modules()}
    written = io.BytesIO()
    with _importable(kind for kind in kinds if kind.__module__.partition(".")[0] == PEER), quiet():
        torch.save(model, written)
    atomic_write(Path(path), written.getvalue())
