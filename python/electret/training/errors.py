"""Errors of a training run."""

import signal

from electret.errors import ElectretError

__all__ = ["CheckpointError", "NonFiniteError", "TrainingInterrupted"]


class CheckpointError(ElectretError):
    """A checkpoint is missing, corrupt, of another run, or in the way; the message names file and remedy."""


class NonFiniteError(ElectretError):
    """The loss or its gradient is NaN or infinite; the message names the frames."""


class TrainingInterrupted(ElectretError):
    """The run was stopped by a signal after writing a checkpoint; the message says how to go on.

    Attributes:
        signal: number of the signal; SIGPIPE where the reader of standard output is gone.
    """

    def __init__(self, message: str, signal: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.signal = int(signal)
