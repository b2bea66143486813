"""Table of errors at the end of a run or an evaluation: on the console, as Markdown, as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.console import Console

from electret.support.console import PlainTable
from electret.support.outputs import atomic_write
from electret.support.tables import markdown_table
from electret.training.config import TrainingConfig
from electret.training.metrics import Metrics
from electret.training.targets import TARGETS

__all__ = ["error_rows", "print_summary", "write_summary"]

CONVERGENCE_HEADINGS = (
    "set",
    "frames",
    "unconverged",
    "iterations, mean",
    "most",
    "residual, median (e)",
    "largest",
)
HEADINGS = ("set", "config_type", "target", "MAE", "RMSE", "offset", "spread", "unit", "values")


def error_rows(metrics: Mapping[str, Metrics]) -> Iterator[tuple[str, ...]]:
    """Rows under `HEADINGS`, config_types only where there is more than one."""
    for set_name, entry in metrics.items():
        kinds = [kind for kind in entry.errors if kind != "all"]
        for kind in ["all", *(sorted(kinds) if len(kinds) > 1 else [])]:
            for name, target in TARGETS.items():
                if name not in entry.errors[kind]:
                    continue
                sums = entry.errors[kind][name]
                numbers = (sums.mae, sums.rmse, sums.offset, sums.spread)
                shown = [_short(number * target.scale) for number in numbers]
                yield (set_name, kind, name, *shown, target.unit, str(sums.count))


def convergence_rows(metrics: Mapping[str, Metrics]) -> Iterator[tuple[str, ...]]:
    """Rows under `CONVERGENCE_HEADINGS`, for models with a self-consistent density."""
    for set_name, entry in metrics.items():
        if entry.convergence is not None:
            found = entry.convergence.as_dict()
            yield (
                set_name,
                str(found["frames"]),
                str(found["unconverged"]),
                f"{found['iterations_mean']:.1f}",
                str(found["iterations_max"]),
                f"{found['residual_median']:.1e}",
                f"{found['residual_max']:.1e}",
            )


def _short(number: float) -> str:
    """Three digits, without the noise of rounding errors."""
    return f"{number:.3g}" if abs(number) >= 1e-3 else f"{number:.3f}"


def print_summary(metrics: Mapping[str, Metrics], console: Console) -> None:
    """Show the table."""
    table = PlainTable("Errors", HEADINGS, right=(*HEADINGS[3:7], "values"))
    previous = None
    for row in error_rows(metrics):
        if row[0] == "train" and row[1] != "all":
            continue  # in the files; on the console they would bury the sets that count
        if previous is not None and row[:2] != previous:
            table.add_section()
        previous = row[:2]
        table.add_row(*row)
    table.show(console)
    iterated = list(convergence_rows(metrics))
    if iterated:
        table = PlainTable("Self-consistency", CONVERGENCE_HEADINGS, right=CONVERGENCE_HEADINGS[1:])
        for row in iterated:
            table.add_row(*row)
        table.show(console)


def write_summary(
    folder: Path, metrics: Mapping[str, Metrics], config: TrainingConfig, best_epoch: int
) -> None:
    """Write `summary.md` and `summary.json` (the latter in eV, Å, e)."""
    lines = [
        f"# {config.name}",
        "",
        f"Family `{config.model.family}`, {config.n_epochs} epochs in {len(config.stages)} stage(s), weights "
        f"of epoch {best_epoch}.",
        "Offset and spread are mean and standard deviation of the signed error.",
        "",
        *markdown_table(HEADINGS, error_rows(metrics)),
    ]
    iterated = list(convergence_rows(metrics))
    if iterated:
        lines += ["Self-consistency; frames that did not converge are left out of the errors.", ""]
        lines += markdown_table(CONVERGENCE_HEADINGS, iterated)
    atomic_write(folder / "summary.md", "\n".join(lines).encode())
    values = {
        "name": config.name,
        "family": config.model.family,
        "best_epoch": best_epoch,
        "sets": {name: entry.as_dict() for name, entry in metrics.items()},
    }
    atomic_write(folder / "summary.json", json.dumps(values, indent=1).encode())
