"""Progress of a run, as plain numbers that a checkpoint holds."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

__all__ = ["Progress"]

DIVERGED = 1e4
"""A validation loss so many times that before the stage (a hundred times the errors) is never a best one."""


@dataclass
class Progress:
    """Position of a run.

    Attributes:
        epoch: epochs completed in all stages.
        stage: index of the current stage.
        stage_epoch: epochs completed in it.
        batch: batches done in the running epoch (0 between epochs).
        sums: loss terms of the running epoch, each summed over frames; `loss` and `frames` among them, and
            counts of the self-consistency.
        start_loss: validation loss before the stage, NaN until it is evaluated.
        best_loss: lowest validation loss of the stage.
        best_epoch: epoch that had it.
        stale_epochs: epochs since then.
        history: one row of numbers per completed epoch.
    """

    epoch: int = 0
    stage: int = 0
    stage_epoch: int = 0
    batch: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    start_loss: float = math.nan
    best_loss: float = math.inf
    best_epoch: int = 0
    stale_epochs: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)

    def begin_stage(self, stage: int) -> None:
        """Losses of different stages are not comparable, so the best one starts anew."""
        self.stage = stage
        self.stage_epoch = 0
        self.start_loss, self.best_loss, self.stale_epochs = math.nan, math.inf, 0

    @property
    def most_credible_loss(self) -> float:
        """Validation loss above which an epoch has diverged, as far as that before the stage says."""
        return DIVERGED * self.start_loss if 0 < self.start_loss < math.inf else math.inf

    def finish_epoch(self, valid_loss: float) -> bool:
        """Count an epoch; whether it is the best of its stage."""
        self.epoch += 1
        self.stage_epoch += 1
        self.batch = 0
        self.sums = {}
        if valid_loss < min(self.best_loss, self.most_credible_loss):
            self.best_loss, self.best_epoch, self.stale_epochs = valid_loss, self.epoch, 0
            return True
        self.stale_epochs += 1
        return False

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Progress:
        """From JSON."""
        return cls(**{entry.name: values[entry.name] for entry in fields(cls)})
