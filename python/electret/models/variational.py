"""Families whose density minimises E[p] = sum_i eps_i(p_i) + ½ pᵀAp - F·D at given charge or Fermi level.

Their equation is the stationarity dE/dp + mu = 0, so that dE/dQ = -mu.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch

from electret.models.self_consistent import Parameters, SelfConsistent
from electret.scf.electrostatics import Electrostatics, Operator
from electret.scf.flow import Flow, FlowEvaluation, driven
from electret.scf.linear.blocks import block_jacobian
from electret.scf.problem import Evaluation, LinearSolver, Problem, Residual, Systems
from electret.scf.reference import ReferenceDensity
from electret.scf.state import State
from electret.support.locks import cached_property

__all__ = ["LocalEnergy", "Variational", "VariationalProblem"]


class LocalEnergy(Protocol):
    """Derivatives of eps_i(p_i), the energy of each atom in eV, convex in the multipoles."""

    def local_gradient(self, parameters: Parameters, p: torch.Tensor) -> torch.Tensor:
        """d eps/dp, `[n_atoms, n_lm]` eV/(e Å^l), in the graph of p and the parameters."""
        ...

    def local_hessian(self, parameters: Parameters, p: torch.Tensor) -> torch.Tensor:
        """d² eps/dp², `[n_atoms, n_lm, n_lm]` eV/(e Å^l)²."""
        ...


@dataclass(eq=False)
class VariationalProblem:
    """d eps/dp + A p + potential of external field and charges + mu - U = 0.

    Args:
        local: eps.
        parameters: of eps.
        electrostatics: of the batch.
        systems: condition of each system.
        potential: p to A p, with derivatives or without.
        affine: True if eps is a quadratic function of p.
        linear_solver: `auto`, `dense` or `krylov`.
    """

    local: LocalEnergy
    parameters: Parameters
    electrostatics: Electrostatics
    systems: Systems
    potential: Operator
    affine: bool
    linear_solver: str
    variational: ClassVar[bool] = True
    _curvature: Curvature | None = dataclasses.field(default=None, init=False)

    @cached_property
    def external(self) -> torch.Tensor | None:
        """Potential of external field and charges, `[n_atoms, n_lm]`."""
        return self.electrostatics.external_potential()

    def curvature(self, p: torch.Tensor) -> Curvature:
        """Curvature of eps at p; of a quadratic eps one serves all p."""
        if self._curvature is None or not self.affine:
            self._curvature = Curvature(self, p)
        return self._curvature

    def at(self, state: State, known: Evaluation | None = None) -> VariationalEvaluation:
        """See `electret.scf.problem.Problem`. Nothing is reused: the energy does not depend on the potential
        of the residual."""
        return VariationalEvaluation(self, state)


class Curvature:
    """Second derivatives of the local energies at p, without a graph."""

    def __init__(self, problem: VariationalProblem, p: torch.Tensor) -> None:
        self._electrostatics = problem.electrostatics
        with torch.no_grad():
            self.hessian = problem.local.local_hessian(problem.parameters, p)  # C, [n_atoms, n_lm, n_lm]

    @cached_property
    def _factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        own = self._electrostatics.self_interaction()
        lu, pivots = torch.linalg.lu_factor(self.hessian + torch.diag_embed(own))
        return lu, pivots

    def solve(self, right: torch.Tensor) -> torch.Tensor:
        """(C_i + A_ii)⁻¹ of each atom's vector, `[n_atoms, n_lm]`."""
        return torch.linalg.lu_solve(*self._factors, right[:, :, None]).squeeze(2)


class VariationalEvaluation:
    """`VariationalProblem` at one state."""

    def __init__(self, problem: VariationalProblem, state: State) -> None:
        self.problem, self.state = problem, state

    @cached_property
    def _curvature(self) -> Curvature:
        return self.problem.curvature(self.state.multipoles)

    @cached_property
    def residual(self) -> Residual:
        """dE/dp + mu in eV/(e Å^l), and the charge condition."""
        problem, p = self.problem, self.state.multipoles
        residual = problem.local.local_gradient(problem.parameters, p) + problem.potential(p)
        if problem.external is not None:
            residual = residual + problem.external
        level = problem.systems.levels(self.state.fermi_level)[:, None]
        residual = torch.cat([residual[:, :1] + level, residual[:, 1:]], dim=1)
        return Residual(residual, problem.systems.condition(self.state))

    @cached_property
    def local_step(self) -> torch.Tensor:
        """-(C_i + A_ii)⁻¹ R_i of the residual."""
        return self.local_change(self.residual.multipoles)

    def local_change(self, residual: torch.Tensor) -> torch.Tensor:
        """-(C_i + A_ii)⁻¹ R_i."""
        return -self._curvature.solve(residual)

    @cached_property
    def local_response(self) -> torch.Tensor:
        """-(C_i + A_ii)⁻¹ of a constant potential."""
        return -self._curvature.solve(self._unit_charges)

    @property
    def _unit_charges(self) -> torch.Tensor:
        """Derivative of the residual in the Fermi level: 1 at charges, `[n_atoms, n_lm]`."""
        charges = torch.zeros_like(self.state.multipoles)
        charges[:, 0] = 1.0
        return charges

    def jacobian(self, held: torch.Tensor | None = None, flow: Flow | None = None) -> LinearSolver:
        """[[C + A, 1], [1ᵀ, 0]] with the block-diagonal Hessian C of the local energies, with its flow."""
        problem, left, right = self.problem, self._curvature.hessian, None
        column, constrained = self._unit_charges, problem.systems.constrained
        if held is not None:
            identity = torch.eye(left.shape[1], dtype=left.dtype, device=left.device)
            left = torch.where(held[:, :, None], identity, left)
            right = identity * (~held)[:, :, None]
            column = torch.where(held, 0.0, column)
            constrained = torch.zeros_like(constrained)
        return block_jacobian(
            problem.electrostatics, "coulomb", left, right, column, constrained, problem.linear_solver, flow
        )


class Variational(SelfConsistent):
    """Base of `qeq` and `energy_functional`; subclasses implement the local energy and its derivatives."""

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
        """True if the local energy is quadratic: one linear solve then gives the density."""
        raise NotImplementedError

    def problem(
        self,
        parameters: Parameters,
        electrostatics: Electrostatics,
        systems: Systems,
        cached: bool,
        linear_solver: str,
    ) -> Problem:
        """Equations of the stationarity; where charges flow, of their flow too."""
        potential = electrostatics.cached_potential if cached else electrostatics.potential
        stationarity = VariationalProblem(
            self,
            parameters,
            electrostatics,
            systems,
            potential,
            self.quadratic,
            linear_solver,
        )
        return driven(stationarity, parameters, electrostatics)

    def density_energies(self, point: Evaluation, parameters: Parameters) -> torch.Tensor:
        """eps_i, and the energy of the flow."""
        energies = self.local_energy(parameters, point.state.multipoles)
        return energies + point.energies() if isinstance(point, FlowEvaluation) else energies

    def evaluate_at(
        self, problem: Problem, state: State, reference: ReferenceDensity
    ) -> tuple[Evaluation, dict[str, torch.Tensor]]:
        """`stationarity [n_atoms, n_lm]`: dE/dp + mu at the reference, nan without a label.

        The mean of dE/dq over the atoms replaces an unlabelled Fermi level. Where charges flow, the density
        that the potential of the reference drives.
        """
        reached = problem.at(state)
        if isinstance(reached, FlowEvaluation):
            return problem.at(reached.predicted()), {}
        residual = reached.residual.multipoles
        systems = problem.systems
        counts = systems.sum(torch.ones_like(residual[:, 0]))
        mean = systems.sum(residual[:, 0]) / counts
        shift = torch.where(reference.level_known, 0.0, mean)
        charge = residual[:, :1] - systems.at_atoms(shift)[:, None]
        stationarity = torch.cat([charge, residual[:, 1:]], dim=1)
        stationarity = torch.where(reference.known, stationarity, torch.nan)
        point = problem.at(State(state.multipoles, state.fermi_level - shift))
        return point, {"stationarity": stationarity}
