"""Whole runs: what they write, exact resumption, interruption, errors before and during training."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mace")

import torch
import yaml
from ase import Atoms
from rich.console import Console
from safetensors.torch import load_file

from electret import InputError, OutputError
from electret.graph import Graph
from electret.models import load, read_header
from electret.support.console import standard_console
from electret.support.outputs import claimed
from electret.training import (
    CheckpointError,
    NonFiniteError,
    TrainingConfig,
    TrainingInterrupted,
    TrainingResult,
    evaluate,
    train,
)
from electret.training.checkpoint import read_checkpoint
from electret.training.loop import Trainer
from electret.training.resumption import BEST_CHECKPOINT, LAST_CHECKPOINT, check_options
from electret.training.run import load_data
from training_frames import cluster, clusters, crystal, run_options, write_frames

STAGES = [
    {
        "name": "first",
        "epochs": 2,
        "lr": 0.02,
        "loss": {"energy": 1.0, "forces": 10.0, "charges": 1.0, "dipole": 1.0},
        "scheduler": {"name": "plateau", "patience": 0, "factor": 0.5},
    },
    {
        "name": "second",
        "epochs": 2,
        "lr": {"backbone": 0.005, "readouts": 0.0, "electrostatics": 0.01},
        "loss": {"energy": 10.0, "forces": 10.0, "charges": 1.0, "form": "huber"},
        "optimizer": {"name": "adamw", "weight_decay": 1e-4},
        "scheduler": {"name": "exponential", "gamma": 0.7},
        "early_stop": 5,
    },
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_frames(tmp_path_factory.mktemp("data") / "clusters.xyz", clusters(12))


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    """A run without interruption, with everything it can write."""
    output = tmp_path_factory.mktemp("whole")
    test = write_frames(output / "unseen.xyz", clusters(3, seed=9))
    options = run_options(data, output, stages=STAGES, tensorboard=True, plots=True)
    options["data"]["test"] = {"unseen": str(test)}
    return run(options, console=quiet(output / "shown.txt"))


def quiet(path: Path) -> Console:
    return Console(file=path.open("w", encoding="utf-8"), width=150)


def run(options: dict[str, Any], **arguments: Any) -> TrainingResult:
    arguments.setdefault("console", Console(quiet=True))
    return train(TrainingConfig.from_dict(options), **arguments)


def rows_of(folder: Path) -> list[dict[str, str]]:
    """The recorded epochs as they are written."""
    with open(folder / "metrics.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def same_result(folder: Path, reference: Path) -> None:
    """Weights, optimiser, moving average, generator and recorded numbers agree bit for bit."""
    for name in (str(LAST_CHECKPOINT), str(BEST_CHECKPOINT), "model.electret"):
        ours, theirs = load_file(folder / name), load_file(reference / name)
        assert ours.keys() == theirs.keys()
        different = [key for key in ours if not torch.equal(ours[key], theirs[key])]
        assert not different, f"{name}: {different}"
    states = [read_checkpoint(path / LAST_CHECKPOINT).state for path in (folder, reference)]
    for state in states:
        del state["config"]
        for row in state["progress"]["history"]:
            del row["seconds"]
    assert states[0] == states[1]
    rows, expected = rows_of(folder), rows_of(reference)
    for row in (*rows, *expected):
        del row["seconds"]
    assert rows == expected


def test_everything_is_written(whole: TrainingResult) -> None:
    folder = whole.folder
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {
        "config.yaml",
        "metrics.csv",
        "summary.md",
        "summary.json",
        "model.electret",
        "plots/parity_energy.png",
        "plots/parity_forces.png",
        "plots/parity_charges.png",
        "plots/parity_dipole.png",
        "plots/learning_curve.png",
        str(LAST_CHECKPOINT),
        str(BEST_CHECKPOINT),
    } <= names
    assert any(name.startswith("tensorboard/events") for name in names)
    assert not [name for name in names if name.endswith(".tmp")]
    assert TrainingConfig.from_yaml(folder / "config.yaml").stages[1].name == "second"
    rows = rows_of(folder)
    assert [row["stage"] for row in rows] == ["first", "first", "second", "second"]
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4]
    assert float(rows[0]["train_forces_loss"]) > 0
    assert rows[2]["lr_readouts"] == ""
    assert float(rows[3]["lr_backbone"]) == pytest.approx(0.005 * 0.7)
    shown = (folder / "shown.txt").read_text(encoding="utf-8")
    for text in ("REF_charges", "in no frame: REF_stress", "epoch    4/4 second", "unseen", "meV/atom"):
        assert text in shown
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert set(summary["sets"]) == {"train", "valid", "unseen"}
    assert summary["sets"]["train"]["errors"].keys() == {"all", "first", "second"}
    assert "| unseen | all | dipole |" in (folder / "summary.md").read_text(encoding="utf-8")


def test_training_lowers_the_loss(data: Path, tmp_path: Path) -> None:
    options = run_options(data, tmp_path / "run")
    options["stages"][0]["epochs"] = 8
    history = run(options).history
    assert history[0]["train_loss"] > 1.5 * history[-1]["train_loss"]
    assert history[0]["valid_loss"] > history[-1]["valid_loss"]


def test_saved_model_is_what_was_evaluated(whole: TrainingResult) -> None:
    """The file holds the averaged weights of the best epoch, and its errors are those of the summary."""
    model = load(whole.model_file)
    metrics = evaluate(model, whole.folder / "unseen.xyz", batch_size=2)
    for name, errors in metrics.overall.items():
        assert errors.rmse == pytest.approx(whole.metrics["unseen"].overall[name].rmse, rel=1e-10)
    best = load_file(whole.folder / BEST_CHECKPOINT)
    last = load_file(whole.folder / LAST_CHECKPOINT)
    weights = dict(model.named_parameters())
    assert all(torch.equal(weights[name], best[f"model/{name}"]) for name in weights)
    assert any(not torch.equal(weights[name], last[f"model/{name}"]) for name in weights)
    metadata = read_header(whole.model_file)["metadata"]
    assert metadata["errors"]["unseen"]["energy"]["rmse"] == whole.metrics["unseen"].overall["energy"].rmse
    assert metadata["best_epoch"] in (3, 4)


def test_resuming_a_shorter_run_is_exact(data: Path, tmp_path: Path, whole: TrainingResult) -> None:
    """Stop after 3 of 4 epochs, then continue with the fourth."""
    short = [STAGES[0], {**STAGES[1], "epochs": 1}]
    run(run_options(data, tmp_path / "run", stages=short))
    run(run_options(data, tmp_path / "run", stages=STAGES), resume=True)
    same_result(tmp_path / "run", whole.folder)


@pytest.mark.parametrize("step", [2, 8])
def test_ctrl_c_and_resume_are_exact(
    data: Path, tmp_path: Path, whole: TrainingResult, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """The signal arrives in a batch; the run stops after it, inside the epoch, and goes on from there."""
    before = signal.getsignal(signal.SIGINT)
    interrupt_at(step, signal.SIGINT, monkeypatch)
    options = run_options(data, tmp_path / "run", stages=STAGES)
    with pytest.raises(TrainingInterrupted, match=r"checkpoint written.*--resume"):
        run(options)
    monkeypatch.undo()
    assert signal.getsignal(signal.SIGINT) is before
    run(options, resume=True)
    same_result(tmp_path / "run", whole.folder)


def interrupt_at(step: int, number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = Trainer._step, []

    def counted(self: Trainer, indices: list[int], graph: Graph) -> None:
        calls.append(indices)
        if len(calls) == step:
            os.kill(os.getpid(), number)
        original(self, indices, graph)

    monkeypatch.setattr(Trainer, "_step", counted)


KILLED_RUN = """
import os, signal, sys
from electret.training import TrainingConfig, train
from electret.training.checkpoint import read_checkpoint
from electret.training.loop import Trainer

kill_at = int(sys.argv[2])
original, calls = Trainer._step, []

def counted(self, indices, graph):
    calls.append(indices)
    if len(calls) == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    original(self, indices, graph)

Trainer._step = counted
train(TrainingConfig.from_yaml(sys.argv[1]), resume=kill_at < 0)
"""


def test_kill_inside_an_epoch_and_resume_are_exact(data: Path, tmp_path: Path, whole: TrainingResult) -> None:
    """SIGKILL in the second batch of the third epoch; a new process resumes from the end of the second."""
    options = run_options(data, tmp_path / "run", stages=STAGES)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(options), encoding="utf-8")

    def process(kill_at: int) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            KILLED_RUN,
            str(tmp_path / "config.yaml"),
            str(kill_at),
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)

    batches_per_epoch = -(-len(whole.metrics["train"].parity["energy"][0]) // 3)
    killed = process(2 * batches_per_epoch + 2)
    assert killed.returncode == -signal.SIGKILL
    assert len(rows_of(tmp_path / "run")) == 2
    resumed = process(-1)
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming after epoch 2" in resumed.stdout
    same_result(tmp_path / "run", whole.folder)


def test_early_stop_ends_the_stage(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = run_options(data, tmp_path / "run")
    monkeypatch.setattr(torch.optim.Adam, "step", lambda *_: None)  # every epoch after the first is stale
    options["stages"][0] |= {"epochs": 50, "early_stop": 2}
    assert len(run(options).history) == 3


def test_existing_run_is_not_overwritten(data: Path, tmp_path: Path) -> None:
    options = run_options(data, tmp_path / "run")
    options["stages"][0]["epochs"] = 1
    run(options)
    with pytest.raises(CheckpointError, match=r"--resume.*--restart"):
        run(options)
    (tmp_path / "run" / "notes.txt").write_text("mine", encoding="utf-8")
    assert len(run(options, restart=True).history) == 1
    assert (tmp_path / "run" / "notes.txt").exists()
    with pytest.raises(CheckpointError, match="no checkpoint"):
        run(run_options(data, tmp_path / "other"), resume=True)
    with pytest.raises(InputError, match="exclude each other"):
        run(options, resume=True, restart=True)
    cosine = {**options["stages"][0], "scheduler": {"name": "cosine"}}
    run({**options, "stages": [cosine]}, restart=True)
    with pytest.raises(CheckpointError, match=r"other options \(stages\.0\.epochs\)"):
        run({**options, "stages": [{**cosine, "epochs": 2}]}, resume=True)  # it would bend the finished curve
    run(options, restart=True)
    for changes, expected in (
        ({"seed": 4}, r"other options \(seed\)"),
        ({"model": {**options["model"], "electrostatics": {"sigma": 1.1}}}, r"model\.electrostatics\.sigma"),
        ({"data": {**options["data"], "valid_fraction": 0.5}}, r"data\.valid_fraction"),
    ):
        with pytest.raises(CheckpointError, match=expected):
            run({**options, **changes}, resume=True)
    frames = clusters(12)
    frames[5].info["REF_energy"] += 0.1
    changed = write_frames(tmp_path / "changed.xyz", frames)
    with pytest.raises(CheckpointError, match=r"other (train|valid) data"):
        run({**options, "data": {**options["data"], "train": str(changed)}}, resume=True)


def test_checkpoints_from_before_an_option_was_added_are_continued() -> None:
    """Options that a stored configuration lacks had their default; another value now is a difference."""
    options = {"model": {"family": "mace"}, "data": {"train": "a.xyz"}, "stages": [{"epochs": 3}]}
    config = TrainingConfig.from_dict(options)
    stored = config.model_dump(mode="json")
    del stored["model"]["electrostatics"]["precision"], stored["stages"][0]["clip_grad"]
    state = {"config": stored, "progress": {"stage": 0}}
    check_options(state, config)
    options["stages"] = [{"epochs": 3, "clip_grad": 1.0}]
    with pytest.raises(CheckpointError, match=r"other options \(stages\.0\.clip_grad\)"):
        check_options(state, TrainingConfig.from_dict(options))
    stored["model"]["electrostatics"]["forgotten"] = 1
    with pytest.raises(CheckpointError, match=r"clip_grad, .*|forgotten"):
        check_options(state, config)


def test_a_loss_that_is_not_finite_names_the_frames(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that fails for one structure, recognised by its first coordinate."""
    from electret.models import Model

    culprit = 4
    original = Model.forward
    mark = clusters(12)[culprit].positions[0, 0]

    def failing(self: Model, graph: Any, **arguments: Any) -> dict[str, torch.Tensor]:
        output = original(self, graph, **arguments)
        hit = (graph.positions[:, 0] - mark).abs() < 1e-7
        scale = torch.where(
            hit.any() & (graph.batch == graph.batch[hit.nonzero()[:1, 0]].sum()), torch.nan, 1.0
        )
        return {**output, "forces": output["forces"] * scale[:, None]}

    monkeypatch.setattr(Model, "forward", failing)
    options = run_options(data, tmp_path / "run", seed=0)
    with pytest.raises((NonFiniteError, InputError)) as caught:
        run(options)
    message = str(caught.value)
    for text in (f"clusters.xyz, frame {culprit} (forces)", "epoch 1", "the loss is nan", "last.safetensors"):
        assert text in message
    assert message.count("frame ") == 1


def test_periodic_and_open_frames_train_together_on_stress(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    frames = [crystal(rng) if index % 2 else cluster(rng) for index in range(8)]
    path = write_frames(tmp_path / "mixed.xyz", frames)
    options = run_options(path, tmp_path / "run")
    options["model"]["family"] = "mace"
    options["data"] |= {"scaling": "std", "e0s": {"H": -3.0, "O": -3.0}}
    options["stages"][0]["loss"] = {"energy": 1.0, "forces": 1.0, "stress": 1.0}
    options["ema_decay"] = None
    result = run(options)
    assert result.metrics["train"].overall["stress"].count in (18, 27, 36)
    assert result.model.statistics.e0s == {1: -3.0, 8: -3.0}


def test_float32(data: Path, tmp_path: Path) -> None:
    options = run_options(data, tmp_path / "run", dtype="float32")
    options["stages"][0]["epochs"] = 1
    before = torch.get_default_dtype()
    result = run(options)
    assert result.model.dtype == torch.float32
    assert torch.get_default_dtype() is before


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda o: o["stages"][0]["loss"].update(stress=1.0),
            ["'REF_stress'", "clusters.xyz", "data.keys.stress"],
        ),
        (lambda o: o["data"].update(train="/absent.xyz"), ["/absent.xyz", "does not exist"]),
        (lambda o: o["data"].update(config_type_weights={"bulk": 2.0}), ["'bulk'", "first, second"]),
        (lambda o: o["data"].update(e0s={"H": 1.0}), ["data.e0s", "O"]),
        (lambda o: o["data"].update(e0s="isolated"), ["IsolatedAtom"]),
        (lambda o: o.update(device="cuda:99"), ["'cuda:99'", "use 'cpu'"]),
        (lambda o: o.update(output="/proc/none"), ["/proc/none", "output"]),
        (
            lambda o: o["data"].update(test={"train": o["data"]["train"]}),
            ["'train' is the name of another set"],
        ),
    ],
)
def test_bad_runs_are_refused_before_training(
    data: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], expected: list[str]
) -> None:
    options = run_options(data, tmp_path / "run")
    change(options)
    with pytest.raises(InputError) as caught:
        run(options)
    for text in expected:
        assert text in str(caught.value)


def test_validation_frames_must_fit_the_training_frames(data: Path, tmp_path: Path) -> None:
    foreign = write_frames(tmp_path / "foreign.xyz", [cluster(np.random.default_rng(0))])
    text = foreign.read_text(encoding="utf-8")
    foreign.write_text(text.replace("H ", "He "), encoding="utf-8")
    options = run_options(data, tmp_path / "run")
    options["data"] = {"train": str(data), "valid": str(foreign)}
    with pytest.raises(
        InputError, match=r"foreign.xyz, frame 0 \(valid\): element He is in no training frame"
    ):
        run(options)
    foreign.write_text(text.replace("REF_", "other_"), encoding="utf-8")
    with pytest.raises(InputError, match="no validation frame carries any of"):
        run(options)


def test_a_condition_the_family_cannot_honour_names_the_frame(tmp_path: Path) -> None:
    frames = clusters(6)
    for index in (2, 3, 4, 5):
        frames[index].info["external_field"] = np.array([0.0, 0.0, 0.1])
    options = run_options(write_frames(tmp_path / "fields.xyz", frames), tmp_path / "run")
    options["model"]["family"] = "mace"
    options["stages"][0]["loss"] = {"energy": 1.0}
    with pytest.raises(InputError, match=r"fields\.xyz, frame [2-5]: external_field"):
        run(options)


def everything_below(folder: Path) -> dict[str, bytes]:
    """Content of every file, to see that a refused command has changed nothing."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_refused_restart_loses_nothing(data: Path, tmp_path: Path) -> None:
    """Configuration, data, labels, device and model are checked before any file is touched."""
    options = run_options(data, tmp_path / "run")
    options["stages"][0]["epochs"] = 1
    run(options)
    before = everything_below(tmp_path)
    stage = options["stages"][0]
    for changes in (
        {"data": {**options["data"], "train": "/absent.xyz"}},
        {"stages": [{**stage, "loss": {"stress": 1.0}}]},
        {"device": "cuda:99"},
        {"model": {**options["model"], "electrostatics": {"max_l": 4}}},
        {"stages": [stage, {**stage, "name": "frozen", "lr": 0.0}]},
    ):
        with pytest.raises(InputError):
            run({**options, **changes}, restart=True)
        assert everything_below(tmp_path) == before
    (tmp_path / "run" / "notes.txt").write_text("mine", encoding="utf-8")
    run({**options, "seed": 5}, restart=True)
    kept = {
        path.replace("/run.1/", "/run/"): content
        for path, content in everything_below(tmp_path / "run.1").items()
    }
    assert kept == before
    assert (tmp_path / "run" / "notes.txt").exists()
    assert not (tmp_path / "run" / "electret.lock").exists()


@pytest.mark.parametrize("restart", [False, True])
def test_files_of_the_user_are_not_replaced(data: Path, tmp_path: Path, restart: bool) -> None:
    """`output: .` beside the configuration, and an output with a model but without checkpoints."""
    (tmp_path / "config.yaml").write_text("mine", encoding="utf-8")
    with pytest.raises(
        InputError, match=r"config.yaml' exists already; it belongs to no run; set another output"
    ):
        run(run_options(data, tmp_path), restart=restart)
    assert (tmp_path / "config.yaml").read_text(encoding="utf-8") == "mine"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.electret").write_text("finished", encoding="utf-8")
    with pytest.raises(CheckpointError, match="holds a run already"):
        run(run_options(data, tmp_path / "run"))
    with pytest.raises(InputError, match=r"would replace .*which is read"):
        run(run_options(tmp_path / "run" / "model.electret", tmp_path / "run"), restart=True)
    assert (tmp_path / "run" / "model.electret").read_text(encoding="utf-8") == "finished"


def test_one_training_per_folder(data: Path, tmp_path: Path) -> None:
    options = run_options(data, tmp_path / "run")
    for arguments in ({}, {"resume": True}, {"restart": True}):
        with (
            claimed(tmp_path / "run"),
            pytest.raises(OutputError, match=f"is in use by process {os.getpid()} on"),
        ):
            run(options, **arguments)
    assert list((tmp_path / "run").iterdir()) == []


def test_a_full_disk_is_named_and_resumed(
    data: Path, tmp_path: Path, whole: TrainingResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full at the checkpoint of the second epoch; the run goes on from that of the first."""
    original, calls = os.fsync, []

    def full(descriptor: int) -> None:
        name = os.readlink(f"/proc/self/fd/{descriptor}") if Path("/proc/self/fd").exists() else "last"
        calls.append("last" in name)
        if sum(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(descriptor)

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(
        OutputError, match=r"last.safetensors' cannot be written: No space left.*free some.*--resume"
    ):
        run(run_options(data, tmp_path / "run", stages=STAGES))
    monkeypatch.undo()
    run(run_options(data, tmp_path / "run", stages=STAGES), resume=True)
    same_result(tmp_path / "run", whole.folder)


def test_a_hang_up_is_a_termination(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGHUP ends the run after a batch with a checkpoint, though there is no terminal to write to."""

    class Gone(io.StringIO):
        gone = False

        def write(self, text: str) -> int:
            if self.gone:
                raise OSError(errno.EIO, "Input/output error")
            return super().write(text)

    terminal, original = Gone(), Trainer._step

    def hung_up(self: Trainer, indices: list[int], graph: Graph) -> None:
        terminal.gone = True
        os.kill(os.getpid(), signal.SIGHUP)
        original(self, indices, graph)

    monkeypatch.setattr(Trainer, "_step", hung_up)
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # pytest may run under nohup, which ignores it
    try:
        with pytest.raises(TrainingInterrupted) as caught:
            run(run_options(data, tmp_path / "run"), console=Console(file=terminal))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert caught.value.signal == signal.SIGHUP
    assert read_checkpoint(tmp_path / "run" / LAST_CHECKPOINT).state["progress"]["batch"] == 1


def test_a_broken_pipe_stops_with_a_checkpoint(data: Path, tmp_path: Path, whole: TrainingResult) -> None:
    """The reader of the first epoch's line leaves, as `head` does; the run goes on from there."""

    class Pipe(io.StringIO):
        def write(self, text: str) -> int:
            if "epoch " in text:
                raise BrokenPipeError(errno.EPIPE, "Broken pipe")
            return super().write(text)

    console = standard_console()
    console.file = Pipe()
    with pytest.raises(
        TrainingInterrupted, match="reader of standard output is gone: stopped after epoch 1"
    ) as caught:
        run(run_options(data, tmp_path / "run", stages=STAGES), console=console)
    assert caught.value.signal == signal.SIGPIPE
    run(run_options(data, tmp_path / "run", stages=STAGES), resume=True)
    same_result(tmp_path / "run", whole.folder)


def test_a_diverged_run_has_no_best_epoch(data: Path, tmp_path: Path) -> None:
    shown = tmp_path / "shown.txt"
    options = run_options(data, tmp_path / "run", ema_decay=None)
    options["stages"][0] |= {"lr": 10.0, "clip_grad": None, "optimizer": {"betas": [0.0, 0.0]}}
    with pytest.raises((NonFiniteError, CheckpointError)) as caught:
        run(options, console=quiet(shown))
    assert "lower the learning rate" in str(caught.value).lower()
    assert not (tmp_path / "run" / "model.electret").exists()
    assert not (tmp_path / "run" / BEST_CHECKPOINT).exists()
    assert "*" not in shown.read_text(encoding="utf-8").split("epoch ", 1)[1]


def test_changed_isolated_atoms_are_seen(data: Path, tmp_path: Path) -> None:
    """Their energies are in the model, so a run goes on with those of its checkpoint only."""
    frames = clusters(12)
    for symbol, energy in (("H", -3.0), ("O", -2.0)):
        frames.append(Atoms(symbol, info={"config_type": "IsolatedAtom", "REF_energy": energy}))
    options = run_options(write_frames(tmp_path / "data.xyz", frames), tmp_path / "run")
    options["stages"][0]["epochs"] = 1
    run(options)
    options["stages"][0]["epochs"] = 2
    frames[-1].info["REF_energy"] = -2.5
    write_frames(tmp_path / "data.xyz", frames)
    with pytest.raises(CheckpointError, match="written with other isolated-atom data"):
        run(options, resume=True)
    frames[-1].info["REF_energy"] = -2.0
    write_frames(tmp_path / "data.xyz", frames)
    result = run(options, resume=True)
    assert result.model.statistics.e0s == {1: -3.0, 8: -2.0}
    assert load(result.model_file).backbone.e0s.tolist() == [-3.0, -2.0]


def test_data_that_train_nothing_are_refused(data: Path, tmp_path: Path) -> None:
    """No edges, no weights, and the training frames as validation frames, in one file or in a copy of it."""
    copy = tmp_path / "copy.xyz"
    copy.write_bytes(data.read_bytes())
    for change, expected in (
        (
            lambda o: o["model"]["backbone"].update(r_max=1.0),
            r"r_max = 1 Å: no training frame .* this close",
        ),
        (
            lambda o: o["data"].update(config_type_weights={"first": 0, "second": 0}),
            "all training frames .* weight 0",
        ),
        (lambda o: o.update(data={"train": str(data), "valid": str(data)}), "is a training frame too"),
        (lambda o: o.update(data={"train": str(data), "valid": str(copy)}), "is a training frame too"),
    ):
        options = run_options(data, tmp_path / "run")
        change(options)
        with pytest.raises(InputError, match=expected):
            run(options)
    assert not (tmp_path / "run").exists()


def test_the_report_warns_before_anything_is_trained(tmp_path: Path) -> None:
    """Charges that miss the total charge, dipoles of ions about another point, undetermined E0s."""
    frames = clusters(8)
    for atoms in frames:
        charges = atoms.arrays["REF_charges"] + 0.25
        atoms.positions += 4.0
        atoms.arrays["REF_charges"] = charges
        atoms.info["total_charge"] = 1
        atoms.info["REF_dipole"] = charges @ (atoms.positions - atoms.get_center_of_mass())
    frames[2].info["total_charge"] = 0
    data = write_frames(tmp_path / "ions.xyz", frames)
    console = Console(record=True, file=io.StringIO())
    options = run_options(data, tmp_path / "run")
    options["stages"][0]["loss"] = {"stress": 1.0}
    with pytest.raises(InputError, match="no training frame carries the key 'REF_stress'"):
        train(TrainingConfig.from_dict(options), console=console)
    shown = console.export_text()
    assert "warning: 'REF_charges' of 1 frame (first: " in shown
    assert "ions.xyz, frame 2) do not add up to the total charge: 1 e there" in shown
    assert "but fit the centre of mass better: " in shown
    assert "determine 1 of 2 combinations of E0s" in shown
    options["data"]["dipole_origin"] = "center_of_mass"
    (frame, *_) = load_data(TrainingConfig.from_dict(options)).train
    expected = frame.value("charges") @ frame.atoms.positions
    np.testing.assert_allclose(frame.value("dipole"), expected, atol=1e-5)


def test_born_charges_of_crystals_alone_are_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = [crystal(rng) for _ in range(4)]
    for atoms in frames:
        atoms.arrays["REF_born_effective_charges"] = rng.normal(size=(2, 9))
    options = run_options(write_frames(tmp_path / "crystals.xyz", frames), tmp_path / "run")
    options["model"]["family"] = "qeq"
    options["stages"][0]["loss"] = {"born_effective_charges": 1.0}
    with pytest.raises(InputError, match=r"'REF_born_effective_charges' are crystals.*local_charges"):
        train(TrainingConfig.from_dict(options), console=Console(file=io.StringIO()))
