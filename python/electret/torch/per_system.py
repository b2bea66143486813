"""Sums over the atoms of each system of a batch, and values of systems at their atoms, as torch tensors."""

from __future__ import annotations

import torch

__all__ = ["at_atoms", "sum_over_atoms"]

SERIAL = 32768
"""Numbers up to which torch adds in one thread; beyond, the order depends on the number of threads."""


def sum_over_atoms(values: torch.Tensor, batch: torch.Tensor, n_systems: int) -> torch.Tensor:
    """Sum over the atoms of each system, `[n_systems, ...]`.

    Args:
        values: `[n_atoms, ...]`.
        batch: system of each atom, `[n_atoms]` int64.
        n_systems: of the batch.
    """
    if n_systems == 1 and values.numel() <= SERIAL:
        return values.sum(dim=0, keepdim=True)
    return values.new_zeros((n_systems, *values.shape[1:])).index_add(0, batch, values)


def at_atoms(values: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
    """The value of each atom's system, `[n_atoms, ...]`; of a single system a view of it.

    Args:
        values: `[n_systems, ...]`.
        batch: system of each atom, `[n_atoms]` int64.
    """
    if values.shape[0] == 1:
        return values.expand(batch.shape[0], *values.shape[1:])
    return values[batch]
