"""The step from stage `direct` to `implicit` over ten seeds, with and without the term `charge_response`.

    python benches/stages.py [--seeds 0 1 2 ...] [--folder FOLDER]   # table of benches/results/stages.md

Trains the model of the demo on every periodic frame of its data and every fourth cluster. A run explodes if
the force error of an epoch of the second stage is more than twice that at its start.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from ase.io import read, write
from rich.console import Console

import electret.demo
from electret.training import NonFiniteError, TrainingConfig, train

DEMO = Path(electret.demo.__file__).parent
EPOCHS = (16, 8)


def write_data(folder: Path) -> list[str]:
    """Frames of the demo, and the overrides of its configuration that name them."""
    overrides = []
    for name in ("train", "valid"):
        slabs, clusters = (DEMO / "data" / f"silver_water_{kind}_{name}.xyz" for kind in ("slab", "field"))
        file = folder / f"{name}.xyz"
        write(file, [*read(slabs, ":"), *read(clusters, "::4")])
        overrides.append(f"data.{name}=[{file}]")
    return overrides


def errors(folder: Path, seed: int, weight: float, overrides: list[str]) -> list[float]:
    """Force errors on the validation set after each epoch, meV/Å."""
    run = folder / f"{seed}_{weight:g}"
    options = [
        *overrides,
        f"seed={seed}",
        f"output={run}",
        "plots=false",
        "tensorboard=false",
        *(f"stages.{stage}.epochs={epochs}" for stage, epochs in enumerate(EPOCHS)),
        *(f"stages.{stage}.loss.charge_response={weight}" for stage in range(2)),
    ]
    result = train(TrainingConfig.from_yaml(DEMO / "train.yaml", options), console=Console(quiet=True))
    return [1e3 * row["valid_forces_mae"] for row in result.history]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--folder", type=Path, default=None)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = arguments.folder or Path(tempfile.mkdtemp())
    folder.mkdir(exist_ok=True)
    overrides = write_data(folder)
    print("| seed | weight | start | largest after | last | largest / start |\n|---|---|---|---|---|---|")
    for seed in arguments.seeds:
        for weight in (0.0, 100.0):
            try:
                found = errors(folder, seed, weight, overrides)
            except NonFiniteError as error:
                print(f"| {seed} | {weight:g} | {str(error).partition(':')[0]} | | | |", flush=True)
                continue
            start, after = found[EPOCHS[0] - 1], found[EPOCHS[0] :]
            numbers = (start, max(after), after[-1])
            shown = " | ".join(f"{number:.0f}" for number in numbers)
            print(f"| {seed} | {weight:g} | {shown} | {max(after) / start:.2f} |", flush=True)


if __name__ == "__main__":
    main()
