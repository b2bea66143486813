"""Dynamics of atoms and charge at constant Fermi level: conservation, ensemble averages, restart."""

import contextlib

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
from electret.dynamics import ChargeRangeError, ConstantFermiLevel  # noqa: E402
from model_cases import molecule as cluster  # noqa: E402
from model_cases import small_model  # noqa: E402
from toy_qeq import ToyFixedPoint, ToyQeq  # noqa: E402

LEVEL = -1.0


def water(frozen: bool = False, model: type[ToyQeq] = ToyQeq, **options: object) -> Atoms:
    atoms = molecule("H2O")
    atoms.rattle(0.05, seed=1)
    atoms.calc = Calculator(model(), **options)
    if frozen:
        atoms.set_constraint(FixAtoms(range(3)))
    return atoms


def charge_at(atoms: Atoms, level: float) -> float:
    """Charge at the minimum of E + level Q, by one Newton step: E is quadratic in the charge."""
    other = atoms.copy()
    other.calc = atoms.calc
    other.info = {"total_charge": 0.0}
    slope = other.calc.charge_derivative(other)
    return (
        -(slope + level) / other.calc.response(other, ["energy_charge_curvature"])["energy_charge_curvature"]
    )


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


def test_the_mass_of_the_charge_follows_from_its_energy() -> None:
    """With d²E/dQ² far from -dmu/dQ of the equations, the period at fixed atoms is the requested one."""
    atoms = water(frozen=True, model=ToyFixedPoint)
    with pytest.warns(UserWarning, match=r"Fermi level of the model is .* but -dE/dQ.* is "):
        dynamics = ConstantFermiLevel(atoms, 0.5 * units.fs, LEVEL, charge_period=20 * units.fs)
    response = atoms.calc.response(atoms, ["energy_charge_curvature", "capacitance"])
    assert response["energy_charge_curvature"] * response["capacitance"] < 0.5
    assert abs(dynamics.charge - charge_at(atoms, LEVEL)) > 0.05
    assert _period(dynamics, charge_at(atoms, LEVEL), 12) == pytest.approx(20 * units.fs, rel=1e-6)


def _period(dynamics: ConstantFermiLevel, centre: float, steps: int) -> float:
    """Period of velocity Verlet about `centre`: x(t + dt) + x(t - dt) = (2 - w² dt²) x(t)."""
    charges = [dynamics.charge]
    for _ in range(steps):
        dynamics.step()
        charges.append(dynamics.charge)
    x = np.array(charges) - centre
    squared = 2 - (x[1:-1] @ (x[2:] + x[:-2])) / (x[1:-1] @ x[1:-1])
    return 2 * np.pi * dynamics.dt / np.sqrt(squared)


@pytest.mark.parametrize("family", ["qeq", "energy_functional", "fixed_point"])
@pytest.mark.parametrize("axes", [(), (0, 1)])
def test_period_of_the_charge_is_the_one_asked_for(family: str, axes: tuple[int, ...]) -> None:
    """A cluster and a thin slab, whose energy has a minimum in the charge."""
    atoms = cluster()
    atoms.pbc[list(axes)] = True
    atoms.cell = [[8.0, 0.0, 0.0], [1.0, 9.0, 0.0], [0.0, 0.0, 20.0]]
    calc = atoms.calc = Calculator(small_model(family), scf_tolerance=1e-10)
    atoms.set_constraint(FixAtoms(range(len(atoms))))
    atoms.info["total_charge"] = 0.2
    level = -calc.charge_derivative(atoms)
    variational = calc.model.variational
    assert (abs(level - calc.state["fermi_level"]) > 0.1) != variational
    atoms.info["total_charge"] = 0.21
    with contextlib.nullcontext() if variational else pytest.warns(UserWarning, match="-dE/dQ"):
        dynamics = ConstantFermiLevel(atoms, 1.0 * units.fs, level, charge_period=20 * units.fs)
    assert _period(dynamics, 0.2, 6) == pytest.approx(20 * units.fs, rel=0.01)


def test_a_charge_without_a_minimum_is_refused() -> None:
    """E bends downwards in the charge: no mass keeps it from running away."""
    model = ToyFixedPoint()
    model.curvature = -20.0
    for options in ({}, {"charge_mass": 50.0}):
        atoms = water()
        atoms.calc = Calculator(model)
        with pytest.raises(InputError, match=r"d²E/dQ² of the first structure is -.*with any mass") as caught:
            ConstantFermiLevel(atoms, 0.5 * units.fs, LEVEL, **options)
        assert "charge_mass" not in str(caught.value)


def test_stops_outside_of_the_charges_of_the_training_data(tmp_path) -> None:
    """By more than a margin; the restart file has the last step, and goes on with wider bounds."""

    def dynamics(**options: object) -> ConstantFermiLevel:
        atoms = water()
        atoms.info["total_charge"] = 0.0
        atoms.calc._ranges["total_charge"] = [-0.1, 0.1]
        return ConstantFermiLevel(
            atoms,
            0.5 * units.fs,
            fermi_level=12.0,
            charge_period=20 * units.fs,
            restart=tmp_path / "run.json",
            loginterval=1000,
            **options,
        )

    first = dynamics()
    with pytest.raises(
        ChargeRangeError, match=r"outside of -0\.6 to 0\.6 e; its state is in .*run\.json"
    ) as caught:
        first.run(100)
    assert caught.value.charge_range == (-0.6, 0.6)
    assert caught.value.charge == first.charge < -0.6
    assert 0 < first.nsteps < 20
    wider = dynamics(charge_range=(-5.0, 5.0))
    wider.read_restart(tmp_path / "run.json")
    assert wider.charge == first.charge
    assert wider.nsteps == first.nsteps
    wider.run(3)
    assert wider.charge < first.charge


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


def charge_statistics(
    atoms: Atoms, level: float, temperature: float, charges: np.ndarray
) -> tuple[float, float]:
    """Mean and variance of the charge, by quadrature of exp(-(E + level Q) / kT) over equidistant charges."""
    other = atoms.copy()
    other.calc = atoms.calc
    energies = []
    for charge in charges:
        other.info["total_charge"] = charge
        energies.append(other.get_potential_energy() + level * charge)
    weights = np.exp(-(np.array(energies) - min(energies)) / (units.kB * temperature))
    assert max(weights[0], weights[-1]) < 1e-4
    mean = weights @ charges / weights.sum()
    return mean, weights @ (charges - mean) ** 2 / weights.sum()


def sample_charges(
    atoms: Atoms, level: float, temperature: float, steps: int, period: float = 20.0
) -> np.ndarray:
    """Charges of a thermostatted run at fixed atoms."""
    dynamics = ConstantFermiLevel(
        atoms,
        1.0 * units.fs,
        level,
        charge_period=period * units.fs,
        temperature_K=temperature,
        charge_friction=8.0 / (period * units.fs),
        seed=4,
    )
    charges: list[float] = []
    dynamics.attach(lambda: charges.append(dynamics.charge))
    dynamics.run(steps)
    return np.array(charges[1:])


def check_statistics(charges: np.ndarray, mean: float, variance: float) -> None:
    blocks = charges.reshape(-1, 50).mean(axis=1)
    error = blocks.std() / np.sqrt(len(blocks) - 1)
    assert error < 0.2 * np.sqrt(variance)
    assert abs(charges.mean() - mean) < 4 * error
    assert charges.var() == pytest.approx(variance, rel=0.2)


@pytest.mark.filterwarnings("ignore:at the first charge")
@pytest.mark.parametrize("model", [ToyQeq, ToyFixedPoint])
def test_thermostatted_charge_samples_the_grand_canonical_ensemble(model: type[ToyQeq]) -> None:
    """At fixed atoms the charge is Gaussian about the minimum of E + mu Q, with the variance kT/(d²E/dQ²)."""
    atoms = water(frozen=True, model=model)
    curvature = atoms.calc.response(atoms, ["energy_charge_curvature"])["energy_charge_curvature"]
    charges = sample_charges(atoms, LEVEL, 3000, 2000)
    check_statistics(charges, charge_at(atoms, LEVEL), units.kB * 3000 / curvature)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:at the first charge")
@pytest.mark.parametrize(
    ("family", "axes"), [("qeq", (0, 1)), ("energy_functional", ()), ("fixed_point", (0, 1))]
)
def test_charges_of_models_sample_the_grand_canonical_ensemble(family: str, axes: tuple[int, ...]) -> None:
    """Clusters and slabs of every family, whose energy need not be quadratic in the charge."""
    atoms = cluster()
    atoms.pbc[list(axes)] = True
    atoms.cell = [[8.0, 0.0, 0.0], [1.0, 9.0, 0.0], [0.0, 0.0, 20.0]]
    calc = atoms.calc = Calculator(small_model(family))
    atoms.set_constraint(FixAtoms(range(len(atoms))))
    atoms.info["total_charge"] = 0.0
    level = -calc.charge_derivative(atoms)
    curvature = calc.response(atoms, ["energy_charge_curvature"])["energy_charge_curvature"]
    temperature = 0.05**2 * curvature / units.kB  # charges of some 0.05 e
    mean, variance = charge_statistics(atoms, level, temperature, np.linspace(-0.3, 0.3, 31))
    check_statistics(sample_charges(atoms, level, temperature, 600, period=10.0), mean, variance)


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
        ({"charge_range": (1.0, -1.0)}, {}, "charge_range"),
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
