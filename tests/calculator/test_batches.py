"""`electret.evaluate`: the numbers of the calculator for many structures, and frames that fail."""

import warnings

import numpy as np
import pytest
import torch
from ase.calculators.calculator import PropertyNotImplementedError

import electret
from electret import Calculator, InputError
from electret.calculator import batches
from model_cases import bulk, in_field, molecule, slab, small_model

OF_EACH = {
    "mace": ("energy", "forces", "stress", "energies"),
    "local_charges": ("energy", "forces", "stress", "charges", "dipole", "polarizability"),
    "qeq": (
        *("energy", "free_energy", "forces", "stress", "energies", "charges", "dipole", "total_charge"),
        *("fermi_level", "multipoles", "internal_energy", "polarizability", "fukui", "dipole_normal"),
        *("polarizability_normal", "born_effective_charges_normal"),
    ),
}


def frames():
    """Systems of all boundaries, in turn, with conditions."""
    found = []
    for seed in range(2):
        found += [molecule(), bulk(), in_field(molecule(), charge=1.0), slab()]
        for atoms in found[-4:]:
            atoms.rattle(0.02, seed=seed)
    found[1].info["fermi_level"] = 0.3
    return found


def one_by_one(calculator, atoms, name):
    """A property from the calculator; nan where the boundary does not define it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if name in calculator.implemented_properties:
                return calculator.get_property(name, atoms)
            calculator.get_property("energy", atoms)
            if name in calculator.state:
                return calculator.state[name]
            return calculator.response(atoms).get(name, np.nan)
        except PropertyNotImplementedError:
            return np.nan


@pytest.mark.parametrize("family", OF_EACH)
def test_values_are_those_of_the_calculator(family):
    model, names = small_model(family), OF_EACH[family]
    calculator = Calculator(model, warm_start=False)
    systems = frames()
    for atoms in systems:
        atoms.info = {name: value for name, value in atoms.info.items() if name in model.honours}
    found = electret.evaluate(model, iter(systems), names, batch_size=3)
    assert set(found) == {*names, "failed"}
    assert found["failed"] == {}
    for number, atoms in enumerate(systems):
        for name in names:
            expected = one_by_one(calculator, atoms, name)
            value = found[name][number]
            assert np.isnan(value).all() == np.isnan(expected).all(), (name, number)
            if not np.isnan(expected).all():
                np.testing.assert_allclose(value, expected, rtol=1e-8, atol=1e-8, err_msg=f"{name} {number}")
    assert found["energy"].shape == (8,)
    assert [len(forces) for forces in found["forces"]] == [len(atoms) for atoms in systems]


def test_failures_are_named_and_the_rest_is_kept():
    model = small_model("fixed_point")
    systems = frames()
    systems[2].numbers[:] = 92
    systems[5].positions[1] = systems[5].positions[0]
    systems[7].info["total_chrge"] = 1.0
    with pytest.warns(UserWarning, match=r"3 of 8 frames failed; frame 2: atom 0 is U"):
        found = electret.evaluate(model, systems, ("energy", "forces", "charges"))
    assert list(found["failed"]) == [2, 5, 7]
    assert "coincide" in found["failed"][5]
    assert "total_charge" in found["failed"][7]
    good = [number for number in range(8) if number not in found["failed"]]
    alone = electret.evaluate(model, [systems[number] for number in good])
    np.testing.assert_allclose(found["energy"][good], alone["energy"], rtol=0, atol=1e-9)
    for number in found["failed"]:
        assert np.isnan(found["energy"][number])
        assert found["forces"][number].shape == (len(systems[number]), 3)
        assert np.isnan(found["forces"][number]).all()


def test_an_unconverged_system_fails_alone():
    model, systems = small_model("qeq"), frames()[:2]
    whole = electret.evaluate(model, systems, ("energy", "scf_iterations"), scf_solver="anderson")
    fewest = whole["scf_iterations"].min()
    late = int(whole["scf_iterations"].argmax())
    assert whole["scf_iterations"][late] > fewest
    with pytest.warns(UserWarning, match=rf"1 of 2 frames failed; frame {late}: the SCF did not converge"):
        found = electret.evaluate(model, systems, scf_solver="anderson", scf_max_iterations=int(fewest))
    assert np.isnan(found["energy"][late])
    assert found["energy"][1 - late] == pytest.approx(whole["energy"][1 - late], abs=1e-10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"properties": ("energy", "charge")}, "properties has 'charge'"),
        ({"properties": ("charges",)}, "'mace' model does not define"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"batch_size": "all"}, "batch_size = 'all'"),
        ({"frames": []}, "no frames were given"),
        ({"frames": ["water.xyz"]}, r"frames\[0\] is a str; give ase.Atoms"),
        ({"frames": [molecule()], "properties": "stress"}, "no frame has the property 'stress'"),
        ({"dtype": "float16"}, "dtype is 'float16'"),
    ],
)
def test_arguments_that_cannot_be_used(arguments, message):
    with pytest.raises(InputError, match=message):
        electret.evaluate(**{"model": small_model("mace"), "frames": frames(), **arguments})


def test_no_frame_that_can_be_evaluated():
    systems = frames()[:2]
    for atoms in systems:
        atoms.numbers[:] = 92
    with pytest.raises(InputError, match="2 of 2 frames failed; frame 0: atom 0 is U"):
        electret.evaluate(small_model("mace"), systems)


def test_a_batch_that_does_not_fit_is_halved(monkeypatch):
    model, systems = small_model("mace"), [molecule(), bulk(), slab(), molecule(), bulk()]
    expected = electret.evaluate(model, systems)
    whole = batches.Batches._output

    def limited(self, graph, systems, requests):
        if graph.n_systems > 2:
            raise torch.OutOfMemoryError("too large")
        return whole(self, graph, systems, requests)

    monkeypatch.setattr(batches.Batches, "_output", limited)
    found = electret.evaluate(model, systems)
    assert found["failed"] == {}
    np.testing.assert_allclose(found["energy"], expected["energy"], rtol=0, atol=1e-10)


def test_frames_are_read_as_they_are_needed(monkeypatch):
    """A generator is at most the frames ahead and one batch before the results."""
    monkeypatch.setattr(batches, "AHEAD", 2)
    read, done = [], []
    whole = batches.Batches.evaluated

    def counted(self, queue):
        done.append(len(queue))
        assert len(read) - sum(done) <= 3
        return whole(self, queue)

    def generator():
        for number in range(20):
            read.append(number)
            yield molecule()

    monkeypatch.setattr(batches.Batches, "evaluated", counted)
    found = electret.evaluate(small_model("mace"), generator(), "energy", batch_size=4)
    assert found["energy"].shape == (20,)
    assert done == [4] * 5 + [0]


def test_a_generator_may_change_the_atoms_that_it_gave():
    """As dynamics and optimisers do, which give the same object at each step."""
    calculator, expected = Calculator(small_model("qeq")), []

    def generator():
        atoms = in_field(molecule())
        for _ in range(4):
            expected.append(calculator.get_property("energy", atoms))
            yield atoms
            atoms.positions[0, 2] += 0.05
            atoms.info["external_field"][0] += 0.05

    found = electret.evaluate(
        calculator.model, generator(), "energy", batch_size=np.int64(2), warm_start=True
    )
    np.testing.assert_allclose(found["energy"], expected, rtol=0, atol=1e-7)


def test_constant_fermi_level_gives_the_grand_potential():
    model = small_model("qeq")
    atoms = bulk()
    atoms.info["fermi_level"] = 0.3
    names = ("energy", "internal_energy", "fermi_level", "total_charge", "energies")
    found = electret.evaluate(model, [atoms], names)
    grand = found["internal_energy"] + found["fermi_level"] * found["total_charge"]
    np.testing.assert_allclose(found["energy"], grand, rtol=1e-12)
    np.testing.assert_allclose(found["energies"][0].sum(), grand, rtol=1e-9)
    internal = electret.evaluate(model, [atoms], "energy", energy="internal")
    np.testing.assert_allclose(internal["energy"], found["internal_energy"], rtol=1e-12)
