"""Family `energy_functional`: the multipoles minimise a learned, strictly convex energy of the density."""

from __future__ import annotations

import torch

from electret.models.backbone import construction_dtype
from electret.models.base import Structure
from electret.models.config import ModelConfig
from electret.models.families.charge_flux import flux_density
from electret.models.families.updates import channel_irreps, split_channels
from electret.models.readouts import NodeReadout, ScalarReadout, e3nn_to_electret
from electret.models.self_consistent import Parameters
from electret.models.start.elements import log_hardness_from_responses, orders, positive
from electret.models.start.statistics import Statistics
from electret.models.variational import Variational

SOFTPLUS_THRESHOLD = 20.0
"""Beyond it torch's softplus is straight."""

__all__ = ["EnergyFunctional"]


class EnergyFunctional(Variational):
    """eps(p) = chi q + ½ sum_l eta_l |p_l - n_l|² + ½ sum_c w_c t_c² + sum_k a_k softplus(b_k·t + c_k).

    Here t_c = g_c·(p - n); n, chi, eta, w, g, a and c come from the surroundings of the atom. n is a
    `FluxDensity`: its charges add up to those of the elements, so that an insulator, whose hardness is large,
    has its charges without a Fermi level far off. The g_c are features of all orders, so each t_c is an
    invariant linear in p, and w_c g_c g_cᵀ a positive semidefinite equivariant block that couples charge and
    dipole. Softplus of a linear form is convex, and a_k >= 0: with eta > 0 the whole is strictly convex, so
    the minimum exists and is unique. A sharp softplus is a kink: a preference for a charge state, with an
    energy that is piecewise straight.
    """

    family = "energy_functional"

    def __init__(self, config: ModelConfig, statistics: Statistics) -> None:
        super().__init__(config, statistics)
        irreps, options = self.backbone.layer_irreps, config.functional
        self.n_channels, self.n_convex = options.channels, options.convex
        with construction_dtype(torch.float64):
            self.reference = flux_density(config, statistics, irreps, options.flow)
            self.electronegativity = ScalarReadout(irreps, 1, options.hidden, "the electronegativity")
            self.hardness = ScalarReadout(irreps, self.max_l + 1, options.hidden, "the hardness")
            self.electronegativity_bias = torch.nn.Parameter(
                torch.full((len(statistics.elements),), -statistics.fermi_level)
            )
            self.log_hardness = torch.nn.Parameter(log_hardness_from_responses(self.max_l, statistics))
            vectors = channel_irreps(self.n_channels, self.max_l)
            self.vectors = NodeReadout(irreps, vectors, f"multipoles up to l={self.max_l}")
            self.stiffness = ScalarReadout(irreps, self.n_channels, options.hidden, "the stiffness")
            if self.n_convex:
                self.amplitude = ScalarReadout(irreps, self.n_convex, options.hidden, "the amplitudes")
                self.offset = ScalarReadout(irreps, self.n_convex, options.hidden, "the offsets")
                self.slopes = torch.nn.Parameter(torch.randn(self.n_convex, self.n_channels))

    @property
    def quadratic(self) -> bool:
        """Without convex functions beside the quadratic ones."""
        return self.n_convex == 0

    def parameters_of(self, structure: Structure, features: list[torch.Tensor]) -> Parameters:
        """See the class: `electronegativity [n_atoms]`, `reference`, `hardness [n_atoms, n_lm]`, `vectors
        [n_atoms, channels, n_lm]`, `stiffness [n_atoms, channels]`, `amplitude`, `offset [n_atoms, convex]`,
        `slopes [convex, channels]`."""
        softplus = torch.nn.functional.softplus
        n_atoms, elements = len(structure.elements), structure.elements
        electronegativity = self.electronegativity(features)[:, 0] + self.electronegativity_bias[elements]
        hardness = positive(self.hardness(features) + self.log_hardness[elements])
        hardness = hardness + self.config.functional.minimum_hardness
        raw = self.vectors(features)  # [n_atoms, channels x 0e + channels x 1o + ...]
        flat = torch.cat(split_channels(raw, self.n_channels, self.max_l), dim=2).reshape(
            n_atoms * self.n_channels, -1
        )
        vectors = e3nn_to_electret(flat, self.max_l).reshape(n_atoms, self.n_channels, -1)
        parameters = {
            "electronegativity": electronegativity,
            **self.reference.parameters_of("reference", structure, features),
            "hardness": hardness[:, orders(self.max_l)],
            "vectors": vectors,
            "stiffness": softplus(self.stiffness(features)),
        }
        if self.n_convex:
            parameters["amplitude"] = softplus(self.amplitude(features))
            parameters["offset"] = self.offset(features)
            parameters["slopes"] = self.slopes
        return parameters

    def guess(self, parameters: Parameters, elements: torch.Tensor) -> torch.Tensor:
        """n, the density without a potential."""
        return parameters["reference"]

    def local_energy(self, parameters: Parameters, p: torch.Tensor) -> torch.Tensor:
        """See the class."""
        change = p - parameters["reference"]
        invariants = torch.einsum("acm,am->ac", parameters["vectors"], change)  # [n_atoms, channels]
        energy = parameters["electronegativity"] * p[:, 0]
        energy = energy + 0.5 * (parameters["hardness"] * change.square()).sum(dim=1)
        energy = energy + 0.5 * (parameters["stiffness"] * invariants.square()).sum(dim=1)
        if self.n_convex:
            forms = invariants @ parameters["slopes"].T + parameters["offset"]  # [n_atoms, convex]
            energy = energy + (parameters["amplitude"] * torch.nn.functional.softplus(forms)).sum(dim=1)
        return energy

    def local_gradient(self, parameters: Parameters, p: torch.Tensor) -> torch.Tensor:
        """chi at the charge + eta (p - n) + sum_c (w_c t_c + sum_k a_k b_kc softplus') g_c."""
        vectors, change = parameters["vectors"], p - parameters["reference"]
        invariants = (vectors @ change[:, :, None]).squeeze(2)  # [n_atoms, channels]
        in_invariants = parameters["stiffness"] * invariants
        if self.n_convex:
            slopes = parameters["slopes"]
            forms = invariants @ slopes.T + parameters["offset"]
            in_invariants = in_invariants + (parameters["amplitude"] * _softplus_slope(forms)) @ slopes
        gradient = parameters["hardness"] * change + (in_invariants[:, None] @ vectors).squeeze(1)
        charge = gradient[:, :1] + parameters["electronegativity"][:, None]
        return torch.cat([charge, gradient[:, 1:]], dim=1)

    def local_hessian(self, parameters: Parameters, p: torch.Tensor) -> torch.Tensor:
        """diag eta + sum_c w_c g_c g_cᵀ + sum_k a_k softplus'' G_k G_kᵀ with G_k = sum_c b_kc g_c."""
        vectors = parameters["vectors"]
        hessian = torch.diag_embed(parameters["hardness"])
        hessian = hessian + vectors.mT @ (parameters["stiffness"][:, :, None] * vectors)
        if self.n_convex:
            slopes, change = parameters["slopes"], p - parameters["reference"]
            directions = slopes @ vectors  # G, [n_atoms, convex, n_lm]
            forms = (directions @ change[:, :, None]).squeeze(2) + parameters["offset"]
            slope = _softplus_slope(forms)
            curvature = parameters["amplitude"] * slope * (1.0 - slope)
            hessian = hessian + directions.mT @ (curvature[:, :, None] * directions)
        return hessian


def _softplus_slope(x: torch.Tensor) -> torch.Tensor:
    """Derivative of torch's softplus."""
    return torch.where(x > SOFTPLUS_THRESHOLD, 1.0, torch.sigmoid(x))
