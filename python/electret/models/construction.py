"""Builds a fresh model of any family."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from electret.models.backbone import Allocations
from electret.models.base import Model, assemble
from electret.models.config import ModelConfig
from electret.models.family import family_named, registered
from electret.models.start.statistics import Statistics

__all__ = ["MODEL_CLASSES", "build"]


class _ModelClasses(Mapping[str, type[Model]]):
    """The class of each family, imported when it is read."""

    def __getitem__(self, name: str) -> type[Model]:
        if name not in registered():
            raise KeyError(name)
        return family_named(name).model_class

    def __iter__(self) -> Iterator[str]:
        return iter(registered())

    def __len__(self) -> int:
        return len(registered())


MODEL_CLASSES: Mapping[str, type[Model]] = _ModelClasses()
"""The class of each family."""


def build(config: ModelConfig, statistics: Statistics, seed: int = 0) -> Model:
    """A fresh model; equal seeds give equal parameters, and the global random state is left alone.

    Raises:
        InputError: options that MACE or the family cannot use.
    """
    with Allocations():
        return assemble(MODEL_CLASSES[config.family], config, statistics, seed)
