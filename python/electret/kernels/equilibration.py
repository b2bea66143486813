"""Charge equilibration: charges from electronegativities and hardnesses, in one native call."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from electret import _native
from electret.kernels import inputs
from electret.kernels.inputs import FloatArray
from electret.kernels.shapes import with_shapes


@dataclass(frozen=True, repr=False)
class ChargeEquilibration:
    """Result of :func:`charge_equilibration`.

    Attributes:
        charges: ``[n_atoms]`` in e.
        fermi_level: ``[n_systems]`` μ in eV, with dE/dq + μ = 0; at fixed charge dE/dQ = -μ.
        energy: ``[n_systems]`` E in eV. At fixed Fermi level the charges are stationary for
            Ω = E + μQ, and dΩ/dμ = Q.
        forces: ``[n_atoms, 3]`` in eV/Å, minus the derivative of the energy held stationary (E or Ω).
        dipole: ``[n_systems, 3]`` as (x, y, z) in e·Å, with the positions as given.
    """

    charges: FloatArray
    fermi_level: FloatArray
    energy: FloatArray
    forces: FloatArray
    dipole: FloatArray

    def __repr__(self) -> str:
        return with_shapes(self)


def charge_equilibration(
    positions: ArrayLike,
    electronegativity: ArrayLike,
    hardness: ArrayLike,
    sigma: ArrayLike = 1.0,
    total_charge: ArrayLike = 0.0,
    cell: ArrayLike | None = None,
    pbc: ArrayLike = False,
    batch: ArrayLike | None = None,
    fermi_level: ArrayLike | None = None,
    external_field: ArrayLike | None = None,
    boundary: str | None = None,
    method: str = "auto",
    accuracy: float = 1e-8,
) -> ChargeEquilibration:
    """Charges that minimise ``χ·q + 1/2 q (A + diag η) q - F·D`` at fixed charge or fixed Fermi level.

    A is the interaction of Gaussian charges of width sigma, each one's with itself included (Rappé and
    Goddard, J. Phys. Chem. 95, 3358 (1991); with Gaussians as in Ghasemi et al., Phys. Rev. B 92, 045131
    (2015)).

    Args:
        positions: ``[n_atoms, 3]`` in Å.
        electronegativity: χ in V, one or ``[n_atoms]``.
        hardness: η in V/e, one or ``[n_atoms]``, not counting the Gaussian's interaction with itself, K /
            (√π σ), which A holds. May be negative: A + diag η must be positive definite, at fixed charge for
            changes that sum to zero. Parameters that count the whole self-term J give η = J - K / (√π σ).
        sigma: Gaussian width in Å, one or ``[n_atoms]``.
        total_charge: Q in e, one or ``[n_systems]``; not used with `fermi_level`.
        cell, pbc, batch, external_field, boundary, method, accuracy: as for :func:`electret.coulomb`.
        fermi_level: μ in eV, one or ``[n_systems]``; systems then exchange charge with a reservoir.

    Raises:
        InputError: an argument cannot be used; the message names array, index, value and remedy. The energy
            has no minimum; the message names the atom with the largest part in the softest change.

    Example:
        >>> import electret
        >>> r = electret.charge_equilibration([[0, 0, 0], [0, 0, 1]], [8.0, 4.5], [13.0, 14.0], sigma=0.6)
        >>> r.charges.round(3)
        array([-0.109,  0.109])
    """
    options = inputs.options(boundary, method, accuracy)
    s = inputs.systems(positions, cell, pbc, batch)
    f = inputs.field(external_field, s.n_systems)
    name, held = ("total_charge", total_charge) if fermi_level is None else ("fermi_level", fermi_level)
    charges, mu, energy, gradient, dipole = _native.charge_equilibration(
        s,
        inputs.per("electronegativity", electronegativity, s.n_atoms, "n_atoms"),
        inputs.per("hardness", hardness, s.n_atoms, "n_atoms"),
        inputs.widths("sigma", sigma, s.n_atoms),
        inputs.per(name, held, s.n_systems, "n_systems"),
        fermi_level is not None,
        np.zeros((s.n_systems, 3)) if f is None else np.ascontiguousarray(f),
        options,
    )
    for quantity, values in (("charges", charges), ("energy", energy), ("forces", gradient)):
        inputs.require_finite(quantity, values)
    return ChargeEquilibration(charges, mu, energy, -gradient, dipole)
