"""Self-consistent problems with parameters set by hand, and the same equations by plain numpy.

No network: the local energies and updates below take the place of what a model reads from its backbone. The
numpy side uses closed forms of Gaussian interactions only, and nothing of electret.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.special import erf

from electret.kernels.arguments import Options
from electret.models.families.fixed_point import FixedPointProblem
from electret.models.variational import VariationalProblem
from electret.scf.electrostatics import Electrostatics
from electret.scf.flow import FlowEvaluation, driven
from electret.scf.problem import Systems
from electret.scf.solvers import Newton
from electret.scf.state import State
from electret.units import COULOMB_CONSTANT as K

CARTESIAN = [2, 0, 1]
"""Positions of x, y, z among the components (y, z, x) of l = 1."""


# --- closed forms, numpy ---


def charge_matrix(positions: np.ndarray, sigma: float) -> np.ndarray:
    """Interaction of unit Gaussian charges of one width, open: K erf(r / 2 sigma) / r, and K / (sqrt(pi)
    sigma) with themselves."""
    x = np.asarray(positions, dtype=float)
    r = np.linalg.norm(x[:, None] - x[None], axis=2)
    safe = np.where(r > 0, r, 1.0)
    return np.where(r > 0, K * erf(safe / (2 * sigma)) / safe, K / (math.sqrt(math.pi) * sigma))


def dipole_matrix(positions: np.ndarray, sigma: float, other: float | None = None) -> np.ndarray:
    """Interaction of unit Gaussian dipoles (x, y, z) of widths sigma and other, open, `[3n, 3n]`.

    -grad grad erf(r / (sqrt(2) gamma)) / r with gamma² = sigma² + other²; on the diagonal its limit
    K sqrt(2 / pi) / (3 gamma³), which for equal widths is K / (6 sqrt(pi) sigma³).
    """
    gamma = math.hypot(sigma, sigma if other is None else other)
    x = np.asarray(positions, dtype=float)
    n = len(x)
    out = np.zeros((n, 3, n, 3))
    for i in range(n):
        for j in range(n):
            d = x[j] - x[i]
            r = np.linalg.norm(d)
            if r == 0:
                out[i, :, j, :] = K * math.sqrt(2 / math.pi) / (3 * gamma**3) * np.eye(3)
                continue
            u = r / (math.sqrt(2) * gamma)
            gauss = 2 / math.sqrt(math.pi) * u * math.exp(-u * u)
            first = (erf(u) - gauss) / r**3  # -f'/r
            second = (3 * erf(u) - gauss * (3 + 2 * u * u)) / r**5
            out[i, :, j, :] = K * (first * np.eye(3) - second * np.outer(d, d))
    return out.reshape(3 * n, 3 * n)


# --- problems ---


def electrostatics_of(
    positions: np.ndarray,
    sigma: float = 1.0,
    max_l: int = 0,
    cell: np.ndarray | None = None,
    pbc: object = False,
    field: object = (0.0, 0.0, 0.0),
    batch: np.ndarray | None = None,
    widths: tuple[float, ...] = (),
    features_max_l: int | None = None,
) -> Electrostatics:
    """The operators of one system, or of the systems of `batch`."""
    x = torch.as_tensor(np.asarray(positions, dtype=float))
    index = torch.zeros(len(x), dtype=torch.int64) if batch is None else torch.as_tensor(batch)
    n_systems = int(index.max()) + 1
    cells = np.zeros((3, 3)) if cell is None else np.asarray(cell, dtype=float)
    return Electrostatics(
        positions=x,
        cell=torch.as_tensor(cells).expand(n_systems, 3, 3).contiguous(),
        pbc=torch.as_tensor(pbc).expand(n_systems, 3).contiguous(),
        batch=index,
        external_field=torch.as_tensor(np.asarray(field, dtype=float)).expand(n_systems, 3).contiguous(),
        sigma=torch.full((len(x),), float(sigma), dtype=torch.float64),
        max_l=max_l,
        widths=widths,
        features_max_l=max_l if features_max_l is None else features_max_l,
        options=Options(accuracy=1e-11),
    )


def conditions(batch: torch.Tensor, total_charge: object = 0.0, fermi_level: object = math.nan) -> Systems:
    """Constant charge, or constant Fermi level where one is given."""
    n_systems = int(batch.max()) + 1
    level = torch.as_tensor(fermi_level, dtype=torch.float64).expand(n_systems)
    charge = torch.as_tensor(total_charge, dtype=torch.float64).expand(n_systems)
    constrained = torch.isnan(level)
    return Systems(batch, n_systems, constrained, charge, torch.where(constrained, 0.0, level))


def staircase(
    steps: list[tuple[float, float]], slope: float, curvature: float, sharpness: float
) -> Callable[[torch.Tensor], torch.Tensor]:
    """eps(q) = slope q + ½ curvature q² + sum over (charge, jump) of jump softplus(b (q - charge)) / b, whose
    derivative rises by each jump at its charge, within about 1/b."""

    def energy(q: torch.Tensor) -> torch.Tensor:
        total = slope * q + 0.5 * curvature * q.square()
        for charge, jump in steps:
            total = total + jump * torch.nn.functional.softplus(sharpness * (q - charge)) / sharpness
        return total

    return energy


class ByAutograd:
    """Derivatives of a local energy `[n_atoms]` of multipoles."""

    def __init__(self, energy: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.energy = energy

    def local_gradient(self, _: object, p: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            variable = p.detach().requires_grad_()
            return torch.autograd.grad(self.energy(variable).sum(), variable)[0]

    def local_hessian(self, _: object, p: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            variable = p.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.energy(variable).sum(), variable, create_graph=True)
            rows = [
                torch.autograd.grad(column.sum(), variable, retain_graph=True, materialize_grads=True)[0]
                for column in gradient.unbind(dim=1)
            ]
        return torch.stack(rows, dim=1)


class Functional:
    """A density that minimises sum_i eps_i(p_i) + ½ pᵀAp - F·D, solved by Newton.

    Args:
        electrostatics: of the systems.
        local_energy: eps of all atoms `[n_atoms]`, of multipoles.
        quadratic: eps is.
        flow: edges `[2, n]`, conductances `[n]` e/V and placement `[n_atoms]` of charges that flow, and the
            lattice vectors that the edges cross `[n, 3]` Å.
        condition: what is held constant: total_charge, or fermi_level.
    """

    def __init__(
        self,
        electrostatics: Electrostatics,
        local_energy: Callable[[torch.Tensor], torch.Tensor],
        quadratic: bool = False,
        linear_solver: str = "auto",
        flow: tuple[object, ...] | None = None,
        **condition: object,
    ) -> None:
        self.electrostatics = electrostatics
        self.local_energy = local_energy
        self.systems = conditions(electrostatics.batch, **condition)
        stationarity = VariationalProblem(
            ByAutograd(local_energy),
            {},
            electrostatics,
            self.systems,
            electrostatics.cached_potential,
            quadratic,
            linear_solver,
        )
        parameters = {}
        if flow is not None:
            edges, conductance, placement, *crossed = (torch.as_tensor(np.asarray(part)) for part in flow)
            parameters = {
                "edges": edges,
                "conductance": conductance,
                "placement": placement,
                "flux": torch.zeros_like(conductance),
                "crossed": crossed[0] if crossed else conductance.new_zeros(len(conductance), 3),
                "resting": torch.zeros_like(placement),
            }
        self.problem = driven(stationarity, parameters, electrostatics)

    def solve(
        self, start: State | None = None, solver: object | None = None, converged: bool = True
    ) -> State:
        """The self-consistent state."""
        n = len(self.electrostatics.positions)
        if start is None:
            p = torch.zeros(n, (self.electrostatics.max_l + 1) ** 2, dtype=torch.float64)
            start = State(p, self.systems.fermi_level.clone())
        newton = Newton(tolerance=1e-11, max_iterations=300) if solver is None else solver
        with torch.no_grad():
            solution = newton.solve(self.problem, start)
        self.record = solution.record
        if converged:
            assert bool(self.record.converged.all()), self.record.history
        return solution.state

    def energy(self, state: State) -> torch.Tensor:
        """E of each system, eV, in the graph of the positions."""
        p, own = state.multipoles, self.electrostatics
        local = self.systems.sum(self.local_energy(p))
        point = self.problem.at(state)
        if isinstance(point, FlowEvaluation):
            local = local + self.systems.sum(point.energies())
        return local + own.energies(p)[0] - (own.external_field * own.dipole(p)).sum(dim=1)

    def grand_potential(self, state: State) -> torch.Tensor:
        """Omega = E + mu Q."""
        return self.energy(state) + state.fermi_level * self.systems.sum(state.multipoles[:, 0])


class FixedPoint:
    """A density p = F(v) with v = B p + features of the field + mu in V, V/Å: one receiver width.

    Args:
        electrostatics: with one width.
        update: F, `[n_atoms, n_lm]` of v `[n_atoms, n_features_lm]`.
        affine: F is.
        condition: what is held constant.
    """

    def __init__(
        self,
        electrostatics: Electrostatics,
        update: Callable[[torch.Tensor], torch.Tensor],
        affine: bool = False,
        **condition: object,
    ) -> None:
        self.electrostatics = electrostatics
        self.systems = conditions(electrostatics.batch, **condition)
        (width,) = electrostatics.widths
        # receiver features of 1 V and of a gradient of 1 V/Å (electret.kernels.external_field)
        scales = [
            math.sqrt(4 * math.pi),
            *[math.sqrt(4 * math.pi / 3) * 1.5 * math.sqrt(math.pi / 2) * width] * 3,
        ]
        norms = torch.tensor([scales[: (electrostatics.features_max_l + 1) ** 2]], dtype=torch.float64)
        n_lm = (electrostatics.max_l + 1) ** 2
        zero = torch.zeros(len(electrostatics.positions), n_lm, dtype=torch.float64)

        class Update:
            local = True
            charge_per_level = 0.0

            def __init__(self) -> None:
                self.affine = affine

            def __call__(self, _: object, v: torch.Tensor) -> torch.Tensor:
                return update(v[:, 0])

            def straight(self, _: object) -> tuple[torch.Tensor, torch.Tensor]:
                return self.linearised(_, torch.zeros(len(zero), *norms.shape, dtype=torch.float64))

            def linearised(self, _: object, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                with torch.enable_grad():
                    variable = v.detach().requires_grad_()
                    delta = update(variable[:, 0])
                    rows = [
                        torch.autograd.grad(k, variable, retain_graph=True, materialize_grads=True)[0]
                        for k in delta.sum(dim=0)
                    ]
                return delta.detach(), torch.stack(rows, dim=1)

        self.problem = FixedPointProblem(
            Update(),
            {"density": zero},
            electrostatics,
            self.systems,
            electrostatics.cached_features,
            norms,
            0.0,
            "auto",
        )

    def solve(self, start: State | None = None, solver: object | None = None) -> State:
        """The self-consistent state."""
        if start is None:
            start = State(
                torch.zeros_like(self.problem.parameters["density"]), self.systems.fermi_level.clone()
            )
        newton = Newton(tolerance=1e-12, max_iterations=300) if solver is None else solver
        with torch.no_grad():
            solution = newton.solve(self.problem, start)
        self.record = solution.record
        assert bool(self.record.converged.all()), self.record.history
        return solution.state


def quadratic(chi: object, eta: object) -> Callable[[torch.Tensor], torch.Tensor]:
    """chi·p + ½ eta p², chi and eta `[n_atoms, n_lm]` or broadcast to it."""
    linear = torch.as_tensor(np.asarray(chi, dtype=float))
    hardness = torch.as_tensor(np.asarray(eta, dtype=float))
    return lambda p: (linear * p + 0.5 * hardness * p.square()).sum(dim=1)


def pair(distance: float) -> np.ndarray:
    """Two sites along z."""
    return np.array([[0.0, 0.0, 0.0], [0.0, 0.0, distance]])
