"""Insulators in the self-consistent families: neutral without response, and closed to flow of charge."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("mace")

import torch
from ase import Atoms

from electret import InputError
from electret.data import GraphDataset, wrap_atoms
from electret.graph import Graph
from electret.models import Statistics, build
from electret.models.start.elements import POLARIZABILITIES, SMALLEST_FLOW
from electret.models.start.responses import element_responses
from electret.testing.evaluation import graph_of
from model_cases import STATISTICS, in_field, model_config, molecule

RESPONDING = ("energy_functional", "fixed_point")


def model_of(family: str, statistics: Statistics = STATISTICS, **options):
    return build(model_config(family, **options), statistics, seed=2)


def water() -> Atoms:
    return Atoms("OH2", positions=[[0.0, 0.1, 0.2], [0.9, 0.2, -0.3], [-0.4, 0.8, -0.3]])


def row(n: int, spacing: float) -> Atoms:
    """Waters along x."""
    atoms = Atoms()
    for k in range(n):
        one = water()
        one.positions[:, 0] += k * spacing
        atoms += one
    return atoms


# --- the density without a potential ---


@pytest.mark.parametrize("charges", [None, {"H": 0.4, "O": -0.8, "Na": 1.0}])
@pytest.mark.parametrize("family", RESPONDING)
def test_charges_without_a_potential_add_up(family, charges):
    """For the whole, and for molecules out of each other's reach; charges depend on the surroundings."""
    options = {} if charges is None else {"charges": charges}
    model = model_of(family, **options)
    far = molecule()
    far.positions += [50.0, 0.0, 0.0]
    far.positions[0] += [0.1, 0.2, 0.0]
    density = reference_of(model, molecule() + far)
    expected = 0.0 if charges is None else 2 * charges["H"] + charges["O"] + charges["Na"]
    for part in (density[:4, 0], density[4:, 0]):
        assert float(part.sum()) == pytest.approx(expected, abs=1e-12)
    assert float((density[:4, 0] - density[4:, 0]).abs().max()) > 1e-4
    assert float((density[:4, 0] - float(density[0, 0])).abs().max()) > 1e-3


def reference_of(model, atoms: Atoms) -> torch.Tensor:
    """n of a structure, `[n_atoms, n_lm]`."""
    found = []
    handle = model.reference.register_forward_hook(lambda module, inputs, output: found.append(output))
    model(graph_of(model, atoms), forces=False)
    handle.remove()
    return found[0].detach()


def test_charges_of_elements_must_be_complete():
    with pytest.raises(InputError, match="charges has no value for Na"):
        model_of("fixed_point", charges={"H": 0.4, "O": -0.8})


def test_a_local_density_without_a_potential_can_be_had():
    model = model_of("fixed_point", fixed_point={"reference": "local"})
    density = reference_of(model, water())
    means = sum(STATISTICS.charges[number] for number in (8, 1, 1))
    assert abs(float(density[:, 0].sum()) - means) > 1e-6  # nothing makes it add up
    assert float(density[:, 0].sum()) == pytest.approx(means, abs=0.5)


# --- the flow of charge ---


def close(model) -> None:
    """Charges without a response, in either family."""
    with torch.no_grad():
        if model.family == "fixed_point":
            model.update.gate_bias.fill_(-50.0)
        else:
            model.log_hardness[:, 0] = 11.5


def polarizability_along(model, atoms: Atoms) -> float:
    graph = graph_of(model, atoms)
    result = model(graph, forces=False, properties=("polarizability",))
    return float(result["polarizability"][0, 0, 0])


@pytest.mark.parametrize("family", RESPONDING)
def test_closed_molecules_insulate_and_open_ones_conduct(family):
    """Polarisability per molecule of rows: flat without flow of charge; with it, like n² for long rows."""
    open_model, closed = model_of(family), model_of(family)
    close(closed)
    sizes, spacing = (2, 8), 6.0
    flowing = [polarizability_along(open_model, row(n, spacing)) / n for n in sizes]
    still = [polarizability_along(closed, row(n, spacing)) / n for n in sizes]
    assert still[0] > 1e-3
    assert still[1] == pytest.approx(still[0], rel=0.2)
    assert flowing[1] > 5 * flowing[0]


@pytest.mark.parametrize("family", RESPONDING)
def test_the_fermi_level_of_an_insulator_stays_near(family):
    """Nothing is missing to the total charge that an almost closed molecule would have to take up."""
    model = model_of(family)
    close(model)
    result = model(graph_of(model, in_field(row(3, 4.0))), forces=False)
    assert bool(result["scf_converged"].all())
    assert abs(float(result["fermi_level"][0])) < 20.0
    assert float(result["total_charge"][0]) == pytest.approx(0.0, abs=1e-9)


def test_without_a_gate_nothing_is_multiplied():
    gated, plain = model_of("fixed_point"), model_of("fixed_point", fixed_point={"charge_gate": False})
    assert plain.update.gate is None
    assert gated.update.gate is not None
    assert model_of("fixed_point", fixed_point={"responding": "dipoles"}).update.gate is None
    state = {name: value for name, value in gated.state_dict().items() if ".gate." not in name}
    plain.load_state_dict(state)
    with torch.no_grad():
        gated.update.gate.last.weight.zero_()
        gated.update.gate_bias.fill_(50.0)
    atoms = in_field(molecule(), charge=1.0)
    opened, bare = (model(graph_of(model, atoms))["energy"] for model in (gated, plain))
    assert float(opened[0]) == pytest.approx(float(bare[0]), abs=1e-9)


# --- where responses start ---

DIPOLES = {1: 0.02, 8: 0.05, 47: 0.7}
FLOW = {1: 0.0, 8: 0.0, 47: 0.012}


def labelled(symbols: str, seed: int, **changes) -> Atoms:
    """Atoms that do not see each other's densities, with the polarisability of the module's formula."""
    rng = np.random.default_rng(seed)
    atoms = Atoms(symbols, **changes)
    atoms.positions = rng.uniform(0, 8, (len(atoms), 3))
    around = atoms.positions - atoms.positions.mean(axis=0)
    numbers = atoms.numbers
    diagonal = sum(DIPOLES[int(z)] for z in numbers)
    diagonal = diagonal + sum(FLOW[int(z)] * r**2 for z, r in zip(numbers, around, strict=True))
    atoms.info["REF_polarizability"] = np.diag(diagonal) + 0.3 * (1 - np.eye(3))
    return atoms


def graphs(structures: list[Atoms]) -> list[Graph]:
    return GraphDataset(wrap_atoms(structures), 3.0, torch.float64).graphs


STRUCTURES = [labelled(s, k) for k, s in enumerate(["OH", "OH2", "O2H4", "Ag4", "Ag7", "Ag3OH2", "Ag5O2H4"])]


def test_responses_of_elements_are_found():
    found = element_responses((1, 8, 47), graphs(STRUCTURES))
    assert found is not None
    for values, expected in zip(found, (DIPOLES, FLOW), strict=True):
        assert values == pytest.approx(expected, abs=1e-5)
    batches = element_responses((1, 8, 47), [Graph.collate(graphs(STRUCTURES))])
    assert batches is not None
    assert batches[0] == pytest.approx(found[0], abs=1e-12)


def test_elements_in_one_proportion_share():
    waters = graphs([labelled("OH2", 1), labelled("O2H4", 2), labelled("O3H6", 3)])
    found = element_responses((1, 8), waters)
    assert found is not None
    polarizability, _ = found
    assert 2 * polarizability[1] + polarizability[8] == pytest.approx(2 * DIPOLES[1] + DIPOLES[8], abs=1e-5)
    assert min(polarizability.values()) > 0.01


def test_structures_that_say_nothing_are_left_out():
    bare, crystal = labelled("Ag4", 7), labelled("Ag4", 8, cell=[9, 9, 9], pbc=True)
    del bare.info["REF_polarizability"]
    assert element_responses((1, 8, 47), graphs([bare])) is None
    assert element_responses((47,), graphs([crystal])) is None
    some = element_responses((1, 8, 47), graphs([*STRUCTURES[:3], bare]))
    assert some is not None
    assert set(some[0]) == {1, 8}


START = STATISTICS.model_copy(
    update={
        "polarizability": {1: 0.0, 8: 0.06, 11: 1.2},
        "susceptibility": {1: 0.0, 8: 1e-3, 11: 0.5},
        "fermi_level": 0.0,
    }
)


@pytest.mark.parametrize("family", RESPONDING)
@pytest.mark.parametrize(("symbol", "number"), [("H", 1), ("O", 8), ("Na", 11)])
def test_fresh_models_answer_as_the_data(family, symbol, number):
    """An atom alone has the polarisability of its element, but for its own Gaussian."""
    model = model_of(family, START)
    expected = max(START.polarizability[number], POLARIZABILITIES[0])
    if family == "energy_functional":  # its own field adds to the stiffness
        width = float(model.sigma[STATISTICS.elements.index(number)])
        expected = 1.0 / (1.0 / expected + 14.399645 / (6 * np.sqrt(np.pi) * width**3))
    found = polarizability_along(model, Atoms(symbol, positions=[[0.0, 0.0, 0.0]]))
    assert found == pytest.approx(expected, rel=0.35)


@pytest.mark.parametrize("family", RESPONDING)
def test_fresh_models_let_charge_flow_as_the_data(family):
    model = model_of(family, START)
    index = [STATISTICS.elements.index(number) for number in (1, 8, 11)]
    if family == "energy_functional":
        flow = torch.exp(-model.log_hardness[index, 0])
    else:
        flow = torch.sigmoid(model.update.gate_bias[index]).square()
    ratios = (flow / flow[2]).tolist()
    assert ratios == pytest.approx([SMALLEST_FLOW, 1e-2, 1.0], rel=1e-6)
    ungated = model_of("fixed_point", START, fixed_point={"charge_gate": False})
    isotropic = torch.nn.functional.softplus(ungated.update.isotropic_bias[index, 0])
    assert (isotropic / isotropic[2]).tolist() == pytest.approx([SMALLEST_FLOW, 1e-2, 1.0], rel=1e-6)
