"""Charges outside of a model: coupling, derivatives, limits, ASE's `EIQMMM`, errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule as built
from ase.calculators.qmmm import EIQMMM, LJInteractions
from ase.calculators.tip3p import TIP3P, epsilon0, sigma0

import electret
from electret import Calculator, InputError
from electret.graph import Graph
from electret.scf import ExternalCharges
from electret.units import COULOMB_CONSTANT
from model_cases import bulk, molecule, slab, small_model

CHARGES = np.array([0.8, -0.4, -0.4, 0.3])  # not neutral, so that backgrounds count
WIDTH = 0.4


def places(atoms: Atoms) -> np.ndarray:
    """Positions of the charges, some of them outside of the cell."""
    return atoms.positions.mean(axis=0) + 4.0 * np.random.default_rng(0).normal(size=(4, 3))


def embedded(family: str, atoms: Atoms) -> tuple[Calculator, object]:
    atoms.calc = Calculator(small_model(family))
    return atoms.calc, atoms.calc.embed(CHARGES, places(atoms), width=WIDTH)


def coulomb(atoms: Atoms, positions: np.ndarray, multipoles: np.ndarray, sigma: np.ndarray) -> float:
    cell = {"cell": atoms.cell.array, "pbc": atoms.pbc} if atoms.pbc.any() else {}
    return np.ravel(electret.coulomb(positions, multipoles, sigma, **cell, accuracy=1e-12).energy).item()


CASES = [("fixed_charges", slab), ("local_charges", molecule), ("qeq", bulk), ("fixed_point", slab)]


@pytest.mark.parametrize(("family", "system"), CASES)
def test_coupling_is_that_of_all_charges_together(family, system):
    atoms = system()
    calc, _ = embedded(family, atoms)
    energy, state = atoms.get_potential_energy(), calc.state
    assert abs(state["energy_external_charges"]) > 0.01
    p, sigma, x = state["multipoles"], state["sigma"], places(atoms)
    q, widths = np.zeros((4, p.shape[1])), np.full(4, WIDTH)
    q[:, 0] = CHARGES
    both = coulomb(atoms, np.r_[atoms.positions, x], np.r_[p, q], np.r_[sigma, widths])
    expected = both - coulomb(atoms, atoms.positions, p, sigma) - coulomb(atoms, x, q, widths)
    assert state["energy_external_charges"] == pytest.approx(expected, abs=1e-9)
    parts = ("short_range", "electrostatic", "field", "density", "external_charges")
    assert energy == pytest.approx(sum(state.get(f"energy_{part}", 0.0) for part in parts), abs=1e-9)
    assert calc.results["energies"].sum() == pytest.approx(energy, abs=1e-9)


@pytest.mark.parametrize(("family", "system"), CASES)
def test_forces_and_stress_are_derivatives(family, system):
    atoms = system()
    calc, charges = embedded(family, atoms)
    start, x, cell = atoms.positions.copy(), places(atoms), atoms.cell.array.copy()
    generator = np.random.default_rng(1)
    step, step_of_charges = generator.normal(size=start.shape), generator.normal(size=x.shape)
    forces, forces_on_charges = atoms.get_forces(), charges.get_forces(calc)
    assert np.abs(forces_on_charges).max() > 0.005

    def energy(h: float, along: float, along_charges: float, strain: np.ndarray | float = 0.0) -> float:
        deformed = np.eye(3) + h * strain
        atoms.set_cell(cell @ deformed)
        atoms.positions = (start + h * along * step) @ deformed
        charges.set_positions((x + h * along_charges * step_of_charges) @ deformed)
        return atoms.get_potential_energy()

    def slope(*direction) -> float:
        return (energy(1e-4, *direction) - energy(-1e-4, *direction)) / 2e-4

    assert slope(1.0, 0.0) == pytest.approx(-(forces * step).sum(), abs=1e-6)
    assert slope(0.0, 1.0) == pytest.approx(-(forces_on_charges * step_of_charges).sum(), abs=1e-6)
    if atoms.pbc.any():
        energy(0.0, 0.0, 0.0)
        strain = generator.normal(size=(3, 3))
        strain += strain.T
        expected = (atoms.get_stress(voigt=False) * strain).sum() * atoms.get_volume()
        assert slope(0.0, 0.0, strain) == pytest.approx(expected, abs=1e-5)


def test_a_distant_charge_has_the_classical_energy():
    atoms = molecule()
    atoms.info["total_charge"] = 1.0
    atoms.calc = Calculator(small_model("local_charges"))
    alone = atoms.get_potential_energy()
    p = atoms.calc.state["multipoles"]
    place = np.array([120.0, -70.0, 60.0])
    charges = atoms.calc.embed([-0.5], [place])
    away = place - atoms.positions
    distance = np.linalg.norm(away, axis=1)
    potential = p[:, 0] / distance + (p[:, [3, 1, 2]] * away).sum(axis=1) / distance**3
    expected = -0.5 * COULOMB_CONSTANT * potential.sum()
    assert abs(expected) > 0.04
    assert atoms.get_potential_energy() - alone == pytest.approx(expected, abs=1e-10)
    charges_forces = charges.get_forces(atoms.calc).sum(axis=0)
    np.testing.assert_allclose(atoms.get_forces().sum(axis=0), -charges_forces, atol=1e-10)
    atoms.calc.embed(np.full(200, -0.5 / 200), np.repeat([place], 200, axis=0))  # several copies of the atoms
    assert atoms.get_potential_energy() - alone == pytest.approx(expected, abs=1e-10)
    np.testing.assert_allclose(atoms.get_forces().sum(axis=0), -charges_forces, atol=1e-10)


@pytest.mark.parametrize("family", ["qeq", "energy_functional", "fixed_point"])
def test_two_large_charges_far_away_are_a_uniform_field(family):
    atoms, field, distance = molecule(), 0.1, 1e4
    atoms.calc = Calculator(small_model(family))
    alone, before = atoms.get_potential_energy(), atoms.get_charges()
    atoms.info["external_field"] = [0.0, 0.0, field]
    in_field, charges = atoms.get_potential_energy(), atoms.get_charges()
    atoms.info = {}
    strength = field * distance**2 / (2.0 * COULOMB_CONSTANT)
    atoms.calc.embed([strength, -strength], [[0.0, 0.0, -distance], [0.0, 0.0, distance]])
    assert abs(in_field - alone) > 1e-3
    assert np.abs(charges - before).max() > 1e-4
    assert atoms.get_potential_energy() == pytest.approx(in_field, abs=1e-6)
    np.testing.assert_allclose(atoms.get_charges(), charges, atol=1e-6)


def test_charges_of_a_batch_act_on_their_own_system():
    model, systems = small_model("qeq"), [molecule(), bulk()]
    graphs = [Graph.from_atoms(atoms, model.cutoff, labels=False) for atoms in systems]
    x = [torch.tensor(places(atoms)) for atoms in systems]
    q, of = torch.tensor(CHARGES), torch.zeros(4, dtype=torch.int64)
    single = [
        model(graph, external_charges=ExternalCharges(there, q, of))
        for graph, there in zip(graphs, x, strict=True)
    ]
    order = torch.tensor([4, 0, 5, 1, 6, 2, 7, 3])  # charges of systems may alternate
    with pytest.raises(InputError, match="from 0 to 1, but the graph has 1"):
        model(graphs[0], external_charges=ExternalCharges(x[0], q, of + torch.tensor([0, 1, 0, 0])))
    both = ExternalCharges(torch.cat(x)[order], q.repeat(2)[order], torch.cat([of, of + 1])[order])
    found = model(Graph.collate(graphs), external_charges=both)
    for name in ("energy", "forces", "energy_external_charges"):
        expected = torch.cat([output[name] for output in single])
        torch.testing.assert_close(found[name], expected, atol=1e-8, rtol=0.0)
    expected = torch.cat([output["external_charges_forces"] for output in single])[order]
    torch.testing.assert_close(found["external_charges_forces"], expected, atol=1e-8, rtol=0.0)


def test_potentials_and_losses_of_forces_contain_the_charges():
    model, atoms = small_model("local_charges"), molecule()
    graph = Graph.from_atoms(atoms, model.cutoff, labels=False)
    with pytest.raises(InputError, match=r"charges of external charges is torch\.float32"):
        ExternalCharges(torch.zeros(1, 3).double(), torch.ones(1), torch.zeros(1, dtype=torch.int64))
    outside = ExternalCharges(
        torch.tensor([[0.0, 0.0, 50.0]]).double(), torch.ones(1).double(), torch.zeros(1, dtype=torch.int64)
    )
    alone = model(graph, properties=["potentials"])["potentials"]
    output = model(graph, training=True, properties=["potentials"], external_charges=outside)
    distances = np.linalg.norm(atoms.positions - [0.0, 0.0, 50.0], axis=1)
    change = (output["potentials"] - alone).detach().numpy()
    np.testing.assert_allclose(change, COULOMB_CONSTANT / distances, atol=1e-10)
    (gradient,) = torch.autograd.grad(
        output["external_charges_forces"].square().sum(), model.readout.parameters(), allow_unused=True
    )[:1]
    assert gradient.abs().max() > 0.0


def test_eiqmmm_of_ase():
    atoms = built("H2O")
    for place in ((2.9, 0.3, 0.2), (-1.0, 3.0, 0.6)):
        other = built("H2O")
        other.rotate(50.0, (1.0, 2.0, 0.5))
        other.translate(place)
        atoms += other
    interaction = LJInteractions({("O", "O"): (epsilon0, sigma0)})
    calc = Calculator(small_model("qeq"))
    atoms.calc = EIQMMM([0, 1, 2], calc, TIP3P(rc=np.inf), interaction)
    forces, start = atoms.get_forces(), atoms.positions.copy()
    assert abs(calc.state["energy_external_charges"]) > 0.01
    np.testing.assert_allclose(forces.sum(axis=0), 0.0, atol=1e-8)
    step = np.random.default_rng(2).normal(size=start.shape)
    energies = []
    for h in (1e-4, -1e-4):
        atoms.positions = start + h * step
        energies.append(atoms.get_potential_energy())
    assert (energies[0] - energies[1]) / 2e-4 == pytest.approx(-(forces * step).sum(), abs=1e-5)


def test_only_a_move_calculates_anew():
    atoms = molecule()
    calc, charges = embedded("local_charges", atoms)
    first = atoms.get_potential_energy()
    charges.set_positions(places(atoms))
    assert not calc.calculation_required(atoms, ["energy"])
    charges.set_positions(places(atoms) + 0.1)
    assert atoms.get_potential_energy() != first
    charges.set_charges(0.0 * CHARGES)
    atoms.calc = Calculator(small_model("local_charges"))
    alone = atoms.get_potential_energy()
    assert calc.get_property("energy") == pytest.approx(alone, abs=1e-12)


@pytest.mark.parametrize("family", ["mace", "latent_ewald"])
def test_families_without_a_density_for_charges_refuse(family):
    with pytest.raises(InputError, match=f"{family}.*mechanical embedding"):
        Calculator(small_model(family)).embed(CHARGES)


def test_bad_charges_are_refused():
    atoms = molecule()
    atoms.calc = Calculator(small_model("local_charges"))
    charges = atoms.calc.embed(CHARGES)
    with pytest.raises(InputError, match="set_positions"):
        atoms.get_potential_energy()
    with pytest.raises(InputError, match="charges has dtype <U1; give real numbers"):
        atoms.calc.embed(["a"])
    with pytest.raises(InputError, match="width has dtype <U4; give real numbers"):
        atoms.calc.embed([1.0], width="wide")
    with pytest.raises(InputError, match=r"mmpositions\[0, 1\] is nan"):
        charges.set_positions([[0.0, np.nan, 0.0]])
    charges.set_positions(np.zeros((3, 3)))
    with pytest.raises(InputError, match=r"shape \[4\]; expected \[3\]"):
        atoms.get_potential_energy()
    charges.set_positions(np.zeros(3))
    with pytest.raises(InputError, match=r"positions of external charges has shape \[3\]"):
        atoms.get_potential_energy()
    atoms.calc.embed(CHARGES, places(atoms), width=0.0)
    with pytest.raises(InputError, match=r"width .* is 0\.0; give a positive"):
        atoms.get_potential_energy()
