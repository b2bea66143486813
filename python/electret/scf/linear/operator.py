"""Jacobians that are given by their products, solved by GMRES."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from electret import _native
from electret.cuda.geometry import Layout
from electret.scf.linear.border import Border, Inner, Product
from electret.scf.linear.gmres import gmres

__all__ = ["OperatorJacobian", "Solver", "dominant_eigenpairs"]


class Solver:
    """Base of the solvers with K: failures of all solves so far, and the tolerance of iterations."""

    def __init__(self, constrained: Tensor, tolerance: float = _native.KRYLOV_TOLERANCE) -> None:
        self.failed = torch.zeros_like(constrained)
        self.tolerance = tolerance

    def solved(
        self, b: Tensor, s: Tensor, transpose: bool, tolerance: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x and y with K (x, y) = (b, s), and True for each system that was solved."""
        raise NotImplementedError

    def solve(
        self, multipoles: Tensor, condition: Tensor, transpose: bool = False, tolerance: float | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `electret.scf.problem.LinearSolver`."""
        tolerance = self.tolerance if tolerance is None else tolerance
        x, y, solved = self.solved(multipoles.detach(), condition.detach(), transpose, tolerance)
        self.failed = self.failed | ~solved
        return x, y


class OperatorJacobian(Solver):
    """K = [[J, c], [wᵀ, d]] with products of J and Jᵀ.

    Args:
        border: c, w and d.
        products: J x and Jᵀ x of x `[n_atoms, n_lm]`.
        inverses: approximations of J⁻¹ and J⁻ᵀ for preconditioners; one after another is tried on the systems
            that are not solved yet. J = 1 + ... needs none.
        tolerance: relative residual at which iterations end, unless overridden by a solve.
        max_iterations: most products per solve; None chooses by the number of unknowns.
    """

    def __init__(
        self,
        border: Border,
        products: tuple[Inner, Inner],
        inverses: Sequence[tuple[Inner, Inner]] = ((lambda x: x, lambda x: x),),
        tolerance: float = _native.KRYLOV_TOLERANCE,
        max_iterations: int | None = None,
    ) -> None:
        super().__init__(border.corner > 0, tolerance)
        self.borders = border, border.transposed
        self.products, self.max_iterations = products, max_iterations
        self._inverses = inverses
        self._preconditioners: dict[tuple[int, bool], Product] = {}

    def apply(self, x: Tensor, y: Tensor, transpose: bool = False) -> tuple[Tensor, Tensor]:
        """K (x, y), or Kᵀ (x, y)."""
        return self.borders[transpose].product(self.products[transpose](x), x, y)

    def solved(
        self, b: Tensor, s: Tensor, transpose: bool, tolerance: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `Solver`."""
        systems = self.borders[0].systems
        x, y, solved = torch.zeros_like(b), torch.zeros_like(s), torch.zeros_like(self.failed)
        for attempt, pair in enumerate(self._inverses):
            key = attempt, transpose
            if key not in self._preconditioners:
                self._preconditioners[key] = self.borders[transpose].inverse(pair[transpose])
            found, level, good = gmres(
                lambda x, y: self.apply(x, y, transpose),
                b,
                s,
                systems,
                tolerance,
                self.max_iterations,
                self._preconditioners[key],
            )
            x = torch.where(systems.at_atoms(solved)[:, None], x, found)
            y, solved = torch.where(solved, y, level), solved | good
            if bool(solved.all()):
                break
        return x, y, solved

    def dominant_eigenpair(self) -> tuple[Tensor, Tensor, Tensor]:
        """Eigenpair of largest modulus of T = 1 - J; see `dominant_eigenpairs`.

        The matrices come from products with unit vectors, one for each unknown of the largest system.
        """
        batch, (n_atoms, n_lm) = self.borders[0].systems, self.borders[0].column.shape
        layout = Layout(batch.batch, batch.n_systems)
        number = layout.slot[:, None] * n_lm + torch.arange(n_lm, device=layout.slot.device)
        matrix = self.borders[0].column.new_empty(n_atoms, n_lm, layout.largest * n_lm)
        for index in range(layout.largest * n_lm):
            unit = (number == index).to(matrix.dtype)
            matrix[:, :, index] = unit - self.products[0](unit)
        return dominant_eigenpairs(layout.pad(matrix).flatten(1, 2), layout, n_lm)


def dominant_eigenpairs(matrices: Tensor, layout: Layout, n_lm: int) -> tuple[Tensor, Tensor, Tensor]:
    """Eigenvalue of largest modulus of T per system with its eigenvectors, by the native layer on the CPU.

    Args:
        matrices: T `[n_systems, n, n]`, n = largest * n_lm.
        layout: of the atoms in them.
        n_lm: components of an atom.

    Returns:
        values `[n_systems]`, right w and left u `[n_atoms, n_lm]`, complex, with |w| = 1 and uᴴ w = 1 (u is
        zero where they are orthogonal).
    """
    sizes = (layout.counts * n_lm).cpu().numpy()
    found = _native.dominant_eigenpairs(matrices.detach().cpu().contiguous().numpy(), sizes)
    parts = (torch.view_as_complex(torch.from_numpy(part)).to(matrices.device) for part in found)
    values, right, left = parts
    blocks = (layout.n_systems, layout.largest, n_lm)
    return values, layout.unpad(right.reshape(blocks)), layout.unpad(left.reshape(blocks))
