"""A run before it is trained: its data, its model, and one step of every stage."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import torch
from rich.console import Console

from electret.support.console import PlainTable, say, standard_console
from electret.training.config import TrainingConfig
from electret.training.run import TrainingData, prepared
from electret.training.start import read_start

__all__ = ["StageCheck", "check"]

LARGEST_SHARE, SMALLEST_SHARE = 0.99, 1e-4
"""Shares of a term in the loss of a fresh model beyond which it decides alone, or does nothing."""


@dataclass(frozen=True)
class StageCheck:
    """One step of a stage on its first batch.

    Attributes:
        name: of the stage.
        terms: weighted terms of the loss by target.
        gradient_norm: before it is clipped.
        clipped: True if the step would be shortened.
        unconverged: frames of the batch without a self-consistent density.
        step_seconds: time of the step; of a second one, as the first warms up.
        epoch_seconds: estimate for an epoch, its validation included.
        epochs: of the stage.
        warnings: what should be changed first.
    """

    name: str
    terms: dict[str, float]
    gradient_norm: float
    clipped: bool
    unconverged: int
    step_seconds: float
    epoch_seconds: float
    epochs: int
    warnings: tuple[str, ...]


def check(
    config: TrainingConfig, *, console: Console | None = None, data: TrainingData | None = None
) -> list[StageCheck]:
    """Everything that `train` does up to its first step, and that step for every stage, with the parameters
    that a run begins with; nothing is written.

    Reports data, keys, magnitudes and warnings as `train` does, then the terms of the loss, the gradient, the
    self-consistency, time and memory. Errors are those of `train`.

    Args:
        config: the run.
        console: where the report is shown; None: standard output.
        data: of `load_data`; None: read.

    Example:
        >>> from electret.training import TrainingConfig, check
        >>> config = TrainingConfig.from_yaml("run.yaml")  # doctest: +SKIP
        >>> [stage.epoch_seconds for stage in check(config)]  # doctest: +SKIP
    """
    console = console or standard_console()
    source = None
    if config.model.start is not None:
        config, source = read_start(config)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        trainer, datasets = prepared(config, source, console, data)
        found = []
        for index, stage in enumerate(trainer.stages):
            trial = trainer.trial(index)
            whole = sum(trial.terms.values())
            shares = {name: term / whole if whole else 0.0 for name, term in trial.terms.items()}
            seconds = trial.batches * trial.step_seconds
            seconds += len(datasets["valid"]) / trial.frames * trial.evaluation_seconds
            unconverged = int(trial.sums.get("unconverged", 0))
            limit = stage.clip_grad
            checked = StageCheck(
                stage.name,
                trial.terms,
                trial.gradient_norm,
                limit is not None and trial.gradient_norm > limit,
                unconverged,
                trial.step_seconds,
                seconds,
                stage.epochs,
                tuple(_warnings(f"stages.{index}", shares, unconverged, trial.frames)),
            )
            _show(console, checked, shares, trial.sums, trial.frames)
            found.append(checked)
    total = sum(stage.epoch_seconds * stage.epochs for stage in found)
    say(
        console,
        f"estimate for the run: {_duration(total)}; memory at its peak: {_memory(config.device):.2f} GB",
    )
    return found


def _warnings(where: str, shares: dict[str, float], unconverged: int, frames: int) -> list[str]:
    found = []
    if not shares:
        found.append(f"{where}: the first batch has no label of the loss, or no frame of it converged")
    for name, share in shares.items():
        if share > LARGEST_SHARE and len(shares) > 1:
            found.append(f"{where}.loss.{name} is {share:.2%} of the loss; lower it, or raise others")
        elif share < SMALLEST_SHARE:
            found.append(f"{where}.loss.{name} is {share:.1e} of the loss; raise it, or lower the others")
    if unconverged:
        found.append(
            f"{where}: {unconverged} of {frames} frames have no self-consistent density; begin with a stage "
            "of mode direct"
        )
    return found


def _show(
    console: Console, checked: StageCheck, shares: dict[str, float], sums: dict[str, float], frames: int
) -> None:
    headings = ("target", "weighted term", "share of the loss")
    table = PlainTable(f"First step of stage '{checked.name}'", headings, right=headings[1:])
    for name, term in checked.terms.items():
        table.add_row(name, f"{term:.4g}", f"{shares[name]:.2%}")
    table.show(console)
    clipped = " (clipped)" if checked.clipped else ""
    iterations = ""
    if sums.get("scf_frames"):
        iterations = (
            f", {sums['scf_iterations'] / sums['scf_frames']:.1f} iterations, {checked.unconverged} of "
            f"{frames} frames unconverged"
        )
    say(
        console,
        f"gradient norm {checked.gradient_norm:.3g}{clipped}{iterations}; {checked.step_seconds:.3g} s per "
        f"step, {_duration(checked.epoch_seconds)} per epoch, {checked.epochs} epochs",
    )
    for warning in checked.warnings:
        say(console, f"warning: {warning}")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _memory(device: str) -> float:
    """Most memory of the process or the device so far, GB."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    try:
        import resource
    except ImportError:  # there is none on Windows
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
