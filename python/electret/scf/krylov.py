"""GMRES for a batch of systems at once, over an operator that is known through its products."""

from __future__ import annotations

from collections.abc import Callable

import torch

from electret.scf.problem import Systems

__all__ = ["gmres"]

Product = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class _Vectors:
    """Inner products and updates of pairs (x [n_atoms, n_lm], y [n_systems]) per system."""

    def __init__(self, systems: Systems) -> None:
        self.systems = systems

    def dot(self, a: tuple[torch.Tensor, torch.Tensor], b: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return self.systems.sum((a[0] * b[0]).sum(dim=1)) + a[1] * b[1]

    def scaled(
        self, a: tuple[torch.Tensor, torch.Tensor], factor: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return a[0] * factor[self.systems.batch][:, None], a[1] * factor


def gmres(
    apply: Product,
    multipoles: torch.Tensor,
    condition: torch.Tensor,
    systems: Systems,
    tolerance: float = 1e-12,
    max_iterations: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Solution of K (x, y) = (multipoles, condition) in every system, each with its own Krylov space.

    Args:
        apply: the product with K; must keep systems apart.
        multipoles: `[n_atoms, n_lm]`.
        condition: `[n_systems]`.
        systems: of the batch.
        tolerance: relative residual at which a system counts as solved.
        max_iterations: None takes the number of unknowns of the largest system, at most 300.

    Returns:
        x `[n_atoms, n_lm]`, y `[n_systems]`, both zero where not converged, and `converged [n_systems]`.
        Source: Saad and Schultz, SIAM J. Sci. Stat. Comput. 7, 856 (1986).
    """
    space = _Vectors(systems)
    rhs = (multipoles, condition)
    norm = space.dot(rhs, rhs).sqrt()
    unknowns = int(torch.bincount(systems.batch, minlength=systems.n_systems).max()) * multipoles.shape[1] + 1
    limit = min(unknowns, 300) if max_iterations is None else max_iterations
    tiny = torch.finfo(norm.dtype).tiny
    basis = [space.scaled(rhs, 1.0 / norm.clamp(min=tiny))]
    # R of the QR factorisation of the Hessenberg matrix, and the rotated right-hand side, per system
    triangle = norm.new_zeros(systems.n_systems, limit + 1, limit)
    rotations: list[tuple[torch.Tensor, torch.Tensor]] = []
    reduced = norm.new_zeros(systems.n_systems, limit + 1)
    reduced[:, 0] = norm
    solved_after = torch.where(norm <= tiny, 0, limit + 1)
    for step in range(limit):
        vector = apply(*basis[step])
        column = norm.new_zeros(systems.n_systems, limit + 1)
        for _ in range(2):  # a second pass keeps the basis orthogonal to rounding
            for index, earlier in enumerate(basis):
                overlap = space.dot(earlier, vector)
                column[:, index] += overlap
                part = space.scaled(earlier, overlap)
                vector = (vector[0] - part[0], vector[1] - part[1])
        length = space.dot(vector, vector).sqrt()
        column[:, step + 1] = length
        # a vanishing vector means that the space is exhausted: the system is solved, its basis ends here
        inverse = torch.where(length > 1e-14 * norm.clamp(min=tiny), 1.0 / length.clamp(min=tiny), 0.0)
        basis.append(space.scaled(vector, inverse))
        for index, (cosine, sine) in enumerate(rotations):
            upper, lower = column[:, index].clone(), column[:, index + 1].clone()
            column[:, index] = cosine * upper + sine * lower
            column[:, index + 1] = cosine * lower - sine * upper
        radius = torch.hypot(column[:, step], column[:, step + 1])
        safe = radius.clamp(min=tiny)
        cosine = torch.where(radius > 0, column[:, step] / safe, 1.0)
        sine = torch.where(radius > 0, column[:, step + 1] / safe, 0.0)
        rotations.append((cosine, sine))
        column[:, step], column[:, step + 1] = radius, 0.0
        triangle[:, :, step] = column
        reduced[:, step + 1] = -sine * reduced[:, step]
        reduced[:, step] = cosine * reduced[:, step]
        small = (reduced[:, step + 1].abs() <= tolerance * norm) & (radius > 0)
        solved_after = torch.where(small & (solved_after > limit), step + 1, solved_after)
        if bool((solved_after <= limit).all()):
            break
    n_steps = len(rotations)
    converged = solved_after <= limit
    # Systems solved earlier use their own number of basis vectors: the rest of the triangle becomes identity.
    used = (torch.arange(n_steps)[None] < solved_after[:, None]) & converged[:, None]  # [n_systems, n_steps]
    block = triangle[:, :n_steps, :n_steps]
    block = torch.where(used[:, None, :] & used[:, :, None], block, torch.eye(n_steps, dtype=block.dtype))
    right = torch.where(used, reduced[:, :n_steps], 0.0)
    weights = torch.linalg.solve_triangular(block, right[:, :, None], upper=True)[:, :, 0]
    x, y = torch.zeros_like(multipoles), torch.zeros_like(condition)
    for step in range(n_steps):
        part = space.scaled(basis[step], weights[:, step])
        x, y = x + part[0], y + part[1]
    finite = torch.isfinite(weights).all(dim=1) if n_steps else torch.ones_like(converged)
    good = converged & finite
    return x * good[systems.batch][:, None], y * good, good
