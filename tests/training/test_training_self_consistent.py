"""Training of self-consistent families: modes, gradients of every term, unconverged frames, resumption."""

from __future__ import annotations

import csv
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mace")

import torch
from ase import Atoms
from rich.console import Console
from safetensors.torch import load_file

import electret
from electret import InputError
from electret.data import GraphDataset, read_frames
from electret.graph import Graph
from electret.models import Model, build
from electret.models.family import family_named
from electret.training import CheckpointError, TrainingConfig, TrainingInterrupted, evaluate, train
from electret.training.evaluation import compute, predictions
from electret.training.loop import Trainer
from electret.training.loss import Loss
from electret.training.resumption import BEST_CHECKPOINT, LAST_CHECKPOINT
from electret.training.run import load_data, statistics
from electret.training.self_consistency import scf_options
from electret.training.targets import without_loss
from training_frames import clusters, run_options, write_frames

FAMILIES = ("qeq", "energy_functional", "fixed_point")
OPTIONS: dict[str, dict[str, Any]] = {
    "qeq": {},
    "energy_functional": {"functional": {"channels": 4, "convex": 4, "hidden": 4}},
    "fixed_point": {"fixed_point": {"channels": 4, "hidden": 4, "nonlinearity": "mlp"}},
}


def labelled_clusters(n: int) -> list[Atoms]:
    """Clusters in fields with every label of a self-consistent density; every third one has no grid."""
    rng = np.random.default_rng(7)
    frames = clusters(n)
    for index, atoms in enumerate(frames):
        charges = atoms.arrays["REF_charges"] + rng.normal(0, 0.05, len(atoms))
        atoms.arrays["REF_charges"] = charges - charges.mean()
        atoms.info["REF_dipole"] = atoms.arrays["REF_charges"] @ atoms.positions
        dipoles = rng.normal(0, 0.05, (len(atoms), 3))
        atoms.arrays["REF_multipoles"] = np.column_stack([atoms.arrays["REF_charges"], dipoles])
        atoms.info["fermi_level"] = -4.0 + rng.normal(0, 0.2)
        atoms.info["external_field"] = rng.normal(0, 0.05, 3)
        atoms.info["REF_polarizability"] = np.diag(rng.uniform(0.2, 0.6, 3))
        atoms.arrays["REF_born_effective_charges"] = rng.normal(0, 0.3, (len(atoms), 9))
        atoms.arrays["REF_potentials"] = rng.normal(0, 1.0, len(atoms))
        if index % 3:
            atoms.info["REF_grid_points"] = rng.uniform(-2, 5, (6 + index, 3))
            atoms.info["REF_grid_potentials"] = rng.normal(0, 1.0, 6 + index)
    return frames


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_frames(tmp_path_factory.mktemp("data") / "clusters.xyz", labelled_clusters(12))


def options_of(family: str, data: Path, output: Path, *stages: dict[str, Any]) -> dict[str, Any]:
    options = run_options(data, output)
    options["model"] |= {"family": family, **OPTIONS[family]}
    options["stages"] = [{"name": f"stage{n}", "lr": 0.01, **stage} for n, stage in enumerate(stages)]
    return options


def run(options: dict[str, Any], **arguments: Any) -> Any:
    arguments.setdefault("console", Console(quiet=True))
    return train(TrainingConfig.from_dict(options), **arguments)


def weights_of(family: str, mode: str) -> dict[str, float]:
    """Every term that family and mode define and the data has."""
    return {
        name: 1.0
        for name in family_named(family).targets
        if without_loss(family_named(family), mode, name) is None and name != "stress"
    }


def prepared(options: dict[str, Any]) -> tuple[TrainingConfig, Model, GraphDataset]:
    config = TrainingConfig.from_dict(options)
    frames = load_data(config)
    dataset = GraphDataset(frames.train, config.model.backbone.r_max, torch.float64)
    return config, build(config.model, statistics(config, frames, dataset), seed=1), dataset


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("family", [*FAMILIES, "affine fixed_point"])
@pytest.mark.parametrize("mode", ["implicit", "unrolled", "direct"])
def test_gradient_of_every_term_is_that_of_finite_differences(
    family: str, mode: str, data: Path, tmp_path: Path
) -> None:
    """d(loss)/d(parameters) along a random direction, of each term by itself.

    The derivative of unrolled iterations is that of the converged density once there are enough of them.
    The stability of a nonlinear update is differentiated at fixed density, so that its term is checked for
    affine ones.
    """
    affine, family = family.startswith("affine"), family.removeprefix("affine ")
    weights = weights_of(family, mode)
    weights.pop("charge_response", None)  # zero in fresh models; tested with the solvers
    if not affine:
        weights.pop("stability", None)
    limit = {"stability_limit": 0.0} if "stability" in weights else {}
    stage = {"epochs": 1, "mode": mode, "loss": {**weights, **limit}}
    if mode == "unrolled":
        stage["unrolled_steps"] = 120
    options = options_of(family, data, tmp_path, stage)
    if affine:
        options["model"]["fixed_point"] = {"channels": 4, "hidden": 4}
    options["model"]["scf"] = {"tolerance": 1e-12}
    options["model"]["electrostatics"] = {"accuracy": 1e-12}
    config, model, dataset = prepared(options)
    indices = [0, 1]
    graph = dataset.batch(indices)
    loss, scf = Loss(config.stages[0].loss), scf_options(family, config.stages[0])
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    generator = torch.Generator().manual_seed(3)
    direction = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in parameters]

    def terms() -> dict[str, torch.Tensor]:
        output = compute(model, dataset, indices, graph, weights, forces=True, training=True, **scf)
        return loss.terms(output, graph)

    def shifted(step: float) -> dict[str, float]:
        with torch.no_grad():
            for parameter, change in zip(parameters, direction, strict=True):
                parameter.add_(change, alpha=step)
        values = {name: float(value.detach()) for name, value in terms().items()}
        with torch.no_grad():
            for parameter, change in zip(parameters, direction, strict=True):
                parameter.sub_(change, alpha=step)
        return values

    slopes = {}
    found = terms()
    assert found.keys() == weights.keys()
    for name, value in found.items():
        gradients = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        pairs = [(g, d) for g, d in zip(gradients, direction, strict=True) if g is not None]
        slopes[name] = float(sum((g * d).sum() for g, d in pairs))
    step = 2e-5
    up, down, far_up, far_down = (shifted(n * step) for n in (1, -1, 2, -2))
    for name, slope in slopes.items():
        expected = (8 * (up[name] - down[name]) - (far_up[name] - far_down[name])) / (12 * step)
        assert abs(expected) > 1e-6, name
        assert slope == pytest.approx(expected, rel=2e-5, abs=1e-8), name


@pytest.mark.parametrize("family", FAMILIES)
def test_runs_in_two_stages_and_reports_the_self_consistency(family: str, data: Path, tmp_path: Path) -> None:
    """A direct and an implicit stage on every term: the loss falls, and the run says how its densities
    went."""
    direct, implicit = weights_of(family, "direct"), weights_of(family, "implicit")
    options = options_of(
        family,
        data,
        tmp_path / "run",
        {"epochs": 3, "mode": "direct", "loss": direct},
        {"epochs": 2, "loss": implicit},
    )
    options |= {"plots": True, "tensorboard": True, "ema_decay": None}
    with open(tmp_path / "shown.txt", "w", encoding="utf-8") as file:
        result = run(options, console=Console(file=file, width=250))
    history = result.history
    assert history[0]["train_loss"] > history[2]["train_loss"]
    assert history[3]["train_loss"] > history[4]["train_loss"]
    last = history[4]
    for name in implicit:
        assert last[f"train_{name}_loss"] >= 0
        assert np.isfinite(last[f"valid_{name}_mae"])
    assert {"valid_unconverged", "valid_scf_iterations", "train_scf_residual_max"} <= last.keys()
    assert last["valid_unconverged"] == last["train_unconverged"] == 0
    assert 0 < last["valid_scf_residual_max"] < 1e-7
    found = json.loads((tmp_path / "run/summary.json").read_text(encoding="utf-8"))["sets"]["train"]
    assert found["self_consistency"]["unconverged"] == 0
    assert sum(found["self_consistency"]["iterations_of_converged"].values()) == found["n_frames"]
    assert (tmp_path / "run/plots/scf_convergence.png").exists()
    assert (tmp_path / "run/plots/parity_born_effective_charges.png").exists()
    assert "Self-consistency" in (tmp_path / "run/summary.md").read_text(encoding="utf-8")
    shown = (tmp_path / "shown.txt").read_text(encoding="utf-8")
    for text in ("Self-consistency", "iterations |", "REF_grid_potentials"):
        assert text in shown
    assert "unconverged " not in shown.replace("unconverged ┃", "")
    assert result.model.statistics.feature_norms is not None
    assert result.model.statistics.fermi_level == pytest.approx(-4.0, abs=0.3)
    again = evaluate(electret_load(result.model_file), data, batch_size=5)
    expected = {**result.metrics["train"].overall}
    assert again.overall.keys() == expected.keys() - {"stability", "stationarity", "charge_response"}


def electret_load(path: Path) -> Model:
    from electret.models import load

    return load(path)


def test_stationarity_training_lowers_the_stationarity(data: Path, tmp_path: Path) -> None:
    stage = {"epochs": 24, "mode": "direct", "loss": {"stationarity": 1.0}, "lr": 0.02}
    history = run(options_of("energy_functional", data, tmp_path / "run", stage)).history
    assert history[0]["valid_stationarity_mae"] > 1.3 * history[-1]["valid_stationarity_mae"]
    assert history[-1]["valid_loss"] == pytest.approx(history[-1]["valid_stationarity_rmse"] ** 2, rel=1e-6)


def test_the_hinge_lowers_the_spectral_radius(data: Path, tmp_path: Path) -> None:
    loss = {"stability": 1.0, "stability_limit": 0.0, "charge_response": 0.0}
    history = run(
        options_of("fixed_point", data, tmp_path / "run", {"epochs": 5, "loss": loss, "lr": 0.03})
    ).history
    assert history[0]["valid_stability_mae"] > 1.2 * history[-1]["valid_stability_mae"]


STAGES = (
    {
        "epochs": 1,
        "mode": "direct",
        "loss": {"energy": 1.0, "forces": 10.0, "charges": 10.0, "stability": 1.0},
    },
    {"epochs": 1, "mode": "unrolled", "unrolled_steps": 3, "loss": {"energy": 1.0, "charges": 10.0}},
    {"epochs": 2, "loss": {"energy": 1.0, "forces": 10.0, "charges": 10.0, "fermi_level": 1.0}},
)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fixed-point run without interruption."""
    folder = tmp_path_factory.mktemp("whole")
    run(options_of("fixed_point", data, folder, *STAGES))
    return folder


@pytest.mark.parametrize("step", [2, 5, 8, 10])
def test_resuming_any_mode_is_exact(
    data: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Interrupted inside an epoch of each stage (three batches each); nothing of an earlier density may be
    left over, and the counts of the epoch go on."""
    original, calls = Trainer._step, []

    def counted(self: Trainer, indices: list[int], graph: Graph) -> None:
        calls.append(indices)
        if len(calls) == step:
            os.kill(os.getpid(), signal.SIGINT)
        original(self, indices, graph)

    monkeypatch.setattr(Trainer, "_step", counted)
    options = options_of("fixed_point", data, tmp_path / "run", *STAGES)
    with pytest.raises(TrainingInterrupted):
        run(options)
    monkeypatch.undo()
    run(options, resume=True)
    for name in (str(LAST_CHECKPOINT), str(BEST_CHECKPOINT), "model.electret"):
        ours, theirs = load_file(tmp_path / "run" / name), load_file(whole / name)
        assert not [key for key in theirs if not torch.equal(ours[key], theirs[key])], name
    rows, expected = rows_of(tmp_path / "run"), rows_of(whole)
    for row in (*rows, *expected):
        del row["seconds"]
    assert rows == expected


def fail(monkeypatch: pytest.MonkeyPatch, marks: list[float], value: float = 1e6) -> None:
    """Makes the density of the frames with these first coordinates fail to converge, with wild results."""
    original = Model.forward

    def failing(self: Model, graph: Graph, *arguments: Any, **options: Any) -> dict[str, torch.Tensor]:
        output = dict(original(self, graph, *arguments, **options))
        if options.get("scf") is None or options["scf"].mode != "implicit":
            return output
        first = graph.positions[graph.ptr[:-1], 0]
        bad = torch.stack([(first - mark).abs() < 1e-7 for mark in marks]).any(dim=0)
        output["scf_converged"] = output["scf_converged"] & ~bad
        for name in ("energy", "forces", "charges", "dipole"):
            if name in output:
                rows = bad if len(output[name]) == graph.n_systems else bad[graph.batch]
                scale = torch.where(rows, value, 1.0).to(output[name].dtype)
                output[name] = output[name] * scale.reshape(-1, *[1] * (output[name].dim() - 1))
        return output

    monkeypatch.setattr(Model, "forward", failing)


def test_frames_that_do_not_converge_are_left_out_and_counted(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run with two failing frames is, in its weights, the run without their labels."""
    loss = {"energy": 1.0, "forces": 10.0, "charges": 10.0}
    options = options_of("qeq", data, tmp_path / "plain", {"epochs": 2, "loss": loss})
    frames = load_data(TrainingConfig.from_dict(options))
    train_frame, valid_frame = frames.train[2], frames.valid[1]
    with monkeypatch.context() as patch:
        fail(patch, [float(f.atoms.positions[0, 0]) for f in (train_frame, valid_frame)])
        with open(tmp_path / "shown.txt", "w", encoding="utf-8") as file:
            options["output"] = str(tmp_path / "failing")
            failing = run(options, console=Console(file=file, width=250))
    for row in failing.history:
        assert (row["train_unconverged"], row["valid_unconverged"]) == (1, 1)
        assert row["train_loss"] < 1e3
    assert failing.metrics["valid"].overall["charges"].count == 4 * (len(frames.valid) - 1)
    assert failing.metrics["valid"].convergence.unconverged == 1
    shown = (tmp_path / "shown.txt").read_text(encoding="utf-8")
    assert "unconverged train 1, valid 1" in shown
    structures = [frame.atoms for frame in read_frames(data)]
    for index in (train_frame.index, valid_frame.index):
        atoms = structures[index]
        for name in ("REF_energy", "REF_dipole"):
            atoms.info.pop(name)
        for name in ("REF_forces", "REF_charges", "REF_multipoles"):
            del atoms.arrays[name]
    bare = write_frames(tmp_path / "bare.xyz", structures)
    options["output"] = str(tmp_path / "unlabelled")
    options["data"]["train"] = str(bare)
    monkeypatch.setattr("electret.training.run.statistics", lambda *_: failing.model.statistics)
    unlabelled = run(options)
    ours, theirs = (result.model.state_dict() for result in (failing, unlabelled))
    assert all(torch.allclose(ours[key], theirs[key], rtol=1e-9, atol=1e-12) for key in theirs)
    share = (len(frames.valid) - 1) / len(frames.valid)
    assert failing.history[0]["valid_loss"] == pytest.approx(
        sum_of_losses(failing.history[0], loss) / share, rel=1e-6
    )


def sum_of_losses(row: dict[str, float], weights: dict[str, float]) -> float:
    return sum(weight * row[f"valid_{name}_rmse"] ** 2 for name, weight in weights.items())


def test_a_run_in_which_nothing_converges_says_so(data: Path, tmp_path: Path) -> None:
    """One iteration is not enough for a nonlinear update at this tolerance."""
    options = options_of("fixed_point", data, tmp_path / "run", {"epochs": 2, "loss": {"energy": 1.0}})
    options["model"]["scf"] = {"max_iterations": 1, "tolerance": 1e-15, "solver": "mixing"}
    with pytest.raises(CheckpointError, match=r"valid_unconverged.*mode direct"):
        run(options)
    rows = rows_of(tmp_path / "run")
    assert [row["valid_loss"] for row in rows] == ["inf", "inf"]
    assert [row["train_unconverged"] for row in rows] == ["9.0", "9.0"]
    assert [row["train_loss"] for row in rows] == ["nan", "nan"]


def test_direct_training_needs_and_uses_frames_with_charges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = labelled_clusters(12)
    stage = {"epochs": 1, "mode": "direct", "loss": {"energy": 1.0, "forces": 1.0}}
    for atoms in frames[3:]:
        del atoms.arrays["REF_charges"], atoms.arrays["REF_multipoles"]
    some = write_frames(tmp_path / "some.xyz", frames)
    drawn: list[str] = []
    original = Trainer._step

    def recorded(self: Trainer, indices: list[int], graph: Graph) -> None:
        drawn.extend(self.train_set.frames[index].where for index in indices)
        original(self, indices, graph)

    monkeypatch.setattr(Trainer, "_step", recorded)
    options = options_of("fixed_point", some, tmp_path / "some", stage, {**stage, "mode": "implicit"})
    for atoms in frames:
        atoms.positions *= 1.01
    others = write_frames(tmp_path / "others.xyz", frames)
    options["data"] = {"train": str(some), "valid": str(others), "batch_size": 3}
    run(options)
    assert sorted(drawn[:3]) == [f"{some}, frame {index}" for index in range(3)]
    assert len(drawn) == 3 + 12
    for atoms in frames[:3]:
        del atoms.arrays["REF_charges"], atoms.arrays["REF_multipoles"]
    none = write_frames(tmp_path / "none.xyz", frames)
    with pytest.raises(InputError, match=r"stages\.0\.mode.*'REF_charges' nor 'REF_multipoles'.*none\.xyz"):
        run(options_of("fixed_point", none, tmp_path / "none", stage))


@pytest.mark.parametrize("name", ["polarizability", "grid_potentials", "potentials", "fermi_level"])
def test_weights_without_data_are_refused(name: str, data: Path, tmp_path: Path) -> None:
    frames = [frame.atoms for frame in read_frames(data)]
    key = name if name == "fermi_level" else f"REF_{name}"
    for atoms in frames:
        for entry in (key, "REF_grid_points" if name == "grid_potentials" else key):
            atoms.info.pop(entry, None)
            if entry in atoms.arrays:
                del atoms.arrays[entry]
    path = write_frames(tmp_path / "bare.xyz", frames)
    stage = {"epochs": 1, "loss": {"energy": 1.0, name: 1.0}}
    with pytest.raises(InputError, match=rf"stages\.0\.loss.*'{name}'.*'{key}'"):
        run(options_of("qeq", path, tmp_path / "run", stage))


def test_grid_potentials_are_those_of_the_multipoles(data: Path, tmp_path: Path) -> None:
    """Against the numpy function, frame by frame, field included."""
    stage = {"epochs": 1, "loss": {"energy": 1.0}}
    _, model, dataset = prepared(options_of("fixed_point", data, tmp_path, stage))
    ((indices, graph, output),) = predictions(model, dataset, batch_size=20)
    assert len(output["grid_potentials"]) == len(graph.labels["grid_points"]) > 30
    for position, index in enumerate(indices):
        atoms = dataset.frames[index].atoms
        own = graph.labels["grid_batch"] == position
        if "REF_grid_points" not in atoms.info:
            assert not own.any()
            continue
        expected = electret.potential(
            atoms.info["REF_grid_points"],
            atoms.positions,
            output["multipoles"][graph.batch == position].numpy(),
            sigma=1.5,
            external_field=atoms.info["external_field"],
        )
        assert np.abs(expected).max() > 0.05
        np.testing.assert_allclose(output["grid_potentials"][own].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("mode", ["implicit", "direct"])
def test_float32(mode: str, data: Path, tmp_path: Path) -> None:
    """The backbone in single precision; the density is found in double, or it would not converge."""
    weights = weights_of("fixed_point", mode)
    options = options_of("fixed_point", data, tmp_path / "run", {"epochs": 1, "mode": mode, "loss": weights})
    result = run({**options, "dtype": "float32"})
    assert result.model.dtype == torch.float32
    assert result.metrics["valid"].convergence.unconverged == 0
    assert {f"train_{name}_loss" for name in weights} <= result.history[0].keys()


def test_explicit_densities_train_on_potentials_and_born_charges(data: Path, tmp_path: Path) -> None:
    loss = {"potentials": 0.1, "grid_potentials": 0.1, "born_effective_charges": 1.0}
    options = run_options(data, tmp_path / "run")
    options["stages"] = [{"name": "main", "epochs": 6, "lr": 0.01, "loss": loss}]
    result = run(options)
    assert result.history[0]["train_loss"] > result.history[-1]["train_loss"]
    assert result.metrics["valid"].convergence is None
    assert "valid_unconverged" not in result.history[-1]


def test_data_without_charges_can_be_trained_on_with_a_warning(tmp_path: Path) -> None:
    frames = labelled_clusters(9)
    for atoms in frames:
        del atoms.arrays["REF_charges"], atoms.arrays["REF_multipoles"]
    path = write_frames(tmp_path / "bare.xyz", frames)
    options = options_of("fixed_point", path, tmp_path / "run", {"epochs": 1, "loss": {"energy": 1.0}})
    with pytest.warns(UserWarning, match="no training frame has charges"):
        result = run(options)
    assert result.model.statistics.feature_norms is None
    assert np.isfinite(result.history[-1]["valid_loss"])


def test_many_body_updates_train_with_the_stability_term(data: Path, tmp_path: Path) -> None:
    loss = {"energy": 1.0, "stability": 1.0, "stability_limit": 1e-3}
    options = options_of("fixed_point", data, tmp_path / "run", {"epochs": 1, "loss": loss})
    options["model"]["fixed_point"] = {"update": "many_body", "channels": 2, "hidden": 4}
    assert run(options).history[-1]["train_stability_loss"] > 1e-6


@pytest.mark.parametrize("solver", ["newton", "mixing", "anderson"])
def test_densities_that_run_away_give_finite_results_and_no_gradient(
    solver: str, data: Path, tmp_path: Path
) -> None:
    """An update a thousand times too strong, whose iterations would overflow."""
    stage = {"epochs": 1, "loss": {"energy": 1.0, "forces": 1.0, "stability": 1.0}}
    options = options_of("fixed_point", data, tmp_path, stage)
    options["model"]["scf"] = {"solver": solver}
    config, model, dataset = prepared(options)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("update"):
                parameter.mul_(1e3)
    indices = range(len(dataset))
    graph = dataset.batch(indices)
    arguments = {"forces": True, "training": True, **scf_options("fixed_point")}
    output = compute(model, dataset, indices, graph, ["stability"], **arguments)
    assert not output["scf_converged"].any()
    for name in ("energy", "forces", "charges", "stability"):
        assert torch.isfinite(output[name]).all(), name
    loss = Loss(config.stages[0].loss)
    assert loss.total(loss.terms(output, graph), graph) is None
    metrics = evaluate(model, dataset, loss=config.stages[0].loss)
    assert metrics.loss == np.inf
    assert metrics.convergence.unconverged == len(dataset)
