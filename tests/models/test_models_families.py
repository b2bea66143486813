"""Properties of the families beyond the contract: conditions, charges, polarisation, exact energies."""

import math

import numpy as np
import pytest
import torch
from ase import Atoms

from electret import InputError
from electret.graph import Graph
from electret.models import FAMILIES, SELF_CONSISTENT, build
from electret.models.base import Structure
from electret.models.families.charge_flux import flowed, one_way
from electret.testing import assert_close, check_forces, check_stress
from electret.units import COULOMB_CONSTANT
from model_cases import STATISTICS, bulk, in_field, model_config, molecule, slab, small_model


def graph_of(model, atoms, **options):
    return Graph.from_atoms(atoms, model.cutoff, model.dtype, labels=False, **options)


def variant(family, seed=1, **options):
    return build(model_config(family, **options), STATISTICS, seed)


# --- conditions ---


@pytest.mark.parametrize("family", ["mace", "latent_ewald"])
@pytest.mark.parametrize(("condition", "value"), [("total_charge", 1.0), ("external_field", [0.0, 0.1, 0.0])])
def test_conditions_without_effect_are_refused(family, condition, value):
    model = small_model(family)
    atoms = molecule()
    atoms.info[condition] = value
    batch = Graph.collate([graph_of(model, molecule()), graph_of(model, atoms)])
    with pytest.raises(InputError, match=rf"{condition} = .* system 1, .*'{family}' does not depend"):
        model(batch)


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - set(SELF_CONSISTENT)))
def test_fermi_level_is_refused(family):
    model = small_model(family)
    atoms = molecule()
    atoms.info["fermi_level"] = -4.0
    with pytest.raises(InputError, match="fermi_level"):
        model(graph_of(model, atoms))


def test_conditions_can_be_ignored_on_purpose_only():
    model = variant("mace", ignored_conditions=("external_field", "total_charge"))
    plain = model(graph_of(model, molecule()))["energy"]
    assert torch.equal(model(graph_of(model, in_field(molecule(), 1.0)))["energy"], plain)
    with pytest.raises(InputError, match="honours"):
        variant("local_charges", ignored_conditions=("external_field",))


def test_field_along_a_periodic_axis_needs_a_polarisation():
    atoms = slab()
    model = small_model("local_charges")
    across = np.cross(*atoms.cell.array[:2])
    atoms.info["external_field"] = 0.1 * across / np.linalg.norm(across)
    check_forces(model, atoms)
    atoms.info["external_field"] = np.array([0.1, 0.0, 0.0])
    with pytest.raises(InputError, match="along its periodic axis 0"):
        model(graph_of(model, atoms))
    check_forces(small_model("split_charges"), atoms)


# --- charges ---


def test_free_local_charges_ignore_the_total_charge():
    free = variant("local_charges", conserve_charge=False)
    neutral, charged = molecule(), in_field(molecule(), 1.0)
    del charged.info["external_field"]
    before, after = free(graph_of(free, neutral)), free(graph_of(free, charged))
    assert torch.equal(before["charges"], after["charges"])
    assert abs(float(before["total_charge"])) > 1e-3
    assert "total_charge" not in free.honours
    shifted = small_model("local_charges")(graph_of(free, charged))
    expected = before["charges"] + (1.0 - before["total_charge"]) / 4
    assert_close("shifted charges", shifted["charges"], expected, 1e-12)


def test_fixed_charges_are_those_of_the_configuration_or_of_the_data():
    formal = variant("fixed_charges", charges={"H": 0.5, "O": -1.0, "Na": 1.0})
    atoms = molecule()
    atoms.info["total_charge"] = 1.0
    assert formal(graph_of(formal, atoms))["charges"].tolist() == pytest.approx([-1.0, 0.5, 0.5, 1.0])
    assert formal(graph_of(formal, molecule()))["charges"].tolist() == pytest.approx(
        [-1.25, 0.25, 0.25, 0.75]
    )
    data = variant("fixed_charges", conserve_charge=False)
    assert data(graph_of(data, atoms))["charges"].tolist() == pytest.approx([-0.7, 0.35, 0.35, 0.9])


def test_missing_or_unknown_element_values_are_refused():
    with pytest.raises(InputError, match="charges has no value for H, O, Na"):
        build(model_config("fixed_charges"), STATISTICS.model_copy(update={"charges": None}))
    with pytest.raises(InputError, match="sigma has no value for O, Na"):
        variant("local_charges", electrostatics={"sigma": {"H": 1.0}})
    with pytest.raises(InputError, match="'Xx', which is no chemical symbol"):
        variant("fixed_charges", charges={"Xx": 1.0})
    with pytest.raises(InputError, match="has charges only"):
        variant("fixed_charges", electrostatics={"max_l": 2})
    with pytest.raises(InputError, match="does nothing in family 'mace'"):
        variant("mace", charges={"H": 1.0})


def test_energy_of_two_ions_is_that_of_gaussian_charges():
    """1/2 q^T A q with A_ij = K erf(r / sqrt(2 (s_i^2 + s_j^2))) / r, A_ii = K / (sqrt(pi) s_i), and -F.D."""
    widths, charges = {"H": 0.8, "O": 1.0, "Na": 1.3}, {"H": 0.4, "O": -0.9, "Na": 0.7}
    model = variant(
        "fixed_charges", charges=charges, electrostatics={"max_l": 0, "sigma": widths, "accuracy": 1e-12}
    )
    field = np.array([0.03, -0.02, 0.05])
    for distance in (1.4, 20.0):  # inside and far outside the cutoff
        atoms = Atoms("ONa", positions=[[0.1, 0.2, 0.3], [0.1, 0.2, 0.3 + distance]])
        atoms.info.update(total_charge=-0.2, external_field=field)
        result = model(graph_of(model, atoms))
        spread = math.sqrt(2 * (1.0**2 + 1.3**2))
        pair = COULOMB_CONSTANT * -0.9 * 0.7 * math.erf(distance / spread) / distance
        own = COULOMB_CONSTANT / (2 * math.sqrt(math.pi)) * (0.9**2 / 1.0 + 0.7**2 / 1.3)
        dipole = -0.9 * atoms.positions[0] + 0.7 * atoms.positions[1]
        assert_close("electrostatic energy", result["energy_electrostatic"], [pair + own], 1e-10)
        assert_close("field energy", result["energy_field"], [-field @ dipole], 1e-12)
        total = result["energy_short_range"] + result["energy_electrostatic"] + result["energy_field"]
        assert_close("energy", result["energy"], total, 1e-12)
    far = result["forces"][1, 2]
    assert_close(
        "force beyond the cutoff", [far], [COULOMB_CONSTANT * -0.9 * 0.7 / 20.0**2 + 0.7 * field[2]], 1e-9
    )


# --- split charges ---


def test_flux_is_antisymmetric_and_vanishes_smoothly_at_the_cutoff():
    model = small_model("split_charges")
    generator = torch.Generator().manual_seed(0)
    features = [
        torch.randn(2, irreps.dim, dtype=torch.float64, generator=generator)
        for irreps in model.backbone.layer_irreps
    ]
    edges = torch.tensor([[0, 1], [1, 0]])
    direction = torch.tensor([[0.6, 0.0, 0.8], [-0.6, 0.0, -0.8]], dtype=torch.float64)
    flux = model.flux(features, edges, 2.0 * direction).detach()
    assert_close("reverse flux", flux[:1], -flux[1:], 1e-14)

    def slope(distance, order):
        r = torch.tensor(distance, dtype=torch.float64, requires_grad=True)
        value = model.flux(features, edges, r * direction)[0]
        for _ in range(order):
            (value,) = torch.autograd.grad(value, r, create_graph=True)
        return abs(value.item())

    for order in range(3):
        assert slope(3.5 - 1e-4, order) < 1e-3 * slope(2.0, order)
        assert slope(3.5 + 1e-4, order) == 0.0


@pytest.mark.parametrize(("latent_charges", "power"), [("free", 1), ("flux", 3)])
def test_size_consistency_of_latent_charges(latent_charges, power):
    """E(AB) - E(A) - E(B) of two neutral fragments at 50 and 100 Å: K Q_A Q_B / r of the sums of free latent
    charges, K (d_A·d_B - 3 d_A·n d_B·n) / r³ of the dipoles where charges flow along edges."""
    model = variant("latent_ewald", latent_charges=latent_charges)
    first, second = molecule(), molecule()[:3]
    second.rotate(70, (1, 2, 3))
    n, one, other = np.array([0.6, 0.0, 0.8]), *(moments(model, atoms) for atoms in (first, second))

    def interaction(distance):
        far = second.copy()
        far.positions += distance * n
        graph = Graph.collate([graph_of(model, atoms) for atoms in (first + far, first, far)])
        pair, a, b = model(graph, forces=False)["energy_electrostatic"].tolist()
        return pair - a - b

    if latent_charges == "free":
        expected = one[0] * other[0]
    else:
        assert abs(one[0]) < 1e-12 > abs(other[0])
        expected = one[1] @ other[1] - 3 * (one[1] @ n) * (other[1] @ n)
    for distance in (50.0, 100.0):
        expected_there = COULOMB_CONSTANT * expected / distance**power
        assert abs(expected_there) > 1e-10
        assert interaction(distance) == pytest.approx(expected_there, rel=8 / distance)


def moments(model, atoms):
    """Latent charge and dipole (about the origin) of a fragment."""
    p = model(graph_of(model, atoms), forces=False)["latent_multipoles"].detach().numpy()
    return p[:, 0].sum(), p[:, 0] @ atoms.positions + p[:, [3, 1, 2]].sum(axis=0)


def test_options_of_the_flux_need_a_flux():
    with pytest.raises(InputError, match=r"split.*latent_charges"):
        model_config("latent_ewald", split={"channels": 4})
    with pytest.raises(InputError, match=r"latent_charges.*latent_ewald"):
        model_config("local_charges", latent_charges="flux")


def test_one_edge_of_each_pair_carries_the_flux_of_both():
    """Charges and polarisation are those of a flux along all edges, images of the own atom among them."""
    model = small_model("split_charges")
    chain = Atoms("OH", [[0.0, 0.0, 0.0], [0.9, 0.3, 0.1]], cell=[2.2, 2.9, 12.0], pbc=[True, True, False])
    graph = Graph.collate([graph_of(model, atoms) for atoms in (molecule(), bulk(), chain)])
    elements = model.backbone.elements_of(graph)
    sender, receiver = graph.edge_index
    shifts = torch.einsum("ek,eki->ei", graph.unit_shifts, graph.cell[graph.batch[sender]])
    structure = Structure(graph, elements, graph.positions, graph.cell, shifts)
    _, features = model.backbone(graph, structure.edge_vectors, elements)
    edges, vectors = one_way(structure)
    assert 2 * edges.shape[1] == graph.n_edges
    assert bool((edges[0] == edges[1]).any())
    flux = model.flux(features, edges, vectors)
    every = model.flux(features, graph.edge_index, structure.edge_vectors)
    nothing = torch.zeros(graph.n_atoms, dtype=torch.float64)
    charges = nothing.index_add(0, receiver, every)
    assert float(charges.detach().abs().max()) > 1e-3
    assert_close("charges", [flowed(nothing, edges, flux).detach()], [charges.detach()], 1e-13)
    polarization = torch.zeros(3, 3, dtype=torch.float64)
    both = polarization.index_add(0, graph.batch[sender], every[:, None] * structure.edge_vectors / 2)
    one = polarization.index_add(0, graph.batch[edges[0]], flux[:, None] * vectors)
    assert_close("polarisation", [one.detach()], [both.detach()], 1e-12)


def test_polarisation_is_the_dipole_of_an_open_system():
    model = small_model("split_charges")
    result = model(graph_of(model, in_field(molecule(), 1.0)))
    assert_close("polarisation", result["polarization"], result["dipole"], 1e-12)


def test_polarisation_does_not_depend_on_the_cell_an_atom_is_listed_in():
    """Moving an atom by a cell vector changes P by q0 times that vector, and forces not at all."""
    model = small_model("split_charges")
    atoms = in_field(bulk())
    moved = atoms.copy()
    moved.positions[3] += atoms.cell.array[0]
    before, after = model(graph_of(model, atoms)), model(graph_of(model, moved))
    assert_close("forces", after["forces"], before["forces"], 1e-9)
    reference = 1.0 + (0.0 - (-0.6 + 3 * 0.3 + 1.0)) / 5  # q0 of Na, shifted to a neutral cell
    change = after["polarization"] - before["polarization"]
    assert_close("change of P", change[0], reference * atoms.cell.array[0], 1e-9)
    naive = after["dipole"] - before["dipole"]
    assert float((naive - change).abs().max()) > 1e-3


def test_polarisation_is_continuous_where_the_dipole_is_not():
    """Wrapping makes sum q r jump by a charge that depends on the geometry, P by a constant."""
    model = small_model("split_charges")
    jumps = []
    for stretch in (1.0, 1.03):
        atoms = bulk()
        atoms.set_cell(atoms.cell.array * stretch, scale_atoms=True)
        moved = atoms.copy()
        moved.positions[1] += atoms.cell.array[2]
        before, after = model(graph_of(model, atoms)), model(graph_of(model, moved))
        vector = atoms.cell.array[2]
        jumps.append(
            [
                float((after[name] - before[name])[0].numpy() @ vector / (vector @ vector))
                for name in ("polarization", "dipole")
            ]
        )
    assert abs(jumps[0][0] - jumps[1][0]) < 1e-9
    assert abs(jumps[0][1] - jumps[1][1]) > 1e-4


def test_stress_in_a_periodic_field_is_the_derivative():
    check_stress(small_model("split_charges"), in_field(bulk()))


# --- refusals ---


def test_unknown_element_wrong_dtype_and_no_atoms_are_refused():
    model = small_model("local_charges")
    with pytest.raises(
        InputError, match="atom 1 is Ag, which is no element of the model; it was trained on H, O, Na"
    ):
        model(graph_of(model, Atoms("OAg", positions=[[0, 0, 0], [0, 0, 2]])))
    with pytest.raises(InputError, match=r"graph.to\(dtype=torch.float64\)"):
        model(graph_of(model, molecule()).to(dtype=torch.float32))
    graph = graph_of(model, molecule())
    graph.positions = graph.positions[:0]
    with pytest.raises(InputError, match="no atoms"):
        model(graph)


def test_coinciding_atoms_are_named():
    model = small_model("mace")
    graph = graph_of(model, molecule())
    graph.positions[2] = graph.positions[1]
    with pytest.raises(InputError, match=r"atoms [12] and [12].*coincide"):
        model(graph)


def test_diverged_parameters_are_named():
    model = variant("mace")
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    with pytest.raises(InputError, match="diverged training"):
        model(graph_of(model, molecule()))


def test_stress_needs_a_volume():
    model = small_model("local_charges")
    batch = Graph.collate([graph_of(model, bulk()), graph_of(model, molecule())])
    with pytest.raises(InputError, match="system 1 has no volume"):
        model(batch, stress=True)
    result = model(batch, stress=True, training=True)
    assert result["stress"][1].abs().max() == 0
    alone = model(graph_of(model, bulk()), stress=True)
    assert_close("stress", result["stress"][:1].detach(), alone["stress"], 1e-12)


def test_graph_tensors_are_left_alone():
    model = small_model("local_charges")
    graph = graph_of(model, molecule())
    positions = graph.positions.clone()
    result = model(graph, stress=False)
    assert not graph.positions.requires_grad
    assert torch.equal(graph.positions, positions)
    assert not any(value.requires_grad for value in result.values())
    energy_only = model(graph, forces=False)
    assert "forces" not in energy_only
    assert torch.equal(energy_only["energy"], result["energy"])


def test_fresh_fixed_points_answer_as_much_as_the_charges_of_the_data_vary():
    wide = STATISTICS.model_copy(update={"charge_spread": {1: 0.02, 8: 0.1, 11: 0.3}})
    plain, scaled = (build(model_config("fixed_point"), statistics, 1) for statistics in (STATISTICS, wide))
    for number, (element, factor) in enumerate({1: 0.2, 8: 1.0, 11: 3.0}.items()):
        assert STATISTICS.elements[number] == element
        for response in (lambda m: m.update.response.output, lambda m: m.update.isotropic_bias):
            before, after = response(plain)[number], response(scaled)[number]
            if response(plain).dim() == 2:
                before, after = map(torch.nn.functional.softplus, (before, after))
            assert torch.allclose(after, factor * before)


@pytest.mark.parametrize("charge", [0.0, 1.0, -2.0])
def test_fixed_point_energies_count_the_charge_from_the_mean_fermi_level(charge):
    """Nothing but -mu0 Q and the zero of the Fermi level hangs on mu0."""
    level = -7.5
    plain = small_model("fixed_point")
    shifted = build(model_config("fixed_point"), STATISTICS.model_copy(update={"fermi_level": level}), seed=1)
    atoms = in_field(molecule(), charge)
    before, after = (model(graph_of(model, atoms)) for model in (plain, shifted))
    assert abs(float(before["energy"][0])) > 1.0
    assert float(after["energy"][0] - before["energy"][0]) == pytest.approx(-level * charge, abs=1e-8)
    assert float(after["fermi_level"][0] - before["fermi_level"][0]) == pytest.approx(level, abs=1e-8)
    assert_close("charges", after["charges"], before["charges"], 1e-9)
