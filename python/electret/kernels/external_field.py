"""Uniform external field F (V/Å): energy -F·D, potential -F·r. Array functions for numpy arrays."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from electret.kernels.arguments import Receivers
from electret.kernels.inputs import FloatArray

CARTESIAN_OF_L1 = (1, 2, 0)
"""Cartesian axis of each l = 1 coefficient: their order is (y, z, x)."""

L1_OF_CARTESIAN = (3, 1, 2)
"""Coefficient index of the Cartesian dipole components (x, y, z)."""


def atomic_dipole(positions: FloatArray, multipoles: FloatArray) -> FloatArray:
    """Contribution ``q r + d`` of each atom to the total dipole, ``[n_atoms, 3]`` as (x, y, z) in e·Å."""
    dipole = multipoles[:, :1] * positions
    if multipoles.shape[1] > 1:
        dipole = dipole + multipoles[:, L1_OF_CARTESIAN]
    return dipole


def potential(points: FloatArray, batch: NDArray[np.int64], field: FloatArray, n_lm: int) -> FloatArray:
    """Potential of the field on unit multipoles, ``[n_points, n_lm]``: -F·r on charges, -F on dipoles."""
    local = field[batch]  # [n_points, 3]
    values = np.zeros((points.shape[0], n_lm))
    values[:, 0] = -np.einsum("nx,nx->n", local, points)
    if n_lm > 1:
        values[:, 1:4] = -local[:, CARTESIAN_OF_L1]
    return values


def features(
    positions: FloatArray,
    batch: NDArray[np.int64],
    field: FloatArray,
    receivers: Receivers,
) -> FloatArray:
    """Projections of the field's potential on the receivers, ``[n_atoms, n_widths, n_lm]``."""
    return potential(positions, batch, field, receivers.n_lm)[:, None, :] * receiver_scale(receivers)


def receiver_scale(receivers: Receivers) -> FloatArray:
    """Ratio of a receiver to the unit-moment Gaussian multipole of its width for l <= 1, ``[n_widths,
    n_lm]``.

    ``sqrt(4 pi / (2l + 1)) I_(2l+2) / I_(l+2)`` with ``I_n`` the integral of ``r**n exp(-r**2/2s**2)``; a
    uniform field has no projection on higher orders, where the entries are zero.
    """
    widths, _, normalization = receivers
    scale = np.zeros((len(widths), receivers.n_lm))
    if normalization == "multipoles":
        scale[:, :4] = 1.0
    else:
        scale[:, 0] = math.sqrt(4.0 * math.pi)
        # I_4 / I_3 = 3 sqrt(pi/2) s**5 / (2 s**4)
        scale[:, 1:4] = math.sqrt(4.0 * math.pi / 3.0) * 1.5 * math.sqrt(math.pi / 2.0) * widths[:, None]
    return scale
