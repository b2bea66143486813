"""Makes predicted charges add up to the requested total charge."""

from __future__ import annotations

import torch

from electret.graph import Graph
from electret.torch.per_system import at_atoms, sum_over_atoms

__all__ = ["shift_to_total_charge"]


def shift_to_total_charge(charges: torch.Tensor, graph: Graph) -> torch.Tensor:
    """Charges `[n_atoms]` shifted by one amount per system, q_i + (Q - sum q) / N, in e; float64, as
    positions are, so that derivatives of dipoles do not depend on the origin."""
    charges = charges.double()
    total = sum_over_atoms(charges, graph.batch, graph.n_systems)
    shift = (graph.total_charge - total) / graph.n_atoms_per_system  # [n_systems]
    return charges + at_atoms(shift, graph.batch)
