"""Adds charges to a trained MACE: force error on validation frames in every epoch, three ways of training.

    python examples/train/adding_charges.py FOLDER [EPOCHS OF THE MACE] [EPOCHS AFTERWARDS]

The frames are those of the packaged demo data without a field (GFN1-xTB, labelled charges). `slowly` is
what the guide recommends, with a weight of the charges that rises; `at once` has the last weight from the
start, `charges first` fits the charges with the backbone frozen, then energies and forces.
"""

import sys
from pathlib import Path
from typing import Any

from ase.io import read, write

import electret.demo
from electret.training import TrainingConfig, evaluate, train
from electret.training.run import load_data

FOLDER = Path(sys.argv[1])
BEFORE, AFTER = (int(number) for number in (*sys.argv[2:], *("24", "8")[len(sys.argv) - 2 :]))
DATA = Path(electret.demo.__file__).parent / "data"
LOSS = {"energy": 1, "forces": 100}


def run(name: str, model: dict[str, Any], stages: list[dict[str, Any]]) -> Any:
    """A run on the frames without a field."""
    options = {
        "name": name,
        "output": FOLDER / name,
        "dtype": "float32",
        "model": model,
        "data": {"train": FOLDER / "train.xyz", "valid": FOLDER / "valid.xyz", "batch_size": 3},
        "stages": stages,
        "tensorboard": False,
        "plots": False,
    }
    config = TrainingConfig.from_dict(options)
    return config, train(config)


FOLDER.mkdir(parents=True, exist_ok=True)
for name in ("train", "valid"):
    frames = read(DATA / f"silver_water_field_{name}.xyz", ":")
    write(FOLDER / f"{name}.xyz", [a for a in frames if not a.info.pop("external_field", 0).any()])

small = {"r_max": 4.5, "hidden_irreps": "8x0e + 8x1o", "max_ell": 2, "correlation": 2, "radial_MLP": [16, 16]}
cosine = {"name": "cosine", "minimum": 1e-5}
whole = {"epochs": BEFORE, "lr": 0.01, "loss": LOSS, "scheduler": cosine}
config, mace = run("mace", {"family": "mace", "backbone": small}, [whole])
start = evaluate(mace.model, load_data(config).valid).overall["forces"].rmse

added = {"family": "local_charges", "start": mace.model_file}
slow = {"backbone": 5e-4, "readouts": 5e-4, "electrostatics": 5e-3}
frozen = {"backbone": 0, "readouts": 0, "electrostatics": 0.01}
ways = {
    "slowly": [
        {"name": "first", "epochs": AFTER // 2, "lr": slow, "loss": {**LOSS, "charges": 1}},
        {"name": "then", "epochs": AFTER - AFTER // 2, "lr": slow, "loss": {**LOSS, "charges": 10}},
    ],
    "at once": [{"epochs": AFTER, "lr": slow, "loss": {**LOSS, "charges": 100}}],
    "charges first": [
        {"name": "charges", "epochs": AFTER // 2, "lr": frozen, "loss": {"charges": 100}},
        {"name": "forces", "epochs": AFTER - AFTER // 2, "lr": slow, "loss": {**LOSS, "charges": 100}},
    ],
}
print(f"force error of the start: {1000 * start:.1f} meV/Å")
for name, stages in ways.items():
    history = run(name.replace(" ", "_"), added, stages)[1].history
    print(name, *(f"{1000 * row['valid_forces_rmse']:.1f}" for row in history), "meV/Å, charges", end=" ")
    print(*(f"{row['valid_charges_rmse']:.3f}" for row in history), "e")
