"""Charge that flows along edges, so that charges add up whatever the surroundings, and what drives it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from ase.data import chemical_symbols

from electret.models.base import Structure, per_element
from electret.models.config import ModelConfig
from electret.models.hosted import mace_radial, o3
from electret.models.readouts import MultipoleReadout, NodeReadout, ScalarReadout
from electret.models.start.elements import conducting, polarizabilities
from electret.models.start.statistics import Statistics
from electret.scf.problem import Batch

__all__ = [
    "EdgeFlux",
    "FlowDensity",
    "FluxDensity",
    "flowed",
    "flux_density",
    "one_way",
    "placement",
    "reference_charges",
]

Parameters = dict[str, torch.Tensor]

DECAY = 0.6
"""Length over which conductances of a fresh model fall by e, Å."""

INSULATING = 0.5
"""Conductance of a fresh model between insulators, extrapolated to no distance, e/V: some 0.05 in a bond,
which is a permittivity of 2 of an oxide, and a polarisability of `FULL` e·Å²/V of an atom."""

FULL = 0.1
"""Labelled polarisability of an atom, e·Å²/V, below which conductances start smaller in proportion."""

CONDUCTING = 1000.0
"""Conductance between conductors relative to that between insulators: 4 e/V at 2.9 Å."""

SMALLEST_TOTAL = 1e-3
"""Sum of the shares in the charge of a system below which they are evened out."""

LARGEST_LOGARITHM = 6.0
"""Of the conductance in e/V before its cutoff; a conductor is ideal to some per cent from 5 e/V on."""


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

    def __init__(
        self, config: ModelConfig, layer_irreps: Sequence[o3.Irreps], conducts: bool = False
    ) -> None:
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
        self.conductance = torch.nn.Linear(split.hidden, 1, bias=False) if conducts else None

    def forward(
        self, features: list[torch.Tensor], edge_index: torch.Tensor, vectors: torch.Tensor
    ) -> torch.Tensor:
        """Flux `[n_edges]` for edges `[2, n_edges]` with vectors `[n_edges, 3]` from sender to receiver, in
        the dtype of the features."""
        forward, backward, radial, lengths = self._hidden(features, edge_index, vectors)
        return (self.out((forward - backward) * radial) * self.cutoff(lengths)).squeeze(1)

    def with_conductance(
        self,
        features: list[torch.Tensor],
        edge_index: torch.Tensor,
        vectors: torch.Tensor,
        logarithm: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Flux, and conductance c(r) exp(l + g(x_s, x_r, R) + g(x_r, x_s, R) - r / `DECAY`) with the
        logarithm l `[n_edges]` of its scale; both `[n_edges]`, the latter in e/V."""
        assert self.conductance is not None
        forward, backward, radial, lengths = self._hidden(features, edge_index, vectors)
        cutoff = self.cutoff(lengths)
        flux = (self.out((forward - backward) * radial) * cutoff).squeeze(1)
        own = self.conductance((forward + backward) * radial) + logarithm[:, None] - lengths / DECAY
        # rounding makes the polynomial negative beside the cutoff
        return flux, (torch.exp(own.clamp(max=LARGEST_LOGARITHM)) * cutoff.clamp(min=0.0)).squeeze(1)

    def _hidden(
        self, features: list[torch.Tensor], edge_index: torch.Tensor, vectors: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Hidden layer seen from the sender and from the receiver, radial filter, and lengths."""
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
        return forward, backward, radial, lengths


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
        edges, vectors = one_way(structure)
        return self._density(structure, features, edges, self.flux(features, edges, vectors))

    def parameters_of(self, name: str, structure: Structure, features: list[torch.Tensor]) -> Parameters:
        """The density under `name`."""
        return {name: self(structure, features)}

    def _density(
        self,
        structure: Structure,
        features: list[torch.Tensor],
        edges: torch.Tensor,
        flux: torch.Tensor,
    ) -> torch.Tensor:
        charges = flowed(self.element_charges[structure.elements], edges, flux)
        if self.max_l == 0:
            return charges[:, None]
        return torch.cat([charges[:, None], self.readout(features)[:, 1:]], dim=1)


class FlowDensity(FluxDensity):
    """A `FluxDensity` whose charges flow on in a potential (`electret.scf.flow`), and the placement of a
    total charge that is not that of the elements."""

    def __init__(
        self, config: ModelConfig, statistics: Statistics, layer_irreps: Sequence[o3.Irreps]
    ) -> None:
        super().__init__(config, statistics, layer_irreps)
        self.flux = EdgeFlux(config, layer_irreps, conducts=True)
        self.score = ScalarReadout(layer_irreps, 1, config.split.hidden, "the placement of charge")
        self.score_bias = torch.nn.Parameter(torch.ones(len(statistics.elements)))
        insulating = torch.ones(len(statistics.elements), dtype=torch.float64)
        if statistics.polarizability is not None:
            insulating = (polarizabilities(statistics) / FULL).clamp(max=1.0)
        scale = INSULATING * (insulating + CONDUCTING * conducting(statistics))
        self.log_conductance = torch.nn.Parameter(0.5 * torch.log(scale))

    def parameters_of(self, name: str, structure: Structure, features: list[torch.Tensor]) -> Parameters:
        """The density under `name`, its charges as `resting`, and `edges [2, n_pairs]`, `conductance
        [n_pairs]` e/V, `flux [n_pairs]` e, `crossed [n_pairs, 3]` Å (lattice vector that an edge crosses) and
        `placement [n_atoms]`."""
        edges, vectors = one_way(structure)
        sender, receiver = edges
        logarithm = self.log_conductance[structure.elements]
        flux, conductance = self.flux.with_conductance(
            features, edges, vectors, logarithm[sender] + logarithm[receiver]
        )
        density = self._density(structure, features, edges, flux)
        graph = structure.graph
        scores = self.score(features)[:, 0] + self.score_bias[structure.elements]
        return {
            name: density,
            "resting": density[:, 0],
            "edges": edges,
            "conductance": conductance,
            "flux": flux,
            "crossed": vectors - (structure.positions[receiver] - structure.positions[sender]),
            "placement": placement(scores, Batch(graph.batch, graph.n_systems)),
        }


def flux_density(
    config: ModelConfig, statistics: Statistics, layer_irreps: Sequence[o3.Irreps], flow: bool
) -> FluxDensity:
    """The density without a potential, with or without a flow in one."""
    kind = FlowDensity if flow else FluxDensity
    return kind(config, statistics, layer_irreps)


def placement(scores: torch.Tensor, systems: Batch) -> torch.Tensor:
    """Shares w_i = a_i / sum_j a_j, a = relu(x)², of the atoms in the charge of their system.

    An atom whose score x is not positive has none, beside any number of others: charge does not leak with the
    size of the cell, as by a softmax. Where no score is positive all have the same share.

    Args:
        scores: x `[n_atoms]`.
        systems: of the batch.
    """
    shares = torch.relu(scores).square()
    total = systems.sum(shares)
    floor = SMALLEST_TOTAL * torch.exp(-total / SMALLEST_TOTAL)  # zero beside any score of size
    shares = shares + systems.at_atoms(floor)
    return shares / systems.at_atoms(systems.sum(shares))
