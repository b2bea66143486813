"""Charge of a slab against its Fermi level: capacitance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from matplotlib.figure import Figure

from electret.analysis.probes.base import (
    Advance,
    Capability,
    Colours,
    Probe,
    ProbeTable,
    Results,
    calculator,
    model_table,
    number,
)
from electret.errors import InputError
from electret.models import Model

__all__ = ["Capacitance"]


class Capacitance(Probe):
    """One structure at several charges, each labelled with its Fermi level."""

    asks_for: ClassVar[Capability] = "fermi_level"
    title: ClassVar[str] = "Capacitance"
    note: ClassVar[str] = (
        "Charge at the Fermi levels of the labels, and the capacitance C = -dQ/dmu: from the slope of these "
        "charges, and exactly from the response of the density at the charge next to zero. The labels have "
        "the slope alone."
    )

    needs: ClassVar[tuple[str, ...]] = ("total_charge", "fermi_level")

    def structures(self) -> list[Atoms]:
        """At least two charges."""
        frames = super().structures()
        if len({float(atoms.info["total_charge"]) for atoms in frames}) < 2:
            raise InputError(f"{self.data}: the frames have one charge only; a capacitance needs two")
        return sorted(frames, key=lambda atoms: float(atoms.info["total_charge"]))

    def measure(self, model: Model, frames: Sequence[Atoms], advance: Advance) -> dict[str, Any]:
        """`level [n]` eV at the charges of the labels, `charge [n]` e at their Fermi levels, `exact` e/V."""
        at_charge = calculator(model)
        at_level = calculator(model)
        at_level.ignore = frozenset({*model.config.ignored_conditions, "total_charge"})
        levels, charges = [], []
        for atoms in frames:
            at_charge.get_property("energy", atoms)
            levels.append(float(at_charge.state["fermi_level"]))
            at_level.get_property("energy", atoms)
            charges.append(float(at_level.state["total_charge"]))
            advance(f"charge {atoms.info['total_charge']:g} e")
        middle = min(frames, key=lambda atoms: abs(float(atoms.info["total_charge"])))
        exact = float(at_charge.response(middle, ["capacitance"])["capacitance"])
        return {"level": levels, "charge": charges, "exact": exact}

    def tables(self, results: Results, frames: Sequence[Atoms]) -> list[ProbeTable]:
        """One row per model."""
        true_charge, true_level = _labels(frames)
        columns: dict[str, Callable[[Any], str]] = {
            "C from charges / e/V": lambda entry: number(_slope(true_level, np.array(entry["charge"]))),
            "C from response / e/V": lambda entry: number(entry["exact"]),
            "MAE of the charge / me": lambda entry: number(1e3 * _mae(entry["charge"], true_charge)),
            "MAE of the Fermi level / meV": lambda entry: number(1e3 * _mae(entry["level"], true_level)),
        }
        labels = ["labels", number(_slope(true_level, true_charge)), "—", "—", "—"]
        return model_table(results, columns, [labels])

    def figure(self, results: Results, frames: Sequence[Atoms], colours: Colours) -> Figure | None:
        """Charge against Fermi level."""
        charge, level = _labels(frames)
        figure = Figure(figsize=(5.5, 4.0), layout="constrained")
        axes = figure.subplots()
        axes.plot(level, charge, "k--", linewidth=2, label="labels")
        for model, entry in results.items():
            axes.plot(level, entry["charge"], "o-", ms=4, color=colours[model], label=model)
        axes.set(xlabel="Fermi level / eV", ylabel="charge / e")
        axes.legend(frameon=False, fontsize=8)
        return figure


def _labels(frames: Sequence[Atoms]) -> tuple[np.ndarray, np.ndarray]:
    """Charges (e) and Fermi levels (eV) `[n]` of the labels."""
    pairs = [(float(atoms.info["total_charge"]), float(atoms.info["fermi_level"])) for atoms in frames]
    charge, level = np.array(pairs).T
    return charge, level


def _mae(found: Sequence[float], true: np.ndarray) -> float:
    return float(np.abs(np.array(found) - true).mean())


def _slope(level: np.ndarray, charge: np.ndarray) -> float:
    """-dQ/dmu of the regression, e/V."""
    return -float(np.polyfit(level, charge, 1)[0])
