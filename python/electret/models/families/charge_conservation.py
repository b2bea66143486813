"""Charges that add up to the requested total charge by one common shift."""

from __future__ import annotations

import torch

from electret.graph import Graph
from electret.models.base import Model
from electret.torch.per_system import at_atoms, sum_over_atoms

__all__ = ["ShiftedCharges", "shift_to_total_charge"]


def shift_to_total_charge(charges: torch.Tensor, graph: Graph) -> torch.Tensor:
    """Charges `[n_atoms]` shifted by one amount per system, q_i + (Q - sum q) / N, in e; float64, as
    positions are, so that derivatives of dipoles do not depend on the origin."""
    charges = charges.double()
    total = sum_over_atoms(charges, graph.batch, graph.n_systems)
    shift = (graph.total_charge - total) / graph.n_atoms_per_system  # [n_systems]
    return charges + at_atoms(shift, graph.batch)


class ShiftedCharges(Model):
    """Base of the families with the option `conserve_charge`."""

    @property
    def honours(self) -> frozenset[str]:
        """The field always; the total charge with `conserve_charge`."""
        return super().honours | {"external_field"} | ({"total_charge"} - self.predicts)

    @property
    def predicts(self) -> frozenset[str]:
        """The total charge without `conserve_charge`."""
        return frozenset() if self.config.conserve_charge else frozenset({"total_charge"})

    def conserved(self, charges: torch.Tensor, graph: Graph) -> torch.Tensor:
        """Charges `[n_atoms]` in e, shifted with `conserve_charge`."""
        return shift_to_total_charge(charges, graph) if self.config.conserve_charge else charges
