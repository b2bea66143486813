"""The constraint of each system: row, column and corner that it adds to the inner part J of the Jacobian."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from electret import _native
from electret.cuda.geometry import Layout
from electret.scf.problem import Batch

__all__ = ["Border", "Inner", "Product"]

Inner = Callable[[Tensor], Tensor]
"""Linear map of x `[n_atoms, n_lm]` that keeps systems apart."""

Product = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Linear map of a pair x `[n_atoms, n_lm]`, y `[n_systems]` that keeps systems apart."""


@dataclass(frozen=True)
class Border:
    """K = [[J, c], [wᵀ, d]] of every system; as `border.rs` of the native layer.

    At constant charge w is 1 at charges and d = 0: the last row is the charge. At constant Fermi level w = 0
    and d = 1: the last row is the Fermi level.
    """

    systems: Batch
    column: Tensor  # c, [n_atoms, n_lm]
    row: Tensor  # w, [n_atoms, n_lm]
    corner: Tensor  # d, [n_systems]

    @classmethod
    def of(cls, systems: Batch, column: Tensor, constrained: Tensor) -> Border:
        """Border of systems at constant charge (`constrained [n_systems]`) or constant Fermi level."""
        row = torch.zeros_like(column)
        row[:, 0] = systems.at_atoms(constrained.to(column.dtype))
        return cls(systems, column, row, (~constrained).to(column.dtype))

    @property
    def transposed(self) -> Border:
        """Border of Kᵀ."""
        return Border(self.systems, self.row, self.column, self.corner)

    def product(self, inner: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """K (x, y) from `inner` = J x."""
        r = inner + self.column * self.systems.at_atoms(y)[:, None]
        return r, self.systems.sum((self.row * x).sum(dim=1)) + self.corner * y

    def matrix(self, inner: Tensor, layout: Layout) -> Tensor:
        """K `[n_systems, n + 1, n + 1]` from matrices J `[n_systems, n, n]`, n = largest * n_lm."""
        n_systems, size = inner.shape[:2]
        matrix = inner.new_zeros(n_systems, size + 1, size + 1)
        matrix[:, :size, :size] = inner
        matrix[:, :size, size] = layout.pad(self.column).reshape(n_systems, size)
        matrix[:, size, :size] = layout.pad(self.row).reshape(n_systems, size)
        matrix[:, size, size] = self.corner
        return matrix

    def inverse(self, inner: Inner) -> Product:
        """K⁻¹ with P in place of J, from `inner` = P⁻¹. A vanishing Schur complement leaves the border
        out."""
        total, at_atoms = self.systems.sum, self.systems.at_atoms
        column = inner(self.column)  # P⁻¹ c
        terms = self.row * column
        schur = self.corner - total(terms.sum(dim=1))
        scale = self.corner + total(terms.abs().sum(dim=1))
        usable = schur.abs() > _native.SMALLEST_SCHUR * scale
        divisor = torch.where(usable, schur, 1.0)

        def solve(r: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
            x = inner(r)
            y = torch.where(usable, (s - total((self.row * x).sum(dim=1))) / divisor, 0.0)
            return x - column * at_atoms(y)[:, None], torch.where(usable, y, s)

        return solve
