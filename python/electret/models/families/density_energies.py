"""Energy of a fixed-point density beside its electrostatics: eps(h, p, v)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from electret.models.families.updates import channel_irreps
from electret.models.hosted import o3
from electret.models.readouts import NodeReadout, ScalarReadout, basis_change

__all__ = ["InvariantEnergy", "QuadraticEnergy"]


class QuadraticEnergy(torch.nn.Module):
    """h · [A(p - n0) x B v]: bilinear in the change of the density and the effective potential.

    Vanishes where no density has moved; its coefficients are features of the surroundings of every order, so
    charge and dipole terms couple.
    """

    def __init__(
        self,
        layer_irreps: Sequence[o3.Irreps],
        channels: int,
        max_l: int,
        features_max_l: int,
        n_widths: int,
    ) -> None:
        super().__init__()
        self.max_l, self.features_max_l = max_l, features_max_l
        density = channel_irreps(channels, max_l)
        potential = channel_irreps(channels, features_max_l)
        self.density = o3.Linear(channel_irreps(1, max_l), density)
        self.potential = o3.Linear(channel_irreps(n_widths, features_max_l), potential)
        highest = max(irreps.lmax for irreps in layer_irreps)
        weights = channel_irreps(channels, min(max_l + features_max_l, highest))
        instructions = [
            (i, j, k, "uuu", True)
            for i, (_, first) in enumerate(density)
            for j, (_, second) in enumerate(potential)
            for k, (_, third) in enumerate(weights)
            if third in first * second
        ]
        self.product = o3.TensorProduct(density, potential, weights, instructions)
        self.weights = NodeReadout(layer_irreps, weights, "the energy of the density")
        self.scale = 1.0 / channels
        for degree in range(weights.lmax + 1):
            self.register_buffer(f"coupling_{degree}", self._coupling(degree), persistent=False)

    def _paths(self, degree: int) -> list[int]:
        """Instructions of the product that end in a degree."""
        return [n for n, path in enumerate(self.product.instructions) if path.i_out == degree]

    def _coupling(self, degree: int) -> torch.Tensor:
        """Coefficients of the paths that end in a degree, between components in electret's order and e3nn's,
        `[paths, 2l+1, n_lm, n_features_lm]`."""
        n_lm, n_features = (self.max_l + 1) ** 2, (self.features_max_l + 1) ** 2
        found = []
        for n in self._paths(degree):
            path = self.product.instructions[n]
            first, second = path.i_in1, path.i_in2
            block = path.path_weight * o3.wigner_3j(first, second, degree)
            block = torch.einsum("ia,jb,ijm->mab", basis_change(first).T, basis_change(second).T, block)
            part = block.new_zeros(2 * degree + 1, n_lm, n_features)
            rows, columns = (slice(l * l, (l + 1) ** 2) for l in (first, second))
            part[:, rows, columns] = block
            found.append(part)
        return torch.stack(found)

    def parameters_of(self, features: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """`energy_weights [n_atoms, irreps]`."""
        return {"energy_weights": self.weights(features)}

    def forward(
        self, parameters: dict[str, torch.Tensor], change: torch.Tensor, v: torch.Tensor
    ) -> torch.Tensor:
        """eps_i `[n_atoms]` in eV of p - n0 `[n_atoms, n_lm]` and normalised features `[n_atoms, n_widths,
        n_features_lm]`."""
        # the weights of the three e3nn modules in one matrix, in place of their calls
        coefficients = parameters["energy_weights"] @ self._matrix()
        slope = coefficients.reshape(len(v), change.shape[1], -1) @ v.flatten(start_dim=1)[:, :, None]
        return self.scale * (change * slope.squeeze(2)).sum(dim=1)

    def _matrix(self) -> torch.Tensor:
        """Matrix from h to the coefficients of (p - n0) x v, `[irreps, n_lm * n_widths * n_features_lm]`."""
        density, potential = (
            [path.path_weight * weight for _, path, weight in linear.weight_views(yield_instruction=True)]
            for linear in (self.density, self.potential)
        )  # by degree `[1 or n_widths, channels]`
        weights = list(self.product.weight_views())
        blocks = []
        for degree in range(self.weights.irreps_out.lmax + 1):
            per_path = []
            for n in self._paths(degree):
                path = self.product.instructions[n]
                per_path.append(weights[n] * density[path.i_in1] * potential[path.i_in2])
            block = torch.einsum(
                "pwc,pmab->cmawb", torch.stack(per_path), getattr(self, f"coupling_{degree}")
            )
            blocks.append(block.flatten(start_dim=2).flatten(end_dim=1))
        return torch.cat(blocks)


class InvariantEnergy(torch.nn.Module):
    """An MLP of invariants of features, density and potential: scalars, squares and products per order."""

    def __init__(
        self,
        layer_irreps: Sequence[o3.Irreps],
        channels: int,
        max_l: int,
        features_max_l: int,
        n_widths: int,
        hidden: int,
    ) -> None:
        super().__init__()
        self.max_l, self.features_max_l = max_l, features_max_l
        self.scalars = ScalarReadout(layer_irreps, channels, hidden, "the energy of the density")
        common = min(max_l, features_max_l) + 1
        n_invariants = 2 + max_l + n_widths * (2 + features_max_l) + n_widths * common
        self.first = torch.nn.Linear(channels + n_invariants, hidden)
        self.last = torch.nn.Linear(hidden, 1, bias=False)
        with torch.no_grad():
            self.last.weight.mul_(0.1)

    def parameters_of(self, features: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """`energy_scalars [n_atoms, channels]`."""
        return {"energy_scalars": self.scalars(features)}

    def forward(
        self, parameters: dict[str, torch.Tensor], change: torch.Tensor, v: torch.Tensor
    ) -> torch.Tensor:
        """eps_i `[n_atoms]` in eV; see `QuadraticEnergy.forward`."""
        scalars = [parameters["energy_scalars"], change[:, :1], v[:, :, 0]]
        for l in range(self.max_l + 1):
            mine = change[:, None, l * l : (l + 1) ** 2]
            scalars.append(mine.square().sum(dim=2))
            if l <= self.features_max_l:
                scalars.append((mine * v[:, :, l * l : (l + 1) ** 2]).sum(dim=2))
        for l in range(self.features_max_l + 1):
            scalars.append(v[:, :, l * l : (l + 1) ** 2].square().sum(dim=2))
        hidden = torch.nn.functional.silu(self.first(torch.cat(scalars, dim=1)))
        return self.last(hidden)[:, 0]
