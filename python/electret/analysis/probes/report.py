"""Results of the probes as Markdown, CSV and plots."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from electret.analysis.plots import COLOURS
from electret.analysis.probes.base import ProbeTable
from electret.analysis.probes.run import ProbeReport
from electret.support.outputs import atomic_write
from electret.training.plots import drawn

__all__ = ["plot_probes", "probe_sections", "write_probe_tables"]


def plot_probes(reports: Sequence[ProbeReport], models: Sequence[str], folder: Path) -> dict[str, Path]:
    """Picture of each probe with numbers to draw, `<folder>/<probe>.png`."""
    colours = dict(zip(models, COLOURS * len(models), strict=False))
    pictures = {}
    for report in reports:
        figure = report.probe.figure(report.results, report.frames, colours) if report.results else None
        if figure is not None:
            pictures[report.name] = folder / f"{report.name.replace(' ', '_')}.png"
            drawn(figure, pictures[report.name])
    return pictures


def probe_sections(reports: Sequence[ProbeReport], pictures: dict[str, Path]) -> list[str]:
    """Lines of Markdown; pictures by their place below the folder of the report."""
    lines: list[str] = []
    for report in reports:
        title = report.probe.title
        if report.name != report.name.lower() or sum(r.probe.title == title for r in reports) > 1:
            title = f"{title}: {report.name.replace('_', ' ')}"
        lines += [f"## {title}", "", report.probe.note, ""]
        if report.results:
            for table in report.probe.tables(report.results, report.frames):
                lines += _markdown(table)
        if report.refused:
            reasons: dict[str, list[str]] = {}
            for name, reason in report.refused.items():
                reasons.setdefault(reason, []).append(f"`{name}`")
            lines += [
                "Left out: " + "; ".join(f"{', '.join(names)} ({why})" for why, names in reasons.items()),
                "",
            ]
        if report.name in pictures:
            picture = pictures[report.name]
            lines += [f"![{picture.stem.replace('_', ' ')}]({picture.parent.name}/{picture.name})", ""]
    return lines


def write_probe_tables(reports: Sequence[ProbeReport], folder: Path) -> list[Path]:
    """One CSV file per table, `probe_<name>.csv`."""
    files = []
    for report in reports:
        tables = report.probe.tables(report.results, report.frames) if report.results else []
        for index, table in enumerate(tables):
            suffix = f"_{index}" if len(tables) > 1 else ""
            path = folder / f"probe_{report.name.replace(' ', '_')}{suffix}.csv"
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(table.headings)
            writer.writerows(table.rows)
            atomic_write(path, text.getvalue().encode())
            files.append(path)
    return files


def _markdown(table: ProbeTable) -> list[str]:
    lines = [f"### {table.title}", ""] if table.title else []
    return [
        *lines,
        "| " + " | ".join(table.headings) + " |",
        "|" + "---|" * len(table.headings),
        *("| " + " | ".join(row) + " |" for row in table.rows),
        "",
    ]
