"""Mean and spread of several models."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mace")

from ase import Atoms, units
from ase.io import read
from ase.md.verlet import VelocityVerlet
from rich.console import Console

from electret import Calculator, InputError
from electret.calculator import Committee
from electret.models import Model, Statistics, build
from electret.models.header import read_header
from electret.training import CheckpointError, TrainingConfig, train_committee
from model_cases import STATISTICS, bulk, model_config, molecule, small_model
from training_frames import clusters, run_options, write_frames


@pytest.fixture(scope="module")
def models() -> list[Model]:
    """Members of two families."""
    return [small_model("qeq"), build(model_config("qeq"), STATISTICS, seed=2), small_model("fixed_point")]


def charged(atoms: Atoms, **conditions: float) -> Atoms:
    atoms.info.update(conditions)
    return atoms


@pytest.mark.parametrize("conditions", [{"total_charge": 1.0}, {"fermi_level": -4.0}])
@pytest.mark.parametrize("system", [molecule, bulk])
def test_mean_and_spread_are_those_of_the_members(models: list[Model], system, conditions) -> None:
    if system is bulk and "fermi_level" in conditions:
        conditions = {"total_charge": 0.0}  # neutral, as a crystal must be
    atoms = charged(system(), **conditions)
    committee = Committee(models)
    names = ["energy", "forces", "charges"] + (["stress"] if system is bulk else ["dipole"])
    members = [Calculator(model) for model in models]
    for name in names:
        values = np.array([member.get_property(name, atoms) for member in members])
        np.testing.assert_allclose(committee.get_property(name, atoms), values.mean(axis=0), rtol=1e-14)
        spread = np.sqrt(((values - values.mean(axis=0)) ** 2).sum(axis=0) / 2)
        np.testing.assert_allclose(committee.get_property(f"{name}_spread", atoms), spread, atol=1e-12)
    levels = [member.state["fermi_level"] for member in members]
    assert committee.get_property("fermi_level", atoms) == pytest.approx(np.mean(levels), rel=1e-12)
    assert committee.get_property("fermi_level_spread", atoms) == pytest.approx(
        np.std(levels, ddof=1), rel=1e-9, abs=1e-12
    )


def test_forces_are_the_derivative_of_the_mean_energy(models: list[Model]) -> None:
    atoms = molecule()
    atoms.calc = Committee(models)
    force, step = atoms.get_forces()[1, 2], 1e-4
    energies = []
    for sign in (1, -1):
        atoms.positions[1, 2] += sign * step
        energies.append(atoms.get_potential_energy())
        atoms.positions[1, 2] -= sign * step
    assert force == pytest.approx(-(energies[0] - energies[1]) / (2 * step), abs=1e-6)


def test_changed_conditions_are_calculated_anew(models: list[Model]) -> None:
    atoms = molecule()
    atoms.calc = Committee(models)
    neutral = atoms.get_potential_energy()
    atoms.info["total_charge"] = 1.0
    assert atoms.get_potential_energy() != neutral
    atoms.info["total_charge"] = 0.0
    assert atoms.get_potential_energy() == pytest.approx(neutral, abs=1e-9)


def test_dynamics_and_files(models: list[Model], tmp_path: Path) -> None:
    atoms = molecule()
    atoms.calc = Committee(models)
    VelocityVerlet(atoms, 0.2 * units.fs, trajectory=str(tmp_path / "md.traj")).run(2)
    last = read(tmp_path / "md.traj")
    assert last.get_potential_energy() == atoms.get_potential_energy()
    np.testing.assert_array_equal(last.get_forces(), atoms.get_forces())


def test_refusals(models: list[Model]) -> None:
    with pytest.raises(InputError, match="needs two or more models"):
        Committee(models[:1])
    with pytest.raises(InputError, match="needs two or more models"):
        Committee("model.electret")
    fewer = Statistics(elements=(1, 8), e0s={1: -13.6, 8: -430.0})
    options = model_config("qeq", electrostatics={"sigma": 1.0})
    with pytest.raises(InputError, match=r"models\[0\] has the elements H O Na, models\[1\] has H O"):
        Committee([models[0], build(options, fewer)])
    atoms = charged(molecule(), total_charge=1.0)
    with pytest.raises(InputError, match=r"models\[1\].*total_charge"):
        Committee([models[0], small_model("mace")]).get_property("energy", atoms)
    with pytest.raises(InputError, match="charge"):
        Committee(models).set(charge=1.0)
    with pytest.raises(NotImplementedError, match="no stress"):
        Committee(models).get_property("stress_spread", molecule())


def test_threads_share_a_committee(models: list[Model], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has the results of its own atoms."""
    structures = [molecule() for _ in range(4)]
    for seed, atoms in enumerate(structures):
        atoms.rattle(0.1, seed=seed)
    committee = Committee(models, warm_start=False)

    def energy(atoms: Atoms) -> float:
        return float(committee.get_property("energy", atoms))

    expected = [energy(atoms) for atoms in structures]
    original = committee.calculate

    def slow(*arguments: Any) -> None:
        original(*arguments)
        time.sleep(0.01)  # another thread takes its turn before the results are read

    monkeypatch.setattr(committee, "calculate", slow)
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(energy, structures * 2)) == expected * 2


def test_training_of_a_committee(tmp_path: Path) -> None:
    """Members differ by their seeds, are resumed and kept, and make a committee."""
    data = write_frames(tmp_path / "frames.xyz", clusters(8))
    config = TrainingConfig.from_dict(run_options(data, tmp_path / "run"))
    quiet = Console(quiet=True)
    files = train_committee(config, 2, console=quiet)
    assert [file.parent.name for file in files] == ["seed-3", "seed-4"]
    found = Committee(files).get_property("forces_spread", clusters(1)[0])
    assert found.min() > 0
    with pytest.raises(CheckpointError, match="seed-3' holds a run already"):
        train_committee(config, 2, console=quiet)
    times = [file.stat().st_mtime_ns for file in files]
    assert train_committee(config, 3, resume=True, console=quiet)[:2] == files
    assert [file.stat().st_mtime_ns for file in files] == times
    assert read_header(tmp_path / "run" / "seed-5" / "model.electret")["config"]["family"] == "local_charges"
    with pytest.raises(InputError, match="seeds = 1"):
        train_committee(config, 1)
    with pytest.raises(CheckpointError, match="no member of a committee"):
        train_committee(config.model_copy(update={"output": tmp_path / "other"}), 2, resume=True)
