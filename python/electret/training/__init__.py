"""Training of models from one YAML file: stages, losses, checkpoints with exact resume, reports."""

from typing import TYPE_CHECKING

from electret.support.deferred import names_from

if TYPE_CHECKING:
    from electret.training.check import StageCheck, check
    from electret.training.committee import train_committee
    from electret.training.config import (
        DataConfig,
        LearningRates,
        LossConfig,
        OptimizerConfig,
        SchedulerConfig,
        StageConfig,
        TrainingConfig,
    )
    from electret.training.errors import CheckpointError, NonFiniteError, TrainingInterrupted
    from electret.training.evaluation import evaluate
    from electret.training.metrics import Metrics
    from electret.training.run import TrainingResult, train

__all__ = [
    "CheckpointError",
    "DataConfig",
    "LearningRates",
    "LossConfig",
    "Metrics",
    "NonFiniteError",
    "OptimizerConfig",
    "SchedulerConfig",
    "StageCheck",
    "StageConfig",
    "TrainingConfig",
    "TrainingInterrupted",
    "TrainingResult",
    "check",
    "evaluate",
    "train",
    "train_committee",
]

# Configurations are read and checked without the training loop.
__getattr__ = names_from(__name__, ("errors", "config", "metrics", "evaluation", "run", "committee", "check"))
