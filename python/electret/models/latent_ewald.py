"""Family `latent_ewald` (LES): latent multipoles learned from energies and forces, E = E_SR + 1/2 p^T A p."""

from __future__ import annotations

import torch

from electret.models.backbone import construction_dtype
from electret.models.base import Density, Model, Structure
from electret.models.config import ModelConfig
from electret.models.readouts import MultipoleReadout
from electret.models.statistics import Statistics

__all__ = ["LatentEwald"]


class LatentEwald(Model):
    """Charges (and dipoles, with `electrostatics.max_l = 1`) that no label constrains.

    They are not physical charges: the energy knows them up to sign and, in a screening medium, up to a
    factor, so they couple to no field, answer no total charge, and are given as `latent_multipoles`.
    Source: B. Cheng, npj Comput. Mater. 11, 80 (2025).
    """

    family = "latent_ewald"
    labelled_density = False

    def __init__(self, config: ModelConfig, statistics: Statistics) -> None:
        super().__init__(config, statistics)
        with construction_dtype(self.dtype):
            self.readout = MultipoleReadout(self.backbone.layer_irreps, config.electrostatics.max_l)

    def density(self, structure: Structure, features: list[torch.Tensor]) -> Density:
        """Latent multipoles `[n_atoms, (max_l+1)^2]`."""
        return Density(self.readout(features))
