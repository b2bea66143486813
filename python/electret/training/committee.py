"""Training of a committee: the run of a configuration for several seeds, on the same data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console

from electret.errors import InputError
from electret.models import read_header
from electret.support import ranks
from electret.support.console import PlainTable, say, standard_console
from electret.support.outputs import MODEL_FILE, holds_run
from electret.training.config import TrainingConfig
from electret.training.errors import CheckpointError
from electret.training.run import check_folder, load_data, train
from electret.training.targets import TARGETS

__all__ = ["train_committee"]


def train_committee(
    config: TrainingConfig,
    seeds: int,
    *,
    resume: bool = False,
    restart: bool = False,
    console: Console | None = None,
) -> list[Path]:
    """Train the model of `config` with the seeds s, s + 1, ..., s the seed of the config, one after another.

    Member k is a run of its own in the folder `seed-<s + k>` of the run. Initial weights and the order of the
    batches differ; data and validation split are those of seed s.

    Args:
        config: the run, see `TrainingConfig.from_yaml`.
        seeds: number of members, two or more.
        resume: go on where the last call ended; members with a model are finished.
        restart: begin anew; earlier runs are kept beside.
        console: where progress is shown; None: standard output.

    Returns:
        Model files of the members, as `electret.calculator.Committee` takes them.

    Raises:
        InputError: fewer than two seeds, and whatever `train` raises.
        CheckpointError: a member is in the way (nothing is trained then), or none is there to resume.
    """
    if seeds < 2:
        raise InputError(f"seeds = {seeds}; a committee needs two or more members")
    console = console or standard_console(quiet=not ranks.is_first())
    members = [
        config.model_copy(
            update={"seed": config.seed + k, "output": config.run_folder / f"seed-{config.seed + k}"}
        )
        for k in range(seeds)
    ]
    begun = [member.run_folder for member in members if holds_run(member.run_folder)]
    for member in () if resume else members:
        check_folder(member, resume, restart)  # of all before any is trained
    if resume and not begun:
        raise CheckpointError(
            f"no member of a committee in '{config.run_folder}' to resume; begin without --resume"
        )
    data = load_data(config)
    for member in members:
        folder = member.run_folder
        say(console, f"committee: seed {member.seed} in {folder}")
        if resume and (folder / MODEL_FILE).is_file():
            say(console, "finished before")
        else:
            train(member, resume=resume and folder in begun, restart=restart, console=console, data=data)
    files = [member.run_folder / MODEL_FILE for member in members]
    _summary(files, [member.seed for member in members]).show(console)
    return files


def _summary(files: list[Path], seeds: list[int]) -> PlainTable:
    """Validation errors of the members, and their mean."""
    errors = [read_header(file)["metadata"]["errors"]["valid"] for file in files]
    table = PlainTable(
        "Validation MAE of the committee", ("target", *(f"seed {seed}" for seed in seeds), "mean", "unit")
    )
    for name, target in TARGETS.items():
        if all(name in found for found in errors):
            values = np.array([found[name]["mae"] for found in errors]) * target.scale
            table.add_row(name, *(f"{value:.4g}" for value in (*values, values.mean())), target.unit)
    return table
