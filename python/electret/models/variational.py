"""Families whose density minimises an energy E[p] = sum_i eps_i(p_i) + ½ pᵀAp - F·D at given charge or Fermi
level. The stationarity dE/dp + mu = 0 is their equation, and dE/dQ = -mu."""

from __future__ import annotations

from functools import cached_property
from typing import Protocol

import torch

from electret.models.self_consistent import Parameters, SelfConsistent
from electret.scf.electrostatics import Electrostatics, Operator
from electret.scf.linear import block_jacobian
from electret.scf.problem import LinearSolver, Problem, Residual, Systems
from electret.scf.reference import ReferenceDensity
from electret.scf.state import State

__all__ = ["LocalEnergy", "Variational", "VariationalProblem"]


class LocalEnergy(Protocol):
    """eps_i(p_i), the energy of each atom in eV; convex in the multipoles. What the equations take of it."""

    def local_gradient(self, parameters: Parameters, p: torch.Tensor) -> torch.Tensor:
        """d eps/dp, `[n_atoms, n_lm]` eV/(e Å^l), in the graph of p and the parameters."""
        ...

    def local_hessian(self, parameters: Parameters, p: torch.Tensor) -> torch.Tensor:
        """d² eps/dp², `[n_atoms, n_lm, n_lm]` eV/(e Å^l)²."""
        ...


class VariationalProblem:
    """d eps/dp + A p + potential of the field + mu = 0.

    Args:
        local: eps.
        parameters: its parameters.
        electrostatics: of the batch.
        systems: conditions.
        potential: p to A p, with derivatives or without.
        quadratic: eps is a quadratic function of p.
        linear_solver: `auto`, `dense` or `krylov`.
    """

    variational = True

    def __init__(
        self,
        local: LocalEnergy,
        parameters: Parameters,
        electrostatics: Electrostatics,
        systems: Systems,
        potential: Operator,
        quadratic: bool,
        linear_solver: str,
    ) -> None:
        self.local = local
        self.parameters = parameters
        self.electrostatics = electrostatics
        self.systems = systems
        self.potential = potential
        self.affine = quadratic
        self.linear_solver = linear_solver
        self._hessian: tuple[torch.Tensor, torch.Tensor] | None = None  # the last multipoles and theirs
        self._factors: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None  # of that of each atom

    @cached_property
    def _field(self) -> torch.Tensor:
        return self.electrostatics.field_potential()

    def hessian(self, p: torch.Tensor) -> torch.Tensor:
        """d² eps/dp², `[n_atoms, n_lm, n_lm]`, without a graph."""
        if self._hessian is not None and (self.affine or self._hessian[0] is p):
            return self._hessian[1]
        with torch.no_grad():
            hessian = self.local.local_hessian(self.parameters, p)
        self._hessian = (p, hessian)
        return hessian

    def residual(self, state: State) -> Residual:
        """dE/dp + mu in eV/(e Å^l), and the charge condition."""
        p = state.multipoles
        residual = self.local.local_gradient(self.parameters, p) + self.potential(p)
        if self.electrostatics.in_field:
            residual = residual + self._field
        level = self.systems.at_atoms(state.fermi_level)[:, None]
        residual = torch.cat([residual[:, :1] + level, residual[:, 1:]], dim=1)
        return Residual(residual, self.systems.condition(state))

    def recall(self, loop: Problem, state: State) -> None:
        """Nothing: most calls have no use for the residual in the graph."""

    def follow(self, state: State, moved: State) -> None:
        """Nothing: the energy does not take the potential of the residual."""

    def jacobian(self, state: State, held: torch.Tensor | None = None) -> LinearSolver:
        """[[C + A, 1], [1ᵀ, 0]] with the block-diagonal Hessian C of the local energies."""
        left, right = self.hessian(state.multipoles), None
        column = torch.zeros_like(state.multipoles)
        column[:, 0] = 1.0
        constrained = self.systems.constrained
        if held is not None:
            identity = torch.eye(left.shape[1], dtype=left.dtype, device=left.device)
            left = torch.where(held[:, :, None], identity, left)
            right = identity * (~held)[:, :, None]
            column = torch.where(held, 0.0, column)
            constrained = torch.zeros_like(constrained)
        return block_jacobian(
            self.electrostatics, "coulomb", left, right, column, constrained, self.linear_solver
        )

    def _local_solve(self, state: State, right: torch.Tensor) -> torch.Tensor:
        """(C_i + A_ii)^-1 of `[n_atoms, n_lm]`; factors are kept for as long as the Hessian is the same."""
        hessian = self.hessian(state.multipoles)
        if self._factors is None or self._factors[0] is not hessian:
            local = hessian + torch.diag_embed(self._self_interaction)
            self._factors = hessian, *torch.linalg.lu_factor(local)
        _, lu, pivots = self._factors
        return torch.linalg.lu_solve(lu, pivots, right[:, :, None]).squeeze(2)

    @cached_property
    def _self_interaction(self) -> torch.Tensor:
        return self.electrostatics.self_interaction()

    def local_step(self, state: State, residual: Residual) -> torch.Tensor:
        """-(C_i + A_ii)^-1 R_i."""
        return -self._local_solve(state, residual.multipoles)

    def local_response(self, state: State) -> torch.Tensor:
        """-(C_i + A_ii)^-1 of a constant potential."""
        constant = torch.zeros_like(state.multipoles)
        constant[:, 0] = 1.0
        return -self._local_solve(state, constant)


class Variational(SelfConsistent):
    """Base of `qeq` and `energy_functional`: subclasses give the local energy and its derivatives."""

    variational = True

    def local_energy(self, parameters: Parameters, p: torch.Tensor) -> torch.Tensor:
        """eps_i(p_i) `[n_atoms]` in eV, strictly convex in p_i."""
        raise NotImplementedError

    def local_gradient(self, parameters: Parameters, p: torch.Tensor) -> torch.Tensor:
        """See `LocalEnergy`."""
        raise NotImplementedError

    def local_hessian(self, parameters: Parameters, p: torch.Tensor) -> torch.Tensor:
        """See `LocalEnergy`."""
        raise NotImplementedError

    @property
    def quadratic(self) -> bool:
        """Whether the local energy is quadratic: then one linear solve gives the density."""
        raise NotImplementedError

    def problem(
        self,
        parameters: Parameters,
        electrostatics: Electrostatics,
        systems: Systems,
        cached: bool,
        linear_solver: str,
    ) -> VariationalProblem:
        """Stationarity of the energy."""
        potential = electrostatics.cached_potential if cached else electrostatics.potential
        return VariationalProblem(
            self,
            parameters,
            electrostatics,
            systems,
            potential,
            self.quadratic,
            linear_solver,
        )

    def density_energies(self, state: State, parameters: Parameters, problem: Problem) -> torch.Tensor:
        """eps_i."""
        return self.local_energy(parameters, state.multipoles)

    def evaluate_at(
        self, problem: Problem, state: State, reference: ReferenceDensity
    ) -> tuple[State, dict[str, torch.Tensor]]:
        """`stationarity [n_atoms, n_lm]`: dE/dp + mu at the reference, nan where there is no label.

        Where no Fermi level is labelled, the mean over the atoms stands for it.
        """
        residual = problem.residual(state).multipoles
        systems = problem.systems
        counts = systems.sum(torch.ones_like(residual[:, 0]))
        mean = systems.sum(residual[:, 0]) / counts
        shift = torch.where(reference.level_known, 0.0, mean)
        charge = residual[:, :1] - systems.at_atoms(shift)[:, None]
        stationarity = torch.cat([charge, residual[:, 1:]], dim=1)
        stationarity = torch.where(reference.known, stationarity, torch.nan)
        level = state.fermi_level - shift
        return State(state.multipoles, level), {"stationarity": stationarity}
