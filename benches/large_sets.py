"""Training on sets that memory does not hold: memory, time to the first step, frames per second.

Water clusters of 3 to 12 atoms made by a seed. Each run is a process of its own: it begins a training of a
small `mace` model on a prepared set, on extended XYZ (frames in memory), or with MACE's own `mace_run_train`
on the same file, and ends after some steps.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

BATCH, CHUNK, SEED = 16, 10_000, 0
LOADED = 3000
"""Batches of the runs without a training."""
BACKBONE = {
    "r_max": 4.5,
    "hidden_irreps": "32x0e + 32x1o",
    "num_interactions": 2,
    "correlation": 2,
    "max_ell": 2,
    "num_radial_basis": 8,
    "radial_MLP": [64, 64, 64],
}
WATER = np.array([[0.0, 0.0, 0.0], [0.76, 0.59, 0.0], [-0.76, 0.59, 0.0]])


class Enough(BaseException):
    """Ends a run after its steps."""


def structures(n_frames: int, seed: int = SEED) -> Iterator:
    """Labelled clusters of one to four bent springs, one by one."""
    from ase import Atoms

    rng = np.random.default_rng(seed)
    for _ in range(n_frames):
        n = int(rng.integers(1, 5))
        moves = rng.normal(0.0, 0.05, (n, 3, 3))
        places = 2.9 * np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])[:n]
        atoms = Atoms("OHH" * n, positions=(WATER + moves + places[:, None]).reshape(-1, 3))
        atoms.info["REF_energy"] = -14.0 * n + 10.0 * float((moves**2).sum())
        atoms.arrays["REF_forces"] = -20.0 * moves.reshape(-1, 3)
        yield atoms


def generate(folder: Path, n_frames: int, n_held: int) -> dict[str, float]:
    """The prepared set, one of the first `n_held` frames, their extended XYZ, and frames to validate on."""
    from ase.io import write

    from electret.data import prepare_frames, wrap_atoms

    def checked() -> Iterator:
        chunk: list = []
        for atoms in structures(n_frames):
            chunk.append(atoms)
            if len(chunk) == CHUNK:
                yield from wrap_atoms(chunk, file="water")
                chunk = []
        yield from wrap_atoms(chunk, file="water")

    found = {}
    if not (folder / "all").is_dir():
        began = time.perf_counter()
        prepare_frames(checked(), folder / "all")
        found["write"] = time.perf_counter() - began
    if not (folder / "held.xyz").is_file():
        write(folder / "held.xyz", list(structures(n_held)), format="extxyz")
        write(folder / "valid.xyz", list(structures(100, SEED + 1)), format="extxyz")
        prepare_frames(wrap_atoms(list(structures(n_held)), file="water"), folder / "held")
    return found


class Memory(threading.Thread):
    """Largest private memory and mapped files of a process, and private memory of its workers, in MiB."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.private = self.mapped = self.workers = 0.0

    def run(self) -> None:
        """Look every quarter of a second."""
        while True:
            own = status(os.getpid())
            self.private = max(self.private, own["RssAnon"])
            self.mapped = max(self.mapped, own["RssFile"])
            children = [child.pid for child in multiprocessing.active_children()]
            self.workers = max(self.workers, sum(unique(pid) for pid in children))
            time.sleep(0.25)


def status(pid: int) -> dict[str, float]:
    """Memory of a process in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines if line.startswith("Rss")}


def unique(pid: int) -> float:
    """Memory in MiB that a process has written, beside that of its parent."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) / 1024 for line in lines if line.startswith("Private_Dirty"))


class Steps:
    """Counts training steps; the clock of the speed starts after some of them."""

    def __init__(self, began: float, steps: int) -> None:
        self.began, self.left = began, steps
        self.warm = steps // 4
        self.first = self.started = 0.0
        self.frames = 0

    def count(self, n_frames: int) -> None:
        """Called after each step."""
        now = time.time()
        self.first = self.first or now - self.began
        if self.warm:
            self.warm -= 1
            self.started = now
        else:
            self.frames += n_frames
        self.left -= 1
        if not self.left:
            self.rate = self.frames / (now - self.started)
            raise Enough


def train_electret(data: Path, folder: Path, workers: int, steps: Steps) -> None:
    from electret.training import TrainingConfig, train
    from electret.training.loop import Trainer

    original = Trainer._step

    def counted(self: Trainer, indices: list[int], graph: object) -> None:
        original(self, indices, graph)
        steps.count(len(indices))

    Trainer._step = counted
    options = {
        "output": str(folder / "run"),
        "dtype": "float32",
        "model": {"family": "mace", "backbone": BACKBONE},
        "data": {
            "train": str(data),
            "valid": str(folder / "valid.xyz"),
            "batch_size": BATCH,
            "workers": workers,
        },
        "stages": [{"name": "main", "epochs": 10, "optimizer": {"amsgrad": True}}],
        "tensorboard": False,
        "plots": False,
    }
    train(TrainingConfig.from_dict(options))


def load_alone(data: Path, folder: Path, workers: int, steps: Steps) -> None:
    """Batches of a training without the training."""
    import torch

    from electret.data import GraphDataset, read_frames

    dataset = GraphDataset(read_frames(data), BACKBONE["r_max"], torch.float32, workers=workers)
    batches = dataset.shuffled_batches(BATCH, 0, 0)[: steps.left]
    for indices, _ in zip(batches, dataset.load(batches), strict=True):
        steps.count(len(indices))


def train_mace(data: Path, folder: Path, workers: int, steps: Steps) -> None:
    from mace.cli.run_train import main

    module = sys.modules["mace.tools.train"]  # whose name in `mace.tools` is a function
    original = module.take_step

    def counted(model: object, loss_fn: object, batch: object, *rest: object, **options: object) -> object:
        found = original(model, loss_fn, batch, *rest, **options)
        steps.count(len(batch.ptr) - 1)
        return found

    module.take_step = counted
    options = {
        "name": "run",
        "train_file": data,
        "valid_file": folder / "valid.xyz",
        "work_dir": folder / "mace",
        "E0s": "average",
        "model": "MACE",
        "r_max": BACKBONE["r_max"],
        "hidden_irreps": BACKBONE["hidden_irreps"],
        "num_interactions": BACKBONE["num_interactions"],
        "correlation": BACKBONE["correlation"],
        "max_ell": BACKBONE["max_ell"],
        "num_radial_basis": BACKBONE["num_radial_basis"],
        "radial_MLP": str(BACKBONE["radial_MLP"]),
        "batch_size": BATCH,
        "valid_batch_size": BATCH,
        "max_num_epochs": 10,
        "num_workers": workers,
        "default_dtype": "float32",
        "device": "cpu",
        "seed": 1,
    }
    sys.argv = ["mace_run_train", *(f"--{name}={value}" for name, value in options.items())]
    main()


def one(arguments: argparse.Namespace) -> None:
    """A training of some steps in this process; prints what it took."""
    memory, steps = Memory(), Steps(float(arguments.began), arguments.steps)
    memory.start()
    run = {"electret": train_electret, "loader": load_alone, "mace": train_mace}[arguments.code]
    folder = arguments.folder / f"run_{os.getpid()}"
    folder.mkdir()
    shutil.copy(arguments.folder / "valid.xyz", folder)
    try:
        run(arguments.data, folder, arguments.workers, steps)
    except Enough:
        time.sleep(0.3)
        found = {"first": steps.first, "rate": steps.rate, "private": memory.private}
        print("RESULT", json.dumps(found | {"mapped": memory.mapped, "workers": memory.workers}), flush=True)
    finally:
        shutil.rmtree(folder)
    os._exit(0)


def measured(arguments: argparse.Namespace, code: str, data: Path, workers: int) -> dict[str, float]:
    """Result of `one` in a process of its own."""
    steps = LOADED if code == "loader" else arguments.steps
    words = ["--one", "--code", code, "--data", data, "--workers", workers, "--steps", steps]
    words += ["--folder", arguments.folder, "--began", time.time()]
    command = [sys.executable, __file__, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise SystemExit(f"{code} on {data} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    found: dict[str, float] = json.loads(lines[-1][7:])
    return found


def main() -> None:
    """Generates the frames, runs every case and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=2000, help="frames of the large set")
    parser.add_argument("--held", type=int, default=1000, help="frames of the runs in memory")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--folder", type=Path, default=Path("large_sets"), help="frames and runs; kept")
    parser.add_argument("--output", type=Path, help="file of the table")
    for name in ("--code", "--began"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        one(arguments)
    from machine import machine, versions

    about, folder = machine(), arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    written = generate(folder, arguments.frames, arguments.held)
    cases = [
        *(("electret", "all", workers) for workers in (None, 0, 1, 2)),
        *(("electret", "held", workers) for workers in (0, 1)),
        ("electret", "held.xyz", 0),
        ("mace", "held.xyz", 0),
        *(("loader", "all", workers) for workers in (0, 1, 2)),
    ]
    rows = []
    for code, data, workers in cases:
        first = workers is None
        found = measured(arguments, code, folder / data, workers or 0)
        n_frames = arguments.frames if data == "all" else arguments.held
        kind = "prepared set" if "." not in data else "extended XYZ"
        name = {"electret": "electret train", "loader": "batches alone", "mace": "mace_run_train"}[code]
        about_start = ", first use" if first else ""
        rows.append(
            f"| {name}, {kind}{about_start} | {n_frames:,} | {workers or 0} | {found['private']:.0f} | "
            f"{found['mapped']:.0f} | {found['workers']:.0f} | {found['first']:.1f} | {found['rate']:.0f} |"
        )
        print(rows[-1], flush=True)
    seconds = f" and {written['write']:.0f} s to write" if written else ""
    size = sum(file.stat().st_size for file in (folder / "all").rglob("*") if file.is_file())
    text = "\n".join(
        [
            "# Training on large sets\n",
            f"{about['time']}, {about['cpu']}, {about['cores']} cores, OpenMP threads: "
            f"{about['openmp_threads']}, {versions()}; load average {about['load_before']}. "
            f"`{about['command']}`.\n",
            f"Water clusters of 3 to 12 atoms, batches of {BATCH}, float32, {arguments.steps} steps of which "
            f"the first quarter is not timed. The large set takes {size / 2**20:.0f} MiB{seconds}. Memory is "
            "the largest in the run: *private* of the process, *mapped* files (of the set and of libraries, "
            "which the system takes back when it needs them), and private of all workers.\n",
            "| run | frames | workers | private, MiB | mapped, MiB | workers, MiB | first step, s | frames/s "
            "|",
            "|---|---|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )
    print(text)
    if arguments.output:
        arguments.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
