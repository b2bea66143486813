"""All probes on all models, with what is known already taken from files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ase import Atoms
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TimeElapsedColumn

from electret.analysis.probes.base import Probe
from electret.analysis.probes.cache import fingerprint, read_measurement, write_measurement
from electret.models import load
from electret.support.console import progress_bar, say

__all__ = ["ProbeReport", "check_probes", "run_probes"]


@dataclass
class ProbeReport:
    """Results of a probe.

    Attributes:
        name: of the entry in the comparison.
        probe: its options.
        frames: its structures.
        results: numbers by model.
        refused: reason for which a model was left out, by model.
    """

    name: str
    probe: Probe
    frames: list[Atoms]
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


def check_probes(probes: Mapping[str, Probe]) -> dict[str, list[Atoms]]:
    """Structures of every probe, read before any training.

    Raises:
        InputError: a file or frame that cannot be used.
    """
    return {name: probe.structures() for name, probe in probes.items()}


def run_probes(
    probes: Mapping[str, Probe],
    files: Mapping[str, Path],
    folder: Path,
    console: Console,
    device: str = "cpu",
    dtype: str | None = None,
) -> list[ProbeReport]:
    """Measure every model with every probe.

    Args:
        probes: by name.
        files: model file of each model.
        folder: where the numbers are kept, `<folder>/<probe>/<model>.json`; those of the same model,
            structures and options are not measured again.
        console: shows the progress.
        device, dtype: of the models.
    """
    reports = [ProbeReport(name, probes[name], frames) for name, frames in check_probes(probes).items()]
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with progress_bar(console, *columns) as progress:
        task = progress.add_task("probes", total=len(reports) * len(files))
        for report in reports:
            for model_name, file in files.items():
                label = f"{report.name}: {model_name}"
                progress.update(task, description=label)
                probe = report.probe
                if probe.models is None or model_name in probe.models:
                    key = f"{fingerprint(probe, file)} {device} {dtype}"
                    path = folder / report.name.replace(" ", "_") / f"{model_name.replace(' ', '_')}.json"
                    numbers = read_measurement(path, key)
                    model = load(file, device=device, dtype=dtype)
                    refusal = probe.refusal(model)
                    if refusal is not None:
                        report.refused[model_name] = refusal
                    elif numbers is None:
                        numbers = probe.measure(
                            model,
                            report.frames,
                            lambda what, start=label: progress.update(task, description=f"{start}, {what}"),  # type: ignore[misc]
                        )
                        write_measurement(path, key, numbers)
                        say(console, f"{label}: done")
                    if refusal is None and numbers is not None:
                        report.results[model_name] = numbers
                progress.advance(task)
    return reports
