"""Potential across a slab in a field along its normal: flat inside a conductor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pydantic import Field

import electret
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
from electret.units import COULOMB_CONSTANT

__all__ = ["Screening"]


class Screening(Probe):
    """One slab, periodic along x and y only, without and with a field along z."""

    asks_for: ClassVar[Capability] = "density"
    title: ClassVar[str] = "Screening inside a slab"
    note: ClassVar[str] = (
        "Change of the plane-averaged potential when the field is put on. `field inside` is its slope over "
        "the middle third of the slab relative to the applied field: 0 in a conductor, 1 without a response. "
        "`surface charge` is that of the upper half relative to F A/(4 pi K), which screens the field fully."
    )

    field: float = Field(default=0.1, allow_inf_nan=False)
    """Along z, V/Å."""
    points: int = Field(default=161, ge=10)
    """Heights at which the potential is taken."""
    grid: int = Field(default=6, ge=1)
    """Points along each periodic axis for the average over the plane."""
    margin: float = Field(default=8.0, gt=0)
    """How far the heights go beyond the outermost atoms, Å."""

    def structures(self) -> list[Atoms]:
        """One slab whose third axis is open."""
        frames = super().structures()[:1]
        if list(frames[0].pbc) != [True, True, False] or self.field == 0:
            raise InputError(
                f"{self.data}, frame 0: pbc is {frames[0].pbc.tolist()} and the field {self.field} V/Å; give "
                "a slab that is periodic along its first two cell vectors only, and a field that is not zero"
            )
        return frames

    def measure(self, model: Model, frames: Sequence[Atoms], advance: Advance) -> dict[str, Any]:
        """`z [n]` Å, `potential [n]` V (total change), `inside`, `surface_charge` (relative)."""
        (slab,) = frames
        calc = calculator(model)
        induced = []
        for strength in (0.0, self.field):
            atoms = slab.copy()
            atoms.info["external_field"] = np.array([0.0, 0.0, strength])
            atoms.info["total_charge"] = 0.0
            calc.get_property("energy", atoms)
            induced.append(calc.state["multipoles"].copy())
            advance(f"field {strength:g} V/Å")
        change = induced[1] - induced[0]  # [n_atoms, n_lm]
        z = slab.positions[:, 2]
        heights = np.linspace(z.min() - self.margin, z.max() + self.margin, self.points)
        potential = self._plane_average(model, slab, change, heights) - self.field * heights
        thickness, centre = z.max() - z.min(), (z.max() + z.min()) / 2
        middle = np.abs(heights - centre) < thickness / 6
        slope = float(np.polyfit(heights[middle], potential[middle], 1)[0])
        area = float(np.linalg.norm(np.cross(slab.cell[0], slab.cell[1])))
        full = self.field * area / (4 * np.pi * COULOMB_CONSTANT)
        # A layer in the middle belongs to both halves.
        weight = np.where(np.abs(z - centre) < 1e-3, 0.5, z > centre)
        dipole = float(change[:, 0] @ z + (change[:, 2].sum() if change.shape[1] > 2 else 0.0))
        return {
            "z": (heights - centre).tolist(),
            "potential": (potential - np.interp(centre, heights, potential)).tolist(),
            "inside": -slope / self.field,
            "surface_charge": float(weight @ change[:, 0]) / full,
            "screening_thickness": dipole / full,
            "thickness": thickness,
        }

    def _plane_average(
        self, model: Model, slab: Atoms, multipoles: NDArray[np.float64], heights: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Potential of the multipoles averaged over planes at `heights`, `[n]` V."""
        fractions = (np.arange(self.grid) + 0.5) / self.grid
        plane = (fractions[:, None, None] * slab.cell[0] + fractions[None, :, None] * slab.cell[1]).reshape(
            -1, 3
        )
        points = plane[None] + np.array([0.0, 0.0, 1.0]) * heights[:, None, None]  # [n, grid², 3]
        sigma = model.config.electrostatics.sigma
        widths = [sigma[symbol] for symbol in slab.symbols] if isinstance(sigma, dict) else sigma
        values = electret.potential(
            points.reshape(-1, 3), slab.positions, multipoles, widths, cell=slab.cell[:], pbc=slab.pbc
        )
        return np.asarray(values).reshape(len(heights), -1).mean(axis=1)

    def tables(self, results: Results, frames: Sequence[Atoms]) -> list[ProbeTable]:
        """One row per model."""
        columns: dict[str, Callable[[Any], str]] = {
            "field inside": lambda entry: f"{entry['inside']:.3f}",
            "surface charge": lambda entry: number(entry["surface_charge"]),
            "dipole / surface charge that screens, Å": lambda entry: (
                f"{entry['screening_thickness']:.1f} of {entry['thickness']:.1f}"
            ),
        }
        return model_table(results, columns)

    def figure(self, results: Results, frames: Sequence[Atoms], colours: Colours) -> Figure | None:
        """Change of the potential against height."""
        figure = Figure(figsize=(6.5, 4.2), layout="constrained")
        axes = figure.subplots()
        z = frames[0].positions[:, 2]
        for height in np.unique(np.round(z - (z.max() + z.min()) / 2, 3)):
            axes.axvline(height, color="0.85", linewidth=4, zorder=0)
        for model, entry in results.items():
            axes.plot(entry["z"], entry["potential"], color=colours[model], label=model)
        first = next(iter(results.values()))
        axes.plot(first["z"], -self.field * np.array(first["z"]), "k:", label="applied field alone")
        axes.set(
            xlabel="height from the middle of the slab / Å",
            ylabel=f"change of the potential at {self.field:g} V/Å / V",
        )
        axes.legend(frameon=False, fontsize=8)
        return figure
