"""Family `split_charges`: charge flows along edges, E = E_SR + 1/2 p^T A p - F.P."""

from __future__ import annotations

import torch

from electret.models.backbone import construction_dtype
from electret.models.base import Density, Model, Structure, cartesian_dipoles
from electret.models.config import ModelConfig
from electret.models.families.charge_conservation import shift_to_total_charge
from electret.models.families.charge_flux import EdgeFlux, flowed, one_way, reference_charges
from electret.models.readouts import MultipoleReadout
from electret.models.start.statistics import Statistics

__all__ = ["SplitCharges"]


class SplitCharges(Model):
    """Charges q_i = q0_i + sum over edges into i of f, dipoles from W_t h^t.

    q0 are the charges of `config.charges` (0 without it), shifted uniformly by (Q - sum q0) / N, so that the
    total charge is exact whatever the flux. The polarisation P = sum q0 r + sum d + sum over pairs f r_edge
    follows every edge across periodic boundaries, so its changes do not depend on the choice of cell.
    """

    family = "split_charges"
    element_charges: torch.Tensor

    def __init__(self, config: ModelConfig, statistics: Statistics) -> None:
        super().__init__(config, statistics)
        self.max_l = config.electrostatics.max_l
        charges = reference_charges(config, statistics)
        self.register_buffer("element_charges", charges.to(self.dtype))
        with construction_dtype(self.dtype):
            self.flux = EdgeFlux(config, self.backbone.layer_irreps)
            if self.max_l > 0:
                self.readout = MultipoleReadout(self.backbone.layer_irreps, self.max_l)

    @property
    def honours(self) -> frozenset[str]:
        """Total charge and field."""
        return super().honours | {"total_charge", "external_field"}

    def density(self, structure: Structure, features: list[torch.Tensor]) -> Density:
        """Multipoles `[n_atoms, (max_l+1)^2]` and each atom's share of the polarisation, `[n_atoms, 3]`."""
        graph, (edges, vectors) = structure.graph, one_way(structure)
        reference = shift_to_total_charge(self.element_charges[structure.elements], graph)  # [n_atoms]
        flux = self.flux(features, edges, vectors).double()  # [n_pairs]
        charges = flowed(reference, edges, flux)
        multipoles = charges[:, None]
        if self.max_l > 0:
            multipoles = torch.cat([multipoles, self.readout(features)[:, 1:]], dim=1)
        moments = reference[:, None] * structure.positions + cartesian_dipoles(multipoles)
        halves = 0.5 * flux[:, None] * vectors  # of either end
        return Density(multipoles, moments.index_add(0, edges[0], halves).index_add(0, edges[1], halves))
