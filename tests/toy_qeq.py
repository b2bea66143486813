"""A self-consistent model that is small enough to check by hand and fast enough for long dynamics.

Charges minimise chi·q + ½ qᵀ(A + eta) q - F·sum(q r) at given charge or Fermi level, with softened Coulomb
interactions A and springs between all atoms as the short-range energy. The solver goes half of the way to the
solution in each iteration, so that iterations, residuals and warm starts are those of a real one.
"""

from __future__ import annotations

import torch

from electret import InputError
from electret.graph import Graph
from electret.models import Model, ModelConfig
from electret.scf import ScfRequest
from electret.units import COULOMB_CONSTANT

CHI = {1: -0.6, 8: 2.1, 47: 0.4}
ETA = {1: 6.0, 8: 7.0, 47: 3.0}
SOFTENING = 1.2
SPRING = 8.0
LENGTH = 1.6

PER_ATOM = ("energies", "multipoles", "charges", "fukui", "fukui_multipoles", "born_effective_charges")


class ToyQeq(Model):
    """Open or periodic systems are treated alike, without images."""

    family = "qeq"
    self_consistent = True
    variational = True
    config = ModelConfig.parse({"family": "qeq", "electrostatics": {"max_l": 0}})
    slope, curvature = 0.0, 0.0
    """Coefficients of an energy slope·Q + ½ curvature·Q² beside that of the equations."""

    def __init__(self, tolerance: float = 1e-10, max_iterations: int = 100) -> None:
        torch.nn.Module.__init__(self)
        self.tolerance, self.max_iterations = tolerance, max_iterations
        self.scale = torch.nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
        self.calls: list[dict] = []

    available_properties = frozenset(
        {
            "polarizability",
            "born_effective_charges",
            "fukui",
            "fukui_multipoles",
            "capacitance",
            "charge_stiffness",
            "energy_charge_curvature",
            "stability",
        }
    )
    cutoff = 3.0
    dtype = torch.float64

    @property
    def honours(self) -> frozenset[str]:
        return frozenset({"total_charge", "external_field", "fermi_level"})

    def forward(self, graph: Graph, forces=True, stress=False, training=False, scf=None, properties=()):
        request = scf or ScfRequest()
        self.calls.append({"forces": forces, "stress": stress, "scf": scf, "properties": set(properties)})
        positions = graph.positions.detach().clone().requires_grad_(True)
        with torch.enable_grad():
            parts = [
                self._system(graph, s, positions, request, set(properties)) for s in range(graph.n_systems)
            ]
            omega = torch.stack([part["grand_potential"] for part in parts])
            gradient = torch.autograd.grad(omega.sum(), positions)[0]
        result = {
            name: torch.cat([part[name] for part in parts])
            if parts[0][name].ndim and name in PER_ATOM
            else torch.stack([part[name] for part in parts])
            for name in parts[0]
            if name != "scf_history"
        }
        longest = max(len(part["scf_history"]) for part in parts)
        history = torch.full((len(parts), longest), torch.nan, dtype=torch.float64)
        for row, part in zip(history, parts, strict=True):
            row[: len(part["scf_history"])] = part["scf_history"]
        result["scf_history"] = history
        if forces:
            result["forces"] = -gradient
        if stress:
            volume = torch.linalg.det(graph.cell).abs()
            virial = torch.stack(
                [(positions[graph.batch == s].T @ gradient[graph.batch == s]) for s in range(graph.n_systems)]
            )
            result["stress"] = (virial + virial.transpose(1, 2)) / 2 / volume[:, None, None]
        return {name: value.detach() for name, value in result.items()}

    def _system(self, graph: Graph, system: int, positions, request: ScfRequest, properties: set[str]):
        rows = graph.batch == system
        r, numbers = positions[rows], graph.atomic_numbers[rows].tolist()
        for number in numbers:
            if number not in CHI:
                raise InputError(f"element {number} is unknown to the toy")
        n = len(numbers)
        field = graph.external_field[system]
        chi = torch.tensor([CHI[z] for z in numbers], dtype=torch.float64) - r @ field
        difference = r[:, None] - r[None]
        squares = difference.square().sum(dim=2)
        matrix = COULOMB_CONSTANT / torch.sqrt(squares + SOFTENING**2)
        hessian = self.scale * matrix + torch.diag(
            torch.tensor([ETA[z] for z in numbers], dtype=torch.float64)
        )
        pairs = torch.triu_indices(n, n, 1)
        lengths = torch.sqrt(squares[pairs[0], pairs[1]])
        short = 0.5 * SPRING * (lengths - LENGTH).square().sum()
        fixed = bool(torch.isnan(graph.fermi_level[system]))
        ones = torch.ones(n, dtype=torch.float64)
        inverse = torch.linalg.inv(hessian.detach())
        soft = float(ones @ inverse @ ones)
        if fixed:
            level = -(float(graph.total_charge[system]) + float(ones @ inverse @ chi.detach())) / soft
        else:
            level = float(graph.fermi_level[system])
        exact = -inverse @ (chi.detach() + level)
        q, level_now, record = self._iterate(exact, level, rows, system, request)
        energy_density = (
            chi @ q + 0.5 * q @ torch.diag(torch.diag(hessian - self.scale * matrix)) @ q + (r @ field) @ q
        )
        electrostatic = 0.5 * self.scale * q @ matrix @ q
        of_field = -(r @ field) @ q
        dipole = (q[:, None] * r).sum(dim=0)
        charge = q.sum()
        energy_density = energy_density + self.slope * charge + 0.5 * self.curvature * charge**2
        energy = short + energy_density + electrostatic + of_field
        result = {
            "energy": energy,
            "energy_short_range": short,
            "energy_electrostatic": electrostatic,
            "energy_field": of_field,
            "energy_density": energy_density,
            "grand_potential": energy if fixed else energy + level * charge,
            "fermi_level": torch.tensor(level_now, dtype=torch.float64),
            "multipoles": q[:, None],
            "charges": q,
            "dipole": dipole,
            "total_charge": charge,
            **record,
        }
        if "energies" in properties:
            result["energies"] = (energy / n).expand(n)
        fukui = inverse @ ones / soft
        if "fukui" in properties:
            result["fukui"] = fukui
        if "fukui_multipoles" in properties:
            result["fukui_multipoles"] = fukui[:, None]
        if "capacitance" in properties:
            result["capacitance"] = torch.tensor(soft, dtype=torch.float64)
        if {"charge_stiffness", "energy_charge_curvature"} & properties:
            result["energy_charge_derivative"] = -level + self.slope + self.curvature * charge
        if "energy_charge_curvature" in properties:
            result["energy_charge_curvature"] = torch.tensor(1.0 / soft + self.curvature, dtype=torch.float64)
        if "stability" in properties:
            result["stability"] = torch.tensor(0.5, dtype=torch.float64)
        if "polarizability" in properties:
            held = inverse - soft * torch.outer(fukui, fukui) if fixed else inverse
            result["polarizability"] = r.detach().T @ held @ r.detach()
        if "born_effective_charges" in properties:
            result["born_effective_charges"] = torch.einsum("i,ab->iab", q, torch.eye(3, dtype=q.dtype))
        return result

    def _iterate(self, exact, level, rows, system, request: ScfRequest):
        tolerance = request.tolerance or self.tolerance
        limit = request.max_iterations or self.max_iterations
        q = torch.zeros_like(exact)
        mu = 0.0
        if request.start is not None:
            assert request.start.multipoles.shape[0] == len(rows)
            q = request.start.multipoles[rows][:, 0].double()
            mu = float(request.start.fermi_level[system])
        # The Fermi level converges with the charges, and charge and level are exact at every step.
        history = [float((exact - q).abs().mean())]
        iterations = 0
        while history[-1] > tolerance and iterations < limit:
            q = q + 0.5 * (exact - q)
            mu = mu + 0.5 * (level - mu)
            iterations += 1
            history.append(float((exact - q).abs().mean()))
        record = {
            "scf_converged": torch.tensor(history[-1] <= tolerance),
            "scf_iterations": torch.tensor(iterations),
            "scf_residual": torch.tensor(history[-1], dtype=torch.float64),
            "scf_history": torch.tensor(history, dtype=torch.float64),
        }
        return q.detach(), mu, record


class ToyFixedPoint(ToyQeq):
    """Its Fermi level is not -dE/dQ, and its energy is softer in the charge than its equations say."""

    variational = False
    slope, curvature = 0.3, -8.0
