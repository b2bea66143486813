"""Solvers of R(p, mu) = 0: Newton, Anderson and mixing.

Solvers are independent of the family: they use the residual, the local step and the Jacobian of an
`Evaluation`. Systems of a batch converge independently; a system that has converged or failed keeps its
state.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from electret.scf.problem import Evaluation, LinearSolver, Problem, Residual, Systems
from electret.scf.state import Record, State

__all__ = ["Anderson", "Mixing", "Newton", "Point", "Solution", "mixed"]

FERMI_LEVEL_STEP = 1.0
"""Largest change of the Fermi level in one mixing step, eV, as in the reference scheme."""

LINEAR_MARGIN = 0.02
"""Residual of a linear solve relative to the tolerance of the density. It is small because the residual of
the solve is a norm over the system, and the tolerance holds per component."""

AFFINE_MARGIN = 1e-4
"""Residual of the single solve of an affine fixed point, relative to the tolerance. Its energies are not
stationary in the density, and need no further solve at this residual."""

GROWTH = 1.5
"""Growth of the residual, relative to its smallest value, beyond which an extrapolated step is rejected."""

RIDGE = 1e-10
"""Ridge of the least squares over normalised changes of the residual, which bounds the amplification of
rounding by nearly parallel changes."""

LOST = 1e6
"""Residuals and multipoles (e Å^l), and Fermi levels (eV), beyond which a system has diverged."""


@dataclass(frozen=True)
class Solution:
    """Last state of every system and the record of its iteration."""

    point: Evaluation
    """Equations at the last state."""
    record: Record
    jacobian: LinearSolver | None = None
    """Jacobian of an affine problem, equal at every state; None if no step was taken with it."""

    @property
    def state(self) -> State:
        """Last state."""
        return self.point.state


class _Progress:
    """Convergence of every system, measured by the mean absolute local step per component (e Å^l)."""

    def __init__(self, problem: Problem, tolerance: float) -> None:
        self.systems, self.tolerance = problem.systems, tolerance
        like = problem.systems.total_charge  # [n_systems]
        self.converged = torch.zeros_like(like, dtype=torch.bool)
        self.stopped = torch.zeros_like(like, dtype=torch.bool)
        self.iterations = torch.zeros_like(like, dtype=torch.int64)
        self.residual = torch.full_like(like, math.inf)
        self.history: list[torch.Tensor] = []

    @property
    def active(self) -> torch.Tensor:
        return ~(self.converged | self.stopped)

    def measure(self, point: Evaluation) -> bool:
        """Record the size of the local step of every system; True if any system continues."""
        size = _size(self.systems, point.local_step, point.residual.condition)
        active = self.active
        self.history.append(torch.where(active, size, math.nan))
        self.residual = torch.where(active, size, self.residual)
        self.stopped = self.stopped | (active & ~(size < LOST))  # before numbers overflow
        self.converged = self.converged | (active & (size <= self.tolerance))
        return bool(self.active.any())

    def count(self) -> None:
        """Count one update of the active systems."""
        self.iterations = self.iterations + self.active.long()

    def stop(self, systems: torch.Tensor) -> None:
        """Mark systems as failed."""
        self.stopped = self.stopped | (systems & self.active)

    def record(self) -> Record:
        return Record(self.converged, self.iterations, self.residual, torch.stack(self.history, dim=1))


def _size(systems: Systems, local: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
    """Mean |local step| plus the error of the charge per atom, `[n_systems]`."""
    defect = condition.abs() / systems.n_atoms.clamp(min=1)
    defect = torch.where(systems.constrained, defect, 0.0)
    return systems.mean(local.abs()) + defect


def _blend(systems: Systems, active: torch.Tensor, new: State, old: State) -> State:
    """State `new` for active systems, `old` elsewhere."""
    rows = systems.at_atoms(active)[:, None]
    return State(
        torch.where(rows, new.multipoles, old.multipoles),
        torch.where(active, new.fermi_level, old.fermi_level),
    )


@dataclass(frozen=True)
class Newton:
    """Newton's method: x <- x - t K(x)⁻¹ R(x), with t = 1, 1/2, 1/4, ... until the residual falls.

    One step solves an affine problem. A singular Jacobian ends the iteration of its system.
    """

    tolerance: float = 1e-8
    max_iterations: int = 50
    halvings: int = 10

    def solve(self, problem: Problem, start: State) -> Solution:
        """Solve R = 0 from `start`."""
        progress = _Progress(problem, self.tolerance)
        point = problem.at(start)
        solver = None
        for _ in range(self.max_iterations + 1):
            if not progress.measure(point) or int(progress.iterations.max()) >= self.max_iterations:
                break
            if solver is None or not problem.affine:
                solver = point.jacobian()
            tolerance = self._linear_tolerance(problem, progress)
            residual = point.residual
            x, y = solver.solve(residual.multipoles, residual.condition, tolerance=tolerance)
            progress.stop(solver.failed)
            progress.count()
            point = self._search(problem, point, State(x, y), progress.active)
        return Solution(point, progress.record(), solver if problem.affine else None)

    def _linear_tolerance(self, problem: Problem, progress: _Progress) -> float:
        """Relative residual of an iterative solve after which active systems are well below the tolerance."""
        sizes = progress.residual[progress.active]
        reduction = self.tolerance / float(sizes.max()) if len(sizes) else 1.0
        margin = AFFINE_MARGIN if problem.affine and not problem.variational else LINEAR_MARGIN
        return min(max(margin * reduction, 1e-12), 1e-3)

    def _search(self, problem: Problem, point: Evaluation, step: State, active: torch.Tensor) -> Evaluation:
        """Longest of the steps 1, 1/2, 1/4, ... that lowers the norm of the residual, per system; the full
        step for affine problems.

        For variational problems the step ends where the energy along it stops falling. On a convex energy
        this converges from any start, also across kinks, where the norm of the residual has to rise first.
        """
        systems, state, residual = problem.systems, point.state, point.residual

        def moved(length: torch.Tensor) -> Evaluation:
            per_atom = systems.at_atoms(length)[:, None]
            full = State(
                state.multipoles - per_atom * step.multipoles, state.fermi_level - length * step.fermi_level
            )
            return problem.at(_blend(systems, active, full, state))

        length = torch.ones_like(residual.condition)
        if problem.affine:
            return moved(length)
        before = _residual_norm(systems, residual)
        downhill = _slope(systems, residual, step)  # derivative of the energy along the step, per system
        minimum = problem.variational & _feasible(residual) & (downhill < 0)
        for halving in range(self.halvings + 1):
            after = moved(length)
            norm = _residual_norm(systems, after.residual)
            # residuals below this are rounding, and no step lowers them further
            floor = 1e-13 * (1.0 + systems.sum(after.state.multipoles.square().sum(dim=1)).sqrt())
            slope = _slope(systems, after.residual, step)
            falls = torch.where(minimum, slope <= -0.1 * downhill, norm <= (1.0 - 1e-4 * length) * before)
            worse = active & ~(falls | (norm <= floor))
            if not bool(worse.any()) or halving == self.halvings:
                return after
            # to the zero of the slope by linear interpolation, or halved
            part = torch.where(minimum, (-downhill / (slope - downhill)).clamp(0.1, 0.5), 0.5)
            length = torch.where(worse, length * part, length)
        raise AssertionError("unreachable")


def _slope(systems: Systems, residual: Residual, step: State) -> torch.Tensor:
    """Derivative of the energy along minus the step, per system, if the residual is its gradient."""
    return -systems.sum((step.multipoles * residual.multipoles).sum(dim=1))


def _feasible(residual: Residual) -> torch.Tensor:
    """True if the constraint (total charge or Fermi level) holds to rounding, per system."""
    return residual.condition.abs() <= 1e-10


def _residual_norm(systems: Systems, residual: Residual) -> torch.Tensor:
    """2-norm per system."""
    squares = systems.sum(residual.multipoles.square().sum(dim=1)) + residual.condition.square()
    return squares.sqrt()


@dataclass(frozen=True)
class Point:
    """A state and the quantities of its update."""

    state: State
    local: torch.Tensor
    """Change of the multipoles of each atom that removes its own residual, `[n_atoms, n_lm]`."""
    condition: torch.Tensor
    """Error of the charge, or of the Fermi level, `[n_systems]`."""
    response: torch.Tensor
    """dp/dmu of each atom at fixed potential, `[n_atoms, n_lm]`."""

    @classmethod
    def of(cls, at: Evaluation) -> Point:
        """Quantities of an evaluation."""
        return cls(at.state, at.local_step, at.residual.condition, at.local_response)


def mixing_step(systems: Systems, point: Point) -> tuple[torch.Tensor, torch.Tensor]:
    """Full local update at fixed potential, `[n_atoms, n_lm]` and `[n_systems]`.

    Each atom moves to the zero of its residual in the present potential. The Fermi level takes the Newton
    step (clamped to 1 eV) at which the charges add up, and the missing charge is distributed in proportion to
    the local response dp/dmu, so that the total charge is exact.
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
    """State after a fraction `alpha` of the local update of the multipoles and the full update of mu."""
    p, level = mixing_step(systems, point)
    return State(point.state.multipoles + alpha * p, point.state.fermi_level + level)


@dataclass(frozen=True)
class Mixing:
    """Linear mixing, p <- p + alpha (local update): the reference scheme of arXiv:2603.14700."""

    tolerance: float = 1e-6
    max_iterations: int = 100
    alpha: float = 0.25

    def solve(self, problem: Problem, start: State) -> Solution:
        """Solve R = 0 from `start`."""
        systems = problem.systems

        def step(point: Point) -> State:
            return mixed(systems, point, self.alpha)

        return _iterate(problem, start, self.tolerance, self.max_iterations, step)


@dataclass(frozen=True)
class Anderson:
    """Anderson's (Pulay's) extrapolation over the last `depth` changes of the state, then a mixing step.

    Weights of the changes minimise the local steps and the error of the charge, which also measure
    convergence; the Fermi level is extrapolated with the multipoles. The least squares are regularised
    (`RIDGE`). A system whose residual grows (`GROWTH`) returns to its best state and starts again with mixing
    steps, twice as many at each return.

    Sources: D. G. Anderson, J. ACM 12, 547 (1965); H. F. Walker and P. Ni, SIAM J. Numer. Anal. 49, 1715
    (2011); regularised and restarted as by N. C. Henderson and R. Varadhan, J. Comput. Graph. Stat. 28, 834
    (2019).
    """

    tolerance: float = 1e-8
    max_iterations: int = 100
    alpha: float = 0.25
    depth: int = 8

    def solve(self, problem: Problem, start: State) -> Solution:
        """Solve R = 0 from `start`."""
        systems = problem.systems
        past: list[Point] = []
        best: Point | None = None  # since the last restart
        known = torch.zeros_like(systems.total_charge, dtype=torch.int64)  # changes since the last restart
        pause = torch.zeros_like(known)  # mixing steps after the next restart

        def step(point: Point) -> State:
            nonlocal best, known, pause
            if best is None:
                best = point
            else:
                size, smallest = _norm(systems, point), _norm(systems, best)
                lost = (known > 0) & (size > GROWTH * smallest)  # a mixing step is never rejected
                point = _either(systems, lost, best, point)
                known = torch.where(lost, -pause, known + 1)
                pause = torch.where(lost, 2 * pause + 1, pause)
                best = _either(systems, (known <= 0) | (size <= smallest), point, best)
            past.append(point)
            del past[: -self.depth - 1]
            return mixed(systems, _extrapolated(systems, past, known), self.alpha)

        return _iterate(problem, start, self.tolerance, self.max_iterations, step)


def _either(systems: Systems, chosen: torch.Tensor, one: Point, other: Point) -> Point:
    """Quantities of `one` for chosen systems, of `other` elsewhere."""
    rows = systems.at_atoms(chosen)[:, None]
    return Point(
        _blend(systems, chosen, one.state, other.state),
        torch.where(rows, one.local, other.local),
        torch.where(chosen, one.condition, other.condition),
        torch.where(rows, one.response, other.response),
    )


def _norm(systems: Systems, point: Point) -> torch.Tensor:
    """2-norm of the local steps and the error of the charge, distributed over the atoms, `[n_systems]`."""
    shared = point.condition.square() / systems.n_atoms.clamp(min=1)
    return (systems.sum(point.local.square().sum(dim=1)) + shared).sqrt()


def _extrapolated(systems: Systems, past: list[Point], known: torch.Tensor) -> Point:
    """Point of least residual to first order in the last `known [n_systems]` changes."""
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
    sizes = torch.where(usable, sizes, math.inf)  # their weights vanish
    ridge = RIDGE * torch.eye(m, dtype=gram.dtype, device=gram.device)
    gram = gram / (sizes[:, :, None] * sizes[:, None]) + ridge
    right = right / sizes
    gamma = torch.linalg.solve(gram.cpu(), right.cpu()).to(right.device) / sizes  # small matrices: on the CPU
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
    """Repeat a step of local updates until every system has converged or the limit is reached."""
    systems = problem.systems
    progress = _Progress(problem, tolerance)
    point = problem.at(start)
    for iteration in range(max_iterations + 1):
        if not progress.measure(point) or iteration == max_iterations:
            break
        progress.count()
        active = progress.active
        rows = systems.at_atoms(active)[:, None]
        local = torch.where(rows, point.local_step, 0.0)
        condition = torch.where(active, point.residual.condition, 0.0)
        new = step(Point(point.state, local, condition, point.local_response))
        point = problem.at(_blend(systems, active, new, point.state))
    return Solution(point, progress.record())
