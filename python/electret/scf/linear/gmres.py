"""GMRES for a batch of systems at once; as `krylov.rs` of the native layer, which also has the limits."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from electret import _native
from electret.scf.linear.border import Product
from electret.scf.problem import Batch

__all__ = ["gmres"]


def _unchanged(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return x, y


def gmres(
    apply: Product,
    multipoles: Tensor,
    condition: Tensor,
    systems: Batch,
    tolerance: float = _native.KRYLOV_TOLERANCE,
    max_iterations: int | None = None,
    precondition: Product = _unchanged,
) -> tuple[Tensor, Tensor, Tensor]:
    """Solution of K (x, y) = (multipoles, condition) in every system, each with its own Krylov space.

    Args:
        apply: the product with K; must keep systems apart.
        multipoles: `[n_atoms, n_lm]`.
        condition: `[n_systems]`.
        systems: of the batch.
        tolerance: relative residual at which a system counts as solved.
        max_iterations: most products; None chooses by the unknowns of the largest system.
        precondition: an approximate inverse of K, applied on the right.

    Returns:
        x `[n_atoms, n_lm]`, y `[n_systems]`, both zero where not converged, and `converged [n_systems]`.
        Source: Saad and Schultz, SIAM J. Sci. Stat. Comput. 7, 856 (1986).
    """
    space = _Space(systems, multipoles.shape[1])
    target = tolerance * space.norm(multipoles, condition)
    atoms = torch.bincount(systems.batch, minlength=systems.n_systems)
    unknowns = int(atoms.max()) * multipoles.shape[1] + 1 if len(atoms) else 1
    limit = max_iterations or _native.most_products(unknowns)
    x, y = torch.zeros_like(multipoles), torch.zeros_like(condition)
    residual = multipoles, condition
    last = torch.full_like(target, math.inf)
    products = 0
    while True:
        size = space.norm(*residual)
        converged = size <= target
        active = ~converged & (size <= (1.0 - _native.KRYLOV_LEAST_GAIN) * last)
        if products >= limit or not bool(active.any()):
            break
        last = size
        length = min(_native.KRYLOV_RESTART, unknowns, limit - products)
        step, used = _cycle(apply, precondition, space, residual, size, target, active, length)
        products += used + 1
        # corrections that are not finite are discarded
        good = active & space.finite(*step)
        x = x + torch.where(systems.at_atoms(good)[:, None], step[0], 0.0)
        y = y + torch.where(good, step[1], 0.0)
        product = apply(x, y)
        residual = multipoles - product[0], condition - product[1]
    rows = systems.at_atoms(converged)[:, None]
    return torch.where(rows, x, 0.0), torch.where(converged, y, 0.0), converged


class _Space:
    """Inner products and sums of pairs (x `[n_atoms, n_lm]`, y `[n_systems]`) per system."""

    def __init__(self, systems: Batch, n_lm: int) -> None:
        self.systems, self.n_lm = systems, n_lm

    def norm(self, x: Tensor, y: Tensor) -> Tensor:
        """`[n_systems]`."""
        return (self.systems.sum(x.square().sum(dim=1)) + y.square()).sqrt()

    def finite(self, x: Tensor, y: Tensor) -> Tensor:
        """True for systems with finite entries only, `[n_systems]`."""
        bad = (~torch.isfinite(x)).any(dim=1).to(y.dtype)
        return (self.systems.sum(bad) == 0) & torch.isfinite(y)

    def scaled(self, x: Tensor, y: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        """Pair times a factor of each system; exactly zero for a factor of zero."""
        rows = self.systems.at_atoms(factor)[:, None]
        return torch.where(rows == 0, 0.0, x * rows), torch.where(factor == 0, 0.0, y * factor)

    def overlaps(self, xs: Tensor, ys: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Inner products with `[m, n_atoms, n_lm]` and `[m, n_systems]`, `[n_systems, m]`."""
        return self.systems.sum(torch.einsum("mac,ac->am", xs, x)) + (ys * y).T

    def combined(self, xs: Tensor, ys: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Linear combination with weights `[n_systems, m]`."""
        x = torch.einsum("mac,am->ac", xs, self.systems.at_atoms(weights))
        return x, (ys * weights.T).sum(dim=0)


def _cycle(
    apply: Product,
    precondition: Product,
    space: _Space,
    residual: tuple[Tensor, Tensor],
    size: Tensor,
    target: Tensor,
    active: Tensor,
    length: int,
) -> tuple[tuple[Tensor, Tensor], int]:
    """One cycle of the iteration: correction and number of products."""
    n_systems, dtype = len(size), size.dtype
    tiny, epsilon = torch.finfo(dtype).tiny, torch.finfo(dtype).eps
    xs = residual[0].new_zeros(length + 1, *residual[0].shape)
    ys = residual[1].new_zeros(length + 1, n_systems)
    inverse = torch.where(active, 1.0 / size.clamp(min=tiny), 0.0)
    xs[0], ys[0] = space.scaled(*residual, inverse)
    # Hessenberg matrix H = Qᵀ R per system: product Q of the Givens rotations, and triangle R
    rotation = torch.eye(length + 1, dtype=dtype, device=size.device).repeat(n_systems, 1, 1)
    triangle = size.new_zeros(n_systems, length + 1, length)
    steps = torch.where(active, length, 0)  # columns of each system
    used = 0
    for k in range(length):
        x, y = apply(*precondition(xs[k], ys[k]))
        column = size.new_zeros(n_systems, length + 1)
        for _ in range(2):  # the second pass removes rounding errors
            overlap = space.overlaps(xs[: k + 1], ys[: k + 1], x, y)
            column[:, : k + 1] += overlap
            part = space.combined(xs[: k + 1], ys[: k + 1], overlap)
            x, y = x - part[0], y - part[1]
        below = space.norm(x, y)
        column[:, k + 1] = below
        column = (rotation @ column[:, :, None])[:, :, 0]
        upper, lower = column[:, k].clone(), column[:, k + 1].clone()
        radius = torch.hypot(upper, lower)
        cosine = torch.where(radius > 0, upper / radius.clamp(min=tiny), 1.0)[:, None]
        sine = torch.where(radius > 0, lower / radius.clamp(min=tiny), 0.0)[:, None]
        first, second = rotation[:, k].clone(), rotation[:, k + 1].clone()
        rotation[:, k] = cosine * first + sine * second
        rotation[:, k + 1] = cosine * second - sine * first
        column[:, k], column[:, k + 1] = radius, 0.0
        triangle[:, :, k] = column
        used = k + 1
        left = size * rotation[:, k + 1, 0].abs()
        # the Krylov space is exhausted, or a value is not finite
        ended = (left <= 0.5 * target) | ~(below > epsilon * radius) | ~torch.isfinite(below)
        steps = torch.where(ended & (steps > used), used, steps)
        running = steps > used
        if not bool(running.any()):
            break
        inverse = torch.where(running, 1.0 / below.clamp(min=tiny), 0.0)
        xs[k + 1], ys[k + 1] = space.scaled(x, y, inverse)
    block = triangle[:, :used, :used]
    diagonal = block.diagonal(dim1=1, dim2=2)
    within = torch.arange(used, device=size.device)[None] < steps[:, None]
    within = within & (diagonal != 0)  # zero for directions in the null space
    identity = torch.eye(used, dtype=dtype, device=size.device)
    block = torch.where(within[:, None, :] & within[:, :, None], block, identity)
    right = torch.where(within, size[:, None] * rotation[:, :used, 0], 0.0)
    weights = torch.linalg.solve_triangular(block, right[:, :, None], upper=True)[:, :, 0]
    return precondition(*space.combined(xs[:used], ys[:used], weights)), used
