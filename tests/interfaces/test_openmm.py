"""The OpenMM interface in OpenMM itself: steps against ASE, boundaries, conditions, mixed systems, errors."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("mace")
pytest.importorskip("openmm", reason="the extra electret[openmm] is not installed")
pytest.importorskip("openmmml", reason="the extra electret[openmm] is not installed")
import openmm
from ase import Atoms, units
from ase.md.verlet import VelocityVerlet
from openmm import app
from openmmml import MLPotential

from electret import Calculator, InputError
from electret.models import build
from hosts import tiny_model
from model_cases import STATISTICS, bulk, model_config, molecule, slab

KJ = units.kJ / units.mol


def topology_of(atoms: Atoms) -> app.Topology:
    topology = app.Topology()
    residue = topology.addResidue("SYS", topology.addChain())
    for symbol in atoms.symbols:
        topology.addAtom(symbol, app.Element.getBySymbol(symbol), residue)
    if atoms.cell.rank == 3:
        topology.setPeriodicBoxVectors(atoms.cell.array / 10.0 * openmm.unit.nanometer)
    return topology


def reduced(atoms: Atoms) -> Atoms:
    """The atoms in a box as OpenMM wants it."""
    found = atoms.copy()
    rotation, lower = np.linalg.qr(atoms.cell.array.T)
    signs = np.sign(np.diag(lower))
    found.cell, found.positions = (lower.T * signs), atoms.positions @ (rotation * signs)
    cell = found.cell.array.copy()
    cell[2] -= cell[1] * np.round(cell[2, 1] / cell[1, 1])
    cell[2] -= cell[0] * np.round(cell[2, 0] / cell[0, 0])
    cell[1] -= cell[0] * np.round(cell[1, 0] / cell[0, 0])
    found.cell = cell
    return found


def velocity_verlet(step: float) -> openmm.CustomIntegrator:
    integrator = openmm.CustomIntegrator(step)
    integrator.addUpdateContextState()
    integrator.addComputePerDof("v", "v+0.5*dt*f/m")
    integrator.addComputePerDof("x", "x+dt*v")
    integrator.addComputePerDof("v", "v+0.5*dt*f/m")
    return integrator


def context_of(system: openmm.System, atoms: Atoms, step: float = 5e-4) -> openmm.Context:
    context = openmm.Context(system, velocity_verlet(step), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(atoms.positions / 10.0)
    return context


def energy(context: openmm.Context) -> float:
    state = context.getState(energy=True)
    return state.getPotentialEnergy().value_in_unit(openmm.unit.kilojoule_per_mole) * KJ


def forces(context: openmm.Context) -> np.ndarray:
    found = context.getState(forces=True).getForces(asNumpy=True)
    return found.value_in_unit(openmm.unit.kilojoule_per_mole / openmm.unit.nanometer) * KJ / units.nm


@pytest.mark.parametrize("system", [reduced(bulk()), molecule()], ids=["periodic", "open"])
def test_dynamics_is_that_of_ase(system):
    atoms = system.copy()
    atoms.set_velocities(np.random.default_rng(0).normal(0.0, 0.02, (len(atoms), 3)))
    potential = MLPotential("electret", model_path=tiny_model("local_charges"))
    context = context_of(potential.createSystem(topology_of(atoms), removeCMMotion=False), atoms)
    velocities = atoms.get_velocities()
    context.setVelocities(velocities * 1e3 * units.fs / 10.0)
    scale = KJ / (units.nm / (1e3 * units.fs)) ** 2  # of the masses: OpenMM's units differ by rounding
    masses = [context.getSystem().getParticleMass(index)._value for index in range(len(atoms))]
    atoms.set_masses(np.array(masses) * scale)
    atoms.set_velocities(velocities)
    atoms.calc = Calculator(tiny_model("local_charges"))
    dynamics = VelocityVerlet(atoms, 0.5 * units.fs)
    for _ in range(50):
        assert energy(context) == pytest.approx(atoms.get_potential_energy(), abs=1e-8)
        context.getIntegrator().step(1)
        dynamics.run(1)
    positions = context.getState(positions=True).getPositions(asNumpy=True) / openmm.unit.angstrom
    np.testing.assert_allclose(positions, atoms.positions, atol=1e-8)
    np.testing.assert_allclose(forces(context), atoms.get_forces(), atol=1e-8)


def test_conditions_are_parameters_of_the_context():
    atoms = reduced(slab())
    potential = MLPotential("electret", model_path=tiny_model("qeq"))
    conditions = {"total_charge": 0.5, "external_field": [0.0, 0.0, 0.1]}
    context = context_of(
        potential.createSystem(topology_of(atoms), pbc=[True, True, False], **conditions), atoms
    )
    atoms.calc = Calculator(tiny_model("qeq"))
    atoms.info = dict(conditions)
    assert energy(context) == pytest.approx(atoms.get_potential_energy(), abs=1e-8)
    context.setParameter("total_charge", -0.25)
    context.setParameter("external_field_z", 0.0)
    atoms.info = {"total_charge": -0.25}
    assert energy(context) == pytest.approx(atoms.get_potential_energy(), abs=1e-8)


def test_a_mixed_system_has_the_model_on_its_atoms():
    atoms = molecule()
    topology = topology_of(atoms)
    classical = openmm.System()
    for atom in topology.atoms():
        classical.addParticle(atom.element.mass)
    pairs = openmm.NonbondedForce()
    for charge in (-0.8, 0.4, 0.4, 1.0):
        pairs.addParticle(charge, 0.2, 0.1)
    classical.addForce(pairs)
    potential = MLPotential("electret", model_path=tiny_model("local_charges"))
    context = context_of(potential.createMixedSystem(topology, classical, [0, 1, 2]), atoms)
    whole = context_of(classical, atoms)
    inner = openmm.System()
    for index in range(3):
        inner.addParticle(classical.getParticleMass(index))
    inside = openmm.NonbondedForce()
    for index in range(3):
        inside.addParticle(*pairs.getParticleParameters(index))
    inner.addForce(inside)
    water = atoms[:3]
    water.calc = Calculator(tiny_model("local_charges"))
    expected = energy(whole) - energy(context_of(inner, water)) + water.get_potential_energy()
    assert energy(context) == pytest.approx(expected, abs=1e-6)


CLASSICAL = (0.7, -0.3, -0.3, 0.5)
"""Charges of the classical atoms; not neutral, so that the background counts."""


def water_among_charges(box: float | None) -> Atoms:
    """A water and four classical atoms, with a box or open."""
    positions = np.array([[4.0, 0.0, 0.5], [4.6, 3.4, 0.0], [-3.0, 3.0, 1.0], [0.5, -4.0, -3.0]])
    atoms = molecule()[:3] + Atoms("NaHHNa", positions)
    if box is not None:
        atoms.cell, atoms.pbc = np.eye(3) * box, True
    return atoms


def classical_system(atoms: Atoms, charges: tuple[float, ...]) -> openmm.System:
    """Charges, and Lennard-Jones of a water with the others."""
    system, force = openmm.System(), openmm.NonbondedForce()
    if atoms.pbc.any():
        system.setDefaultPeriodicBoxVectors(*atoms.cell.array / 10.0)
        force.setNonbondedMethod(force.PME)
        force.setCutoffDistance(0.6)
        force.setEwaldErrorTolerance(1e-6)
    force.setUseDispersionCorrection(False)
    for index, charge in enumerate(charges):
        system.addParticle(16.0)
        force.addParticle(charge, 0.3, 0.5 if index < 3 else 0.1)
    for pair in ((0, 1), (0, 2), (1, 2)):
        force.addException(*pair, charges[pair[0]] * charges[pair[1]], 0.3, 0.0)
    system.addForce(force)
    return system


@pytest.mark.parametrize("box", [14.0, None], ids=["PME", "open"])
def test_electrostatic_embedding_of_fixed_charges_is_the_classical_force_field(box):
    atoms, water = water_among_charges(box), (-0.7, 0.35, 0.35)
    options = {"electrostatics": {"max_l": 0, "sigma": 0.1, "accuracy": 1e-10}}
    model = build(model_config("fixed_charges", **options), STATISTICS)  # has the charges of `water`
    potential = MLPotential("electret", model_path=model)
    classical = classical_system(atoms, water + CLASSICAL)
    options = {"embedding": "electrostatic", "width": 0.1}
    mixed = potential.createMixedSystem(topology_of(atoms), classical, [0, 1, 2], **options, interpolate=True)
    context, whole = context_of(mixed, atoms), energy(context_of(classical, atoms))
    inside = energy(context_of(classical_system(atoms, (*water, 0.0, 0.0, 0.0, 0.0)), atoms))
    empty = energy(context_of(classical_system(atoms, (0.0,) * 7), atoms))
    alone = atoms[:3]
    alone.calc = Calculator(model)
    expected = whole - (inside - empty) + alone.get_potential_energy()
    assert abs(whole - inside) > 0.1
    assert energy(context) == pytest.approx(expected, abs=1e-7)
    context.setParameter("lambda_interpolate", 0.0)
    assert energy(context) == pytest.approx(whole, abs=1e-9)


def test_electrostatic_embedding_is_that_of_ase_and_has_its_forces():
    atoms = water_among_charges(13.0)
    potential = MLPotential("electret", model_path=tiny_model("qeq"))
    classical = classical_system(atoms, (-0.8, 0.4, 0.4, *CLASSICAL))
    mixed = potential.createMixedSystem(
        topology_of(atoms), classical, [2, 0, 1], embedding="electrostatic", total_charge=0.2
    )
    context = context_of(mixed, atoms)
    rest = context_of(classical_system(atoms, (0.0, 0.0, 0.0, *CLASSICAL)), atoms)
    water = atoms[:3]
    water.info["total_charge"] = 0.2
    water.calc = Calculator(tiny_model("qeq"))
    charges = water.calc.embed(CLASSICAL, atoms.positions[3:])
    assert energy(context) == pytest.approx(water.get_potential_energy() + energy(rest), abs=1e-8)
    assert abs(water.calc.state["energy_external_charges"]) > 0.01
    expected = np.concatenate([water.get_forces(), charges.get_forces(water.calc)]) + forces(rest)
    np.testing.assert_allclose(forces(context), expected, atol=1e-8)
    step = np.random.default_rng(3).normal(size=(7, 3))
    energies = []
    for h in (1e-4, -1e-4):
        context.setPositions((atoms.positions + h * step) / 10.0)
        energies.append(energy(context))
    assert (energies[0] - energies[1]) / 2e-4 == pytest.approx(-(expected * step).sum(), abs=2e-4)


def test_electrostatic_embedding_refuses_what_it_would_get_wrong():
    atoms = water_among_charges(14.0)
    topology, charges = topology_of(atoms), (-0.8, 0.4, 0.4, *CLASSICAL)
    potential = MLPotential("electret", model_path=tiny_model("local_charges"))

    def refused(message, change=lambda *_: None, atoms_of_model=(0, 1, 2), by=potential, **options):
        system = classical_system(atoms, charges)
        change(system, system.getForce(0))
        with pytest.raises(InputError, match=message):
            by.createMixedSystem(topology, system, atoms_of_model, embedding="electrostatic", **options)

    refused("2 and 0 are bonded|0 and 2 are bonded", atoms_of_model=(0, 1))
    refused("use PME", lambda system, force: force.setNonbondedMethod(force.CutoffPeriodic))
    refused("GBSAOBCForce", lambda system, force: system.addForce(openmm.GBSAOBCForce()))
    refused("has 0 NonbondedForce", lambda system, force: system.removeForce(0))
    refused("leave pbc out", pbc=[True, True, False])
    refused("mace", by=MLPotential("electret", model_path=tiny_model("mace")))
    with pytest.raises(InputError, match=r"width = 0\.3"):
        potential.createSystem(topology, width=0.3)


def test_a_system_is_written_and_read():
    atoms = molecule()
    system = MLPotential("electret", model_path=tiny_model("mace")).createSystem(topology_of(atoms))
    again = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(system))
    assert energy(context_of(again, atoms)) == pytest.approx(energy(context_of(system, atoms)), abs=1e-8)


def test_errors_reach_the_caller():
    atoms = molecule()
    with pytest.raises(InputError, match="model_path"):
        MLPotential("electret")
    potential = MLPotential("electret", model_path=tiny_model("local_charges"))
    with pytest.raises(InputError, match="charge_total"):
        potential.createSystem(topology_of(atoms), charge_total=1.0)
    with pytest.raises(InputError, match="three numbers"):
        potential.createSystem(topology_of(atoms), external_field=1.0)
    with pytest.raises(InputError, match="no periodic box"):
        potential.createSystem(topology_of(atoms), pbc=True)
    context = context_of(potential.createSystem(topology_of(atoms), fermi_level=-4.0), atoms)
    with pytest.raises(Exception, match="fermi_level"):
        context.getIntegrator().step(1)
