"""Polarisability per molecule against the number of molecules: flat for an insulator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from ase import Atoms
from matplotlib.figure import Figure
from pydantic import Field

from electret.analysis.probes.base import (
    Advance,
    Capability,
    Colours,
    Probe,
    ProbeTable,
    Results,
    calculator,
    number,
)
from electret.models import Model

__all__ = ["MoleculePolarizability"]


class MoleculePolarizability(Probe):
    """Clusters of one molecule in growing numbers, each with its polarisability."""

    asks_for: ClassVar[Capability] = "density"
    title: ClassVar[str] = "Polarisability per molecule against size"
    note: ClassVar[str] = (
        "Component along the axis per molecule, e·Å²/V. `growth` is the exponent k in alpha ~ n^k between "
        "the two largest clusters: 1 where the molecules respond one by one, up to 3 where charge flows "
        "through the row. An explicit density has no response to the field, its polarisability is zero."
    )

    axis: Literal["x", "y", "z"] = "z"
    """Direction of the row."""
    atoms_per_molecule: int = Field(default=3, ge=1)

    needs: ClassVar[tuple[str, ...]] = ("REF_polarizability",)

    def measure(self, model: Model, frames: Sequence[Atoms], advance: Advance) -> dict[str, Any]:
        """`size [n]` molecules, `along [n]` and `mean [n]` per molecule, e·Å²/V."""
        calc = calculator(model)
        tensors = []
        for index, atoms in enumerate(frames):
            responds = "polarizability" in model.available_properties and model.self_consistent
            tensors.append(
                np.array(calc.get_property("polarizability", atoms)) if responds else np.zeros((3, 3))
            )
            advance(f"cluster {index + 1} of {len(frames)}")
        return self._per_molecule(frames, tensors)

    def reference(self, frames: Sequence[Atoms]) -> dict[str, Any]:
        """Numbers of the labels, as of `measure`."""
        tensors = [np.reshape(atoms.info["REF_polarizability"], (3, 3)) for atoms in frames]
        return self._per_molecule(frames, tensors)

    def _per_molecule(self, frames: Sequence[Atoms], tensors: Sequence[np.ndarray]) -> dict[str, Any]:
        sizes = [len(atoms) // self.atoms_per_molecule for atoms in frames]
        component = "xyz".index(self.axis)
        order = np.argsort(sizes, kind="stable")
        return {
            "size": [sizes[k] for k in order],
            "along": [float(tensors[k][component, component]) / sizes[k] for k in order],
            "mean": [float(np.trace(tensors[k])) / 3 / sizes[k] for k in order],
        }

    def tables(self, results: Results, frames: Sequence[Atoms]) -> list[ProbeTable]:
        """One row per model and one of the labels."""
        rows = [
            [
                model,
                *(number(value) for value in entry["along"]),
                number(_growth(entry), 3),
            ]
            for model, entry in {"labels": self.reference(frames), **results}.items()
        ]
        sizes = self.reference(frames)["size"]
        return [ProbeTable(["model", *(f"n = {size}" for size in sizes), "growth"], rows)]

    def figure(self, results: Results, frames: Sequence[Atoms], colours: Colours) -> Figure | None:
        """Component along the row, and relative to a single molecule."""
        true = self.reference(frames)
        figure = Figure(figsize=(9.0, 4.0), layout="constrained")
        left, right = figure.subplots(1, 2)
        for axes, relative in ((left, False), (right, True)):
            for model, entry in {"labels": true, **results}.items():
                values = np.array(entry["along"])
                if relative and values[0] <= 0:
                    continue
                style = "k--" if model == "labels" else "o-"
                colour = {} if model == "labels" else {"color": colours[model]}
                axes.plot(
                    entry["size"], values / (values[0] if relative else 1), style, ms=3, label=model, **colour
                )
        left.set(
            xlabel="molecules", ylabel="polarisability along the row per molecule / e·Å²/V", yscale="symlog"
        )
        left.set_yscale("symlog", linthresh=0.01)
        right.set(xlabel="molecules", ylabel="relative to one molecule", xscale="log", yscale="log")
        left.legend(frameon=False, fontsize=7)
        return figure


def _growth(entry: Mapping[str, Any]) -> float:
    """Exponent of the total polarisability between the two largest sizes; nan where there is none."""
    if len(set(entry["size"][-2:])) < 2 or min(entry["along"][-2:]) <= 0:
        return float("nan")
    sizes = np.array(entry["size"][-2:], dtype=float)
    return float(np.diff(np.log(np.array(entry["along"][-2:]) * sizes))[0] / np.diff(np.log(sizes))[0])
