"""Default loss weights, `scales: data` and weights chosen by hand, on sets of different kinds.

    OMP_NUM_THREADS=1 python benches/loss_scales.py [--epochs 12]   # table of benches/results/loss_scales.md

Trains `local_charges` with a small backbone on energies, forces and charges, and gives the errors on the
validation set. No other option differs from its default.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from rich.console import Console

import electret.demo
from electret.training import TrainingConfig, train

DEMO = Path(electret.demo.__file__).parent / "data"
EXAMPLES = Path(__file__).parents[1] / "examples"
SETS = {
    "silver and water, clusters": [DEMO / f"silver_water_field_{name}.xyz" for name in ("train", "valid")],
    "silver and water, slabs": [DEMO / f"silver_water_slab_{name}.xyz" for name in ("train", "valid")],
    "bulk water": [EXAMPLES / f"bulk_water/data/{name}.xyz" for name in ("train", "valid")],
    "quartz with vacancies": [EXAMPLES / f"sio2_vacancy/data/{name}.xyz" for name in ("train", "valid")],
}
LOSSES = {
    "energy 1, forces 100, charges 1": {"energy": 1, "forces": 100, "charges": 1},
    "scales: data, all 1": {"energy": 1, "forces": 1, "charges": 1, "scales": "data"},
    "scales: data, forces 10": {"energy": 1, "forces": 10, "charges": 1, "scales": "data"},
    "energy 100, forces 100, charges 1000": {"energy": 100, "forces": 100, "charges": 1000},
}
"""By name; the last is what the studies use."""


def errors(data: list[Path], loss: dict, epochs: int, folder: Path) -> list[float]:
    """RMSE of energies per atom, forces and charges on the validation set, in meV, meV/Å, me."""
    options = {
        "output": str(folder),
        "dtype": "float32",
        "model": {
            "family": "local_charges",
            "backbone": {
                "r_max": 4.5,
                "hidden_irreps": "16x0e + 16x1o",
                "max_ell": 2,
                "correlation": 2,
                "radial_MLP": [32, 32],
            },
            "electrostatics": {"max_l": 0},
        },
        "data": {"train": str(data[0]), "valid": str(data[1]), "batch_size": 5},
        "stages": [{"epochs": epochs, "loss": loss}],
        "plots": False,
        "tensorboard": False,
    }
    found = train(TrainingConfig.from_dict(options), console=Console(quiet=True)).metrics["valid"].overall
    return [1e3 * found[name].rmse for name in ("energy", "forces", "charges")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=12)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| set | loss | energy, meV/atom | forces, meV/Å | charges, me |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, data) in enumerate(SETS.items()):
            for index, (title, loss) in enumerate(LOSSES.items()):
                found = errors(data, loss, arguments.epochs, Path(folder) / f"{number}_{index}")
                print(f"| {name} | {title} | {' | '.join(f'{value:.3g}' for value in found)} |", flush=True)


if __name__ == "__main__":
    main()
