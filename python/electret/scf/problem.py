"""The equations of a self-consistent density, as the solvers see them.

Unknowns are the multipoles p and the Fermi level mu of each system. A problem gives its residual and, at any
state, the Jacobian K of the residual as a linear solver. It is written once for the two kinds of operator
behind it: the differentiable torch operators (chord steps, unrolled steps) and the cached geometry of the
solver's loop.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch

from electret.scf.electrostatics import Electrostatics
from electret.scf.state import State
from electret.torch.per_system import at_atoms, sum_over_atoms

__all__ = ["FixedPointEquations", "ImplicitProblem", "LinearSolver", "Problem", "Residual", "Systems"]


@dataclass(frozen=True)
class Systems:
    """The conditions of each system of a batch: constant charge, or constant Fermi level."""

    batch: torch.Tensor  # [n_atoms] int64
    n_systems: int
    constrained: torch.Tensor  # [n_systems] bool: the total charge is given
    total_charge: torch.Tensor  # [n_systems] e, used where constrained
    fermi_level: torch.Tensor  # [n_systems] eV, used where not constrained

    def detach(self) -> Systems:
        """The same without a graph."""
        if not (self.total_charge.requires_grad or self.fermi_level.requires_grad):
            return self
        total_charge, fermi_level = self.total_charge.detach(), self.fermi_level.detach()
        return replace(self, total_charge=total_charge, fermi_level=fermi_level)

    @cached_property
    def n_atoms(self) -> torch.Tensor:
        """Atoms of each system, `[n_systems]` float64."""
        return self.sum(torch.ones_like(self.batch, dtype=torch.float64))

    @cached_property
    def all_constrained(self) -> bool:
        """Whether the total charge of every system is given."""
        return bool(self.constrained.all())

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over the atoms of each system, `[n_systems, ...]` of `[n_atoms, ...]`."""
        return sum_over_atoms(values, self.batch, self.n_systems)

    def at_atoms(self, values: torch.Tensor) -> torch.Tensor:
        """The value of each atom's system, `[n_atoms, ...]` of `[n_systems, ...]`."""
        return at_atoms(values, self.batch)

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Mean over atoms and components of each system, `[n_systems]` of `[n_atoms, ...]`."""
        flat = values.reshape(len(values), -1).mean(dim=1)
        return self.sum(flat) / self.n_atoms.clamp(min=1)

    def condition(self, state: State) -> torch.Tensor:
        """Charge minus total charge, or Fermi level minus the given one, `[n_systems]`."""
        charge = self.sum(state.multipoles[:, 0]) - self.total_charge
        if self.all_constrained:
            return charge
        return torch.where(self.constrained, charge, state.fermi_level - self.fermi_level)


@dataclass(frozen=True)
class Residual:
    """Zero at the self-consistent state."""

    multipoles: torch.Tensor  # [n_atoms, n_lm], eV/(e Å^l) or e Å^l
    condition: torch.Tensor  # [n_systems]


class LinearSolver(Protocol):
    """The Jacobian K of the residual at one state, ready to solve with."""

    def solve(
        self,
        multipoles: torch.Tensor,
        condition: torch.Tensor,
        transpose: bool = False,
        tolerance: float | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """x `[n_atoms, n_lm]` and y `[n_systems]` with K (x, y) = (multipoles, condition); zero for systems
        that `failed`. An iterative solver may end at the relative residual `tolerance`."""
        ...

    @property
    def failed(self) -> torch.Tensor:
        """Systems for which a solve so far did not succeed, `[n_systems]` bool."""
        ...


class Problem(Protocol):
    """Equations R(p, mu) = 0 of a batch."""

    systems: Systems
    affine: bool
    """The residual is linear in the state: one step with the Jacobian solves it."""
    variational: bool
    """The residual is the gradient of an energy in the multipoles, plus the Fermi level at their charges."""

    def residual(self, state: State) -> Residual:
        """R at a state."""
        ...

    def jacobian(self, state: State, held: torch.Tensor | None = None) -> LinearSolver:
        """dR at a state. With components `held [n_atoms, n_lm]` their rows are those of the identity and
        every Fermi level is held too."""
        ...

    def local_step(self, state: State, residual: Residual) -> torch.Tensor:
        """Change of the multipoles of each atom that removes its own residual at fixed potential,
        `[n_atoms, n_lm]` e Å^l."""
        ...

    def local_response(self, state: State) -> torch.Tensor:
        """Change of the multipoles of each atom per unit of the Fermi level at fixed potential,
        `[n_atoms, n_lm]` e Å^l/eV."""
        ...


class ImplicitProblem(Problem, Protocol):
    """A problem whose solution is differentiated."""

    def recall(self, loop: Problem, state: State) -> None:
        """Takes what `loop`, the same equations without a graph, found at `state`, where it evaluated its
        residual last, for first derivatives there."""
        ...

    def follow(self, state: State, moved: State) -> None:
        """Takes note that `moved` has the numbers of `state`, where the residual was evaluated last: what is
        known there need not be evaluated anew for first derivatives at `moved`."""
        ...


class FixedPointEquations(Problem, Protocol):
    """A problem of the form p = F(B p + ...), whose iteration has a stability."""

    electrostatics: Electrostatics

    def tangent(self, state: State, features: torch.Tensor) -> torch.Tensor:
        """D = dF/dv of features `[n_atoms, n_widths, n_features_lm]`, `[n_atoms, n_lm]`."""
        ...
