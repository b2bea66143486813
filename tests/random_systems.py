"""Small random systems for the tests of the electrostatics: dense, sheared, with every boundary."""

from __future__ import annotations

from typing import Any

import numpy as np

import reference

BOUNDARIES = ("xyz", "xy", "yz", "x", "z", "")
"""Periodic axes: three, slabs normal to z and x, wires along x and z, none."""

NARROW = 0.55
"""Smallest Gaussian width in Å; wide enough that the reciprocal method stays cheap."""


def random_system(
    seed: int,
    axes: str = "xyz",
    n: int = 4,
    max_l: int = 1,
    neutral: bool = False,
    full_cell: bool = True,
) -> dict[str, Any]:
    """Arguments of :func:`electret.coulomb` for a random system, periodic along `axes`.

    The cell is triclinic; with `full_cell` the rows along open axes are given too (they only define the
    volume), else they are zero. Along open axes a slab or wire stays within about 4 Å.
    """
    rng = np.random.default_rng([seed, n, max_l])
    cell = np.diag(rng.uniform(4.8, 6.2, 3)) + rng.uniform(-1.1, 1.1, (3, 3))
    pbc = np.array([axis in axes for axis in "xyz"])
    positions = rng.uniform(0.0, 4.0, (n, 3))
    multipoles = rng.normal(size=(n, (max_l + 1) ** 2))
    if neutral:
        multipoles[:, 0] -= multipoles[:, 0].mean()
    if not full_cell:
        cell[~pbc] = 0.0
    return {
        "positions": positions,
        "multipoles": multipoles,
        "sigma": rng.uniform(NARROW, 1.1, n),
        "cell": cell,
        "pbc": pbc,
    }


def rotation(seed: int) -> np.ndarray:
    """A random proper rotation; positions transform as ``r @ rotation.T``."""
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q if np.linalg.det(q) > 0 else -q


def wigner(matrix: np.ndarray, max_l: int) -> np.ndarray:
    """Block-diagonal matrix D with C(R r) = D C(r); multipoles transform as ``p @ D.T``."""
    points = np.random.default_rng(0).normal(size=(4 * (max_l + 1) ** 2, 3))
    before = reference.solid_harmonics(points, max_l)
    after = reference.solid_harmonics(points @ matrix.T, max_l)
    d = np.zeros((before.shape[1], before.shape[1]))
    for l in range(max_l + 1):
        block = slice(l * l, (l + 1) ** 2)
        d[block, block] = np.linalg.lstsq(before[:, block], after[:, block], rcond=None)[0].T
    return d


def relative(value, expected) -> float:
    """Largest deviation relative to the largest entry, which must not be zero; of arrays or tensors."""
    value, expected = (v.detach().cpu() if hasattr(v, "detach") else v for v in (value, expected))
    value, expected = np.asarray(value, dtype=float), np.asarray(expected, dtype=float)
    assert value.shape == expected.shape, f"{value.shape} is not {expected.shape}"
    scale = np.abs(expected).max()
    assert scale > 0.0, "nothing to compare: every expected entry is zero"
    return float(np.abs(value - expected).max() / scale)
