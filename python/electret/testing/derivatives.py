"""Derivatives of a model against finite differences: forces, stress, dipole, gradients of a training loss."""

from __future__ import annotations

import numpy as np
import torch
from ase import Atoms

from electret.models import Model
from electret.testing.comparison import assert_close
from electret.testing.evaluation import MULTIPOLES, STENCIL, derivative, energies, evaluate, graph_of

__all__ = ["check_field_response", "check_forces", "check_stress", "check_training_gradients"]


def check_forces(model: Model, atoms: Atoms, tolerance: float = 1e-7, step: float = 1e-3) -> None:
    """Forces are -dE/dR by finite differences (fourth order) along 6 random directions (eV/Å)."""
    forces = evaluate(model, atoms)["forces"]
    directions = np.random.default_rng(7).normal(size=(6, *forces.shape))
    found, expected = [], []
    for direction in directions:
        moved = []
        for offset, _ in STENCIL:
            copy = atoms.copy()
            copy.positions = atoms.positions + offset * step * direction
            moved.append(copy)
        found.append(-float((forces * direction).sum()))
        expected.append(derivative(energies(model, moved), step))
    assert_close("forces against -dE/dR", found, expected, tolerance)


def check_stress(model: Model, atoms: Atoms, tolerance: float = 1e-8, step: float = 1e-3) -> None:
    """Stress is dE/dstrain / abs(det cell) by finite differences for all six components (eV/Å³)."""
    volume = abs(np.linalg.det(atoms.cell.array))
    found = evaluate(model, atoms, stress=True)["stress"][0]
    expected = np.zeros((3, 3))
    for i, j in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)):
        strain = np.zeros((3, 3))
        strain[i, j] += 0.5
        strain[j, i] += 0.5
        strained = []
        for offset, _ in STENCIL:
            copy = atoms.copy()
            deformation = np.eye(3) + offset * step * strain
            copy.set_cell(atoms.cell.array @ deformation, scale_atoms=False)
            copy.positions = atoms.positions @ deformation
            strained.append(copy)
        expected[i, j] = expected[j, i] = derivative(energies(model, strained), step) / volume
    assert_close("stress against dE/dstrain", found, expected, tolerance)


def check_field_response(model: Model, atoms: Atoms, tolerance: float = 1e-7, step: float = 1e-3) -> None:
    """dE/dF is minus the dipole (the polarisation where the model has one), by finite differences (e Å)."""
    field = np.asarray(atoms.info.get("external_field", np.zeros(3)), dtype=np.float64)
    before = evaluate(model, atoms)
    expected = np.zeros((1, 3))
    for axis in range(3):
        fields = []
        for offset, _ in STENCIL:
            copy = atoms.copy()
            copy.info["external_field"] = field + offset * step * np.eye(3)[axis]
            fields.append(copy)
        expected[0, axis] = -derivative(energies(model, fields), step)
    found = before.get("polarization", before["dipole"])
    assert_close("dipole against -dE/dF", found, expected, tolerance)


def check_training_gradients(
    model: Model, atoms: Atoms, tolerance: float = 1e-5, step: float = 1e-4, seed: int = 11
) -> None:
    """Parameter gradients of a loss of energy, forces and density (second derivatives of the energy) agree
    with finite differences for every parameter tensor, to `tolerance` of the largest."""
    graph = graph_of(model, atoms)
    generator = np.random.default_rng(seed)
    weights: dict[str, torch.Tensor] = {}

    def loss(training: bool) -> torch.Tensor:
        result = model(graph, training=training)
        total = result["energy"].new_zeros(())
        for name in ("energy", "forces", *MULTIPOLES):
            if name in result:
                if name not in weights:
                    weights[name] = torch.as_tensor(generator.normal(size=tuple(result[name].shape)))
                # Squares, so that the loss is curved in the results as in training.
                value = result[name] - graph.n_atoms if name == "energy" else result[name]
                total = total + (weights[name].to(value.device) * value * value).sum()
        return total

    parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
    gradients = torch.autograd.grad(
        loss(training=True), list(parameters.values()), allow_unused=True, materialize_grads=True
    )
    found, expected = [], []
    for parameter, gradient in zip(parameters.values(), gradients, strict=True):
        direction = torch.as_tensor(generator.normal(size=tuple(parameter.shape))).to(parameter)
        direction = direction / direction.norm()
        original = parameter.detach().clone()
        losses = []
        for offset, _ in STENCIL:
            with torch.no_grad():
                parameter.copy_(original + offset * step * direction)
            losses.append(loss(training=False).item())
        with torch.no_grad():
            parameter.copy_(original)
        found.append(float((gradient * direction).sum()))
        expected.append(derivative(np.array(losses), step))
    scale = float(np.abs(expected).max())
    assert_close("gradients of the training loss", found, expected, tolerance * scale)
