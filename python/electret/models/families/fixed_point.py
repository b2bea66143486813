"""Family `fixed_point`: the multipoles are a fixed point p = n0(h) + Delta(h, v[p] + mu) of an update."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import cast

import numpy as np
import torch

import electret
from electret.models.backbone import construction_dtype
from electret.models.base import Structure
from electret.models.config import ModelConfig
from electret.models.families.charge_flux import FluxDensity
from electret.models.families.density_energies import InvariantEnergy, QuadraticEnergy
from electret.models.families.updates import ManyBodyUpdate, OneBodyUpdate
from electret.models.hosted import o3
from electret.models.readouts import MultipoleReadout
from electret.models.self_consistent import Parameters, SelfConsistent
from electret.models.start.density import unit_norm
from electret.models.start.elements import element_charges
from electret.models.start.statistics import Statistics
from electret.scf.electrostatics import Electrostatics, Operator
from electret.scf.linear import OperatorJacobian, block_jacobian
from electret.scf.problem import LinearSolver, Problem, Residual, Systems
from electret.scf.reference import ReferenceDensity
from electret.scf.state import State

__all__ = ["FixedPoint", "FixedPointProblem"]

LEVEL_BOUND = 10.0
"""Farthest that an unlabelled Fermi level may lie from its guess in direct evaluation, eV: an update with
almost no response would put it anywhere."""


class FixedPointProblem:
    """p - F(v) = 0 with v = (B p + features of the field + mu) / norms.

    Args:
        update: F's change Delta of the density.
        parameters: its parameters and `density`, n0 `[n_atoms, n_lm]`.
        electrostatics: of the batch.
        systems: conditions.
        features: p to B p, with derivatives or without.
        norms: `[n_widths, n_features_lm]`.
        origin: Fermi level that counts as zero, eV.
        linear_solver: `auto`, `dense` or `krylov`.
    """

    variational = False

    def __init__(
        self,
        update: OneBodyUpdate,
        parameters: Parameters,
        electrostatics: Electrostatics,
        systems: Systems,
        features: Operator,
        norms: torch.Tensor,
        origin: float,
        linear_solver: str,
    ) -> None:
        self.update = update
        self.parameters = parameters
        self.electrostatics = electrostatics
        self.systems = systems
        self.features = features
        self.norms = norms
        self.origin = origin
        self.linear_solver = linear_solver
        self.affine = update.affine
        self._potential: tuple[State, torch.Tensor] | None = None  # the last state without a graph, and v
        self._raw: tuple[State, torch.Tensor, bool] | None = None  # the last state, B p, whether in the graph
        self._derivative: tuple[State, torch.Tensor] | None = None  # the last state and D there

    @cached_property
    def _constant(self) -> torch.Tensor:
        return self.electrostatics.constant_features()

    @cached_property
    def _field(self) -> torch.Tensor:
        return self.electrostatics.field_features()

    def effective(self, state: State) -> torch.Tensor:
        """Normalised effective potential `[n_atoms, n_widths, n_features_lm]`."""
        if self._potential is not None and self._potential[0] is state:
            return self._potential[1]
        level = self.systems.at_atoms(state.fermi_level - self.origin)
        raw = self._features_at(state) + self._constant * level[:, None, None]
        if self.electrostatics.in_field:
            raw = raw + self._field
        v = raw / self.norms
        if not torch.is_grad_enabled():
            self._potential = state, v
        return v

    def _features_at(self, state: State) -> torch.Tensor:
        """B p, kept for the last state."""
        graph = torch.is_grad_enabled()
        if self._raw is None or self._raw[0] is not state or self._raw[2] < graph:
            self._raw = state, self.features(state.multipoles), graph
        return self._raw[1]

    def recall(self, loop: Problem, state: State) -> None:
        """Features of the solver's operators."""
        raw = cast(FixedPointProblem, loop)._raw
        if raw is not None and raw[0] is state:
            values = self.electrostatics.known_features(raw[1], state.multipoles)
            self._raw = state, values, torch.is_grad_enabled()

    def follow(self, state: State, moved: State) -> None:
        """Features at `moved` are those at `state`."""
        values = self.electrostatics.followed_features(self._features_at(state), moved.multipoles)
        self._raw = moved, values, torch.is_grad_enabled()

    def density(self, v: torch.Tensor) -> torch.Tensor:
        """n0 + Delta(v), `[n_atoms, n_lm]`."""
        if not self.affine:
            return self.parameters["density"] + self.update(self.parameters, v)
        density, derivative = self._straight
        return density + (derivative @ v.flatten(start_dim=1)[:, :, None]).squeeze(2)

    @cached_property
    def _straight(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Density at no potential and dDelta/dv `[n_atoms, n_lm, n_widths * n_features_lm]` of an affine
        update."""
        with torch.enable_grad():  # also for the first reader, which may be the solver
            parameters = straightened(self.update, self.parameters)
            return parameters["constant"], parameters["response"].flatten(start_dim=2)

    @cached_property
    def _per_level(self) -> torch.Tensor:
        """Change of the multipoles with the Fermi level beside that through the potential, `[n_lm]`."""
        values = self.parameters["density"].new_zeros(self.parameters["density"].shape[1])
        values[0] = self.update.charge_per_level
        return values

    def evaluate(self, state: State) -> torch.Tensor:
        """F at a state, `[n_atoms, n_lm]`."""
        level = self.systems.at_atoms(state.fermi_level - self.origin)
        return self.density(self.effective(state)) + level[:, None] * self._per_level

    def residual(self, state: State) -> Residual:
        """p - F(v) in e Å^l, and the charge condition."""
        return Residual(state.multipoles - self.evaluate(state), self.systems.condition(state))

    def derivative(self, state: State) -> torch.Tensor:
        """D = dF/dv of a one-body update at a state, `[n_atoms, n_lm, n_widths * n_features_lm]`, in raw
        features, without a graph."""
        if self._derivative is not None and (self.affine or self._derivative[0] is state):
            return self._derivative[1]
        if self.affine:
            derivative = self._straight[1].detach()
        else:
            with torch.no_grad():
                v = self.effective(state)
            derivative = self.update.linearised(self.parameters, v)[1].flatten(start_dim=2)
        derivative = derivative / self.norms.flatten()
        self._derivative = (state, derivative)
        return derivative

    def jacobian(self, state: State, held: torch.Tensor | None = None) -> LinearSolver:
        """1 - D B with the charge border; D is block diagonal for one-body updates, and known through its
        products otherwise."""
        constrained = self.systems.constrained
        if held is not None:
            constrained = torch.zeros_like(constrained)
        if not self.update.local:
            return self._operator_jacobian(state, held, constrained)
        right = -self.derivative(state)
        if held is not None:
            right = torch.where(held[:, :, None], 0.0, right)
        column = right @ self._constant.flatten() - self._per_level
        if held is not None:
            column = torch.where(held, 0.0, column)
        return block_jacobian(
            self.electrostatics, "features", None, right, column, constrained, self.linear_solver
        )

    def _operator_jacobian(
        self, state: State, held: torch.Tensor | None, constrained: torch.Tensor
    ) -> OperatorJacobian:
        operators = self.electrostatics.operators
        tangent, cotangent = self.products(state)
        free = None if held is None else (~held).double()

        def masked(values: torch.Tensor) -> torch.Tensor:
            return values if free is None else values * free

        def apply(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            v = operators.features(x)
            v = v + self._constant * self.systems.at_atoms(y)[:, None, None]
            charge = self.systems.sum(x[:, 0])
            moved = tangent(v) + self.systems.at_atoms(y)[:, None] * self._per_level
            return x - masked(moved), torch.where(constrained, charge, y)

        def apply_transpose(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            v = cotangent(masked(x))
            r = x - operators.features_transpose(v)
            r[:, 0] += self.systems.at_atoms(torch.where(constrained, y, 0.0))
            s = -self.systems.sum((v * self._constant).sum(dim=(1, 2)) + masked(x) @ self._per_level)
            return r, torch.where(constrained, s, s + y)

        return OperatorJacobian(self.systems, apply, apply_transpose)

    def _linearised(self, state: State) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Density, its variable v, and the vector-Jacobian product of a probe (zero) as a function of that
        probe, whose own derivative is the Jacobian-vector product; in the graph of the parameters."""
        with torch.no_grad():
            v = self.effective(state)
        with torch.enable_grad():
            variable = v.detach().requires_grad_()
            density = self.density(variable)
            probe = torch.zeros_like(density, requires_grad=True)
            (linear,) = torch.autograd.grad(
                density, variable, probe, create_graph=True, materialize_grads=True
            )
        return density, variable, probe, linear

    def tangent(self, state: State, features: torch.Tensor) -> torch.Tensor:
        """D of raw features `[n_atoms, n_widths, n_features_lm]`, `[n_atoms, n_lm]`, in the graph of the
        parameters."""
        wanted = torch.is_grad_enabled()
        with torch.enable_grad():
            _, _, probe, linear = self._linearised(state)
            (x,) = torch.autograd.grad(
                linear, probe, features / self.norms, create_graph=wanted, materialize_grads=True
            )
        return x

    def products(self, state: State) -> tuple[Operator, Operator]:
        """The products of D (raw features `[n_atoms, n_widths, n_features_lm]` to multipoles) and of its
        transpose, from one evaluation of the update."""
        density, variable, probe, linear = self._linearised(state)

        def cotangent(x: torch.Tensor) -> torch.Tensor:
            (v,) = torch.autograd.grad(density, variable, x, retain_graph=True, materialize_grads=True)
            return v / self.norms

        def tangent(v: torch.Tensor) -> torch.Tensor:
            (x,) = torch.autograd.grad(
                linear, probe, v / self.norms, retain_graph=True, materialize_grads=True
            )
            return x

        return tangent, cotangent

    def local_step(self, state: State, residual: Residual) -> torch.Tensor:
        """F(v) - p."""
        return -residual.multipoles

    def local_response(self, state: State) -> torch.Tensor:
        """D of a constant potential."""
        if self.update.local:
            return self.derivative(state) @ self._constant.flatten() + self._per_level
        tangent, _ = self.products(state)
        constant = self._constant.expand(len(state.multipoles), -1, -1)
        return tangent(constant).detach() + self._per_level


def straightened(update: OneBodyUpdate, parameters: Parameters) -> Parameters:
    """Parameters with the density at no potential, `constant [n_atoms, n_lm]`, and `response [n_atoms, n_lm,
    n_widths, n_features_lm]`, dDelta/dv, where the update is affine; as they are where they have them."""
    if not update.affine or "response" in parameters:
        return parameters
    delta, derivative = update.straight(parameters)
    return {**parameters, "constant": parameters["density"] + delta, "response": derivative}


class LocalDensity(torch.nn.Module):
    """A density linear in the features, on top of the mean charges of the elements."""

    def __init__(self, irreps: Sequence[o3.Irreps], max_l: int, statistics: Statistics) -> None:
        super().__init__()
        self.readout = MultipoleReadout(irreps, max_l)
        self.charge_bias = torch.nn.Parameter(element_charges(statistics))

    def forward(self, structure: Structure, features: list[torch.Tensor]) -> torch.Tensor:
        """`[n_atoms, (max_l+1)^2]` in e Å^l."""
        density = self.readout(features)
        bias = self.charge_bias[structure.elements]
        return torch.cat([density[:, :1] + bias[:, None], density[:, 1:]], dim=1)


class FixedPoint(SelfConsistent):
    """n0 and Delta come from the surroundings of the atom; v is the potential of all the others.

    `fixed_point.update` chooses Delta (one-body: affine or nonlinear; many-body), `fixed_point.energy` the
    energy beside E_SR + ½ pᵀAp - F·D - mu0 Q (mu0: mean Fermi level of the data). The update is not the
    derivative of an energy, so forces contain the response of the density.
    """

    family = "fixed_point"
    variational = False
    norms: torch.Tensor

    def __init__(self, config: ModelConfig, statistics: Statistics) -> None:
        super().__init__(config, statistics)
        options, electrostatics = config.fixed_point, config.electrostatics
        irreps, n_widths = self.backbone.layer_irreps, len(electrostatics.widths)
        sizes = (self.max_l, electrostatics.features_max_l, n_widths)
        n_elements = len(statistics.elements)
        self.register_buffer("norms", _norms(config, statistics), persistent=False)
        with construction_dtype(torch.float64):
            self.reference: FluxDensity | LocalDensity
            if options.reference == "flux":
                self.reference = FluxDensity(config, statistics, irreps)
            else:
                self.reference = LocalDensity(irreps, self.max_l, statistics)
            self.update: OneBodyUpdate
            if options.update == "one_body":
                self.update = OneBodyUpdate(irreps, options, *sizes, n_elements)
            else:
                self.update = ManyBodyUpdate(
                    irreps, options, *sizes, n_elements, config.backbone, statistics.avg_num_neighbors
                )
            self.update.start_from(statistics, _unit_field(config, self.norms))
            self.energy: QuadraticEnergy | InvariantEnergy | None = None
            if options.energy == "quadratic":
                self.energy = QuadraticEnergy(irreps, options.channels, *sizes)
            elif options.energy == "mlp":
                self.energy = InvariantEnergy(irreps, options.channels, *sizes, options.hidden)

    @property
    def honours(self) -> frozenset[str]:
        """Total charge and field; the Fermi level where charges respond."""
        found = super().honours
        return found if self.config.fixed_point.responding == "all" else found - {"fermi_level"}

    @property
    def available_properties(self) -> frozenset[str]:
        """Responses of a conductor, or of an insulator where charges do not respond."""
        found = super().available_properties
        if self.config.fixed_point.responding == "all":
            return found
        of_charge = {
            "fukui",
            "fukui_multipoles",
            "capacitance",
            "charge_stiffness",
            "energy_charge_curvature",
        }
        return found - of_charge | {"dielectric_tensor"}

    @property
    def feature_widths(self) -> tuple[float, ...]:
        """Widths of the receivers of the potential features, Å."""
        return tuple(self.config.electrostatics.widths)

    def parameters_of(self, structure: Structure, features: list[torch.Tensor]) -> Parameters:
        """n0 as `density [n_atoms, n_lm]`, and what update and energy need."""
        found = {"density": self.reference(structure, features)}
        found |= self.update.parameters_of(structure, features)
        if self.energy is not None:
            found |= self.energy.parameters_of(features)
        return found

    def prepared(self, parameters: Parameters) -> Parameters:
        """With the response of an affine update, which solver and derivatives share."""
        return straightened(self.update, parameters)

    def guess(self, parameters: Parameters, elements: torch.Tensor) -> torch.Tensor:
        """n0, the density without a potential."""
        return parameters["density"]

    def problem(
        self,
        parameters: Parameters,
        electrostatics: Electrostatics,
        systems: Systems,
        cached: bool,
        linear_solver: str,
    ) -> FixedPointProblem:
        """The fixed point of the update."""
        features = electrostatics.cached_features if cached else electrostatics.features
        return FixedPointProblem(
            self.update,
            parameters,
            electrostatics,
            systems,
            features,
            self.norms,
            self.statistics.fermi_level,
            linear_solver,
        )

    def density_energies(self, state: State, parameters: Parameters, problem: Problem) -> torch.Tensor:
        """eps(h_i, p_i, v_i) - mu0 q_i.

        mu0, the Fermi level that counts as zero in v, is the mean of the data. Without its term eps, which is
        bilinear in the changes of density and potential, would have to make up the slope dE/dQ = -mu of some
        10 eV/e between charge states out of differences of large numbers.
        """
        origin = -self.statistics.fermi_level * state.multipoles[:, 0]
        if self.energy is None:
            return origin
        v = cast(FixedPointProblem, problem).effective(state)
        return origin + self.energy(parameters, state.multipoles - parameters["density"], v)

    def evaluate_at(
        self, problem: Problem, state: State, reference: ReferenceDensity
    ) -> tuple[State, dict[str, torch.Tensor]]:
        """F at the reference density and Fermi level.

        Without a labelled Fermi level, the one at which the charges of F add up stands for it (one Newton
        step, exact for affine updates).
        """
        equations = cast(FixedPointProblem, problem)
        systems = equations.systems
        with torch.no_grad():
            charges = equations.evaluate(state)[:, 0]
            response = systems.sum(equations.local_response(state)[:, 0])
            missing = systems.total_charge - systems.sum(charges)
            usable = ~reference.level_known & (response.abs() > 1e-12)
            step = torch.where(usable, missing / torch.where(usable, response, 1.0), 0.0)
            level = state.fermi_level + step.clamp(-LEVEL_BOUND, LEVEL_BOUND)
        at = State(state.multipoles, level)
        return State(equations.evaluate(at), level), {}


def _norms(config: ModelConfig, statistics: Statistics) -> torch.Tensor:
    """Divisors of the features, `[n_widths, n_features_lm]`."""
    widths, max_l = config.electrostatics.widths, config.electrostatics.features_max_l
    given = statistics.feature_norms
    rows = []
    for index, width in enumerate(widths):
        row = []
        for l in range(max_l + 1):
            row += [unit_norm(l, width) if given is None else given[l][index]] * (2 * l + 1)
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


def _unit_field(config: ModelConfig, norms: torch.Tensor) -> torch.Tensor:
    """Size of the normalised features of a field of 1 V/Å, `[n_widths]`; nan without features of fields."""
    options = config.electrostatics
    if options.features_max_l == 0:
        return norms.new_full((len(options.widths),), torch.nan)
    raw = electret.features(
        np.zeros((1, 3)),
        np.zeros((1, 1)),
        1.0,
        widths=options.widths,
        max_l=1,
        normalization="receiver",
        external_field=[1.0, 0.0, 0.0],
    )  # [1, n_widths, 4]
    return norms.new_tensor(np.linalg.norm(raw[0, :, 1:], axis=1)) / norms[:, 1]
