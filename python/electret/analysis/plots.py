"""Plots of a comparison: errors as bars, parity of every model and target, dipole against field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from electret.analysis.assessment import Assessment
from electret.analysis.comparison import Comparison
from electret.analysis.report import informative
from electret.training.plots import COLOURS, drawn
from electret.training.targets import TARGETS

__all__ = ["plot_comparison"]

_MOST_POINTS = 5000
_MOST_GROUPS = 12


def plot_comparison(comparison: Comparison, folder: Path | None = None) -> dict[str, Figure]:
    """Figures of every data set by name; with a folder, each is written there as `<name>.png`."""
    figures = {}

    def place(name: str) -> Path | None:
        return None if folder is None else folder / f"{name}.png"

    for set_name, entries in comparison.sets.items():
        if not entries:
            continue
        colours = dict(zip(comparison.families, COLOURS * len(comparison.families), strict=False))
        targets = informative(entries)
        if targets:
            name = f"errors_{set_name}"
            figures[name] = _errors(entries, targets, colours, place(name))
            name = f"parity_{set_name}"
            figures[name] = _parity(entries, targets, colours, place(name))
        if any(len(entry.dipoles) for entry in entries.values()):
            name = f"dipole_field_{set_name}"
            figures[name] = _dipoles(entries, colours, place(name))
    return figures


def _errors(
    entries: Mapping[str, Assessment], targets: Sequence[str], colours: Mapping[str, str], path: Path | None
) -> Figure:
    """One panel per target: MAE of each model, overall and per group of frames."""
    groups = ["all"]
    for kinds in ("metrics", "by_charge"):
        found = sorted(
            {kind for entry in entries.values() for kind in getattr(entry, kinds).errors} - {"all"}
        )
        groups += found if 1 < len(found) <= _MOST_GROUPS else []
    width = max(6.0, 0.22 * len(groups) * len(entries) + 2.0)
    figure = Figure(figsize=(width, 2.6 * len(targets)), layout="constrained")
    bar = 0.8 / len(entries)
    for axes, target in zip(figure.subplots(len(targets), 1, squeeze=False)[:, 0], targets, strict=True):
        for number, (name, entry) in enumerate(entries.items()):
            errors = {**entry.by_charge.errors, **entry.metrics.errors}
            heights = [
                errors[group][target].mae * TARGETS[target].scale
                if target in errors.get(group, {})
                else np.nan
                for group in groups
            ]
            places = np.arange(len(groups)) + (number - (len(entries) - 1) / 2) * bar
            axes.bar(places, heights, bar, color=colours[name], label=name)
        axes.set_xticks(np.arange(len(groups)), groups, rotation=30, ha="right", fontsize=7)
        axes.set_ylabel(f"{target.replace('_', ' ')} MAE\n({TARGETS[target].unit})")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    return drawn(figure, path)


def _parity(
    entries: Mapping[str, Assessment], targets: Sequence[str], colours: Mapping[str, str], path: Path | None
) -> Figure:
    """Targets in rows, models in columns, the axes of a row the same."""
    figure = Figure(figsize=(2.4 * len(entries) + 0.6, 2.4 * len(targets)), layout="constrained")
    grid = figure.subplots(len(targets), len(entries), squeeze=False)
    for row, target in zip(grid, targets, strict=True):
        pairs = [entry.metrics.parity[target] for entry in entries.values() if target in entry.metrics.parity]
        limits = [_limits(np.concatenate(values)) for values in ([pair[0] for pair in pairs], sum(pairs, ()))]
        low, high = limits[1]
        for axes, (name, entry) in zip(row, entries.items(), strict=True):
            axes.plot([low, high], [low, high], color="0.4", linewidth=0.8, zorder=0)
            if target in entry.metrics.parity:
                label, prediction = entry.metrics.parity[target]
                stride = max(1, len(label) // _MOST_POINTS)
                axes.scatter(
                    label[::stride], prediction[::stride], s=4, color=colours[name], alpha=0.6, linewidths=0
                )
                error = entry.metrics.overall[target].mae * TARGETS[target].scale
                axes.text(
                    0.04, 0.9, f"{error:.3g} {TARGETS[target].unit}", transform=axes.transAxes, fontsize=7
                )
            else:
                axes.text(0.5, 0.5, "not predicted", transform=axes.transAxes, fontsize=7, ha="center")
            axes.set(xlim=limits[0], ylim=limits[1])
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.tick_params(labelsize=6)
        row[0].set_ylabel(f"{target.replace('_', ' ')}\npredicted", fontsize=8)
    for axes, name in zip(grid[0], entries, strict=True):
        axes.set_title(name, fontsize=8)
    for axes in grid[-1]:
        axes.set_xlabel("reference", fontsize=8)
    return drawn(figure, path)


def _limits(values: np.ndarray) -> tuple[float, float]:
    """Range of an axis that shows all values."""
    low, high = float(values.min()), float(values.max())
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin


def _dipoles(entries: Mapping[str, Assessment], colours: Mapping[str, str], path: Path | None) -> Figure:
    """One panel per config_type: dipole along the field against the field, with the regressions."""
    groups = list(
        dict.fromkeys(name for entry in entries.values() for name in sorted(set(entry.dipoles.groups)))
    )
    figure = Figure(figsize=(4.2 * len(groups), 3.6), layout="constrained")
    for axes, group in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups, strict=True):
        first = next(entry for entry in entries.values() if group in entry.dipoles.groups)
        strength, reference, _ = first.dipoles.rows(group)
        _line(axes, strength, reference, "0.3", "labels", "x")
        for name, entry in entries.items():
            if group in entry.dipoles.groups:
                field, _, predicted = entry.dipoles.rows(group)
                _line(axes, field, predicted, colours[name], name, "o")
        axes.set(title=group, xlabel="field / V/Å", ylabel="dipole along the field / e·Å")
        axes.legend(frameon=False, fontsize=7)
    return drawn(figure, path)


def _line(axes: Axes, strength: np.ndarray, dipole: np.ndarray, colour: str, name: str, marker: str) -> None:
    """Points and their regression through the origin."""
    slope = float(strength @ dipole / (strength @ strength))
    axes.scatter(strength, dipole, s=12, color=colour, alpha=0.6, marker=marker, linewidths=0.8)
    ends = np.array([0.0, strength.max()])
    axes.plot(ends, slope * ends, color=colour, label=f"{name}: {slope:.3f} e·Å²/V")
