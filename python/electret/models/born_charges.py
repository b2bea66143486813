"""Born effective charges of densities that are functions of the surroundings of each atom."""

from __future__ import annotations

import itertools
import math

import torch

from electret.graph import Graph

__all__ = ["local_born_charges"]

REACH, ERROR = 2.0, 0.01
"""Distance in Å up to which charges that an atom affects are taken to have their distance, and its relative
error."""
_MOST_HARMONICS = 6


def local_born_charges(
    charges: torch.Tensor,
    local: torch.Tensor,
    dipoles: torch.Tensor,
    positions: torch.Tensor,
    graph: Graph,
    training: bool,
    n_harmonics: int | None = None,
) -> torch.Tensor:
    """dP_a/dR_ib `[n_atoms, 3, 3]` in e of charges q and dipoles d that are functions of their surroundings.

    Along open axes P is the dipole. Along periodic ones it is that relative to atom i, so that no image is
    preferred: q_i + sum_j dq_j/dR_i (r_j - r_i) + sum_j dd_j/dR_i. With x = h phi/(2 pi) the distance along
    an axis of planes h apart, r_j - r_i is the sum of sines that equals x up to O(phi^(2m+1)),

        phi = sum_n 2 (-1)^(n+1) (m!)² / (n (m-n)! (m+n)!) sin(n phi),  n = 1 ... m,

    which takes two gradients for each n, whatever the number of atoms. m = 1 is the formula of MACE-LES (P.
    Zhong, D. Kim, D. S. King, B. Cheng, arXiv:2504.05169, Eq. 8); the default has an error of 1 % at 2 Å.

    Args:
        charges: `[n_atoms]` e, of which the derivative along open axes is taken.
        local: `[n_atoms]` e, of equal value, of which that along periodic axes is taken: without shifts by
            which all charges of a system answer the motion of one atom.
        dipoles: Cartesian, `[n_atoms, 3]` e Å.
        positions: `[n_atoms, 3]` Å, float64.
        graph: the systems.
        training: keep the graph of the result.
        n_harmonics: m; None takes it from the cells.
    """

    def gradient(value: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(
            value.sum(), positions, create_graph=training, retain_graph=True, materialize_grads=True
        )[0]

    batch, pbc = graph.batch, graph.pbc
    lattice = graph.cell * pbc[:, :, None]  # zero rows along open axes
    inverse = torch.linalg.pinv(lattice)
    fractions = torch.einsum("ai,aik->ak", positions, inverse[batch])
    along_open = positions - torch.einsum("ak,aki->ai", fractions, lattice[batch])
    moments = charges[:, None] * along_open + dipoles
    found = torch.stack([gradient(moments[:, axis]) for axis in range(3)], dim=1)
    for axis in torch.nonzero(pbc.any(dim=0)).flatten().tolist():
        phase = 2.0 * math.pi * fractions[:, axis]
        heights = 1.0 / torch.linalg.vector_norm(inverse[:, :, axis], dim=1)  # infinite along open axes
        rows = [_sines(n_harmonics or _harmonics(height)) for height in heights.tolist()]
        padded = itertools.zip_longest(*rows, fillvalue=0.0)  # [m, n_systems]
        weights = torch.tensor(list(padded), dtype=phase.dtype, device=phase.device)
        along = torch.zeros_like(positions)
        for n, weight in enumerate(weights[:, batch, None] / (2.0 * math.pi), start=1):
            sine, cosine = (gradient(local * function(n * phase)) for function in (torch.sin, torch.cos))
            along = along + weight * (sine * (n * phase).cos()[:, None] - cosine * (n * phase).sin()[:, None])
        found = found + lattice[batch, axis, :, None] * along[:, None, :]
    return found


def _harmonics(height: float) -> int:
    """Number of sines that give distances up to `REACH` within `ERROR` where planes are `height` Å apart."""
    phase = 2.0 * math.pi * REACH / height
    for m in range(1, _MOST_HARMONICS):
        if math.factorial(m) ** 2 / math.factorial(2 * m + 1) * phase ** (2 * m) < ERROR:
            return m
    return _MOST_HARMONICS


def _sines(m: int) -> list[float]:
    """Weights of sin(n phi), n = 1 ... m, that make their sum equal phi up to O(phi^(2m+1))."""
    own = math.factorial(m) ** 2
    return [
        2.0 * (-1) ** (n + 1) * own / (n * math.factorial(m - n) * math.factorial(m + n))
        for n in range(1, m + 1)
    ]
