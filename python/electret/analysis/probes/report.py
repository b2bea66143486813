"""Results of the probes as Markdown, CSV and plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from electret.analysis.probes.run import ProbeReport
from electret.support.outputs import atomic_write
from electret.support.tables import csv_table, markdown_table
from electret.training.plots import COLOURS, drawn

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
                lines += [f"### {table.title}", ""] if table.title else []
                lines += markdown_table(table.headings, table.rows)
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
            atomic_write(path, csv_table(table.headings, table.rows))
            files.append(path)
    return files
