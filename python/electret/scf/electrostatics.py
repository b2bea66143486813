"""The operators between a density and its potential for the atoms of a batch, differentiable or cached."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch.autograd.function import once_differentiable

from electret.cuda.geometry import DeviceGeometry
from electret.cuda.operators import emulated
from electret.kernels.arguments import Options, Receivers, Sources, Systems
from electret.kernels.geometry import Geometry
from electret.scf.operators import FixedOperators, HostOperators
from electret.torch import dipole, field_features
from electret.torch.operators import coulomb, features, features_gradient
from electret.torch.per_system import at_atoms
from electret.units import COULOMB_CONSTANT

__all__ = ["Electrostatics", "Operator"]

Operator = Callable[[torch.Tensor], torch.Tensor]
"""From multipoles `[n_atoms, n_lm]` to features or potentials."""


class _AtPositions(torch.autograd.Function):
    """Known features B p as a function of positions and cell."""

    @staticmethod
    def forward(ctx, positions, cell, values, multipoles, electrostatics):
        ctx.multipoles, ctx.electrostatics = multipoles, electrostatics
        return values.view_as(values)

    @staticmethod
    @once_differentiable
    def backward(ctx, values_bar):
        to_positions, _, to_cell = ctx.electrostatics.features_gradient(ctx.multipoles, values_bar)
        return to_positions, to_cell, None, None, None


class _OfMultipoles(torch.autograd.Function):
    """Known features B p as a function of the multipoles, in addition to their own graph."""

    @staticmethod
    def forward(ctx, values, multipoles, operators):
        ctx.operators = operators
        return values.view_as(values)

    @staticmethod
    @once_differentiable
    def backward(ctx, values_bar):
        return values_bar, ctx.operators.features_transpose(values_bar), None


@dataclass(frozen=True)
class Electrostatics:
    """Positions, widths and settings of a batch. All tensors are float64 on one device."""

    positions: torch.Tensor  # [n_atoms, 3] Å
    cell: torch.Tensor  # [n_systems, 3, 3] Å
    pbc: torch.Tensor  # [n_systems, 3]
    batch: torch.Tensor  # [n_atoms]
    external_field: torch.Tensor  # [n_systems, 3] V/Å
    sigma: torch.Tensor  # [n_atoms] Å
    max_l: int
    widths: tuple[float, ...] = ()
    features_max_l: int = 0
    features_self_interaction: bool = False
    boundary: str | None = None
    method: str = "auto"
    accuracy: float = 1e-8
    precision: str = "float64"
    in_field: bool = True
    """Whether an external field acts, or is a variable of derivatives."""
    lattice: torch.Tensor | None = None
    """Numbers of `cell` in a tensor that stays from step to step: plans on a device are kept by tensor."""

    @property
    def n_systems(self) -> int:
        """Systems of the batch."""
        return self.cell.shape[0]

    def detach(self) -> Electrostatics:
        """The same without a graph."""
        return self._detached

    @cached_property
    def _detached(self) -> Electrostatics:
        tensors = {name: getattr(self, name) for name in ("positions", "cell", "external_field")}
        if not any(tensor.requires_grad for tensor in tensors.values()):
            return self
        found = {name: tensor.detach() for name, tensor in tensors.items()}
        if self.lattice is not None and not self.lattice.requires_grad:
            found["cell"] = self.lattice
        return replace(self, **found)

    @cached_property
    def operators(self) -> FixedOperators:
        """What evaluations at these atoms reuse; without derivatives in positions."""
        if self._detached is not self:
            return self._detached.operators
        if self.positions.device.type == "cpu" and not emulated():
            return HostOperators(self.geometry)
        receivers = Receivers(self._receivers, self.features_max_l) if self.widths else None
        own = self.features_self_interaction
        return DeviceGeometry(self._systems, self.sigma, receivers, self.max_l, self._options(True), own)

    @cached_property
    def _receivers(self) -> torch.Tensor:
        """Widths of the receivers, on the device."""
        return torch.tensor(self.widths, dtype=torch.float64, device=self.positions.device)

    @cached_property
    def geometry(self) -> Geometry:
        """The operators on the CPU."""
        return Geometry(
            self.positions.detach().cpu().numpy(),
            self.sigma.cpu().numpy(),
            self.widths,
            max_l=self.max_l,
            features_max_l=self.features_max_l,
            cell=self.cell.detach().cpu().numpy(),
            pbc=self.pbc.cpu().numpy(),
            batch=self.batch.cpu().numpy(),
            features_self_interaction=self.features_self_interaction,
            boundary=self.boundary,
            method=self.method,
            accuracy=self.accuracy,
        )

    def energies(
        self, multipoles: torch.Tensor, per_atom: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """½ pᵀAp of each system, and with `per_atom` ½ p·Ap of each atom, without derivatives, eV."""
        inputs = (self.positions, multipoles, self.cell)
        gradients = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
        sources = Sources(multipoles, self.sigma)
        energy, potential, _, _ = coulomb(self._systems, sources, self._options(True), gradients or per_atom)
        return energy, 0.5 * (multipoles * potential).sum(dim=1).detach() if per_atom else None

    def _features(
        self, multipoles: torch.Tensor, widths: torch.Tensor, max_l: int, normalization: str, own: bool
    ) -> torch.Tensor:
        receivers = Receivers(widths, max_l, normalization)
        return features(self._systems, Sources(multipoles, self.sigma), receivers, self._options(own))

    @property
    def _systems(self) -> Systems:
        return Systems(self.positions, self.cell, self.pbc, self.batch)

    def _options(self, self_interaction: bool) -> Options:
        return Options(self.boundary, self.method, self.accuracy, self.precision, self_interaction)

    def features_gradient(
        self, multipoles: torch.Tensor, cotangent: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Gradient of sum(cotangent · B p) in positions, multipoles and cell."""
        receivers = Receivers(self._receivers, self.features_max_l)
        options = self._options(self.features_self_interaction)
        sources = Sources(multipoles, self.sigma)
        return features_gradient(self._systems, sources, receivers, options, cotangent)

    def dipole(self, multipoles: torch.Tensor) -> torch.Tensor:
        """Total dipole of each system, `[n_systems, 3]` (x, y, z) e Å."""
        return dipole(self.positions, multipoles, self.batch, self.n_systems)

    def features(self, multipoles: torch.Tensor) -> torch.Tensor:
        """B p, `[n_atoms, n_widths, n_features_lm]`; differentiable twice."""
        own = self.features_self_interaction
        return self._features(multipoles, self._receivers, self.features_max_l, "receiver", own)

    def cached_features(self, multipoles: torch.Tensor) -> torch.Tensor:
        """The same without derivatives, from the cached operators."""
        return self.operators.features(multipoles)

    def known_features(self, values: torch.Tensor, multipoles: torch.Tensor) -> torch.Tensor:
        """B p of multipoles for which the `values` are known, with their derivatives; differentiable once.

        Values that carry a graph already have their derivatives in positions and cell, and get those in the
        multipoles.
        """
        if not values.requires_grad:
            values = _AtPositions.apply(self.positions, self.cell, values, multipoles.detach(), self)
        if not multipoles.requires_grad:
            return values
        return _OfMultipoles.apply(values, multipoles, self.operators)

    def potential(self, multipoles: torch.Tensor) -> torch.Tensor:
        """A p = d(½ pᵀAp)/dp, `[n_atoms, n_lm]`; differentiable twice.

        The features at the widths of the sources are dE/dp, so the derivatives of this are those of the
        features, where a gradient of the energy could be differentiated only once more.
        """
        widths, index = self._own_widths
        values = self._features(multipoles, widths, self.max_l, "multipoles", True)
        return values[torch.arange(len(index), device=index.device), index]

    @cached_property
    def _own_widths(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The different widths of the sources, and which of them each atom has."""
        return torch.unique(self.sigma, return_inverse=True)

    def cached_potential(self, multipoles: torch.Tensor) -> torch.Tensor:
        """The same without derivatives, from the cached operators."""
        return self.operators.potential(multipoles)

    def field_features(self) -> torch.Tensor:
        """Features of the external field, `[n_atoms, n_widths, n_features_lm]`."""
        local = at_atoms(self.external_field, self.batch)
        return field_features(self.positions, local, self._receivers, self.features_max_l, "receiver")

    def field_potential(self) -> torch.Tensor:
        """Potential of the external field on multipoles, `[n_atoms, n_lm]`: -F·r, -F."""
        width = self.positions.new_ones(1)
        local = at_atoms(self.external_field, self.batch)
        return field_features(self.positions, local, width, self.max_l, "multipoles")[:, 0]

    def constant_features(self) -> torch.Tensor:
        """Features of a potential of one volt everywhere, `[n_widths, n_features_lm]`."""
        values = self.positions.new_zeros(len(self.widths), (self.features_max_l + 1) ** 2)
        values[:, 0] = math.sqrt(4.0 * math.pi)
        return values

    def self_interaction(self) -> torch.Tensor:
        """Diagonal of A of each atom alone, `[n_atoms, n_lm]`: K (2/pi) Γ(l+½) / (2 sigma^(2l+1) (2l+1)
        ((2l-1)!!)²)."""
        columns = []
        for l in range(self.max_l + 1):
            double_factorial = math.prod(range(1, 2 * l, 2))
            factor = (2 / math.pi) * math.gamma(l + 0.5) / (2 * (2 * l + 1) * double_factorial**2)
            value = COULOMB_CONSTANT * factor / self.sigma ** (2 * l + 1)
            columns += [value] * (2 * l + 1)
        return torch.stack(columns, dim=1)
