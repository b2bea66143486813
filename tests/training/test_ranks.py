"""Training by several ranks is that of one process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mace")

import torch
import torch.distributed as dist
import yaml
from ase import Atoms
from rich.console import Console
from safetensors.torch import load_file

from electret import InputError
from electret.data import prepare
from electret.errors import RankError
from electret.graph import Graph
from electret.models import Model
from electret.support import ranks
from electret.training import NonFiniteError, TrainingConfig, TrainingInterrupted, evaluate, train
from electret.training.loop import Trainer
from electret.training.resumption import LAST_CHECKPOINT
from electret.training.run_log import read_history
from ranks import on_ranks
from training_frames import clusters, run_options, write_frames

FAMILIES: dict[str, dict[str, Any]] = {
    "local_charges": {},
    "fixed_point": {
        "fixed_point": {"channels": 4, "hidden": 4, "nonlinearity": "mlp"},
        "scf": {"tolerance": 1e-12},
    },
}


@pytest.fixture(scope="module")
def frames() -> list[Atoms]:
    """Clusters of different size with uneven labels."""
    found = clusters(17, seed=3)
    for index, atoms in enumerate(found):
        if index % 3 == 1:
            del atoms.arrays["REF_charges"], atoms.info["REF_dipole"]
        if index % 4 == 2:
            del atoms.info["REF_energy"]
        if index % 5 == 3:
            del atoms.arrays["REF_forces"]
    return found


def options_of(family: str, frames: list[Atoms], folder: Path, epochs: int = 5) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    options = run_options(write_frames(folder / "frames.xyz", frames), folder / "run", ema_decay=0.9)
    options["model"] |= {"family": family, **FAMILIES[family]}
    # Four batches per epoch, the last of one frame.
    options["stages"][0] |= {"epochs": epochs, "lr": 0.002, "clip_grad": 0.5}
    options["stages"][0]["optimizer"] = {"weight_decay": 1e-3}
    return options


def run(options: dict[str, Any], **arguments: Any) -> Any:
    return train(TrainingConfig.from_dict(options), console=Console(quiet=True), **arguments)


def one_fails(monkeypatch: pytest.MonkeyPatch, frames: list[Atoms]) -> None:
    """One training frame never counts as converged."""
    original, mark = Model.forward, float(frames[1].positions[0, 0])

    def failing(self: Model, graph: Graph, *arguments: Any, **options: Any) -> dict[str, torch.Tensor]:
        output = dict(original(self, graph, *arguments, **options))
        if "scf_converged" in output:
            bad = (graph.positions[graph.ptr[:-1], 0] - mark).abs() < 1e-7
            output["scf_converged"] = output["scf_converged"] & ~bad
        return output

    monkeypatch.setattr(Model, "forward", failing)


def compare(folder: Path, other: Path) -> None:
    ours, theirs = (load_file(place / "run" / LAST_CHECKPOINT) for place in (folder, other))
    for name, tensor in theirs.items():
        if name.startswith(("model/", "average/")) and tensor.numel():
            change = (ours[name].double() - tensor.double()).abs().max()
            assert float(change) <= 1e-12 * float(tensor.double().abs().max()), name


@pytest.mark.parametrize("family", FAMILIES)
def test_twenty_steps_are_those_of_one_process(
    family: str, frames: list[Atoms], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uneven labels, one unconverged frame, clipped gradients, weight decay and a moving average."""
    one_fails(monkeypatch, frames)
    alone, shared = (options_of(family, frames, tmp_path / name) for name in ("alone", "shared"))
    expected = run(alone)
    assert on_ranks(lambda: run(shared)) == [0, 0]
    compare(tmp_path / "shared", tmp_path / "alone")
    rows = expected.history
    for row, other in zip(read_history(tmp_path / "shared" / "run"), rows, strict=True):
        assert row.keys() == other.keys()
        for name, value in row.items():
            if name not in ("stage", "seconds"):
                assert value == pytest.approx(other[name], rel=1e-9, abs=1e-12, nan_ok=True), name
    if family == "fixed_point":
        assert {row["train_unconverged"] for row in rows} == {1.0}


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int, number: int) -> None:
    """The last rank receives a signal before its step of this number."""
    original, calls = Trainer._step, []

    def counted(self: Trainer, *batch: Any) -> None:
        calls.append(batch)
        if len(calls) == step and (not dist.is_initialized() or dist.get_rank() == 1):
            os.kill(os.getpid(), number)
        original(self, *batch)

    monkeypatch.setattr(Trainer, "_step", counted)


def test_runs_go_on_with_another_number_of_ranks(
    frames: list[Atoms], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal that one rank receives stops all after the batch, with a checkpoint: 2 ranks, 1, 2 again,
    with frames on disk."""
    whole, parts = (options_of("local_charges", frames, tmp_path / name, 3) for name in ("whole", "parts"))
    run(whole)
    prepare([parts["data"]["train"]], tmp_path / "set", shard_size=6)
    parts["data"] |= {"train": str(tmp_path / "set"), "workers": 1}
    code = 128 + signal.SIGTERM
    with monkeypatch.context() as patch:
        stop_at(patch, 2, signal.SIGTERM)
        assert on_ranks(lambda: run(parts)) == [code, code]
    with monkeypatch.context() as patch:
        stop_at(patch, 5, signal.SIGTERM)
        with pytest.raises(TrainingInterrupted, match="epoch 1 and 3 batches"):
            run(parts, resume=True)
    assert on_ranks(lambda: run(parts, resume=True)) == [0, 0]
    compare(tmp_path / "parts", tmp_path / "whole")


def test_a_loss_that_is_not_finite_names_the_frames_of_all_ranks(
    frames: list[Atoms], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, mark = Model.forward, float(frames[1].positions[0, 0])

    def broken(self: Model, graph: Graph, *arguments: Any, **options: Any) -> dict[str, torch.Tensor]:
        output = dict(original(self, graph, *arguments, **options))
        bad = (graph.positions[graph.ptr[:-1], 0] - mark).abs() < 1e-7
        if options.get("training"):
            output["forces"] = torch.where(bad[graph.batch][:, None], torch.nan, output["forces"])
        return output

    monkeypatch.setattr(Model, "forward", broken)
    options = options_of("local_charges", frames, tmp_path)

    def fails() -> None:
        with pytest.raises(NonFiniteError, match=r"the loss is nan, not finite for .*frame 1 \(forces\)"):
            run(options)

    assert on_ranks(fails) == [0, 0]


def test_a_dead_rank_ends_the_others(
    frames: list[Atoms], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at(monkeypatch, 3, signal.SIGKILL)
    options = options_of("local_charges", frames, tmp_path)

    def survives() -> None:
        with pytest.raises(RankError, match=r"another rank of this run has ended.*--resume"):
            run(options)

    assert on_ranks(survives, timeout=60) == [0, -signal.SIGKILL]


def test_one_rank_tells_the_error_and_all_end(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def fails() -> None:
        raise InputError("no such key")

    assert sorted(on_ranks(fails)) == [1, 1]
    assert capfd.readouterr().err.count("no such key") == 1


@pytest.mark.parametrize("count", [2, 3])
def test_reductions(count: int) -> None:
    """Sums of gradients, of which a rank may have none; objects and numbers of all; shares of equal work."""

    def work() -> None:
        rank = dist.get_rank()
        entries = [
            torch.nn.Parameter(torch.zeros(2)),
            torch.nn.Parameter(torch.zeros(())),
            torch.nn.Parameter(torch.zeros(1)),
        ]
        entries[0].grad = torch.tensor([1.0, rank])
        if rank == 1:
            entries[1].grad = torch.tensor(5.0)
        ranks.add_gradients(entries)
        assert entries[0].grad.tolist() == [count, count * (count - 1) / 2]
        assert float(entries[1].grad) == 5.0
        assert entries[2].grad is None
        assert ranks.everywhere(rank) == list(range(count))
        assert ranks.from_first(f"rank {rank}") == "rank 0"
        assert ranks.gathered([rank, 0.5]).tolist() == [[n, 0.5] for n in range(count)]
        shares = ranks.everywhere(ranks.share("abcdefg", [7, 1, 1, 1, 1, 1, 1]))
        assert sorted(item for share in shares for item in share) == list("abcdefg")
        assert shares[0] == ["a"]

    assert on_ranks(work, count) == [0] * count


def test_variables_of_slurm() -> None:
    given = {"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "123456"}
    given |= {"SLURM_STEP_NODELIST": "gpu[007-008,11]-ib", "SLURM_STEP_TASKS_PER_NODE": "4(x2)"}
    assert ranks.is_rank(given)
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    assert [given[name] for name in names] == ["5", "8", "1", "4", "gpu007-ib", "23456"]
    assert not ranks.is_rank({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"})
    assert not ranks.is_rank({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"})  # in the script of a batch job
    single = {**given, "SLURM_STEP_NODELIST": "node3"}
    for name in names:
        del single[name]
    assert ranks.is_rank(single)
    assert single["MASTER_ADDR"] == "node3"


def test_errors_of_all_ranks_are_those_of_one_process(frames: list[Atoms], tmp_path: Path) -> None:
    result = run(options_of("local_charges", frames, tmp_path, 1))
    expected = evaluate(result.model, frames, batch_size=2, parity=True)

    def work() -> None:
        found = evaluate(result.model, frames, batch_size=2, parity=True)
        assert found.n_frames == expected.n_frames
        for kind, targets in expected.errors.items():
            for name, sums in targets.items():
                assert found.errors[kind][name].mae == pytest.approx(sums.mae, rel=1e-12)
                assert found.errors[kind][name].count == sums.count
        assert np.sort(found.parity["energy"][0]).tolist() == np.sort(expected.parity["energy"][0]).tolist()

    assert on_ranks(work, 3) == [0, 0, 0]


def test_torchrun(frames: list[Atoms], tmp_path: Path) -> None:
    """The command of the guide; a rank that is killed ends all within a minute, with a message."""
    options = options_of("local_charges", frames, tmp_path, 500)
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(options))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "electret", "train", str(config)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("epoch    2/500"):
                break
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        second = [pid for pid in children if b"\0RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes()]
        os.kill(int(second[0]), signal.SIGKILL)
        shown, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 1
    assert "error: another rank of this run has ended" in shown
    assert "--resume" in shown
    assert (tmp_path / "run" / LAST_CHECKPOINT).is_file()
