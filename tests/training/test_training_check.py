"""The step before a run, and weights of the loss that count in the error of the mean of the labels."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mace")

import torch
from ase import Atoms
from rich.console import Console
from safetensors.torch import load_file

from electret import InputError
from electret.training import TrainingConfig, check, train
from electret.training.resumption import LAST_CHECKPOINT
from electret.training.run import prepared
from training_frames import clusters, run_options, write_frames

FAMILIES = {
    "local_charges": {"energy": 1.0, "forces": 10.0, "charges": 3.0, "dipole": 2.0},
    "fixed_point": {"energy": 1.0, "forces": 10.0, "charges": 3.0, "fermi_level": 2.0, "stability": 1.0},
}


def frames() -> list[Atoms]:
    """Labelled clusters of several sizes whose charges vary, some with a Fermi level."""
    rng = np.random.default_rng(4)
    found = clusters(9)
    for index, atoms in enumerate(found):
        charges = atoms.arrays["REF_charges"] + rng.normal(0.0, 0.05, len(atoms))
        atoms.arrays["REF_charges"] = charges - charges.mean()
        if index % 2:
            atoms.info["fermi_level"] = -4.0 + 0.1 * index
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_frames(tmp_path_factory.mktemp("data") / "clusters.xyz", frames())


def options(data: Path, output: Path, family: str, stages: list[dict[str, Any]]) -> TrainingConfig:
    changes = run_options(data, output, stages=stages)
    changes["model"]["family"] = family
    return TrainingConfig.from_dict(changes)


def stages(family: str, **loss: Any) -> list[dict[str, Any]]:
    return [{"epochs": 1, "loss": {**FAMILIES[family], **loss}}]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_step_is_that_of_the_run(family: str, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    config = options(data, folder, family, stages(family))
    shown = io.StringIO()
    generator = torch.get_rng_state()
    (found,) = check(config, console=Console(file=shown, width=150))
    assert not folder.exists()
    assert torch.equal(torch.get_rng_state(), generator)

    trainer, _ = prepared(config, None, Console(quiet=True))
    indices = trainer._batches()[0]
    graph = trainer.train_set.batch(indices)
    expected = trainer.loss.terms(trainer._predict(indices, graph), graph)
    assert found.terms == {
        name: pytest.approx(float(term.detach()), rel=1e-9) for name, term in expected.items()
    }
    torch.stack(list(expected.values())).sum().backward()
    squares = sum(float(p.grad.square().sum()) for p in trainer.model.parameters() if p.grad is not None)
    assert found.gradient_norm == pytest.approx(squares**0.5, rel=1e-6)
    assert found.clipped == (found.gradient_norm > 10.0)
    assert (found.unconverged, found.epochs) == (0, 1)
    assert 0 < found.step_seconds < found.epoch_seconds
    text = shown.getvalue()
    for expected_text in ("First step of stage 'main'", "s per step", "estimate for the run", "forces"):
        assert expected_text in text


def test_every_stage_is_checked(data: Path, tmp_path: Path) -> None:
    two = [
        {"name": "direct", "epochs": 1, "mode": "direct", "loss": {"energy": 1.0, "charges": 1.0}},
        {"name": "implicit", "epochs": 3, "loss": FAMILIES["fixed_point"]},
    ]
    found = check(options(data, tmp_path / "run", "fixed_point", two), console=Console(quiet=True))
    assert [stage.name for stage in found] == ["direct", "implicit"]
    assert "stability" not in found[0].terms
    assert "stability" in found[1].terms


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ({"forces": 1e9}, "stages.0.loss.forces is 100.00% of the loss"),
        ({"energy": 1e-9}, "stages.0.loss.energy is "),
    ],
)
def test_terms_out_of_proportion_are_told(
    loss: dict[str, float], expected: str, data: Path, tmp_path: Path
) -> None:
    config = options(data, tmp_path / "run", "local_charges", stages("local_charges", **loss))
    (found,) = check(config, console=Console(quiet=True))
    assert any(expected in warning for warning in found.warnings), found.warnings


def test_labels_that_a_run_would_refuse(data: Path, tmp_path: Path) -> None:
    config = options(data, tmp_path / "run", "local_charges", stages("local_charges", stress=1.0))
    with pytest.raises(InputError, match="stress"):
        check(config, console=Console(quiet=True))


def test_scales_are_the_errors_of_the_means(data: Path, tmp_path: Path) -> None:
    changes = run_options(data, tmp_path / "run", stages=stages("fixed_point", scales="data"))
    changes["model"]["family"] = "fixed_point"
    changes["data"]["e0s"] = {"H": -1.0, "O": -2.5}  # which leave a mean energy
    config = TrainingConfig.from_dict(changes)
    trainer, sets = prepared(config, None, Console(quiet=True))
    own = [sets["train"].frames[index].atoms for index in range(len(sets["train"]))]
    energies = np.array([atoms.info["REF_energy"] for atoms in own])
    e0s = trainer.model.statistics.e0s
    per_atom = (energies - [sum(e0s[number] for number in atoms.numbers) for atoms in own]) / 4
    numbers = np.concatenate([atoms.numbers for atoms in own])
    charges = np.concatenate([atoms.arrays["REF_charges"] for atoms in own])
    for number in (1, 8):
        charges[numbers == number] -= charges[numbers == number].mean()
    levels = [atoms.info["fermi_level"] for atoms in own if "fermi_level" in atoms.info]
    forces = np.concatenate([atoms.arrays["REF_forces"] for atoms in own])
    expected = {
        "energy": 1.0 / per_atom.var(),
        "forces": 10.0 / np.mean(forces**2),
        "charges": 3.0 / np.mean(charges**2),
        "fermi_level": 2.0 / np.var(levels),
        "stability": 1.0,
        "charge_response": 100.0,
    }
    assert trainer.stage.loss.weights == pytest.approx(expected, rel=1e-9)


def test_scales_are_those_of_explicit_weights_and_of_a_resumed_run(data: Path, tmp_path: Path) -> None:
    """The weights of `scales: data`, given by hand, are one run bit for bit, and so is a resumed one."""
    loss = {**FAMILIES["local_charges"], "form": "huber"}
    two = [{"epochs": 2, "loss": {**loss, "scales": "data"}}]
    config = options(data, tmp_path / "scaled", "local_charges", two)
    train(config, console=Console(quiet=True))
    trainer, _ = prepared(config.model_copy(update={"output": tmp_path / "other"}), None, Console(quiet=True))
    by_hand = [{"epochs": 2, "loss": {**trainer.stage.loss.weights, "form": "huber"}}]
    train(options(data, tmp_path / "by_hand", "local_charges", by_hand), console=Console(quiet=True))
    one = [{**two[0], "epochs": 1}]
    train(options(data, tmp_path / "resumed", "local_charges", one), console=Console(quiet=True))
    again = options(data, tmp_path / "resumed", "local_charges", two)
    train(again, resume=True, console=Console(quiet=True))
    reference = load_file(tmp_path / "scaled" / LAST_CHECKPOINT)
    for other in ("by_hand", "resumed"):
        found = load_file(tmp_path / other / LAST_CHECKPOINT)
        assert all(torch.equal(found[key], reference[key]) for key in reference), other


def test_labels_without_a_spread_keep_their_weight(tmp_path: Path) -> None:
    data = write_frames(tmp_path / "data.xyz", clusters(6))  # charges of each element are all the same
    config = options(data, tmp_path / "run", "local_charges", stages("local_charges", scales="data"))
    shown = io.StringIO()
    trainer, _ = prepared(config, None, Console(file=shown, width=150))
    assert trainer.stage.loss.charges == 3.0
    assert trainer.stage.loss.energy != 1.0
    assert "stages.0.loss.charges: the labels equal their mean" in shown.getvalue()
