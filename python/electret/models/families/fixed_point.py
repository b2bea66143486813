"""Family `fixed_point`: the multipoles are a fixed point p = n0(h) + Delta(h, v[p] + mu) of an update."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
import torch

import electret
from electret.models.backbone import construction_dtype
from electret.models.base import Structure
from electret.models.config import ModelConfig
from electret.models.families.charge_flux import FluxDensity, flux_density
from electret.models.families.density_energies import InvariantEnergy, QuadraticEnergy
from electret.models.families.updates import ManyBodyUpdate, OneBodyUpdate
from electret.models.hosted import o3
from electret.models.readouts import MultipoleReadout, ScalarReadout
from electret.models.self_consistent import OF_CHARGE, Parameters, SelfConsistent
from electret.models.start.density import unit_norm
from electret.models.start.elements import element_charges
from electret.models.start.statistics import Statistics
from electret.scf.electrostatics import Electrostatics, Operator
from electret.scf.flow import Flow, FlowEvaluation, driven
from electret.scf.linear.blocks import block_jacobian
from electret.scf.linear.border import Border
from electret.scf.linear.operator import OperatorJacobian
from electret.scf.problem import Evaluation, LinearSolver, Problem, Residual, Systems
from electret.scf.reference import ReferenceDensity
from electret.scf.state import State
from electret.support.locks import cached_property
from electret.units import COULOMB_CONSTANT

__all__ = ["FixedPoint", "FixedPointProblem"]

LEVEL_BOUND = 10.0
"""Largest distance of an unlabelled Fermi level from its guess in direct evaluation, eV. The Newton step of
an update with a small response is unbounded."""


@dataclass(eq=False)
class FixedPointProblem:
    """p - F(v) = 0 with v = (B p + features of external field and charges + mu) / norms.

    Args:
        update: change Delta of the density in F = n0 + Delta.
        parameters: its parameters and `density`, n0 `[n_atoms, n_lm]`.
        electrostatics: of the batch.
        systems: condition of each system.
        features: p to B p, with derivatives or without. Where charges flow (parameters `drive [n_widths]`,
            `electronegativity [n_atoms]`), the residual at the charges is their drive in eV/e.
        norms: `[n_widths, n_features_lm]`.
        origin: Fermi level at which mu = 0, eV.
        linear_solver: `auto`, `dense` or `krylov`.
    """

    update: OneBodyUpdate
    parameters: Parameters
    electrostatics: Electrostatics
    systems: Systems
    features: Operator
    norms: torch.Tensor
    origin: float
    linear_solver: str
    variational: ClassVar[bool] = False

    @property
    def affine(self) -> bool:
        """True if F is affine in v."""
        return self.update.affine

    @cached_property
    def constant(self) -> torch.Tensor:
        """Features of a potential of one volt, `[n_widths, n_features_lm]`."""
        return self.electrostatics.constant_features()

    @cached_property
    def external(self) -> torch.Tensor | None:
        """Features of external field and charges."""
        return self.electrostatics.external_features()

    @cached_property
    def per_level(self) -> torch.Tensor:
        """Derivative of F in the Fermi level beside that through v, `[n_lm]`."""
        values = self.parameters["density"].new_zeros(self.parameters["density"].shape[1])
        values[0] = self.update.charge_per_level
        return values

    def density(self, v: torch.Tensor) -> torch.Tensor:
        """n0 + Delta(v), `[n_atoms, n_lm]`."""
        if not self.affine:
            return self.parameters["density"] + self.update(self.parameters, v)
        density, derivative = self._straight
        return density + (derivative @ v.flatten(start_dim=1)[:, :, None]).squeeze(2)

    @cached_property
    def _straight(self) -> tuple[torch.Tensor, torch.Tensor]:
        """F(0) and dDelta/dv `[n_atoms, n_lm, n_widths * n_features_lm]` of an affine update."""
        with torch.enable_grad():  # kept for calls with and without gradients
            parameters = straightened(self.update, self.parameters)
            return parameters["constant"], parameters["response"].flatten(start_dim=2)

    @cached_property
    def constant_derivative(self) -> torch.Tensor:
        """D of an affine update, without a graph."""
        return self._straight[1].detach() / self.norms.flatten()

    @property
    def charge_derivative(self) -> torch.Tensor:
        """Rows of the charges in D of an affine update, in the graph of the parameters."""
        return self._straight[1][:, 0] / self.norms.flatten()

    @cached_property
    def drive(self) -> torch.Tensor | None:
        """Derivative of the drive in the raw features, `[n_widths, n_features_lm]`; None without a flow."""
        weights = self.parameters.get("drive")
        if weights is None:
            return None
        monopoles = torch.zeros_like(self.constant)
        monopoles[:, 0] = 1.0 / self.constant[0, 0]
        return monopoles * weights[:, None]

    @cached_property
    def own_drive(self) -> torch.Tensor:
        """Derivative of the drive in the charge of the atom itself beside that through v, `[n_atoms]`
        eV/e²."""
        electrostatics, weights = self.electrostatics, self.parameters["drive"]
        if electrostatics.features_self_interaction:
            return torch.zeros_like(electrostatics.sigma)
        squares = electrostatics.sigma.square()[:, None] + weights.new_tensor(electrostatics.widths).square()
        return COULOMB_CONSTANT * math.sqrt(2.0 / math.pi) * (weights / squares.sqrt()).sum(dim=1)

    def at(self, state: State, known: Evaluation | None = None) -> FixedPointAt:
        """See `electret.scf.problem.Problem`."""
        point = FixedPointAt(self, state)
        if known is not None:
            values = cast(FixedPointAt, known).features
            point.features = self.electrostatics.known_features(values, state.multipoles)
        return point


class FixedPointAt:
    """`FixedPointProblem` at one state."""

    def __init__(self, problem: FixedPointProblem, state: State) -> None:
        self.problem, self.state = problem, state
        self.electrostatics = problem.electrostatics

    @cached_property
    def features(self) -> torch.Tensor:
        """B p, `[n_atoms, n_widths, n_features_lm]`."""
        return self.problem.features(self.state.multipoles)

    @property
    def _level(self) -> torch.Tensor:
        """mu of each atom's system less the potential of its electrode, `[n_atoms]`."""
        return self.problem.systems.levels(self.state.fermi_level - self.problem.origin)

    @cached_property
    def v(self) -> torch.Tensor:
        """Effective potential, normalised, `[n_atoms, n_widths, n_features_lm]`."""
        raw = self._potential + self.problem.constant * self._level[:, None, None]
        return raw / self.problem.norms

    @cached_property
    def _potential(self) -> torch.Tensor:
        """Features of all charges and the field."""
        outside = self.problem.external
        return self.features if outside is None else self.features + outside

    @cached_property
    def density(self) -> torch.Tensor:
        """F(v), `[n_atoms, n_lm]`."""
        return self.problem.density(self.v) + self._level[:, None] * self.problem.per_level

    @cached_property
    def residual(self) -> Residual:
        """p - F(v) in e Å^l, or the drive at charges that flow, and the charge condition."""
        condition = self.problem.systems.condition(self.state)
        deviation = self.state.multipoles - self.density
        weights = self.problem.drive
        if weights is not None:
            potential = (self._potential * weights).sum(dim=(1, 2))
            own = self.problem.own_drive * self.state.multipoles[:, 0]
            drive = potential + own + self._level + self.problem.parameters["electronegativity"]
            deviation = torch.cat([drive[:, None], deviation[:, 1:]], dim=1)
        return Residual(deviation, condition)

    @property
    def local_step(self) -> torch.Tensor:
        """F(v) - p."""
        return -self.residual.multipoles

    def local_change(self, residual: torch.Tensor) -> torch.Tensor:
        """-R_i."""
        return -residual

    @cached_property
    def local_response(self) -> torch.Tensor:
        """dF/dmu at fixed potential."""
        constant = self.problem.constant
        if self.problem.update.local:
            return self._derivative @ constant.flatten() + self.problem.per_level
        tangent, _ = self.products
        return tangent(constant.expand(len(self.state.multipoles), -1, -1)).detach() + self.problem.per_level

    @property
    def charge_response(self) -> torch.Tensor:
        """dF/dmu of the charges at fixed potential, in the graph of the parameters."""
        constant = self.problem.constant
        if self.problem.affine:
            straight = self.problem.charge_derivative @ constant.flatten()
        else:
            straight = self.tangent(constant.expand(len(self.state.multipoles), -1, -1))[:, 0]
        return straight + self.problem.per_level[0]

    @cached_property
    def _derivative(self) -> torch.Tensor:
        """D = dF/d(raw features) of a one-body update, `[n_atoms, n_lm, n_widths * n_features_lm]`, without a
        graph."""
        problem = self.problem
        if problem.affine:
            return problem.constant_derivative
        derivative = problem.update.linearised(problem.parameters, self.v.detach())[1]
        return derivative.flatten(start_dim=2) / problem.norms.flatten()

    def at_level(self, level: torch.Tensor) -> FixedPointAt:
        """Equations at the same multipoles and another Fermi level."""
        point = FixedPointAt(self.problem, State(self.state.multipoles, level))
        point.features = self.features
        return point

    def jacobian(self, held: torch.Tensor | None = None, flow: Flow | None = None) -> LinearSolver:
        """[[1 - D B, -D m], [1ᵀ, 0]] with m the features of one volt. D is block diagonal for one-body
        updates, and applied as a product for others. With a flow, rows of charges are those of the drive."""
        problem, constrained = self.problem, self.problem.systems.constrained
        column = -self.local_response
        if flow is not None:
            return self._driven_jacobian(column, constrained, flow)
        if held is not None:
            column, constrained = torch.where(held, 0.0, column), torch.zeros_like(constrained)
        if not problem.update.local:
            return self._operator_jacobian(Border.of(problem.systems, column, constrained), held)
        right = -self._derivative
        if held is not None:
            right = torch.where(held[:, :, None], 0.0, right)
        return block_jacobian(
            self.electrostatics, "features", None, right, column, constrained, problem.linear_solver
        )

    def _driven_jacobian(self, column: torch.Tensor, constrained: torch.Tensor, flow: Flow) -> LinearSolver:
        """[[1 - D B, -D m], [1ᵀ, 0]] with the derivative of the drive in the rows of the charges."""
        problem, weights = self.problem, self.problem.drive
        assert weights is not None
        column[:, 0] = 1.0
        if not problem.update.local:
            column = torch.cat([flow.through(column[:, :1]), column[:, 1:]], dim=1)
            return self._driven_operator(Border.of(problem.systems, column, constrained), flow)
        right = -self._derivative
        right[:, 0] = weights.flatten()
        left = torch.eye(column.shape[1], dtype=column.dtype, device=column.device).repeat(len(column), 1, 1)
        left[:, 0, 0] = problem.own_drive
        return block_jacobian(
            self.electrostatics, "features", left, right, column, constrained, problem.linear_solver, flow
        )

    def _operator_jacobian(self, border: Border, held: torch.Tensor | None) -> OperatorJacobian:
        operators, (tangent, cotangent) = self.electrostatics.operators, self.products

        def masked(values: torch.Tensor) -> torch.Tensor:
            return values if held is None else torch.where(held, 0.0, values)

        def product(x: torch.Tensor) -> torch.Tensor:
            return x - masked(tangent(operators.features(x)))

        def transposed_product(x: torch.Tensor) -> torch.Tensor:
            return x - operators.features_transpose(cotangent(masked(x)))

        return OperatorJacobian(border, (product, transposed_product))

    def _driven_operator(self, border: Border, flow: Flow) -> OperatorJacobian:
        problem, operators, (tangent, cotangent) = self.problem, self.electrostatics.operators, self.products
        weights = problem.drive
        assert weights is not None

        def product(x: torch.Tensor) -> torch.Tensor:
            features = operators.features(x)
            drive = (features * weights).sum(dim=(1, 2)) + problem.own_drive * x[:, 0]
            others = (x - tangent(features))[:, 1:]
            return flow.after(torch.cat([drive[:, None], others], dim=1), x)

        def transposed_product(x: torch.Tensor) -> torch.Tensor:
            driven = flow.before(x)[:, 0]
            others = torch.cat([torch.zeros_like(x[:, :1]), x[:, 1:]], dim=1)
            features = weights * driven[:, None, None] - cotangent(others)
            charges = problem.own_drive * driven + flow.kept(x[:, 0], transpose=True)
            own = torch.cat([charges[:, None], x[:, 1:]], dim=1)
            return own + operators.features_transpose(features)

        return OperatorJacobian(border, (product, transposed_product))

    def _linearised(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Density F, its variable v, a zero probe, and the vector-Jacobian product of the probe, in the graph
        of the parameters. The derivative of the last in the probe is the Jacobian-vector product."""
        v = self.v
        with torch.enable_grad():
            variable = v.detach().requires_grad_()
            density = self.problem.density(variable)
            probe = torch.zeros_like(density, requires_grad=True)
            (linear,) = torch.autograd.grad(
                density, variable, probe, create_graph=True, materialize_grads=True
            )
        return density, variable, probe, linear

    def tangent(self, features: torch.Tensor) -> torch.Tensor:
        """D features, `[n_atoms, n_lm]`, in the graph of the parameters."""
        wanted = torch.is_grad_enabled()
        with torch.enable_grad():
            _, _, probe, linear = self._linearised()
            (x,) = torch.autograd.grad(
                linear, probe, features / self.problem.norms, create_graph=wanted, materialize_grads=True
            )
        return x

    @cached_property
    def products(self) -> tuple[Operator, Operator]:
        """Products with D (raw features `[n_atoms, n_widths, n_features_lm]` to multipoles) and with its
        transpose, from one evaluation of the update."""
        density, variable, probe, linear = self._linearised()
        norms = self.problem.norms

        def cotangent(x: torch.Tensor) -> torch.Tensor:
            (v,) = torch.autograd.grad(density, variable, x, retain_graph=True, materialize_grads=True)
            return v / norms

        def tangent(v: torch.Tensor) -> torch.Tensor:
            (x,) = torch.autograd.grad(linear, probe, v / norms, retain_graph=True, materialize_grads=True)
            return x

        return tangent, cotangent


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

    def parameters_of(self, name: str, structure: Structure, features: list[torch.Tensor]) -> Parameters:
        """The density under `name`."""
        return {name: self(structure, features)}


class FixedPoint(SelfConsistent):
    """n0 and Delta come from the surroundings of the atom; v is the potential of all the others.

    `fixed_point.update` chooses Delta (one-body: affine or nonlinear; many-body), `fixed_point.energy` the
    energy beside E_SR + ½ pᵀAp - F·D - mu0 Q (mu0: mean Fermi level of the data). The update is not the
    derivative of an energy, so forces contain the response of the density. With `fixed_point.flow` charges
    answer along edges (`electret.scf.flow`), driven by the potential at a learned mean of the widths, their
    own included, and Delta has higher multipoles only.
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
                self.reference = flux_density(config, statistics, irreps, options.flow)
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
            if options.flow:
                self.electronegativity = ScalarReadout(irreps, 1, options.hidden, "the electronegativity")
                self.drive = torch.nn.Parameter(torch.zeros(n_widths))
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
        return found - OF_CHARGE | {"dielectric_tensor"}

    @property
    def feature_widths(self) -> tuple[float, ...]:
        """Widths of the receivers of the potential features, Å."""
        return tuple(self.config.electrostatics.widths)

    def parameters_of(self, structure: Structure, features: list[torch.Tensor]) -> Parameters:
        """n0 as `density [n_atoms, n_lm]`, and what update and energy need."""
        found = self.reference.parameters_of("density", structure, features)
        found |= self.update.parameters_of(structure, features)
        if self.config.fixed_point.flow:
            found["electronegativity"] = self.electronegativity(features)[:, 0]
            found["drive"] = torch.softmax(self.drive, dim=0)
        if self.energy is not None:
            found |= self.energy.parameters_of(features)
        return found

    def prepared(self, parameters: Parameters) -> Parameters:
        """Parameters with the response of an affine update, shared by solver and derivatives."""
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
    ) -> Problem:
        """The fixed point of the update; where charges flow, with their flow."""
        features = electrostatics.cached_features if cached else electrostatics.features
        fixed_point = FixedPointProblem(
            self.update,
            parameters,
            electrostatics,
            systems,
            features,
            self.norms,
            self.statistics.fermi_level,
            linear_solver,
        )
        return driven(fixed_point, parameters, electrostatics)

    def density_energies(self, point: Evaluation, parameters: Parameters) -> torch.Tensor:
        """eps(h_i, p_i, v_i) - mu0 q_i, where charges flow with the energies that drive them, as in `sqe`.

        mu0, the Fermi level that counts as zero in v, is the mean of the data. Without its term eps, which is
        bilinear in the changes of density and potential, would have to make up the slope dE/dQ = -mu of some
        10 eV/e between charge states out of differences of large numbers.
        """
        p, inner = point.state.multipoles, point
        found = -self.statistics.fermi_level * p[:, 0]
        if isinstance(point, FlowEvaluation):
            found = found + parameters["electronegativity"] * p[:, 0] + point.energies()
            inner = point.inner
        if self.energy is None:
            return found
        v = cast(FixedPointAt, inner).v
        if inner is not point:  # the flow has the energy of charges in a potential, whose zero is arbitrary
            v = torch.cat([torch.zeros_like(v[:, :, :1]), v[:, :, 1:]], dim=2)
        return found + self.energy(parameters, p - parameters["density"], v)

    def evaluate_at(
        self, problem: Problem, state: State, reference: ReferenceDensity
    ) -> tuple[Evaluation, dict[str, torch.Tensor]]:
        """F at the reference density and Fermi level.

        Without a labelled Fermi level, the one at which the charges of F add up stands for it (one Newton
        step, exact for affine updates).
        """
        reached, systems = problem.at(state), problem.systems
        if isinstance(reached, FlowEvaluation):
            return problem.at(reached.predicted()), {}
        labelled = cast(FixedPointAt, reached)
        charges, response = labelled.density.detach()[:, 0], labelled.local_response.detach()[:, 0]
        missing = systems.total_charge - systems.sum(charges)
        response = systems.sum(response)
        usable = ~reference.level_known & (response.abs() > 1e-12)
        step = torch.where(usable, missing / torch.where(usable, response, 1.0), 0.0)
        level = state.fermi_level + step.detach().clamp(-LEVEL_BOUND, LEVEL_BOUND)
        density = labelled.at_level(level).density
        return problem.at(State(density, level)), {}


def _norms(config: ModelConfig, statistics: Statistics) -> torch.Tensor:
    """Norms of the features, `[n_widths, n_features_lm]`."""
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
        features_max_l=1,
        normalization="receiver",
        external_field=[1.0, 0.0, 0.0],
    )  # [1, n_widths, 4]
    return norms.new_tensor(np.linalg.norm(raw[0, :, 1:], axis=1)) / norms[:, 1]
