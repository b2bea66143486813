"""Derivatives of a self-consistent state without differentiating the iteration that found it.

At the converged, detached state the chord-Newton step x <- x - K0^-1 R(x, theta) with the constant
Jacobian K0 changes nothing in value, but carries the dependence on parameters and positions:
one step gives exact first derivatives, two give exact second derivatives, which losses of
forces need. Each costs one evaluation of the residual and one solve; the backward pass is a solve with the
transpose.
"""

from __future__ import annotations

import math

import torch

from electret.scf.problem import LinearSolver, Problem
from electret.scf.state import State

__all__ = ["chord_steps", "linear_solve"]

ROUNDING = 1e-13
"""Residuals below this are those of exact arithmetic, rounded: e Å^l, or eV/(e Å^l)."""


class _Solve(torch.autograd.Function):
    """K^-1 as a linear operator, differentiable any number of times in its right-hand side."""

    @staticmethod
    def forward(ctx, multipoles, condition, solver, transpose, tolerance):
        ctx.solver, ctx.transpose = solver, transpose
        ctx.shapes = multipoles.shape, condition.shape
        ctx.set_materialize_grads(False)
        if tolerance is not None and tolerance >= 1.0:
            return torch.zeros_like(multipoles), torch.zeros_like(condition)
        return solver.solve(multipoles, condition, transpose, tolerance=tolerance)

    @staticmethod
    def backward(ctx, multipoles_bar, condition_bar):
        if multipoles_bar is None and condition_bar is None:
            return (None,) * 5
        if multipoles_bar is None:
            multipoles_bar = condition_bar.new_zeros(ctx.shapes[0])
        if condition_bar is None:
            condition_bar = multipoles_bar.new_zeros(ctx.shapes[1])
        x, y = _Solve.apply(multipoles_bar, condition_bar, ctx.solver, not ctx.transpose, None)
        return x, y, None, None, None


def linear_solve(
    multipoles: torch.Tensor, condition: torch.Tensor, solver: LinearSolver, transpose: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """K^-1 (multipoles, condition), or with the transpose, as a differentiable operation of its arguments."""
    return _Solve.apply(multipoles, condition, solver, transpose, None)


def chord_steps(
    problem: Problem, state: State, solver: LinearSolver, active: torch.Tensor, steps: int
) -> State:
    """The state after `steps` chord-Newton steps in the graph of `problem`.

    Args:
        problem: with differentiable parameters.
        state: the self-consistent state, detached here.
        solver: Jacobian there.
        active: systems to step, `[n_systems]` bool; the others keep their detached state.
        steps: 1 for first derivatives, 2 for second ones.
    """
    state = state.detach()
    weight = active.to(state.multipoles.dtype)
    per_atom = problem.systems.at_atoms(weight)[:, None]
    for _ in range(steps):
        residual = problem.residual(state)
        right = residual.multipoles * per_atom, residual.condition * weight
        # The value of the step is known well enough at rounding, its derivatives are solved for exactly: a
        # residual of rounding needs no solve.
        largest = max(float(part.detach().abs().max()) if part.numel() else 0.0 for part in right)
        tolerance = None if not largest < math.inf else max(ROUNDING / max(largest, ROUNDING), 1e-12)
        x, y = _Solve.apply(*right, solver, False, tolerance)
        state = State(state.multipoles - x, state.fermi_level - y)
    return state
