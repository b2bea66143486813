"""Induced dipole and induced charge per layer of structures in uniform fields."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from matplotlib.figure import Figure
from numpy.typing import NDArray

from electret.analysis.probes.base import (
    Advance,
    Capability,
    Colours,
    Probe,
    ProbeTable,
    Results,
    calculator,
    labelled_groups,
    number,
)
from electret.errors import InputError
from electret.models import Model

__all__ = ["FieldScan"]

Numbers = NDArray[np.float64]


class FieldScan(Probe):
    """One structure per `config_type` in several fields along one direction, one of them zero.

    `layer` numbers the layers of the atoms. Induced is what differs from the frame without a field.
    """

    asks_for: ClassVar[Capability] = "density"
    title: ClassVar[str] = "Charge and dipole induced by a field"
    note: ClassVar[str] = (
        "Induced dipole D(F) - D(0) along the field and charge of each layer Q(F) - Q(0). `slope` is the "
        "regression of the induced dipole on the field relative to the labels (1 is right, 0 no response)."
    )

    needs: ClassVar[tuple[str, ...]] = ("config_type", "external_field", "layer", "REF_charges", "REF_dipole")

    def measure(self, model: Model, frames: Sequence[Atoms], advance: Advance) -> dict[str, Any]:
        """Induced dipoles `[n_fields]` (e·Å) and layer charges `[n_fields, n_layers]` (e) of each group."""
        calc = calculator(model)
        charges: list[Numbers] = []
        dipoles: list[Numbers] = []
        for index, atoms in enumerate(frames):
            charges.append(np.array(calc.get_property("charges", atoms)))
            dipoles.append(np.array(calc.get_property("dipole", atoms)))
            advance(f"field {index + 1} of {len(frames)}")
        return _induced(frames, charges, dipoles)

    def reference(self, frames: Sequence[Atoms]) -> dict[str, Any]:
        """Numbers of the labels, as of `measure`."""
        return _induced(
            frames,
            [atoms.arrays["REF_charges"] for atoms in frames],
            [np.asarray(atoms.info["REF_dipole"], dtype=float) for atoms in frames],
        )

    def tables(self, results: Results, frames: Sequence[Atoms]) -> list[ProbeTable]:
        """One row per group and model."""
        rows = []
        for group, true in self.reference(frames).items():
            layers = np.array(true["layers"])
            for model, entry in results.items():
                found = entry[group]
                rows.append(
                    [
                        model,
                        group,
                        number(_slope(true)),
                        number(_slope(found)),
                        f"{_slope(found) / _slope(true):.2f}",
                        number(1e3 * float(np.abs(np.subtract(found["dipole"], true["dipole"])).mean())),
                        number(1e3 * float(np.abs(np.array(found["layers"]) - layers).mean())),
                        number(1e3 * float(np.abs(layers).mean())),
                    ]
                )
        headings = [
            "model",
            "structure",
            "labels / e·Å²/V",
            "model / e·Å²/V",
            "slope",
            "MAE of the dipole / me·Å",
            "MAE per layer / me",
            "mean size of labels per layer / me",
        ]
        return [ProbeTable(headings, rows)]

    def figure(self, results: Results, frames: Sequence[Atoms], colours: Colours) -> Figure | None:
        """A column per group: dipole against field, and charge per layer in the strongest field."""
        reference = self.reference(frames)
        figure = Figure(figsize=(4.2 * len(reference), 6.4), layout="constrained")
        grid = figure.subplots(2, len(reference), squeeze=False)
        for column, (group, true) in enumerate(reference.items()):
            top, bottom = grid[0, column], grid[1, column]
            strongest = int(np.argmax(true["field"]))
            top.plot(true["field"], true["dipole"], "k--", linewidth=2.0, label="labels", zorder=9)
            bottom.plot(true["number"], true["layers"][strongest], "k--", linewidth=2.0, zorder=9)
            for model, entry in results.items():
                found = entry[group]
                top.plot(found["field"], found["dipole"], "o-", ms=3, color=colours[model], label=model)
                bottom.plot(found["number"], found["layers"][strongest], "o-", ms=3, color=colours[model])
            top.set(title=group, xlabel="field / V/Å", ylabel="induced dipole / e·Å")
            bottom.set(
                xlabel="layer",
                ylabel=f"induced charge at {true['field'][strongest]:g} V/Å / e",
                xticks=true["number"],
            )
        figure.legend(
            *grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False
        )
        return figure


def _slope(entry: dict[str, Any]) -> float:
    """Induced dipole against field through the origin, e·Å²/V."""
    field, dipole = np.array(entry["field"]), np.array(entry["dipole"])
    return float(field @ dipole / (field @ field))


def _induced(
    frames: Sequence[Atoms], charges: Sequence[Numbers], dipoles: Sequence[Numbers]
) -> dict[str, Any]:
    found = {}
    for group, indices in labelled_groups(frames, "config_type").items():
        fields = np.array([np.asarray(frames[k].info["external_field"], dtype=float) for k in indices])
        strength = np.linalg.norm(fields, axis=1)
        direction = fields[np.argmax(strength)] / strength.max()
        along = fields @ direction  # [n_fields], V/Å
        if not np.allclose(fields, along[:, None] * direction, atol=1e-6) or strength.min() > 1e-9:
            raise InputError(
                f"structure '{group}': the fields must lie along one direction and one of them be zero"
            )
        zero = indices[int(np.argmin(strength))]
        layer = np.asarray(frames[zero].arrays["layer"], dtype=int)
        numbers = np.unique(layer)
        masks = layer == numbers[:, None]  # [n_layers, n_atoms]
        order = np.argsort(along)
        found[group] = {
            "field": along[order].tolist(),
            "number": numbers.tolist(),
            "dipole": [float((dipoles[indices[k]] - dipoles[zero]) @ direction) for k in order],
            "layers": [(masks @ (charges[indices[k]] - charges[zero])).tolist() for k in order],
        }
    return found
