"""Every family through the contract battery, and the battery against planted bugs."""

import numpy as np
import pytest
import torch

from electret.models import FAMILIES, SELF_CONSISTENT, Density, build
from electret.models.families.local_charges import LocalCharges
from electret.models.families.mace import ShortRange
from electret.testing import (
    ContractError,
    assert_close,
    check_batch,
    check_forces,
    check_model,
    check_permutation,
    check_precision,
    check_rotation,
    check_self_consistency,
    check_stress,
    check_total_charge,
    check_training_gradients,
    check_translation,
)
from electret.testing.evaluation import graph_of
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
        family in ("fixed_charges", "local_charges", "split_charges", "polar", *SELF_CONSISTENT)
    )
    n_self_consistent = 3 if family in SELF_CONSISTENT else 0
    assert sum(name.startswith("constant Fermi level") for name in checked) == n_self_consistent
    assert any(name.startswith("responses") for name in checked) == bool(n_self_consistent)


FIXED_POINT_VARIANTS = {
    "nonlinear": {"nonlinearity": "residual_mlp", "potential_embedding": "features", "energy": "mlp"},
    "mlp": {
        "nonlinearity": "mlp",
        "potential_embedding": "species",
        "self_interaction": True,
        "reference": "local",
        "charge_gate": False,
    },
    "many_body": {"update": "many_body", "channels": 4, "hidden": 8, "energy": "none"},
}


@pytest.mark.parametrize("name", FIXED_POINT_VARIANTS)
def test_fixed_point_variants_keep_the_contract(name):
    config = model_config("fixed_point", fixed_point=FIXED_POINT_VARIANTS[name])
    checked = check_model(build(config, STATISTICS, seed=4), [in_field(molecule(), charge=1.0), bulk()])
    assert sum(name.startswith("stress") for name in checked) == 1
    assert sum(name.startswith("constant Fermi level") for name in checked) == 2


FLOWS = {
    "one_body": ("fixed_point", {"fixed_point": {"flow": True, **FIXED_POINT_VARIANTS["nonlinear"]}}),
    "many_body": ("fixed_point", {"fixed_point": {"flow": True, **FIXED_POINT_VARIANTS["many_body"]}}),
    "functional": ("energy_functional", {"functional": {"flow": True}}),
}


@pytest.mark.parametrize("name", FLOWS)
def test_flows_along_edges_keep_the_contract(name):
    family, options = FLOWS[name]
    model = build(model_config(family, **options), STATISTICS, seed=4)
    checked = check_model(model, [in_field(molecule(), charge=1.0), in_field(bulk())])
    assert sum(name.startswith("constant Fermi level") for name in checked) == 2
    assert sum(name.startswith("field response") for name in checked) == 2 * (family != "fixed_point")


@pytest.mark.parametrize("name", ["sqe", "one_body"])
def test_crystals_whose_charges_flow_have_a_polarisation(name):
    """It does not depend on the images of the atoms nor on the cell; Born charges are its derivatives and add
    up to the charge; the permittivity is that of a cell of twice the size."""
    family, options = FLOWS.get(name, (name, {"charges": None}))
    model = build(model_config(family, **options), STATISTICS, seed=4)
    names = ["born_effective_charges", "dielectric_tensor"]
    atoms = bulk()
    found = model(graph_of(model, atoms), properties=names)
    moved = atoms.copy()
    moved.positions[1] += 2 * moved.cell[0] - moved.cell[2]
    in_another_image = model(graph_of(model, moved), forces=False)
    assert_close("polarisation", in_another_image["polarization"], found["polarization"], 1e-11)
    twice = model(graph_of(model, atoms.repeat((1, 2, 1))), properties=names)
    assert_close("permittivity", twice["dielectric_tensor"], found["dielectric_tensor"], 1e-10)
    assert_close("polarisation", twice["polarization"], 2 * found["polarization"], 1e-10)
    born = found["born_effective_charges"]
    assert_close("Born charges", twice["born_effective_charges"][:5], born, 1e-9)
    assert float(born.sum(dim=0).abs().max()) < 1e-9
    assert float(born.abs().max()) > 0.01
    ends = []
    for sign in (1, -1):
        step = atoms.copy()
        step.positions[3, 1] += sign * 1e-4
        ends.append(model(graph_of(model, step), forces=False)["polarization"][0])
    assert_close("dP/dR", (ends[0] - ends[1]) / 2e-4, born[3, :, 1], 1e-6)


def test_latent_charges_by_flux_keep_the_contract():
    config = model_config("latent_ewald", latent_charges="flux")
    checked = check_model(build(config, STATISTICS, seed=4), [molecule(), slab(), bulk()])
    assert sum(name.startswith("stress") for name in checked) == 2


@pytest.mark.parametrize("family", ["local_charges", *SELF_CONSISTENT])
def test_a_mesh_keeps_the_contract(family):
    electrostatics = {"sigma": {"H": 0.8, "O": 1.0, "Na": 1.2}, "method": "mesh", "accuracy": 1e-12}
    model = build(model_config(family, electrostatics=electrostatics), STATISTICS, seed=3)
    checked = check_model(model, [in_field(molecule(), charge=1.0), bulk()])
    assert sum(name.startswith("stress") for name in checked) == 1


@pytest.mark.parametrize("family", ["local_charges", *SELF_CONSISTENT])
@pytest.mark.parametrize("max_l", [0, 2])
def test_other_orders_keep_the_contract(family, max_l):
    config = model_config(
        family,
        backbone={"hidden_irreps": "4x0e + 4x1o + 4x2e"},
        electrostatics={"max_l": max_l, "features_max_l": max_l, "sigma": 1.0, "accuracy": 1e-10},
    )
    model = build(config, STATISTICS, seed=2)
    atoms = in_field(molecule(), 1.0)
    assert model(graph_of(model, atoms))["multipoles"].shape == (4, (max_l + 1) ** 2)
    check_rotation(model, atoms)
    check_forces(model, bulk())
    check_stress(model, bulk())
    if family in SELF_CONSISTENT:
        check_self_consistency(model, atoms, "molecule")


@pytest.mark.parametrize("family", SELF_CONSISTENT)
def test_boundaries_and_charge_control_mix_in_a_batch(family):
    model = small_model(family)
    wire = slab()
    cell = wire.cell.array.copy()
    cell[1] *= 3.0
    wire.set_cell(cell, scale_atoms=False)
    wire.pbc = [True, False, False]
    systems = [in_field(molecule(), 1.0), wire, slab(), bulk()]
    for atoms, level in zip((slab(), molecule()), (4.0, -1.0), strict=True):
        atoms.info["fermi_level"] = level
        systems.append(atoms)
    check_batch(model, systems)
    check_forces(model, wire)
    check_stress(model, wire)


class PlantedEnergy(ShortRange):
    """A short-range model with a bug in its energy."""

    def __init__(self, bug):
        super().__init__(model_config("mace"), STATISTICS)
        self.bug = bug
        self.gain = torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def _energies(self, structure, call):
        result = super()._energies(structure, call)
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
