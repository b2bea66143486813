"""Charge that flows along edges, so that charges add up whatever the surroundings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from ase.data import chemical_symbols

from electret.models.base import Structure, per_element
from electret.models.config import ModelConfig
from electret.models.hosted import mace_radial, o3
from electret.models.readouts import MultipoleReadout, NodeReadout
from electret.models.start.statistics import Statistics

__all__ = ["EdgeFlux", "FluxDensity", "flowed", "one_way", "reference_charges"]


def reference_charges(config: ModelConfig, statistics: Statistics) -> torch.Tensor:
    """Charges of `config.charges` per element of the model, 0 without it, `[n_elements]` in e.

    Raises:
        InputError: a symbol that is none, or an element without a value.
    """
    charges = config.charges or {chemical_symbols[number]: 0.0 for number in statistics.elements}
    return torch.tensor(per_element(charges, statistics, "charges"), dtype=torch.float64)


def one_way(structure: Structure) -> tuple[torch.Tensor, torch.Tensor]:
    """One edge of each two of opposite directions, `[2, n_pairs]`, and its vectors `[n_pairs, 3]` Å.

    From the lower atom to the higher, and to those images of the atom itself whose first shift that is not
    zero is positive.
    """
    sender, receiver = structure.graph.edge_index
    forward = sender < receiver
    images = sender == receiver
    if bool(images.any()):
        signs = structure.graph.unit_shifts.sign()
        forward |= images & (signs @ signs.new_tensor([4.0, 2.0, 1.0]) > 0)  # the sign of the first
    index = forward.nonzero().squeeze(1)
    return structure.graph.edge_index[:, index], structure.edge_vectors[index]


def flowed(charges: torch.Tensor, edge_index: torch.Tensor, flux: torch.Tensor) -> torch.Tensor:
    """Charges `[n_atoms]` after a flux `[n_pairs]` from the senders to the receivers of `[2, n_pairs]`."""
    sender, receiver = edge_index
    return charges.index_add(0, receiver, flux).index_add(0, sender, flux, alpha=-1)


class EdgeFlux(torch.nn.Module):
    """Antisymmetric charge flux from sender to receiver of every edge, in e.

    f = c(r) [g(x_s, x_r, R) - g(x_r, x_s, R)], where x of either end holds sum_m h_lm Y_lm of the direction
    to the other end for every l, R(r) is the radial basis, and c the cutoff polynomial with two continuous
    derivatives at r_max. The reverse edge has -f by construction.
    """

    def __init__(self, config: ModelConfig, layer_irreps: Sequence[o3.Irreps]) -> None:
        super().__init__()
        backbone, split = config.backbone, config.split
        available = {irrep for irreps in layer_irreps for _, irrep in irreps}
        self.degrees = [l for l in range(backbone.max_ell + 1) if o3.Irrep(l, (-1) ** l) in available]
        self.channels = split.channels
        irreps = o3.Irreps([(split.channels, (l, (-1) ** l)) for l in self.degrees])
        self.projection = NodeReadout(layer_irreps, irreps, "the charge flux")
        self.radial = mace_radial.BesselBasis(r_max=backbone.r_max, num_basis=backbone.num_radial_basis)
        self.cutoff = mace_radial.PolynomialCutoff(r_max=backbone.r_max, p=backbone.num_cutoff_basis)
        ends = split.channels * len(self.degrees)
        self.near = torch.nn.Linear(ends, split.hidden)
        self.far = torch.nn.Linear(ends, split.hidden, bias=False)
        self.filter = torch.nn.Linear(backbone.num_radial_basis, split.hidden)
        self.out = torch.nn.Linear(split.hidden, 1, bias=False)

    def forward(
        self, features: list[torch.Tensor], edge_index: torch.Tensor, vectors: torch.Tensor
    ) -> torch.Tensor:
        """Flux `[n_edges]` for edges `[2, n_edges]` with vectors `[n_edges, 3]` from sender to receiver, in
        the dtype of the features."""
        sender, receiver = edge_index
        projected = self.projection(features)  # [n_atoms, channels * sum(2l+1)]
        vectors = vectors.to(projected.dtype)
        at_sender, at_receiver, start = [], [], 0
        for l in self.degrees:
            width = self.channels * (2 * l + 1)
            block = projected[:, start : start + width].reshape(-1, self.channels, 2 * l + 1)
            start += width
            if l == 0:
                at_sender.append(block[sender, :, 0])  # [n_edges, channels]
                at_receiver.append(block[receiver, :, 0])
                continue
            block = block.transpose(1, 2).contiguous()
            harmonics = o3.spherical_harmonics(l, vectors, normalize=True, normalization="norm")[:, :, None]
            at_sender.append((block[sender] * harmonics).sum(dim=1))
            at_receiver.append((-1) ** l * (block[receiver] * harmonics).sum(dim=1))
        x_sender, x_receiver = torch.cat(at_sender, dim=1), torch.cat(at_receiver, dim=1)
        lengths = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)  # [n_edges, 1]
        radial = self.filter(self.radial(lengths))
        forward = torch.nn.functional.silu(self.near(x_sender) + self.far(x_receiver))
        backward = torch.nn.functional.silu(self.near(x_receiver) + self.far(x_sender))
        return (self.out((forward - backward) * radial) * self.cutoff(lengths)).squeeze(1)


class FluxDensity(torch.nn.Module):
    """A density from the surroundings alone whose total charge is that of its elements.

    Charges are those of `config.charges` (0 without it) with the flux of all edges into the atom, so that
    they add up exactly; higher multipoles are linear in the features. A molecule beyond the cutoff of others
    is neutral by itself, as an insulator has to be: what is missing to the total charge of the system must
    come from atoms that respond to the potential.
    """

    element_charges: torch.Tensor

    def __init__(
        self, config: ModelConfig, statistics: Statistics, layer_irreps: Sequence[o3.Irreps]
    ) -> None:
        super().__init__()
        self.max_l = config.electrostatics.max_l
        self.register_buffer("element_charges", reference_charges(config, statistics))
        self.flux = EdgeFlux(config, layer_irreps)
        if self.max_l > 0:
            self.readout = MultipoleReadout(layer_irreps, self.max_l)

    def forward(self, structure: Structure, features: list[torch.Tensor]) -> torch.Tensor:
        """`[n_atoms, (max_l+1)^2]` in e Å^l."""
        charges, (edges, vectors) = self.element_charges[structure.elements], one_way(structure)
        charges = flowed(charges, edges, self.flux(features, edges, vectors))
        if self.max_l == 0:
            return charges[:, None]
        return torch.cat([charges[:, None], self.readout(features)[:, 1:]], dim=1)
