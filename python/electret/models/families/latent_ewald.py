"""Family `latent_ewald` (LES): latent multipoles learned from energies and forces, E = E_SR + 1/2 p^T A p."""

from __future__ import annotations

import torch

from electret.models.backbone import construction_dtype
from electret.models.base import Density, Model, Structure
from electret.models.config import ModelConfig
from electret.models.families.charge_flux import FluxDensity
from electret.models.readouts import MultipoleReadout
from electret.models.start.statistics import Statistics

__all__ = ["LatentEwald"]


class LatentEwald(Model):
    """Charges (and dipoles, with `electrostatics.max_l = 1`) that no label constrains.

    They are not physical charges: the energy defines them up to sign and, in a screening medium, up to a
    factor, so they couple to no field, have no total charge, and are given as `latent_multipoles`.
    Source: B. Cheng, npj Comput. Mater. 11, 80 (2025).

    With `latent_charges = "free"`, as published, the charges of a fragment add up to any number, so that two
    neutral fragments far apart have the energy K Q_A Q_B / r of those sums. With `"flux"` charges flow along
    edges: whatever is beyond the cutoff of everything else is neutral.
    """

    family = "latent_ewald"

    def __init__(self, config: ModelConfig, statistics: Statistics) -> None:
        super().__init__(config, statistics)
        with construction_dtype(self.dtype):
            irreps = self.backbone.layer_irreps
            self.flux: FluxDensity | None = None
            if config.latent_charges == "flux":
                self.flux = FluxDensity(config, statistics, irreps).to(self.dtype)
            else:
                self.readout = MultipoleReadout(irreps, config.electrostatics.max_l)

    def density(self, structure: Structure, features: list[torch.Tensor]) -> Density:
        """Latent multipoles `[n_atoms, (max_l+1)^2]`."""
        return Density(self.readout(features) if self.flux is None else self.flux(structure, features))
