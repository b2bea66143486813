"""Solvers: from a problem and a first state to the self-consistent state of every system.

Each takes x = (p, mu) and knows no physics: a residual, a step, a convergence test. Systems converge one by
one; a system that has converged or failed is left as it is, and none waits for or spoils another.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from electret.scf.problem import LinearSolver, Problem, Residual
from electret.scf.state import Record, State

__all__ = ["Anderson", "Mixing", "Newton", "Solution", "mixing_step"]

FERMI_LEVEL_STEP = 1.0
"""Largest change of the Fermi level in one mixing step, eV (the reference scheme clamps it so)."""

LINEAR_MARGIN = 0.02
"""A linear solve leaves this part of the tolerance: its residual is that of a system, not of each atom."""

AFFINE_MARGIN = 1e-4
"""The same for affine fixed points, whose one solve is the last one: energies, which are not stationary in
their density, then need no further one."""

GROWTH = 3.0
"""Anderson's method begins anew for a system whose update grows by this over the smallest one: far from the
solution its differences mislead."""

LOST = 1e6
"""Residuals and multipoles (e Å^l), and Fermi levels (eV), beyond which a system has diverged."""


@dataclass(frozen=True)
class Solution:
    """The last state of every system and how it was reached."""

    state: State
    record: Record
    jacobian: LinearSolver | None = None
    """Of an affine problem, the same at every state; None where no step was taken with it."""


class _Progress:
    """Convergence of every system, in the mean absolute local step per component (e Å^l)."""

    def __init__(self, problem: Problem, tolerance: float) -> None:
        self.problem, self.tolerance = problem, tolerance
        like = problem.systems.total_charge  # [n_systems]
        self.converged = torch.zeros_like(like, dtype=torch.bool)
        self.stopped = torch.zeros_like(like, dtype=torch.bool)
        self.iterations = torch.zeros_like(like, dtype=torch.int64)
        self.residual = torch.full_like(like, math.inf)
        self.history: list[torch.Tensor] = []

    @property
    def active(self) -> torch.Tensor:
        return ~(self.converged | self.stopped)

    def measure(self, size: torch.Tensor) -> bool:
        """Takes in the size of the local step of every system; whether any goes on."""
        active = self.active
        self.history.append(torch.where(active, size, math.nan))
        self.residual = torch.where(active, size, self.residual)
        self.stopped = self.stopped | (active & ~(size < LOST))  # before numbers overflow
        self.converged = self.converged | (active & (size <= self.tolerance))
        return bool(self.active.any())

    def count(self) -> None:
        """One update of the active systems."""
        self.iterations = self.iterations + self.active.long()

    def stop(self, systems: torch.Tensor) -> None:
        """Gives up on systems."""
        self.stopped = self.stopped | (systems & self.active)

    def record(self) -> Record:
        return Record(self.converged, self.iterations, self.residual, torch.stack(self.history, dim=1))


def _size(problem: Problem, local: torch.Tensor, residual: Residual) -> torch.Tensor:
    """Mean |local step| per system, with the defect of the charge shared out over its atoms."""
    systems = problem.systems
    defect = residual.condition.abs() / systems.n_atoms.clamp(min=1)
    defect = torch.where(systems.constrained, defect, 0.0)
    return systems.mean(local.abs()) + defect


def _blend(problem: Problem, active: torch.Tensor, new: State, old: State) -> State:
    """`new` where active, `old` elsewhere."""
    rows = problem.systems.at_atoms(active)[:, None]
    return State(
        torch.where(rows, new.multipoles, old.multipoles),
        torch.where(active, new.fermi_level, old.fermi_level),
    )


@dataclass(frozen=True)
class Newton:
    """x <- x - t K(x)^-1 R(x), t = 1 or halved until the residual falls.

    One step solves an affine problem, and the next evaluation confirms it. A Jacobian that cannot be inverted
    ends the iteration of its system.
    """

    tolerance: float = 1e-8
    max_iterations: int = 50
    halvings: int = 10

    def solve(self, problem: Problem, start: State) -> Solution:
        """See the class."""
        progress = _Progress(problem, self.tolerance)
        state = start
        residual = problem.residual(state)
        solver = None
        for _ in range(self.max_iterations + 1):
            local = problem.local_step(state, residual)
            if not progress.measure(_size(problem, local, residual)):
                break
            if int(progress.iterations.max()) >= self.max_iterations:
                break
            if solver is None or not problem.affine:
                solver = problem.jacobian(state)
            tolerance = self._linear_tolerance(problem, progress)
            x, y = solver.solve(residual.multipoles, residual.condition, tolerance=tolerance)
            progress.stop(solver.failed)
            progress.count()
            state, residual = self._search(problem, state, residual, State(x, y), progress.active)
        return Solution(state, progress.record(), solver if problem.affine else None)

    def _linear_tolerance(self, problem: Problem, progress: _Progress) -> float:
        """Relative residual of an iterative solve that brings active systems well below the tolerance."""
        sizes = progress.residual[progress.active]
        reduction = self.tolerance / float(sizes.max()) if len(sizes) else 1.0
        margin = AFFINE_MARGIN if problem.affine and not problem.variational else LINEAR_MARGIN
        return min(max(margin * reduction, 1e-12), 1e-3)

    def _search(
        self, problem: Problem, state: State, residual: Residual, step: State, active: torch.Tensor
    ) -> tuple[State, Residual]:
        """The longest of the steps 1, 1/2, 1/4, ... that lowers the norm of the residual, per system; of an
        affine problem the full one.

        Of a minimum the step ends where the energy along it has stopped falling: on a convex energy that
        converges from anywhere, over kinks too, where the norm of the residual has to rise first.
        """
        if problem.affine:
            moved = State(state.multipoles - step.multipoles, state.fermi_level - step.fermi_level)
            moved = _blend(problem, active, moved, state)
            return moved, problem.residual(moved)
        before = _norm(problem, residual)
        downhill = _slope(problem, residual, step)  # of the energy along the step, per system
        minimum = problem.variational & _feasible(problem, residual) & (downhill < 0)
        length = torch.ones_like(before)
        for halving in range(self.halvings + 1):
            per_atom = problem.systems.at_atoms(length)[:, None]
            moved = State(
                state.multipoles - per_atom * step.multipoles, state.fermi_level - length * step.fermi_level
            )
            moved = _blend(problem, active, moved, state)
            after = problem.residual(moved)
            norm = _norm(problem, after)
            # below this the residual is rounding, and no step lowers it further
            floor = 1e-13 * (1.0 + problem.systems.sum(moved.multipoles.square().sum(dim=1)).sqrt())
            slope = _slope(problem, after, step)
            falls = torch.where(minimum, slope <= -0.1 * downhill, norm <= (1.0 - 1e-4 * length) * before)
            worse = active & ~(falls | (norm <= floor))
            if not bool(worse.any()) or halving == self.halvings:
                return moved, after
            # where the slope would vanish if it were straight, or half way
            part = torch.where(minimum, (-downhill / (slope - downhill)).clamp(0.1, 0.5), 0.5)
            length = torch.where(worse, length * part, length)
        raise AssertionError("unreachable")


def _slope(problem: Problem, residual: Residual, step: State) -> torch.Tensor:
    """Derivative of the energy along minus the step, per system, where the residual is its gradient."""
    return -problem.systems.sum((step.multipoles * residual.multipoles).sum(dim=1))


def _feasible(problem: Problem, residual: Residual) -> torch.Tensor:
    """Whether the charge or the Fermi level is the one that is asked for, up to rounding."""
    return residual.condition.abs() <= 1e-10


def _norm(problem: Problem, residual: Residual) -> torch.Tensor:
    """2-norm per system."""
    squares = problem.systems.sum(residual.multipoles.square().sum(dim=1)) + residual.condition.square()
    return squares.sqrt()


def mixing_step(problem: Problem, state: State, residual: Residual) -> tuple[torch.Tensor, torch.Tensor]:
    """The full local update at fixed potential, `[n_atoms, n_lm]` and `[n_systems]`.

    Every atom goes where its residual vanishes at the present potential; the Fermi level takes the Newton
    step (clamped to 1 eV) that makes the charges add up, and the missing charge is shared out with the local
    response dp/dmu, so that it is exact.
    """
    systems = problem.systems
    local, per_fermi_level = problem.local_step(state, residual), problem.local_response(state)
    missing = systems.total_charge - systems.sum((state.multipoles + local)[:, 0])  # [n_systems]
    response = systems.sum(per_fermi_level[:, 0])
    bound = torch.finfo(response.dtype).eps
    usable = systems.constrained & (response.abs() > bound)
    level = torch.where(usable, missing / torch.where(usable, response, 1.0), 0.0)
    shared = local + per_fermi_level * systems.at_atoms(level)[:, None]
    step = torch.where(systems.constrained, level.clamp(-FERMI_LEVEL_STEP, FERMI_LEVEL_STEP), 0.0)
    return shared, torch.where(systems.constrained, step, -residual.condition)


@dataclass(frozen=True)
class Mixing:
    """p <- p + alpha (local update): the reference scheme of arXiv:2603.14700."""

    tolerance: float = 1e-6
    max_iterations: int = 100
    alpha: float = 0.25

    def solve(self, problem: Problem, start: State) -> Solution:
        """See the class."""

        def step(state: State, p: torch.Tensor, mu: torch.Tensor, active: torch.Tensor) -> State:
            return State(state.multipoles + self.alpha * p, state.fermi_level + mu)

        return _iterate(problem, start, self.tolerance, self.max_iterations, step)


@dataclass(frozen=True)
class Anderson:
    """Anderson's (Pulay's) extrapolation of the local updates of the last `depth` states, per system.

    Source: D. G. Anderson, J. ACM 12, 547 (1965). The weights minimise the extrapolated update; they
    begin anew where it grows (`GROWTH`).
    """

    tolerance: float = 1e-8
    max_iterations: int = 100
    alpha: float = 0.25
    depth: int = 8

    def solve(self, problem: Problem, start: State) -> Solution:
        """See the class."""
        systems = problem.systems
        past: list[tuple[State, torch.Tensor, torch.Tensor]] = []
        smallest = torch.full_like(systems.total_charge, math.inf)  # update since the last beginning
        length = torch.zeros_like(systems.total_charge, dtype=torch.int64)  # states since then

        def step(state: State, p: torch.Tensor, mu: torch.Tensor, active: torch.Tensor) -> State:
            nonlocal smallest, length
            past.append((state, p, mu))
            del past[: -self.depth - 1]
            size = systems.sum(p.square().sum(dim=1)).sqrt()
            lost = size > GROWTH * smallest
            smallest = torch.where(lost, size, torch.minimum(size, smallest))
            length = torch.where(lost, 1, length + 1)
            new_p, new_mu = state.multipoles + self.alpha * p, state.fermi_level + mu
            m = len(past) - 1
            if m == 0:
                return State(new_p, new_mu)
            dp = torch.stack([p - earlier for _, earlier, _ in past[:-1]])  # [m, n_atoms, n_lm]
            dmu = torch.stack([mu - earlier for _, _, earlier in past[:-1]])  # [m, n_systems]
            dx = torch.stack([state.multipoles - earlier.multipoles for earlier, _, _ in past[:-1]])
            dlevel = torch.stack([state.fermi_level - earlier.fermi_level for earlier, _, _ in past[:-1]])
            gram = systems.sum(torch.einsum("inc,jnc->nij", dp, dp))  # [n_systems, m, m]
            right = systems.sum(torch.einsum("inc,nc->ni", dp, p))
            age = torch.arange(m, 0, -1, device=p.device)
            known = age[None] < length[:, None]  # [n_systems, m]
            gram = torch.where(known[:, :, None] & known[:, None], gram, 0.0)
            right = torch.where(known, right, 0.0)
            scale = gram.diagonal(dim1=1, dim2=2).amax(dim=1).clamp(min=torch.finfo(p.dtype).tiny)
            identity = torch.eye(m, dtype=p.dtype, device=p.device)
            gram = gram / scale[:, None, None] + 1e-13 * identity
            right = right / scale[:, None]
            finite = torch.isfinite(gram).all(dim=(1, 2)) & torch.isfinite(right).all(dim=1)
            gram = torch.where(finite[:, None, None], gram, identity)
            right = torch.where(finite[:, None], right, 0.0)
            # on the CPU, whose solver finds the rank
            gamma = torch.linalg.lstsq(gram.cpu(), right.cpu()[:, :, None]).solution[:, :, 0]
            gamma = gamma.to(p.device)  # [n_systems, m]
            new_p = new_p - torch.einsum("ni,inc->nc", systems.at_atoms(gamma), dx + self.alpha * dp)
            new_mu = new_mu - (gamma.T * (dlevel + dmu)).sum(dim=0)
            return State(new_p, new_mu)

        return _iterate(problem, start, self.tolerance, self.max_iterations, step)


def _iterate(
    problem: Problem,
    start: State,
    tolerance: float,
    max_iterations: int,
    step: Callable[[State, torch.Tensor, torch.Tensor, torch.Tensor], State],
) -> Solution:
    """Repeats a step made of local updates until every system has converged or the limit is reached."""
    progress = _Progress(problem, tolerance)
    state = start
    for iteration in range(max_iterations + 1):
        residual = problem.residual(state)
        # the step without the sharing out of charge: it vanishes only when the Fermi level is right too
        local = problem.local_step(state, residual)
        if not progress.measure(_size(problem, local, residual)) or iteration == max_iterations:
            break
        p, mu = mixing_step(problem, state, residual)
        progress.count()
        finite = problem.systems.at_atoms(progress.active)[:, None]
        p, mu = torch.where(finite, p, 0.0), torch.where(progress.active, mu, 0.0)
        state = _blend(problem, progress.active, step(state, p, mu, progress.active), state)
    return Solution(state, progress.record())
