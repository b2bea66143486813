"""Plots of the demo."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from electret.demo.dynamics import Trajectory
from electret.training.plots import drawn

__all__ = ["FieldScan", "plot_dipoles", "plot_dynamics", "plot_parity", "plot_scan"]

Parity = dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]

AXES = {
    "energy": ("energy per atom", "eV"),
    "forces": ("force", "eV/Å"),
    "charges": ("charge", "e"),
    "dipole": ("dipole", "e·Å"),
}


def plot_parity(parity: Parity, path: Path | None = None) -> Figure:
    """Predictions against labels of energy, forces, charges and dipole."""
    shown = [name for name in AXES if name in parity]
    figure = Figure(figsize=(4 * len(shown), 4), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        labels, predictions = (np.ravel(values) for values in parity[name])
        bounds = [min(labels.min(), predictions.min()), max(labels.max(), predictions.max())]
        axes.plot(bounds, bounds, color="0.6", linewidth=1, zorder=0)
        axes.scatter(labels, predictions, s=6, alpha=0.5, linewidths=0)
        quantity, unit = AXES[name]
        axes.set(xlabel=f"GFN1-xTB {quantity} / {unit}", ylabel=f"model {quantity} / {unit}", aspect="equal")
    return drawn(figure, path)


def plot_dipoles(
    field: NDArray[np.float64],
    reference: NDArray[np.float64],
    predicted: NDArray[np.float64],
    path: Path | None = None,
) -> Figure:
    """Dipole along the field [n_frames], e·Å: parity, and the error against the field (V/Å)."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    bounds = [min(reference.min(), predicted.min()), max(reference.max(), predicted.max())]
    left.plot(bounds, bounds, color="0.6", linewidth=1, zorder=0)
    points = left.scatter(reference, predicted, c=field, s=14)
    figure.colorbar(points, ax=left, label="field / V/Å")
    left.set(xlabel="GFN1-xTB dipole along the field / e·Å", ylabel="model / e·Å", aspect="equal")
    right.axhline(0, color="0.6", linewidth=1, zorder=0)
    right.scatter(field, reference - predicted, s=14)
    right.set(xlabel="field / V/Å", ylabel="GFN1-xTB - model / e·Å")
    return drawn(figure, path)


@dataclass(frozen=True)
class FieldScan:
    """A cluster in fields along one direction.

    Attributes:
        fields: [n], V/Å.
        dipoles: [n] along the field, e·Å.
        charges: [n, n_atoms], e.
        heights: [n_atoms], positions along the field, Å.
        polarizability: along the field at zero field, e·Å²/V.
    """

    fields: NDArray[np.float64]
    dipoles: NDArray[np.float64]
    charges: NDArray[np.float64]
    heights: NDArray[np.float64]
    polarizability: float


def plot_scan(scan: FieldScan, path: Path | None = None) -> Figure:
    """Dipole against field with the slope of the response, and the induced charges against height."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    middle = len(scan.fields) // 2
    left.plot(scan.fields, scan.dipoles[middle] + scan.polarizability * scan.fields, color="0.6", linewidth=1)
    left.plot(scan.fields, scan.dipoles, "o", markersize=4)
    left.set(xlabel="field / V/Å", ylabel="dipole along the field / e·Å")
    right.axhline(0, color="0.6", linewidth=1, zorder=0)
    for index in (0, -1):
        induced = scan.charges[index] - scan.charges[middle]
        right.plot(scan.heights, induced, "o", markersize=4, label=f"{scan.fields[index]:+.1f} V/Å")
    right.set(xlabel="height along the field / Å", ylabel="induced charge / e")
    right.legend()
    return drawn(figure, path)


def plot_dynamics(trajectory: Trajectory, path: Path | None = None) -> Figure:
    """Energies and dipole along the run at constant energy."""
    figure = Figure(figsize=(7, 6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    start = trajectory.total[0]
    for label, energy in (
        ("potential", trajectory.potential - trajectory.potential[0]),
        ("kinetic", trajectory.kinetic - trajectory.kinetic[0]),
        ("total", trajectory.total - start),
    ):
        top.plot(trajectory.time, energy, label=label)
    top.set(ylabel="change of energy / eV")
    top.legend()
    bottom.plot(trajectory.time, trajectory.dipole_along_field)
    bottom.set(xlabel="time / ps", ylabel="dipole along the field / e·Å")
    return drawn(figure, path)
