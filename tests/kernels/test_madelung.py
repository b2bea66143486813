"""Madelung constants as narrow Gaussians.

Sources: NaCl, CsCl and zincblende: OEIS A085469, A181152, A182566 (energies per ion pair in K/d, d the
nearest distance). Simple cubic with background: Nijboer & Ruijgrok, J. Stat. Phys. 53, 361 (1988),
2.837297479480619... in K/L. The others come from a point-charge Ewald sum in mpmath, 25 digits, written here.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest

import electret
from electret.units import COULOMB_CONSTANT

mpmath = pytest.importorskip("mpmath", reason="mpmath gives the constants without a table")

K = COULOMB_CONSTANT
FCC = np.array([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
IDEAL = math.sqrt(8 / 3)

# structure: lattice rows and fractional positions (lattice constant 1), charges
STRUCTURES = {
    "NaCl": (FCC, [[0, 0, 0], [0.5, 0.5, 0.5]], [1, -1]),
    "CsCl": (np.eye(3), [[0, 0, 0], [0.5, 0.5, 0.5]], [1, -1]),
    "zincblende": (FCC, [[0, 0, 0], [0.25, 0.25, 0.25]], [1, -1]),
    "wurtzite": (
        np.array([[0.5, -math.sqrt(0.75), 0], [0.5, math.sqrt(0.75), 0], [0, 0, IDEAL]]),
        [[1 / 3, 2 / 3, 0], [2 / 3, 1 / 3, 0.5], [1 / 3, 2 / 3, 0.375], [2 / 3, 1 / 3, 0.875]],
        [1, 1, -1, -1],
    ),
    "fluorite": (FCC, [[0, 0, 0], [0.25, 0.25, 0.25], [0.75, 0.75, 0.75]], [2, -1, -1]),
    "perovskite": (
        np.eye(3),
        [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]],
        [2, 4, -2, -2, -2],
    ),
    "cuprite": (
        np.eye(3),
        [
            [0, 0, 0],
            [0.5, 0.5, 0.5],
            [0.25, 0.25, 0.25],
            [0.75, 0.75, 0.25],
            [0.75, 0.25, 0.75],
            [0.25, 0.75, 0.75],
        ],
        [-2, -2, 1, 1, 1, 1],
    ),
}
LITERATURE = {  # energy per cell in K / d with d the nearest distance of the lattice-constant-1 structure
    "NaCl": (1.7475645946331821906, 0.5),
    "CsCl": (1.7626747730709883979, math.sqrt(3) / 2),
    "zincblende": (1.6380550533887894237, math.sqrt(3) / 4),
}


@cache
def point_charge_energy(name: str) -> float:
    """Energy per cell in K per lattice constant, by an Ewald sum over points in 25 digits."""
    lattice, fractional, charges = STRUCTURES[name]
    lattice = np.asarray(lattice, dtype=float)
    r = np.asarray(fractional, dtype=float) @ lattice
    volume = abs(np.linalg.det(lattice))
    reciprocal = 2 * np.pi * np.linalg.inv(lattice).T
    with mpmath.workdps(25):
        alpha = mpmath.mpf(math.sqrt(math.pi)) / mpmath.mpf(volume) ** (mpmath.mpf(1) / 3)
        shells = range(-5, 6)
        grid = [(a, b, c) for a in shells for b in shells for c in shells]
        total = mpmath.mpf(0)
        for i, q_i in enumerate(charges):
            for j, q_j in enumerate(charges):
                for n in grid:
                    d = float(np.linalg.norm(r[i] - r[j] + np.array(n) @ lattice))
                    if 1e-9 < d * float(alpha) < 7:
                        total += q_i * q_j * mpmath.erfc(alpha * d) / (2 * d)
            total -= q_i**2 * alpha / mpmath.sqrt(mpmath.pi)
        for n in grid:
            k = np.array(n) @ reciprocal
            k2 = float(k @ k)
            if 0 < k2 < 4 * float(alpha) ** 2 * 45:
                rho = sum(q * np.exp(1j * (k @ x)) for q, x in zip(charges, r, strict=True))
                total += 2 * mpmath.pi / volume / k2 * mpmath.exp(-k2 / (4 * alpha**2)) * abs(rho) ** 2
        return float(total)


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("method", ["ewald", "mesh", "auto"])
def test_madelung_constant(name, method):
    lattice, fractional, charges = STRUCTURES[name]
    a = 8.0
    cell = a * np.asarray(lattice, dtype=float)
    energy = electret.coulomb(
        np.asarray(fractional, dtype=float) @ cell,
        np.asarray(charges)[:, None],
        sigma=0.2,
        cell=cell,
        pbc=True,
        self_interaction=False,
        method=method,
        accuracy=1e-12,
    ).energy[0]
    expected = point_charge_energy(name) * K / a
    assert abs(expected) > 1.0
    assert energy == pytest.approx(expected, rel=1e-10)
    if name in LITERATURE:
        madelung, nearest = LITERATURE[name]
        assert energy == pytest.approx(-madelung * K / (nearest * a), rel=1e-10)


@pytest.mark.parametrize("method", ["ewald", "mesh", "auto"])
@pytest.mark.parametrize("sigma", [0.2, 0.35])
def test_charged_simple_cubic_with_background(sigma, method):
    """Point charges give -2.8373 K q²/(2 L). The background adds 2 pi K q² sigma²/V."""
    length, q = 6.0, 1.7
    settings = {"self_interaction": False, "method": method, "accuracy": 1e-12}
    energy = electret.coulomb([[0.4, 1.0, 2.0]], [[q]], sigma, [length] * 3, True, **settings).energy[0]
    expected = K * q**2 * (-2.837297479480619476666 / (2 * length) + 2 * math.pi * sigma**2 / length**3)
    assert energy == pytest.approx(expected, rel=1e-10)
