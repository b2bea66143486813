"""Adding a family: one module gives training, calculator and files; nothing else is touched.

The module adds a label and a target too, before `electret.training` and `electret.data` are imported: so each
test runs in an interpreter of its own.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mace")

TESTS = Path(__file__).parents[1]


def run(code: str, folder: Path) -> str:
    """Output of a program that runs in a folder, with the helpers of the tests at hand."""
    begin = f"import sys; sys.path.insert(0, {str(TESTS)!r})\n"
    found = subprocess.run([sys.executable, "-c", begin + code], cwd=folder, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_a_family_is_one_module(tmp_path: Path) -> None:
    code = """
import toy_family
import numpy as np, torch
from pathlib import Path
from electret import Calculator
from electret.models import MODEL_CLASSES, load
from electret.testing import check_model
from electret.training import TrainingConfig, train
from training_frames import clusters, run_options, write_frames

frames = clusters(12)
for atoms in frames:
    q = atoms.arrays["REF_charges"]
    atoms.info["REF_spread"] = float(np.abs(q) @ (atoms.positions**2).sum(axis=1))
data = write_frames(Path("clusters.xyz"), frames)
options = run_options(data, Path("run"))
options["model"]["family"] = "element_charges"
options["stages"][0] |= {"epochs": 12, "lr": 0.05, "loss": {"energy": 1.0, "charges": 1000.0, "spread": 10.0}}
result = train(TrainingConfig.from_dict(options))
errors = result.metrics["valid"].overall
assert errors["charges"].mae < 0.1 and errors["spread"].count, errors
model = load(result.model_file)
assert type(model) is MODEL_CLASSES["element_charges"] is toy_family.ElementCharges
check_model(model, [atoms.copy() for atoms in clusters(2)])
calculator = Calculator(result.model_file)
assert "spread" in calculator.implemented_properties
atoms = clusters(1)[0]
spread = calculator.get_property("spread", atoms)
charges = calculator.get_property("charges", atoms)
assert np.allclose(spread, np.abs(charges) @ (atoms.positions**2).sum(axis=1))
print("done")
"""
    assert run(code, tmp_path).endswith("done\n")


def test_configurations_and_files_name_the_families_that_there_are(tmp_path: Path) -> None:
    code = """
from electret import InputError
from electret.models import ModelConfig
try:
    ModelConfig.parse({"family": "element_charge"})
except InputError as error:
    print(error)
import toy_family
print(ModelConfig.parse({"family": "element_charges"}).description.options)
try:
    ModelConfig.parse({"family": "element_charges", "qeq": {"hidden": 3}})
except InputError as error:
    print(error)
from electret.models.family import Family, register
try:
    register(Family("qeq", "toy_family:ElementCharges"))
except InputError as error:
    print(error)
"""
    lines = run(code, tmp_path).splitlines()
    assert "unknown family 'element_charge'" in lines[0]
    assert "import the module" in lines[0]
    assert lines[1] == "('conserve_charge',)"
    assert "'qeq' does nothing in family 'element_charges' (it belongs to qeq, sqe)" in lines[2]
    assert "family 'qeq' is registered already" in lines[3]
