"""Family `qeq`: charge equilibration, the charges minimise chi·q + ½ q·(A + diag eta)·q at fixed charge."""

from __future__ import annotations

import torch

from electret.models.backbone import construction_dtype
from electret.models.base import Structure
from electret.models.config import ModelConfig
from electret.models.readouts import MultipoleReadout, ScalarReadout
from electret.models.self_consistent import Parameters
from electret.models.start.elements import linear_bias, log_hardness, orders, positive
from electret.models.start.statistics import Statistics
from electret.models.variational import Variational

__all__ = ["Qeq"]


class Qeq(Variational):
    """Electronegativity chi_i and hardness eta_i > 0 of each atom come from its surroundings.

    With `electrostatics.max_l` = 1 (2) each atom has a dipole (quadrupole) too, with a linear term and an
    isotropic stiffness; `max_l` = 0 is charge equilibration proper (Rappé and Goddard, J. Phys. Chem. 95,
    3358 (1991)). The quadratic energy lets charge flow over any distance, insulators included.
    """

    family = "qeq"

    def __init__(self, config: ModelConfig, statistics: Statistics) -> None:
        super().__init__(config, statistics)
        irreps = self.backbone.layer_irreps
        with construction_dtype(torch.float64):
            self.linear = MultipoleReadout(irreps, self.max_l)
            self.hardness = ScalarReadout(irreps, self.max_l + 1, config.qeq.hidden, "the hardness")
            self.linear_bias = torch.nn.Parameter(linear_bias(self.sigma, statistics))
            self.log_hardness = torch.nn.Parameter(log_hardness(self.max_l, statistics))

    @property
    def quadratic(self) -> bool:
        """Always."""
        return True

    def parameters_of(self, structure: Structure, features: list[torch.Tensor]) -> Parameters:
        """`linear [n_atoms, n_lm]` eV/(e Å^l), `hardness [n_atoms, n_lm]` eV/(e Å^l)²."""
        linear = self.linear(features)
        bias = self.linear_bias[structure.elements]
        linear = torch.cat([linear[:, :1] + bias[:, None], linear[:, 1:]], dim=1)
        hardness = positive(self.hardness(features) + self.log_hardness[structure.elements])
        hardness = hardness + self.config.qeq.minimum_hardness
        return {"linear": linear, "hardness": hardness[:, orders(self.max_l)]}

    def local_energy(self, parameters: Parameters, p: torch.Tensor) -> torch.Tensor:
        """chi_i·p_i + ½ eta_i p_i²."""
        return (parameters["linear"] * p + 0.5 * parameters["hardness"] * p.square()).sum(dim=1)

    def local_gradient(self, parameters: Parameters, p: torch.Tensor) -> torch.Tensor:
        """chi_i + eta_i p_i."""
        return parameters["linear"] + parameters["hardness"] * p

    def local_hessian(self, parameters: Parameters, p: torch.Tensor) -> torch.Tensor:
        """diag eta_i."""
        return torch.diag_embed(parameters["hardness"])
