"""Charge that flows along edges, driven by differences of the potential between their ends.

With conductances c of the edges and w, the placement of the total charge (sum 1 over a system),

    q = q0 + w (Q - sum q0) + Bᵀ f,   f_e = -c_e (r_j - r_i - F·s_e),

where the drive r is the potential that moves charge, with the Fermi level, r = dE/dq + mu, and s_e the
lattice vector that edge e crosses. The flows are eliminated: with Λ = Bᵀ diag(c) B the equations at the
charges are (1 - w 1ᵀ)(q - q0) + (Λ + s w wᵀ) r = 0, whose sum gives the Fermi level, wᵀ r = 0. Nothing is
divided by c, and Λ has no answer to a constant potential: an insulator is one at any size.

Sources: Nistor, Polihronov, Müser and Mosey, J. Chem. Phys. 125, 094108 (2006); Verstraelen, Ayers, Van
Speybroeck and Waroquier, J. Chem. Phys. 138, 074108 (2013).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from electret import _native
from electret.scf.electrostatics import Electrostatics
from electret.scf.problem import Batch, Evaluation, LinearSolver, Problem, Residual, Systems
from electret.scf.state import State
from electret.support.locks import cached_property

__all__ = ["Flow", "FlowEvaluation", "FlowProblem", "driven"]


@dataclass(frozen=True, eq=False)
class Flow:
    """Edges of a batch, and placement of the charge of each system."""

    systems: Batch
    edges: Tensor
    """Atoms i and j, `[2, n_pairs]`; one edge of each two of opposite directions."""
    conductance: Tensor
    """c `[n_pairs]` e/V."""
    placement: Tensor
    """w `[n_atoms]`, of sum one over each system."""

    @cached_property
    def _capacity(self) -> Tensor:
        """s w `[n_atoms]` e/V."""
        size = self.systems.n_atoms.to(self.placement)
        return _native.FLOW_CAPACITY * self.systems.at_atoms(size) * self.placement

    def into_atoms(self, flux: Tensor) -> Tensor:
        """Bᵀ f, `[n_atoms, ...]` of `[n_pairs, ...]`."""
        sender, receiver = self.edges
        empty = flux.new_zeros(len(self.placement), *flux.shape[1:])
        return empty.index_add(0, receiver, flux).index_add(0, sender, flux, alpha=-1)

    def through(self, r: Tensor) -> Tensor:
        """(Λ + s w wᵀ) r, `[n_atoms, ...]`."""
        sender, receiver = self.edges
        columns = [-1] + [1] * (r.dim() - 1)
        flux = self.conductance.view(columns) * (r[receiver] - r[sender])
        placed = self.systems.sum(self.placement.view(columns) * r)
        return self.into_atoms(flux) + self._capacity.view(columns) * self.systems.at_atoms(placed)

    def kept(self, q: Tensor, transpose: bool = False) -> Tensor:
        """(1 - w 1ᵀ) q, or its transpose, `[n_atoms]`."""
        if transpose:
            return q - self.systems.at_atoms(self.systems.sum(self.placement * q))
        return q - self.placement * self.systems.at_atoms(self.systems.sum(q))

    def after(self, product: Tensor, x: Tensor) -> Tensor:
        """J x of `product` = J0 x, `[n_atoms, n_lm]`."""
        charges = self.through(product[:, 0]) + self.kept(x[:, 0])
        return torch.cat([charges[:, None], product[:, 1:]], dim=1)

    def before(self, x: Tensor) -> Tensor:
        """y with Jᵀ x = J0ᵀ y + `kept` x."""
        return torch.cat([self.through(x[:, 0])[:, None], x[:, 1:]], dim=1)

    @property
    def own(self) -> Tensor:
        """Diagonal of Λ + s w wᵀ, `[n_atoms]`."""
        sender, receiver = self.edges
        c = torch.where(sender == receiver, 0.0, self.conductance)
        return (self._capacity * self.placement).index_add(0, sender, c).index_add(0, receiver, c)

    def of(self, atoms: Tensor, systems: Batch) -> Flow:
        """Flow in some of the systems, of all of whose atoms the indices are given."""
        place = self.edges.new_full((len(self.placement),), -1)
        place[atoms] = torch.arange(len(atoms), device=place.device)
        edges = place[self.edges]
        inside = (edges >= 0).all(dim=0)
        return Flow(systems, edges[:, inside], self.conductance[inside], self.placement[atoms])


@dataclass(eq=False)
class FlowProblem:
    """Equations of a density whose charges flow.

    Args:
        inner: equations of all other multipoles, whose residual at the charges is the drive r, eV/e.
        flow: edges and placement.
        reference: q0 `[n_atoms]` e.
        flux: flux of q0 along the edges `[n_pairs]` e, which counts in the polarisation.
        crossed: s_e `[n_pairs, 3]` Å.
        field: F of the system of each edge `[n_pairs, 3]` V/Å; None without.
    """

    inner: Problem
    flow: Flow
    reference: Tensor
    flux: Tensor
    crossed: Tensor
    field: Tensor | None
    variational: ClassVar[bool] = False
    """The residual is no gradient, whatever `inner` is."""

    @property
    def systems(self) -> Systems:
        """Conditions."""
        return self.inner.systems

    @property
    def affine(self) -> bool:
        """As the equations inside."""
        return self.inner.affine

    def at(self, state: State, known: Evaluation | None = None) -> FlowEvaluation:
        """See `electret.scf.problem.Problem`."""
        inside = known.inner if isinstance(known, FlowEvaluation) else None
        return FlowEvaluation(self, self.inner.at(state, inside))


class FlowEvaluation:
    """`FlowProblem` at one state."""

    def __init__(self, problem: FlowProblem, inner: Evaluation) -> None:
        self.problem, self.inner, self.state = problem, inner, inner.state
        self.flow = problem.flow

    @cached_property
    def drive(self) -> Tensor:
        """r `[n_atoms]` eV/e."""
        return self.inner.residual.multipoles[:, 0]

    @cached_property
    def _jump(self) -> Tensor | None:
        """F·s_e, `[n_pairs]` V."""
        field = self.problem.field
        return None if field is None else (field * self.problem.crossed).sum(dim=1)

    @cached_property
    def _drop(self) -> Tensor:
        """r_j - r_i - F·s_e, `[n_pairs]` V."""
        sender, receiver = self.flow.edges
        drop = self.drive[receiver] - self.drive[sender]
        return drop if self._jump is None else drop - self._jump

    def _stayed(self) -> Tensor:
        """(1 - w 1ᵀ)(q - q0), `[n_atoms]` e."""
        return self.flow.kept(self.state.multipoles[:, 0] - self.problem.reference)

    @cached_property
    def residual(self) -> Residual:
        """Deviation of the charges in e and of the others as `inner` has it, and the charge condition."""
        inner = self.inner.residual
        charges = self._stayed() + self.flow.through(self.drive)
        if self._jump is not None:
            charges = charges - self.flow.into_atoms(self.flow.conductance * self._jump)
        return Residual(torch.cat([charges[:, None], inner.multipoles[:, 1:]], dim=1), inner.condition)

    @property
    def local_step(self) -> Tensor:
        """See `electret.scf.problem.Evaluation`."""
        return self.local_change(self.residual.multipoles)

    def local_change(self, residual: Tensor) -> Tensor:
        """-R at the charges, whose potentials are held, and the change of the others by their equations."""
        others = torch.cat([torch.zeros_like(residual[:, :1]), residual[:, 1:]], dim=1)
        return torch.cat([-residual[:, :1], self.inner.local_change(others)[:, 1:]], dim=1)

    @property
    def local_response(self) -> Tensor:
        """Charge that is placed per unit of the Fermi level."""
        response = torch.zeros_like(self.state.multipoles)
        response[:, 0] = -self.flow._capacity
        return response

    def jacobian(self, held: Tensor | None = None, flow: Flow | None = None) -> LinearSolver:
        """See `electret.scf.problem.Evaluation`; where any component is held, the charges have to be."""
        return self.inner.jacobian(held, None if held is not None else flow or self.flow)

    @cached_property
    def crossing(self) -> Tensor:
        """Polarisation by flow across the borders of cells, sum_e f_e s_e, half at either end of an edge,
        `[n_atoms, 3]` e Å."""
        flux = self.problem.flux - self.flow.conductance * self._drop
        return self._at_ends(0.5 * flux[:, None] * self.problem.crossed)

    def _at_ends(self, values: Tensor) -> Tensor:
        """Values of the edges at both of their ends, `[n_atoms, ...]`."""
        sender, receiver = self.flow.edges
        empty = values.new_zeros(len(self.flow.placement), *values.shape[1:])
        return empty.index_add(0, sender, values).index_add(0, receiver, values)

    def energies(self) -> Tensor:
        """Energy of the flow, sum_e f_e²/2c_e at the solution, half at either end of an edge, `[n_atoms]` eV.

        In place of it stands the Lagrangian in which the drive is the multiplier of the equation of the
        charges, -½ c (r_j - r_i)² - r (1 - w 1ᵀ)(q - q0): it is stationary in charges and drive, so that
        forces need no response of either (Hellmann-Feynman).
        """
        drop = self._drop
        twice = drop if self._jump is None else drop + 2 * self._jump
        halves = self._at_ends(-0.25 * self.flow.conductance * drop * twice)
        return halves - self.drive * self._stayed()

    def predicted(self) -> State:
        """Density that the potential of this state drives, and the Fermi level of its placement."""
        systems = self.flow.systems
        shift = systems.sum(self.flow.placement * self.drive)
        level = self.state.fermi_level - shift
        step = self.local_step
        moved = step[:, 0] + self.flow._capacity * systems.at_atoms(shift)
        step = torch.cat([moved[:, None], step[:, 1:]], dim=1)
        return State(self.state.multipoles + step, level)


def driven(inner: Problem, parameters: Mapping[str, Tensor], electrostatics: Electrostatics) -> Problem:
    """Equations in which charges flow, if the parameters have a conductance; else `inner`."""
    if "conductance" not in parameters:
        return inner
    edges, batch = parameters["edges"], inner.systems
    field = None
    if electrostatics.in_field:
        field = electrostatics.external_field[batch.batch[edges[0]]]
    flow = Flow(batch, edges, parameters["conductance"], parameters["placement"])
    return FlowProblem(inner, flow, parameters["resting"], parameters["flux"], parameters["crossed"], field)
