"""Values that stay from step to step of a trajectory, computed once."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor

__all__ = ["Unchanged"]

Value = TypeVar("Value")


class Unchanged(Generic[Value]):
    """The last value that was made from tensors, for as long as these are the very same tensors.

    Writing to one of them makes the value anew; changes through `.data` or numpy go unnoticed. Tensors with a
    graph are not kept.
    """

    def __init__(self) -> None:
        self._last: tuple[tuple[Tensor, ...], list[int], Value] | None = None

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(self), ()  # copies and files begin anew

    def of(self, make: Callable[[], Value], *tensors: Tensor) -> Value:
        """The value of the tensors, which `make` finds."""
        # tensors of inference have no version, and what is made of them cannot be used in training
        if torch.is_inference_mode_enabled() or any(tensor.is_inference() for tensor in tensors):
            return make()
        versions = [tensor._version for tensor in tensors]
        if self._last is not None:
            before, versions_before, value = self._last
            if versions == versions_before and all(map(operator.is_, tensors, before)):
                return value
        value = make()
        if not any(tensor.requires_grad for tensor in tensors):
            self._last = tensors, versions, value
        return value
