"""Scaling of training with ranks: bytes per step, stragglers, and steps of one and two processes.

``python benches/ranks.py RUN...`` writes ``benches/results/ranks.md`` for folders of runs, of which the last
stage is taken. Every training frame is computed alone, a whole step of its share: forward, backward, SCF; its
CPU time is what a rank spends on it. Random batches are dealt to 8 and 64 ranks as in training, and the
efficiency is the mean time of the ranks over that of the slowest, for which all others wait. Steps of one and
two processes are measured here, each process on one core.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from electret.data import GraphDataset, read_frames
from electret.models import load
from electret.support.ranks import process_group
from electret.support.tables import markdown_table
from electret.training import TrainingConfig
from electret.training.loop import Trainer
from electret.training.run_log import RunLog
from machine import machine

RESULTS = Path(__file__).parent / "results" / "ranks.md"


def trainer_of(run: Path) -> Trainer:
    """The last stage of a run from its trained model, at a learning rate that leaves it as it is."""
    config = TrainingConfig.from_yaml(run / "config.yaml")
    config = TrainingConfig.from_yaml(run / "config.yaml", [f"stages.{len(config.stages) - 1}.lr=1e-9"])
    config = config.model_copy(update={"stages": config.stages[-1:]})
    model = load(run / "model.electret")
    frames = [frame for file in config.data.train for frame in read_frames(file)]
    dataset = GraphDataset(frames, model.cutoff, model.dtype)
    return Trainer(config, model, dataset, dataset, RunLog(run, Console(quiet=True), 1, False))


def of_frames(trainer: Trainer) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """CPU seconds of each frame alone and iterations of its SCF."""
    seconds, iterations = [], []
    for index in range(len(trainer.train_set)):
        sums = trainer.progress.sums
        before, begin = sums.get("scf_iterations", 0.0), time.process_time()
        trainer._step([index], trainer.train_set.batch([index]))
        seconds.append(time.process_time() - begin)
        iterations.append(int(sums["scf_iterations"] - before))
    return np.array(seconds), np.array(iterations)


def efficiency(
    seconds: NDArray[np.float64], atoms: NDArray[np.int64], count: int, each: int, dealt: bool
) -> float:
    """Mean over random batches of the mean time of the ranks over the longest."""
    found, generator = [], np.random.default_rng(0)
    for _ in range(200):
        batch = generator.integers(len(seconds), size=count * each)
        loads, sizes = np.zeros(count), np.zeros(count)
        order = np.argsort(-atoms[batch], kind="stable") if dealt else np.arange(len(batch))
        for position, index in enumerate(batch[order]):
            rank = int(sizes.argmin()) if dealt else position % count
            sizes[rank] += atoms[index]
            loads[rank] += seconds[index]
        found.append(loads.mean() / loads.max())
    return float(np.mean(found))


def of_steps(run: Path, count: int, batch: int) -> float:
    """Median wall seconds of a step of `batch` frames with this number of processes."""

    def work(rank: int) -> None:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_ADDR": "localhost"}
        os.environ |= {"MASTER_PORT": "29611", "RAYON_NUM_THREADS": "1"}
        torch.set_num_threads(1)
        with process_group():
            trainer, times = trainer_of(run), []
            for indices in trainer.train_set.shuffled_batches(batch, 0, 0)[:12]:
                begin = time.perf_counter()
                (own,) = trainer._shares([indices])
                trainer._step(own, trainer.train_set.batch(own))
                times.append(time.perf_counter() - begin)
            if rank == 0:
                queue.put(float(np.median(times[2:])))

    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    processes = [context.Process(target=work, args=(rank,)) for rank in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return float(queue.get())


def section(run: Path) -> list[str]:
    """Figures of a run."""
    steps = {count: of_steps(run, count, 8) for count in (1, 2)}
    of_frames(trainer_of(run))  # warms up
    trainer = trainer_of(run)
    seconds, iterations = of_frames(trainer)
    atoms = np.array([graph.n_atoms for graph in trainer.train_set.graphs])
    n_bytes = sum(p.numel() * p.element_size() for p in trainer.model.parameters())
    low, middle, high = 1e3 * np.percentile(seconds, [10, 50, 90])
    related = f"{np.corrcoef(seconds, atoms)[0, 1]:.2f} with the number of atoms"
    if np.ptp(iterations):
        related += f", {np.corrcoef(seconds, iterations)[0, 1]:.2f} with that of iterations"
    rows = []
    for count in (8, 64):
        for each in (1, 2, 4, 8):
            found = [efficiency(seconds, atoms, count, each, dealt) for dealt in (False, True)]
            rows.append([str(count), str(count * each), *(f"{value:.2f}" for value in found)])
    return [
        f"## {run.name}",
        "",
        f"A step reduces one number per parameter, {n_bytes / 1e6:.2f} MB, and gathers "
        f"{8 * (7 + 2 * len(trainer.stage.loss.weights))} bytes of sums and counts per rank.",
        "",
        f"A step of 8 frames takes one process {1e3 * steps[1]:.0f} ms and two processes on two cores "
        f"{1e3 * steps[2]:.0f} ms ({steps[1] / steps[2]:.2f} times as fast).",
        "",
        f"{len(atoms)} frames have {atoms.min()} to {atoms.max()} atoms. A frame alone takes {middle:.0f} ms "
        f"(tenth and ninetieth percentile {low:.0f} and {high:.0f}) and {iterations.mean():.1f} iterations "
        f"of the SCF ({iterations.min()} to {iterations.max()}). Correlation of the time: {related}.",
        "",
        *markdown_table(["ranks", "frames per step", "dealt in turn", "dealt by atoms"], rows),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    about = machine()
    text = ["# Training on several ranks", "", f"{about['cpu']}, {about['time']}, `{about['command']}`.", ""]
    text += ["Efficiency is the mean time of the ranks over that of the slowest.", ""]
    for run in arguments.runs:
        text += section(run)
    arguments.output.write_text("\n".join(text))
    print("\n".join(text))


if __name__ == "__main__":
    main()
