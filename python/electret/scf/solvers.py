"""Solvers: from a problem and a first state to the self-consistent state of every system.

Each takes x = (p, mu) and knows no physics: a residual, a step, a convergence test. Systems converge one by
one; a system that has converged or failed is left as it is, and none waits for or spoils another.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from electret.scf.problem import LinearSolver, Problem, Residual, Systems
from electret.scf.state import Record, State

__all__ = ["Anderson", "Mixing", "Newton", "Point", "Solution", "mixed"]

FERMI_LEVEL_STEP = 1.0
"""Largest change of the Fermi level in one mixing step, eV (the reference scheme clamps it so)."""

LINEAR_MARGIN = 0.02
"""A linear solve leaves this part of the tolerance: its residual is that of a system, not of each atom."""

AFFINE_MARGIN = 1e-4
"""The same for affine fixed points, whose one solve is the last one: energies, which are not stationary in
their density, then need no further one."""

GROWTH = 1.5
"""A step by extrapolation after which the residual is so many times the smallest one is taken back."""

RIDGE = 1e-10
"""Added to the matrix of the normalised changes of the residual: those that are nearly parallel then amplify
rounding by no more than its inverse."""

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


def _size(systems: Systems, local: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
    """Mean |local step| per system, with the defect of the charge shared out over its atoms."""
    defect = condition.abs() / systems.n_atoms.clamp(min=1)
    defect = torch.where(systems.constrained, defect, 0.0)
    return systems.mean(local.abs()) + defect


def _blend(systems: Systems, active: torch.Tensor, new: State, old: State) -> State:
    """`new` where active, `old` elsewhere."""
    rows = systems.at_atoms(active)[:, None]
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
            if not progress.measure(_size(problem.systems, local, residual.condition)):
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
            moved = _blend(problem.systems, active, moved, state)
            return moved, problem.residual(moved)
        before = _residual_norm(problem, residual)
        downhill = _slope(problem, residual, step)  # of the energy along the step, per system
        minimum = problem.variational & _feasible(problem, residual) & (downhill < 0)
        length = torch.ones_like(before)
        for halving in range(self.halvings + 1):
            per_atom = problem.systems.at_atoms(length)[:, None]
            moved = State(
                state.multipoles - per_atom * step.multipoles, state.fermi_level - length * step.fermi_level
            )
            moved = _blend(problem.systems, active, moved, state)
            after = problem.residual(moved)
            norm = _residual_norm(problem, after)
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


def _residual_norm(problem: Problem, residual: Residual) -> torch.Tensor:
    """2-norm per system."""
    squares = problem.systems.sum(residual.multipoles.square().sum(dim=1)) + residual.condition.square()
    return squares.sqrt()


@dataclass(frozen=True)
class Point:
    """A state and what decides on the next one."""

    state: State
    local: torch.Tensor
    """Change of the multipoles of each atom that removes its own residual, `[n_atoms, n_lm]`."""
    condition: torch.Tensor
    """Excess of the charge, or of the Fermi level, `[n_systems]`."""
    response: torch.Tensor
    """dp/dmu of each atom, `[n_atoms, n_lm]`."""

    @classmethod
    def of(cls, problem: Problem, state: State) -> Point:
        """Evaluates a problem at a state."""
        residual = problem.residual(state)
        local = problem.local_step(state, residual)
        return cls(state, local, residual.condition, problem.local_response(state))


def mixing_step(systems: Systems, point: Point) -> tuple[torch.Tensor, torch.Tensor]:
    """The full local update at fixed potential, `[n_atoms, n_lm]` and `[n_systems]`.

    Every atom goes where its residual vanishes at the present potential; the Fermi level takes the Newton
    step (clamped to 1 eV) that makes the charges add up, and the missing charge is shared out with the local
    response dp/dmu, so that it is exact.
    """
    missing = -point.condition - systems.sum(point.local[:, 0])  # [n_systems]
    response = systems.sum(point.response[:, 0])
    bound = torch.finfo(response.dtype).eps
    usable = systems.constrained & (response.abs() > bound)
    level = torch.where(usable, missing / torch.where(usable, response, 1.0), 0.0)
    shared = point.local + point.response * systems.at_atoms(level)[:, None]
    step = torch.where(systems.constrained, level.clamp(-FERMI_LEVEL_STEP, FERMI_LEVEL_STEP), 0.0)
    return shared, torch.where(systems.constrained, step, -point.condition)


def mixed(systems: Systems, point: Point, alpha: float) -> State:
    """The state of a point with the part `alpha` of its local update; the Fermi level moves in full."""
    p, level = mixing_step(systems, point)
    return State(point.state.multipoles + alpha * p, point.state.fermi_level + level)


@dataclass(frozen=True)
class Mixing:
    """p <- p + alpha (local update): the reference scheme of arXiv:2603.14700."""

    tolerance: float = 1e-6
    max_iterations: int = 100
    alpha: float = 0.25

    def solve(self, problem: Problem, start: State) -> Solution:
        """See the class."""
        systems = problem.systems

        def step(point: Point) -> State:
            return mixed(systems, point, self.alpha)

        return _iterate(problem, start, self.tolerance, self.max_iterations, step)


@dataclass(frozen=True)
class Anderson:
    """Anderson's (Pulay's) extrapolation over the last `depth` changes of the state, then a mixing step.

    The weights of the changes minimise what convergence is measured by, the local steps and the defect of the
    charge, so that the Fermi level is extrapolated with the multipoles. They are regularised (`RIDGE`). A
    system whose residual grows (`GROWTH`) returns to its best state and begins anew with steps of mixing, at
    each return twice as many: at worst it is mixed.

    Sources: D. G. Anderson, J. ACM 12, 547 (1965); H. F. Walker and P. Ni, SIAM J. Numer. Anal. 49, 1715
    (2011); regularised and restarted as by N. C. Henderson and R. Varadhan, J. Comput. Graph. Stat. 28, 834
    (2019).
    """

    tolerance: float = 1e-8
    max_iterations: int = 100
    alpha: float = 0.25
    depth: int = 8

    def solve(self, problem: Problem, start: State) -> Solution:
        """See the class."""
        systems = problem.systems
        past: list[Point] = []
        best: Point | None = None  # since the last beginning
        known = torch.zeros_like(systems.total_charge, dtype=torch.int64)  # changes since then
        pause = torch.zeros_like(known)  # mixing steps after the next beginning

        def step(point: Point) -> State:
            nonlocal best, known, pause
            if best is None:
                best = point
            else:
                size, smallest = _norm(systems, point), _norm(systems, best)
                lost = (known > 0) & (size > GROWTH * smallest)  # a mixing step is never taken back
                point = _either(systems, lost, best, point)
                known = torch.where(lost, -pause, known + 1)
                pause = torch.where(lost, 2 * pause + 1, pause)
                best = _either(systems, (known <= 0) | (size <= smallest), point, best)
            past.append(point)
            del past[: -self.depth - 1]
            return mixed(systems, _extrapolated(systems, past, known), self.alpha)

        return _iterate(problem, start, self.tolerance, self.max_iterations, step)


def _either(systems: Systems, chosen: torch.Tensor, one: Point, other: Point) -> Point:
    """`one` where chosen, `other` elsewhere."""
    rows = systems.at_atoms(chosen)[:, None]
    return Point(
        _blend(systems, chosen, one.state, other.state),
        torch.where(rows, one.local, other.local),
        torch.where(chosen, one.condition, other.condition),
        torch.where(rows, one.response, other.response),
    )


def _norm(systems: Systems, point: Point) -> torch.Tensor:
    """2-norm of the local steps per system, with the defect of the charge shared out over its atoms."""
    shared = point.condition.square() / systems.n_atoms.clamp(min=1)
    return (systems.sum(point.local.square().sum(dim=1)) + shared).sqrt()


def _extrapolated(systems: Systems, past: list[Point], known: torch.Tensor) -> Point:
    """State of least residual, to first order in the last `known [n_systems]` changes."""
    last, m = past[-1], len(past) - 1
    if m == 0:
        return last
    local = torch.stack([point.local for point in past]).diff(dim=0)  # [m, n_atoms, n_lm]
    condition = torch.stack([point.condition for point in past]).diff(dim=0)  # [m, n_systems]
    multipoles = torch.stack([point.state.multipoles for point in past]).diff(dim=0)
    level = torch.stack([point.state.fermi_level for point in past]).diff(dim=0)
    shared = condition / systems.n_atoms.clamp(min=1)
    gram = systems.sum(torch.einsum("inc,jnc->nij", local, local))  # [n_systems, m, m]
    gram = gram + torch.einsum("in,jn->nij", condition, shared)
    right = systems.sum(torch.einsum("inc,nc->ni", local, last.local)) + (shared * last.condition).T
    sizes = gram.diagonal(dim1=1, dim2=2).sqrt()  # [n_systems, m]
    age = torch.arange(m, 0, -1, device=known.device)
    usable = (age <= known[:, None]) & (sizes > 0) & torch.isfinite(sizes)
    sizes = torch.where(usable, sizes, math.inf)  # whose weights vanish
    ridge = RIDGE * torch.eye(m, dtype=gram.dtype, device=gram.device)
    gram = gram / (sizes[:, :, None] * sizes[:, None]) + ridge
    right = right / sizes
    gamma = torch.linalg.solve(gram.cpu(), right.cpu()).to(right.device) / sizes  # few numbers: on the CPU
    at_atoms = systems.at_atoms(gamma)
    return Point(
        State(
            last.state.multipoles - torch.einsum("ni,inc->nc", at_atoms, multipoles),
            last.state.fermi_level - (gamma.T * level).sum(dim=0),
        ),
        last.local - torch.einsum("ni,inc->nc", at_atoms, local),
        last.condition - (gamma.T * condition).sum(dim=0),
        last.response,
    )


def _iterate(
    problem: Problem,
    start: State,
    tolerance: float,
    max_iterations: int,
    step: Callable[[Point], State],
) -> Solution:
    """Repeats a step made of local updates until every system has converged or the limit is reached."""
    systems = problem.systems
    progress = _Progress(problem, tolerance)
    state = start
    for iteration in range(max_iterations + 1):
        point = Point.of(problem, state)
        # the step without the sharing out of charge: it vanishes only when the Fermi level is right too
        if not progress.measure(_size(systems, point.local, point.condition)) or iteration == max_iterations:
            break
        progress.count()
        active = progress.active
        rows = systems.at_atoms(active)[:, None]
        local, condition = torch.where(rows, point.local, 0.0), torch.where(active, point.condition, 0.0)
        state = _blend(systems, active, step(replace(point, local=local, condition=condition)), state)
    return Solution(state, progress.record())
