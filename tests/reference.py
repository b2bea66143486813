"""Slow, independent electrostatics of Gaussian multipoles: quadrature of the Fourier integrals, numpy only.

Nothing is shared with the package but the conventions (``docs/conventions.md``). Every boundary is one
weighted sum over wave vectors, ``U(q, p) = sum_k W(k) Re[conj(chi_q(k)) rho_p(k)]``:

* periodic axes: the reciprocal lattice; k = 0 left out with three of them;
* open axes: trapezoidal rule, exact to rounding when the spacing 2 pi / L has L beyond the reach of the
  kernel. If the wave vector has no component along the periodic axes the kernel has a long tail and is cut
  at a radius R that contains all atoms with their tails: sheet -2 pi |z| and line -2 ln(rho / Å), whose
  transforms on [0, R] are elementary;
* no periodic axis: spherical quadrature of 1/k², Gauss-Legendre in k and cos(theta), trapezoidal in phi.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import gamma, j0, j1

K = 14.3996454784255  # eV Å / e²


def double_factorial(n: int) -> int:
    return math.prod(range(n, 0, -2)) if n > 0 else 1


def solid_harmonics(r: np.ndarray, max_l: int) -> np.ndarray:
    """Racah solid harmonics C_lm(r), [..., (max_l + 1)**2], real, without Condon-Shortley sign."""
    x, y, z = np.moveaxis(np.asarray(r, dtype=float), -1, 0)
    r2 = x * x + y * y + z * z
    out = np.empty((*x.shape, (max_l + 1) ** 2))
    for m in range(max_l + 1):
        azimuth = (x + 1j * y) ** m
        previous, current = np.zeros_like(x), np.full_like(x, float(double_factorial(2 * m - 1)))
        for l in range(m, max_l + 1):
            if l > m:
                following = ((2 * l - 1) * z * current - (l + m - 1) * r2 * previous) / (l - m)
                previous, current = current, following
            norm = math.sqrt((1 if m == 0 else 2) * math.factorial(l - m) / math.factorial(l + m))
            out[..., l * l + l + m] = norm * current * azimuth.real
            if m:
                out[..., l * l + l - m] = norm * current * azimuth.imag
    return out


def orders(max_l: int) -> np.ndarray:
    return np.repeat(np.arange(max_l + 1), 2 * np.arange(max_l + 1) + 1)


def receiver_ratio(width: float, max_l: int, normalization: str) -> np.ndarray:
    """Factor from the unit-moment multipole to the receiver of the same width, [n_lm]."""
    l = orders(max_l)
    if normalization == "multipoles":
        return np.ones(len(l))

    def radial(n):  # integral of r**n exp(-r²/2 width²)
        return 2 ** ((n - 1) / 2) * width ** (n + 1) * gamma((n + 1) / 2)

    return np.sqrt(4 * np.pi / (2 * l + 1)) * radial(2 * l + 2) / radial(l + 2)


def self_potential(sigma_a: float, sigma_b: float, max_l: int) -> np.ndarray:
    """Diagonal of the interaction of two concentric unit-moment multipoles, [n_lm]."""
    l = orders(max_l)
    odd = np.array([double_factorial(2 * int(n) + 1) for n in l])
    return K * math.sqrt(2 / math.pi) / (odd * math.sqrt(sigma_a**2 + sigma_b**2) ** (2 * l + 1))


@dataclass
class Quadrature:
    """Wave vectors [n, 3] and weights [n] of U = sum_k W Re[conj(chi) rho]."""

    k: np.ndarray
    weight: np.ndarray


def quadrature(cell, pbc, k_max: float, reach: float) -> Quadrature:
    """Nodes for k up to `k_max`; `reach` is the diameter of the density with its tails."""
    pbc = np.asarray(pbc, dtype=bool)
    d = int(pbc.sum())
    if d == 0:
        return _spherical(k_max, reach)
    lattice = np.asarray(cell, dtype=float)[pbc]  # [d, 3]
    measure = math.sqrt(np.linalg.det(lattice @ lattice.T))
    reciprocal = 2 * np.pi * np.linalg.pinv(lattice).T  # [d, 3]
    counts = [math.floor(k_max * np.linalg.norm(a) / (2 * np.pi)) for a in lattice]
    grid = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in counts], indexing="ij"), axis=-1)
    k_periodic = grid.reshape(-1, d) @ reciprocal
    k_periodic = k_periodic[np.linalg.norm(k_periodic, axis=1) <= k_max]
    zero = np.linalg.norm(k_periodic, axis=1) < 1e-9
    if d == 3:
        k = k_periodic[~zero]
        return Quadrature(k, 4 * np.pi * K / measure / (k**2).sum(1))
    open_axes = np.linalg.svd(lattice)[2][d:]  # [3 - d, 3] orthonormal
    # across the open axes the slowest decay is exp(-k distance) with the smallest periodic k
    slowest = np.linalg.norm(k_periodic[~zero], axis=1).min()
    length = max(2.0 * reach, reach + 42.0 / slowest)
    step = 2 * np.pi / length
    n = math.floor(k_max / step)
    axis = step * np.arange(-n, n + 1)
    k_open = np.stack(np.meshgrid(*[axis] * (3 - d), indexing="ij"), axis=-1).reshape(-1, 3 - d) @ open_axes
    k2_open = (k_open**2).sum(1)
    ks, weights = [], []
    for k_parallel, is_zero in zip(k_periodic, zero, strict=True):
        k2 = (k_parallel**2).sum() + k2_open
        keep = k2 <= k_max**2
        kernel = _cut_kernel(np.sqrt(k2_open[keep]), reach, d) if is_zero else 4 * np.pi / k2[keep]
        ks.append(k_parallel + k_open[keep])
        weights.append(K / measure * (step / (2 * np.pi)) ** (3 - d) * kernel)
    return Quadrature(np.concatenate(ks), np.concatenate(weights))


def _cut_kernel(k: np.ndarray, radius: float, d: int) -> np.ndarray:
    """Transform of -2 pi |z| (d = 2) or -2 ln(rho) (d = 1) on [0, radius]."""
    zero = k < 1e-12
    safe = np.where(zero, 1.0, k)
    u = safe * radius
    if d == 2:
        kernel = -4 * np.pi * (radius * np.sin(u) / safe + (np.cos(u) - 1) / safe**2)
        return np.where(zero, -2 * np.pi * radius**2, kernel)
    kernel = 4 * np.pi / safe**2 * (1 - j0(u) - u * math.log(radius) * j1(u))
    return np.where(zero, np.pi * radius**2 * (1 - 2 * math.log(radius)), kernel)


def _spherical(k_max: float, reach: float) -> Quadrature:
    n_k = n_theta = int(0.5 * k_max * reach) + 40
    nodes, w_k = np.polynomial.legendre.leggauss(n_k)
    k, w_k = 0.5 * k_max * (nodes + 1), 0.5 * k_max * w_k
    mu, w_mu = np.polynomial.legendre.leggauss(n_theta)
    n_phi = 2 * n_theta
    phi = 2 * np.pi * np.arange(n_phi) / n_phi
    s = np.sqrt(1 - mu**2)[:, None]
    z = np.broadcast_to(mu[:, None], (n_theta, n_phi))
    direction = np.stack([s * np.cos(phi), s * np.sin(phi), z], axis=-1).reshape(-1, 3)
    # d³k / (2 pi)³ 4 pi / k² = dk dOmega / (2 pi²)
    angular = np.repeat(w_mu, n_phi) * 2 * np.pi / n_phi
    weight = K / (2 * np.pi**2) * w_k[:, None] * angular
    return Quadrature((k[:, None, None] * direction).reshape(-1, 3), weight.reshape(-1))


@dataclass
class Reference:
    """Results with self-interaction; `self_energy` and `self_features` are what excluding it removes."""

    energy: float
    potential: np.ndarray  # [n_atoms, n_lm]
    forces: np.ndarray  # [n_atoms, 3]
    features: np.ndarray  # [n_atoms, n_widths, n_features_lm]
    self_energy: float
    self_features: np.ndarray
    at_points: np.ndarray | None = None  # [n_points]


def electrostatics(
    positions,
    multipoles,
    sigma,
    cell=None,
    pbc=(False, False, False),
    widths=(1.5,),
    features_max_l: int = 1,
    normalization: str = "receiver",
    points=None,
    chunk: int = 40_000,
) -> Reference:
    """Energy, potential, forces, features and potential at points of one system by brute force."""
    r = np.asarray(positions, dtype=float)
    p = np.asarray(multipoles, dtype=float)
    n, n_lm = p.shape
    max_l = math.isqrt(n_lm) - 1
    sigma = np.broadcast_to(np.asarray(sigma, dtype=float), (n,))
    widths = np.asarray(widths, dtype=float)
    top_l = max(max_l, features_max_l)
    # the product of two forms exp(-k² s²) k^(2l) falls below 1e-17; receivers may be narrower than sources
    narrow = math.sqrt(0.5 * (sigma.min() ** 2 + min(sigma.min(), widths.min()) ** 2))
    if points is not None:
        narrow = sigma.min() / math.sqrt(2)
    k_max = (6.4 + 0.35 * top_l) / narrow
    everything = r if points is None else np.concatenate([r, np.asarray(points, dtype=float)])
    # difference vectors reach over the extent plus the tails of both Gaussians
    wide = math.sqrt(sigma.max() ** 2 + max(sigma.max(), widths.max()) ** 2)
    extent = np.linalg.norm(everything[:, None] - everything[None], axis=-1).max()
    q = quadrature(cell, pbc, k_max, extent + 9.5 * wide)

    l = orders(top_l)
    phase = (-1j) ** l / np.array([double_factorial(2 * int(i) - 1) for i in l])
    potential, forces = np.zeros((n, n_lm)), np.zeros((n, 3))
    n_flm = (features_max_l + 1) ** 2
    features = np.zeros((n, len(widths), n_flm))
    energy = 0.0
    at_points = None if points is None else np.zeros(len(points))
    for start in range(0, len(q.k), chunk):
        k, w = q.k[start : start + chunk], q.weight[start : start + chunk]
        k2 = (k**2).sum(1)
        form = phase * solid_harmonics(k, top_l)  # [k, lm]
        wave = np.exp(-1j * k @ r.T)  # [k, atom]
        damped = wave * np.exp(-0.5 * k2[:, None] * sigma**2)
        per_atom = damped * (form[:, :n_lm] @ p.T)  # [k, atom]
        rho = per_atom.sum(1)
        field = w * rho
        energy += 0.5 * float((w * np.abs(rho) ** 2).sum())
        potential += ((damped.conj() * field[:, None]).T @ form[:, :n_lm].conj()).real
        # E depends on r_i through exp(-i k r_i): dE/dr_i = Re sum W conj(-i k rho_i) rho
        forces -= ((1j * per_atom.conj() * field[:, None]).T @ k).real
        for s, width in enumerate(widths):
            receiver = wave.conj() * (np.exp(-0.5 * k2 * width**2) * field)[:, None]
            features[:, s] += (receiver.T @ form[:, :n_flm].conj()).real
        if points is not None:
            at_points += (np.exp(1j * np.asarray(points) @ k.T) @ field).real
    self_diagonal = np.array([self_potential(s, s, max_l) for s in sigma])
    common = min(n_lm, n_flm)
    self_features = np.zeros_like(features)
    for s, width in enumerate(widths):
        ratio = receiver_ratio(width, features_max_l, normalization)
        features[:, s] *= ratio
        diagonal = np.array([self_potential(a, width, top_l)[:common] for a in sigma])
        self_features[:, s, :common] = ratio[:common] * diagonal * p[:, :common]
    return Reference(
        energy=energy,
        potential=potential,
        forces=forces,
        features=features,
        self_energy=0.5 * float((self_diagonal * p**2).sum()),
        self_features=self_features,
        at_points=at_points,
    )
