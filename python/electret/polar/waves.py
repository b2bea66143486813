"""Sums over the waves of one periodic cell up to a cutoff, in plain torch, for charges and dipoles.

Electrostatics of MACE-POLAR-1 as its training code sums them: no split into near and far parts, and
no wave beyond the cutoff. Everything is differentiable as often as wanted, at fixed waves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch

from electret.errors import InputError
from electret.units import COULOMB_CONSTANT

__all__ = ["Waves"]


@dataclass(frozen=True)
class Waves:
    """Waves that have the period of a cell. All tensors are float64 on one device."""

    positions: torch.Tensor  # [n_atoms, 3] Å
    cell: torch.Tensor  # [3, 3] Å
    cutoff: float
    """Largest wave number, 1/Å."""
    width: torch.Tensor
    """Width of the densities, Å."""

    @property
    def volume(self) -> torch.Tensor:
        """Volume of the cell, Å³."""
        return torch.linalg.det(self.cell).abs()

    @cached_property
    def vectors(self) -> torch.Tensor:
        """One of each pair k, -k up to the cutoff without zero, `[n_waves, 3]` 1/Å.

        Raises:
            InputError: a cell without volume.
        """
        cell = self.cell.detach()
        if not torch.linalg.det(cell).abs() > 0:
            raise InputError(
                f"a system has the cell {cell.tolist()} without volume, and mode 'as_trained' sums slabs and "
                "wires as crystals; give vectors along open axes, with the vacuum of the training data, or "
                "use mode 'exact'"
            )
        reach = (self.cutoff * torch.linalg.norm(cell, dim=1) / (2 * math.pi)).ceil().long().tolist()
        multiples = torch.cartesian_prod(*(torch.arange(-n, n + 1, device=cell.device) for n in reach))
        ahead = multiples[len(multiples) // 2 + 1 :].to(cell)
        vectors = 2 * math.pi * ahead @ torch.linalg.inv(self.cell).T
        return vectors[vectors.detach().square().sum(dim=1) <= self.cutoff**2]

    @cached_property
    def _squares(self) -> torch.Tensor:
        return self.vectors.square().sum(dim=1)

    @cached_property
    def _phases(self) -> tuple[torch.Tensor, torch.Tensor]:
        """cos k·r and sin k·r, `[n_waves, n_atoms]`."""
        phases = self.vectors @ self.positions.T
        return torch.cos(phases), torch.sin(phases)

    def _factors(self, p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Structure factors Σ (q - i k·d) e^(-ik·r), real and imaginary parts `[n_waves]`, of multipoles
        `[n_atoms, 1 or 4]` of point particles."""
        p = torch.nn.functional.pad(p, (0, 4 - p.shape[1]))
        cosines, sines = (phase @ p for phase in self._phases)
        along = self.vectors[:, [1, 2, 0]]  # the order (y, z, x) of dipoles
        real = cosines[:, 0] - (along * sines[:, 1:]).sum(dim=1)
        return real, -sines[:, 0] - (along * cosines[:, 1:]).sum(dim=1)

    def energy(self, p: torch.Tensor) -> torch.Tensor:
        """Energy with self-interaction, eV."""
        real, imaginary = self._factors(p)
        weights = torch.exp(-self._squares * self.width.square()) / self._squares
        return 4 * math.pi * COULOMB_CONSTANT / self.volume * (weights * (real**2 + imaginary**2)).sum()

    def features(self, p: torch.Tensor, widths: torch.Tensor) -> torch.Tensor:
        """Potential and gradient (y, z, x) `[n_atoms, n_widths, 4]` with self-interaction, normalised as
        features of receivers with the `widths`."""
        smeared = torch.exp(-self._squares[:, None] * (self.width.square() + widths.square()) / 2)
        weights = smeared / self._squares[:, None]  # [n_waves, n_widths]
        slopes = math.sqrt(6 * math.pi) / 4 * widths[:, None] * self.vectors[:, None, [1, 2, 0]]
        ones = torch.ones_like(slopes[:, :, :1])
        real, imaginary = (part[:, None, None] * weights[:, :, None] for part in self._factors(p))
        of_cosines = torch.cat([real * ones, -imaginary * slopes], dim=2)
        of_sines = torch.cat([-imaginary * ones, -real * slopes], dim=2)
        cosines, sines = self._phases
        values = cosines.T @ of_cosines.flatten(1) + sines.T @ of_sines.flatten(1)
        factor = math.sqrt(4 * math.pi) * 8 * math.pi * COULOMB_CONSTANT / self.volume
        return factor * values.reshape(len(p), len(widths), 4)
