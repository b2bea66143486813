"""A whole training run: data, statistics, model, loop, final report and model file."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import math
from collections.abc import Collection, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from electret._native import __version__
from electret.cuda.found_device import found_device
from electret.data import (
    Frames,
    GraphDataset,
    atomic_energies,
    check_targets,
    key_counts,
    magnitudes,
    print_report,
    random_split,
    read_frames,
)
from electret.data.frames import Weighted, as_frames, bound, join
from electret.data.reference import FROM_START, energy_warnings
from electret.errors import InputError, OutputError
from electret.models import Model, Statistics, build, save
from electret.models.start.density import density_statistics
from electret.models.start.ranges import training_ranges
from electret.support import ranks
from electret.support.console import progress_bar, say, standard_console
from electret.support.outputs import (
    CSV_FILE,
    MODEL_FILE,
    atomic_write,
    check_not_in_use,
    check_outputs,
    claimed,
    holds_run,
    set_aside,
)
from electret.training.checkpoint import read_checkpoint
from electret.training.config import ReplayConfig, TrainedModelConfig, TrainingConfig
from electret.training.config_file import write_config
from electret.training.errors import CheckpointError
from electret.training.evaluation import evaluate_dataset
from electret.training.loop import Trainer
from electret.training.metrics import Metrics
from electret.training.optimization import build_optimizer
from electret.training.residuals import DIPOLE_DERIVATIVES
from electret.training.resumption import (
    LAST_CHECKPOINT,
    check_data,
    check_options,
    fingerprints,
)
from electret.training.run_log import RunLog, read_history
from electret.training.self_consistency import has_density
from electret.training.start import add_lora, continued, merge_lora, read_start, started
from electret.training.summary import print_summary, write_summary
from electret.training.targets import DENSITY_LABELS, TARGETS, resolved_mode

__all__ = ["TrainingData", "TrainingResult", "check_folder", "load_data", "prepared", "statistics", "train"]

MOST_PLOTTED = 100_000
"""Frames of a set up to which labels and predictions are kept for parity plots."""

_RUN_ENTRIES = (
    "checkpoints",
    "tensorboard",
    "plots",
    CSV_FILE,
    "config.yaml",
    "summary.md",
    "summary.json",
    MODEL_FILE,
)
"""Files and folders that a run writes."""


@dataclass
class TrainingData:
    """Frames of a run; isolated atoms are left out of `train` and `valid` and kept in `references`."""

    train: Frames
    valid: Frames
    test: dict[str, Frames] = field(default_factory=dict)
    references: Frames = field(default_factory=lambda: as_frames([]))


@dataclass
class TrainingResult:
    """Results of a run.

    Attributes:
        model: averaged weights of the best epoch of the last stage.
        model_file: where it is saved.
        folder: folder of the run.
        metrics: errors by data set: `train`, `valid` and the test sets.
        history: one row per epoch, the columns of `metrics.csv`.
    """

    model: Model
    model_file: Path
    folder: Path
    metrics: dict[str, Metrics]
    history: list[dict[str, Any]]


def train(
    config: TrainingConfig,
    *,
    resume: bool = False,
    restart: bool = False,
    console: Console | None = None,
    data: TrainingData | None = None,
) -> TrainingResult:
    """Train the model of `config`, evaluate it, and save it as `model.electret` in the folder of the run.

    Args:
        config: the run, see `TrainingConfig.from_yaml`.
        resume: continue from the last checkpoint, bit for bit on the CPU (with the same number of threads).
        restart: move an earlier run in the same folder to a new folder beside it, and begin anew.
        console: where progress is shown; None: standard output, of the first rank.
        data: of `load_data`; None: read.

    In the ranks of a `torchrun` or `srun` (connected by `electret.support.ranks.process_group`) each computes
    its share of every batch; all have the result, and the first writes it.

    Raises:
        InputError: anything wrong with data or options, by file, frame and key.
        CheckpointError: an earlier run is in the way, or the one to resume is missing, corrupt or different.
        OutputError: the folder cannot be written, holds other files of these names, or another process trains
            in it. Nothing is written before data, labels, device and model were checked.
        NonFiniteError: the loss or its gradient is not finite; names the frames.
        TrainingInterrupted: stopped by Ctrl-C or a termination signal, after writing a checkpoint.
    """
    console, folder = console or standard_console(quiet=not ranks.is_first()), config.run_folder
    config = config.model_copy(update={"device": ranks.device_of_rank(config.device)})
    check_not_in_use(folder)
    source = None
    if config.model.start is not None:
        if resume:
            stored = read_checkpoint(folder / LAST_CHECKPOINT).state["config"]["model"]
            config = continued(config, TrainedModelConfig.parse(stored))
        else:
            config, source = read_start(config)
    check_folder(config, resume, restart)  # reported before any work
    trainer, datasets = prepared(config, source, console, data, resume)
    log = trainer.log
    with claimed(folder) if ranks.is_first() else nullcontext():  # nothing was written before
        if ranks.is_first():
            check_folder(config, resume, restart)  # another run may have begun and ended meanwhile
            if restart and holds_run(folder):
                log.message(f"the earlier run is kept in {set_aside(folder, _RUN_ENTRIES)}")
        try:
            # The generator of the caller is left as it was, and the run depends on its own seed alone.
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(config.seed)
                if resume:
                    trainer.restore()
                    log.message(f"resuming after epoch {trainer.progress.epoch}")
                else:
                    trainer.save()  # first: from here on the folder holds a run, which can be resumed
                if ranks.is_first():
                    write_config(config, folder / "config.yaml")
                trainer.run()
        finally:
            log.close()
        return _finish(config, trainer, datasets, console)


def prepared(
    config: TrainingConfig,
    source: Model | None,
    console: Console,
    data: TrainingData | None = None,
    resume: bool = False,
) -> tuple[Trainer, dict[str, GraphDataset]]:
    """All that comes before the first step of a run, without a file written: data and labels, checked and
    reported, and the model. `source` is the model that it starts from."""
    folder = config.run_folder
    found_device(config.device)
    data = data or load_data(config)
    sets = {"train": data.train, "valid": data.valid, **data.test}
    print_report(
        console,
        {**sets, "isolated atoms": data.references} if data.references else sets,
        config.data.keys,
        config.data.dipole_origin,
        energy_warnings(join([data.train, data.references]), config.data.e0s),
    )
    _check_labels(config, data)
    datasets = _datasets(config, {**sets, "isolated atoms": data.references})
    references = datasets.pop("isolated atoms")
    state = None
    if resume:  # before the time to build the model
        state = read_checkpoint(folder / LAST_CHECKPOINT).state
        check_data(state, fingerprints(datasets["train"], datasets["valid"], references), folder)
    _check_sets(config, datasets, console)
    model = _build_model(config, data, datasets["train"], state, source, console)
    table, warnings = magnitudes(datasets, model.statistics.e0s)
    table.show(console)
    for warning in warnings:
        say(console, f"warning: {warning}")
    _check_frames(config, model, datasets)
    n_parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    say(
        console,
        f"{config.model.family}: {n_parameters} parameters, cutoff {model.cutoff:g} Å, {config.dtype} on "
        f"{config.device}",
    )
    log = RunLog(folder, console, config.n_epochs, config.tensorboard)
    # Models are built in every rank, and differ where the processors do.
    model.load_state_dict(ranks.from_first({name: value.cpu() for name, value in model.state_dict().items()}))
    return Trainer(config, model, datasets["train"], datasets["valid"], log, references), datasets


def check_folder(config: TrainingConfig, resume: bool, restart: bool) -> None:
    """Refuse a folder that is in use, holds another run or files of the user; writes nothing."""
    if resume and restart:
        raise InputError("resume and restart exclude each other; choose one")
    folder, data = config.run_folder, config.data
    if resume:
        check_options(read_checkpoint(folder / LAST_CHECKPOINT).state, config)
    elif holds_run(folder) and not restart:
        raise CheckpointError(
            f"'{folder}' holds a run already; continue it with --resume, replace it with --restart, or "
            f"set another output"
        )
    check_outputs(
        [folder / name for name in _RUN_ENTRIES],
        [*data.train, *(data.valid or ()), *itertools.chain(*data.test_sets.values())],
        replace=holds_run(folder),
        remedy="it belongs to no run; set another output, or move it",
    )


def load_data(config: TrainingConfig) -> TrainingData:
    """Read, check and split the data of a run."""
    options = config.data

    def read(files: Sequence[Path]) -> Frames:
        return read_frames(files, options.keys, options.dipole_origin)

    everything = read(options.train)
    train = everything if options.keep_isolated_atoms else bound(everything)
    if not len(train):
        raise InputError(f"{options.train[0]}: no training frames besides isolated atoms")
    if options.valid is not None:
        valid = bound(read(options.valid))
        if not len(valid):
            raise InputError(f"{options.valid[0]}: no validation frames besides isolated atoms")
    else:
        train, valid = random_split(train, options.valid_fraction or 0.1, config.seed)
    if options.replay:
        train = join([train, _replayed(bound(read(options.replay.files)), options.replay, config.seed)])
    test = {name: bound(read(files)) for name, files in options.test_sets.items()}
    for name in ("train", "valid"):
        if name in test:
            raise InputError(f"data.test: '{name}' is the name of another set; rename the test set")
    references = everything.take(everything.is_isolated_atom & (not options.keep_isolated_atoms))
    return TrainingData(
        train, valid, {name: frames for name, frames in test.items() if len(frames)}, references
    )


def _replayed(frames: Frames, options: ReplayConfig, seed: int) -> Frames:
    """Frames of earlier training, in their file order, with their weight in the loss."""
    if options.frames is not None and options.frames < len(frames):
        chosen = np.random.default_rng(seed).choice(len(frames), options.frames, replace=False)
        frames = frames.take(np.sort(chosen))
    return Frames([Weighted(frames, options.weight)])


def _check_labels(config: TrainingConfig, data: TrainingData) -> None:
    found = {name for name, count in key_counts(data.valid).items() if count}
    for index, stage in enumerate(config.stages):
        targets = list(stage.loss.weights)
        own_label = [name for name in targets if TARGETS[name].has_own_label]
        check_targets(data.train, own_label, config.data.keys, f"stages.{index}.loss")
        _check_periodic_responses(config, data.train, targets, f"stages.{index}.loss")
        if resolved_mode(config.model.family, stage.mode) == "direct":
            _check_densities(config, data.train, f"stages.{index}.mode")
        if not any(_is_labelled(name, found) for name in targets):
            files = ", ".join(sorted(data.valid.names("file")))
            raise InputError(
                f"stages.{index}.loss: no validation frame carries any of {', '.join(targets)} ({files}), so "
                "no epoch could be told better than another; add labels or other validation frames"
            )
    for name, frames in {"valid": data.valid, **data.test}.items():
        elements, counts = frames.composition()
        unknown = counts[:, ~np.isin(elements, data.train.elements)].any(axis=1)
        if unknown.any():
            frame = frames[int(unknown.argmax())]
            symbols = sorted(set(frame.atoms.symbols[~np.isin(frame.atoms.numbers, data.train.elements)]))
            raise InputError(
                f"{frame.where} ({name}): element {', '.join(symbols)} is in no training frame; add "
                "training frames with it or remove the frame"
            )


def _check_periodic_responses(
    config: TrainingConfig, frames: Frames, targets: Sequence[str], where: str
) -> None:
    """Derivatives of the dipole count along open axes only, but where the family defines them along all."""
    for name in DIPOLE_DERIVATIVES.intersection(targets) - config.model.description.periodic_responses:
        if frames.column("pbc", False)[frames.has(name)].all():
            raise InputError(
                f"{where}.{name}: all frames with '{getattr(config.data.keys, name)}' are crystals, where "
                f"the dipole of family '{config.model.family}' depends on the image in which an atom is "
                "listed; remove the weight, add open systems, or (Born charges) use a family whose charges "
                "are local, as local_charges"
            )


def _is_labelled(target: str, labels: Collection[str]) -> bool:
    """True if the labels of a frame or set are those of a target (a frame without a total charge is neutral
    by definition)."""
    needs = TARGETS[target].needs
    return target == "total_charge" or not needs or any(name in labels for name in needs)


def _check_densities(config: TrainingConfig, frames: Frames, where: str) -> None:
    """`direct` training starts from the reference density of a frame."""
    if has_density(frames).any():
        return
    keys = " nor ".join(f"'{getattr(config.data.keys, name)}'" for name in reversed(DENSITY_LABELS))
    files = ", ".join(sorted(frames.names("file")))
    raise InputError(
        f"{where}: mode 'direct' evaluates the model at the reference density, but no training frame carries "
        f"{keys} ({files}); set data.keys.charges to the name of the charges, or use mode: implicit"
    )


def _datasets(config: TrainingConfig, sets: dict[str, Frames]) -> dict[str, GraphDataset]:
    dtype = getattr(torch, config.dtype)
    cutoff = config.model.backbone.r_max
    weights = config.data.config_type_weights
    kinds = {*sets["train"].names("config_type"), "Default"}
    for kind in weights:
        if kind not in kinds:
            raise InputError(
                f"data.config_type_weights: no training frame has config_type '{kind}'; the data has "
                f"{', '.join(sorted(kinds))}"
            )
    workers = config.data.workers
    return {name: GraphDataset(frames, cutoff, dtype, weights, workers) for name, frames in sets.items()}


def _check_sets(config: TrainingConfig, datasets: dict[str, GraphDataset], console: Console) -> None:
    """Refuse data on which training has no meaning: no edges, no weights, validation on the "
    "training frames."""
    train, valid = datasets["train"], datasets["valid"]
    with progress_bar(console) as progress:
        for name, dataset in datasets.items():
            if not dataset.frames.in_memory and (name == "train" or config.data.max_edges):
                task = progress.add_task(f"neighbours of {name}", total=len(dataset))
                dataset.count_edges(functools.partial(progress.advance, task))
            dataset.check_limits(config.data.valid_limits if name != "train" else config.data.limits)
    if not train.n_edges.any():
        raise InputError(
            f"model.backbone.r_max = {config.model.backbone.r_max:g} Å: no training frame "
            f"({train.frames[0].file}) has two atoms this close, so that the model would see single atoms "
            "only; give a larger one"
        )
    for index, stage in enumerate(config.stages):
        for name, dataset in {"training": train, "validation": valid}.items():
            if not any(_counts_in(dataset, target).any() for target in stage.loss.weights):
                raise InputError(
                    f"stages.{index}.loss: all {name} frames with {', '.join(stage.loss.weights)} have "
                    "weight 0 (data.config_type_weights, config_weight, config_<target>_weight); give one a "
                    "weight"
                )
    copies = np.isin(valid.frames.column("structure"), train.frames.column("structure"))
    if copies.all():
        raise InputError(
            f"data.valid: every validation frame ({valid.frames[0].file}) is a training frame too, so that "
            "validation says nothing about other structures; give other frames, or valid_fraction"
        )
    if copies.any():
        n_copies = np.count_nonzero(copies)
        say(console, f"warning: {n_copies} of {len(valid)} validation frames are training frames too")


def _counts_in(dataset: GraphDataset, target: str) -> NDArray[np.bool_]:
    """True for each frame that has a label and a weight for a target of the loss."""
    needs = TARGETS[target].needs
    weighted = dataset.weights(target) > 0
    if target == "total_charge" or not needs:
        return weighted
    return weighted & np.logical_or.reduce([dataset.frames.has(name) for name in needs])


def statistics(config: TrainingConfig, data: TrainingData, train_set: GraphDataset) -> Statistics:
    """Elements, E0s, scale and shift, mean number of neighbours of the training set.

    `scaling: rms_forces` divides by the RMS force and shifts by the mean interaction energy per atom, `std`
    divides by the standard deviation of that energy, `none` does neither. For self-consistent families also
    the scales of the labelled densities, see `electret.models.start.density`.
    """
    labelled = data.train.has("energy")
    if labelled.any() or isinstance(config.data.e0s, dict):
        rule = "average" if config.data.e0s in FROM_START else config.data.e0s
        e0s = atomic_energies(join([data.train, data.references]), rule)
    else:
        e0s = dict.fromkeys(data.train.elements, 0.0)  # a run on forces or charges alone has no energy zero
    found = Statistics.from_frames(data.train, train_set.n_edges, e0s)
    if config.model.description.self_consistent:
        found = _with_densities(config, found, train_set)
    if config.data.scaling == "none":
        return found.model_copy(update={"mean": 0.0, "scale": 1.0})
    if config.data.scaling == "std":
        spread = float(np.std(found.interaction_energies(data.train))) if labelled.any() else 0.0
        return found.model_copy(update={"scale": spread if spread > 0 else 1.0})
    return found


def _with_densities(config: TrainingConfig, found: Statistics, train_set: GraphDataset) -> Statistics:
    """Statistics with those of the labelled densities, which are kept in a prepared set, under a hash of all
    that they depend on."""
    path = train_set.frames.path
    if path is None:
        return density_statistics(found, config.model, train_set.graphs)
    about = [__version__, train_set.fingerprint(), found.model_dump(mode="json")]
    key = json.dumps([*about, config.model.plain.model_dump(mode="json")], sort_keys=True)
    file = path.with_name(f"statistics_{hashlib.sha256(key.encode()).hexdigest()[:16]}.json")
    with suppress(OSError, ValueError):  # it is not there, or damaged
        return Statistics.parse(json.loads(file.read_text(encoding="utf-8")))
    found = density_statistics(found, config.model, train_set.graphs)
    with suppress(OutputError):  # a set on a disk that cannot be written is read each time
        atomic_write(file, json.dumps(found.model_dump(mode="json")).encode())
    return found


def _build_model(
    config: TrainingConfig,
    data: TrainingData,
    train_set: GraphDataset,
    state: dict[str, Any] | None = None,
    source: Model | None = None,
    console: Console | None = None,
) -> Model:
    """A fresh model, or one that goes on from `source`; `state` is that of the checkpoint to resume, whose
    tensors belong to its statistics."""
    if source is not None:
        model, about = started(config, source, statistics(config, data, train_set), train_set)
        say(console or standard_console(), about)
    else:
        found = Statistics.parse(state["statistics"]) if state else statistics(config, data, train_set)
        model = build(config.model.plain, found, config.seed)
    if config.model.lora is not None:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(config.seed)
            add_lora(model, config.model.lora)
    return model.to(config.device)


def _check_frames(config: TrainingConfig, model: Model, datasets: dict[str, GraphDataset]) -> None:
    """Raise `InputError` for what would stop the training later: conditions that the model refuses, stages
    without an optimiser."""
    for dataset in datasets.values():
        try:
            model.check_conditions(dataset.conditions())
        except InputError:
            for index, frame in enumerate(dataset.frames):
                try:
                    model.check_conditions(dataset.graphs[index])
                except InputError as error:
                    raise InputError(f"{frame.where}: {error}") from None
            raise
    for stage in config.stages:
        build_optimizer(model, stage)


def _finish(
    config: TrainingConfig, trainer: Trainer, datasets: dict[str, GraphDataset], console: Console
) -> TrainingResult:
    folder = config.run_folder
    if not math.isfinite(trainer.progress.best_loss):
        raise CheckpointError(
            f"no epoch of the last stage of the run in '{folder}' had a finite validation loss that has not "
            f"diverged; lower the learning rate, or, if valid_unconverged in {CSV_FILE} says that no density "
            "converged, begin with a stage of mode direct, and use --restart"
        )
    trainer.load_best()
    model = trainer.model
    if config.model.lora is not None:
        merge_lora(model)
    model_file = folder / MODEL_FILE
    metrics = {
        name: evaluate_dataset(
            model, dataset, config.data.valid_limits, trainer.stages[-1].loss, len(dataset) <= MOST_PLOTTED
        )
        for name, dataset in datasets.items()
    }
    if ranks.is_first():
        _write_results(config, trainer, datasets, metrics, model_file)
        print_summary(metrics, console)
        say(console, f"model saved to {model_file}")
    history = ranks.from_first(read_history(folder) if ranks.is_first() else [])
    return TrainingResult(model, model_file, folder, metrics, history)


def _write_results(
    config: TrainingConfig,
    trainer: Trainer,
    datasets: dict[str, GraphDataset],
    metrics: dict[str, Metrics],
    model_file: Path,
) -> None:
    save(
        trainer.model,
        model_file,
        {
            "electret_version": __version__,
            "name": config.name,
            "best_epoch": trainer.progress.best_epoch,
            "epochs": trainer.progress.epoch,
            "training_ranges": training_ranges([datasets["train"].conditions()]),
            "errors": {name: entry.as_dict()["errors"]["all"] for name, entry in metrics.items()},
        },
    )
    folder = config.run_folder
    write_summary(folder, metrics, config, trainer.progress.best_epoch)
    if config.plots:
        from electret.training.plots import plot_convergence, plot_history, plot_parity

        plot_parity(metrics, folder / "plots")
        plot_convergence(metrics["valid"].convergence, folder / "plots" / "scf_convergence.png")
        plot_history(read_history(folder), folder / "plots" / "learning_curve.png")
