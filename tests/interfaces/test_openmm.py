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
from hosts import tiny_model
from model_cases import bulk, molecule, slab

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
