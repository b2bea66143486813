"""Operators from multipoles p to potential A p and features B p of a batch: differentiable ones, and ones
cached for fixed atoms on the CPU or on a device."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch.autograd.function import once_differentiable

from electret.errors import InputError
from electret.kernels import inputs
from electret.kernels.arguments import Options, Receivers, Sources, Systems
from electret.support.locks import cached_property
from electret.torch import dipole, field_features
from electret.torch.geometry import FixedOperators, fixed_operators
from electret.torch.operators import coulomb, features, features_gradient
from electret.torch.per_system import at_atoms, sum_over_atoms
from electret.units import COULOMB_CONSTANT

__all__ = ["POINT_LIKE", "Electrostatics", "ExternalCharges", "Operator"]

POINT_LIKE = 0.3
"""Width of external charges in Å. The potential of such a Gaussian is that of a point charge to 1e-6 beyond
1.5 Å, nearer than atoms come that are not bonded, and has no singularity for those that come nearer."""

LEAST_CHARGES = 64
"""External charges that share a copy of the atoms of an open system."""

Operator = Callable[[torch.Tensor], torch.Tensor]
"""Map from multipoles `[n_atoms, n_lm]` to features or potentials."""


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
class ExternalCharges:
    """Gaussian charges outside of a model, whose potential acts on its density: the classical part of a mixed
    system. Their interaction with each other is not part of the model's energy.

    Raises:
        InputError: shapes that do not belong together, numbers that are not float64, a width that is not
            positive.
    """

    positions: torch.Tensor
    """`[n_charges, 3]` float64 Å; along open axes anywhere, along periodic ones in any image."""
    charges: torch.Tensor
    """`[n_charges]` float64 e."""
    batch: torch.Tensor
    """System of each charge, `[n_charges]` int64."""
    width: float = POINT_LIKE
    """Width of the Gaussians, Å."""

    def __post_init__(self) -> None:
        inputs.require_points("positions of external charges", self.positions.shape)
        for name in ("charges", "batch"):
            found, expected = list(getattr(self, name).shape), [len(self.positions)]
            if found != expected:
                raise InputError(f"{name} of external charges has shape {found}; expected {expected}")
        for name in ("positions", "charges"):
            dtype = getattr(self, name).dtype
            if dtype != torch.float64:
                raise InputError(f"{name} of external charges is {dtype}; use .double()")
        if not 0.0 < self.width < math.inf:
            raise InputError(f"width of external charges is {self.width}; give a positive number of Å")


@dataclass(frozen=True)
class Electrostatics:
    """Atoms, widths and settings of a batch. All tensors are float64 on one device."""

    positions: torch.Tensor  # [n_atoms, 3] Å
    cell: torch.Tensor  # [n_systems, 3, 3] Å
    pbc: torch.Tensor  # [n_systems, 3]
    batch: torch.Tensor  # [n_atoms]
    external_field: torch.Tensor  # [n_systems, 3] V/Å
    sigma: torch.Tensor  # [n_atoms] Å
    max_l: int
    options: Options
    widths: tuple[float, ...] = ()
    features_max_l: int = 0
    features_self_interaction: bool = False
    in_field: bool = True
    """True if an external field acts or derivatives in it are computed."""
    external_charges: ExternalCharges | None = None
    lattice: torch.Tensor | None = None
    """Values of `cell` in a tensor that persists from step to step, as plans on a device are cached by
    tensor."""

    @property
    def n_systems(self) -> int:
        """Number of systems."""
        return self.cell.shape[0]

    def detach(self) -> Electrostatics:
        """Operators without a graph in positions, cell, field and external charges."""
        return self._detached

    @cached_property
    def _detached(self) -> Electrostatics:
        tensors = {name: getattr(self, name) for name in ("positions", "cell", "external_field")}
        if not any(tensor.requires_grad for tensor in tensors.values()):
            return self
        found = {name: tensor.detach() for name, tensor in tensors.items()}
        if self.lattice is not None and not self.lattice.requires_grad:
            found["cell"] = self.lattice
        outside = self.external_charges
        if outside is not None:
            outside = replace(outside, positions=outside.positions.detach())
        return replace(self, **found, external_charges=outside)

    @cached_property
    def operators(self) -> FixedOperators:
        """Cached operators of these atoms, without derivatives."""
        if self._detached is not self:
            return self._detached.operators
        receivers = Receivers(self._receivers, self.features_max_l) if self.widths else None
        own = self.features_self_interaction
        return fixed_operators(self._systems, self.sigma, receivers, self.max_l, self.options, own)

    @cached_property
    def _receivers(self) -> torch.Tensor:
        """Widths of the receivers, `[n_widths]` Å."""
        return torch.tensor(self.widths, dtype=torch.float64, device=self.positions.device)

    def energies(
        self, multipoles: torch.Tensor, per_atom: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Energies ½ pᵀAp `[n_systems]` eV, and with `per_atom` ½ p·Ap `[n_atoms]` without derivatives."""
        inputs = (self.positions, multipoles, self.cell)
        gradients = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
        sources = Sources(multipoles, self.sigma)
        energy, potential, _, _ = coulomb(self._systems, sources, self.options, gradients or per_atom)
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
        """Settings with or without the self-interaction of features."""
        return self.options._replace(self_interaction=self_interaction)

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
        """B p without derivatives, by the cached operators."""
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

        It is evaluated as features at the widths of the sources, which are differentiable twice; the gradient
        of the energy would be differentiable only once.
        """
        return self._at_own_width(
            self._features(multipoles, self._own_widths[0], self.max_l, "multipoles", True)
        )

    @cached_property
    def _own_widths(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Distinct widths of the sources, and the index of each atom's width."""
        return torch.unique(self.sigma, return_inverse=True)

    def _at_own_width(self, values: torch.Tensor) -> torch.Tensor:
        """Row of each atom's width, `[n_atoms, n_lm]`, of features at the distinct widths."""
        index = self._own_widths[1]
        return values[torch.arange(len(index), device=index.device), index]

    def cached_potential(self, multipoles: torch.Tensor) -> torch.Tensor:
        """A p without derivatives, by the cached operators."""
        return self.operators.potential(multipoles)

    def field_features(self) -> torch.Tensor:
        """Features of the external field, `[n_atoms, n_widths, n_features_lm]`."""
        local = at_atoms(self.external_field, self.batch)
        return field_features(self.positions, local, self._receivers, self.features_max_l, "receiver")

    def field_potential(self) -> torch.Tensor:
        """Derivative of -F·D in the multipoles, `[n_atoms, n_lm]`: -F·r for charges, -F for dipoles."""
        width = self.positions.new_ones(1)
        local = at_atoms(self.external_field, self.batch)
        return field_features(self.positions, local, width, self.max_l, "multipoles")[:, 0]

    def charges_potential(self) -> torch.Tensor:
        """Potential of the external charges in the normalisation of the multipoles, `[n_atoms, n_lm]`."""
        return self._at_own_width(self._charges_features(self._own_widths[0], self.max_l, "multipoles"))

    def charges_energies(self, multipoles: torch.Tensor) -> torch.Tensor:
        """Energy of the density of each atom with the external charges, `[n_atoms]` eV; differentiable
        twice."""
        potential = self.charges_potential()[:, : multipoles.shape[1]]  # charges alone have fewer than max_l
        return (multipoles * potential).sum(dim=1)

    def _charges_features(self, widths: torch.Tensor, max_l: int, normalization: str) -> torch.Tensor:
        """Features of the external charges at the atoms, `[n_atoms, n_widths, n_lm]`, from the sum over both,
        so that every boundary has them exactly.

        The charges of open systems are divided among copies of the atoms, where they meet few others: the
        time of a sum over pairs is then proportional to their number.
        """
        outside, n_atoms, device = self.external_charges, len(self.positions), self.positions.device
        assert outside is not None
        n_charges = len(outside.charges)
        copies = 1 if bool(self.pbc.any()) else max(1, math.ceil(n_charges / max(n_atoms, LEAST_CHARGES)))
        atoms = torch.arange(n_atoms, device=device).repeat(copies)
        copy = torch.arange(copies, device=device).repeat_interleave(n_atoms)
        turn = torch.arange(n_charges, device=device) % copies
        charges = torch.cat([self.positions.new_zeros(len(atoms)), outside.charges])
        sigma = torch.cat([self.sigma[atoms], self.sigma.new_full((n_charges,), outside.width)])
        systems = Systems(
            torch.cat([self.positions[atoms], outside.positions]),
            self.cell.repeat(copies, 1, 1),
            self.pbc.repeat(copies, 1),
            torch.cat([self.batch[atoms] + self.n_systems * copy, outside.batch + self.n_systems * turn]),
        )
        receivers = Receivers(widths, max_l, normalization)
        values = features(systems, Sources(charges[:, None], sigma), receivers, self._options(False))
        return sum_over_atoms(values[: len(atoms)], atoms, n_atoms)

    def external_features(self) -> torch.Tensor | None:
        """Features of external field and charges, `[n_atoms, n_widths, n_features_lm]`; None without both."""
        return self._external(
            self.field_features,
            lambda: self._charges_features(self._receivers, self.features_max_l, "receiver"),
        )

    def external_potential(self) -> torch.Tensor | None:
        """Derivative of the energy in external field and charges in the multipoles, `[n_atoms, n_lm]`; None
        without both."""
        return self._external(self.field_potential, self.charges_potential)

    def _external(
        self, of_field: Callable[[], torch.Tensor], of_charges: Callable[[], torch.Tensor]
    ) -> torch.Tensor | None:
        """Sum of what there is of field and charges."""
        parts = [of_field()] if self.in_field else []
        if self.external_charges is not None:
            parts.append(of_charges())
        return sum(parts[1:], parts[0]) if parts else None

    def constant_features(self) -> torch.Tensor:
        """Features of a uniform potential of one volt, `[n_widths, n_features_lm]`."""
        values = self.positions.new_zeros(len(self.widths), (self.features_max_l + 1) ** 2)
        values[:, 0] = math.sqrt(4.0 * math.pi)
        return values

    def self_interaction(self) -> torch.Tensor:
        """Self-interaction, the diagonal of A_ii, `[n_atoms, n_lm]`:
        K (2/pi) Γ(l+½) / (2 sigma^(2l+1) (2l+1) ((2l-1)!!)²)."""
        columns = []
        for l in range(self.max_l + 1):
            double_factorial = math.prod(range(1, 2 * l, 2))
            factor = (2 / math.pi) * math.gamma(l + 0.5) / (2 * (2 * l + 1) * double_factorial**2)
            value = COULOMB_CONSTANT * factor / self.sigma ** (2 * l + 1)
            columns += [value] * (2 * l + 1)
        return torch.stack(columns, dim=1)
