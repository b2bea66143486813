"""Family `latent_ewald` (LES): latent multipoles learned from energies and forces, E = E_SR + 1/2 p^T A p."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from electret.errors import InputError
from electret.models.backbone import GATES, Backbone, construction_dtype
from electret.models.base import Call, Density, Model, Structure, cartesian_dipoles
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
        return Density(self.readout(features) if self.flux is None else self.flux(structure, features))

    def electrostatics_of(self, structure: Structure) -> Electrostatics:
        """The operators between density and potential of a batch."""
        found = super().electrostatics_of(structure)
        own = self.config.latent.self_interaction
        return replace(found, options=found.options._replace(self_interaction=own))

    @property
    def available_properties(self) -> frozenset[str]:
        """Names that `properties` of a call may have."""
        return frozenset({"energies", "born_effective_charges"})

    def _energies(self, structure: Structure, call: Call) -> dict[str, torch.Tensor]:
        result = super()._energies(structure, call)
        if "born_effective_charges" in call.properties:
            result["born_effective_charges"] = self._born_charges(
                structure, result["latent_multipoles"], call
            )
        return result

    def _born_charges(self, structure: Structure, multipoles: torch.Tensor, call: Call) -> torch.Tensor:
        """dP_a/dr_ib `[n_atoms, 3, 3]` in e of the latent multipoles, up to the sign of all of them.

        Along periodic axes P is that of MACE-LES, sum_j q_j L/(2 pi) sin(2 pi (f_j - f_i)) relative to atom
        i, with fractional coordinates f, which equals sum_j q_j (r_j - r_i) as far as the charges that an
        atom affects are near it.
        """
        graph, options = structure.graph, self.config.latent
        positions, batch = structure.positions, graph.batch
        charges = multipoles[:, 0]
        if options.remove_mean:
            total = sum_over_atoms(charges, batch, graph.n_systems)
            charges = charges - (total / torch.bincount(batch, minlength=graph.n_systems))[batch]
        lattice = (graph.cell * graph.pbc[:, :, None])[batch]  # zero rows along open axes
        inverse = torch.linalg.pinv(graph.cell * graph.pbc[:, :, None])[batch]
        fractions = torch.einsum("ai,aik->ak", positions, inverse)
        along_open = positions - torch.einsum("ak,aki->ai", fractions, lattice)
        moments = charges[:, None] * along_open + cartesian_dipoles(multipoles)

        def gradient(value: torch.Tensor) -> torch.Tensor:
            return torch.autograd.grad(
                value.sum(), positions, create_graph=call.training, retain_graph=True, materialize_grads=True
            )[0]

        found = torch.stack([gradient(moments[:, axis]) for axis in range(3)], dim=1)
        for axis in torch.nonzero(graph.pbc.any(dim=0)).flatten().tolist():
            phase = 2.0 * math.pi * fractions[:, axis]
            sine, cosine = (gradient(charges * function(phase)) for function in (torch.sin, torch.cos))
            along = (sine * phase.cos()[:, None] - cosine * phase.sin()[:, None]) / (2.0 * math.pi)
            found = found + lattice[:, axis, :, None] * along[:, None, :]
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
