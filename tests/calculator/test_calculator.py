"""The ASE calculator: properties, conditions in `atoms.info`, caching, dynamics, optimisation, threads."""

import copy
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("mace")
from ase import Atoms, units  # noqa: E402
from ase.build import bulk, molecule  # noqa: E402
from ase.calculators.calculator import PropertyNotImplementedError  # noqa: E402
from ase.filters import FrechetCellFilter, StrainFilter  # noqa: E402
from ase.io import read  # noqa: E402
from ase.io.trajectory import Trajectory  # noqa: E402
from ase.md.verlet import VelocityVerlet  # noqa: E402
from ase.optimize import BFGS  # noqa: E402
from ase.stress import full_3x3_to_voigt_6_stress  # noqa: E402

from electret import Calculator, InputError  # noqa: E402
from electret.graph import Graph  # noqa: E402
from electret.models import Model, ModelConfig, ModelFileError, Statistics, build, save  # noqa: E402

STATISTICS = Statistics(
    elements=(1, 8, 47), e0s={1: -13.0, 8: -430.0, 47: -100.0}, avg_num_neighbors=6.0, scale=0.5
)


def make_model(family: str, dtype: str = "float64") -> Model:
    config = ModelConfig.parse(
        {
            "family": family,
            "backbone": {
                "r_max": 4.0,
                "hidden_irreps": "4x0e + 4x1o",
                "max_ell": 2,
                "correlation": 2,
                "num_radial_basis": 4,
                "radial_MLP": [8],
                "dtype": dtype,
            },
            "electrostatics": {"sigma": 1.0},
        }
    )
    return build(config, STATISTICS, seed=3)


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    families = ("mace", "local_charges", "split_charges", "latent_ewald")
    return {family: make_model(family) for family in families}


@pytest.fixture
def water() -> Atoms:
    atoms = molecule("H2O")
    atoms.rattle(0.05, seed=1)
    return atoms


def slab() -> Atoms:
    atoms = molecule("H2O")
    atoms.set_cell([5.0, 5.5, 12.0])
    atoms.pbc = (True, True, False)
    return atoms


def count_evaluations(calculator: Calculator) -> list[int]:
    calls: list[int] = []
    calculator.model.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_results_are_those_of_the_model(models: dict[str, Model], water: Atoms) -> None:
    model = models["local_charges"]
    output = model(Graph.from_atoms(water, model.cutoff, labels=False))
    water.calc = Calculator(model)
    assert water.get_potential_energy() == pytest.approx(float(output["energy"][0]), rel=1e-14)
    assert water.get_potential_energy(force_consistent=True) == water.get_potential_energy()
    forces = output["forces"].numpy()
    assert np.abs(forces).max() > 1e-3
    np.testing.assert_allclose(water.get_forces(), forces, rtol=0, atol=1e-12)
    np.testing.assert_allclose(water.get_charges(), output["charges"].numpy(), rtol=0, atol=1e-12)
    np.testing.assert_allclose(water.get_dipole_moment(), output["dipole"][0].numpy(), rtol=0, atol=1e-12)
    state = water.calc.state
    assert state["multipoles"].shape == (3, 4)
    parts = state["energy_short_range"] + state["energy_electrostatic"] + state["energy_field"]
    assert parts == pytest.approx(water.get_potential_energy(), abs=1e-10)


def test_forces_and_stress_are_derivatives(models: dict[str, Model]) -> None:
    atoms = bulk("Ag", "fcc", a=3.6, cubic=True)
    atoms.rattle(0.1, seed=2)
    atoms.set_cell(atoms.cell[:] @ np.array([[1, 0.1, 0], [0, 1, 0.05], [0, 0, 1]]), scale_atoms=True)
    atoms.calc = Calculator(models["local_charges"])
    stress, forces, cell = atoms.get_stress(voigt=False), atoms.get_forces(), atoms.cell[:].copy()
    step = 1e-4

    def energy_at(i: int, j: int, sign: int) -> float:
        strain = np.zeros((3, 3))
        strain[i, j] = sign * step
        strained = atoms.copy()
        strained.set_cell(cell @ (np.eye(3) + strain), scale_atoms=True)
        strained.calc = atoms.calc
        return strained.get_potential_energy()

    slope = (energy_at(0, 1, 1) - energy_at(0, 1, -1)) / (2 * step * atoms.get_volume())
    assert abs(stress[0, 1]) > 1e-4
    assert stress[0, 1] == pytest.approx(slope, abs=1e-7)
    displaced = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions[1, 2] += sign * step
        moved.calc = atoms.calc
        displaced.append(moved.get_potential_energy())
    assert abs(forces[1, 2]) > 1e-4
    assert forces[1, 2] == pytest.approx(-(displaced[0] - displaced[1]) / (2 * step), abs=1e-6)


def test_field_changes_the_energy_and_the_cache_sees_it(models: dict[str, Model], water: Atoms) -> None:
    water.calc = Calculator(models["local_charges"])
    calls = count_evaluations(water.calc)
    energy, dipole = water.get_potential_energy(), water.get_dipole_moment()
    water.get_potential_energy()
    assert len(calls) == 1
    field = np.array([0.1, -0.2, 0.3])
    water.info["external_field"] = field
    assert abs(field @ dipole) > 1e-4
    assert water.get_potential_energy() == pytest.approx(energy - field @ dipole, abs=1e-9)
    water.info["external_field"][2] = 0.0  # changed in place
    field[2] = 0.0
    assert water.get_potential_energy() == pytest.approx(energy - field @ dipole, abs=1e-9)
    del water.info["external_field"]
    assert water.get_potential_energy() == pytest.approx(energy, abs=1e-12)
    water.info["config_type"] = "irrelevant"
    water.get_potential_energy()
    assert len(calls) == 4


def test_total_charge_is_answered_under_both_names(models: dict[str, Model], water: Atoms) -> None:
    water.calc = Calculator(models["local_charges"])
    assert abs(water.get_charges().sum()) < 1e-12
    for name in ("total_charge", "charge"):
        water.info = {name: 1}
        assert water.get_charges().sum() == pytest.approx(1.0, abs=1e-12)
    water.info = {"total_charge": 1, "charge": 0}
    with pytest.raises(InputError, match="two total charges"):
        water.get_charges()


@pytest.mark.parametrize(
    ("key", "remedy"),
    [
        ("efield", "external_field"),
        ("external_feild", "external_field"),
        ("Total_Charge", "total_charge"),
        ("spin", "no spin"),
        ("REF_total_charge", "total_charge"),
        ("tot_charge", "total_charge"),
    ],
)
def test_conditions_under_wrong_names_are_refused(
    models: dict[str, Model], water: Atoms, key: str, remedy: str
) -> None:
    water.calc = Calculator(models["local_charges"])
    energy = water.get_potential_energy()
    water.info[key] = 1.0
    with pytest.raises(InputError, match=remedy):
        water.get_potential_energy()
    water.calc = Calculator(models["local_charges"], ignore=[key])
    assert water.get_potential_energy() == energy


def test_parameters_of_ases_set_are_refused(models: dict[str, Model], water: Atoms) -> None:
    water.calc = Calculator(models["local_charges"])
    with pytest.raises(InputError, match=r"calc.set\(charge=1\).*atoms.info\['total_charge'\] = 1"):
        water.calc.set(charge=1)
    with pytest.raises(InputError, match="no such parameter"):
        water.calc.set(kpts=3)
    assert water.calc.set() == {}


def test_initial_charges_that_are_not_the_total_charge_give_a_warning(
    models: dict[str, Model], water: Atoms
) -> None:
    water.set_initial_charges([-0.6, 0.3, 0.3])
    water.calc = Calculator(models["local_charges"])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        water.get_potential_energy()
        water.set_initial_charges([1.0, 0.0, 0.0])
        water.info["total_charge"] = 1
        water.get_potential_energy()
        water.info["total_charge"] = 0
    with pytest.warns(UserWarning, match=r"add up to 1 e, but the total charge is 0 e.*total_charge"):
        water.get_potential_energy()
    assert abs(water.get_charges().sum()) < 1e-12


def test_lists_of_one_number_are_numbers_and_others_are_named(models: dict[str, Model], water: Atoms) -> None:
    water.calc = Calculator(models["local_charges"])
    water.info["total_charge"] = 1
    energy = water.get_potential_energy()
    for value in ([1], np.array([1.0]), (1,)):
        water.info["total_charge"] = value
        assert water.get_potential_energy() == energy
    for value, message in (([1, 2], r"'total_charge'\] is \[1, 2\]; give one number"), ("a", "is 'a'")):
        water.info["total_charge"] = value
        with pytest.raises(InputError, match=message):
            water.get_potential_energy()


def test_unsupported_conditions_are_refused(models: dict[str, Model], water: Atoms) -> None:
    water.info["fermi_level"] = -4.0
    water.calc = Calculator(models["local_charges"])
    with pytest.raises(InputError, match="fermi_level"):
        water.get_potential_energy()
    water.calc = Calculator(models["local_charges"], ignore=["fermi_level"])
    water.get_potential_energy()
    water.info["external_field"] = [0, 0, 0.1]
    water.calc = Calculator(models["mace"], ignore=["fermi_level"])
    with pytest.raises(InputError, match="external_field"):
        water.get_potential_energy()


def test_undefined_properties_give_the_reason(models: dict[str, Model], water: Atoms) -> None:
    water.calc = Calculator(models["mace"])
    with pytest.raises(PropertyNotImplementedError, match="family 'mace'"):
        water.get_charges()
    with pytest.raises(PropertyNotImplementedError, match="open system"):
        water.get_stress()
    water.calc = Calculator(models["latent_ewald"])
    with pytest.raises(PropertyNotImplementedError, match="latent_ewald"):
        water.get_charges()
    assert water.calc.get_property("energy", water) == water.get_potential_energy()
    assert water.calc.state["latent_multipoles"].shape == (3, 4)
    atoms = slab()
    atoms.calc = Calculator(models["local_charges"])
    with pytest.raises(PropertyNotImplementedError, match="periodic axes a, b"):
        atoms.get_dipole_moment()
    atoms.get_potential_energy()
    assert "dipole" not in atoms.calc.results
    charges, normal = atoms.get_charges(), atoms.calc.state["dipole_normal"]
    along = charges @ atoms.positions[:, 2] + atoms.calc.state["multipoles"][:, 2].sum()
    assert abs(along) > 1e-4
    assert normal == pytest.approx(along, abs=1e-10)


def test_polarization_of_split_charges(models: dict[str, Model]) -> None:
    atoms = slab()
    atoms.calc = Calculator(models["split_charges"])
    polarization = atoms.calc.get_property("polarization", atoms)
    assert polarization.shape == (3,)
    assert np.abs(polarization).max() > 1e-5
    properties = atoms.calc.calculate_properties(atoms, ["energy", "forces", "stress", "charges"])
    assert {"energy", "free_energy", "forces", "stress", "charges", "polarization"} <= set(properties)


def test_born_effective_charges_of_explicit_densities(models: dict[str, Model], water: Atoms) -> None:
    """dD/dR where the density is local; in a crystal that relative to each atom, or of the polarisation."""
    water.calc = Calculator(models["local_charges"])
    assert not water.calc.get_property("polarizability", water).any()  # it has no response to a field
    born = water.calc.get_property("born_effective_charges", water)
    dipoles = []
    for sign in (1, -1):
        moved = water.copy()
        moved.positions[1, 0] += sign * 1e-4
        moved.calc = water.calc
        dipoles.append(moved.get_dipole_moment())
    slope = (dipoles[0] - dipoles[1]) / 2e-4
    assert np.abs(slope).max() > 1e-3
    np.testing.assert_allclose(born[1, :, 0], slope, rtol=0, atol=1e-6)
    atoms = bulk("Ag", "fcc", a=4.0, cubic=True)
    atoms.symbols[0] = "O"
    atoms.rattle(0.1, seed=1)
    atoms.calc = Calculator(models["local_charges"])
    born = atoms.calc.get_property("born_effective_charges", atoms)
    np.testing.assert_allclose(born.sum(axis=0), 0.0, atol=1e-6)
    assert np.abs(born).max() > 1e-3
    with pytest.raises(PropertyNotImplementedError, match="periodic axes a, b, c"):
        atoms.calc.get_property("polarizability", atoms)
    atoms.calc = Calculator(models["split_charges"])
    born = atoms.calc.get_property("born_effective_charges", atoms)
    polarizations = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions[1, 0] += sign * 1e-4
        moved.calc = atoms.calc
        polarizations.append(moved.calc.get_property("polarization", moved))
    slope = (polarizations[0] - polarizations[1]) / 2e-4
    assert np.abs(slope).max() > 1e-3
    np.testing.assert_allclose(born[1, :, 0], slope, rtol=0, atol=1e-6)


def test_dynamics_conserves_energy_in_a_field(models: dict[str, Model], water: Atoms) -> None:
    water.info["external_field"] = [0.0, 0.0, 0.2]
    water.calc = Calculator(models["local_charges"])
    water.set_velocities(0.02 * np.random.default_rng(0).normal(size=(3, 3)))
    start, totals = water.get_positions(), []
    dynamics = VelocityVerlet(water, 0.2 * units.fs)
    dynamics.attach(lambda: totals.append(water.get_total_energy()))
    calls = count_evaluations(water.calc)
    dynamics.run(20)
    assert np.abs(water.positions - start).max() > 1e-2
    assert np.ptp(totals) < 0.02 * water.get_kinetic_energy()
    assert len(calls) == 21  # one evaluation a step


@pytest.mark.parametrize("cell_filter", [StrainFilter, FrechetCellFilter])
def test_cell_relaxation(models: dict[str, Model], cell_filter: type) -> None:
    atoms = bulk("Ag", "fcc", a=4.0)
    atoms.calc = Calculator(models["mace"])
    calls = count_evaluations(atoms.calc)
    before = np.abs(atoms.get_stress()).max()
    energy = atoms.get_potential_energy()
    steps = 5
    BFGS(cell_filter(atoms), logfile=None, maxstep=0.02).run(fmax=1e-9, steps=steps)
    assert before > 1e-5
    assert atoms.get_potential_energy() < energy
    assert len(calls) <= steps + 2  # forces and stress together


def test_copies_are_independent(models: dict[str, Model], water: Atoms) -> None:
    water.calc = Calculator(models["local_charges"])
    energy = water.get_potential_energy()
    twin = copy.deepcopy(water)
    twin.calc = copy.deepcopy(water.calc)
    assert twin.calc.model is water.calc.model
    twin.positions[0] += 0.1
    assert twin.get_potential_energy() != energy
    assert water.calc.results["energy"] == energy
    water.calc.reset()
    assert not water.calc.results
    assert not water.calc.state
    assert water.get_potential_energy() == energy


def test_the_model_given_is_left_alone(water: Atoms) -> None:
    model = make_model("mace")
    water.calc = Calculator(model)
    energy = water.get_potential_energy()
    assert all(parameter.requires_grad for parameter in model.parameters())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    water.calc.reset()
    assert water.get_potential_energy() == energy


def test_threads(models: dict[str, Model], water: Atoms) -> None:
    structures = []
    for seed in range(6):
        atoms = water.copy()
        atoms.rattle(0.1, seed=seed)
        structures.append(atoms)
    shared = Calculator(models["local_charges"])

    def forces(atoms: Atoms) -> np.ndarray:
        atoms = atoms.copy()
        atoms.calc = copy.deepcopy(shared)  # the weights are shared, the results are not
        return atoms.get_forces()

    with ThreadPoolExecutor(3) as pool:
        parallel = list(pool.map(forces, structures))
    for atoms, result in zip(structures, parallel, strict=True):
        np.testing.assert_array_equal(result, forces(atoms))


def test_files_and_dtypes(models: dict[str, Model], water: Atoms, tmp_path) -> None:
    path = tmp_path / "model.electret"
    save(models["local_charges"], path)
    energies = {}
    for dtype in (None, "float64", "float32", torch.float32):
        water.calc = Calculator(path, dtype=dtype)
        energies[dtype] = water.get_potential_energy()
        assert water.get_forces().dtype == np.float64
    assert energies[None] == energies["float64"]
    assert energies["float32"] == energies[torch.float32] != energies[None]
    assert energies["float32"] == pytest.approx(energies[None], abs=1e-4)
    water.calc = Calculator(models["local_charges"], dtype="float32")
    assert water.get_potential_energy() == energies["float32"]


def test_trajectory_files_hold_the_results(models: dict[str, Model], water: Atoms, tmp_path) -> None:
    water.calc = Calculator(models["local_charges"])
    energy, charges = water.get_potential_energy(), water.get_charges()
    with Trajectory(tmp_path / "run.traj", "w") as trajectory:
        trajectory.write(water)
    again = read(tmp_path / "run.traj")
    assert again.get_potential_energy() == energy
    np.testing.assert_array_equal(again.get_charges(), charges)


def test_bad_arguments_are_named(models: dict[str, Model], water: Atoms, tmp_path) -> None:
    with pytest.raises(ModelFileError, match=r"nowhere\.electret"):
        Calculator(tmp_path / "nowhere.electret")
    with pytest.raises(InputError, match="float16"):
        Calculator(models["mace"], dtype="float16")
    with pytest.raises(InputError, match="abacus"):
        Calculator(models["mace"], device="abacus")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="no CUDA device"):
            Calculator(models["mace"], device="cuda")
    water.calc = Calculator(models["mace"])
    water.symbols[0] = "Xe"
    with pytest.raises(InputError, match="Xe"):
        water.get_potential_energy()
    water.symbols[0] = "O"
    water.positions[0, 0] = np.nan
    with pytest.raises(InputError, match="finite"):
        water.get_potential_energy()
    water.positions[0] = water.positions[1]
    with pytest.raises(InputError, match="coincide"):
        water.get_potential_energy()


def test_stress_is_in_voigt_order(models: dict[str, Model]) -> None:
    atoms = bulk("Ag", "fcc", a=4.0, cubic=True)
    atoms.rattle(0.2, seed=4)
    model = models["mace"]
    output = model(Graph.from_atoms(atoms, model.cutoff, labels=False), stress=True)
    atoms.calc = Calculator(model)
    np.testing.assert_allclose(
        atoms.get_stress(), full_3x3_to_voigt_6_stress(output["stress"][0].numpy()), rtol=0, atol=1e-14
    )


def test_import_of_the_package_is_light() -> None:
    program = (
        "import sys, electret\n"
        "assert not {'torch', 'ase', 'mace', 'e3nn'} & set(sys.modules)\n"
        "assert electret.Calculator.name == 'electret'"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
