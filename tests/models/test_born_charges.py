"""Born effective charges of densities that are functions of the surroundings of each atom."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("mace")

import torch
from ase import Atoms

from electret.calculator import Calculator
from electret.graph import Graph
from electret.models import Model, build
from model_cases import STATISTICS, bulk, model_config, molecule

FAMILIES = {
    "local_charges": {},
    "free": {"conserve_charge": False},
    "latent_ewald": {"latent": {"epsilon_factor": 2.25, "remove_mean": False}},
}


def model_of(name: str) -> Model:
    """A model whose charges depend on their surroundings as those of trained ones do."""
    family = name if name == "latent_ewald" else "local_charges"
    model = build(model_config(family, **FAMILIES[name]), STATISTICS, seed=2)
    with torch.no_grad():
        for parameter in model.readout.parameters():
            parameter.mul_(3.0)
    return model


def in_box(length: float, pbc: bool | list[bool] = True) -> Atoms:
    """Ions and a water, which the layers of the model connect, across the borders of a sheared box."""
    atoms = molecule() + Atoms("NaOH", [[3.1, 0.4, 0.2], [5.2, 1.1, 0.6], [5.4, 2.0, 0.9]])
    atoms.set_cell([[length, 0.4, 0.0], [0.3, length, -0.5], [0.0, 0.6, length]])
    atoms.pbc = pbc
    atoms.wrap()
    return atoms


def born(model: Model, atoms: Atoms) -> np.ndarray:
    graph = Graph.from_atoms(atoms, model.cutoff)
    return model(graph, properties=("born_effective_charges",))["born_effective_charges"].numpy()


def by_nearest_images(model: Model, atoms: Atoms) -> np.ndarray:
    """q_i + sum_j dq_j/dR_i (r_j - r_i) + sum_j dd_j/dR_i by differences of what the readout gives."""
    graph = Graph.from_atoms(atoms, model.cutoff)
    raw: list[torch.Tensor] = []
    handle = model.readout.register_forward_hook(lambda module, given, output: raw.append(output.detach()))
    output = model(graph)
    step = 1e-4
    for atom, axis in np.ndindex(len(atoms), 3):
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[atom, axis] += sign * step
            model(Graph.from_atoms(moved, model.cutoff))
    handle.remove()
    name = "multipoles" if "multipoles" in output else "latent_multipoles"
    charges = output[name][:, 0].numpy()
    found = charges[:, None, None] * np.eye(3)
    distances = atoms.get_all_distances(mic=True, vector=True)
    for index, (atom, axis) in enumerate(np.ndindex(len(atoms), 3)):
        change = ((raw[1 + 2 * index] - raw[2 + 2 * index]) / (2 * step)).numpy()
        found[atom, :, axis] += change[:, 0] @ distances[atom] + change[:, [3, 1, 2]].sum(axis=0)
    return found


@pytest.mark.parametrize("name", FAMILIES)
def test_charges_near_an_atom_have_their_distance(name: str) -> None:
    model, atoms = model_of(name), in_box(40.0)
    expected = by_nearest_images(model, atoms)
    if name == "local_charges":  # Born charges add up to the total charge
        expected -= expected.mean(axis=0)
    if name == "latent_ewald":
        expected *= 1.5
    found = born(model, atoms)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.abs(found - np.einsum("iaa->i", found)[:, None, None] / 3 * np.eye(3)).max() > 0.05


def test_they_are_the_derivatives_of_the_dipole_along_open_axes() -> None:
    model = model_of("local_charges")
    open_box, slab = in_box(40.0, False), in_box(40.0, [True, True, False])
    slab.set_cell(np.diag([40.0, 40.0, 60.0]))
    slab.positions = open_box.positions = in_box(40.0, False).positions
    np.testing.assert_allclose(born(model, slab)[:, 2], born(model, open_box)[:, 2], atol=1e-10)
    slab.calc = Calculator(model)
    response = slab.calc.response(slab, ["born_effective_charges"])["born_effective_charges"]
    np.testing.assert_allclose(response, born(model, slab), atol=1e-12)


@pytest.mark.parametrize("name", FAMILIES)
def test_no_image_and_no_copy_is_preferred(name: str) -> None:
    model, cell = model_of(name), bulk() * (2, 2, 2)
    expected = born(model, cell)
    moved = cell.copy()
    moved.positions += np.random.default_rng(1).integers(-2, 3, (len(cell), 3)) @ cell.cell.array
    moved.positions += [0.3, -0.2, 0.7]
    np.testing.assert_allclose(born(model, moved), expected, atol=1e-9)
    np.testing.assert_allclose(expected, np.tile(expected[:5], (8, 1, 1)), atol=1e-9)
    if name == "local_charges":
        np.testing.assert_allclose(expected.sum(axis=0), 0.0, atol=1e-10)
    batch = Graph.collate([Graph.from_atoms(atoms, model.cutoff) for atoms in (cell, bulk())])
    both = model(batch, properties=("born_effective_charges",), stress=True)["born_effective_charges"]
    np.testing.assert_allclose(
        both[: len(cell)].numpy(), expected, atol=1e-6
    )  # the longer cell has fewer sines


def test_losses_of_crystals_have_gradients() -> None:
    model, atoms = model_of("local_charges"), bulk()
    graph = Graph.from_atoms(atoms, model.cutoff)

    def loss() -> torch.Tensor:
        found = model(graph, training=True, properties=("born_effective_charges",))
        return found["born_effective_charges"].square().sum()

    weight = next(parameter for parameter in model.readout.parameters() if parameter.numel() > 1)
    (gradient,) = torch.autograd.grad(loss(), weight)
    place = int(gradient.abs().argmax())
    values = []
    for step in (1e-5, -2e-5):
        with torch.no_grad():
            weight.view(-1)[place] += step
        values.append(float(loss().detach()))
    assert (values[0] - values[1]) / 2e-5 == pytest.approx(float(gradient.view(-1)[place]), rel=1e-6)
