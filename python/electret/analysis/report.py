"""A comparison as tables: console, Markdown, CSV, JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.text import Text

from electret.analysis.assessment import Assessment
from electret.analysis.comparison import Comparison
from electret.analysis.training_time import training_time
from electret.support.console import PlainTable, say
from electret.support.outputs import atomic_write
from electret.support.tables import csv_table, markdown_table
from electret.training.metrics import ErrorSums
from electret.training.targets import TARGETS

__all__ = ["NOTE", "holds_comparison", "informative", "markdown", "print_comparison", "write_comparison"]

NOTE = (
    "MAE of each target; the best of a column is bold. `field response` is the slope of the dipole along the "
    "external field against the field, relative to the labels (0: no response, 1: right), with its jackknife "
    "error; neutral frames only. Frames whose SCF did not converge are in no figure."
)

_COLUMNS = (
    "set",
    "model",
    "family",
    "group",
    "target",
    "mae",
    "rmse",
    "max",
    "offset",
    "spread",
    "count",
    "unit",
)
EXACT = 1e-9
"""Errors below are rounding of a quantity that is exact by construction, and no merit."""

Shown = TypeVar("Shown", str, Text)
Cell = tuple[str, float]
"""Text and the number that the best of a column is chosen by (nan: not compared)."""


def write_comparison(
    comparison: Comparison, folder: Path, plots: Sequence[Path] = (), sections: Sequence[str] = ()
) -> list[Path]:
    """Write `comparison.md`, `.csv` (long: one row per error, in eV, Å, e) and `.json` to `folder`;
    `sections` are further lines of the Markdown."""
    files = [folder / f"comparison.{suffix}" for suffix in ("json", "csv", "md")]
    atomic_write(files[0], json.dumps(comparison.as_dict(), indent=1).encode())
    atomic_write(files[1], csv_table(_COLUMNS, _csv_rows(comparison)))
    atomic_write(files[2], "\n".join([markdown(comparison, plots), *sections]).encode())
    return files


def holds_comparison(folder: Path) -> bool:
    """True if a folder has the numbers of an earlier comparison."""
    try:
        return {"models", "sets", "refused"} <= set(json.loads((folder / "comparison.json").read_bytes()))
    except (OSError, ValueError, TypeError):
        return False


def print_comparison(comparison: Comparison, console: Console) -> None:
    """The overview of each data set as a table, and what needs attention."""
    for set_name, entries in comparison.sets.items():
        headings, rows = _overview(comparison, set_name)
        table = PlainTable(f"{set_name}: MAE", headings)
        for row in _with_best(rows, lambda text: Text(text, "bold")):
            table.add_row(*row)
        table.show(console)
        for name, entry in entries.items():
            if entry.scf is not None and entry.scf.unconverged:
                for line in entry.scf.lines():
                    say(console, f"{name}: {line}")
        for name, reason in comparison.refused[set_name].items():
            say(console, f"{name} was not evaluated on {set_name}: {reason}")


def markdown(comparison: Comparison, plots: Sequence[Path] = ()) -> str:
    """The report; `plots` are shown at its end by their place below the folder of the report."""
    lines = ["# Comparison", "", NOTE, ""]
    lines += markdown_table(
        ["model", "family", "epochs", "training / min", "file"],
        [
            [name, f"`{family}`", *_training(comparison.files[name]), str(comparison.files[name])]
            for name, family in comparison.families.items()
        ],
    )
    for set_name, entries in comparison.sets.items():
        lines += [f"## {set_name}", ""]
        headings, rows = _overview(comparison, set_name)
        lines += markdown_table(headings, _with_best(rows, lambda text: f"**{text}**"))
        for name, reason in comparison.refused[set_name].items():
            lines += [f"`{name}` was not evaluated: {reason}", ""]
        for title, pick in (("Per config_type", _by_kind), ("Per charge state", _by_charge)):
            lines += _grouped(title, {name: pick(entry) for name, entry in entries.items()})
        lines += _responses(entries)
        lines += _scf(entries)
    for plot in plots:
        lines += [f"![{plot.stem.replace('_', ' ')}]({plot.parent.name}/{plot.name})", ""]
    return "\n".join(lines)


def _training(file: Path) -> list[str]:
    """Epochs and wall time of the training of a model, dashes where they are not known."""
    found = training_time(file)
    return ["—", "—"] if found is None else [str(found.epochs), f"{found.seconds / 60:.1f}"]


def _overview(comparison: Comparison, set_name: str) -> tuple[list[str], list[list[Cell]]]:
    """Headings and one row per model."""
    entries = comparison.sets[set_name]
    targets = informative(entries)
    with_field = any(len(entry.dipoles) for entry in entries.values())
    with_scf = any(entry.scf is not None for entry in entries.values())
    headings = ["model", "family", *(f"{_title(name)} / {TARGETS[name].unit}" for name in targets)]
    headings += ["field response"] * with_field + ["SCF iterations", "unconverged"] * with_scf + ["ms/atom"]
    rows = []
    for name, entry in entries.items():
        row: list[Cell] = [_plain(name), _plain(comparison.families[name])]
        row += [_error_cell(entry.metrics.overall, target) for target in targets]
        if with_field:
            row.append(_response_cell(entry))
        if with_scf:
            row += _scf_cells(entry)
        time = 1e3 * entry.seconds / entry.n_atoms
        row.append((f"{time:.3g}", math.nan))
        rows.append(row)
    return headings, rows


def informative(entries: Mapping[str, Assessment]) -> list[str]:
    """Targets of which the errors of some model are more than rounding."""
    errors = [entry.metrics.overall for entry in entries.values()]
    return [name for name in TARGETS if any(name in one and one[name].largest > EXACT for one in errors)]


def _title(target: str) -> str:
    return target.replace("_", " ")


def _plain(text: str) -> Cell:
    return (text, math.nan)


def _error_cell(errors: dict[str, ErrorSums], target: str) -> Cell:
    if target not in errors:
        return _plain("—")
    if errors[target].largest <= EXACT:
        return _plain("exact")
    number = errors[target].mae * TARGETS[target].scale
    return (f"{number:.3g}", number)


def _response_cell(entry: Assessment) -> Cell:
    response = entry.dipoles.responses().get("all")
    if response is None or not math.isfinite(response.ratio):
        return _plain("—")
    return (f"{response.ratio:.2f} ± {response.ratio_error:.2f}", abs(response.ratio - 1.0))


def _scf_cells(entry: Assessment) -> list[Cell]:
    if entry.scf is None:
        return [_plain("—"), _plain("—")]
    return [
        _plain(f"{entry.scf.mean_iterations:.1f} (at most {entry.scf.most_iterations})"),
        _plain(f"{len(entry.scf.unconverged)} of {entry.scf.n_frames}"),
    ]


def _with_best(rows: Sequence[Sequence[Cell]], mark: Callable[[str], Shown]) -> list[list[str | Shown]]:
    """Texts, the lowest number of each column marked where there is a choice."""
    columns = [_marked(column, mark) for column in zip(*rows, strict=True)]
    return [list(row) for row in zip(*columns, strict=True)]


def _marked(cells: Sequence[Cell], mark: Callable[[str], Shown]) -> list[str | Shown]:
    """Texts, that of the lowest number marked where there are several."""
    numbers = [number for _, number in cells if math.isfinite(number)]
    return [mark(text) if len(numbers) > 1 and number == min(numbers) else text for text, number in cells]


def _by_kind(entry: Assessment) -> dict[str, dict[str, ErrorSums]]:
    return {kind: errors for kind, errors in entry.metrics.errors.items() if kind != "all"}


def _by_charge(entry: Assessment) -> dict[str, dict[str, ErrorSums]]:
    return {kind: errors for kind, errors in entry.by_charge.errors.items() if kind != "all"}


def _grouped(title: str, errors: dict[str, dict[str, dict[str, ErrorSums]]]) -> list[str]:
    """Table of groups and targets against models; empty with one group only."""
    groups = sorted({kind for entry in errors.values() for kind in entry})
    if len(groups) < 2:
        return []
    rows = []
    for group in groups:
        for target in TARGETS:
            cells = [_error_cell(entry.get(group, {}), target) for entry in errors.values()]
            if any(math.isfinite(number) for _, number in cells):
                label = f"{_title(target)} / {TARGETS[target].unit}"
                rows.append([group, label, *_marked(cells, lambda text: f"**{text}**")])
    return [f"### {title}", "", *markdown_table(["group", "MAE of", *errors], rows)]


def _responses(entries: dict[str, Assessment]) -> list[str]:
    responses = {name: entry.dipoles.responses() for name, entry in entries.items()}
    groups = list(dict.fromkeys(group for entry in responses.values() for group in entry))
    if not groups:
        return []
    rows = [
        [
            group,
            name,
            str(entry[group].n_frames),
            f"{1e3 * entry[group].mae:.1f}",
            f"{entry[group].reference_slope:.3f}",
            f"{entry[group].slope:.3f}",
            f"{entry[group].difference:+.3f} ± {entry[group].difference_error:.3f}",
            f"{entry[group].ratio:.2f} ± {entry[group].ratio_error:.2f}",
        ]
        for group in groups
        for name, entry in responses.items()
        if group in entry
    ]
    headings = [
        "group",
        "model",
        "frames",
        "MAE along the field / me·Å",
        "slope of labels / e·Å²/V",
        "slope",
        "difference",
        "ratio",
    ]
    return ["### Dipole along the field", "", *markdown_table(headings, rows)]


def _scf(entries: dict[str, Assessment]) -> list[str]:
    lines: list[str] = []
    for name, entry in entries.items():
        if entry.scf is not None:
            lines += [f"- `{name}`: {line.strip().removeprefix('SCF: ')}" for line in entry.scf.lines()]
    return ["### SCF", "", *lines, ""] if lines else []


def _csv_rows(comparison: Comparison) -> Iterator[list[object]]:
    for set_name, entries in comparison.sets.items():
        for name, entry in entries.items():
            groups = {"all": entry.metrics.overall, **_by_kind(entry), **_by_charge(entry)}
            for group, errors in groups.items():
                for target, sums in errors.items():
                    numbers = (sums.mae, sums.rmse, sums.largest, sums.offset, sums.spread, sums.count)
                    yield [
                        set_name,
                        name,
                        comparison.families[name],
                        group,
                        target,
                        *numbers,
                        TARGETS[target].base_unit,
                    ]
