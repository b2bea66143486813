"""Exceptions of the package. The native layer defines its own."""

from __future__ import annotations

from collections.abc import Sequence

from electret._native import DeviceError, ElectretError, InputError

__all__ = [
    "ChargeRangeError",
    "ConvergenceError",
    "DeviceError",
    "ElectretError",
    "InputError",
    "OutputError",
    "RankError",
]


class ChargeRangeError(ElectretError):
    """The total charge of a dynamics has left the range in which its model is to be used.

    Attributes:
        charge: the charge, e.
        charge_range: lowest and highest charge, e.
    """

    def __init__(self, message: str, charge: float, charge_range: tuple[float, float]) -> None:
        super().__init__(message)
        self.charge = charge
        self.charge_range = charge_range


class ConvergenceError(ElectretError):
    """A self-consistent density did not converge.

    Attributes:
        history: mean absolute residual before each iteration, e Å^l.
        iterations: updates made.
        system: index of the system in its batch.
    """

    def __init__(self, message: str, history: Sequence[float], iterations: int, system: int = 0) -> None:
        super().__init__(message)
        self.history = list(history)
        self.iterations = iterations
        self.system = system


class RankError(ElectretError):
    """Another process of a training or evaluation that several share has ended before its time."""


class OutputError(InputError, OSError):
    """A file or folder cannot be written, or must not be: it exists, is read, or belongs to another process.

    The message names file and remedy.
    """
