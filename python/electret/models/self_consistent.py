"""Base of the self-consistent families: solution for the density, and energies and derivatives at it.

The density part of these models is float64 for every dtype of the backbone, because a residual converges no
further than the rounding of its evaluation; its cost is small beside that of the backbone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from electret.errors import InputError
from electret.graph import Graph
from electret.models.base import DIFFERENTIATED, Call, Model, Structure, cartesian_dipoles
from electret.models.config import ModelConfig
from electret.models.start.elements import mean_density
from electret.models.start.statistics import Statistics
from electret.models.unchanged import Unchanged
from electret.scf.electrostatics import Electrostatics
from electret.scf.flow import FlowEvaluation
from electret.scf.implicit import chord_steps
from electret.scf.problem import Evaluation, LinearSolver, Problem, Systems
from electret.scf.reference import ReferenceDensity, clamped_solution
from electret.scf.response import RESPONSES, linear_responses, wrong_response
from electret.scf.solvers import LOST, Anderson, Mixing, Newton, Point, Solution, mixed
from electret.scf.state import Record, ScfRequest, State

__all__ = ["OF_CHARGE", "Parameters", "SelfConsistent"]

OF_CHARGE = frozenset(
    {"fukui", "fukui_multipoles", "capacitance", "charge_stiffness", "energy_charge_curvature"}
)
"""Derivatives in the charge, which a backbone has none of that embeds whole charges."""

Parameters = dict[str, torch.Tensor]
"""Learned quantities of a family's equations, by name."""

Solver = Newton | Anderson | Mixing

FEW_SOLVES = 450
"""Unknowns of a system above which one or two matrix-free solves are cheaper than factors (measured in
`benches/results/scf.md`)."""


@dataclass
class Solved:
    """Density of a batch and the record of its iteration."""

    point: Evaluation  # at the solution; in the graph if derivatives are computed
    record: Record
    jacobian: LinearSolver | None = None  # at the solution, if it was needed


class SelfConsistent(Model):
    """Families whose density solves R(p, mu) = 0 at constant charge or constant Fermi level.

    Subclasses implement `parameters_of`, `problem`, `density_energies` and `evaluate_at`.
    """

    self_consistent = True
    variational: ClassVar[bool]
    """True if R = 0 is the stationarity of the energy, so that forces need no response of the density
    (Hellmann-Feynman)."""

    def __init__(self, config: ModelConfig, statistics: Statistics) -> None:
        super().__init__(config, statistics)
        self.max_l = config.electrostatics.max_l
        self._conditions: Unchanged[Systems] = Unchanged()
        self._largest: Unchanged[int] = Unchanged()
        self._mean: Unchanged[torch.Tensor] = Unchanged()

    @property
    def honours(self) -> frozenset[str]:
        """Conditions: total charge or Fermi level, and field. A backbone that embeds the total charge needs
        it as a number."""
        found = super().honours
        level = set() if "total_charge" in found else {"fermi_level"}
        return found | {"total_charge", "external_field"} | level

    @property
    def available_properties(self) -> frozenset[str]:
        """Derivatives through the density, and responses at the solution."""
        found = DIFFERENTIATED | {"energies", "potentials"} | OF_CHARGE
        if not self.config.flows:
            fixed_point = frozenset() if self.variational else {"stability", "charge_response"}
            found = found - {"dielectric_tensor"} | fixed_point
        return found - OF_CHARGE if "total_charge" in super().honours else found

    # --- equations of a family ---

    def parameters_of(self, structure: Structure, features: list[torch.Tensor]) -> Parameters:
        """Learned quantities of the equations, float64 `[n_atoms, ...]`."""
        raise NotImplementedError

    def prepared(self, parameters: Parameters) -> Parameters:
        """Parameters with quantities that every evaluation of the equations shares, in their graph."""
        return parameters

    def guess(self, parameters: Parameters, elements: torch.Tensor) -> torch.Tensor:
        """Initial multipoles `[n_atoms, n_lm]`: mean charges of the elements."""
        return self._mean.of(lambda: mean_density(self.max_l, elements, self.statistics), elements)

    def problem(
        self,
        parameters: Parameters,
        electrostatics: Electrostatics,
        systems: Systems,
        cached: bool,
        linear_solver: str,
    ) -> Problem:
        """Equations with differentiable operators, or with operators cached for the solver's loop."""
        raise NotImplementedError

    def density_energies(self, point: Evaluation, parameters: Parameters) -> torch.Tensor:
        """Local energy of the density of each atom in addition to its electrostatics, `[n_atoms]` eV."""
        raise NotImplementedError

    # --- the calculation ---

    def _energies(self, structure: Structure, call: Call) -> dict[str, torch.Tensor]:
        """Short-range, electrostatic and density energies at the self-consistent density."""
        graph = structure.graph
        request = call.scf or ScfRequest()
        energies, features = self.backbone(graph, structure.edge_vectors, structure.elements)
        parameters = self.prepared(self.parameters_of(structure, [layer.double() for layer in features]))
        systems = self._conditions.of(
            lambda: _systems(graph),
            *(graph.batch, graph.total_charge, graph.fermi_level),
            *(() if graph.applied_potential is None else (graph.applied_potential,)),
        )
        electrostatics = self.electrostatics_of(structure)
        method = self.linear_solver(request, call, graph)
        problem = self.problem(parameters, electrostatics, systems, False, method)
        with torch.no_grad():
            fixed = {name: value.detach() for name, value in parameters.items()}
            constants = systems.detach()
            loop = self.problem(fixed, electrostatics.detach(), constants, True, method)
            start = self._start(request, self.guess(fixed, structure.elements), constants)
        if request.mode == "direct":
            solved, extra = self._at_reference(graph, problem, loop, start, request)
        elif request.mode == "unrolled":
            solved, extra = self._unrolled(problem, start, request), {}
        else:
            solved, extra = self._converged(problem, loop, start, call, request), {}
        result = self._results(energies, electrostatics, systems, parameters, solved, call)
        result.update(extra)
        if "potentials" in call.properties:
            result["potentials"] = self._potentials(structure, solved.point.state.multipoles)
        wanted = RESPONSES.intersection(call.properties)
        if wanted:
            point = loop.at(solved.point.state.detach())
            with torch.no_grad():
                jacobian = solved.jacobian or point.jacobian()
            result.update(linear_responses(wanted, problem, point, jacobian))
        if "charge_response" in call.properties:
            result["charge_response"] = wrong_response(problem, solved.point.state.detach())
        return result

    def solver(self, request: ScfRequest) -> Solver:
        """Solver of a request, with defaults of the configuration."""
        options = self.config.scf
        name = request.solver or options.solver
        tolerance = request.tolerance or options.tolerance
        iterations = request.max_iterations or options.max_iterations
        if name in ("newton", "newton_cg"):
            return Newton(tolerance, iterations)
        if name == "anderson":
            return Anderson(tolerance, iterations, options.mixing, options.depth)
        if name == "mixing":
            return Mixing(tolerance, iterations, options.mixing)
        raise InputError(f"solver = {name!r}; use 'newton', 'newton_cg', 'anderson' or 'mixing'")

    def linear_solver(self, request: ScfRequest, call: Call, graph: Graph) -> str:
        """Method of solves with the Jacobian: `auto` (by size), `dense` or `krylov`."""
        if (request.solver or self.config.scf.solver) == "newton_cg":
            return "krylov"
        wanted = self.config.scf.linear_solver
        largest = self._largest.of(lambda: int(graph.n_atoms_per_system.max()), graph.ptr)
        unknowns = largest * (self.max_l + 1) ** 2
        if wanted == "auto" and not call.training and unknowns > FEW_SOLVES:
            return "krylov"  # factors pay off in training, where many solves share them
        return wanted

    def _start(self, request: ScfRequest, guess: torch.Tensor, systems: Systems) -> State:
        """Initial state, with the charge or the Fermi level of the condition."""
        if request.start is None:
            p = guess.clone()
            level = torch.full_like(systems.total_charge, self.statistics.fermi_level)
        else:
            given = request.start.detach()
            if given.multipoles.shape != guess.shape or given.fermi_level.shape != (systems.n_systems,):
                raise InputError(
                    f"scf.start has multipoles {tuple(given.multipoles.shape)} and fermi_level "
                    f"{tuple(given.fermi_level.shape)}; this batch needs {tuple(guess.shape)} and "
                    f"({systems.n_systems},)"
                )
            p = given.multipoles.to(guess, copy=True)
            level = given.fermi_level.to(systems.total_charge)
        missing = systems.total_charge - systems.sum(p[:, 0])
        if not systems.all_constrained:
            missing = torch.where(systems.constrained, missing, 0.0)
            level = torch.where(systems.constrained, level, systems.fermi_level)
        p[:, 0] += systems.at_atoms(missing / systems.n_atoms)
        return State(p, level)

    def _converged(
        self, problem: Problem, loop: Problem, start: State, call: Call, request: ScfRequest
    ) -> Solved:
        """Converge without a graph, then take a step in the graph for each order of derivatives."""
        steps = self._chord_steps(call)
        with torch.no_grad():
            solver = self.solver(request)
            solution = solver.solve(loop, start)
            found = _within_reach(loop, solution.point, start)
            jacobian = solution.jacobian
            if steps > 0 and jacobian is None:
                jacobian = found.jacobian()
        if steps == 0 or jacobian is None:
            point = problem.at(found.state)
            if isinstance(point, FlowEvaluation) and isinstance(found, FlowEvaluation):
                point.drive = found.drive.detach()  # first derivatives of the energy need no graph of it
            return Solved(point, solution.record)
        converged = solution.record.converged
        point = chord_steps(problem, found, jacobian, converged, steps, solver.tolerance)
        return Solved(point, solution.record, jacobian)

    def _chord_steps(self, call: Call) -> int:
        if call.training or "energy_charge_curvature" in call.properties:
            return 2
        response = bool(set(call.properties) & DIFFERENTIATED)
        return 0 if self.variational and not response else 1

    def _unrolled(self, problem: Problem, start: State, request: ScfRequest) -> Solved:
        """Mixing steps in the graph."""
        point, systems = problem.at(start), problem.systems
        for _ in range(request.unrolled_steps):
            point = problem.at(mixed(systems, Point.of(point), self.config.scf.mixing))
        with torch.no_grad():
            size = systems.mean(problem.at(point.state.detach()).local_step.abs())
        count = torch.full_like(systems.total_charge, request.unrolled_steps, dtype=torch.int64)
        return Solved(point, Record(torch.isfinite(size), count, size, size[:, None]))

    def _at_reference(
        self, graph: Graph, problem: Problem, loop: Problem, start: State, request: ScfRequest
    ) -> tuple[Solved, dict[str, torch.Tensor]]:
        """One evaluation at the labelled density."""
        reference = ReferenceDensity.from_labels(graph, start)
        with torch.no_grad():
            solution: Solution = clamped_solution(loop, reference, self.solver(request))
        point, extra = self.evaluate_at(problem, solution.state, reference)
        return Solved(point, solution.record), extra

    def evaluate_at(
        self, problem: Problem, state: State, reference: ReferenceDensity
    ) -> tuple[Evaluation, dict[str, torch.Tensor]]:
        """Results of `direct` training at the reference density: the evaluation whose energy and multipoles
        are compared with labels, and further results."""
        raise NotImplementedError

    def _results(
        self,
        energies: torch.Tensor,
        electrostatics: Electrostatics,
        systems: Systems,
        parameters: Parameters,
        solved: Solved,
        call: Call,
    ) -> dict[str, torch.Tensor]:
        state, record = solved.point.state, solved.record
        p, level = state.multipoles, state.fermi_level
        dipole = electrostatics.dipole(p)
        charge = systems.sum(p[:, 0])
        short_range = systems.sum(energies)
        crossing = solved.point.crossing if isinstance(solved.point, FlowEvaluation) else None
        electrostatic, halves = electrostatics.energies(p, "energies" in call.properties)
        of_density = self.density_energies(solved.point, parameters)
        result = {
            "energy_short_range": short_range,
            "energy_electrostatic": electrostatic,
            "energy_field": torch.zeros_like(short_range),
            "energy_density": systems.sum(of_density),
        }
        if crossing is not None:
            result["polarization"] = dipole + systems.sum(crossing)
        if halves is not None:
            result["energies"] = (energies + of_density + halves).detach()
            if electrostatics.in_field:
                moments = p[:, :1] * electrostatics.positions + cartesian_dipoles(p)
                moments = moments if crossing is None else moments + crossing
                field = systems.at_atoms(electrostatics.external_field)
                result["energies"] = result["energies"] - (field * moments).sum(dim=1).detach()
        if electrostatics.in_field:
            moment = result.get("polarization", dipole)
            result["energy_field"] = -(electrostatics.external_field * moment).sum(dim=1)
        energy = short_range + result["energy_electrostatic"] + result["energy_density"]
        if electrostatics.external_charges is not None:
            with_charges = electrostatics.charges_energies(p)
            result["energy_external_charges"] = systems.sum(with_charges)
            energy = energy + result["energy_external_charges"]
            if halves is not None:
                result["energies"] = result["energies"] + with_charges.detach()
        if systems.applied_potential is not None:
            work = -systems.applied_potential * p[:, 0]
            result["energy_field"] = result["energy_field"] + systems.sum(work)
            if halves is not None:
                result["energies"] = result["energies"] + work.detach()
        if electrostatics.in_field or systems.applied_potential is not None:
            energy = energy + result["energy_field"]
        grand_potential = energy
        if not systems.all_constrained:
            grand_potential = energy + torch.where(systems.constrained, 0.0, level * charge)
        return {
            "energy": energy,
            "grand_potential": grand_potential,
            **result,
            "multipoles": p,
            "charges": p[:, 0],
            "dipole": dipole,
            "total_charge": charge,
            "fermi_level": level,
            "scf_converged": record.converged,
            "scf_iterations": record.iterations,
            "scf_residual": record.residual,
            "scf_history": record.history,
        }


def _within_reach(loop: Problem, found: Evaluation, start: State) -> Evaluation:
    """Evaluation with diverged systems put back to their start, as energies and Jacobians that are not finite
    would spoil the batch."""
    p, level = found.state.multipoles, found.state.fermi_level
    if bool((p.abs().amax() < LOST) & (level.abs().amax() < LOST)):
        return found
    far = ~(p.abs() < LOST).all(dim=1)
    lost = (loop.systems.sum(far.to(p.dtype)) > 0) | ~(level.abs() < LOST)
    rows = loop.systems.at_atoms(lost)[:, None]
    return loop.at(State(torch.where(rows, start.multipoles, p), torch.where(lost, start.fermi_level, level)))


def _systems(graph: Graph) -> Systems:
    level = graph.fermi_level.double()
    constrained = torch.isnan(level)
    return Systems(
        batch=graph.batch,
        n_systems=graph.n_systems,
        constrained=constrained,
        total_charge=graph.total_charge.double(),
        fermi_level=torch.where(constrained, 0.0, level),
        applied_potential=None if graph.applied_potential is None else graph.applied_potential.double(),
    )
