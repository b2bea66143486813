"""Family `sqe`: split-charge equilibration, a quadratic energy of charges that flow along edges."""

from __future__ import annotations

import torch

from electret.models.backbone import construction_dtype
from electret.models.base import Structure
from electret.models.config import ModelConfig
from electret.models.families.charge_flux import FlowDensity
from electret.models.readouts import ScalarReadout
from electret.models.self_consistent import Parameters
from electret.models.start.elements import log_hardness_from_responses, orders, positive
from electret.models.start.statistics import Statistics
from electret.models.variational import Variational

__all__ = ["Sqe"]


class Sqe(Variational):
    """Charges n + w (Q - sum n) + Bᵀ f and dipoles minimise sum f²/2c + chi·q + ½ eta |p - n|² + ½ p·Ap.

    The flows f along the edges of the graph answer differences of the potential with conductances c_e from
    the surroundings of either end: one family from insulators, whose polarisability per volume does not
    depend on their size, to metals. n, a `FlowDensity`, is the density without a potential, and w its
    placement of the total charge; the equations are in `electret.scf.flow`. Source: Nistor, Polihronov, Müser
    and Mosey, J. Chem. Phys. 125, 094108 (2006), here with conductances in place of the hardness of bonds.
    """

    family = "sqe"
    quadratic = True

    def __init__(self, config: ModelConfig, statistics: Statistics) -> None:
        super().__init__(config, statistics)
        irreps, hidden = self.backbone.layer_irreps, config.qeq.hidden
        with construction_dtype(torch.float64):
            self.reference = FlowDensity(config, statistics, irreps)
            self.electronegativity = ScalarReadout(irreps, 1, hidden, "the electronegativity")
            self.electronegativity_bias = torch.nn.Parameter(
                torch.full((len(statistics.elements),), -statistics.fermi_level)
            )
            self.hardness = ScalarReadout(irreps, self.max_l + 1, hidden, "the hardness")
            logarithm = log_hardness_from_responses(self.max_l, statistics)
            logarithm[:, 0] = torch.log(torch.tensor(config.qeq.minimum_hardness))
            self.log_hardness = torch.nn.Parameter(logarithm)

    def parameters_of(self, structure: Structure, features: list[torch.Tensor]) -> Parameters:
        """`electronegativity [n_atoms]` eV/e, `hardness [n_atoms, n_lm]` eV/(e Å^l)², and those of the flow,
        whose density is `reference [n_atoms, n_lm]`."""
        chi = self.electronegativity(features)[:, 0] + self.electronegativity_bias[structure.elements]
        hardness = positive(self.hardness(features) + self.log_hardness[structure.elements])
        hardness = hardness + self.config.qeq.minimum_hardness
        found = {"electronegativity": chi, "hardness": hardness[:, orders(self.max_l)]}
        return found | self.reference.parameters_of("reference", structure, features)

    def guess(self, parameters: Parameters, elements: torch.Tensor) -> torch.Tensor:
        """n, the density without a potential."""
        return parameters["reference"]

    def local_energy(self, parameters: Parameters, p: torch.Tensor) -> torch.Tensor:
        """chi_i q_i + ½ eta_i |p_i - n_i|²."""
        stiff = 0.5 * (parameters["hardness"] * (p - parameters["reference"]).square()).sum(dim=1)
        return parameters["electronegativity"] * p[:, 0] + stiff

    def local_gradient(self, parameters: Parameters, p: torch.Tensor) -> torch.Tensor:
        """chi_i at the charge + eta_i (p_i - n_i)."""
        gradient = parameters["hardness"] * (p - parameters["reference"])
        charge = gradient[:, :1] + parameters["electronegativity"][:, None]
        return torch.cat([charge, gradient[:, 1:]], dim=1)

    def local_hessian(self, parameters: Parameters, p: torch.Tensor) -> torch.Tensor:
        """diag eta_i."""
        return torch.diag_embed(parameters["hardness"])
