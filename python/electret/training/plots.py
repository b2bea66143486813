"""Parity plots and learning curves as PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from electret.support.outputs import writing
from electret.training.convergence import Convergence
from electret.training.metrics import Metrics
from electret.training.targets import TARGETS

__all__ = ["COLOURS", "drawn", "parity_files", "plot_convergence", "plot_history", "plot_parity"]

_SHOWN = [name for name, target in TARGETS.items() if target.has_own_label]
"""Targets with labels to plot against; energies are per atom, others of whole systems."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#555555", "#000000")
_MOST_POINTS = 20000
_MOST_HISTORIES = 30


def drawn(figure: Figure, path: Path | None) -> Figure:
    """The figure, without the global state of pyplot, written to `path` if there is one."""
    FigureCanvasAgg(figure)
    if path is not None:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, dpi=150)
    return figure


def parity_files(folder: Path) -> list[Path]:
    """Files that `plot_parity` may write."""
    return [folder / f"parity_{name}.png" for name in _SHOWN]


def plot_parity(metrics: Mapping[str, Metrics], folder: Path | None = None) -> dict[str, Figure]:
    """One figure per target, prediction against label, data sets in colours; needs metrics made with
    `parity=True`. With a folder, each is written there as `parity_<target>.png`."""
    figures = {}
    for name in _SHOWN:
        pairs = {set_name: entry.parity[name] for set_name, entry in metrics.items() if name in entry.parity}
        if pairs:
            path = None if folder is None else folder / f"parity_{name}.png"
            figures[name] = _parity(name, pairs, metrics, path)
    return figures


def _parity(name: str, pairs: Mapping[str, Any], metrics: Mapping[str, Metrics], path: Path | None) -> Figure:
    figure = Figure(figsize=(4.5, 4.5), layout="constrained")
    axes = figure.add_subplot()
    target = TARGETS[name]
    unit = target.base_unit if name == "energy" else target.base_unit.removesuffix("/atom")
    for (set_name, (label, prediction)), colour in zip(pairs.items(), COLOURS * len(pairs), strict=False):
        stride = max(1, len(label) // _MOST_POINTS)
        rmse = metrics[set_name].overall[name].rmse * target.scale
        text = f"{set_name}, RMSE {rmse:.3g} {target.unit}"
        axes.scatter(
            label[::stride], prediction[::stride], s=6, color=colour, alpha=0.6, linewidths=0, label=text
        )
    values = np.concatenate([np.concatenate(pair) for pair in pairs.values()])
    low, high = float(values.min()), float(values.max())
    axes.plot([low, high], [low, high], color="0.4", linewidth=0.8, zorder=0)
    axes.set(
        xlabel=f"reference {name.replace('_', ' ')} ({unit})", ylabel=f"predicted ({unit})", aspect="equal"
    )
    axes.legend(frameon=False, fontsize=7)
    return drawn(figure, path)


def plot_history(history: Sequence[Mapping[str, Any]], path: Path | None = None) -> Figure:
    """Losses and validation errors (MAE) against the epoch, stages separated by lines; written to `path` if
    given."""
    epochs = np.array([row["epoch"] for row in history], dtype=float)
    # Exact quantities, as a conserved charge, have rounding errors only.
    names = [name for name in TARGETS if any(row.get(f"valid_{name}_mae", 0.0) > 1e-9 for row in history)]
    n_rows = (len(names) + 2) // 2
    figure = Figure(figsize=(8.0, 2.2 * n_rows), layout="constrained")
    grid = figure.subplots(n_rows, 2, sharex=True, squeeze=False)
    panels = list(grid.flat)[: 1 + len(names)]
    for unused in list(grid.flat)[len(panels) :]:
        unused.set_axis_off()
    for kind, colour in (("train", COLOURS[0]), ("valid", COLOURS[1])):
        panels[0].plot(
            epochs, _column(history, f"{kind}_loss"), color=colour, label=kind, marker=".", markersize=2
        )
    panels[0].set_ylabel("loss")
    panels[0].legend(frameon=False)
    for panel, name in zip(panels[1:], names, strict=True):
        panel.plot(
            epochs,
            _column(history, f"valid_{name}_mae") * TARGETS[name].scale,
            color=COLOURS[1],
            marker=".",
            markersize=2,
        )
        panel.set_ylabel(f"{name.replace('_', ' ')} MAE\n({TARGETS[name].unit})")
    changes = [row["epoch"] - 0.5 for before, row in pairwise(history) if row["stage"] != before["stage"]]
    for panel in panels:
        line = panel.get_lines()[0].get_ydata()
        if np.any(np.asarray(line, dtype=float) > 0):
            panel.set_yscale("log")
        for change in changes:
            panel.axvline(change, color="0.7", linewidth=0.8)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.xaxis.set_tick_params(labelbottom=True)
    for panel in panels[-2:]:
        panel.set_xlabel("epoch")
    return drawn(figure, path)


def _column(history: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    column = np.array([row.get(name, np.nan) for row in history], dtype=float)
    return np.where(np.isfinite(column), column, np.nan)  # infinite where no density converged


def plot_convergence(convergence: Convergence | None, path: Path | None = None) -> Figure | None:
    """Residual against iteration of a sample of frames, evenly spread, and how many frames took how many
    iterations; needs metrics made with `parity=True`. None for a model without a self-consistent density."""
    if convergence is None or not convergence.histories:
        return None
    figure = Figure(figsize=(8.0, 3.2), layout="constrained")
    curves, bars = figure.subplots(1, 2)
    chosen = np.linspace(0, convergence.n_frames - 1, min(_MOST_HISTORIES, convergence.n_frames)).astype(int)
    for index in np.unique(chosen):
        history = convergence.histories[index]
        colour = COLOURS[0] if convergence.converged[index] else COLOURS[1]
        curves.plot(history.clip(1e-17), color=colour, linewidth=0.8, marker=".", markersize=3, alpha=0.6)
    curves.set(xlabel="iteration", ylabel="residual (e)", yscale="log")
    if convergence.histogram:
        counts = convergence.histogram
        bars.bar(list(counts), list(counts.values()), color=COLOURS[0])
        bars.set_xlim(min(counts) - 2, max(counts) + 2)  # room for whole numbers on the axis
    bars.set(xlabel="iterations to convergence", ylabel="frames")
    if convergence.unconverged:
        bars.set_title(f"{convergence.unconverged} of {convergence.n_frames} did not converge", fontsize=9)
    for axes in (curves, bars):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    bars.yaxis.set_major_locator(MaxNLocator(integer=True))
    return drawn(figure, path)
