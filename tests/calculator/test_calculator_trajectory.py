"""Values kept from step to step by the calculator: after any change results are those of a new calculator."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("mace")
from ase import Atoms  # noqa: E402

from electret import Calculator, InputError  # noqa: E402
from model_cases import bulk, small_model  # noqa: E402


def assert_fresh(atoms: Atoms) -> None:
    """Energy, forces and charges are those of a calculator without a past."""
    fresh = atoms.copy()
    fresh.info = dict(atoms.info)
    fresh.calc = Calculator(small_model("local_charges"))
    energy = atoms.get_potential_energy()
    assert energy == fresh.get_potential_energy()
    np.testing.assert_array_equal(atoms.get_forces(), fresh.get_forces())
    np.testing.assert_array_equal(atoms.get_charges(), fresh.get_charges())


def test_any_change_between_steps_gives_what_a_new_calculator_gives() -> None:
    """Steps within the skin of the neighbour list, and changes that it or the kept tensors must notice."""
    rng = np.random.default_rng(0)
    atoms = bulk()
    atoms.calc = Calculator(small_model("local_charges"))
    atoms.get_forces()
    atoms.calc.reset()  # the first call of TorchScript in a process may sum in another order
    energies = []

    def check() -> None:
        assert_fresh(atoms)
        energies.append(atoms.get_potential_energy())

    check()
    for _ in range(6):
        atoms.positions += rng.normal(scale=0.04, size=(len(atoms), 3))
        check()
    atoms.wrap()
    check()
    atoms.positions[2] += atoms.cell.array[0] - atoms.cell.array[1]
    check()
    atoms.set_cell(atoms.cell.array * 1.01, scale_atoms=True)
    check()
    atoms.set_cell(atoms.cell.array * 1.3, scale_atoms=False)
    check()
    atoms.pbc = [True, True, False]
    check()
    atoms.info["total_charge"] = 1.0
    check()
    atoms.info["external_field"] = np.zeros(3)
    check()
    atoms.info["external_field"] += np.cross(*atoms.cell.array[:2]) * 1e-3
    check()
    atoms.info.clear()
    check()
    atoms.numbers[[0, 1]] = atoms.numbers[[1, 0]]
    check()
    atoms += Atoms("H", [[1.0, 1.0, 6.0]])
    check()
    del atoms[0]
    check()
    atoms.pbc = False
    check()
    atoms.positions += 100.0
    check()
    assert len(set(np.round(energies, 9))) >= 14


def test_an_error_between_steps_leaves_no_trace() -> None:
    atoms = bulk()
    atoms.calc = Calculator(small_model("local_charges"))
    atoms.get_potential_energy()
    good = atoms.positions.copy()
    atoms.positions[1, 2] = np.nan
    with pytest.raises(InputError, match=r"positions\[1, 2\] is nan"):
        atoms.get_potential_energy()
    atoms.positions[:] = good + 0.01
    assert_fresh(atoms)
    atoms.info["total_charge"] = np.inf
    with pytest.raises(InputError, match="total_charge"):
        atoms.get_potential_energy()
    atoms.info["total_charge"] = 0.5
    assert_fresh(atoms)


def test_neighbours_are_followed_and_not_found_anew() -> None:
    atoms = bulk()
    atoms.calc = Calculator(small_model("local_charges"))
    for _ in range(5):
        atoms.positions += 0.01
        atoms.get_forces()
    neighbors = atoms.calc._trajectory._neighbors
    assert (neighbors.n_builds, neighbors.n_updates) == (1, 5)
