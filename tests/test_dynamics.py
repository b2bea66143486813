"""Dynamics of atoms and charge at constant Fermi level: conservation, ensemble averages, restart."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("mace")
from ase import Atoms, units  # noqa: E402
from ase.build import molecule  # noqa: E402
from ase.calculators.lj import LennardJones  # noqa: E402
from ase.constraints import FixAtoms  # noqa: E402
from ase.io import read  # noqa: E402

from electret import Calculator, InputError  # noqa: E402
from electret.dynamics import ConstantFermiLevel  # noqa: E402
from toy_qeq import ToyQeq  # noqa: E402

LEVEL = -1.0


def water(frozen: bool = False, **options: object) -> Atoms:
    atoms = molecule("H2O")
    atoms.rattle(0.05, seed=1)
    atoms.calc = Calculator(ToyQeq(), **options)
    if frozen:
        atoms.set_constraint(FixAtoms(range(3)))
    return atoms


def charge_at(atoms: Atoms, level: float) -> float:
    """Of the grand-canonical SCF."""
    other = atoms.copy()
    other.info = {"fermi_level": level}
    other.calc = Calculator(ToyQeq())
    other.get_potential_energy()
    return other.calc.state["total_charge"]


def test_energy_is_conserved_with_the_square_of_the_timestep() -> None:
    spread, plain = {}, {}
    for timestep in (0.4, 0.2):
        atoms = water()
        atoms.info["total_charge"] = 0.2
        atoms.set_velocities(0.03 * np.random.default_rng(0).normal(size=(3, 3)))
        dynamics = ConstantFermiLevel(atoms, timestep * units.fs, LEVEL, charge_period=8 * units.fs)
        rows = []

        def record(dynamics: ConstantFermiLevel = dynamics, rows: list = rows) -> None:
            rows.append((dynamics.conserved_energy, dynamics.atoms.get_total_energy(), dynamics.charge))

        dynamics.attach(record)
        dynamics.run(round(60 / timestep))
        conserved, energy, charge = np.array(rows).T
        assert np.ptp(charge) > 0.1
        spread[timestep], plain[timestep] = np.std(conserved), np.std(energy)
    assert spread[0.4] / spread[0.2] == pytest.approx(4.0, rel=0.25)
    assert spread[0.2] < 0.01 * plain[0.2]


def test_one_evaluation_a_step() -> None:
    atoms = water()
    dynamics = ConstantFermiLevel(atoms, 0.2 * units.fs, LEVEL, charge_mass=50.0)
    dynamics.run(1)
    before = len(atoms.calc.model.calls)
    dynamics.run(5)
    assert len(atoms.calc.model.calls) - before == 5


def test_a_charge_at_fixed_atoms_is_a_harmonic_oscillator() -> None:
    atoms = water(frozen=True)
    start = charge_at(atoms, LEVEL)
    capacitance = atoms.calc.response(atoms, ["capacitance"])["capacitance"]
    atoms.info["total_charge"] = start + 0.1
    period = 20.0
    dynamics = ConstantFermiLevel(atoms, 0.1 * units.fs, LEVEL, charge_period=period * units.fs)
    assert dynamics.charge_mass == pytest.approx(
        (period * units.fs / (2 * np.pi)) ** 2 / capacitance, rel=1e-6
    )
    charges = []
    dynamics.attach(lambda: charges.append(dynamics.charge - start))
    dynamics.run(200)
    expected = 0.1 * np.cos(2 * np.pi * np.arange(201) * 0.1 / period)
    np.testing.assert_allclose(charges, expected, rtol=0, atol=1e-4)


def test_starts_at_the_charge_of_the_fermi_level() -> None:
    atoms = water()
    dynamics = ConstantFermiLevel(atoms, 0.2 * units.fs, LEVEL, charge_mass=50.0)
    assert abs(dynamics.charge) > 0.01
    assert dynamics.charge == pytest.approx(charge_at(atoms, LEVEL), abs=1e-8)
    assert dynamics.system_fermi_level == pytest.approx(LEVEL, abs=1e-7)
    atoms = water()
    atoms.info["charge"] = 0.4
    assert ConstantFermiLevel(atoms, 0.2, LEVEL, charge_mass=50.0).charge == 0.4
    assert atoms.info == {"total_charge": 0.4}


def test_thermostatted_charge_samples_the_grand_canonical_ensemble() -> None:
    """At fixed atoms the charge is Gaussian about that of the SCF, with the variance kT C."""
    atoms = water(frozen=True)
    expected = charge_at(atoms, LEVEL)
    capacitance = atoms.calc.response(atoms, ["capacitance"])["capacitance"]
    dynamics = ConstantFermiLevel(
        atoms,
        1.0 * units.fs,
        LEVEL,
        charge_period=20 * units.fs,
        temperature_K=3000,
        charge_friction=0.2 / units.fs,
        seed=4,
    )
    charges: list[float] = []
    dynamics.attach(lambda: charges.append(dynamics.charge))
    dynamics.run(4000)
    blocks = np.array(charges[1:]).reshape(40, 100).mean(axis=1)
    error = blocks.std() / np.sqrt(len(blocks) - 1)
    variance = units.kB * 3000 * capacitance
    assert error < 0.1 * abs(expected)  # tells the mean from zero
    assert abs(np.mean(charges) - expected) < 4 * error
    assert np.var(charges) == pytest.approx(variance, rel=0.2)


def test_thermostats_on_atoms_and_charge() -> None:
    """Equipartition of atoms and charge, and the mean Fermi level is that of the reservoir."""
    atoms = water()
    dynamics = ConstantFermiLevel(
        atoms,
        0.5 * units.fs,
        LEVEL,
        charge_period=15 * units.fs,
        temperature_K=600,
        friction=0.1 / units.fs,
        charge_friction=0.1 / units.fs,
        seed=2,
    )
    rows = []
    dynamics.attach(
        lambda: rows.append(
            (
                dynamics.system_fermi_level,
                atoms.get_kinetic_energy() / 4.5,
                2 * dynamics.charge_kinetic_energy,
                dynamics.conserved_energy,
            )
        )
    )
    dynamics.run(3000)
    level, atomic, electronic, conserved = np.array(rows)[500:].T
    error = level.reshape(-1, 41).mean(axis=1).std() / np.sqrt(len(level) / 41)
    assert np.std(level) > 0.05
    assert error < 0.1
    assert abs(level.mean() - LEVEL) < 4 * error
    assert atomic.mean() / (units.kB * 600) * 1.5 == pytest.approx(1.5, rel=0.15)
    assert electronic.mean() / (units.kB * 600) == pytest.approx(1.0, rel=0.2)
    assert np.ptp(conserved) < 0.2 * abs(dynamics.heat)


def test_seeded_runs_are_the_same_and_restart_continues(tmp_path) -> None:
    options = {
        "charge_mass": 60.0,
        "temperature_K": 500,
        "friction": 0.02 / units.fs,
        "charge_friction": 0.05 / units.fs,
        "seed": 7,
    }

    def run(steps: int, name: str, resume: str | None = None) -> ConstantFermiLevel:
        dynamics = ConstantFermiLevel(
            water(scf_tolerance=1e-12),
            0.3 * units.fs,
            LEVEL,
            charge_log=tmp_path / f"{name}.csv",
            restart=tmp_path / f"{name}.json",
            trajectory=str(tmp_path / f"{name}.traj"),
            append_trajectory=resume is not None,
            loginterval=2,
            **options,
        )
        if resume:
            dynamics.read_restart(tmp_path / f"{resume}.json")
        dynamics.run(steps)
        return dynamics

    whole, again = run(8, "whole"), run(8, "again")
    np.testing.assert_array_equal(whole.atoms.positions, again.atoms.positions)
    assert whole.charge == again.charge
    first = run(4, "part")
    assert abs(first.charge - whole.charge) > 1e-4
    second = run(4, "part", resume="part")
    assert second.nsteps == 8
    np.testing.assert_allclose(second.atoms.positions, whole.atoms.positions, rtol=0, atol=1e-9)
    assert second.charge == pytest.approx(whole.charge, abs=1e-9)
    assert second.conserved_energy == pytest.approx(whole.conserved_energy, abs=1e-8)
    logs = [np.genfromtxt(tmp_path / f"{name}.csv", delimiter=",", names=True) for name in ("part", "whole")]
    assert len(logs[1]) == 5  # steps 0, 2, 4, 6, 8
    np.testing.assert_allclose(logs[0]["charge_e"], logs[1]["charge_e"], rtol=0, atol=1e-8)
    assert logs[1]["time_ps"][-1] == pytest.approx(8 * 0.3 / 1000)
    frames = read(tmp_path / "part.traj", ":")
    assert frames[-1].info["total_charge"] == pytest.approx(whole.charge, abs=1e-9)
    assert frames[-1].get_potential_energy() == pytest.approx(whole.atoms.get_potential_energy(), abs=1e-8)


@pytest.mark.parametrize(
    ("options", "info", "expected"),
    [
        ({"charge_mass": 0.0}, {}, "charge_mass = 0"),
        ({"charge_mass": 1.0, "charge_period": 1.0}, {}, "give one"),
        ({"charge_period": -1.0}, {}, "charge_period"),
        ({"friction": 0.1}, {}, "temperature_K = None"),
        ({"charge_friction": -0.1, "temperature_K": 300}, {}, "charge_friction = -0.1"),
        ({}, {"fermi_level": -1.0}, "ConstantFermiLevel alone"),
        ({}, {"total_charge": np.nan}, "total_charge is nan"),
    ],
)
def test_bad_options_are_named(options: dict, info: dict, expected: str) -> None:
    atoms = water()
    atoms.info.update(info)
    with pytest.raises(InputError, match=expected):
        ConstantFermiLevel(atoms, 0.5, LEVEL, **options)


def test_other_calculators_and_files_are_refused(tmp_path) -> None:
    atoms = water()
    with pytest.raises(InputError, match="fermi_level is inf"):
        ConstantFermiLevel(atoms, 0.5, np.inf)
    dynamics = ConstantFermiLevel(atoms, 0.5, LEVEL, charge_mass=1.0)
    with pytest.raises(InputError, match="does not exist"):
        dynamics.read_restart(tmp_path / "absent.json")
    (tmp_path / "broken.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="no restart file"):
        dynamics.read_restart(tmp_path / "broken.json")
    dynamics.write_restart(tmp_path / "good.json")
    other = molecule("OH")
    other.calc = Calculator(ToyQeq())
    with pytest.raises(InputError, match="other atoms"):
        ConstantFermiLevel(other, 0.5, LEVEL, charge_mass=1.0).read_restart(tmp_path / "good.json")
    atoms.calc = LennardJones()
    with pytest.raises(InputError, match="LennardJones"):
        ConstantFermiLevel(atoms, 0.5, LEVEL)
