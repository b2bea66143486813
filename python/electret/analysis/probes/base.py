"""Base of the probes: measurements of a physical property of several models on given structures."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from ase import Atoms
from ase.io import read
from matplotlib.figure import Figure
from pydantic import Field

from electret.calculator import Calculator
from electret.errors import InputError
from electret.models import Model
from electret.models.config import StrictConfig

__all__ = [
    "Advance",
    "Capability",
    "Colours",
    "Probe",
    "ProbeTable",
    "Results",
    "Trajectory",
    "calculator",
    "curves_in_time",
    "labelled_groups",
    "model_table",
    "number",
]

Advance = Callable[[str], None]
"""Receives a word on each finished part, for the progress bar."""

Results = Mapping[str, Mapping[str, Any]]
"""Plain numbers (JSON) by model."""

Capability = Literal["nothing", "density", "self_consistency", "fermi_level"]
"""Part of a model that a probe cannot do without."""

Colours = Mapping[str, str]
"""Colour of each model."""


@dataclass(frozen=True)
class ProbeTable:
    """Part of a report.

    Attributes:
        headings: of the columns, with units.
        rows: texts, the first that of the model unless the headings say otherwise.
        title: above the table, empty where there is one table only.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""


class Probe(StrictConfig):
    """Options of a probe and what it does.

    Subclasses say what to `measure` for one model (plain numbers, so that they can be kept in a file) and how
    to show the numbers of all models as `tables` and `figure`.
    """

    asks_for: ClassVar[Capability]
    """Models without it are left out."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Keys of `info` or `arrays` of every structure."""
    title: ClassVar[str]
    note: ClassVar[str]
    """Explanation of the numbers with their units; below the title in the report."""

    data: Path
    """Structures, a file that ASE reads."""
    models: tuple[str, ...] | None = None
    """Only these models; None takes every one that the probe applies to."""

    def refusal(self, model: Model) -> str | None:
        """Reason for which the probe leaves the model out, or None."""
        explicit = f"the density of family '{model.family}' is explicit"
        if self.asks_for == "density" and not model.description.properties:
            return f"family '{model.family}' has no density"
        if self.asks_for in ("self_consistency", "fermi_level") and not model.self_consistent:
            return explicit
        if self.asks_for == "fermi_level" and "fermi_level" not in model.honours:
            return "its charges do not respond to a Fermi level"
        return None

    def measure(self, model: Model, frames: Sequence[Atoms], advance: Advance) -> dict[str, Any]:
        """Numbers of one model on the structures of `data`."""
        raise NotImplementedError

    def tables(self, results: Results, frames: Sequence[Atoms]) -> list[ProbeTable]:
        """The numbers of all models."""
        raise NotImplementedError

    def figure(self, results: Results, frames: Sequence[Atoms], colours: Colours) -> Figure | None:
        """A figure of the numbers of all models; None without numbers to draw."""
        return None

    def structures(self) -> list[Atoms]:
        """Structures of `data`, checked for what the probe needs.

        Raises:
            InputError: no such file, no frames, or something missing in one; names file, frame and remedy.
        """
        if not self.data.is_file():
            raise InputError(f"file '{self.data}' of the probe does not exist")
        try:
            frames = list(read(self.data, ":"))
        except Exception as error:
            raise InputError(f"{self.data}: ASE cannot read this file: {error}") from error
        if not frames:
            raise InputError(f"{self.data}: the file holds no frame")
        for index, atoms in enumerate(frames):
            lacking = [key for key in self.needs if key not in atoms.info and key not in atoms.arrays]
            if lacking:
                raise InputError(
                    f"{self.data}, frame {index}: no {', '.join(lacking)}, which the probe needs"
                )
        return frames


class Trajectory(Probe):
    """A probe that runs molecular dynamics from one structure."""

    frame: int = 0
    """Index of the structure in `data`."""
    timestep: float = Field(default=1.0, gt=0)
    """fs."""
    temperature: float = Field(default=300.0, gt=0)
    """K, of the first velocities and of thermostats."""
    seed: int = 0

    def structures(self) -> list[Atoms]:
        """The structure."""
        frames = super().structures()
        if not -len(frames) <= self.frame < len(frames):
            raise InputError(f"{self.data}: frame {self.frame} of {len(frames)} does not exist")
        return [frames[self.frame]]


def calculator(model: Model, **options: Any) -> Calculator:
    """A calculator of the model that ignores the labels of a frame and the conditions that the model
    ignores by its configuration."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch, where the calculator copies the model
        return Calculator(model, ignore=("fermi_level", *model.config.ignored_conditions), **options)


def labelled_groups(frames: Sequence[Atoms], key: str) -> dict[str, list[int]]:
    """Indices of the frames with each value of an entry of `info`, in the order of the file."""
    groups: dict[str, list[int]] = {}
    for index, atoms in enumerate(frames):
        groups.setdefault(str(atoms.info[key]), []).append(index)
    return groups


def model_table(
    results: Results, columns: Mapping[str, Callable[[Any], str]], first: Sequence[Sequence[str]] = ()
) -> list[ProbeTable]:
    """A row per model below the `first` ones: under each heading the text of the model's numbers."""
    rows = [[model, *(text(entry) for text in columns.values())] for model, entry in results.items()]
    return [ProbeTable(["model", *columns], [*first, *rows])]


def curves_in_time(results: Results, quantity: str, label: str, colours: Colours, height: float) -> Figure:
    """`quantity` of each model that has run against its `time` in ps; `height` in inches."""
    figure = Figure(figsize=(6.5, height), layout="constrained")
    axes = figure.subplots()
    for model, entry in results.items():
        if "time" in entry:
            axes.plot(entry["time"], entry[quantity], linewidth=0.8, color=colours[model], label=model)
    axes.set(xlabel="time / ps", ylabel=label)
    axes.legend(frameon=False, fontsize=8)
    return figure


def number(value: float | None, digits: int = 3) -> str:
    """A number for tables; a dash where there is none."""
    return "—" if value is None or not np.isfinite(value) else f"{value:.{digits}g}"
