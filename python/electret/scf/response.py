"""Linear response of a self-consistent density, from solves with the Jacobian at the solution."""

from __future__ import annotations

from collections.abc import Collection
from typing import cast

import torch

from electret.scf.linear.blocks import BlockJacobian
from electret.scf.linear.operator import OperatorJacobian
from electret.scf.problem import Evaluation, FixedPointEvaluation, LinearSolver, Problem, Systems
from electret.scf.state import State

__all__ = ["RESPONSES", "linear_responses", "wrong_response"]

RESPONSES = frozenset({"fukui", "fukui_multipoles", "capacitance", "stability"})
"""Properties that follow from the Jacobian alone."""


def linear_responses(
    names: Collection[str],
    problem: Problem,
    point: Evaluation,
    jacobian: LinearSolver,
) -> dict[str, torch.Tensor]:
    """Response properties of a batch.

    Args:
        names: `fukui` (dq_i/dQ, `[n_atoms]`), `fukui_multipoles` (dp_i/dQ, `[n_atoms, n_lm]`),
            `capacitance` (-dQ/dmu, `[n_systems]` e/V), `stability` (spectral radius of D B, `[n_systems]`;
            fixed points).
        problem: equations in the graph of the parameters, for the gradient of the stability.
        point: the same equations at the solution, without a graph.
        jacobian: Jacobian there.
    """
    found = {}
    systems = problem.systems
    if {"fukui", "fukui_multipoles", "capacitance"} & set(names):
        zeros = torch.zeros_like(point.state.multipoles)
        # right-hand side of the last row: one more charge, or one more eV of the Fermi level
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
    if "stability" in names:
        in_graph = problem.at(point.state)
        at, in_graph = cast(FixedPointEvaluation, point), cast(FixedPointEvaluation, in_graph)
        found["stability"] = _stability(in_graph, at, systems, jacobian)
    return found


def _stability(
    in_graph: FixedPointEvaluation, point: FixedPointEvaluation, systems: Systems, jacobian: LinearSolver
) -> torch.Tensor:
    """Spectral radius of D B, with its derivative d lambda = uᴴ dD B w in the graph of the parameters."""
    operators = point.electrostatics.operators
    _, right, left = cast(BlockJacobian | OperatorJacobian, jacobian).dominant_eigenpair()
    parts = [in_graph.tangent(operators.features(vector)) for vector in (right.real, right.imag)]
    values = systems.sum((left.conj() * torch.complex(parts[0], parts[1])).sum(dim=1))
    return values.abs()


def wrong_response(problem: Problem, state: State) -> torch.Tensor:
    """Share of the responses dq_i/dmu at fixed potential that is positive, `[n_systems]`, of fixed points.

    sum_i max(0, dq_i/dmu) / sum_i |dq_i/dmu|, in the graph of the parameters; state and denominator are
    constants. Charge flows off an atom whose level rises, so that it should be zero. Where positive and
    negative responses cancel, no Fermi level gives the total charge, and the density has a pole.
    """
    systems = problem.systems
    at = cast(FixedPointEvaluation, problem.at(state))
    response = at.charge_response
    size = systems.sum(response.detach().abs())
    return systems.sum(torch.relu(response)) / torch.where(size > 0, size, 1.0)
