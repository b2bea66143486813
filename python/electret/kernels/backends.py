"""Which functions serve the numpy layer: the native ones on the CPU, or those of a device."""

from __future__ import annotations

from typing import Any

from electret import _native
from electret.errors import InputError

__all__ = ["functions_on"]


def functions_on(device: object, precision: str = "float64") -> Any:
    """What has `coulomb`, `features`, `potential`, `Geometry` and `Jacobian` as `electret._native` has them.

    Args:
        device: "cpu", "cuda", "cuda:1", ..., or "emulated" (the GPU's kernels on the CPU, for tests).
        precision: of long sums on a GPU, one of `inputs.PRECISIONS`; the CPU sums in float64.

    Raises:
        InputError: no such device, or torch, which gives the memory of devices, is missing.
    """
    name = str(device)
    if name == "cpu":
        return _native
    try:
        from electret.cuda.functions import DeviceFunctions
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != "torch":
            raise
        raise InputError(
            f"device = {name!r} needs torch, which gives the memory of the device, and torch is not "
            "installed; pip install torch, or use device='cpu'"
        ) from error
    return DeviceFunctions(name, precision)
