"""Model families side by side on the same data: `electret compare`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from electret.analysis.assessment import Assessment, assess
from electret.analysis.entries import Entry, prepare
from electret.data import DataKeys, GraphDataset, print_report, read_frames
from electret.data.frames import bound
from electret.data.keys import DipoleOrigin
from electret.errors import InputError
from electret.models import load
from electret.models.files import dtype_name
from electret.support.console import progress_bar, standard_console

__all__ = ["Comparison", "Entry", "compare"]


@dataclass
class Comparison:
    """Assessments of several models on several data sets.

    Attributes:
        families: family of each model, by name, in the order of comparison.
        files: model file of each model.
        sets: data set -> model -> assessment.
        refused: data set -> model -> why it could not be evaluated there.
    """

    families: dict[str, str] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    sets: dict[str, dict[str, Assessment]] = field(default_factory=dict)
    refused: dict[str, dict[str, str]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers in eV, Å, e for JSON."""
        return {
            "models": {
                name: {"family": family, "file": str(self.files[name])}
                for name, family in self.families.items()
            },
            "sets": {
                set_name: {name: entry.as_dict() for name, entry in entries.items()}
                for set_name, entries in self.sets.items()
            },
            "refused": self.refused,
        }


def compare(
    entries: Sequence[Entry],
    data: Mapping[str, Sequence[Path]],
    *,
    keys: DataKeys | None = None,
    dipole_origin: DipoleOrigin | None = None,
    batch_size: int = 10,
    device: str = "cpu",
    dtype: str | None = None,
    console: Console | None = None,
) -> Comparison:
    """Evaluate every model on every data set; models that are training configurations are trained first.

    A model that refuses a data set, as a family without a response to the fields in it, is reported with its
    reason in `Comparison.refused` and does not stop the others.

    Args:
        entries: the models, with distinct names.
        data: files of each data set.
        keys: names of labels in the files.
        dipole_origin: point about which dipole labels of charged open systems are given; None is the origin.
        batch_size: frames computed at once.
        device: of torch.
        dtype: `"float32"` or `"float64"`; None keeps that of each model.
        console: where progress is shown; standard output where None.

    Raises:
        InputError: files that cannot be used, or no model that can be evaluated on any set.
        TrainingInterrupted: stopped while training; the same call continues.
    """
    console = console or standard_console()
    dtype_name(dtype)  # refused before any training
    if not entries or not data:
        raise InputError("nothing to compare: give at least one model and one data set")
    names = keys or DataKeys()
    # Read before any training: a slip in the name of a file must not show up after hours.
    frames = {set_name: read_frames(files, names, dipole_origin) for set_name, files in data.items()}
    print_report(console, frames, names, dipole_origin)
    files = prepare(entries, console)
    comparison = Comparison(
        files=files, sets={name: {} for name in data}, refused={name: {} for name in data}
    )
    with progress_bar(console) as progress:
        total = sum(map(len, frames.values())) * len(files)
        task = progress.add_task("evaluating", total=total)
        for name, file in files.items():
            model = load(file, device=device, dtype=dtype)
            comparison.families[name] = model.family
            for set_name, labelled in frames.items():
                progress.update(task, description=f"{name} on {set_name}")
                dataset = GraphDataset(bound(labelled), model.cutoff, model.dtype)
                try:
                    comparison.sets[set_name][name] = assess(
                        model, dataset, batch_size, lambda indices, *_: progress.advance(task, len(indices))
                    )
                except InputError as error:
                    comparison.refused[set_name][name] = str(error)
    if not any(comparison.sets.values()):
        reasons = "; ".join(
            f"{name}: {text}" for entry in comparison.refused.values() for name, text in entry.items()
        )
        raise InputError(f"no model could be evaluated: {reasons}")
    return comparison
