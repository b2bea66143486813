"""Family `sqe`: split-charge equilibration, `qeq` with charges that flow along edges."""

from __future__ import annotations

import torch

from electret.models.backbone import construction_dtype
from electret.models.base import Structure
from electret.models.config import ModelConfig
from electret.models.families.charge_flux import FlowDensity
from electret.models.families.qeq import Qeq
from electret.models.self_consistent import Parameters
from electret.models.start.elements import polarizabilities
from electret.models.start.statistics import Statistics

__all__ = ["Sqe"]


class Sqe(Qeq):
    """Charges q0 + w (Q - sum q0) + Bᵀ f minimise sum_e f_e²/2c_e + chi·q + ½ q·(A + diag eta)·q - F·P.

    The flows f along the edges of the graph answer differences of the potential with conductances c_e from
    the surroundings of either end: one family from insulators, whose polarisability per volume does not
    depend on their size, to metals (Nistor et al., J. Chem. Phys. 125, 094108 (2006)). q0 is that of a
    `FlowDensity`, w its placement of the total charge. Dipoles are those of `qeq`. The equations are in
    `electret.scf.flow`.
    """

    family = "sqe"

    def __init__(self, config: ModelConfig, statistics: Statistics) -> None:
        super().__init__(config, statistics)
        with construction_dtype(torch.float64):
            self.reference = FlowDensity(config, statistics, self.backbone.layer_irreps)
            self.linear_bias.data.fill_(-statistics.fermi_level)
            if self.max_l > 0:
                self.log_hardness.data[:, 1] = -torch.log(polarizabilities(statistics))

    def parameters_of(self, structure: Structure, features: list[torch.Tensor]) -> Parameters:
        """Those of `qeq`, and of the flow; `reference [n_atoms, n_lm]` is the density without a potential."""
        found = super().parameters_of(structure, features)
        return found | self.reference.parameters_of("reference", structure, features)

    def guess(self, parameters: Parameters, elements: torch.Tensor) -> torch.Tensor:
        """The density without a potential."""
        return parameters["reference"]
