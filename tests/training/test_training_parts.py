"""Parts of training (loss, metrics, averages, schedules, checkpoints) against numbers by hand."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mace")

import torch
from ase import Atoms
from safetensors.torch import load_file, save_file

from electret import InputError
from electret.data import GraphDataset, wrap_atoms
from electret.graph import Graph
from electret.support.outputs import atomic_write
from electret.training import CheckpointError
from electret.training.checkpoint import (
    Checkpoint,
    optimizer_state,
    read_checkpoint,
    restore_optimizer,
    write_checkpoint,
)
from electret.training.config import LossConfig, OptimizerConfig, SchedulerConfig, StageConfig
from electret.training.convergence import Convergence, add_convergence, convergence_row, epoch_columns
from electret.training.loss import Loss
from electret.training.metrics import MetricsAccumulator
from electret.training.optimization import (
    MovingAverage,
    Schedule,
    averaged_weights,
    build_optimizer,
    clip_gradient,
    parameter_groups,
)
from electret.training.plots import plot_convergence
from electret.training.residuals import open_components, residual
from model_cases import bulk, small_model


def batch(structures: list[Atoms], weights: dict[str, float] | None = None) -> Graph:
    dataset = GraphDataset(wrap_atoms(structures), 1.0, torch.float64, weights)
    return dataset.batch(range(len(dataset)))


def two_systems() -> list[Atoms]:
    """Two atoms with everything labelled (config_type a), one atom with an energy only (config_type b)."""
    pair = Atoms("H2", positions=[[0, 0, 0], [0, 0, 2.0]], info={"REF_energy": 1.0, "config_type": "a"})
    pair.info["REF_dipole"] = np.array([1.0, 2.0, 3.0])
    pair.info["total_charge"] = 1.0
    pair.arrays["REF_forces"] = np.zeros((2, 3))
    pair.arrays["REF_charges"] = np.array([0.25, 0.75])
    pair.arrays["REF_multipoles"] = np.tile([0.5, 0.0, 0.0, 0.1], (2, 1))
    return [pair, Atoms("H", info={"REF_energy": -1.0, "config_type": "b"})]


def predictions() -> dict[str, torch.Tensor]:
    forces = torch.zeros(3, 3, dtype=torch.float64)
    forces[0, 0], forces[2] = 0.6, 99.0
    return {
        "energy": torch.tensor([1.4, -1.5], dtype=torch.float64, requires_grad=True),
        "forces": forces,
        "charges": torch.tensor([0.35, 0.75, 9.0], dtype=torch.float64),
        "dipole": torch.tensor([[1.2, 2.0, 3.4], [9.0, 9, 9]], dtype=torch.float64),
        "multipoles": torch.tensor([[0.5, 0, 0, 0.4], [0.5, 0, 0, 0.1], [9, 9, 9, 9]], dtype=torch.float64),
        "total_charge": torch.tensor([1.6, 0.3], dtype=torch.float64),
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("energy", (0.2**2 + 0.5**2) / 2),
        ("forces", 0.6**2 / 6),
        ("charges", 0.1**2 / 2),
        ("multipoles", 0.3**2 / 8),
        ("dipole", (0.1**2 + 0.2**2) / 3),
        ("total_charge", (0.3**2 + 0.3**2) / 2),
    ],
)
def test_terms_by_hand(name: str, expected: float) -> None:
    graph = batch(two_systems())
    terms = Loss(LossConfig(**{name: 2.0})).terms(predictions(), graph)
    assert terms.keys() == {name}
    assert float(terms[name]) == pytest.approx(2.0 * expected, rel=1e-12)


def test_stress_term() -> None:
    atoms = Atoms("H", cell=[2, 2, 2], pbc=True, info={"REF_stress": np.array([1.0, 2, 3, 4, 5, 6])})
    stress = torch.tensor([[[1.0, 6, 5], [6, 2, 4], [5, 4, 3.3]]], dtype=torch.float64)
    terms = Loss(LossConfig(stress=1.0)).terms({"stress": stress}, batch([atoms]))
    assert float(terms["stress"]) == pytest.approx(0.09 / 9)


def test_huber_is_linear_beyond_delta() -> None:
    graph = batch(two_systems())
    loss = Loss(LossConfig(energy=1.0, form="huber", huber_delta=0.3))
    expected = (0.2**2 / 2 + 0.3 * (0.5 - 0.15)) / 2
    assert float(loss.terms(predictions(), graph)["energy"]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("limit", [None, 10.0])
@pytest.mark.parametrize("size", [1.0, 1e25])
def test_gradients_longer_than_the_root_of_float32_are_clipped(size: float, limit: float | None) -> None:
    parameters = [torch.nn.Parameter(torch.zeros(n)) for n in (2, 3, 1)]
    for parameter, gradient in zip(parameters, ([3.0, 0.0], [0.0, 4.0, 12.0], None), strict=True):
        parameter.grad = None if gradient is None else size * torch.tensor(gradient)
    assert clip_gradient(torch.optim.Adam(parameters), limit) == pytest.approx(13.0 * size, rel=1e-6)
    expected = 4.0 * size if limit is None else min(4.0 * size, 4.0 / 13.0 * limit)
    assert float(parameters[1].grad[1]) == pytest.approx(expected, rel=1e-6)


def test_weights_of_frames_and_config_types() -> None:
    structures = two_systems()
    structures[0].info["config_energy_weight"] = 10.0
    structures[1].info["config_weight"] = 3.0
    graph = batch(structures, {"b": 2.0})
    value = float(Loss(LossConfig(energy=1.0)).terms(predictions(), graph)["energy"])
    assert value == pytest.approx((10.0 * 0.2**2 + 6.0 * 0.5**2) / 2, rel=1e-12)


def test_absent_labels_do_not_reach_the_gradient() -> None:
    structures = two_systems()
    del structures[1].info["REF_energy"]
    graph = batch(structures)
    output = predictions()
    Loss(LossConfig(energy=1.0)).terms(output, graph)["energy"].backward()
    assert output["energy"].grad.tolist() == pytest.approx([2 * 0.4 / 4, 0.0])
    loss = Loss(LossConfig(stress=1.0))
    assert loss.total(loss.terms({"stress": torch.zeros(2, 3, 3)}, graph), graph) is None


def test_dipole_components() -> None:
    graph = batch(two_systems())
    term = Loss(LossConfig(dipole=1.0, dipole_components=("x",))).terms(predictions(), graph)["dipole"]
    assert float(term) == pytest.approx(0.1**2, rel=1e-12)
    slab = Atoms("H", cell=[[2, 0, 0], [0.5, 2, 0], [0, 0, 9]], pbc=[True, True, False])
    tilted = Atoms("H", cell=[[2, 0, 1], [0, 2, 0], [0, 0, 9]], pbc=[True, False, False])
    bulk = Atoms("H", cell=[2, 2, 2], pbc=True)
    graph = batch([Atoms("H"), slab, tilted, bulk])
    assert open_components(graph).tolist() == [
        [True] * 3,
        [False, False, True],
        [False, True, False],
        [False] * 3,
    ]


def test_metrics_by_hand() -> None:
    accumulator = MetricsAccumulator(parity=True)
    for structures, rows in ((two_systems(), slice(None)), (two_systems()[:1], slice(0, 1))):
        output = predictions()
        if rows.stop == 1:
            output = {
                name: value[: 2 if name in ("forces", "charges", "multipoles") else 1]
                for name, value in output.items()
            }
        accumulator.add(output, batch(structures), loss=float(len(structures)))
    metrics = accumulator.result()
    energy = metrics.overall["energy"]
    errors = np.array([0.2, -0.5, 0.2])
    assert (energy.count, metrics.n_frames) == (3, 3)
    assert energy.mae == pytest.approx(np.abs(errors).mean())
    assert energy.rmse == pytest.approx(np.sqrt((errors**2).mean()))
    assert energy.offset == pytest.approx(errors.mean())
    assert energy.spread == pytest.approx(errors.std())
    assert energy.largest == pytest.approx(0.5)
    assert metrics.loss == pytest.approx((2 * 2 + 1 * 1) / 3)
    assert metrics.errors["b"].keys() == {"energy"}
    assert metrics.errors["a"]["energy"].mae == pytest.approx(0.2)
    assert metrics.overall["charges"].mae == pytest.approx(0.05)
    assert metrics.overall["dipole"].count == 6
    labels, predicted = metrics.parity["energy"]
    np.testing.assert_allclose(labels, [0.5, -1.0, 0.5])
    np.testing.assert_allclose(predicted, [0.7, -1.5, 0.7])
    assert metrics.as_dict()["errors"]["all"]["energy"]["rmse"] == energy.rmse


def response_systems() -> list[Atoms]:
    """A pair and a crystal of one atom, with every label of responses and potentials."""
    pair = Atoms("H2", positions=[[0, 0, 0], [0, 0, 2.0]], info={"fermi_level": -4.0})
    crystal = Atoms("H", cell=[3, 3, 3], pbc=True)
    for atoms in (pair, crystal):
        n = len(atoms)
        atoms.info["REF_polarizability"] = np.diag([1.0, 2.0, 3.0])
        atoms.arrays["REF_born_effective_charges"] = np.arange(9.0 * n).reshape(n, 9)
        atoms.arrays["REF_potentials"] = np.arange(1.0, n + 1)
        atoms.info["REF_grid_points"] = np.zeros((n + 1, 3))
        atoms.info["REF_grid_potentials"] = np.arange(1.0, n + 2)
    return [pair, crystal]


def response_predictions() -> dict[str, torch.Tensor]:
    charges = torch.arange(27.0, dtype=torch.float64).reshape(3, 3, 3)
    charges[2] -= 18.0
    charges[0, 0, 1] += 0.3  # row a, column b: dD_x/dy
    polarizability = torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)).repeat(2, 1, 1)
    polarizability[0, 0, 0] += 0.2
    stationarity = torch.full((3, 4), torch.nan, dtype=torch.float64)
    stationarity[0], stationarity[2, 0] = 0.5, -1.0
    return {
        "fermi_level": torch.tensor([-4.5, 99.0], dtype=torch.float64),
        "polarizability": polarizability,
        "born_effective_charges": charges,
        "potentials": torch.tensor([1.5, 2.0, 1.0], dtype=torch.float64),
        # the offset of 10 V counts for the molecule, but not for the crystal
        "grid_potentials": torch.tensor([11.0, 12.0, 13.0, 11.0, 12.5], dtype=torch.float64),
        "stationarity": stationarity.requires_grad_(),
        "stability": torch.tensor([1.2, 0.3], dtype=torch.float64, requires_grad=True),
        "charge_response": torch.tensor([0.2, 0.0], dtype=torch.float64),
    }


RESPONSES_BY_HAND = [
    ("fermi_level", 0.5**2),
    ("polarizability", (0.2 / 2) ** 2 / 9),  # of the pair: a crystal has neither
    ("born_effective_charges", 0.3**2 / 18),
    ("potentials", 0.5**2 / 3),
    ("grid_potentials", (3 * 10.0**2 + 2 * 0.25**2) / 5),
    ("stationarity", (4 * 0.5**2 + 1.0**2) / 5),
    ("stability", (1.2 - 0.7) ** 2 / 2),
    ("charge_response", 0.2**2 / 2),
]


@pytest.mark.parametrize(("name", "expected"), RESPONSES_BY_HAND)
def test_terms_of_self_consistent_families_by_hand(name: str, expected: float) -> None:
    loss = Loss(LossConfig(**{name: 3.0}, stability_limit=0.7))
    terms = loss.terms(response_predictions(), batch(response_systems()))
    assert float(terms[name]) == pytest.approx(3.0 * expected, rel=1e-12)


def with_responses(atoms: Atoms, pbc: list[bool]) -> Atoms:
    rng = np.random.default_rng(4)
    atoms = atoms.copy()
    atoms.pbc = pbc
    atoms.info["REF_polarizability"] = np.diag([1.0, 2.0, 3.0])
    atoms.arrays["REF_born_effective_charges"] = rng.normal(size=(len(atoms), 9))
    return atoms


@pytest.mark.parametrize(
    ("family", "pbc", "present"),
    [
        ("local_charges", [True, True, True], {"born_effective_charges": 9, "polarizability": 0}),
        ("local_charges", [True, True, False], {"born_effective_charges": 9, "polarizability": 1}),
        ("latent_ewald", [True, True, True], {"born_effective_charges": 9}),
        ("split_charges", [True, True, True], {"born_effective_charges": 9}),
        ("qeq", [True, True, True], {"born_effective_charges": 0, "polarizability": 0}),
        ("qeq", [True, True, False], {"born_effective_charges": 3, "polarizability": 1}),
    ],
)
def test_moving_atoms_by_cell_vectors_changes_no_loss(
    family: str, pbc: list[bool], present: dict[str, int]
) -> None:
    """Entries per atom (per system) that count, and the loss of the same crystal listed with other images."""
    model = small_model(family)
    atoms = with_responses(bulk(), pbc)
    if not all(pbc):
        atoms.set_cell(np.diag([4.1, 3.9, 13.0]))
    moved = atoms.copy()
    moved.positions += np.array([[1, 0, 0], [0, -2, 0], [3, 1, 0], [0, 0, 0], [-1, -1, 0]]) @ atoms.cell.array
    found = []
    for structure in (atoms, moved):
        graph = Graph.from_atoms(structure, model.cutoff)
        output = model(graph, properties=tuple(present))
        periodic = model.description.periodic_responses
        loss = Loss(LossConfig(**dict.fromkeys(present, 1.0)), periodic)
        found.append({name: float(value) for name, value in loss.terms(output, graph).items()})
        for name, count in present.items():
            entry = residual(name, output, graph, periodic_responses=periodic)
            assert (0 if entry is None else int(entry.mask[0].sum())) == count
    assert found[1] == pytest.approx(found[0], rel=1e-6)
    assert set(found[0]) == {name for name, count in present.items() if count}


def test_gradients_of_hinge_and_stationarity() -> None:
    """Nothing below the limit, nothing where there is no label, no NaN from there."""
    output = response_predictions()
    loss = Loss(LossConfig(stationarity=1.0, stability=1.0, stability_limit=0.7))
    graph = batch(response_systems())
    loss.total(loss.terms(output, graph), graph).backward()
    assert output["stability"].grad.tolist() == pytest.approx([2 * 0.5 / 2, 0.0])
    expected = [[0.2] * 4, [0.0] * 4, [-0.4, 0.0, 0.0, 0.0]]
    np.testing.assert_allclose(output["stationarity"].grad.numpy(), expected)


def unconverged(output: dict[str, torch.Tensor], converged: list[bool]) -> dict[str, torch.Tensor]:
    n = len(converged)
    history = torch.full((n, 3), torch.nan, dtype=torch.float64)
    history[:, 0] = 0.1
    return {
        **output,
        "scf_converged": torch.tensor(converged),
        "scf_iterations": torch.arange(1, n + 1) * 2,
        "scf_residual": torch.tensor([1e-9, 0.5][:n], dtype=torch.float64),
        "scf_history": history,
    }


def test_unconverged_systems_are_in_no_term() -> None:
    """The second system has diverged: errors and gradients are those of the first one alone."""
    graph = batch(two_systems())
    output = unconverged(predictions(), [True, False])
    with torch.no_grad():
        output["energy"][1] = 1e30
    weights = dict.fromkeys(("energy", "forces", "charges", "dipole", "total_charge"), 1.0)
    loss = Loss(LossConfig(**weights))
    terms = loss.terms(output, graph)
    alone = loss.terms(
        {
            name: value[: 1 if name in ("energy", "dipole", "total_charge") else 2]
            for name, value in predictions().items()
        },
        batch(two_systems()[:1]),
    )
    assert terms.keys() == alone.keys() == weights.keys()
    for name in weights:
        assert float(terms[name]) == pytest.approx(float(alone[name]), rel=1e-12)
    terms["energy"].backward()
    assert output["energy"].grad.tolist() == pytest.approx([2 * 0.2 / 2, 0.0])
    nothing = loss.terms(unconverged(predictions(), [False, False]), graph)
    assert loss.total(nothing, graph) is None


def test_metrics_count_unconverged_systems_against_the_loss() -> None:
    """Two batches: losses 3 over one of two frames, 5 over one of one."""
    accumulator = MetricsAccumulator(parity=True)
    accumulator.add(unconverged(predictions(), [True, False]), batch(two_systems()), loss=3.0)
    one = {
        name: value[: 2 if name in ("forces", "charges", "multipoles") else 1]
        for name, value in predictions().items()
    }
    accumulator.add(unconverged(one, [True]), batch(two_systems()[:1]), loss=5.0)
    metrics = accumulator.result()
    assert metrics.n_frames == 3
    assert metrics.loss == pytest.approx((3.0 + 5.0) / 2 / (2 / 3))
    assert metrics.overall["energy"].count == 2
    assert "b" not in metrics.errors
    assert len(metrics.parity["energy"][0]) == 2
    found = metrics.as_dict()["self_consistency"]
    assert (found["frames"], found["unconverged"]) == (3, 1)
    assert found["iterations_mean"] == pytest.approx((2 + 4 + 2) / 3)
    assert (found["iterations_max"], found["residual_max"]) == (4, 0.5)
    assert found["iterations_of_converged"] == {"2": 2}
    assert [history.tolist() for history in metrics.convergence.histories] == [[0.1]] * 3
    none = MetricsAccumulator()
    none.add(unconverged(predictions(), [False, False]), batch(two_systems()), loss=0.0)
    assert none.result().loss == math.inf


def test_plot_of_the_convergence(tmp_path: Path) -> None:
    found = Convergence()
    assert plot_convergence(None, tmp_path / "none.png") is None
    assert plot_convergence(found, tmp_path / "none.png") is None
    for _ in range(20):
        found.add(unconverged({}, [True, False]), 2, keep_history=True)
    path = tmp_path / "scf.png"
    assert len(plot_convergence(found, path).axes) == 2
    assert path.stat().st_size > 5000


def rows_of(predictions: dict[str, torch.Tensor], n_systems: int) -> torch.Tensor:
    return torch.tensor([[float(value) for value in convergence_row(predictions, n_systems)]])


def test_epochs_count_what_did_not_converge() -> None:
    sums: dict[str, float] = {}
    assert add_convergence(sums, rows_of({}, 3)) == 3
    assert epoch_columns(sums, None) == {}
    assert add_convergence(sums, rows_of(unconverged({}, [True, False]), 2)) == 1
    assert add_convergence(sums, rows_of(unconverged({}, [True]), 1)) == 1
    columns = epoch_columns(sums, None)
    assert columns == {
        "train_unconverged": 1.0,
        "train_scf_iterations": pytest.approx(8 / 3),
        "train_scf_iterations_max": 4.0,
        "train_scf_residual_max": 0.5,
    }


class Toy(torch.nn.Module):
    """Parameters with the names of an electret model."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = torch.nn.Module()
        self.backbone.mace = torch.nn.Module()
        self.backbone.mace.readouts = torch.nn.Linear(2, 1)
        self.backbone.mace.layers = torch.nn.Linear(2, 1, bias=False)
        self.multipoles = torch.nn.Linear(1, 1, bias=False)


def stage(**changes: Any) -> StageConfig:
    return StageConfig(**{"epochs": 5, "lr": 0.1, **changes})


def test_parameter_groups_and_frozen_groups() -> None:
    model = Toy()
    names = {group: [name for name, _ in members] for group, members in parameter_groups(model).items()}
    assert names == {
        "backbone": ["backbone.mace.layers.weight"],
        "readouts": ["backbone.mace.readouts.weight", "backbone.mace.readouts.bias"],
        "electrostatics": ["multipoles.weight"],
    }
    optimizer = build_optimizer(model, stage(lr={"backbone": 0.1, "readouts": 0.0, "electrostatics": 0.2}))
    assert {group["name"]: group["lr"] for group in optimizer.param_groups} == {
        "backbone": 0.1,
        "electrostatics": 0.2,
    }
    with pytest.raises(InputError, match="nothing would be trained"):
        build_optimizer(model, stage(lr=0.0))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"name": "constant"}, [0.1] * 5),
        ({"name": "exponential", "gamma": 0.5}, [0.05, 0.025, 0.0125, 0.00625, 0.003125]),
        ({"name": "cosine", "minimum": 0.02}, [0.06 + 0.04 * math.cos(math.pi * n / 5) for n in range(1, 6)]),
        ({"name": "plateau", "factor": 0.5, "patience": 1}, [0.1, 0.1, 0.05, 0.05, 0.025]),
    ],
)
def test_schedules_and_their_resumption(options: dict[str, Any], expected: list[float]) -> None:
    config = SchedulerConfig(**options)
    optimizer = build_optimizer(Toy(), stage())
    schedule, rates = Schedule(optimizer, config, 5), []
    for epoch in range(5):
        if epoch == 2:  # continue from the state in new objects
            values, state = optimizer_state(optimizer)[1], schedule.state()
            optimizer = build_optimizer(Toy(), stage())
            schedule = Schedule(optimizer, config, 5)
            restore_optimizer(optimizer, {}, values)
            schedule.restore(state)
        schedule.step(1.0)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx(expected, rel=1e-12)


def test_moving_average() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    average = MovingAverage(model, 0.9)
    with torch.no_grad():
        model.weight.fill_(2.0)
    average.update(model)
    decay = min(0.9, 2 / 11)
    with averaged_weights(model, torch.optim.Adam(model.parameters()), average):
        assert float(model.weight) == pytest.approx(decay * 1.0 + (1 - decay) * 2.0)
    assert float(model.weight) == 2.0
    with pytest.raises(RuntimeError, match="inside"), average.applied(model):
        raise RuntimeError("inside")
    assert float(model.weight) == 2.0


def test_schedulefree_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "schedulefree", None)
    with pytest.raises(InputError, match="pip install schedulefree"):
        build_optimizer(Toy(), stage(optimizer=OptimizerConfig(name="schedulefree")))


def test_schedulefree_weights_are_averaged_in_context() -> None:
    pytest.importorskip("schedulefree")
    model = Toy()
    optimizer = build_optimizer(model, stage(optimizer=OptimizerConfig(name="schedulefree")))
    for _ in range(3):
        optimizer.zero_grad()
        model.multipoles(torch.ones(1)).square().sum().backward()
        optimizer.step()
    training = model.multipoles.weight.detach().clone()
    with averaged_weights(model, optimizer, None):
        averaged = model.multipoles.weight.detach().clone()
    assert not torch.equal(training, averaged)
    tensors, values = optimizer_state(optimizer)
    other = build_optimizer(model, stage(optimizer=OptimizerConfig(name="schedulefree")))
    restore_optimizer(other, tensors, values)
    assert str(optimizer_state(other)) == str((tensors, values))


def checkpoint() -> Checkpoint:
    tensors = {
        "model/a": torch.randn(3, 2, dtype=torch.float64),
        "model/n": torch.tensor(3),
        "average/a": torch.ones(2),
    }
    return Checkpoint(tensors, {"x": 0.1 + 0.2, "best": math.inf, "rows": [1, 2]})


def test_checkpoints_read_back_exactly(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "c.safetensors"
    written = checkpoint()
    write_checkpoint(path, written)
    read = read_checkpoint(path)
    assert read.state == written.state
    assert read.tensors.keys() == written.tensors.keys()
    assert all(torch.equal(read.tensors[name], value) for name, value in written.tensors.items())
    assert read.group("model").keys() == {"a", "n"}
    assert [entry.name for entry in path.parent.iterdir()] == ["c.safetensors"]
    content = path.read_bytes()
    for _ in range(6):
        write_checkpoint(path, written)
        assert path.read_bytes() == content


def test_damaged_checkpoints_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    write_checkpoint(path, checkpoint())
    content = path.read_bytes()
    path.write_bytes(content[:-4])
    with pytest.raises(CheckpointError, match=r"cannot be read.*--restart"):
        read_checkpoint(path)
    path.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    with pytest.raises(CheckpointError, match="checksum"):
        read_checkpoint(path)
    save_file({"a": torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        read_checkpoint(path)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        read_checkpoint(tmp_path / "absent")


def test_a_failed_write_keeps_the_previous_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.safetensors"
    write_checkpoint(path, checkpoint())
    before = load_file(path)

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        atomic_write(path, b"half")
    monkeypatch.undo()
    assert [entry.name for entry in tmp_path.iterdir()] == ["c.safetensors"]
    after = load_file(path)
    assert all(torch.equal(after[name], value) for name, value in before.items())
