"""How the solvers of a self-consistent model converge: residual against iteration, frame by frame."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from electret.data import Frame, GraphDataset
from electret.errors import InputError
from electret.models import Model
from electret.scf import ScfRequest
from electret.support.console import PlainTable
from electret.training.evaluation import compute
from electret.training.plots import COLOURS, drawn

__all__ = ["SOLVERS", "SolverRun", "convergence_table", "plot_convergence", "run_solvers"]

SOLVERS = ("newton", "anderson", "mixing")
"""Solvers that are compared where none is named."""


@dataclass
class SolverRun:
    """One solver on every frame.

    Attributes:
        solver: its name.
        histories: residual before each update and at the end, of each frame.
        converged: whether each frame did.
        seconds: time of all frames, the short-range part of the model included.
    """

    solver: str
    histories: list[NDArray[np.float64]] = field(default_factory=list)
    converged: list[bool] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def iterations(self) -> list[int]:
        """Updates of the density of each frame that converged."""
        return [len(h) - 1 for h, done in zip(self.histories, self.converged, strict=True) if done]


def run_solvers(
    model: Model,
    frames: Sequence[Frame],
    solvers: Sequence[str] = SOLVERS,
    tolerance: float | None = None,
    max_iterations: int | None = None,
    batch_size: int = 10,
) -> list[SolverRun]:
    """Every solver on every frame, each from the start that the model gives.

    Args:
        model: of a self-consistent family.
        frames: their charges and fields count; labels do not.
        solvers: names that `ScfRequest` takes.
        tolerance, max_iterations: None takes those of the model.

    Raises:
        InputError: a model without self-consistency, an unknown solver.
    """
    if not model.self_consistent:
        raise InputError(
            f"the density of family '{model.family}' is an explicit function of the geometry and has no SCF; "
            "give a model of a self-consistent family"
        )
    dataset = GraphDataset(frames, model.cutoff, model.dtype)
    device = next(model.parameters()).device
    runs = []
    # The first evaluation of a process pays for loading and compilation, which is no solver's time.
    compute(model, dataset, [0], dataset.batch([0]).to(device=device), forces=False)
    for solver in solvers:
        run = SolverRun(solver)
        request = ScfRequest(solver=solver, tolerance=tolerance, max_iterations=max_iterations)
        for start in range(0, len(dataset), batch_size):
            indices = list(range(start, min(start + batch_size, len(dataset))))
            graph = dataset.batch(indices).to(device=device)
            started = time.perf_counter()
            with torch.no_grad():
                output = compute(model, dataset, indices, graph, forces=False, scf=request)  # type: ignore[arg-type]
            run.seconds += time.perf_counter() - started
            for history in output["scf_history"].double().cpu().numpy():
                run.histories.append(history[~np.isnan(history)])
            run.converged += output["scf_converged"].tolist()
        runs.append(run)
    return runs


def convergence_table(runs: Sequence[SolverRun]) -> PlainTable:
    """One row per solver."""
    headings = ("converged", "iterations: mean", "median", "most", "ms/frame")
    table = PlainTable("SCF", ("solver", *headings), right=headings)
    for run in runs:
        counts = run.iterations
        numbers = (
            [f"{np.mean(counts):.1f}", f"{np.median(counts):g}", str(max(counts))] if counts else ["—"] * 3
        )
        time_per_frame = 1e3 * run.seconds / max(1, len(run.converged))
        table.add_row(
            run.solver, f"{sum(run.converged)} of {len(run.converged)}", *numbers, f"{time_per_frame:.1f}"
        )
    return table


def plot_convergence(runs: Sequence[SolverRun], path: Path | None = None, title: str = "") -> Figure:
    """Residual against iteration: every frame as a thin line (dotted where it did not converge), and the
    frame with the median number of iterations as a thick one."""
    figure = Figure(figsize=(7.0, 4.5), layout="constrained")
    axes = figure.add_subplot()
    smallest = min(
        (float(h[h > 0].min()) for run in runs for h in run.histories if np.any(h > 0)), default=1e-16
    )
    for run, colour in zip(runs, COLOURS * len(runs), strict=False):
        order = sorted(range(len(run.histories)), key=lambda index: len(run.histories[index]))
        median = order[len(order) // 2]
        for index, history in enumerate(run.histories):
            shown = np.where(np.isfinite(history), np.maximum(history, smallest), np.nan)
            axes.plot(
                np.arange(len(shown)),
                shown,
                color=colour,
                linewidth=2.0 if index == median else 0.6,
                alpha=1.0 if index == median else 0.35,
                linestyle="-" if run.converged[index] else ":",
                marker="o" if index == median else None,
                markersize=3,
                label=f"{run.solver}, {sum(run.converged)} of {len(run.converged)}"
                if index == median
                else None,
            )
    axes.set(xlabel="iteration", ylabel="residual / e·Å^l", yscale="log", title=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)
    return drawn(figure, path)
