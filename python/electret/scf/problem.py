"""Equations R(p, mu) = 0 of a self-consistent density: interfaces between families and solvers.

Unknowns are the multipoles p and the Fermi level mu of each system. `Problem.at(state)` gives an
`Evaluation`: features, residual, local step and Jacobian at one state, each computed at most once. A family
writes its equations once and instantiates them with two kinds of operators: differentiable torch operators
for chord steps and unrolled steps, and operators cached for fixed atoms in the solver's loop.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import torch

from electret.scf.electrostatics import Electrostatics
from electret.scf.state import State
from electret.support.locks import cached_property
from electret.torch.per_system import at_atoms, sum_over_atoms

if TYPE_CHECKING:
    from electret.scf.flow import Flow

__all__ = ["Batch", "Evaluation", "FixedPointEvaluation", "LinearSolver", "Problem", "Residual", "Systems"]


@dataclass(frozen=True)
class Batch:
    """Atoms of a batch of systems, and sums over those of each system."""

    batch: torch.Tensor  # [n_atoms] int64
    n_systems: int

    @cached_property
    def n_atoms(self) -> torch.Tensor:
        """Atoms of each system, `[n_systems]` float64."""
        return self.sum(torch.ones_like(self.batch, dtype=torch.float64))

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over the atoms of each system, `[n_systems, ...]` of `[n_atoms, ...]`."""
        return sum_over_atoms(values, self.batch, self.n_systems)

    def at_atoms(self, values: torch.Tensor) -> torch.Tensor:
        """Value of each atom's system, `[n_atoms, ...]` of `[n_systems, ...]`."""
        return at_atoms(values, self.batch)

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Mean over atoms and components of each system, `[n_systems]` of `[n_atoms, ...]`."""
        flat = values.reshape(len(values), -1).mean(dim=1)
        return self.sum(flat) / self.n_atoms.clamp(min=1)


@dataclass(frozen=True)
class Systems(Batch):
    """Condition of each system of a batch: constant total charge or constant Fermi level."""

    constrained: torch.Tensor  # [n_systems] bool: the total charge is constant
    total_charge: torch.Tensor  # [n_systems] e, used where constrained
    fermi_level: torch.Tensor  # [n_systems] eV, used where not constrained
    applied_potential: torch.Tensor | None = None
    """Potential U_i of each atom's electrode `[n_atoms]` V: the Fermi level there is mu - U_i."""

    def detach(self) -> Systems:
        """Conditions without a graph."""
        if not (self.total_charge.requires_grad or self.fermi_level.requires_grad):
            return self
        total_charge, fermi_level = self.total_charge.detach(), self.fermi_level.detach()
        return replace(self, total_charge=total_charge, fermi_level=fermi_level)

    @cached_property
    def all_constrained(self) -> bool:
        """True if every system has constant total charge."""
        return bool(self.constrained.all())

    def levels(self, fermi_level: torch.Tensor) -> torch.Tensor:
        """Fermi level of each atom, mu - U_i, `[n_atoms]` eV."""
        level = self.at_atoms(fermi_level)
        return level if self.applied_potential is None else level - self.applied_potential

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
    """Jacobian K of the residual at one state, as a linear solver."""

    def solve(
        self,
        multipoles: torch.Tensor,
        condition: torch.Tensor,
        transpose: bool = False,
        tolerance: float | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Solution x `[n_atoms, n_lm]`, y `[n_systems]` of K (x, y) = (multipoles, condition), or with Kᵀ;
        zero for systems that failed. `tolerance` is the relative residual of iterative solvers."""
        ...

    @property
    def failed(self) -> torch.Tensor:
        """True for systems of which any solve so far failed, `[n_systems]`."""
        ...


class Evaluation(Protocol):
    """Equations at one state. Every quantity is computed at first use and kept; with gradients enabled it is
    in the graph of the problem's operators and parameters."""

    state: State

    @property
    def residual(self) -> Residual:
        """R(p, mu)."""
        ...

    @property
    def local_step(self) -> torch.Tensor:
        """Change of the multipoles of each atom that removes its own residual at fixed potential,
        `[n_atoms, n_lm]` e Å^l."""
        ...

    def local_change(self, residual: torch.Tensor) -> torch.Tensor:
        """Change that removes a given residual `[n_atoms, n_lm]` of each atom."""
        ...

    @property
    def local_response(self) -> torch.Tensor:
        """Change of the multipoles of each atom per unit of the Fermi level at fixed potential,
        `[n_atoms, n_lm]` e Å^l/eV."""
        ...

    def jacobian(self, held: torch.Tensor | None = None, flow: Flow | None = None) -> LinearSolver:
        """Jacobian K = dR/d(p, mu). Rows of components `held [n_atoms, n_lm]` are those of the identity, and
        with any held every Fermi level is held too. With a `flow`, which the residual at the charges drives,
        those of `electret.scf.flow.FlowProblem`."""
        ...


class FixedPointEvaluation(Evaluation, Protocol):
    """Equations p = F(v) with v = B p + ... at one state."""

    electrostatics: Electrostatics

    @property
    def charge_response(self) -> torch.Tensor:
        """dq_i/dmu at fixed potential, `[n_atoms]` e/eV, in the graph of the parameters."""
        ...

    def tangent(self, features: torch.Tensor) -> torch.Tensor:
        """D features, D = dF/dv: `[n_atoms, n_lm]` of raw features `[n_atoms, n_widths, n_features_lm]`."""
        ...


class Problem(Protocol):
    """Equations R(p, mu) = 0 of a batch."""

    @property
    def systems(self) -> Systems:
        """Conditions on the charges of the batch."""
        ...

    @property
    def affine(self) -> bool:
        """True if the residual is affine in the state: one step with the Jacobian solves it, and the Jacobian
        is the same at every state."""
        ...

    @property
    def variational(self) -> bool:
        """True if the residual is the gradient of an energy in the multipoles, plus mu at charges."""
        ...

    def at(self, state: State, known: Evaluation | None = None) -> Evaluation:
        """Equations at a state.

        Args:
            state: multipoles and Fermi levels.
            known: evaluation, of this problem or of the same equations without a graph, at a state of equal
                numbers. Features computed there are reused; the result is differentiable once.
        """
        ...
