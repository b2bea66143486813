"""Runs the demo from its data to its report."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from ase.io import read
from rich.console import Console

from electret.calculator import Calculator
from electret.demo.dynamics import Trajectory, simulate
from electret.demo.plots import FieldScan, plot_dipoles, plot_dynamics, plot_parity, plot_scan
from electret.errors import OutputError
from electret.models import Model
from electret.support.console import PlainTable, heading, progress_bar, say, standard_console
from electret.support.outputs import atomic_write, check_outputs, holds_run
from electret.support.tables import markdown_table
from electret.training import Metrics, TrainingConfig, evaluate, train
from electret.training.targets import TARGETS

__all__ = ["DemoResult", "run"]

HERE = Path(__file__).parent
VALIDATION_FILE = HERE / "data" / "silver_water_field_valid.xyz"
QUICK_EPOCHS = 2
TIMESTEP = 0.5  # fs
TEMPERATURE = 300.0  # K
FIELD = (0.0, 0.0, 0.1)  # V/Å
_FILES = ("parity.png", "dipole_field.png", "field_scan.png", "dynamics.png", "report.md")
_TARGETS = ("energy", "forces", "charges", "dipole")


@dataclass(frozen=True)
class DemoResult:
    """Results of the demo.

    Attributes:
        model_file: the trained model.
        metrics: errors on the open-boundary validation set.
        trajectory: the run at constant energy in the field.
        report: Markdown file with the tables and plots.
    """

    model_file: Path
    metrics: Metrics
    trajectory: Trajectory
    report: Path


def run(
    output: Path,
    epochs: int | None = None,
    quick: bool = False,
    console: Console | None = None,
    force: bool = False,
) -> DemoResult:
    """Train a fixed-point density on silver and water, evaluate it, and run molecular dynamics in a field.

    Args:
        output: folder for the model, the plots and the report. An earlier demo in it is replaced, and its
            training is kept, as `training.1`.
        epochs: of each stage of training; None takes those of `train.yaml`.
        quick: very few epochs and steps: shows that everything works, not how well.
        console: where progress and tables are shown; standard output where None.
        force: replace files of these names that are no demo's.

    Raises:
        OutputError: a folder that cannot be written, or holds other files of these names.
    """
    output = Path(output)
    if holds_run(output):
        raise OutputError(f"'{output}' holds a run; give another output")
    own = force or holds_run(output / "training")
    check_outputs([output / name for name in _FILES], replace=own)
    threads = torch.get_num_threads()
    # The model is small: a second thread gains little, and where another program has the other core, each
    # of the two waits for the other at every step.
    torch.set_num_threads(1)
    try:
        return _run(output, epochs, quick, console or standard_console())
    finally:
        torch.set_num_threads(threads)


def _run(output: Path, epochs: int | None, quick: bool, console: Console) -> DemoResult:
    started = time.perf_counter()
    if epochs is None and quick:
        epochs = QUICK_EPOCHS
    overrides = [f"output={json.dumps(str(output / 'training'))}"]
    if epochs is not None:
        overrides += [f"stages.{stage}.epochs={epochs}" for stage in range(2)]
    heading(console, "1/3 Training")
    result = train(TrainingConfig.from_yaml(HERE / "train.yaml", overrides), restart=True, console=console)

    heading(console, "2/3 Validation: clusters in fields")
    metrics = evaluate(result.model, VALIDATION_FILE, parity=True)
    plot_parity(metrics.parity, output / "parity.png")
    field, reference, predicted = dipoles_along_field(result.model)
    plot_dipoles(field, reference, predicted, output / "dipole_field.png")
    plot_scan(scan_of_fields(result.model), output / "field_scan.png")

    heading(console, "3/3 Molecular dynamics in a field")
    trajectory = molecular_dynamics(result.model_file, console, 50 if quick else 1000)
    plot_dynamics(trajectory, output / "dynamics.png")

    seconds = time.perf_counter() - started
    rows = summary(metrics, trajectory, seconds)
    table = PlainTable("Demo", ("Quantity", "Value", "Unit"))
    for row in rows:
        table.add_row(*row)
    table.show(console)
    report = output / "report.md"
    atomic_write(report, markdown(metrics, rows).encode())
    say(console, f"report and plots in {output}")
    return DemoResult(result.model_file, metrics, trajectory, report)


def dipoles_along_field(model: Model) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Field strength (V/Å), labelled and predicted dipole along the field (e·Å) of the frames with a field.

    Only neutral frames: the dipole of a charged one depends on the origin.
    """
    calculator = Calculator(model, ignore=["fermi_level"])
    rows = []
    for atoms in read(VALIDATION_FILE, ":"):
        field = atoms.info["external_field"]
        strength = float(np.linalg.norm(field))
        if strength > 0 and atoms.info["total_charge"] == 0:
            predicted = calculator.get_property("dipole", atoms)
            rows.append((strength, atoms.info["REF_dipole"] @ field / strength, predicted @ field / strength))
    field, reference, predicted = np.array(rows).T
    return field, reference, predicted


def scan_of_fields(model: Model) -> FieldScan:
    """The silver cluster of the validation set in fields of -0.2 to 0.2 V/Å: dipole, and the charge of
    every atom."""
    atoms = next(frame for frame in read(VALIDATION_FILE, ":") if frame.info["config_type"] == "ag_cluster")
    atoms.info = {}
    atoms.calc = Calculator(model)
    direction = np.asarray(FIELD) / np.linalg.norm(FIELD)
    fields = np.linspace(-0.2, 0.2, 9)
    dipoles, charges = [], []
    for strength in fields:
        atoms.info["external_field"] = strength * direction
        dipoles.append(atoms.get_dipole_moment() @ direction)
        charges.append(atoms.get_charges())
    atoms.info["external_field"] = np.zeros(3)
    polarizability = float(direction @ atoms.calc.get_property("polarizability", atoms) @ direction)
    return FieldScan(
        fields, np.array(dipoles), np.array(charges), atoms.positions @ direction, polarizability
    )


def molecular_dynamics(model_file: Path, console: Console, steps: int) -> Trajectory:
    """A silver cluster with water in a field of the validation set's strength."""
    frames = read(VALIDATION_FILE, ":")
    atoms = next(
        frame
        for frame in frames
        if frame.info["config_type"] == "ag_water_cluster" and frame.info["total_charge"] == 0
    )
    atoms.info = {"external_field": np.array(FIELD)}
    atoms.calc = Calculator(model_file)
    thermalisation = steps // 2
    with progress_bar(console) as progress:
        task = progress.add_task(str(atoms.symbols), total=thermalisation + steps + 2)
        return simulate(
            atoms,
            thermalisation,
            steps,
            TIMESTEP,
            TEMPERATURE,
            seed=0,
            advance=lambda: progress.advance(task),
        )


def summary(metrics: Metrics, trajectory: Trajectory, seconds: float) -> list[tuple[str, str, str]]:
    """Rows of the closing table: quantity, value, unit."""
    rows = []
    for name in _TARGETS:
        errors, target = metrics.overall[name], TARGETS[name]
        rows.append((f"{name}: MAE", f"{target.scale * errors.mae:.1f}", target.unit))
        rows.append((f"{name}: RMSE", f"{target.scale * errors.rmse:.1f}", target.unit))
    rows += [
        ("dynamics: time at constant energy", f"{trajectory.time[-1]:.2f}", "ps"),
        ("dynamics: mean temperature", f"{trajectory.temperature:.0f}", "K"),
        ("dynamics: energy drift", f"{trajectory.drift:+.3f}", "meV/atom/ps"),
        ("dynamics: energy fluctuation", f"{trajectory.fluctuation:.4f}", "meV/atom"),
        ("dynamics: mean dipole along the field", f"{trajectory.dipole_along_field.mean():.2f}", "e·Å"),
        ("whole demo", f"{seconds:.0f}", "s"),
    ]
    return rows


def markdown(metrics: Metrics, rows: list[tuple[str, str, str]]) -> str:
    """The report."""
    lines = [
        "# electret demo",
        "",
        "A `fixed_point` density trained on silver and water labelled with GFN1-xTB (first `direct`, then at",
        "self-consistency), validated on clusters from other trajectories",
        f"({metrics.n_frames} frames, in fields of up to 0.2 V/Å), and used for molecular dynamics in a",
        f"field of {FIELD[2]} V/Å along z.",
        "",
        *markdown_table(("Quantity", "Value", "Unit"), rows),
        "![Parity](parity.png)",
        "",
        "The density answers the field: dipoles along it against the labels, and what is left over.",
        "",
        "![Dipole along the field](dipole_field.png)",
        "",
        "A silver cluster in fields of either sign. The slope of the dipole at zero field (line) is the",
        "polarisability, from the response of the density and without finite differences.",
        "",
        "![Silver in fields](field_scan.png)",
        "",
        "At constant energy the sum of kinetic and potential energy (in the field) must not move: forces are",
        "the gradient of the energy.",
        "",
        "![Molecular dynamics](dynamics.png)",
        "",
    ]
    return "\n".join(lines)
