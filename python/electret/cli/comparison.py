"""`electret compare`: from the words of the command to tables and plots."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from electret.analysis.comparison import Comparison, Entry, compare
from electret.analysis.comparison_file import ComparisonFile, is_comparison_file, read_comparison
from electret.analysis.probes import (
    check_probes,
    plot_probes,
    probe_sections,
    run_probes,
    write_probe_tables,
)
from electret.analysis.report import holds_comparison, print_comparison, write_comparison
from electret.cli.evaluation import parse_keys, parse_origin
from electret.errors import InputError, OutputError
from electret.support.console import say
from electret.support.outputs import check_file_name, check_not_in_use, check_outputs, claimed, holds_run

__all__ = ["run_comparison"]


def run_comparison(
    models: list[str],
    data: list[str],
    output: Path | None,
    batch_size: int | None,
    device: str,
    dtype: str | None,
    keys: list[str],
    plots: bool,
    console: Console,
    force: bool = False,
    dipole_origin: str | None = None,
) -> Comparison:
    """Compare, print the overview, write the report; options of the command override those of a file."""
    if len(models) == 1 and is_comparison_file(Path(models[0])):
        wanted = read_comparison(Path(models[0]))
    else:
        if not data:
            raise InputError(
                "no data to compare on; give --data FILE, or a YAML file with `models` and `data`"
            )
        wanted = ComparisonFile(
            entries=[Entry.parse(text) for text in models],
            data={},
            keys=parse_keys(keys),
            output=Path("comparison"),
            batch_size=10,
        )
    sets, folder = _data_sets(data) or wanted.data, output or wanted.output
    _check_folder(folder, wanted, sets, force)
    check_probes(wanted.probes)  # before any training
    comparison = compare(
        wanted.entries,
        sets,
        keys=parse_keys(keys) if keys else wanted.keys,
        dipole_origin=parse_origin(dipole_origin) or wanted.dipole_origin,
        batch_size=batch_size or wanted.batch_size,
        device=device,
        dtype=dtype,
        console=console,
    )
    print_comparison(comparison, console)
    with claimed(folder):
        write_comparison(comparison, folder)  # first: from here on the folder is that of a comparison
        pictures: list[Path] = []
        if plots:
            from electret.analysis.plots import plot_comparison

            names = plot_comparison(comparison, folder / "plots")
            pictures = [folder / "plots" / f"{name}.png" for name in names]
        reports = run_probes(wanted.probes, comparison.files, folder / "probes", console, device, dtype)
        drawn = plot_probes(reports, list(comparison.families), folder / "plots") if plots else {}
        write_comparison(comparison, folder, pictures, probe_sections(reports, drawn))
        write_probe_tables(reports, folder)
    say(console, f"report, tables and plots in {folder}")
    return comparison


def _check_folder(folder: Path, wanted: ComparisonFile, sets: dict[str, list[Path]], force: bool) -> None:
    """Refuse, before any training, a folder of other things and names that would leave it."""
    for what, names in (("data set", sets), ("probe", wanted.probes)):
        for name in names:
            check_file_name(name, what)
    check_not_in_use(folder)
    if holds_run(folder):
        raise OutputError(f"'{folder}' holds a run; give another --output")
    outputs = [
        folder / name for name in ("comparison.json", "comparison.csv", "comparison.md", "plots", "probes")
    ]
    outputs += [folder / f"probe_{name.replace(' ', '_')}.csv" for name in wanted.probes]
    inputs = [entry.path for entry in wanted.entries] + [file for files in sets.values() for file in files]
    inputs += [probe.data for probe in wanted.probes.values()]
    check_outputs(outputs, inputs, replace=force or holds_comparison(folder))


def _data_sets(words: list[str]) -> dict[str, list[Path]]:
    """Files by data set; several files of one name are one set."""
    sets: dict[str, list[Path]] = {}
    for word in words:
        name, separator, file = word.partition("=")
        named = bool(separator and name and file) and not Path(word).exists()
        sets.setdefault(name if named else Path(word).stem, []).append(Path(file if named else word))
    return sets
