"""The calculator and the dynamics on each self-consistent family: derivatives, warm start, files."""

import functools

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("mace")
from ase import Atoms, units  # noqa: E402
from ase.calculators.calculator import PropertyNotImplementedError  # noqa: E402

from electret import Calculator, ConvergenceError, InputError  # noqa: E402
from electret.analysis import assess  # noqa: E402
from electret.data import GraphDataset, wrap_atoms  # noqa: E402
from electret.dynamics import ConstantFermiLevel  # noqa: E402
from electret.models import Model, ModelConfig, build, save  # noqa: E402
from model_cases import BACKBONE, STATISTICS, bulk, molecule, slab  # noqa: E402

CASES = {
    "qeq": {"family": "qeq"},
    "energy_functional": {"family": "energy_functional"},
    "affine": {"family": "fixed_point"},
    "mlp": {"family": "fixed_point", "fixed_point": {"nonlinearity": "mlp"}},
}


@functools.cache
def model_of(case: str) -> Model:
    config = {
        **CASES[case],
        "backbone": BACKBONE,
        "electrostatics": {"max_l": 1, "sigma": {"H": 0.8, "O": 1.0, "Na": 1.2}, "accuracy": 1e-10},
    }
    return build(ModelConfig.parse(config), STATISTICS, seed=1)


@pytest.fixture(params=CASES)
def model(request: pytest.FixtureRequest) -> Model:
    return model_of(request.param)


def energy(calc: Calculator, atoms: Atoms) -> float:
    atoms = atoms.copy()
    atoms.calc = calc
    return atoms.get_potential_energy()


def with_level(model: Model, atoms: Atoms, shift: float = 0.4) -> tuple[Calculator, Atoms]:
    """At a Fermi level that charges the system."""
    calc = atoms.calc = Calculator(model, scf_tolerance=1e-11)
    atoms.get_potential_energy()
    atoms.info["fermi_level"] = calc.state["fermi_level"] + shift
    atoms.get_forces()
    return calc, atoms


@pytest.mark.parametrize("system", [molecule, bulk])
def test_forces_and_stress_are_derivatives_of_the_grand_potential(model: Model, system) -> None:
    calc, atoms = with_level(model, system())
    assert abs(calc.state["total_charge"]) > 1e-3
    assert calc.results["free_energy"] == calc.results["energy"]
    assert abs(calc.results["energy"] - calc.state["internal_energy"]) > 1e-3
    force, step = atoms.get_forces()[1, 2], 2e-3
    moved = []
    for offset in (-2, -1, 1, 2):
        other = atoms.copy()
        other.positions[1, 2] += offset * step
        moved.append(energy(calc, other))
    slope = np.array([1, -8, 8, -1]) @ moved / (12 * step)
    assert abs(force) > 1e-3
    assert force == pytest.approx(-slope, abs=1e-7)
    if atoms.pbc.all():
        stress, moved = atoms.get_stress(voigt=False), []
        for offset in (-2, -1, 1, 2):
            strain = np.zeros((3, 3))
            strain[0, 1] = strain[1, 0] = 0.5 * offset * 1e-3
            other = atoms.copy()
            other.set_cell(atoms.cell[:] @ (np.eye(3) + strain), scale_atoms=True)
            moved.append(energy(calc, other))
        slope = np.array([1, -8, 8, -1]) @ moved / (12 * 1e-3 * atoms.get_volume())
        assert abs(stress[0, 1]) > 1e-4
        assert stress[0, 1] == pytest.approx(slope, abs=1e-8)


def test_energy_charge_derivative_is_exact(model: Model) -> None:
    atoms = molecule()
    calc = atoms.calc = Calculator(model, scf_tolerance=1e-11)
    atoms.info["total_charge"] = 0.3
    exact = calc.charge_derivative(atoms)
    assert abs(exact) > 0.1
    moved, step = [], 1e-2
    for offset in (-2, -1, 1, 2):
        atoms.info["total_charge"] = 0.3 + offset * step
        moved.append(atoms.get_potential_energy())
    assert exact == pytest.approx(np.array([1, -8, 8, -1]) @ moved / (12 * step), abs=1e-6)
    atoms.info["total_charge"] = 0.3
    atoms.get_potential_energy()
    if model.variational:
        assert exact == pytest.approx(-calc.state["fermi_level"], abs=1e-8)
    else:
        assert abs(exact + calc.state["fermi_level"]) > 0.1  # a fixed point is no minimum


def test_polarizability_and_born_effective_charges(model: Model) -> None:
    atoms = molecule()
    calc = atoms.calc = Calculator(model, scf_tolerance=1e-11)
    polarizability = calc.get_property("polarizability", atoms)
    born = calc.get_property("born_effective_charges", atoms)
    step, in_field, displaced = 1e-2, [], []
    for sign in (1, -1):
        other = atoms.copy()
        other.calc = calc
        other.info["external_field"] = [0.0, sign * step, 0.0]
        in_field.append(other.get_dipole_moment())
        other = atoms.copy()
        other.calc = calc
        other.positions[2, 0] += sign * 1e-4
        displaced.append(other.get_dipole_moment())
    column = (in_field[0] - in_field[1]) / (2 * step)
    assert np.abs(column).max() > 1e-2
    np.testing.assert_allclose(polarizability[:, 1], column, rtol=0, atol=1e-5)
    row = (displaced[0] - displaced[1]) / 2e-4
    assert np.abs(row).max() > 1e-2
    np.testing.assert_allclose(born[2, :, 0], row, rtol=0, atol=1e-5)


def test_slab_response_along_its_normal(model: Model) -> None:
    atoms = slab()
    calc = atoms.calc = Calculator(model, scf_tolerance=1e-11)
    found = calc.response(atoms)
    normal = np.cross(*atoms.cell[:2])
    normal /= np.linalg.norm(normal)
    dipoles = []
    for sign in (1, -1):
        atoms.info["external_field"] = sign * 1e-2 * normal
        atoms.get_potential_energy()
        dipoles.append(calc.state["dipole_normal"])
    slope = (dipoles[0] - dipoles[1]) / 2e-2
    assert slope > 1e-3
    assert found["polarizability_normal"] == pytest.approx(slope, abs=1e-5)
    assert found["born_effective_charges_normal"].shape == (5, 3)


def test_an_insulator_has_a_dielectric_tensor_and_no_fermi_level() -> None:
    config = {
        "family": "fixed_point",
        "fixed_point": {"responding": "dipoles"},
        "backbone": BACKBONE,
        "electrostatics": {"max_l": 1, "sigma": {"H": 0.8, "O": 1.0, "Na": 1.2}, "accuracy": 1e-10},
    }
    crystal, cluster = bulk(), molecule()
    calc = Calculator(build(ModelConfig.parse(config), STATISTICS, seed=1))
    tensor = calc.get_property("dielectric_tensor", crystal)
    assert np.abs(tensor - np.eye(3)).max() > 1e-4
    found = calc.response(crystal)
    np.testing.assert_allclose(found["dielectric_tensor"], tensor, rtol=0, atol=1e-9)
    assert "polarizability" not in found
    assert "fermi_level" not in calc.state
    assert "dielectric_tensor" not in calc.response(cluster)
    with pytest.raises(PropertyNotImplementedError, match="crystals"):
        calc.get_property("dielectric_tensor", cluster)
    with pytest.raises(PropertyNotImplementedError, match="crystals"):
        calc.response(cluster, ["dielectric_tensor"])
    cluster.calc = calc
    with pytest.raises(PropertyNotImplementedError, match="change of charge"):
        calc.charge_derivative(cluster)
    with pytest.raises(InputError, match="do not respond to a Fermi level"):
        ConstantFermiLevel(cluster, 1.0, -4.0)
    cluster.info["fermi_level"] = -4.0
    with pytest.raises(InputError, match="fermi_level"):
        cluster.get_potential_energy()


def test_results_do_not_depend_on_the_start(model: Model) -> None:
    atoms, moved = molecule(), molecule()
    moved.positions[0] += 0.05
    found = {}
    for warm in (True, False):
        calc = Calculator(model, warm_start=warm)
        for system in (atoms, moved):
            system.calc = calc
            energy, forces = system.get_potential_energy(), system.get_forces()
        found[warm] = (energy, forces, calc.state["multipoles"])
    assert np.abs(found[True][1]).max() > 0.1
    assert found[True][0] == pytest.approx(found[False][0], abs=1e-9)
    np.testing.assert_allclose(found[True][1], found[False][1], rtol=0, atol=1e-6)
    np.testing.assert_allclose(found[True][2], found[False][2], rtol=0, atol=1e-7)


def test_failure_names_remedies(model: Model) -> None:
    atoms = molecule()
    atoms.calc = Calculator(model, scf_solver="mixing", scf_max_iterations=2)
    with pytest.raises(ConvergenceError, match=r"scf_max_iterations.*newton") as caught:
        atoms.get_forces()
    assert caught.value.iterations == 2
    assert len(caught.value.history) == 3
    energies = {}
    for solver in ("newton", "newton_cg", "anderson"):
        atoms.calc = Calculator(model, scf_solver=solver, scf_tolerance=1e-8, scf_max_iterations=300)
        energies[solver] = atoms.get_potential_energy()
        assert atoms.calc.state["scf_residual"] <= 1e-8
    assert np.ptp(list(energies.values())) < 1e-5


def test_files_in_both_precisions(model: Model, tmp_path) -> None:
    atoms = molecule()
    save(model, tmp_path / "model.electret", {"training_ranges": {"total_charge": [0.0, 0.0]}})
    energies = {}
    for dtype in ("float64", "float32"):
        calc = atoms.calc = Calculator(tmp_path / "model.electret", dtype=dtype)
        energies[dtype] = atoms.get_potential_energy()
        atoms.positions[0, 0] += 0.01
        atoms.get_forces()
        atoms.positions[0, 0] -= 0.01
        assert calc.response(atoms, ["fukui"])["fukui"].sum() == pytest.approx(1.0, abs=1e-4)
    assert energies["float32"] == pytest.approx(energies["float64"], abs=1e-3)
    atoms.info["total_charge"] = 1.0
    with pytest.warns(UserWarning, match="0 to 0 e"):
        atoms.get_potential_energy()


def test_batches_with_different_numbers_of_iterations(model: Model) -> None:
    """Histories are padded, and a frame that does not converge spoils no other."""
    systems = [molecule(), bulk(), slab()]
    for charge, atoms in enumerate(systems):
        atoms.info["total_charge"] = float(charge)
        atoms.info["REF_energy"] = -100.0
    dataset = GraphDataset(wrap_atoms(systems), model.cutoff, model.dtype)
    together, alone = (assess(model, dataset, batch_size=size) for size in (3, 1))
    assert together.scf.n_frames == 3
    assert not together.scf.unconverged
    assert together.scf.iterations == alone.scf.iterations
    assert together.metrics.overall["energy"].mae == pytest.approx(
        alone.metrics.overall["energy"].mae, abs=1e-9
    )


def test_charge_dynamics_conserves_its_energy(model: Model) -> None:
    calc = Calculator(model, scf_tolerance=1e-9)
    spread = {}
    for timestep in (0.5, 0.25):
        atoms = molecule()
        atoms.calc = calc
        atoms.info["total_charge"] = 0.0
        level = -calc.charge_derivative(atoms) + 0.3
        rng = np.random.default_rng(0)
        atoms.set_momenta(0.3 * rng.normal(size=(4, 3)))
        dynamics = ConstantFermiLevel(atoms, timestep * units.fs, level, charge_period=12 * units.fs)
        rows = []

        def record(dynamics: ConstantFermiLevel = dynamics, rows: list = rows) -> None:
            rows.append((dynamics.conserved_energy, dynamics.charge))

        dynamics.attach(record)
        dynamics.run(round(12 / timestep))
        conserved, charge = np.array(rows).T
        assert np.ptp(charge) > 0.01
        spread[timestep] = np.std(conserved)
    assert spread[0.5] / spread[0.25] == pytest.approx(4.0, rel=0.35)
