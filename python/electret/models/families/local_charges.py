"""Family `local_charges`: p_i = sum_t W_t h_i^t, E = E_SR + 1/2 p^T A p - F.D."""

from __future__ import annotations

import torch

from electret.models.backbone import construction_dtype
from electret.models.base import Density, Structure
from electret.models.config import ModelConfig
from electret.models.families.charge_conservation import ShiftedCharges
from electret.models.readouts import MultipoleReadout
from electret.models.start.statistics import Statistics

__all__ = ["LocalCharges"]


class LocalCharges(ShiftedCharges):
    """Multipoles predicted from the local environment.

    With `conserve_charge` (the default) the charges of a system are shifted uniformly to the requested total
    charge, so that periodic cells are neutral and charge states are honoured. Without it they are free, as in
    arXiv:2603.14700, and the total-charge loss alone holds them together.
    """

    family = "local_charges"

    def __init__(self, config: ModelConfig, statistics: Statistics) -> None:
        super().__init__(config, statistics)
        with construction_dtype(self.dtype):
            self.readout = MultipoleReadout(self.backbone.layer_irreps, config.electrostatics.max_l)

    def density(self, structure: Structure, features: list[torch.Tensor]) -> Density:
        """Multipoles `[n_atoms, (max_l+1)^2]`."""
        multipoles = self.readout(features)
        local = multipoles[:, 0]
        if self.config.conserve_charge:
            charges = self.conserved(local, structure.graph)
            multipoles = torch.cat([charges[:, None], multipoles[:, 1:]], dim=1)
            local = local + (charges - local).detach()
        return Density(multipoles, local_charges=local)
