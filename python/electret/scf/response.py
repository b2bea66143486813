"""Response of a self-consistent density from the Jacobian at the solution, without finite differences."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace
from typing import cast

import torch

from electret.errors import InputError
from electret.scf.linear import BlockJacobian
from electret.scf.problem import FixedPointEquations, LinearSolver, Problem
from electret.scf.state import State
from electret.units import COULOMB_CONSTANT

__all__ = ["RESPONSES", "linear_responses"]

RESPONSES = frozenset({"fukui", "fukui_multipoles", "capacitance", "stability", "dielectric_tensor"})
"""Properties that follow from solves with the Jacobian alone."""


def linear_responses(
    names: Collection[str],
    problem: Problem,
    loop: Problem,
    state: State,
    jacobian: LinearSolver,
) -> dict[str, torch.Tensor]:
    """Response properties of a batch.

    Args:
        names: `fukui` (dq_i/dQ, `[n_atoms]`), `fukui_multipoles` (dp_i/dQ, `[n_atoms, n_lm]`),
            `capacitance` (-dQ/dmu, `[n_systems]` e/V), `stability` (largest modulus of an eigenvalue of D B,
            `[n_systems]`; fixed points).
        problem: in the graph, for the derivative of the stability in parameters.
        loop: without a graph.
        state: the solution.
        jacobian: at the solution.
    """
    found = {}
    systems = loop.systems
    if {"fukui", "fukui_multipoles", "capacitance"} & set(names):
        zeros = torch.zeros_like(state.multipoles).detach()
        # at constant charge the last row asks for one more charge, at constant Fermi level for one more eV
        x, y = jacobian.solve(zeros, torch.ones_like(systems.total_charge))
        charge = systems.sum(x[:, 0])
        per_charge = x / systems.at_atoms(torch.where(charge == 0, 1.0, charge))[:, None]
        if "fukui" in names:
            found["fukui"] = per_charge[:, 0]
        if "fukui_multipoles" in names:
            found["fukui_multipoles"] = per_charge
        if "capacitance" in names:
            stiffness = torch.where(y == 0, torch.inf, y)
            found["capacitance"] = -torch.where(systems.constrained, 1.0 / stiffness, charge)
    if "dielectric_tensor" in names:
        found["dielectric_tensor"] = _dielectric_tensor(cast(FixedPointEquations, loop), state, jacobian)
    if "stability" in names:
        found["stability"] = _stability(
            cast(FixedPointEquations, problem), cast(FixedPointEquations, loop), state, jacobian
        )
    return found


def _dielectric_tensor(loop: FixedPointEquations, state: State, jacobian: LinearSolver) -> torch.Tensor:
    """1 + 4 pi K dP/dE of dipoles that answer the field alone, `[n_systems, 3, 3]`.

    The sums without k = 0 leave out the macroscopic field of the density itself, so the field that is applied
    is the macroscopic field E.
    """
    electrostatics, systems = loop.electrostatics, loop.systems
    for system in range(systems.n_systems):
        if not bool(electrostatics.pbc[system].all()):
            raise InputError(
                f"dielectric_tensor is asked for system {system}, which has pbc "
                f"{electrostatics.pbc[system].tolist()}; it is defined for crystals (of open systems ask for "
                "'polarizability')"
            )
    volume = torch.linalg.det(electrostatics.cell).abs()
    columns = []
    for axis in range(3):
        field = electrostatics.positions.new_zeros(systems.n_systems, 3)
        field[:, axis] = 1.0
        # the potential of the field itself has no meaning in a crystal, and nothing here answers it
        features = replace(electrostatics, external_field=field).field_features()
        features[:, :, 0] = 0.0
        right = loop.tangent(state.detach(), features).detach()
        x, _ = jacobian.solve(right, torch.zeros_like(systems.total_charge))
        columns.append(systems.sum(x[:, [3, 1, 2]]) / volume[:, None])
    susceptibility = 4 * math.pi * COULOMB_CONSTANT * torch.stack(columns, dim=2)
    return torch.eye(3, dtype=torch.float64, device=susceptibility.device) + susceptibility


def _stability(
    problem: FixedPointEquations, loop: FixedPointEquations, state: State, jacobian: LinearSolver
) -> torch.Tensor:
    """|lambda| of the dominant eigenvalue, with its derivative in the parameters: d lambda = uᴴ dD B w."""
    systems, operators = loop.systems, loop.electrostatics.operators
    if isinstance(jacobian, BlockJacobian):
        _, right, left = jacobian.dominant_eigenpair()
    else:
        right, left = _dense_eigenpair(loop, state.detach())
    parts = []
    for vector in (right.real, right.imag):
        v = operators.features(vector)
        parts.append(problem.tangent(state.detach(), v))  # D B w, in the graph of the parameters
    values = systems.sum((left.conj() * torch.complex(parts[0], parts[1])).sum(dim=1))
    return values.abs()


def _dense_eigenpair(loop: FixedPointEquations, state: State) -> tuple[torch.Tensor, torch.Tensor]:
    """Right and left eigenvectors of the dominant eigenvalue of D B per system, from its columns.

    One product per unknown of the largest system serves all systems at once.
    """
    systems, operators = loop.systems, loop.electrostatics.operators
    n_atoms, n_lm = state.multipoles.shape
    counts = torch.bincount(systems.batch, minlength=systems.n_systems)
    order = torch.argsort(systems.batch, stable=True)
    first = torch.cumsum(counts, 0) - counts
    columns = []
    for index in range(int(counts.max()) * n_lm):
        atom, component = divmod(index, n_lm)
        unit = torch.zeros_like(state.multipoles)
        present = counts > atom
        unit[order[first[present] + atom], component] = 1.0
        columns.append(loop.tangent(state, operators.features(unit)).detach())
    matrix = torch.stack(columns, dim=2)  # [n_atoms, n_lm, unknowns of the largest system]
    right = torch.zeros(n_atoms, n_lm, dtype=torch.complex128, device=matrix.device)
    left = torch.zeros_like(right)
    for system in range(systems.n_systems):
        atoms = order[first[system] : first[system] + counts[system]]
        size = len(atoms) * n_lm
        if size == 0:
            continue
        block = matrix[atoms].reshape(size, -1)[:, :size]
        values, vectors = torch.linalg.eig(block)
        k = int(values.abs().argmax())
        theirs, transposed = torch.linalg.eig(block.T)
        u = transposed[:, int((theirs - values[k]).abs().argmin())].conj()
        w = vectors[:, k]
        u = u / (u.conj() @ w).conj()
        right[atoms], left[atoms] = w.reshape(-1, n_lm), u.reshape(-1, n_lm)
    return right, left
