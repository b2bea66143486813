"""The longest waves of the interaction at atoms on a device, to build approximate inverses from."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from electret import _native
from electret.kernels.arguments import Receivers, Systems

__all__ = ["Waves", "find_waves"]


class Waves(NamedTuple):
    """M ≈ Σ_wave receiver · sourceᵀ at small k, in each system apart; n_waves counts two for each pair ±k."""

    source: Tensor  # [n_atoms, n_lm, n_waves]
    receiver: Tensor  # [n_atoms, n_rows, n_waves]


def find_waves(
    systems: Systems, sigma: Tensor, counts: list[int], max_l: int, receivers: Receivers | None
) -> Waves | None:
    """Waves of the systems that are periodic along every axis; those of the others are zero.

    Args:
        systems: the atoms. The CPU reads cell and pbc, and waits for them.
        sigma: `[n_atoms]` in Å.
        counts: atoms of each system.
        max_l: highest order of the sources.
        receivers: of the features; None for the potential of the sources.

    Returns:
        None where no system has any.
    """
    positions, batch = systems.positions, systems.batch
    highest = max_l if receivers is None else max(max_l, receivers.max_l)
    unknowns = (max_l + 1) ** 2
    cells, axes = systems.cell.cpu().numpy(), systems.pbc.cpu().numpy()
    tables = [
        _native.longest_waves(cells[system : system + 1], size * unknowns, highest)
        if periodic.all()
        else None
        for system, (periodic, size) in enumerate(zip(axes, counts, strict=True))
    ]
    most = max((len(table[0]) for table in tables if table is not None), default=0)
    if most == 0:
        return None
    vectors = np.zeros((len(tables), most, 3))
    factors = np.zeros((len(tables), most, (highest + 1) ** 2))
    for system, table in enumerate(tables):
        if table is not None:
            vectors[system, : len(table[0])], factors[system, : len(table[0])] = table
    k = torch.from_numpy(vectors).to(positions)[batch]  # [n_atoms, waves, 3]
    angle = (k * positions[:, None]).sum(dim=2)
    square = k.square().sum(dim=2)
    own = torch.from_numpy(factors).to(positions)[batch].transpose(1, 2)  # [n_atoms, lm, waves]
    phases = _phases(angle, highest)  # [n_atoms, lm, waves, 2]
    pairs = own[:, :, :, None] * phases
    source = _decayed(pairs[:, : (max_l + 1) ** 2], square, sigma)
    if receivers is None:
        return Waves(source, source)
    norms = _native.receiver_factors(receivers._replace(widths=receivers.widths.cpu().numpy()))
    parts = pairs[:, : receivers.n_lm]
    receiver = torch.cat(
        [_decayed(parts, square, width.expand(len(positions))) for width in receivers.widths], dim=1
    )
    return Waves(source, receiver * torch.from_numpy(norms).to(positions)[:, None])


def _phases(angle: Tensor, max_l: int) -> Tensor:
    """Real and imaginary part of e^{-iθ}, of i e^{-iθ} for odd l: `[n_atoms, n_lm, waves, 2]`."""
    cosine, sine = angle.cos(), angle.sin()
    even, odd = torch.stack([cosine, -sine], dim=2), torch.stack([sine, cosine], dim=2)
    return torch.stack([odd if l % 2 else even for l in range(max_l + 1) for _ in range(2 * l + 1)], dim=1)


def _decayed(pairs: Tensor, square: Tensor, width: Tensor) -> Tensor:
    """Waves damped by Gaussians of a width, `[n_atoms, n_lm, 2 waves]`."""
    decay = torch.exp(-0.5 * square * width.square()[:, None])  # [n_atoms, waves]
    return (pairs * decay[:, None, :, None]).flatten(start_dim=2)
