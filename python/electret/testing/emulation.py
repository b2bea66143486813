"""The device path without a device."""

from __future__ import annotations

from contextlib import AbstractContextManager

from electret.cuda.operators import emulation

__all__ = ["emulated_device"]


def emulated_device() -> AbstractContextManager[None]:
    """Within it CPU tensors go the way of CUDA tensors: the same plans, kernels and solvers, with the kernels
    compiled for the CPU (which needs a C++ compiler) and memory of the host. Slow; for tests.
    """
    return emulation()
