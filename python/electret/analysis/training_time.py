"""Time that the training of a model took, from the log beside its file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from electret.support.outputs import CSV_FILE
from electret.training.run_log import read_history

__all__ = ["TrainingTime", "training_time"]


@dataclass(frozen=True)
class TrainingTime:
    """Wall time of a run.

    Attributes:
        epochs: that were run.
        seconds: of all of them, validation included.
    """

    epochs: int
    seconds: float


def training_time(model_file: Path) -> TrainingTime | None:
    """Time of the run whose folder holds the model; None where there is no log."""
    folder = model_file.parent
    if not (folder / CSV_FILE).is_file():
        return None
    history = read_history(folder)
    return TrainingTime(len(history), float(sum(row.get("seconds", 0.0) for row in history)))
