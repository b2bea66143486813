"""The calculator of self-consistent models: charge control, warm start, failure, responses, extrapolation.

Checked on a toy whose solution follows from linear algebra; the families are in
`test_calculator_families.py`.
"""

import copy
import itertools
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("mace")
from ase import Atoms, units  # noqa: E402
from ase.build import molecule  # noqa: E402
from ase.calculators.calculator import PropertyNotImplementedError  # noqa: E402
from ase.calculators.lj import LennardJones  # noqa: E402
from ase.calculators.mixing import SumCalculator as ASESumCalculator  # noqa: E402
from ase.constraints import FixAtoms  # noqa: E402
from ase.io import read, write  # noqa: E402
from ase.md.verlet import VelocityVerlet  # noqa: E402
from ase.mep import NEB  # noqa: E402
from ase.optimize import FIRE  # noqa: E402

import electret.calculator.model  # noqa: E402
from electret import Calculator, ConvergenceError, InputError  # noqa: E402
from electret.calculator import ExtrapolationWarning, SumCalculator  # noqa: E402
from electret.models import ModelConfig, Statistics, build  # noqa: E402
from toy_qeq import ToyQeq  # noqa: E402


@pytest.fixture
def water() -> Atoms:
    atoms = molecule("H2O")
    atoms.rattle(0.05, seed=1)
    return atoms


def calculator(atoms: Atoms, **options: object) -> Calculator:
    atoms.calc = Calculator(ToyQeq(), **options)
    return atoms.calc


def test_constant_charge(water: Atoms) -> None:
    calc = calculator(water)
    energies = {}
    for charge in (-1.0, 0.0, 1.0):
        water.info["total_charge"] = charge
        energies[charge] = water.get_potential_energy()
        assert water.get_potential_energy(force_consistent=True) == energies[charge]
        assert water.get_charges().sum() == pytest.approx(charge, abs=1e-8)
        assert calc.state["total_charge"] == pytest.approx(charge, abs=1e-8)
    # The toy is quadratic in its charge, so that the central difference is the derivative.
    slope = (energies[1.0] - energies[-1.0]) / 2
    water.info["total_charge"] = 0.0
    water.get_potential_energy()
    assert abs(slope) > 0.05
    assert calc.state["fermi_level"] == pytest.approx(-slope, abs=1e-7)
    assert calc.state["energy_charge_derivative"] == pytest.approx(slope, abs=1e-7)
    assert calc.charge_derivative(water) == pytest.approx(slope, abs=1e-7)


def test_constant_fermi_level_is_the_grand_ensemble(water: Atoms) -> None:
    calc = calculator(water)
    water.info["total_charge"] = 0.3
    at_charge, forces = water.get_potential_energy(), water.get_forces()
    level, dipole = calc.state["fermi_level"], water.get_dipole_moment()
    del water.info["total_charge"]
    water.info["fermi_level"] = level
    assert abs(level) > 0.1
    grand = water.get_potential_energy()
    assert grand == pytest.approx(at_charge + 0.3 * level, abs=1e-7)
    assert grand == calc.state["grand_potential"] == water.get_potential_energy(force_consistent=True)
    assert abs(grand - at_charge) > 0.01
    assert calc.state["internal_energy"] == pytest.approx(at_charge, abs=1e-7)
    assert calc.state["total_charge"] == pytest.approx(0.3, abs=1e-7)
    # At the same charge the two ensembles have the same forces and dipole ...
    np.testing.assert_allclose(water.get_forces(), forces, rtol=0, atol=1e-6)
    np.testing.assert_allclose(water.get_dipole_moment(), dipole, rtol=0, atol=1e-7)
    # ... and forces are the derivative of the grand potential, not of the internal energy.
    step, values = 1e-3, {}
    for sign in (1, -1):
        moved = water.copy()
        moved.positions[0, 2] += sign * step
        moved.calc = calc
        values[sign] = (moved.get_potential_energy(), calc.state["internal_energy"])
    grand, plain = ((values[1][k] - values[-1][k]) / (2 * step) for k in (0, 1))
    assert abs(grand - plain) > 1e-3
    assert water.get_forces()[0, 2] == pytest.approx(-grand, abs=1e-5)


def test_energy_without_the_reservoir(water: Atoms) -> None:
    """E under `energy` on request; the free energy stays the one that belongs to the forces."""
    calc = calculator(water, energy="internal")
    water.info["fermi_level"] = -1.0
    internal, grand = water.get_potential_energy(), water.get_potential_energy(force_consistent=True)
    assert internal == calc.state["internal_energy"]
    assert abs(calc.state["total_charge"]) > 0.01
    assert grand == pytest.approx(internal - calc.state["total_charge"], abs=1e-9)
    with pytest.raises(InputError, match=r"energy = 'free'.*'grand_potential'"):
        calculator(water, energy="free")


def test_sum_with_another_calculator_sees_conditions(water: Atoms) -> None:
    """ASE's sum compares atoms alone, unless it may not keep results."""
    alone = calculator(water)
    other = LennardJones()
    offset = other.get_potential_energy(water)
    sums = [SumCalculator([Calculator(ToyQeq()), other]), ASESumCalculator([Calculator(ToyQeq()), other])]
    sums[1].use_cache = False
    energies = []
    field = np.zeros(3)
    for info in (
        {"total_charge": 0.0},
        {"total_charge": 0.5},
        {"fermi_level": -1.0},
        {"external_field": field},
    ):
        water.info = info
        field[2] = 0.1  # in place
        energies.append(alone.get_property("energy", water))
        for wrapped in sums:
            assert wrapped.get_property("energy", water) == pytest.approx(energies[-1] + offset, abs=1e-7)
    field[2] = 0.2
    energies.append(alone.get_property("energy", water))
    assert sums[0].get_property("energy", water) == pytest.approx(energies[-1] + offset, abs=1e-7)
    assert np.diff(np.sort(energies)).min() > 1e-3
    calls = len(sums[0].mixer.calcs[0].model.calls)
    sums[0].get_property("energy", water)
    assert len(sums[0].mixer.calcs[0].model.calls) == calls


def test_virial_of_an_open_system_for_programs_that_insist(water: Atoms) -> None:
    """Over the volume of the cell, by finite differences; without one there is none."""
    calculator(water)
    with pytest.raises(PropertyNotImplementedError, match=r"open system.*open_stress='virial'"):
        water.get_stress()
    calculator(water, open_stress="virial")
    with pytest.raises(PropertyNotImplementedError, match="no volume"):
        water.get_stress()
    water.cell = [10.0, 11.0, 12.0]
    step, energies = 1e-4, []
    for sign in (1, -1):
        strained = water.copy()
        strained.set_cell(water.cell.array * (1 + sign * step * np.array([0, 0, 1])), scale_atoms=True)
        energies.append(water.calc.get_property("energy", strained))
    slope = (energies[0] - energies[1]) / (2 * step * water.get_volume())
    assert abs(slope) > 1e-4
    assert water.get_stress()[2] == pytest.approx(slope, rel=1e-4)
    with pytest.raises(InputError, match="open_stress = 'zero'"):
        calculator(water, open_stress="zero")


def test_nudged_elastic_band_at_constant_fermi_level() -> None:
    """The barrier is the integral of the forces along the band, with the charge of the reservoir in it."""
    first = Atoms("OH2", [[0, 0, 0.9], [0.8, 0, 0], [-0.8, 0, 0]])  # oxygen passes between the hydrogens
    last = first.copy()
    last.positions[0, 2] *= -1
    images = [first, *(first.copy() for _ in range(5)), last]
    for image in images:
        image.set_constraint(FixAtoms([1]))
        image.info["fermi_level"] = 3.0
        image.calc = Calculator(ToyQeq())
    band = NEB(images, method="improvedtangent")
    band.interpolate()
    FIRE(band, logfile=None).run(fmax=0.1, steps=60)
    barrier = max(image.get_potential_energy() for image in images) - first.get_potential_energy()
    work, nodes = 0.0, np.polynomial.legendre.leggauss(6)
    for start, end in itertools.pairwise(images[:4]):
        step = end.positions - start.positions
        for place, weight in zip(*nodes, strict=True):
            between = start.copy()
            between.positions += 0.5 * (1 + place) * step
            between.calc = start.calc
            work -= 0.5 * weight * np.sum(between.get_forces(apply_constraint=False) * step)
    internal = []
    for image in (first, images[3]):
        image.get_potential_energy()
        internal.append(image.calc.state["internal_energy"])
    assert barrier > 0.1
    assert barrier == pytest.approx(work, abs=1e-5)
    assert abs(internal[1] - internal[0] - barrier) > 0.01  # what the barrier would be of E alone


def test_charge_and_fermi_level_together_are_refused(water: Atoms) -> None:
    calculator(water)
    for name in ("total_charge", "charge"):
        water.info = {name: 0.0, "fermi_level": -1.0}
        with pytest.raises(InputError, match=rf"{name}.*fermi_level.*each fixes the other"):
            water.get_potential_energy()
    calculator(water, ignore=["fermi_level"])
    water.info = {"total_charge": 0.5, "fermi_level": -1.0}
    assert water.get_charges().sum() == pytest.approx(0.5, abs=1e-8)


def test_cache_sees_the_fermi_level(water: Atoms) -> None:
    calc = calculator(water)
    water.info["fermi_level"] = -1.0
    first = water.get_potential_energy()
    water.get_potential_energy(force_consistent=True)
    assert len(calc.model.calls) == 1
    water.info["fermi_level"] = -1.5
    assert abs(water.get_potential_energy() - first) > 1e-3
    assert len(calc.model.calls) == 2


def test_warm_start_saves_iterations_and_changes_nothing_else(water: Atoms) -> None:
    moved = water.copy()
    moved.positions[0, 0] += 0.01
    results = {}
    for warm in (True, False):
        calc = calculator(water, warm_start=warm, scf_tolerance=1e-9)
        water.get_forces()
        cold = calc.state["scf_iterations"]
        moved.calc = calc
        results[warm] = (moved.get_potential_energy(), moved.get_forces(), calc.state["scf_iterations"])
        assert (calc.model.calls[-1]["scf"].start is not None) == warm
    assert cold > 10
    assert results[True][2] < results[False][2] - 3
    assert results[True][0] == pytest.approx(results[False][0], abs=1e-8)
    np.testing.assert_allclose(results[True][1], results[False][1], rtol=0, atol=1e-7)


def test_warm_start_is_dropped_with_its_system(water: Atoms) -> None:
    calc = calculator(water)

    def warm(atoms: Atoms) -> bool:
        atoms.calc = calc
        atoms.get_potential_energy()
        return calc.model.calls[-1]["scf"].start is not None

    assert not warm(water)
    moved = water.copy()
    moved.positions[0, 0] += 0.1
    assert warm(moved)
    reordered = moved[[1, 0, 2]]
    assert not warm(reordered)
    periodic = reordered.copy()
    periodic.set_cell([8.0, 8.0, 8.0])
    periodic.pbc = True
    assert not warm(periodic)
    twin = copy.deepcopy(calc)
    calc.reset()
    assert not warm(periodic)
    calc = twin
    periodic.positions[0, 0] += 0.1
    assert warm(periodic)


def test_a_start_that_fails_is_given_up(water: Atoms) -> None:
    calc = calculator(water, scf_max_iterations=40, scf_tolerance=1e-10)
    water.get_potential_energy()
    needed = calc.state["scf_iterations"]
    # A density far away needs more than the toy's own start.
    calc._scf._density.multipoles.mul_(1e4)
    water.info["total_charge"] = 0.1
    assert water.get_charges().sum() == pytest.approx(0.1, abs=1e-8)
    starts = [call["scf"].start is not None for call in calc.model.calls]
    assert starts == [False, True, False]
    assert calc.state["scf_iterations"] <= needed + 2


def test_no_convergence_is_an_error_with_its_history(water: Atoms) -> None:
    calc = calculator(water, scf_max_iterations=5, scf_solver="mixing")
    with pytest.raises(ConvergenceError, match="scf_max_iterations") as caught:
        water.get_potential_energy()
    error = caught.value
    assert error.iterations == 5
    assert len(error.history) == 6
    assert error.history[0] > error.history[-1] > 1e-3
    assert "anderson" in str(error)
    assert not calc.results
    assert not calc.state
    with pytest.raises(ConvergenceError):  # nothing half-done is in the cache
        water.get_potential_energy()
    loose = calculator(water, scf_max_iterations=40, scf_tolerance=1e-6)
    water.get_potential_energy()
    history = loose.state["scf_history"]
    assert len(history) == loose.state["scf_iterations"] + 1
    assert history[-1] == loose.state["scf_residual"] <= 1e-6 < history[-2]
    assert loose.model.calls[0]["scf"].tolerance == 1e-6


def test_scf_options_of_an_explicit_density_are_refused() -> None:
    config = ModelConfig.parse({"family": "mace", "backbone": {"hidden_irreps": "2x0e + 2x1o", "max_ell": 1}})
    model = build(config, Statistics(elements=(1, 8), e0s={1: 0.0, 8: 0.0}, avg_num_neighbors=2.0))
    with pytest.raises(InputError, match=r"scf_tolerance = 0\.001"):
        Calculator(model, scf_tolerance=1e-3)
    with pytest.raises(InputError, match="tolerance"):
        Calculator(ToyQeq(), scf_tolerance=-1.0)


def test_responses_are_derivatives(water: Atoms) -> None:
    calc = calculator(water)
    found = calc.response(water)
    assert len(found) == len(calc.model.available_properties) == 8
    assert found["energy_charge_derivative"] == pytest.approx(-calc.state["fermi_level"], abs=1e-8)
    assert found["energy_charge_curvature"] == pytest.approx(1 / found["capacitance"], rel=1e-9)
    np.testing.assert_array_equal(found["fukui_multipoles"][:, 0], found["fukui"])
    step = 1e-2

    def at(**info: object) -> Calculator:
        moved = water.copy()
        moved.info = info
        moved.calc = calc
        moved.get_potential_energy()
        return calc

    plus, minus = ((at(total_charge=sign * step).results["charges"].copy()) for sign in (1, -1))
    fukui = (plus - minus) / (2 * step)
    assert np.abs(fukui).max() > 0.1
    np.testing.assert_allclose(found["fukui"], fukui, rtol=0, atol=1e-6)
    levels = [at(total_charge=sign * step).state["fermi_level"] for sign in (1, -1)]
    assert found["capacitance"] == pytest.approx(-2 * step / (levels[0] - levels[1]), rel=1e-5)
    field = [(at(external_field=[0, 0, sign * step]).results["dipole"]).copy() for sign in (1, -1)]
    column = (field[0] - field[1]) / (2 * step)
    assert np.abs(column).max() > 0.01
    np.testing.assert_allclose(found["polarizability"][:, 2], column, rtol=0, atol=1e-6)


def test_response_properties_are_calculated_when_asked_for(water: Atoms) -> None:
    calc = calculator(water)
    water.get_forces()
    assert "polarizability" not in calc.results
    assert calc.model.calls[-1]["properties"] == {"energies"}
    polarizability = calc.get_property("polarizability", water)
    assert polarizability.shape == (3, 3)
    assert np.abs(polarizability).max() > 0.01
    assert [call["forces"] for call in calc.model.calls] == [True, False]
    forces = water.get_forces()  # still there
    calc.get_property("polarizability", water)
    assert len(calc.model.calls) == 2
    born = calc.get_property("born_effective_charges", water)
    assert born.shape == (3, 3, 3)
    water.positions[0] += 0.1
    fresh = calc.get_property("polarizability", water)
    assert np.abs(fresh - polarizability).max() > 1e-4
    assert np.abs(water.get_forces() - forces).max() > 1e-3


def test_results_beyond_ase_break_nothing(water: Atoms, tmp_path) -> None:
    calc = calculator(water)
    energy = water.get_potential_energy()
    calc.get_property("polarizability", water)
    assert "polarizability" in calc.results
    exported = water.get_properties(["energy", "forces", "dipole"])
    assert exported["energy"] == energy
    for name in ("frame.traj", "frame.xyz", "frame.json"):
        write(tmp_path / name, water)
        assert read(tmp_path / name).get_potential_energy() == pytest.approx(energy, abs=1e-7)


def test_slabs_have_the_components_along_their_normal(water: Atoms) -> None:
    water.set_cell([[6.0, 0, 0], [1.0, 7.0, 0], [0, 0, 20.0]])
    water.pbc = (True, True, False)
    calc = calculator(water)
    for name in ("dipole", "polarizability", "born_effective_charges"):
        with pytest.raises(PropertyNotImplementedError, match=f"periodic axes a, b.*{name}_normal"):
            calc.get_property(name, water)
    found = calc.response(water)
    assert not {"polarizability", "born_effective_charges"} & set(found)
    assert found["polarizability_normal"] > 1e-3
    assert found["born_effective_charges_normal"].shape == (3, 3)
    step, dipoles = 1e-2, []
    for sign in (1, -1):
        water.info["external_field"] = [0.0, 0.0, sign * step]
        water.get_potential_energy()
        dipoles.append(calc.state["dipole_normal"])
    slope = (dipoles[0] - dipoles[1]) / (2 * step)
    assert found["polarizability_normal"] == pytest.approx(slope, abs=1e-6)
    water.pbc = True
    water.info = {}
    assert not {"polarizability_normal", "polarizability"} & set(calc.response(water))
    with pytest.raises(PropertyNotImplementedError, match="periodic axes a, b, c"):
        calc.response(water, ["polarizability"])


def test_undefined_properties_give_the_reason(water: Atoms) -> None:
    calc = calculator(water)
    with pytest.raises(PropertyNotImplementedError, match=r"dielectric_tensor.*responding: dipoles"):
        calc.get_property("dielectric_tensor", water)
    with pytest.raises(PropertyNotImplementedError, match=r"polarization.*split_charges"):
        calc.get_property("polarization", water)
    with pytest.raises(PropertyNotImplementedError, match=r"no magnetism.*fukui"):
        calc.response(water, ["magnetism"])
    assert set(calc.response(water, ["fukui"])) == {"fukui"}
    assert calc.state["fukui"].shape == (3,)


def test_extrapolation_is_flagged_once_and_never_clipped(
    water: Atoms, monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    ranges = {"total_charge": [-1.0, 1.0], "fermi_level": [-3.0, 3.0], "external_field": 0.1}
    monkeypatch.setattr(electret.calculator.model, "load", lambda *_, **__: ToyQeq())
    monkeypatch.setattr(
        electret.calculator.model, "read_header", lambda _: {"metadata": {"training_ranges": ranges}}
    )
    calc = water.calc = Calculator(tmp_path / "model.electret")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        water.info = {"total_charge": 1.0, "external_field": [0.0, 0.1, 0.0]}
        water.get_potential_energy()
        assert calc.state["extrapolating"] == {}
    water.info = {"total_charge": 2.0}
    with pytest.warns(ExtrapolationWarning, match=r"total_charge is 2 e.*-1 to 1 e"):
        water.get_potential_energy()
    assert set(calc.state["extrapolating"]) == {"total_charge"}
    assert calc.state["total_charge"] == pytest.approx(2.0, abs=1e-8)  # as requested
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        water.info = {"total_charge": 2.5}
        water.get_potential_energy()  # said already
    assert "2.5 e" in calc.state["extrapolating"]["total_charge"]
    water.info = {"fermi_level": -80.0, "external_field": [0.0, 0.0, 0.5]}
    with pytest.warns(ExtrapolationWarning) as caught:
        water.get_potential_energy()
    assert len(caught) == 2
    # The charge that follows from the Fermi level is judged too.
    assert set(calc.state["extrapolating"]) == {"total_charge", "fermi_level", "external_field"}


def test_molecular_dynamics_at_constant_fermi_level_conserves_the_grand_energy(water: Atoms) -> None:
    calc = calculator(water)
    water.info["fermi_level"] = -1.0
    spread, energy_spread = {}, {}
    for timestep in (0.4, 0.2):
        atoms = water.copy()
        atoms.calc = calc
        atoms.set_velocities(0.03 * np.random.default_rng(0).normal(size=(3, 3)))
        totals, charges, plain = [], [], []

        def record(atoms: Atoms = atoms, totals=totals, charges=charges, plain=plain) -> None:
            totals.append(atoms.get_total_energy())
            plain.append(calc.state["internal_energy"] + atoms.get_kinetic_energy())
            charges.append(calc.state["total_charge"])

        dynamics = VelocityVerlet(atoms, timestep * units.fs)
        dynamics.attach(record)
        dynamics.run(round(40 / timestep))
        spread[timestep], energy_spread[timestep] = np.std(totals), np.std(plain)
        assert np.ptp(charges) > 1e-2
    assert spread[0.4] / spread[0.2] == pytest.approx(4.0, rel=0.3)
    assert spread[0.2] < 0.1 * energy_spread[0.2]  # E alone is not conserved
