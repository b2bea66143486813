"""Parameters of fresh models, with which predictions are close to the mean charges of the data, so that
training does not begin with charges of the wrong size."""

from __future__ import annotations

import math

import torch

from electret.models.start.statistics import Statistics
from electret.units import COULOMB_CONSTANT

__all__ = [
    "INITIAL_HARDNESS",
    "INITIAL_STIFFNESS",
    "conducting",
    "element_charges",
    "flow_scales",
    "linear_bias",
    "log_hardness",
    "log_hardness_from_responses",
    "mean_density",
    "orders",
    "polarizabilities",
    "positive",
    "response_scales",
]

INITIAL_HARDNESS = 5.0
"""Curvature of the local energy of a fresh model in the charge, eV/e²."""

LARGEST_LOGARITHM = 12.0
"""Scale of a hardness in eV/(e Å^l)²."""

INITIAL_STIFFNESS = 20.0
"""Scale of the stiffness of higher multipoles, eV/(e Å^l)²: a polarisability of about 0.7 Å³ per atom."""


def orders(max_l: int) -> list[int]:
    """The order l of each coefficient."""
    return [l for l in range(max_l + 1) for _ in range(2 * l + 1)]


TYPICAL_SPREAD = 0.1
"""Standard deviation of the charge of an element that counts as one, e."""


def _of_elements(statistics: Statistics, found: dict[int, float] | None, default: float) -> torch.Tensor:
    """Values by atomic number for the elements of the model, `[n_elements]` float64."""
    found = found or {}
    return torch.tensor([found.get(number, default) for number in statistics.elements], dtype=torch.float64)


def element_charges(statistics: Statistics) -> torch.Tensor:
    """Mean labelled charge of each element of the model in e, zero where there is no label."""
    return _of_elements(statistics, statistics.charges, 0.0)


def response_scales(statistics: Statistics) -> torch.Tensor:
    """How much the density of each element varies in the data, relative to 0.1 e, within a factor of five;
    one where there are no charges. `[n_elements]`."""
    spread = _of_elements(statistics, statistics.charge_spread, TYPICAL_SPREAD)
    return (spread / TYPICAL_SPREAD).clamp(0.2, 5.0)


CONDUCTING = 0.01
"""Susceptibility fitted to polarisabilities (e/V per atom) from which on an element counts as a conductor."""

SMALLEST_FLOW = 1e-4
"""Part of a conductor's susceptibility that every atom has: with less the Fermi level would be undefined."""

POLARIZABILITIES = (2e-3, 2.0)
"""Range of the initial polarisability of an atom, e·Å²/V."""


def flow_scales(statistics: Statistics) -> torch.Tensor:
    """How readily charge flows to the atoms of each element relative to a conductor, between `SMALLEST_FLOW`
    and 1; 1 without labels. `[n_elements]`.

    The square of the fitted susceptibility over `CONDUCTING`: dipoles that help each other along a row look
    like a little flow, and an insulator is better started without.
    """
    found = _of_elements(statistics, statistics.susceptibility, CONDUCTING)
    return (found / CONDUCTING).square().clamp(SMALLEST_FLOW, 1.0)


def conducting(statistics: Statistics) -> torch.Tensor:
    """As `flow_scales`, and 0 where nothing is known: charge that flows along edges needs no least flow."""
    if statistics.susceptibility is None:
        return torch.zeros(len(statistics.elements), dtype=torch.float64)
    return flow_scales(statistics)


def polarizabilities(statistics: Statistics) -> torch.Tensor:
    """Initial polarisability of the atoms of each element in e·Å²/V, `[n_elements]`; `1 /
    INITIAL_STIFFNESS` without labels."""
    found = _of_elements(statistics, statistics.polarizability, 1.0 / INITIAL_STIFFNESS)
    return found.clamp(*POLARIZABILITIES)


def log_hardness_from_responses(max_l: int, statistics: Statistics) -> torch.Tensor:
    """As `log_hardness`, with that of charges and dipoles from the labelled polarisabilities."""
    found = log_hardness(max_l, statistics)
    found[:, 0] -= torch.log(flow_scales(statistics))
    if max_l > 0:
        found[:, 1] = -torch.log(polarizabilities(statistics))
    return found


def log_hardness(max_l: int, statistics: Statistics) -> torch.Tensor:
    """`[n_elements, max_l + 1]`, logarithm of the initial hardness."""
    wanted = torch.tensor([INITIAL_HARDNESS] + [INITIAL_STIFFNESS] * max_l, dtype=torch.float64)
    return torch.log(wanted).repeat(len(statistics.elements), 1)


def positive(logarithm: torch.Tensor) -> torch.Tensor:
    """exp, without overflow. The hardness of a metal and that of an insulator differ by orders of magnitude:
    on a logarithmic scale both are a few steps of an optimiser away from the same start."""
    return torch.exp(logarithm.clamp(max=LARGEST_LOGARITHM))


def linear_bias(sigma: torch.Tensor, statistics: Statistics) -> torch.Tensor:
    """`[n_elements]` eV/e: an atom alone has its mean charge at the mean Fermi level."""
    stiffness = INITIAL_HARDNESS + COULOMB_CONSTANT / (math.sqrt(math.pi) * sigma.double())
    return -stiffness * element_charges(statistics) - statistics.fermi_level


def mean_density(max_l: int, elements: torch.Tensor, statistics: Statistics) -> torch.Tensor:
    """Mean charge of the element of each atom, no higher multipoles, `[n_atoms, n_lm]`."""
    charges = element_charges(statistics).to(elements.device)[elements]
    return torch.nn.functional.pad(charges[:, None], (0, (max_l + 1) ** 2 - 1))
