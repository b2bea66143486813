"""Derivatives of a self-consistent state by the implicit function theorem.

At the converged, detached state x0 the chord-Newton step x <- x - K0⁻¹ R(x, theta) with the constant Jacobian
K0 leaves the value unchanged and carries its dependence on parameters and positions. One step gives exact
first derivatives, dx/dtheta = -K0⁻¹ dR/dtheta; two give exact second derivatives, which losses of forces
need. A step costs one evaluation of the residual, and one solve unless the residual is negligible; its
backward pass is a solve with K0ᵀ.
"""

from __future__ import annotations

import math

import torch

from electret.scf.problem import Evaluation, LinearSolver, Problem
from electret.scf.state import State

__all__ = ["chord_steps", "linear_solve"]

ROUNDING = 1e-13
"""Size of residuals that are rounding errors, e Å^l or eV/(e Å^l)."""

SMALL_RESIDUAL = 1e-2
"""Largest residual, relative to the tolerance of the density, that is negligible in energies. Their error is
the sum over the atoms of slope times residual."""

ADJOINT_MARGIN = 1e-2
"""Relative residual of the solve with K0ᵀ for first derivatives, in units of the tolerance of the density;
both enter first derivatives linearly."""

LOOSEST_ADJOINT = 1e-8
"""Upper bound of the relative residual of the solve with K0ᵀ."""


class _Solve(torch.autograd.Function):
    """K⁻¹ as a linear operator, differentiable any number of times in its right-hand side.

    `tolerance` is the relative residual of this solve, and `adjoint_tolerance` of the solves in its
    derivatives; None is that of the solver, and 1 or more takes zero as the solution.
    """

    @staticmethod
    def forward(ctx, multipoles, condition, solver, transpose, tolerance, adjoint_tolerance):
        ctx.solver, ctx.transpose, ctx.tolerance = solver, transpose, adjoint_tolerance
        ctx.shapes = multipoles.shape, condition.shape
        ctx.set_materialize_grads(False)
        if tolerance is not None and tolerance >= 1.0:
            return torch.zeros_like(multipoles), torch.zeros_like(condition)
        return solver.solve(multipoles, condition, transpose, tolerance=tolerance)

    @staticmethod
    def backward(ctx, multipoles_bar, condition_bar):
        if multipoles_bar is None and condition_bar is None:
            return (None,) * 6
        if multipoles_bar is None:
            multipoles_bar = condition_bar.new_zeros(ctx.shapes[0])
        if condition_bar is None:
            condition_bar = multipoles_bar.new_zeros(ctx.shapes[1])
        within = ctx.tolerance
        x, y = _Solve.apply(multipoles_bar, condition_bar, ctx.solver, not ctx.transpose, within, within)
        return x, y, None, None, None, None


def linear_solve(
    multipoles: torch.Tensor, condition: torch.Tensor, solver: LinearSolver, transpose: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """K⁻¹ (multipoles, condition), or K⁻ᵀ, differentiable in its right-hand side."""
    return _Solve.apply(multipoles, condition, solver, transpose, None, None)


def chord_steps(
    problem: Problem,
    found: Evaluation,
    solver: LinearSolver,
    active: torch.Tensor,
    steps: int,
    tolerance: float,
) -> Evaluation:
    """Equations of `problem` after `steps` chord-Newton steps in its graph.

    Args:
        problem: equations with differentiable parameters.
        found: evaluation of the same equations at the self-consistent state, without a graph.
        solver: Jacobian there.
        active: systems to step, `[n_systems]` bool; the others keep their detached state.
        steps: 1 for first derivatives, 2 for second derivatives.
        tolerance: of the state. First derivatives are converged as far as it allows, second derivatives to
            rounding.
    """
    point = problem.at(found.state.detach(), found if steps == 1 else None)
    weight = active.to(point.state.multipoles.dtype)
    per_atom = problem.systems.at_atoms(weight)[:, None]
    small, adjoint = ROUNDING, None
    if steps == 1:
        small = max(SMALL_RESIDUAL * tolerance, ROUNDING)
        adjoint = min(max(ADJOINT_MARGIN * tolerance, 1e-12), LOOSEST_ADJOINT)
    for _ in range(steps):
        state, residual = point.state, point.residual
        right = residual.multipoles * per_atom, residual.condition * weight
        # The value of the step is needed to `small` only; if the residual is no larger, the step is zero in
        # value and carries derivatives alone.
        flat = torch.cat([part.detach().reshape(-1) for part in right])
        largest = float(flat.abs().max()) if flat.numel() else 0.0
        within = None if not largest < math.inf else max(small / max(largest, small), 1e-12)
        x, y = _Solve.apply(*right, solver, False, within, adjoint)
        moved = State(state.multipoles - x, state.fermi_level - y)
        unchanged = steps == 1 and within is not None and within >= 1.0
        point = problem.at(moved, point if unchanged else None)
    return point
