"""TorchSim with electret's models: its own validation, and its dynamics against those of ASE."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("mace")

from hosts import STEPS, require_torch_sim, start, tiny_model, trajectory  # noqa: E402

torch_sim = require_torch_sim()
from ase.stress import full_3x3_to_voigt_6_stress  # noqa: E402
from torch_sim.models.interface import validate_model_outputs  # noqa: E402

from electret import Calculator, ConvergenceError, InputError  # noqa: E402
from electret.interfaces.torch_sim import ElectretModel  # noqa: E402
from electret.models import Statistics, build  # noqa: E402
from model_cases import bulk, in_field, model_config, molecule, slab  # noqa: E402

CPU = torch.device("cpu")


def state_of(systems):
    return torch_sim.initialize_state(systems, CPU, torch.float64)


def test_passes_the_validation_of_torch_sim():
    statistics = Statistics(elements=(14, 26), e0s={14: -1.0, 26: -2.0}, avg_num_neighbors=10.0)
    backbone = {"r_max": 3.0, "max_ell": 1, "hidden_irreps": "4x0e", "correlation": 1}
    config = model_config("qeq", backbone, electrostatics={"sigma": 1.0, "max_l": 0, "accuracy": 1e-6})
    validate_model_outputs(ElectretModel(build(config, statistics, seed=0), CPU), CPU, torch.float64)


def test_dynamics_is_that_of_ase():
    atoms = start(bulk())
    model = ElectretModel(tiny_model("qeq"), CPU, total_charge=0.1)
    state = state_of([atoms, atoms])
    begin, update = torch_sim.nve(
        model=model, dt=torch.tensor(0.05, dtype=torch.float64), kT=torch.tensor(0.0)
    )
    atoms.info["total_charge"] = 0.1
    stresses = []
    model.register_forward_hook(lambda _, inputs, found: stresses.append(found["stress"].numpy()))
    rows = []
    moving = begin(state)
    moving.momenta = torch.tensor(np.tile(atoms.get_momenta(), (2, 1)))
    for number in range(STEPS + 1):
        moving = update(moving) if number else moving
        rows.append((moving.positions.numpy().copy(), moving.energy.numpy().copy()))
    positions, energies = map(np.array, zip(*rows, strict=True))
    expected = trajectory(atoms, tiny_model("qeq"), 0.05)
    for system in (slice(0, 5), slice(5, 10)):
        moved = (positions[:, system] - expected[0]) @ np.linalg.inv(atoms.cell)  # TorchSim wraps the atoms
        np.testing.assert_allclose((moved - moved.round()) @ atoms.cell.array, 0.0, rtol=0, atol=1e-8)
    np.testing.assert_allclose(energies, np.stack([expected[1]] * 2, axis=1), rtol=0, atol=1e-8)
    np.testing.assert_allclose(-atoms.get_volume() * np.array(stresses)[:, 1], expected[2], rtol=0, atol=1e-8)
    assert np.ptp(expected[0], axis=0).max() > 0.05


def test_conditions_of_state_model_and_call():
    atoms = in_field(molecule(), charge=0.3)
    calculator = Calculator(tiny_model("qeq"))
    expected = calculator.get_property("forces", atoms)
    field = atoms.info["external_field"]
    with pytest.warns(UserWarning, match="open systems have no stress"):
        found = ElectretModel(tiny_model("qeq"), CPU, total_charge=0.3, external_field=field)(
            state_of([atoms])
        )
    np.testing.assert_allclose(found["forces"], expected, atol=1e-7)
    np.testing.assert_allclose(found["dipole"][0], calculator.results["dipole"], atol=1e-7)
    assert not found["stress"].any()
    model = ElectretModel(tiny_model("qeq"), CPU, compute_stress=False)
    state = state_of([molecule(), atoms])
    state.external_field = torch.tensor(np.array([np.zeros(3), field]))
    found = model(state, total_charge=torch.tensor([0.0, 0.3]))
    np.testing.assert_allclose(found["forces"][4:], expected, atol=1e-7)
    plain = calculator.get_property("energy", molecule())
    assert abs(found["energy"][0] - plain) < 1e-7
    grand = model(state_of([molecule()]), fermi_level=-3.0)
    levelled = molecule()
    levelled.info["fermi_level"] = -3.0
    assert abs(grand["energy"][0] - calculator.get_property("energy", levelled)) < 1e-7
    with pytest.raises(InputError, match=r"total_charge has shape \[3\]; expected one value, or"):
        model(state, total_charge=torch.zeros(3))
    with pytest.raises(InputError, match="system 1 has both total_charge and fermi_level"):
        model(state, total_charge=torch.tensor([0.0, 0.3]), fermi_level=-3.0)
    for value, message in (
        (float("nan"), "total_charge is nan"),
        ("one", "total_charge = 'one'; give numbers"),
    ):
        with pytest.raises(InputError, match=message):
            model(state, total_charge=value)
    with pytest.raises(InputError, match="'charge_total' is no condition"):
        model(state, charge_total=1.0)
    with pytest.raises(InputError, match=r"external_field = .* does not depend on it"):
        ElectretModel(tiny_model("mace"), CPU, external_field=field)(state_of([bulk()]))


def test_state_of_newer_versions():
    """One flag for each axis, conditions by other names, results of the last step kept in the state: those of
    TorchSim 0.6, which needs a newer Python."""
    atoms = slab()
    atoms.info["total_charge"] = 0.2
    calculator = Calculator(tiny_model("qeq"))
    calculator.get_property("stress", atoms)
    state = {
        "positions": torch.tensor(atoms.positions),
        "cell": torch.tensor(atoms.cell.array.T.copy())[None],
        "pbc": torch.tensor(atoms.pbc),
        "atomic_numbers": torch.tensor(atoms.numbers),
        "system_idx": torch.zeros(len(atoms), dtype=torch.int64),
        "charge": torch.tensor([0.2]),
        "spin": torch.tensor([0.0]),
    }
    model = ElectretModel(tiny_model("qeq"), CPU)
    found = model(model(state) | state)
    assert abs(found["energy"][0] - calculator.results["energy"]) < 1e-7
    np.testing.assert_allclose(found["forces"], calculator.results["forces"], atol=1e-7)
    stress = full_3x3_to_voigt_6_stress(found["stress"][0].numpy())
    np.testing.assert_allclose(stress, calculator.results["stress"], atol=1e-8)


def test_an_scf_that_does_not_converge_ends_the_run():
    model = ElectretModel(tiny_model("qeq"), CPU, scf_max_iterations=1, scf_solver="mixing")
    begin, _ = torch_sim.nve(model=model, dt=torch.tensor(0.01), kT=torch.tensor(0.0))
    with pytest.raises(ConvergenceError, match=r"did not converge.*\(system 0 of the state\)"):
        begin(state_of([bulk(), bulk()]))
