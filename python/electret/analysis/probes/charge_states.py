"""A defect at several charges and the same positions: energies, Fermi levels, place of the charge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from ase.geometry import get_distances
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
    labelled_groups,
)
from electret.errors import InputError
from electret.models import Model

__all__ = ["ChargeStates"]


class ChargeStates(Probe):
    """Frames of the same `structure`, each at another total charge, with the place of the defect in
    `vacancy`."""

    asks_for: ClassVar[Capability] = "nothing"
    title: ClassVar[str] = "Charge states of the defect"
    note: ClassVar[str] = (
        "Same positions, other total charge; differences to the lowest charge. The last column is the part "
        "of the added charge that sits on atoms near the defect."
    )

    radius: float = Field(default=4.0, gt=0)
    """Around the defect, Å."""

    needs: ClassVar[tuple[str, ...]] = ("structure", "vacancy", "total_charge", "REF_energy", "REF_charges")

    def structures(self) -> list[Atoms]:
        """Each structure at two charges or more."""
        frames = super().structures()
        for name, indices in labelled_groups(frames, "structure").items():
            if len({float(frames[k].info["total_charge"]) for k in indices}) < 2:
                raise InputError(
                    f"{self.data}: structure {name} has one charge only; give each at two or more"
                )
        return frames

    def measure(self, model: Model, frames: Sequence[Atoms], advance: Advance) -> dict[str, Any]:
        """Energy (eV), Fermi level (eV), and charge near the defect (e) of each frame; null where the model
        has none."""
        calc = calculator(model)
        found: dict[str, list[float | None]] = {"energy": [], "level": [], "near": []}
        for index, atoms in enumerate(frames):
            found["energy"].append(float(calc.get_property("energy", atoms)))
            level = calc.state.get("fermi_level")
            found["level"].append(None if level is None else float(level))
            charges = calc.results.get("charges")
            found["near"].append(None if charges is None else float(np.sum(charges[self._near(atoms)])))
            advance(f"frame {index + 1} of {len(frames)}")
        return found

    def reference(self, frames: Sequence[Atoms]) -> dict[str, Any]:
        """Numbers of the labels, as of `measure`."""
        return {
            "energy": [float(atoms.info["REF_energy"]) for atoms in frames],
            "level": [atoms.info.get("fermi_level") for atoms in frames],
            "near": [float(atoms.arrays["REF_charges"][self._near(atoms)].sum()) for atoms in frames],
        }

    def _near(self, atoms: Atoms) -> np.ndarray:
        """True for atoms within the radius, `[n_atoms]`."""
        centre = np.asarray(atoms.info["vacancy"], dtype=float)[None]
        distances = get_distances(centre, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)[1][0]
        return np.asarray(distances < self.radius)

    def changes(self, entry: dict[str, Any], frames: Sequence[Atoms]) -> dict[float, dict[str, np.ndarray]]:
        """Per charge: energy differences `energy`, parts of the added charge `near` (`even`: spread evenly)
        and levels `level`, one number per structure, nan where the model has none."""
        found: dict[float, dict[str, list[float]]] = {}
        for indices in labelled_groups(frames, "structure").values():
            ordered = sorted(indices, key=lambda k: float(frames[k].info["total_charge"]))
            first = ordered[0]
            for k in ordered:
                charge = float(frames[k].info["total_charge"])
                added = charge - float(frames[first].info["total_charge"])
                row = found.setdefault(charge, {"energy": [], "near": [], "level": [], "even": []})
                row["energy"].append(entry["energy"][k] - entry["energy"][first])
                row["level"].append(_value(entry["level"][k]))
                row["near"].append(
                    (_value(entry["near"][k]) - _value(entry["near"][first])) / added if added else np.nan
                )
                row["even"].append(float(self._near(frames[k]).mean()))
        return {
            charge: {name: np.array(values) for name, values in row.items()} for charge, row in found.items()
        }

    def tables(self, results: Results, frames: Sequence[Atoms]) -> list[ProbeTable]:
        """One row per charge and model."""
        true = self.changes(self.reference(frames), frames)
        rows = []
        for charge in sorted(true):
            for model, entry in {"labels": self.reference(frames), **results}.items():
                found = self.changes(dict(entry), frames)[charge]
                error = np.abs(found["energy"] - true[charge]["energy"]).mean()
                level_error = np.abs(found["level"] - true[charge]["level"]).mean()
                own = model == "labels"
                lowest = charge == min(true)
                rows.append(
                    [
                        model,
                        f"{charge:+g}",
                        "—" if lowest else f"{found['energy'].mean():.2f}",
                        "—" if lowest or own else f"{error:.3f}",
                        "—" if not np.isfinite(found["level"]).all() else f"{found['level'].mean():.2f}",
                        "—" if own or not np.isfinite(level_error) else f"{level_error:.3f}",
                        "—"
                        if lowest or not np.isfinite(found["near"]).all()
                        else f"{found['near'].mean():.2f}",
                    ]
                )
        even = float(np.mean([row["even"].mean() for row in true.values()]))
        headings = [
            "model",
            "charge / e",
            "energy difference / eV",
            "MAE / eV",
            "Fermi level / eV",
            "MAE / eV",
            f"part within {self.radius:g} Å (spread evenly: {even:.2f})",
        ]
        return [ProbeTable(headings, rows)]

    def figure(self, results: Results, frames: Sequence[Atoms], colours: Colours) -> Figure | None:
        """Energy differences against the labels, Fermi level against charge, part of the charge near the
        defect."""
        reference = self.reference(frames)
        true = self.changes(reference, frames)
        charges = [charge for charge in sorted(true) if charge != min(true)]
        figure = Figure(figsize=(13.0, 4.2), layout="constrained")
        left, middle, right = figure.subplots(1, 3)
        everything = np.concatenate([true[charge]["energy"] for charge in charges])
        left.plot(
            [everything.min(), everything.max()], [everything.min(), everything.max()], "k--", linewidth=1
        )
        middle.plot(
            sorted(true), [true[charge]["level"].mean() for charge in sorted(true)], "k--", linewidth=2
        )
        width = 0.8 / (len(results) + 1)
        for place, (model, entry) in enumerate({"labels": reference, **results}.items()):
            found = self.changes(dict(entry), frames)
            colour = "0.3" if model == "labels" else colours[model]
            heights = [found[charge]["near"].mean() for charge in charges]
            right.bar(np.arange(len(charges)) + place * width, heights, width, color=colour, label=model)
            if model == "labels":
                continue
            left.plot(
                everything,
                np.concatenate([found[charge]["energy"] for charge in charges]),
                "o",
                ms=4,
                color=colour,
                label=model,
            )
            levels = [found[charge]["level"].mean() for charge in sorted(true)]
            middle.plot(sorted(true), levels, "o-", ms=4, color=colour)
        left.set(xlabel="energy difference of the labels / eV", ylabel="of the model / eV")
        middle.set(xlabel="charge / e", ylabel="Fermi level / eV", xticks=sorted(true))
        right.set_xticks(np.arange(len(charges)) + 0.4, [f"{charge:+g} e" for charge in charges])
        even = float(np.mean([row["even"].mean() for row in true.values()]))
        right.axhline(even, color="0.5", linestyle=":")
        right.set(ylabel=f"part of the added charge within {self.radius:g} Å")
        figure.legend(*right.get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
        return figure


def _value(entry: float | None) -> float:
    return float("nan") if entry is None else float(entry)
