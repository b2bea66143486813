"""Energy of a fixed-point density beside its electrostatics: eps(h, p, v)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from e3nn import o3

from electret.models.readouts import NodeReadout, ScalarReadout, electret_to_e3nn
from electret.models.updates import channel_irreps

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

    def parameters_of(self, features: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """`energy_weights [n_atoms, irreps]`."""
        return {"energy_weights": self.weights(features)}

    def forward(
        self, parameters: dict[str, torch.Tensor], change: torch.Tensor, v: torch.Tensor
    ) -> torch.Tensor:
        """eps_i `[n_atoms]` in eV of p - n0 `[n_atoms, n_lm]` and normalised features `[n_atoms, n_widths,
        n_features_lm]`."""
        a = self.density(electret_to_e3nn(change, self.max_l))
        theirs = electret_to_e3nn(v, self.features_max_l)
        blocks = [
            theirs[:, :, l * l : (l + 1) ** 2].flatten(start_dim=1) for l in range(self.features_max_l + 1)
        ]
        b = self.potential(torch.cat(blocks, dim=1))
        return self.scale * (parameters["energy_weights"] * self.product(a, b)).sum(dim=1)


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
