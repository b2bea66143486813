"""Family `polar`: the energies of PolarMACE, spins, both polarizabilities, conditions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms

pytest.importorskip("mace")

import electret.polar
from electret import Calculator
from electret.errors import InputError
from electret.graph import Graph
from electret.models import BackboneConfig, ModelConfig, build, save
from electret.models.hosted import o3
from model_cases import STATISTICS, model_config, small_model
from polar_models import crystal, mace_batch, molecule, polar_model, slab, under

FIELD = np.array([0.03, -0.05, 0.04])


def graph(atoms: Atoms) -> Graph:
    return Graph.from_atoms(atoms, small_model("polar").cutoff, labels=False)


@pytest.mark.parametrize("mode", ["exact", "as_trained"])
@pytest.mark.parametrize("atoms", [crystal(), molecule()])
def test_energies_are_those_of_polarmace(atoms: Atoms, mode: str) -> None:
    """Conditions in MACE's names, whose field has the other sign."""
    model = small_model("polar")
    field = np.zeros(3) if atoms.pbc.any() else FIELD
    here = atoms.copy()
    here.info.update(total_charge=1, spin_multiplicity=2, external_field=field)
    model.config = model.config.model_copy(
        update={"polar": model.config.polar.model_copy(update={"mode": mode})}
    )
    try:
        found = model(graph(here), stress=bool(atoms.pbc.all()))
    finally:
        model.config = model_config("polar")
    mace = electret.polar.accelerate(model.backbone.mace, mode, accuracy=1e-10)
    expected = mace(mace_batch(mace, under(atoms, 1, 2, -field)), compute_stress=True)
    assert torch.allclose(found["energy"], expected["energy"], rtol=0, atol=1e-10)
    assert torch.allclose(found["forces"], expected["forces"], rtol=0, atol=1e-10)
    assert torch.allclose(found["multipoles"], expected["density_coefficients"], rtol=0, atol=1e-10)
    assert torch.allclose(found["spin_multipoles"], expected["spin_density"], rtol=0, atol=1e-10)
    assert torch.allclose(found["energy_density"], expected["electron_energy"], rtol=0, atol=1e-10)
    if "stress" in found:
        assert torch.allclose(found["stress"], expected["stress"], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("charge", "multiplicity"), [(0, 1), (1, 2), (-1, 4)])
def test_charges_and_spins_add_up(charge: int, multiplicity: int) -> None:
    atoms = molecule()
    atoms.info.update(total_charge=charge, spin_multiplicity=multiplicity)
    atoms.calc = Calculator(small_model("polar"))
    parts = ("energy_short_range", "energy_electrostatic", "energy_field", "energy_density")
    assert atoms.get_potential_energy() == pytest.approx(atoms.get_potential_energies().sum(), abs=1e-10)
    assert atoms.get_potential_energy() == pytest.approx(
        sum(atoms.calc.state[name] for name in parts), abs=1e-10
    )
    assert abs(atoms.calc.state["energy_density"]) > 1e-3
    assert atoms.get_charges().sum() == pytest.approx(charge, abs=1e-10)
    assert atoms.get_magnetic_moments().sum() == pytest.approx(multiplicity - 1, abs=1e-10)
    assert np.abs(atoms.get_magnetic_moments()).max() > 0.05
    assert np.array_equal(atoms.calc.state["spin_multipoles"][:, 0], atoms.get_magnetic_moments())


def test_both_polarizabilities_and_born_charges_are_derivatives() -> None:
    model = small_model("polar")
    atoms = molecule()
    atoms.info.update(total_charge=1, spin_multiplicity=2, external_field=FIELD)
    calculator = Calculator(model)
    found = calculator.response(atoms)
    start, step = graph(atoms), 1e-3
    unit = torch.eye(3, dtype=torch.float64)

    def dipoles(name: str, change: torch.Tensor) -> np.ndarray:
        values = []
        for factor in (-2, -1, 1, 2):
            moved = replace(start, **{name: getattr(start, name) + factor * step * change})
            values.append(model(moved, forces=False)["dipole"][0].numpy())
        return np.tensordot([1, -8, 8, -1], values, axes=1) / (12 * step)

    expected = np.stack([dipoles("external_field", unit[axis]) for axis in range(3)], axis=1)
    np.testing.assert_allclose(found["polarizability"], expected, rtol=1e-7, atol=1e-7)
    shift = torch.zeros(4, 3, dtype=torch.float64)
    shift[1, 2] = 1.0
    np.testing.assert_allclose(
        found["born_effective_charges"][1, :, 2], dipoles("positions", shift), rtol=0, atol=1e-6
    )

    def energy(field: torch.Tensor) -> float:
        return float(
            model(replace(start, external_field=start.external_field + field), forces=False)["energy"]
        )

    def second(a: int, b: int, h: float = 2e-2) -> float:
        signs = [(1, 1), (1, -1), (-1, 1), (-1, -1)]
        return -sum(i * j * energy(h * (i * unit[a] + j * unit[b])) for i, j in signs) / (4 * h * h)

    of_energy = found["energy_polarizability"]
    for a in range(3):
        for b in range(a + 1):
            assert of_energy[a, b] == pytest.approx(second(a, b), abs=1e-6)
    np.testing.assert_allclose(of_energy, of_energy.T, rtol=0, atol=1e-10)
    assert np.abs(of_energy - found["polarizability"]).max() > 0.3 * np.abs(of_energy).max() > 1e-4


def test_a_slab_has_the_normal_components() -> None:
    atoms = slab()
    atoms.info["external_field"] = [0.0, 0.0, 0.05]
    found = Calculator(small_model("polar")).response(atoms)
    assert {"polarizability_normal", "energy_polarizability_normal", "born_effective_charges_normal"} == set(
        found
    )
    atoms.info["external_field"] = [0.05, 0.0, 0.0]
    with pytest.raises(InputError, match="along its periodic axis 0"):
        Calculator(small_model("polar")).get_potential_energy(atoms)
    with pytest.raises(InputError, match=r"polar.*mechanical embedding"):
        Calculator(small_model("polar")).embed([1.0])


def test_an_object_becomes_a_model_and_a_file(tmp_path: Path) -> None:
    mace = electret.polar.accelerate(polar_model(), "as_trained", accuracy=1e-6)
    model = electret.polar.from_mace(mace, mode="as_trained")
    save(model, tmp_path / "polar.electret")
    atoms = molecule()
    atoms.info.update(total_charge=1, spin_multiplicity=2, external_field=FIELD)
    expected = mace(mace_batch(mace, under(atoms, 1, 2, -FIELD)))
    for calculator in (Calculator(tmp_path / "polar.electret"), Calculator(model)):
        energy = float(expected["energy"].detach())
        assert calculator.get_potential_energy(atoms) == pytest.approx(energy, abs=1e-10)
        np.testing.assert_allclose(calculator.get_forces(atoms), expected["forces"], rtol=0, atol=1e-10)
    for name in ("_field_readout_config", "_fixedpoint_update_config"):
        given = vars(mace)[name]
        vars(mace)[name] = {"type": "Other"}
        with pytest.raises(InputError, match=f"'Other' in {name}"):
            electret.polar.from_mace(mace)
        vars(mace)[name] = given
    with pytest.raises(InputError, match="'dft' is not a head"):
        electret.polar.from_mace(mace, BackboneConfig.parse({"head": "dft"}))


def test_one_layer_of_scalars() -> None:
    """As in MACE-POLAR-1-S, which has charges alone; and one with an option that this package lacks."""
    options = {"num_interactions": 1, "hidden_irreps": o3.Irreps("4x0e"), "atomic_multipoles_max_l": 0}
    mace = electret.polar.accelerate(polar_model(**options, correlation=1), accuracy=1e-6)
    model = electret.polar.from_mace(mace)
    atoms = crystal()
    atoms.info.update(total_charge=1, spin_multiplicity=2)
    expected = mace(mace_batch(mace, under(atoms, 1, 2)))
    found = model(Graph.from_atoms(atoms, model.cutoff))
    for name in ("energy", "forces"):
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-10)
    mace.largest_dipole = 0.5
    with pytest.raises(InputError, match=r"has largest_dipole = 0\.5, where .* has None"):
        electret.polar.from_mace(mace)


def test_spins_that_cannot_be_are_refused() -> None:
    atoms = molecule()
    calculator = Calculator(small_model("polar"))
    for key, value, message in (
        ("spin_multiplicity", 0, "give the multiplicity"),
        ("spin_multiplicity", 1.5, "give the multiplicity"),
        ("spin", 2, r"name it spin_multiplicity \(2S \+ 1\)"),
    ):
        atoms.info = {key: value}
        with pytest.raises(InputError, match=message):
            calculator.get_potential_energy(atoms)
    atoms.info = {"spin_multiplicity": 2}
    with pytest.raises(InputError, match="'local_charges' does not depend on it"):
        Calculator(small_model("local_charges")).get_potential_energy(atoms)
    atoms.info = {"spin_multiplicity": 1}
    assert np.isfinite(Calculator(small_model("local_charges")).get_potential_energy(atoms))


def test_spins_are_read_from_frames_and_kept_in_batches() -> None:
    atoms = [molecule(), molecule()]
    atoms[1].info["mult"] = 3
    graphs = [Graph.from_atoms(system, 3.5, keys={"spin_multiplicity": "mult"}) for system in atoms]
    assert Graph.collate(graphs).to(dtype=torch.float32).spin_multiplicity.tolist() == [1.0, 3.0]


def test_options_that_polarmace_lacks_are_refused() -> None:
    options = model_config("polar").model_dump()
    for name, value in (("sigma", {"H": 1.0, "O": 1.0, "Na": 1.0}), ("max_l", 2), ("features_max_l", 2)):
        electrostatics = {**options["electrostatics"], name: value}
        with pytest.raises(InputError, match=r"electrostatics\."):
            build(ModelConfig.parse({**options, "electrostatics": electrostatics}), STATISTICS)
