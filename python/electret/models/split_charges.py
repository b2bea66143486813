"""Family `split_charges`: charge flows along edges, E = E_SR + 1/2 p^T A p - F.P."""

from __future__ import annotations

import torch
from ase.data import chemical_symbols
from e3nn import o3
from mace.modules.radial import BesselBasis, PolynomialCutoff

from electret.models.backbone import construction_dtype
from electret.models.base import Density, Model, Structure, cartesian_dipoles, per_element
from electret.models.charge_conservation import shift_to_total_charge
from electret.models.config import ModelConfig
from electret.models.readouts import MultipoleReadout, NodeReadout
from electret.models.statistics import Statistics

__all__ = ["EdgeFlux", "SplitCharges"]


class EdgeFlux(torch.nn.Module):
    """Antisymmetric charge flux from sender to receiver of every edge, in e.

    f = c(r) [g(x_s, x_r, R) - g(x_r, x_s, R)], where x of either end holds sum_m h_lm Y_lm of the direction
    to the other end for every l, R(r) is the radial basis, and c the cutoff polynomial with two continuous
    derivatives at r_max. The reverse edge has -f by construction.
    """

    def __init__(self, config: ModelConfig, layer_irreps: list[o3.Irreps]) -> None:
        super().__init__()
        backbone, split = config.backbone, config.split
        available = {irrep for irreps in layer_irreps for _, irrep in irreps}
        self.degrees = [l for l in range(backbone.max_ell + 1) if o3.Irrep(l, (-1) ** l) in available]
        self.channels = split.channels
        irreps = o3.Irreps([(split.channels, (l, (-1) ** l)) for l in self.degrees])
        self.projection = NodeReadout(layer_irreps, irreps, "the charge flux")
        self.radial = BesselBasis(r_max=backbone.r_max, num_basis=backbone.num_radial_basis)
        self.cutoff = PolynomialCutoff(r_max=backbone.r_max, p=backbone.num_cutoff_basis)
        ends = split.channels * len(self.degrees)
        self.near = torch.nn.Linear(ends, split.hidden)
        self.far = torch.nn.Linear(ends, split.hidden, bias=False)
        self.filter = torch.nn.Linear(backbone.num_radial_basis, split.hidden)
        self.out = torch.nn.Linear(split.hidden, 1, bias=False)

    def forward(
        self, features: list[torch.Tensor], edge_index: torch.Tensor, vectors: torch.Tensor
    ) -> torch.Tensor:
        """Flux `[n_edges]` for edges `[2, n_edges]` with vectors `[n_edges, 3]` from sender to receiver."""
        sender, receiver = edge_index
        projected = self.projection(features)  # [n_atoms, channels * sum(2l+1)]
        at_sender, at_receiver, start = [], [], 0
        for l in self.degrees:
            width = self.channels * (2 * l + 1)
            block = projected[:, start : start + width].reshape(-1, self.channels, 2 * l + 1)
            start += width
            harmonics = o3.spherical_harmonics(l, vectors, normalize=True, normalization="norm")[:, :, None]
            at_sender.append((block[sender] @ harmonics).squeeze(2))  # [n_edges, channels]
            at_receiver.append((-1) ** l * (block[receiver] @ harmonics).squeeze(2))
        x_sender, x_receiver = torch.cat(at_sender, dim=1), torch.cat(at_receiver, dim=1)
        lengths = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)  # [n_edges, 1]
        radial = self.filter(self.radial(lengths))
        forward = torch.nn.functional.silu(self.near(x_sender) + self.far(x_receiver))
        backward = torch.nn.functional.silu(self.near(x_receiver) + self.far(x_sender))
        return (self.out((forward - backward) * radial) * self.cutoff(lengths)).squeeze(1)


class SplitCharges(Model):
    """Charges q_i = q0_i + sum over edges into i of f, dipoles from W_t h^t.

    q0 are the charges of `config.charges` (0 without it), shifted uniformly by (Q - sum q0) / N, so that the
    total charge is exact whatever the flux. The polarisation P = sum q0 r + sum d + sum over pairs f r_edge
    follows every edge across periodic boundaries, so its changes do not depend on the choice of cell.
    """

    family = "split_charges"
    field_couples_to_polarization = True
    element_charges: torch.Tensor

    def __init__(self, config: ModelConfig, statistics: Statistics) -> None:
        super().__init__(config, statistics)
        self.max_l = config.electrostatics.max_l
        charges = config.charges or {chemical_symbols[number]: 0.0 for number in statistics.elements}
        values = per_element(charges, statistics, "charges")
        self.register_buffer("element_charges", torch.tensor(values, dtype=self.dtype))
        with construction_dtype(self.dtype):
            self.flux = EdgeFlux(config, self.backbone.layer_irreps)
            if self.max_l > 0:
                self.readout = MultipoleReadout(self.backbone.layer_irreps, self.max_l)

    @property
    def honours(self) -> frozenset[str]:
        """Total charge and field."""
        return frozenset({"total_charge", "external_field"})

    def density(self, structure: Structure, features: list[torch.Tensor]) -> Density:
        """Multipoles `[n_atoms, (max_l+1)^2]` and polarisation `[n_systems, 3]`."""
        graph, vectors = structure.graph, structure.edge_vectors
        reference = shift_to_total_charge(self.element_charges[structure.elements], graph)  # [n_atoms]
        flux = self.flux(features, graph.edge_index, vectors)  # [n_edges]
        sender, receiver = graph.edge_index
        charges = reference.index_add(0, receiver, flux)
        multipoles = charges[:, None]
        if self.max_l > 0:
            multipoles = torch.cat([multipoles, self.readout(features)[:, 1:]], dim=1)
        moments = reference[:, None] * structure.positions + cartesian_dipoles(multipoles)
        polarization = moments.new_zeros(graph.n_systems, 3).index_add(0, graph.batch, moments)
        # Every pair is there as two edges with opposite flux and opposite vector.
        transfers = flux[:, None] * vectors / 2
        return Density(multipoles, polarization.index_add(0, graph.batch[sender], transfers))
