"""Devices by name, or the reason why one cannot be used."""

from __future__ import annotations

import torch

from electret.errors import InputError

__all__ = ["found_device"]


def found_device(name: str | torch.device) -> torch.device:
    """The CPU or a CUDA device.

    Args:
        name: "cpu", "cuda", "cuda:1", ...

    Raises:
        InputError: it is neither, or torch finds no such device.

    Example:
        >>> from electret.cuda.found_device import found_device
        >>> found_device("cpu")
        device(type='cpu')
    """
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"device = {str(name)!r}; use 'cpu', 'cuda' or 'cuda:N'") from error
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        raise InputError(f"device = {str(name)!r}; electret runs on 'cpu' and on NVIDIA GPUs, 'cuda'")
    if not torch.cuda.is_available():
        raise InputError(
            f"device = {str(name)!r}, but torch finds no CUDA device (see `electret info`); use 'cpu'"
        )
    n_devices = torch.cuda.device_count()
    if device.index is not None and device.index >= n_devices:
        raise InputError(f"device = {str(name)!r}, but torch finds {n_devices} CUDA devices, numbered from 0")
    return device
