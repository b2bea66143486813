"""Runs that go on from a trained model: step 0, frozen parts, errors on the way, E0s, LoRA, replay."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from rich.console import Console

from electret import InputError
from electret.data import read_frames
from electret.graph import Graph
from electret.models import Model, ModelConfig, Statistics, build, load, save
from electret.training import TrainingConfig, TrainingResult, evaluate, train
from electret.training.checkpoint import read_checkpoint
from electret.training.optimization import build_optimizer, frozen_prefixes
from electret.training.resumption import LAST_CHECKPOINT
from electret.training.run import load_data
from training_frames import run_options, write_frames

LOSS = {"energy": 1.0, "forces": 100.0}
STAGED = {
    "name": "staged",
    "epochs": 3,
    "lr": {"backbone": 5e-4, "readouts": 5e-4, "electrostatics": 5e-3},
    "loss": {**LOSS, "charges": 1.0},
    "freeze": ["embedding", "layer 0"],
}


def springs(n: int, seed: int = 0, shift: tuple[float, float] = (0.0, 0.0)) -> list[Atoms]:
    """Clusters of H and O bound by springs, with labelled charges; `shift` in eV of each H and O."""
    rng = np.random.default_rng(seed)
    rest = np.array([[0.0, 0.0, 0.0], [1.0, 0.1, 0.0], [-0.3, 0.95, 0.2], [0.4, 0.5, 1.3]])
    lengths = np.linalg.norm(rest[:, None] - rest, axis=-1) + 0.1 * (1.0 - np.eye(4))
    frames = []
    for index in range(n):
        atoms = Atoms("OHOH", positions=rest + rng.normal(0.0, 0.12, (4, 3)))
        vectors = atoms.positions[:, None] - atoms.positions
        distances = np.linalg.norm(vectors, axis=-1)
        stretch = distances - lengths
        atoms.info["REF_energy"] = float((stretch**2).sum()) - 12.0 + 2.0 * sum(shift)
        slopes = -4.0 * stretch / (distances + np.eye(4))
        atoms.arrays["REF_forces"] = (slopes[:, :, None] * vectors).sum(axis=1)
        atoms.arrays["REF_charges"] = np.array([-0.4, 0.4, -0.4, 0.4])
        atoms.info["config_type"] = f"type{index % 2}"
        frames.append(atoms)
    return frames


def run(options: dict[str, Any], **arguments: Any) -> TrainingResult:
    return train(TrainingConfig.from_dict(options), console=Console(file=io.StringIO()), **arguments)


def options_from(base: TrainingResult, data: Path, output: Path, **changes: Any) -> dict[str, Any]:
    """A run that adds charges to the model of `base`."""
    model = {"start": str(base.model_file), "family": "local_charges"}
    return run_options(data, output, **{"model": model, "stages": [STAGED], **changes})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_frames(tmp_path_factory.mktemp("data") / "springs.xyz", springs(14))


@pytest.fixture(scope="module")
def base(data: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    """A plain MACE model."""
    options = run_options(data, tmp_path_factory.mktemp("base"))
    options["model"]["family"] = "mace"
    options["stages"] = [{"epochs": 8, "lr": 0.01, "loss": LOSS}]
    return run(options)


@pytest.fixture(scope="module")
def staged(base: TrainingResult, data: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    """The recommended way of adding charges: all groups at once, the backbone slowly."""
    return run(options_from(base, data, tmp_path_factory.mktemp("staged")))


def test_the_force_error_is_never_above_that_of_the_start(
    base: TrainingResult, staged: TrainingResult, data: Path
) -> None:
    valid = load_data(TrainingConfig.from_dict(run_options(data, data.parent / "unused"))).valid
    start = evaluate(base.model, valid).overall["forces"].rmse
    errors = [row["valid_forces_rmse"] for row in staged.history]
    assert max(errors) <= start
    assert errors[-1] < start
    charges = [row["valid_charges_rmse"] for row in staged.history]
    assert charges[-1] < 0.9 * charges[0]


def test_frozen_tensors_are_bit_identical(base: TrainingResult, staged: TrainingResult) -> None:
    before, after = base.model.state_dict(), staged.model.state_dict()
    mace = "backbone.mace."
    frozen = tuple(
        mace + name for name in ("node_embedding", "radial_embedding", "interactions.0", "products.0")
    )
    kept = {name for name in before if name.startswith(frozen)}
    assert len(kept) > 10
    for name in kept:
        assert torch.equal(before[name], after[name]), name
    assert not torch.equal(
        before[f"{mace}readouts.0.linear.weight"], after[f"{mace}readouts.0.linear.weight"]
    )
    assert any(
        not torch.equal(before[name], after[name]) for name in before if f"{mace}interactions.1" in name
    )


def at_step_0(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Model:
    """The model with which a run would begin."""
    from electret.training import run as module

    class Stop(Exception):
        pass

    found: list[Model] = []

    def stop(config: Any, model: Model, *arguments: Any) -> None:
        found.append(model)
        raise Stop

    monkeypatch.setattr(module, "Trainer", stop)
    with pytest.raises(Stop):
        run(options)
    return found[0]


@pytest.mark.parametrize("family", ["mace", "split_charges", "latent_ewald"])
def test_step_0_is_the_start(
    base: TrainingResult, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    stage = {"epochs": 1, "loss": LOSS}
    options = options_from(base, data, tmp_path, stages=[stage])
    options["model"]["family"] = family
    model = at_step_0(options, monkeypatch)
    graph = Graph.from_atoms(springs(1, seed=5)[0], model.cutoff)
    expected, found = base.model(graph), model(graph)
    tolerance = 1e-10 if family == "mace" else 1e-4
    for name in ("energy", "forces"):
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=tolerance)
    if family != "mace":
        assert float(found["energy_electrostatic"]) != 0.0  # it has a gradient


def test_atomic_energies(
    base: TrainingResult, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shifted = write_frames(tmp_path / "shifted.xyz", springs(8, seed=2, shift=(0.7, 0.5)))
    found = {}
    for rule in ("foundation", "fit to residual"):
        options = options_from(base, shifted, tmp_path / "run", stages=[{"epochs": 1, "loss": LOSS}])
        options["data"]["e0s"] = rule
        model = at_step_0(options, monkeypatch)
        found[rule] = model.statistics.e0s
        assert model.backbone.e0s.tolist() == [found[rule][1], found[rule][8]]
        if rule == "fit to residual":
            frames = load_data(TrainingConfig.from_dict(options)).train
            graphs = [Graph.from_atoms(frame.atoms, model.cutoff) for frame in frames]
            errors = [float(graph.labels["energy"] - model(graph)["energy"]) for graph in graphs]
            assert np.mean(errors) == pytest.approx(0.0, abs=1e-9)
    assert found["foundation"] == base.model.statistics.e0s
    # All frames have one composition: the smallest change that fits is the same for both elements.
    changes = [found["fit to residual"][number] - found["foundation"][number] for number in (1, 8)]
    assert changes[0] == pytest.approx(changes[1], abs=1e-9)
    assert abs(changes[0]) > 0.1


def test_resuming_is_exact(base: TrainingResult, staged: TrainingResult, data: Path, tmp_path: Path) -> None:
    shorter = options_from(base, data, tmp_path / "run", stages=[{**STAGED, "epochs": 1}])
    run(shorter)
    moved = {**shorter, "stages": [STAGED]}
    run(moved, resume=True)
    first, second = (
        read_checkpoint(folder / LAST_CHECKPOINT).tensors for folder in (staged.folder, tmp_path / "run")
    )
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_low_rank_changes_are_merged(base: TrainingResult, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("mace.modules.lora")
    options = options_from(base, data, tmp_path / "run")
    options["model"] = {"start": str(base.model_file), "lora": {"rank": 2, "alpha": 2.0}}
    options["stages"] = [{"epochs": 1, "lr": 0.01, "loss": LOSS}]
    options["data"]["batch_size"] = 14
    run(options)
    options["stages"][0]["epochs"] = 2
    result = run(options, resume=True)
    loaded = load(result.model_file)
    assert loaded.state_dict().keys() == base.model.state_dict().keys()
    name = "backbone.mace.interactions.1.linear_up.weight"
    assert not torch.equal(loaded.state_dict()[name], base.model.state_dict()[name])
    errors = evaluate(loaded, load_data(TrainingConfig.from_dict(options)).valid).overall["forces"].rmse
    assert errors == pytest.approx(min(row["valid_forces_rmse"] for row in result.history), rel=1e-6)


def test_replayed_frames_are_weighted(data: Path, tmp_path: Path) -> None:
    old = write_frames(tmp_path / "old.xyz", springs(6, seed=7))
    options = run_options(data, tmp_path / "run")
    options["data"]["replay"] = {"files": str(old), "weight": 0.5, "frames": 4}
    found = load_data(TrainingConfig.from_dict(options))
    replayed = [frame for frame in found.train if frame.file == str(old)]
    assert [frame.atoms.info["config_weight"] for frame in replayed] == [0.5] * 4
    assert len(found.train) - 4 + len(found.valid) == len(read_frames(data))
    assert all(frame.file != str(old) for frame in found.valid)
    again = [
        frame.index for frame in load_data(TrainingConfig.from_dict(options)).train if frame.file == str(old)
    ]
    assert again == [frame.index for frame in replayed]


def test_starts_that_do_not_fit_are_refused(base: TrainingResult, data: Path, tmp_path: Path) -> None:
    def refused(match: str, changes: dict[str, Any], **more: Any) -> None:
        options = options_from(base, data, tmp_path / "run", **more)
        options["model"] = {**options["model"], **changes}
        with pytest.raises(InputError, match=match):
            run(options)
        assert not (tmp_path / "run").exists()

    refused(r"model.backbone.r_max = 5.0, but the start has 3.5", {"backbone": {"r_max": 5.0}})
    refused(r"trust: true in YAML", {"start": str(data)})
    refused("no such file", {"start": str(tmp_path / "none.electret")})
    refused(
        r"'layer 5' is no part of the backbone.*from 0 to 1", {}, stages=[{**STAGED, "freeze": ["layer 5"]}]
    )
    other = write_frames(tmp_path / "sodium.xyz", [*springs(8), *(sodium(atoms) for atoms in springs(4))])
    options = options_from(base, other, tmp_path / "run")
    with pytest.raises(InputError, match=r"the training data has Na, which the start"):
        run(options)
    options = run_options(data, tmp_path / "run")
    options["data"]["e0s"] = "foundation"
    with pytest.raises(InputError, match=r"set model.start"):
        run(options)


def sodium(atoms: Atoms) -> Atoms:
    atoms.symbols[1] = "Na"
    return atoms


def test_names_of_mace() -> None:
    options = {"train_file": "a.xyz", "foundation_model": "b.electret", "model": {"family": "mace"}}
    options |= {"E0s": "estimated", "lora_rank": 8, "max_num_epochs": 2, "freeze": ["embedding"]}
    config = TrainingConfig.from_dict(options, base=Path("/data"))
    assert config.model.start == Path("/data/b.electret")
    assert config.data.e0s == "fit to residual"
    assert config.model.lora is not None
    assert config.model.lora.rank == 8
    assert config.stages[0].freeze == ("embedding",)
    for change, match in (
        ({"multiheads_finetuning": True}, r"data.replay"),
        ({"foundation_filter_elements": True}, "leave it out: a model keeps all elements"),
        ({"freeze": 5}, r"freeze: 5 counts parts in MACE; name them here"),
        ({"stage_two_lr": 1e-4}, "write a second entry in 'stages'"),
    ):
        with pytest.raises(InputError, match=match):
            TrainingConfig.from_dict({**options, **change})
    polar = {"train_file": "a.xyz", "model": "PolarMACE", "max_num_epochs": 1, "freeze": 0}
    polar |= {"field_feature_widths": "[1.0, 2.5]", "num_recursion_steps": 2, "field_si": True}
    config = TrainingConfig.from_dict(polar)
    assert config.model.electrostatics.widths == (1.0, 2.5)
    assert (config.model.polar.steps, config.model.polar.features_self_interaction) == (2, True)
    assert config.stages[0].freeze == ()


def test_a_start_with_joint_embeddings(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = {
        **run_options(data, tmp_path)["model"]["backbone"],
        "embedding_specs": {
            "total_charge": {"type": "categorical", "num_classes": 5, "offset": 2, "emb_dim": 2},
            "total_spin": {"type": "continuous", "emb_dim": 2},
        },
        "use_embedding_readout": True,
    }
    config = ModelConfig.parse({"family": "mace", "backbone": backbone})
    model = build(config, Statistics(elements=(1, 8), e0s={1: -3.0, 8: -3.0}, avg_num_neighbors=3.0))
    save(model, tmp_path / "omol.electret")
    options = run_options(data, tmp_path / "run", stages=[{**STAGED, "freeze": ["embedding"]}])
    options["model"] = {"start": str(tmp_path / "omol.electret"), "family": "local_charges"}
    begun = at_step_0(options, monkeypatch)
    assert begun.config.backbone == model.config.backbone
    atoms, energies = springs(1, seed=5)[0], set()
    for charge, multiplicity in ((0, 1), (-1, 1), (0, 3)):
        atoms.info.update(total_charge=charge, spin_multiplicity=multiplicity)
        graph = Graph.from_atoms(atoms, model.cutoff)
        expected, found = model(graph), begun(graph)
        torch.testing.assert_close(found["energy_short_range"], expected["energy"], rtol=0, atol=1e-10)
        energies.add(round(float(found["energy_short_range"]), 5))
    assert len(energies) == 3
    groups = {
        group["name"]: len(group["params"])
        for group in build_optimizer(begun, TrainingConfig.from_dict(options).stages[0]).param_groups
    }
    free = [
        name for name, _ in begun.named_parameters() if name.startswith(("backbone.mace.joint_embedding",))
    ]
    assert free
    frozen = frozen_prefixes(begun, ["embedding"])
    assert all(name.startswith(frozen) for name in free)
    assert groups["readouts"] == sum("readout" in name for name, _ in begun.backbone.named_parameters())
