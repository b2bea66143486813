"""Private names of PyTorch that electret uses, each with a public replacement for versions that lack it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = [
    "any_requires_grad",
    "below_autograd",
    "current_stream",
    "forward_mode",
    "function_transforms",
]


def _any_requires_grad(*arguments: Any) -> bool:
    return any(isinstance(value, torch.Tensor) and value.requires_grad for value in arguments)


def _stream(ordinal: int) -> int:
    return torch.cuda.current_stream(ordinal).cuda_stream


any_requires_grad: Callable[..., bool] = getattr(torch._C, "_any_requires_grad", _any_requires_grad)
"""True if one of the arguments is a tensor that requires grad."""

below_autograd: Callable[[], Any] = torch._C._AutoDispatchBelowAutograd
"""Context in which the dispatcher skips autograd; in every version since 2.0, and without a replacement."""

current_stream: Callable[[int], int] = getattr(torch._C, "_cuda_getCurrentRawStream", _stream)
"""Handle of the current stream of a CUDA device, without the Python object in between."""

function_transforms: Callable[[], bool] = torch._C._are_functorch_transforms_active
"""True within a transform of `torch.func`; in every version since 2.1, and without a replacement."""


def forward_mode() -> bool:
    """True within a level of forward-mode differentiation."""
    return torch.autograd.forward_ad._current_level >= 0
