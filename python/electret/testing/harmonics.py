"""Real spherical harmonics and the rotation of multipoles, straight from Legendre polynomials.

Slow and independent of the kernels and of e3nn, so that it can judge both.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.polynomial import Legendre
from numpy.typing import NDArray

__all__ = ["real_harmonics", "rotation_of_multipoles"]


def real_harmonics(directions: NDArray[np.float64], max_l: int) -> NDArray[np.float64]:
    """Racah-normalised real spherical harmonics `[n, (max_l+1)^2]` of unit vectors `[n, 3]`.

    C_lm = sqrt(2 (l-|m|)! / (l+|m|)!) P_l^(|m|)(z) Re or Im (x + iy)^|m|, z as polar axis, no Condon-Shortley
    sign; index l^2 + l + m with sines at negative m, so l=1 is (y, z, x).
    """
    x, y, z = directions.T
    values = np.empty((len(directions), (max_l + 1) ** 2))
    for l in range(max_l + 1):
        values[:, l * l + l] = Legendre.basis(l)(z)
        for m in range(1, l + 1):
            scale = math.sqrt(2 * math.factorial(l - m) / math.factorial(l + m))
            legendre = scale * Legendre.basis(l).deriv(m)(z)
            azimuth = (x + 1j * y) ** m
            values[:, l * l + l + m] = legendre * azimuth.real
            values[:, l * l + l - m] = legendre * azimuth.imag
    return values


def rotation_of_multipoles(rotation: NDArray[np.float64], max_l: int) -> NDArray[np.float64]:
    """Matrix D `[(max_l+1)^2, (max_l+1)^2]` with p' = D p for a density turned by r' = `rotation` @ r.

    Works for improper rotations too, from C(R r) = D C(r) on random directions.
    """
    directions = np.random.default_rng(0).normal(size=(4 * (max_l + 1) ** 2, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    before, after = real_harmonics(directions, max_l), real_harmonics(directions @ rotation.T, max_l)
    matrix = np.zeros((before.shape[1],) * 2)
    for l in range(max_l + 1):
        block = slice(l * l, (l + 1) ** 2)
        matrix[block, block] = np.linalg.lstsq(before[:, block], after[:, block], rcond=None)[0].T
    return matrix
