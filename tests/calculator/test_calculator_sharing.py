"""One evaluation for all properties, energies of atoms, calculators in threads, atoms far from the origin."""

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("mace")
from ase.calculators.singlepoint import SinglePointCalculator  # noqa: E402
from ase.io import read  # noqa: E402
from ase.mep import DimerControl, MinModeAtoms  # noqa: E402

import electret  # noqa: E402
from electret import Calculator, InputError  # noqa: E402
from electret.data import read_frames  # noqa: E402
from electret.graph import Graph  # noqa: E402
from electret.models import build  # noqa: E402
from electret.training.evaluation import as_dataset  # noqa: E402
from model_cases import FAMILY_OPTIONS, STATISTICS, bulk, in_field, model_config, molecule, small_model  # noqa: E402

FAMILIES = list(FAMILY_OPTIONS)


def counted(model):
    """A calculator and the list that grows with its evaluations."""
    calculator, calls = Calculator(model), []
    calculator.model.register_forward_hook(lambda *_: calls.append(1))
    return calculator, calls


def conditions(atoms, model):
    """Atoms charged and in a field, as far as the model honours them."""
    atoms = in_field(atoms, 1.0)
    for name in {"external_field", "total_charge"} - model.honours:
        del atoms.info[name]
    return atoms


@pytest.mark.parametrize("system", [molecule, bulk])
def test_one_evaluation_gives_all(system, tmp_path):
    atoms = system()
    atoms.calc, calls = counted(small_model("local_charges"))
    energy = atoms.get_potential_energy()
    atoms.write(tmp_path / "after_the_energy.extxyz")
    stored = read(tmp_path / "after_the_energy.extxyz")
    assert stored.get_potential_energy() == pytest.approx(energy, abs=1e-7)
    np.testing.assert_allclose(stored.get_forces(), atoms.get_forces(), rtol=0, atol=1e-7)
    assert np.abs(stored.get_forces()).max() > 0.1
    atoms.get_charges()
    atoms.get_potential_energies()
    if system is bulk:
        np.testing.assert_allclose(stored.get_stress(), atoms.get_stress(), rtol=0, atol=1e-7)
        assert np.abs(stored.get_stress()).max() > 1e-4
    assert len(calls) == 1


def test_derivatives_only_where_asked_for():
    atoms, twin = bulk(), bulk()
    twin.calc = Calculator(small_model("qeq"))
    atoms.calc = Calculator(small_model("qeq"), derivatives=False)
    assert atoms.get_potential_energy() == pytest.approx(twin.get_potential_energy(), abs=1e-11)
    assert not {"forces", "stress", "energies"} & atoms.calc.results.keys()
    np.testing.assert_allclose(atoms.get_potential_energies(), twin.get_potential_energies(), atol=1e-10)
    np.testing.assert_allclose(atoms.get_forces(), twin.get_forces(), rtol=0, atol=1e-10)
    np.testing.assert_allclose(atoms.get_stress(), twin.get_stress(), rtol=0, atol=1e-10)


def test_the_dimer_method_has_its_barrier():
    """It keeps the energy of its first state only where the forces are there without another evaluation."""
    atoms = molecule()
    atoms.calc = Calculator(small_model("local_charges"))
    start = atoms.get_potential_energy()
    control = DimerControl(logfile=None, eigenmode_logfile=None)
    dimer = MinModeAtoms(atoms, control, random_seed=1)
    assert isinstance(dimer.atoms0.calc, SinglePointCalculator)
    atoms.positions[1] += [0.05, 0.0, 0.1]
    assert abs(atoms.get_potential_energy() - start) > 1e-3
    barrier = dimer.get_barrier_energy()
    assert barrier == pytest.approx(atoms.get_potential_energy() - start, abs=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_energies_of_atoms_add_up(family):
    model = small_model(family)
    calculator = Calculator(model)
    for plain in (molecule(), bulk()):
        plain.calc = calculator
        assert plain.get_potential_energies().shape == (len(plain),)
        assert plain.get_potential_energies().sum() == pytest.approx(plain.get_potential_energy(), abs=1e-10)
    atoms = conditions(molecule(), model)
    atoms.calc = calculator
    energies = atoms.get_potential_energies()
    assert energies.sum() == pytest.approx(atoms.get_potential_energy(), abs=1e-10)


def test_energies_of_atoms_are_what_they_stand_for():
    """Shares of MACE, half of charge times potential, and the field on charges and dipoles."""
    atoms = molecule()
    results = {}
    for family in ("mace", "fixed_charges", "local_charges"):
        atoms.calc = Calculator(build(model_config(family), STATISTICS, seed=1))
        results[family] = atoms.get_potential_energies()
    # far from anything else an atom has the energy that it has alone
    far = molecule() + molecule()
    far.positions[4:] += 50.0
    far.calc = Calculator(small_model("mace"))
    alone = molecule()
    alone.calc = far.calc
    expected = alone.get_potential_energies()
    np.testing.assert_allclose(far.get_potential_energies(), [*expected, *expected], rtol=0, atol=1e-9)

    atoms.calc = Calculator(small_model("fixed_charges"))
    charges = atoms.get_charges()
    sigma = [{"O": 1.0, "H": 0.8, "Na": 1.2}[symbol] for symbol in atoms.symbols]
    potential = electret.coulomb(atoms.positions, charges[:, None], sigma).potential[:, 0]
    halves = results["fixed_charges"] - results["mace"]
    assert np.abs(halves).min() > 1e-3
    np.testing.assert_allclose(halves, 0.5 * charges * potential, rtol=0, atol=1e-8)

    field = np.array([0.05, -0.11, 0.08])
    atoms.calc = Calculator(small_model("local_charges"))
    atoms.info["external_field"] = field
    p = Calculator(small_model("local_charges"))
    p.get_potential_energy(atoms)
    dipoles = p.state["multipoles"][:, 1:4][:, [2, 0, 1]]
    moments = p.state["multipoles"][:, :1] * atoms.positions + dipoles
    work = atoms.get_potential_energies() - results["local_charges"]
    assert np.abs(work).max() > 1e-3
    np.testing.assert_allclose(work, -moments @ field, rtol=0, atol=1e-10)


@pytest.mark.parametrize("energy", ["grand_potential", "internal"])
def test_energies_of_atoms_add_up_at_constant_fermi_level(energy):
    """Shares add up to either energy."""
    atoms = bulk()
    atoms.info["fermi_level"] = -4.0
    atoms.calc = Calculator(small_model("qeq"), energy=energy)
    assert atoms.get_potential_energies().sum() == pytest.approx(atoms.get_potential_energy(), abs=1e-10)
    state = atoms.calc.state
    assert abs(state["grand_potential"] - state["internal_energy"]) > 0.1
    assert atoms.get_potential_energy() == state[{"internal": "internal_energy"}.get(energy, energy)]


def test_energies_of_a_model_that_ignores_the_fermi_level():
    atoms = molecule()
    model = build(model_config("mace", ignored_conditions=["fermi_level"]), STATISTICS, seed=1)
    atoms.calc = Calculator(model)
    expected = atoms.get_potential_energies()
    atoms.info["fermi_level"] = -4.0
    np.testing.assert_array_equal(atoms.get_potential_energies(), expected)


@pytest.mark.parametrize("family", ["local_charges", "fixed_point"])
def test_threads_share_a_calculator(family):
    """Each has the results of its own atoms."""
    structures = []
    for seed in range(6):
        atoms = molecule()
        atoms.rattle(0.1, seed=seed)
        structures.append(atoms)
    calculator = Calculator(small_model(family), warm_start=False)

    def result(atoms, calc):
        atoms = atoms.copy()
        atoms.calc = calc
        return atoms.get_potential_energy(), atoms.get_forces()

    expected = [result(atoms, copy.deepcopy(calculator)) for atoms in structures]
    with ThreadPoolExecutor(3) as pool:
        shared = pool.map(lambda atoms: result(atoms, calculator), structures * 3)
        for (energy, forces), (alone, forces_alone) in zip(shared, expected * 3, strict=True):
            assert energy == alone
            np.testing.assert_array_equal(forces, forces_alone)


def on_a_grid(atoms):
    """Positions that a shift by a power of two leaves exact."""
    atoms.positions[:] = np.round(atoms.positions * 2.0**20) / 2.0**20
    return atoms


@pytest.mark.parametrize("family", ["mace", "local_charges", "split_charges", "fixed_point"])
def test_float32_models_do_not_depend_on_where_atoms_are(family):
    """To 1e8 Å, in energy, forces and dipole."""
    model = small_model(family)
    calculator = Calculator(model, dtype="float32", warm_start=False)
    near = on_a_grid(molecule())
    if "external_field" in model.honours and not model.self_consistent:
        near.info["external_field"] = [0.05, -0.11, 0.08]
    near.calc = calculator
    energy, forces = near.get_potential_energy(), near.get_forces()
    far = near.copy()
    far.positions += [2.0**27, -(2.0**26), 2.0**25]
    far.calc = calculator
    assert np.abs(forces).max() > 0.1
    assert far.get_potential_energy() == pytest.approx(energy, abs=1e-5)
    np.testing.assert_allclose(far.get_forces(), forces, rtol=0, atol=1e-5)


def test_float32_models_do_not_depend_on_the_listed_image():
    """Atoms of a crystal that have drifted over many cells."""
    atoms = bulk()
    atoms.set_cell(np.round(atoms.cell.array * 2.0**18) / 2.0**18)
    on_a_grid(atoms)
    atoms.calc = Calculator(small_model("local_charges"), dtype="float32")
    forces, stress = atoms.get_forces(), atoms.get_stress()
    drifted = atoms.copy()
    drifted.positions += (np.arange(15).reshape(5, 3) * 2**18) @ atoms.cell.array
    drifted.calc = atoms.calc
    np.testing.assert_allclose(drifted.get_forces(), forces, rtol=0, atol=1e-5)
    np.testing.assert_allclose(drifted.get_stress(), stress, rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", ["mace", "fixed_point"])
def test_coinciding_atoms_are_named_before_anything_is_evaluated(family, tmp_path):
    atoms = bulk()
    atoms.calc, calls = counted(small_model(family))
    atoms.positions[3] = atoms.positions[1] + atoms.cell[0]
    with pytest.raises(InputError, match=r"atoms 1 and 3 \(its image in cell \[-1, 0, 0\]\) coincide"):
        atoms.get_potential_energy()
    atoms.positions[3] += 0.5
    atoms.get_potential_energy()
    atoms.positions[3] = atoms.positions[1]
    with pytest.raises(InputError, match="atoms 1 and 3 coincide"):
        atoms.get_potential_energy()  # with a neighbour list that follows the atoms
    assert len(calls) == 1
    with pytest.raises(InputError, match="atoms 1 and 3 coincide"):
        Graph.from_atoms(atoms, 3.0)


def test_coinciding_atoms_of_data_are_named_with_their_frame(tmp_path):
    from ase.io import write

    good, bad = molecule(), molecule()
    bad.positions[2] = bad.positions[1]
    for atoms in (good, bad):
        atoms.info["REF_energy"] = -1.0
    write(tmp_path / "frames.xyz", [good, bad])
    frames = read_frames(tmp_path / "frames.xyz")
    with pytest.raises(InputError, match=r"frames\.xyz.*1.*atoms 1 and 2 coincide"):
        as_dataset(small_model("mace"), frames)
