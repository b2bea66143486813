"""Labelled density of a training frame, and equations with the labelled components held fixed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from electret.errors import InputError
from electret.graph import Graph
from electret.scf.problem import Evaluation, LinearSolver, Problem, Residual, Systems
from electret.scf.solvers import Newton, Solution
from electret.scf.state import State
from electret.support.locks import cached_property

if TYPE_CHECKING:
    from electret.scf.flow import Flow

__all__ = ["ReferenceDensity", "clamped_solution"]


@dataclass(frozen=True)
class ReferenceDensity:
    """Labelled multipoles and Fermi levels. Components without a label have the guess of the model."""

    state: State
    known: torch.Tensor  # [n_atoms, n_lm] bool
    level_known: torch.Tensor  # [n_systems] bool

    @classmethod
    def from_labels(cls, graph: Graph, guess: State) -> ReferenceDensity:
        """Density from the labels `multipoles` or `charges`, and `fermi_level`, of a graph.

        Raises:
            InputError: an atom without a labelled charge.
        """
        p = guess.multipoles.clone()
        known = torch.zeros_like(p, dtype=torch.bool)
        charges = graph.labels.get("charges")
        if charges is not None:
            p[:, 0] = charges.double()
            known[:, 0] = True
        multipoles = graph.labels.get("multipoles")
        if multipoles is not None:
            n = min(multipoles.shape[1], p.shape[1])
            given = torch.isfinite(multipoles[:, :n])
            p[:, :n] = torch.where(given, multipoles[:, :n].double(), p[:, :n])
            known[:, :n] |= given
        known = known & torch.isfinite(p)
        if not bool(known[:, 0].all()):
            atom = int(torch.nonzero(~known[:, 0])[0])
            raise InputError(
                f"mode 'direct' evaluates the model at the labelled density, but atom {atom} of system "
                f"{int(graph.batch[atom])} has no labelled charge; label charges or multipoles, or use mode "
                "'implicit'"
            )
        unknown = torch.full_like(guess.fermi_level, torch.nan)
        level = graph.labels.get("fermi_level", unknown).double()
        level_known = torch.isfinite(level)
        level = torch.where(level_known, level, guess.fermi_level)
        return cls(State(p, level), known, level_known)


def clamped_solution(problem: Problem, reference: ReferenceDensity, solver: object) -> Solution:
    """Solution with the labelled components held at their labels: the others solve their own equations.

    With every component labelled it is the reference. An unlabelled Fermi level keeps its guess.
    """
    newton = solver if isinstance(solver, Newton) else Newton()
    return newton.solve(_Clamped(problem, reference), reference.state)


class _Clamped:
    """Equations with known multipoles and Fermi levels held at their labels."""

    variational = False

    def __init__(self, problem: Problem, reference: ReferenceDensity) -> None:
        self.problem, self.reference = problem, reference
        inner = problem.systems
        free = torch.zeros_like(inner.constrained)
        level = reference.state.fermi_level
        self.systems = Systems(inner.batch, inner.n_systems, free, inner.total_charge, level)
        self.affine = problem.affine

    def at(self, state: State, known: Evaluation | None = None) -> _ClampedEvaluation:
        return _ClampedEvaluation(self, self.problem.at(state, known))


class _ClampedEvaluation:
    def __init__(self, problem: _Clamped, inner: Evaluation) -> None:
        self.problem, self.inner, self.state = problem, inner, inner.state
        self.known = problem.reference.known

    @cached_property
    def residual(self) -> Residual:
        held = self.state.multipoles - self.problem.reference.state.multipoles
        multipoles = torch.where(self.known, held, self.inner.residual.multipoles)
        return Residual(multipoles, self.problem.systems.condition(self.state))

    @cached_property
    def local_step(self) -> torch.Tensor:
        return self.local_change(self.residual.multipoles)

    def local_change(self, residual: torch.Tensor) -> torch.Tensor:
        return torch.where(self.known, -residual, self.inner.local_change(residual))

    @property
    def local_response(self) -> torch.Tensor:
        return torch.where(self.known, 0.0, self.inner.local_response)

    def jacobian(self, held: torch.Tensor | None = None, flow: Flow | None = None) -> LinearSolver:
        return self.inner.jacobian(self.known if held is None else self.known | held, flow)
