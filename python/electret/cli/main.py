"""The commands. Heavy imports are inside them, so that `electret --help` takes a fraction of a second."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from electret._native import __version__
from electret.cli.groups import RunByDefault
from electret.cli.reporting import reported, show_tracebacks
from electret.errors import InputError

__all__ = ["application"]

PICTURES = (".png", ".pdf", ".svg", ".jpg", ".jpeg", ".eps", ".ps", ".tif", ".tiff", ".webp")
"""Endings of pictures that matplotlib writes."""

application = typer.Typer(
    name="electret",
    help="Electrostatic machine-learning interatomic potentials: train, evaluate, inspect.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # boxes around the help would take half of its time
)

plots = typer.Typer(
    cls=RunByDefault,
    help="Draw the learning curve of a run, or the convergence of the SCF.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
application.add_typer(plots, name="plot")

data_sets = typer.Typer(
    help="Prepare training data on disk, for sets that memory does not hold, and describe it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
application.add_typer(data_sets, name="data")


Device = Annotated[str, typer.Option(help="Device of torch.")]
Dtype = Annotated[str | None, typer.Option(help="float32 or float64; by default that of the model.")]
Keys = Annotated[
    list[str] | None,
    typer.Option("--key", metavar="NAME=KEY", help="Key of a label, e.g. energy=dft_energy."),
]
DipoleOrigin = Annotated[
    str | None,
    typer.Option(
        help="Origin of the dipole labels of ions: origin (default), center_of_mass or center_of_charge."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace files that exist already (never inputs).")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"electret {__version__}")
        raise typer.Exit


@application.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Electrostatic machine-learning interatomic potentials."""
    show_tracebacks(debug)


@application.command()
@reported
def train(
    config: Annotated[Path, typer.Argument(help="YAML file of the run.")],
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the last checkpoint.")] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin anew; an earlier run is kept in a folder beside.")
    ] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY.PATH=VALUE", help="Change an option, e.g. stages.0.epochs=3."),
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, help="Models of a committee, each from a seed of its own.")
    ] = 1,
    check: Annotated[
        bool,
        typer.Option("--check", help="Only check data, model and a step of each stage; write nothing."),
    ] = False,
) -> None:
    """Train a model from a YAML file.

    On several GPUs or processes: torchrun --nproc-per-node 4 -m electret train CONFIG, or srun python -m
    electret train CONFIG; `batch_size` is that of all together.
    """
    from electret.support.ranks import is_rank, process_group
    from electret.training import TrainingConfig, train_committee
    from electret.training import check as check_run
    from electret.training import train as run_training

    options = TrainingConfig.from_yaml(config, overrides or ())
    if check:
        if resume or restart or seeds > 1 or is_rank(os.environ):
            raise InputError(
                "--check takes one step of one new model in one process; call it without --resume, "
                "--restart, --seeds, torchrun and srun"
            )
        check_run(options)
        return
    with process_group(options.device):
        if seeds > 1:
            train_committee(options, seeds, resume=resume, restart=restart)
        else:
            run_training(options, resume=resume, restart=restart)


@application.command("eval")
@reported
def evaluate(
    model: Annotated[Path, typer.Argument(help="Model file (.electret).")],
    data: Annotated[Path, typer.Argument(help="Frames (extended XYZ or any format of ASE).")],
    output: Annotated[
        Path | None, typer.Option(help="Write frames with predictions (.xyz, .extxyz, .traj or .db).")
    ] = None,
    plots: Annotated[Path | None, typer.Option(help="Folder for parity plots.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the errors as JSON (eV, Å, e).")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Frames computed at once.")] = 10,
    device: Device = "cpu",
    dtype: Dtype = None,
    keys: Keys = None,
    force: Force = False,
    dipole_origin: DipoleOrigin = None,
) -> None:
    """Predict the frames of a file and compare with its labels."""
    from electret.support.outputs import atomic_write, check_ending, check_outputs

    files = [file for file in (output, json_file) if file is not None]
    if plots is not None:
        from electret.training.plots import parity_files, plot_parity

        files += parity_files(plots)
    check_outputs(files, [model, data], replace=force)
    if output is not None:
        check_ending(output, (".xyz", ".extxyz", ".traj", ".db"))

    from electret.cli.evaluation import run_evaluation
    from electret.support.console import standard_console
    from electret.support.ranks import device_of_rank, process_group

    with process_group(device) as first:
        place = device_of_rank(device)
        console = standard_console(quiet=not first)
        assessment = run_evaluation(
            model, data, output, batch_size, place, dtype, keys or [], console, dipole_origin
        )
    if assessment is None:
        return
    if plots is not None:
        plot_parity({data.stem: assessment.metrics}, plots)
    if json_file is not None:
        atomic_write(json_file, json.dumps(assessment.as_dict(), indent=1).encode())


@application.command()
@reported
def compare(
    models: Annotated[
        list[str],
        typer.Argument(
            help="Model files, folders of runs or YAML files of runs, each also as NAME=PATH; "
            "or one YAML file with `models` and `data`."
        ),
    ],
    data: Annotated[
        list[str] | None,
        typer.Option("--data", metavar="[NAME=]FILE", help="Labelled frames; may be repeated."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for tables and plots.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Frames computed at once.")] = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    keys: Keys = None,
    dipole_origin: DipoleOrigin = None,
    plots: Annotated[bool, typer.Option(help="Draw the plots.")] = True,
    force: Force = False,
) -> None:
    """Compare models side by side on the same data.

    Models that are given as YAML files of runs are trained first.
    """
    from electret.cli.comparison import run_comparison
    from electret.support.console import standard_console

    run_comparison(
        models,
        data or [],
        output,
        batch_size,
        device,
        dtype,
        keys or [],
        plots,
        standard_console(),
        force,
        dipole_origin,
    )


@application.command("import")
@reported
def import_model(
    model: Annotated[
        Path, typer.Argument(help="Model file of mace-torch (.model): MACE, MACE-LES or MACE-POLAR-1.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Model file to write (.electret).")],
    trust: Annotated[
        bool, typer.Option("--trust", help="The file is a pickle from a source that you trust.")
    ] = False,
    head: Annotated[str | None, typer.Option(help="Energy head, of a model with several.")] = None,
    dtype: Dtype = None,
    force: Force = False,
) -> None:
    """Turn a model of mace-torch into an .electret file."""
    from electret.models import from_mace, save
    from electret.models.config import BackboneConfig
    from electret.support.console import say, standard_console
    from electret.support.outputs import check_ending, check_outputs

    check_outputs([output], [model], replace=force)
    check_ending(output, (".electret",))
    given = {name: value for name, value in (("head", head), ("dtype", dtype)) if value is not None}
    found = from_mace(model, BackboneConfig.parse(given), trust=trust)
    save(found, output, {"imported": model.name})
    n_parameters = sum(parameter.numel() for parameter in found.parameters())
    say(standard_console(), f"{found.family}: {n_parameters} parameters, written to {output}")


@application.command()
@reported
def serve(
    model: Annotated[Path, typer.Argument(help="Model file (.electret, or a pickle with --trust).")],
    structure: Annotated[
        Path, typer.Option(help="File that i-PI starts from, which has elements, periodic axes, conditions.")
    ],
    unix: Annotated[str | None, typer.Option(help="Name of i-PI's UNIX socket (its address).")] = None,
    host: Annotated[str, typer.Option(help="Machine of i-PI.")] = "localhost",
    port: Annotated[int | None, typer.Option(help="Port of i-PI; by default 31415.")] = None,
    charge: Annotated[float | None, typer.Option(help="Total charge, e.")] = None,
    field: Annotated[
        tuple[float, float, float] | None, typer.Option(metavar="X Y Z", help="External field, V/Å.")
    ] = None,
    fermi_level: Annotated[float | None, typer.Option(help="Fermi level, eV, in place of a charge.")] = None,
    spin_multiplicity: Annotated[int | None, typer.Option(help="2S + 1.")] = None,
    extras: Annotated[
        list[str] | None,
        typer.Option("--extra", metavar="NAME", help="Send this too, e.g. born_effective_charges."),
    ] = None,
    open_stress: Annotated[
        str, typer.Option(help="Virial of molecules: refuse (zero) or virial (of the forces).")
    ] = "refuse",
    wait: Annotated[float, typer.Option(help="Seconds to wait for i-PI.")] = 30.0,
    trust: Annotated[bool, typer.Option("--trust", help="Read a pickle, which may run code.")] = False,
    device: Device = "cpu",
    dtype: Dtype = None,
) -> None:
    """Give i-PI energies, forces and virials through its socket."""
    from electret.interfaces.ipi import Beads
    from electret.interfaces.ipi import serve as run
    from electret.support.console import say, standard_console

    if unix is not None and port is not None:
        raise InputError("--unix and --port exclude each other; give the one of i-PI's <ffsocket>")
    conditions = {
        "total_charge": charge,
        "external_field": field,
        "fermi_level": fermi_level,
        "spin_multiplicity": spin_multiplicity,
    }
    options = {"device": device, "dtype": dtype, "trust": trust, "open_stress": open_stress}
    beads = Beads(model, structure, conditions, extras or (), **options)
    number = run(beads, unix, host, port, wait)
    say(standard_console(), f"i-PI has ended: {number} structures evaluated")


@application.command()
@reported
def info(
    model: Annotated[Path | None, typer.Argument(help="Describe this model file instead.")] = None,
) -> None:
    """Show versions, threads, CPU and CUDA; or describe a model."""
    from electret.cli.information import model_table, system_table
    from electret.support.console import standard_console

    (system_table() if model is None else model_table(model)).show(standard_console())


@plots.command("run")
@reported
def plot_run(run: Annotated[Path, typer.Argument(help="Folder of a run.")]) -> None:
    """Draw the learning curve of a run again, also of a running one."""
    from electret.support.console import say, standard_console
    from electret.support.outputs import CSV_FILE
    from electret.training.plots import plot_history
    from electret.training.run_log import read_history

    if not (run / CSV_FILE).is_file():
        raise InputError(f"'{run}' holds no {CSV_FILE}; give the folder of a run (the output of its config)")
    history = read_history(run)
    if not history:
        raise InputError(f"'{run / CSV_FILE}' has no epoch yet; wait for the first one")
    picture = run / "plots" / "learning_curve.png"
    plot_history(history, picture)
    say(standard_console(), f"wrote {picture}")


@plots.command("scf")
@reported
def plot_scf(
    model: Annotated[Path, typer.Argument(help="Model file (.electret) of a self-consistent family.")],
    data: Annotated[Path, typer.Argument(help="Frames (extended XYZ or any format of ASE).")],
    output: Annotated[Path, typer.Option(help="Picture to write.")] = Path("scf.png"),
    solvers: Annotated[
        list[str] | None,
        typer.Option("--solver", help="newton, newton_cg, anderson or mixing; may be repeated."),
    ] = None,
    frames: Annotated[int, typer.Option(min=1, help="Frames from the start of the file.")] = 20,
    tolerance: Annotated[float | None, typer.Option(help="By default that of the model.")] = None,
    max_iterations: Annotated[int | None, typer.Option(min=1, help="By default those of the model.")] = None,
    keys: Keys = None,
    force: Force = False,
) -> None:
    """Draw the residual of the SCF against the iteration, and compare solvers."""
    from electret.analysis.scf_convergence import SOLVERS, convergence_table, plot_convergence, run_solvers
    from electret.cli.evaluation import parse_keys
    from electret.data import read_frames
    from electret.models import load
    from electret.support.console import say, standard_console
    from electret.support.outputs import check_ending, check_outputs

    check_outputs([output], [model, data], replace=force)
    check_ending(output, PICTURES)
    chosen = read_frames(data, parse_keys(keys or []))[:frames]
    runs = run_solvers(load(model), chosen, solvers or SOLVERS, tolerance, max_iterations)
    console = standard_console()
    convergence_table(runs).show(console)
    plot_convergence(runs, output, model.stem)
    say(console, f"wrote {output}")


@data_sets.command("prepare")
@reported
def prepare_data(
    files: Annotated[list[Path], typer.Argument(help="Frames (extended XYZ or any format of ASE).")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the set, which must not exist.")],
    keys: Keys = None,
    dipole_origin: DipoleOrigin = None,
    shard_size: Annotated[int, typer.Option(min=1, help="Frames per file of the set.")] = 4096,
) -> None:
    """Write the frames of files to a folder that stands for them wherever a data file is named."""
    from electret.cli.data import run_preparation
    from electret.support.console import standard_console

    run_preparation(files, output, keys or [], dipole_origin, shard_size, standard_console())


@data_sets.command("info")
@reported
def describe_data(data: Annotated[Path, typer.Argument(help="Folder of a prepared set.")]) -> None:
    """Show what a prepared set holds, with warnings of its labels."""
    from electret.cli.data import report_set
    from electret.support.console import standard_console

    report_set(data, standard_console())


@application.command()
@reported
def demo(
    output: Annotated[Path, typer.Option(help="Folder for model, plots and table.")] = Path("demo_output"),
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of training.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A minute instead of the full demonstration.")
    ] = False,
    force: Force = False,
) -> None:
    """Train a small model, evaluate it, and plot.

    Includes molecular dynamics in a field.
    """
    import electret.demo

    electret.demo.run(output, epochs=epochs, quick=quick, force=force)
