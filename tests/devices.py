"""The devices that tests run on, and the reasons why one is missing.

A test that is parametrised by `DEVICES` runs on the CPU, on the emulated device (the GPU's kernels compiled
for the CPU) and on a GPU. Besides, `pytest --device cuda` (or `emulated`) sends every call of the numpy layer
to that device (:mod:`numpy_on_device`), so that the whole suite of the electrostatics runs there.
"""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager, nullcontext

import pytest

from electret import _native


@functools.cache
def missing(device: str) -> str | None:
    """The reason why a device cannot be used; None where it can."""
    if device == "cpu":
        return None
    if not hasattr(_native, "DevicePlan"):
        return "the native layer has no devices"
    try:
        import torch
    except ModuleNotFoundError:
        return "PyTorch, which gives the memory of devices, is not installed"
    if device == "cuda" and not torch.cuda.is_available():
        return "no CUDA device"
    try:
        import electret
        from numpy_on_device import numpy_layer_on

        with numpy_layer_on(device):
            electret.coulomb([[0, 0, 0], [0, 0, 3]], [[1], [-1]])
    except _native.DeviceError as error:
        return f"the {device} device cannot be used: {error}"
    return None


CPU = pytest.param("cpu", id="cpu")
EMULATED = pytest.param("emulated", id="emulated")
CUDA = pytest.param("cuda", id="cuda", marks=pytest.mark.gpu)

DEVICES = (CPU, EMULATED, CUDA)
"""For `@pytest.mark.parametrize("device", DEVICES)`; the test calls `require` or uses `on_device`."""

NOT_CPU = (EMULATED, CUDA)


def require(device: str) -> None:
    """Skips the test where the device is not there, with the reason."""
    reason = missing(device)
    if reason is not None:
        pytest.skip(reason)


def on_device(device: str) -> AbstractContextManager[None]:
    """Within it CPU tensors go through the emulated device, if that is the one."""
    require(device)
    if device != "emulated":
        return nullcontext()
    from electret.testing import emulated_device

    return emulated_device()


def torch_device(device: str):
    """Device of the tensors of a test."""
    import torch

    return torch.device("cuda" if device == "cuda" else "cpu")
