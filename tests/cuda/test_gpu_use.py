"""Training, evaluation and dynamics on a GPU, through the interfaces of users: the numbers of the CPU.

Without a GPU they run on the labelled device, which finds where code mixes tensors of both.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import units
from ase.md.verlet import VelocityVerlet
from rich.console import Console
from typer.testing import CliRunner

import devices
import labelled_device
from electret import Calculator
from electret.cli.main import application
from electret.models import FAMILIES, SELF_CONSISTENT, build, save
from electret.torch import coulomb_energy
from electret.training import TrainingConfig, train
from model_cases import STATISTICS, bulk, in_field, model_config, molecule, slab
from training_frames import clusters, run_options, write_frames


@pytest.fixture(params=[pytest.param("labelled"), devices.CUDA])
def on(request) -> Callable[[str], AbstractContextManager[None]]:
    """`with on("cuda")` makes that device the one of the test, `with on("cpu")` has no effect."""
    labelled = request.param == "labelled"
    devices.require("emulated" if labelled else "cuda")
    return lambda device: labelled_device.found_as_cuda() if labelled and device == "cuda" else nullcontext()


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A file of each family."""
    folder = tmp_path_factory.mktemp("models")
    for family in FAMILIES:
        save(build(model_config(family), STATISTICS, seed=1), folder / f"{family}.electret")
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_calculators_agree(models, family, on):
    """Energy, forces, stress, responses; of a crystal after a step, with neighbours found on the device."""
    results = {}
    for device in ("cpu", "cuda"):
        with on(device):
            calculator = Calculator(models / f"{family}.electret", device=device)
            for name, atoms in (("molecule", molecule()), ("bulk", bulk()), ("slab", slab())):
                atoms.calc = calculator
                if name == "bulk":
                    atoms.get_stress()
                    atoms.positions += 0.01
                values = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
                if name == "bulk":
                    values["stress"] = atoms.get_stress()
                    if family in SELF_CONSISTENT:
                        values |= calculator.response(atoms)
                results[device, name] = values | {"charges": calculator.results.get("charges", np.zeros(1))}
    for name in ("molecule", "bulk", "slab"):
        for quantity, expected in results["cpu", name].items():
            np.testing.assert_allclose(
                results["cuda", name][quantity], expected, rtol=1e-8, atol=1e-8, err_msg=f"{name} {quantity}"
            )


@pytest.mark.parametrize(("family", "most"), [("local_charges", 2), ("qeq", 5), ("fixed_point", 10)])
def test_a_step_waits_for_the_gpu_a_few_times(models, family, most):
    """Results are copied at once, and the search for a density looks once at each step that it takes."""
    devices.require("emulated")
    atoms = bulk()
    with labelled_device.found_as_cuda():
        atoms.calc = Calculator(models / f"{family}.electret", device="cuda")
        for _ in range(3):
            atoms.positions += 0.003
            before = len(labelled_device.waits)
            atoms.get_forces()
    assert 1 <= len(labelled_device.waits) - before <= most, labelled_device.waits[before:]


@pytest.mark.parametrize("family", ["local_charges", "qeq", "fixed_point"])
def test_dynamics_in_a_field(models, family, on):
    ends = {}
    for device in ("cpu", "cuda"):
        atoms = in_field(molecule(), charge=1.0)
        atoms.set_velocities(0.01 * np.random.default_rng(0).normal(size=(4, 3)))
        with on(device):
            atoms.calc = Calculator(models / f"{family}.electret", device=device)
            dynamics = VelocityVerlet(atoms, 0.2 * units.fs)
            dynamics.run(4)
            ends[device] = atoms.positions.copy(), atoms.get_total_energy()
    np.testing.assert_allclose(ends["cuda"][0], ends["cpu"][0], rtol=0, atol=1e-7)
    assert abs(ends["cuda"][1] - ends["cpu"][1]) < 1e-7


@pytest.mark.parametrize(
    ("family", "dtype"),
    [
        *((family, "float64") for family in ("mace", "local_charges", "qeq", "fixed_point")),
        ("fixed_point", "float32"),
    ],
)
def test_training_and_evaluation(tmp_path, family, dtype, on):
    """Losses fall as on the CPU, the run resumes, and the file that it leaves serves on both."""
    data = write_frames(tmp_path / "clusters.xyz", clusters(6))
    losses = {}
    for device in ("cpu", "cuda"):
        options = run_options(data, tmp_path / device, device=device, dtype=dtype)
        options["model"]["family"] = family
        options["stages"][0]["epochs"] = 1
        if family == "mace":
            options["stages"][0]["loss"] = {"energy": 1.0, "forces": 10.0}
        longer = [*options["stages"], {**options["stages"][0], "name": "second", "epochs": 1}]
        with on(device):
            for given, resume in ((options, False), ({**options, "stages": longer}, True)):
                train(TrainingConfig.from_dict(given), resume=resume, console=Console(quiet=True))
        rows = csv.DictReader((tmp_path / device / "metrics.csv").open())
        losses[device] = [float(row["valid_loss"]) for row in rows]
    assert len(losses["cpu"]) == 2
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=1e-6 if dtype == "float64" else 5e-2)
    models = sorted((tmp_path / "cuda").glob("*.electret"))
    assert models
    found = {}
    for device in ("cpu", "cuda"):
        output = tmp_path / f"{device}.json"
        arguments = ["eval", str(models[0]), str(data), "--device", device, "--json", str(output)]
        with on(device):
            done = CliRunner().invoke(application, arguments)
        assert done.exit_code == 0, done.output
        found[device] = json.loads(output.read_text())
    tolerance = 1e-6 if dtype == "float64" else 1e-2
    assert_similar(found["cuda"], found["cpu"], tolerance)


def assert_similar(found, expected, tolerance: float, place: str = "") -> None:
    """Numbers within a relative tolerance, everything else but paths, times and devices the same."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), place
        for key in expected:
            if not any(word in key for word in ("time", "seconds", "device", "output", "path", "speed")):
                assert_similar(found[key], expected[key], tolerance, f"{place}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), place
        for index, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
            assert_similar(ours, theirs, tolerance, f"{place}[{index}]")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=tolerance, abs=tolerance), place


@pytest.mark.gpu
def test_memory_is_released():
    """Repeated calls do not grow the memory of the device."""
    devices.require("cuda")
    x = torch.rand(500, 3, dtype=torch.float64, device="cuda", requires_grad=True)
    p = torch.randn(500, 4, dtype=torch.float64, device="cuda", requires_grad=True)
    cell = 20.0 * torch.eye(3, dtype=torch.float64, device="cuda")

    def call():
        energy = coulomb_energy(20.0 * x, p, 0.8, cell, True)
        torch.autograd.grad(energy.sum(), (x, p))

    for _ in range(3):
        call()
    torch.cuda.synchronize()
    before = torch.cuda.mem_get_info()[0]
    for _ in range(50):
        call()
    torch.cuda.synchronize()
    assert before - torch.cuda.mem_get_info()[0] < 2**22
