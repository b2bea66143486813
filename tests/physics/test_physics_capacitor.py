"""Two electrodes at a potential difference, against the parallel-plate capacitor in closed form."""

import copy
import math
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("mace")
from ase import Atoms, units  # noqa: E402

import electret  # noqa: E402
from electret import Calculator, InputError  # noqa: E402
from electret.calculator import SumCalculator  # noqa: E402
from electret.dynamics import ConstantFermiLevel  # noqa: E402
from electret.models import build  # noqa: E402
from electret.testing import check_forces, check_stress  # noqa: E402
from electret.units import COULOMB_CONSTANT as K  # noqa: E402
from model_cases import STATISTICS, bulk, in_field, model_config, molecule, small_model  # noqa: E402

SIDE, GAP, HEIGHT, SIGMA = 1.0, 12.0, 24.0, 0.8
"""Lattice constant of the plates, their distance, the height of the cell, Å. In-plane waves of the density
have the weight exp(-(2 pi SIGMA / SIDE)²) = 1e-11, overlap of the plates erfc(GAP / 2 SIGMA) < 1e-20."""

SLAB, CRYSTAL = (True, True, False), (True, True, True)


def plates(pbc: tuple[bool, ...]) -> Atoms:
    """Two square lattices with one atom per cell."""
    cell = [SIDE, SIDE, HEIGHT]
    return Atoms("HH", [[0.0, 0.0, -GAP / 2], [0.3, 0.1, GAP / 2]], cell=cell, pbc=pbc)


def elastance(hardness: float, pbc: tuple[bool, ...]) -> float:
    """Potential difference of the plates per charge of an atom, V/e.

    A sheet of Gaussians has the potential -2 pi K g(z) per charge and area, smeared by another Gaussian, with
    g(0) = 2 sigma / sqrt(pi) and g = z without overlap; the images of the cell add -z² / height to g. So
    phi(upper) - phi(lower) = 2 q [2 pi K (g(GAP) - g(0)) / area + hardness].
    """
    distance = GAP * (1 - GAP / HEIGHT) if pbc[2] else GAP
    return 4 * math.pi * K * (distance - 2 * SIGMA / math.sqrt(math.pi)) / SIDE**2 + 2 * hardness


def equilibrated(
    hardness: float, pbc: tuple[bool, ...], field: float, applied: float
) -> tuple[float, list[float]]:
    """Charge of the upper plate, and the field in the middle between the plates and outside of them."""
    atoms = plates(pbc)
    place = {"cell": atoms.cell.array, "pbc": pbc, "external_field": [0, 0, field], "accuracy": 1e-12}
    # the energy -U q is an electronegativity
    q = electret.charge_equilibration(atoms.positions, [0.4, 0.4 - applied], hardness, SIGMA, **place).charges
    assert q[0] == pytest.approx(-q[1], abs=1e-12)
    points = [[0, 0, z] for z in (-0.25, 0.25, HEIGHT / 2 - 0.25, HEIGHT / 2 + 0.25)]
    potential = electret.potential(points, atoms.positions, q[:, None], SIGMA, **place)
    return q[1], list((potential[[0, 2]] - potential[[1, 3]]) / 0.5)


@pytest.mark.parametrize("pbc", [SLAB, CRYSTAL])
def test_plates_are_a_capacitor(pbc):
    """External: C = A / (4 pi K d), where the hardness cancels the width of the Gaussians. At one Fermi level
    in a field there is none between the plates, and F height drops outside of them in a cell, whose plates
    are one electrode in unwrapped positions; plates at two potentials have their difference between them."""
    field, applied = 0.7, 1.1
    ideal = 4 * math.sqrt(math.pi) * K * SIGMA / SIDE**2
    density = SIDE**2 / (4 * math.pi * K)  # e per V/Å
    charge, fields = equilibrated(ideal, pbc, field, 0.0)
    drop = field * HEIGHT / (HEIGHT - GAP) if pbc[2] else field
    assert charge == pytest.approx(density * drop, rel=1e-8)
    assert fields == pytest.approx([0.0, drop], abs=1e-7)
    charge, fields = equilibrated(ideal, pbc, 0.0, applied)
    outside = applied / (HEIGHT - GAP) if pbc[2] else 0.0
    assert charge == pytest.approx(density * (applied / GAP + outside), rel=1e-8)
    assert fields == pytest.approx([-applied / GAP, outside], abs=1e-7)
    for values in ((field, 0.0), (0.0, applied), (field, applied)):
        charge, _ = equilibrated(1.3 * ideal, pbc, *values)
        assert charge == pytest.approx((values[0] * GAP + values[1]) / elastance(1.3 * ideal, pbc), rel=1e-8)


def test_a_plane_of_counter_charge_is_a_field():
    """A plane of charge -Q above a slab acts as F = 2 pi K Q / A and the energy 2 pi K Q² z / A; the Fermi
    level against the vacuum above it is -dE/dQ of the whole."""
    atoms, height, charge = plates(SLAB), 21.0, 0.3
    place = {"cell": atoms.cell.array, "pbc": SLAB, "accuracy": 1e-12}
    factor = 2 * math.pi * K / SIDE**2

    def whole(charge: float) -> tuple[float, float]:
        """Energy and Fermi level."""
        field = [0, 0, factor * charge]
        r = electret.charge_equilibration(
            atoms.positions, [0.4, 0.9], 70.0, SIGMA, charge, external_field=field, **place
        )
        positions = np.vstack([atoms.positions, [0.2, 0.7, height]])
        charges = np.append(r.charges, -charge)[:, None]
        found = electret.coulomb(positions, charges, SIGMA, **place).energy[0]
        own = -factor * charge**2 * SIGMA / math.sqrt(math.pi)  # of the plane's Gaussians, which have a width
        local = np.array([0.4, 0.9]) @ r.charges + 35.0 * r.charges @ r.charges
        assert r.energy[0] + factor * charge**2 * height == pytest.approx(found - own + local, abs=1e-7)
        level = r.fermi_level[0] + factor * (r.dipole[0, 2] - 2 * charge * height)
        return found - own + local, level

    slope = (whole(charge + 0.01)[0] - whole(charge - 0.01)[0]) / 0.02  # quadratic in the charge
    assert whole(charge)[1] == pytest.approx(-slope, abs=1e-5)
    assert abs(slope) > 10.0


@pytest.fixture(scope="module")
def conductor():
    """A model of charges alone, whose hardness at the plates comes from the layers of its network."""
    electrostatics = {"max_l": 0, "sigma": SIGMA, "accuracy": 1e-12}
    return build(model_config("qeq", electrostatics=electrostatics), STATISTICS, seed=1)


def test_models_charge_the_plates(conductor):
    """Closed form with the hardness of the model, which the capacitance of both plates together gives:
    1 / C = (hardness - 2 pi K (g(0) + g(GAP)) / area) / 2."""
    calc = Calculator(conductor, periodic_field="unwrapped")
    together = calc.response(plates(SLAB), ["capacitance"])["capacitance"]
    hardness = 2 / together + 2 * math.pi * K / SIDE**2 * (GAP + 2 * SIGMA / math.sqrt(math.pi))
    assert hardness > 1.0
    for pbc, applied, field in ((SLAB, 1.2, 0.0), (SLAB, 0.0, 0.3), (CRYSTAL, 1.2, 0.0), (CRYSTAL, 0.5, 0.3)):
        atoms = plates(pbc)
        atoms.calc = calc
        rest = atoms.get_potential_energy()
        atoms.info["external_field"] = [0.0, 0.0, field]
        atoms.arrays["applied_potential"] = np.array([0.1, 0.1 + applied])
        expected = (applied + field * GAP) / elastance(hardness, pbc)
        np.testing.assert_allclose(atoms.get_charges(), [-expected, expected], rtol=1e-8)
        level = calc.state["fermi_level"]
        # half of the work of the sources is stored
        change = -0.5 * expected * (applied + field * GAP)
        assert atoms.get_potential_energy() - rest == pytest.approx(change, rel=1e-7)
        assert atoms.get_potential_energies().sum() == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
        atoms.arrays["applied_potential"] += 0.2  # of both
        np.testing.assert_allclose(atoms.get_charges(), [-expected, expected], rtol=1e-8)
        assert calc.state["fermi_level"] == pytest.approx(level + 0.2, abs=1e-9)
        found = electret.evaluate(conductor, [atoms, plates(SLAB)], "charges", periodic_field="unwrapped")
        np.testing.assert_allclose(found["charges"], [[-expected, expected], [0, 0]], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("family", ["local_charges", "qeq", "fixed_point"])
def test_forces_and_stress_are_derivatives(family):
    model = copy.deepcopy(small_model(family))
    model.unwrapped_field = True
    atoms = in_field(bulk())
    atoms.positions[1] += atoms.cell[0] - atoms.cell[2]
    if family != "local_charges":
        atoms.arrays["applied_potential"] = np.linspace(-0.6, 0.6, len(atoms))
        atoms.info["fermi_level"] = atoms.info.pop("total_charge") + 0.3
    check_forces(model, atoms)
    check_stress(model, atoms)


def test_energy_of_an_atom_in_another_cell():
    """-q F·a for a cell vector a, and nothing for a neutral molecule; forces are the same."""
    calc = Calculator(small_model("fixed_charges"), periodic_field="unwrapped")
    water = molecule()[:3]
    water.set_cell([9.0, 8.0, 10.0])
    water.pbc = True
    water.info["external_field"] = [0.05, -0.11, 0.08]
    water.calc = calc
    energy, forces, charges = water.get_potential_energy(), water.get_forces(), water.get_charges()
    assert abs(charges.sum()) < 1e-12 < abs(charges[0])
    work = 0.08 * 10.0
    for atoms, expected in (([0], -charges[0] * work), ([0, 1, 2], 0.0)):
        moved = water.copy()
        moved.calc = calc
        moved.positions[atoms] += moved.cell[2]
        assert moved.get_potential_energy() - energy == pytest.approx(expected, abs=1e-9)
        np.testing.assert_allclose(moved.get_forces(), forces, atol=1e-8)


def test_dynamics_of_two_electrodes_at_a_fermi_level(tmp_path):
    """The charge of a crystal moves, in a field along its periodic axes and at two potentials; energy is
    conserved, and a restart continues the run."""
    calc = Calculator(small_model("qeq"), periodic_field="unwrapped")

    def run(steps: int, restart: bool) -> ConstantFermiLevel:
        atoms = in_field(bulk())
        atoms.arrays["applied_potential"] = np.array([0.0, 0.0, 0.0, 0.8, 0.8])
        atoms.calc = calc
        calc.reset()
        level = -calc.charge_derivative(atoms) - 0.2
        options = {"temperature_K": 300, "friction": 0.01, "charge_friction": 0.01, "charge_log": log}
        dynamics = ConstantFermiLevel(atoms, 0.2 * units.fs, level, restart=file, **options)
        if restart:
            dynamics.read_restart(file)
        start = dynamics.conserved_energy, dynamics.charge
        dynamics.run(steps)
        assert abs(dynamics.conserved_energy - start[0]) < 1e-2 * abs(dynamics.charge - start[1])
        return dynamics

    file, log = tmp_path / "run.json", tmp_path / "charge.csv"
    whole = run(6, False)
    run(3, False)
    parts = run(3, True)
    assert parts.charge == pytest.approx(whole.charge, abs=1e-9)
    np.testing.assert_allclose(parts.atoms.positions, whole.atoms.positions, atol=1e-9)
    assert len(log.read_text().splitlines()) == 8


def test_requests_that_mean_nothing_are_refused():
    calc = Calculator(small_model("qeq"), periodic_field="unwrapped")
    assert pickle.loads(pickle.dumps(calc.model)).unwrapped_field
    with pytest.raises(InputError, match="periodic_field = 'wrapped'; use"):
        Calculator(small_model("qeq"), periodic_field="wrapped")
    atoms = molecule()
    for values, family, message in (
        (np.ones(4), "local_charges", "do not respond to it"),
        (np.ones((4, 2)), "qeq", r"shape \[4, 2\]; give one number \(V\) per atom"),
        (np.array([0, 0, np.nan, 0]), "qeq", r"\[2\] is nan"),
    ):
        atoms.arrays["applied_potential"] = values
        atoms.calc = Calculator(small_model(family))
        with pytest.raises(InputError, match=message):
            atoms.get_potential_energy()
    atoms = molecule()
    atoms.info["applied_potential"] = 1.0
    with pytest.raises(InputError, match=r"atoms.set_array\('applied_potential'"):
        calc.get_property("energy", atoms)


def test_a_change_of_potentials_is_seen_in_a_sum_and_ignored_on_request():
    model, atoms = small_model("qeq"), molecule()
    summed, ignoring = SumCalculator([Calculator(model)]), Calculator(model, ignore="applied_potential")
    rest = summed.get_property("energy", atoms)
    atoms.arrays["applied_potential"] = np.arange(len(atoms)) / 10
    assert summed.get_property("energy", atoms) == Calculator(model).get_property("energy", atoms) != rest
    assert ignoring.get_property("energy", atoms) == rest
    assert electret.evaluate(model, [atoms], "energy", ignore="applied_potential")["energy"] == [rest]
