"""Family `latent_ewald` (LES): latent multipoles learned from energies and forces, E = E_SR + 1/2 p^T A p."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from electret.errors import InputError
from electret.models.backbone import GATES, Backbone, construction_dtype
from electret.models.base import Density, Model, Structure, cartesian_dipoles
from electret.models.born_charges import local_born_charges
from electret.models.config import ModelConfig
from electret.models.families.charge_flux import FluxDensity
from electret.models.hosted import mace_blocks
from electret.models.readouts import MultipoleReadout
from electret.models.start.statistics import Statistics
from electret.scf.electrostatics import Electrostatics
from electret.torch.per_system import sum_over_atoms

__all__ = ["LatentEwald"]


class LatentEwald(Model):
    """Charges (and dipoles, with `electrostatics.max_l = 1`) that no label constrains.

    They are not physical charges: the energy defines them up to sign and, in a screening medium, up to a
    factor, so they couple to no field, have no total charge, and are given as `latent_multipoles`.
    Source: B. Cheng, npj Comput. Mater. 11, 80 (2025).

    With `latent_charges = "free"`, as published, the charges of a fragment add up to any number, so that two
    neutral fragments far apart have the energy K Q_A Q_B / r of those sums. With `"flux"` charges flow along
    edges: whatever is beyond the cutoff of everything else is neutral.

    With `latent.readout = "mace"` and `latent.self_interaction` as in a file of MACE-LES, the energy is that
    of MACE-LES (B. Cheng et al., arXiv:2508.14302) with exact sums in place of its cutoff of k-vectors.
    """

    family = "latent_ewald"

    def __init__(self, config: ModelConfig, statistics: Statistics) -> None:
        super().__init__(config, statistics)
        with construction_dtype(self.dtype):
            irreps = self.backbone.layer_irreps
            self.flux: FluxDensity | None = None
            if config.latent_charges == "flux":
                self.flux = FluxDensity(config, statistics, irreps).to(self.dtype)
            elif config.latent.readout == "mace":
                self.readout: torch.nn.Module = EnergyReadout(self.backbone)
            else:
                self.readout = MultipoleReadout(irreps, config.electrostatics.max_l)

    def density(self, structure: Structure, features: list[torch.Tensor]) -> Density:
        """Latent multipoles `[n_atoms, (max_l+1)^2]`."""
        multipoles = self.readout(features) if self.flux is None else self.flux(structure, features)
        return Density(multipoles, local_charges=multipoles[:, 0])

    def electrostatics_of(self, structure: Structure) -> Electrostatics:
        """The operators between density and potential of a batch."""
        found = super().electrostatics_of(structure)
        own = self.config.latent.self_interaction
        return replace(found, options=found.options._replace(self_interaction=own))

    @property
    def available_properties(self) -> frozenset[str]:
        """Names that `properties` of a call may have."""
        return frozenset({"energies", "born_effective_charges"})

    def born_charges(
        self, structure: Structure, multipoles: torch.Tensor, local: torch.Tensor, training: bool
    ) -> torch.Tensor:
        """dP_a/dR_ib `[n_atoms, 3, 3]` e of the latent multipoles, up to the sign of all of them."""
        graph, options = structure.graph, self.config.latent
        if options.remove_mean:
            total = sum_over_atoms(local, graph.batch, graph.n_systems)
            local = local - (total / graph.n_atoms_per_system)[graph.batch]
        dipoles = cartesian_dipoles(multipoles)
        n_harmonics = 1 if options.readout == "mace" else None
        found = local_born_charges(local, local, dipoles, structure.positions, graph, training, n_harmonics)
        return found * math.sqrt(options.epsilon_factor)


class EnergyReadout(torch.nn.Module):
    """Charges `[n_atoms, 1]` by readouts of the kind and size with which the hosted MACE reads energies.

    Raises:
        InputError: a readout other than MACE's linear and nonlinear ones.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.head_index = backbone.head_index
        self.blocks = torch.nn.ModuleList()
        for readout in backbone.mace.readouts:
            name, block = type(readout).__name__, readout
            if name == "LinearReadoutBlock":
                block = mace_blocks.LinearReadoutBlock(readout.linear.irreps_in, readout.linear.irreps_out)
                last: Any = block.linear
            elif name == "NonLinearReadoutBlock":
                block = mace_blocks.NonLinearReadoutBlock(
                    readout.linear_1.irreps_in,
                    readout.hidden_irreps,
                    GATES[backbone.config.gate],
                    readout.linear_2.irreps_out,
                    readout.num_heads,
                )
                last = block.linear_2
            else:
                raise InputError(
                    f"latent.readout = 'mace' has no counterpart of backbone.readout = {name!r}; use linear"
                )
            with torch.no_grad():
                last.weight.mul_(MultipoleReadout.INITIAL_SCALE)
            self.blocks.append(block)

    def forward(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """`[n_atoms, 1]` in e."""
        layers = features[-len(self.blocks) :]
        heads = torch.full((len(layers[0]),), self.head_index, device=layers[0].device)
        values = [
            block(layer, heads)[:, self.head_index] for block, layer in zip(self.blocks, layers, strict=True)
        ]
        return torch.stack(values).sum(dim=0)[:, None]
