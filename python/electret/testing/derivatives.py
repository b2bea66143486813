"""Derivatives of a model against finite differences: forces, stress, dipole, gradients of a training loss."""

from __future__ import annotations

import numpy as np
import torch
from ase import Atoms

from electret.models import Model
from electret.scf import ScfRequest, State
from electret.testing.comparison import assert_close
from electret.testing.evaluation import MULTIPOLES, STENCIL, derivative, energies, evaluate, graph_of

__all__ = ["check_field_response", "check_forces", "check_stress", "check_training_gradients"]


def check_forces(model: Model, atoms: Atoms, tolerance: float = 1e-7, step: float = 1e-3) -> None:
    """Forces are -dE/dR by finite differences (fourth order) along 6 random directions (eV/Å)."""
    forces = evaluate(model, atoms)["forces"]
    directions = np.random.default_rng(7).normal(size=(6, *forces.shape))
    moved = []
    for direction in directions:
        for offset, _ in STENCIL:
            copy = atoms.copy()
            copy.positions = atoms.positions + offset * step * direction
            moved.append(copy)
    expected = derivative(energies(model, moved).reshape(len(directions), -1), step)
    found = -np.einsum("dia,ia->d", directions, forces)
    assert_close("forces against -dE/dR", found, expected, tolerance)


def check_stress(model: Model, atoms: Atoms, tolerance: float = 1e-8, step: float = 1e-3) -> None:
    """Stress is dE/dstrain / abs(det cell) by finite differences for all six components (eV/Å³)."""
    volume = abs(np.linalg.det(atoms.cell.array))
    found = evaluate(model, atoms, stress=True)["stress"][0]
    components = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
    strained = []
    for i, j in components:
        strain = np.zeros((3, 3))
        strain[i, j] += 0.5
        strain[j, i] += 0.5
        for offset, _ in STENCIL:
            copy = atoms.copy()
            deformation = np.eye(3) + offset * step * strain
            copy.set_cell(atoms.cell.array @ deformation, scale_atoms=False)
            copy.positions = atoms.positions @ deformation
            strained.append(copy)
    slopes = derivative(energies(model, strained).reshape(len(components), -1), step) / volume
    expected = np.zeros((3, 3))
    for (i, j), slope in zip(components, slopes, strict=True):
        expected[i, j] = expected[j, i] = slope
    assert_close("stress against dE/dstrain", found, expected, tolerance)


def check_field_response(model: Model, atoms: Atoms, tolerance: float = 1e-7, step: float = 1e-3) -> None:
    """dE/dF is minus the dipole (the polarisation where the model has one), by finite differences (e Å)."""
    field = np.asarray(atoms.info.get("external_field", np.zeros(3)), dtype=np.float64)
    before = evaluate(model, atoms)
    fields = []
    for direction in np.eye(3):
        for offset, _ in STENCIL:
            copy = atoms.copy()
            copy.info["external_field"] = field + offset * step * direction
            fields.append(copy)
    expected = -derivative(energies(model, fields).reshape(3, -1), step)
    found = before.get("polarization", before["dipole"])
    assert_close("dipole against -dE/dF", found[0], expected, tolerance)


def check_training_gradients(
    model: Model, atoms: Atoms, tolerance: float = 1e-5, step: float = 1e-4, seed: int = 11
) -> None:
    """Parameter gradients of a loss of energy, forces and density (second derivatives of the energy) agree
    with finite differences for every parameter tensor, to `tolerance` of the largest."""
    graph = graph_of(model, atoms)
    generator = np.random.default_rng(seed)
    weights: dict[str, torch.Tensor] = {}
    request = None
    if model.self_consistent:
        found = model(graph, forces=False)
        request = ScfRequest(start=State(found["multipoles"], found["fermi_level"]))

    def loss(training: bool) -> torch.Tensor:
        result = model(graph, training=training, scf=request)
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
        for offset in (-step, step):
            with torch.no_grad():
                parameter.copy_(original + offset * direction)
            losses.append(loss(training=False).item())
        with torch.no_grad():
            parameter.copy_(original)
        found.append(float((gradient * direction).sum()))
        expected.append((losses[1] - losses[0]) / (2.0 * step))
    scale = float(np.abs(expected).max())
    assert_close("gradients of the training loss", found, expected, tolerance * scale)
