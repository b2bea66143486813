"""Every family through the contract battery, and the battery against planted bugs."""

import numpy as np
import pytest
import torch

from electret.models import FAMILIES, Density, build
from electret.models.local_charges import LocalCharges
from electret.models.mace import ShortRange
from electret.testing import (
    ContractError,
    assert_close,
    check_batch,
    check_forces,
    check_model,
    check_permutation,
    check_precision,
    check_rotation,
    check_stress,
    check_total_charge,
    check_training_gradients,
    check_translation,
)
from model_cases import STATISTICS, bulk, in_field, model_config, molecule, slab, small_model


def systems_for(family):
    model = small_model(family)
    if "total_charge" in model.honours:
        return [in_field(molecule(), charge=1.0), slab(), bulk()]
    return [molecule(), slab(), bulk()]


@pytest.mark.parametrize("family", FAMILIES)
def test_family_keeps_the_contract(family):
    checked = check_model(small_model(family), systems_for(family))
    assert sum(name.startswith("stress") for name in checked) == 2
    assert sum(name.startswith("forces") for name in checked) == 3
    assert any(name.startswith("total charge") for name in checked) == (
        family in ("fixed_charges", "local_charges", "split_charges")
    )


def test_quadrupoles_keep_the_contract():
    config = model_config(
        "local_charges",
        backbone={"hidden_irreps": "4x0e + 4x1o + 4x2e"},
        electrostatics={"max_l": 2, "sigma": 1.0, "accuracy": 1e-10},
    )
    model = build(config, STATISTICS, seed=2)
    assert model(graph_of(model, molecule()))["multipoles"].shape == (4, 9)
    check_rotation(model, in_field(molecule(), 1.0))
    check_forces(model, bulk())
    check_stress(model, bulk())


def graph_of(model, atoms):
    from electret.graph import Graph

    return Graph.from_atoms(atoms, model.cutoff, model.dtype, labels=False)


class PlantedEnergy(ShortRange):
    """A short-range model with a bug in its energy."""

    def __init__(self, bug):
        super().__init__(model_config("mace"), STATISTICS)
        self.bug = bug
        self.gain = torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def _energies(self, structure):
        result = super()._energies(structure)
        graph, x = structure.graph, structure.positions
        per_atom = {
            "position": x[:, 0],
            "direction": torch.zeros_like(x[:, 0]),
            "order": x.norm(dim=1) * torch.arange(graph.n_atoms),
            "detached": x.detach().norm(dim=1),
            "unstrained": graph.positions.norm(dim=1),
            "batch": x.norm(dim=1) * graph.n_systems,
            "parameter": self.gain.detach() * x.norm(dim=1),
        }[self.bug]
        if self.bug == "direction":
            vectors = structure.edge_vectors
            per_atom = per_atom.index_add(0, graph.edge_index[0], vectors[:, 2] ** 2)
        if self.bug == "parameter":
            per_atom = per_atom * (self.gain / self.gain.detach())
            per_atom = per_atom + 0.1 * (x * self.gain.detach() ** 2).sum(dim=1)
        extra = x.new_zeros(graph.n_systems).index_add(0, graph.batch, per_atom)
        return {**result, "energy": result["energy"] + extra}


@pytest.mark.parametrize(
    ("bug", "check"),
    [
        ("position", check_translation),
        ("direction", check_rotation),
        ("order", check_permutation),
        ("detached", check_forces),
        ("unstrained", check_stress),
        ("parameter", check_training_gradients),
    ],
)
def test_planted_bug_in_the_energy_is_caught(bug, check):
    check(small_model("mace"), bulk())
    with pytest.raises(ContractError):
        check(PlantedEnergy(bug), bulk())


def test_planted_bug_of_batching_is_caught():
    systems = [molecule(), bulk()]
    check_batch(small_model("mace"), systems)
    with pytest.raises(ContractError, match="of a batch"):
        check_batch(PlantedEnergy("batch"), systems)


class PlantedDensity(LocalCharges):
    """Local charges with a bug in their density."""

    def __init__(self, bug):
        super().__init__(model_config("local_charges"), STATISTICS)
        self.bug = bug

    def density(self, structure, features):
        multipoles = super().density(structure, features).multipoles
        if self.bug == "order of dipoles":
            multipoles = multipoles[:, [0, 2, 3, 1]]
        if self.bug == "total charge":
            multipoles = multipoles * 1.01
        return Density(multipoles)


@pytest.mark.parametrize(
    ("bug", "check"), [("order of dipoles", check_rotation), ("total charge", check_total_charge)]
)
def test_planted_bug_in_the_density_is_caught(bug, check):
    check(small_model("local_charges"), in_field(molecule()))
    with pytest.raises(ContractError):
        check(PlantedDensity(bug), in_field(molecule()))


def test_comparison_of_zeros_is_refused():
    with pytest.raises(ContractError, match="could not fail"):
        assert_close("nothing", np.zeros(3), np.zeros(3), 1e-9)


def test_precision_check_sees_a_coarse_model():
    with pytest.raises(ContractError, match="float32"):
        check_precision(small_model("mace"), [molecule()], relative=1e-9)
