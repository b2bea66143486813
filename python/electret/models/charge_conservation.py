"""Makes predicted charges add up to the requested total charge."""

from __future__ import annotations

import torch

from electret.graph import Graph

__all__ = ["shift_to_total_charge"]


def shift_to_total_charge(charges: torch.Tensor, graph: Graph) -> torch.Tensor:
    """Charges `[n_atoms]` shifted by one amount per system, q_i + (Q - sum q) / N, in e."""
    total = charges.new_zeros(graph.n_systems).index_add(0, graph.batch, charges)
    shift = (graph.total_charge - total) / graph.n_atoms_per_system  # [n_systems]
    return charges + shift[graph.batch]
