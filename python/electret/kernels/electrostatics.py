"""Electrostatics of Gaussian multipoles in numpy: energy, potential, forces, stress, features.

The density is ``rho(r) = sum_i sum_lm p[i, lm] phi_lm(r - r_i; sigma_i)`` with unit-moment Gaussian
multipoles (``docs/conventions.md``); coefficients are ordered ``lm = l*l + l + m``, so that l = 1 is (y, z,
x). The boundary follows from `pbc`: periodic, slab, wire or open along any axes, without image or background
artefacts along open ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from electret import _native
from electret.errors import InputError
from electret.kernels import external_field as fields
from electret.kernels import inputs
from electret.kernels.arguments import Sources, Systems
from electret.kernels.inputs import FloatArray
from electret.kernels.shapes import with_shapes


@dataclass(frozen=True, repr=False)
class CoulombResult:
    """Result of :func:`coulomb`.

    Attributes:
        energy: ``[n_systems]`` in eV.
        potential: ``[n_atoms, n_lm]`` derivative dE/dp in eV per unit of each coefficient (V, V/Å, ...).
        forces: ``[n_atoms, 3]`` in eV/Å at fixed multipoles.
        virial: ``[n_systems, 3, 3]`` in eV, minus the derivative of the energy in a symmetric strain of
            positions and cell at fixed Cartesian multipoles (the sign of "virials" in extxyz files); defined
            without a volume too.
        dipole: ``[n_systems, 3]`` total dipole ``sum(q r + d)`` as (x, y, z) in e·Å, with the positions as
            given.
        cell: ``[n_systems, 3, 3]`` in Å, as used.
    """

    energy: FloatArray
    potential: FloatArray
    forces: FloatArray
    virial: FloatArray
    dipole: FloatArray
    cell: FloatArray

    def __repr__(self) -> str:
        return with_shapes(self)

    @property
    def stress(self) -> FloatArray:
        """``[n_systems, 3, 3]`` strain derivative of the energy per volume in eV/Å³ (the sign of ASE).

        Raises:
            InputError: a system has no volume, because its cell lacks a vector; use `virial` there.
        """
        volume = np.abs(np.linalg.det(self.cell))  # [n_systems]
        flat = volume <= 1e-12 * np.prod(np.linalg.norm(self.cell, axis=2), axis=1)
        if flat.any():
            system = int(np.argmax(flat))
            raise InputError(
                f"cell[{system}] has no volume, so its stress is undefined; use result.virial (eV), "
                "or give all three cell vectors"
            )
        return -self.virial / volume[:, None, None]


@inputs.refuses(**inputs.ON_THE_CPU)
def coulomb(
    positions: ArrayLike,
    multipoles: ArrayLike,
    sigma: ArrayLike = 1.0,
    cell: ArrayLike | None = None,
    pbc: ArrayLike = False,
    batch: ArrayLike | None = None,
    external_field: ArrayLike | None = None,
    self_interaction: bool = True,
    boundary: str | None = None,
    method: str = "auto",
    accuracy: float = 1e-8,
) -> CoulombResult:
    """Electrostatic energy of Gaussian multipoles and its first derivatives.

    Args:
        positions: ``[n_atoms, 3]`` in Å. Zero atoms have zero energy.
        multipoles: ``[n_atoms, (max_l + 1)**2]`` in e·Å^l; l = 1 in the order (y, z, x).
        sigma: Gaussian width in Å, one or ``[n_atoms]``.
        cell: None, ``[3]`` lengths, ``[3, 3]`` rows, or ``[n_systems, 3, 3]``, in Å.
        pbc: one flag, ``[3]`` or ``[n_systems, 3]``. Charged systems get a neutralising background along
            three periodic axes only.
        batch: ``[n_atoms]`` system of each atom, in any order.
        external_field: ``[3]`` or ``[n_systems, 3]`` field F in V/Å with energy -F·D. Along a periodic axis
            the dipole D, and so the energy, depends on which images `positions` holds: keep them unwrapped
            along a trajectory.
        self_interaction: include each Gaussian's interaction with itself.
        boundary: None follows `pbc`; "slab_dipole_correction" and "molecule_in_box" give the
            three-dimensional sum with the correction of that name, for comparison with other codes.
        method: "auto" (the cheapest), "direct" (pairs, open systems only), "reciprocal", "ewald", or "mesh",
            a particle mesh with B-splines of the best order; "mesh-8" takes order 8 (4 to 16, at least 4 more
            than the highest multipole order).
        accuracy: requested relative accuracy; for a mesh the relative RMS error of the forces.

    Raises:
        InputError: an argument cannot be used; the message names array, index, value and remedy.

    Example:
        Two opposite unit charges, 3 Å apart, as point charges would have it (-K / r) but for the tails:

        >>> import electret
        >>> r = electret.coulomb([[0, 0, 0], [0, 0, 3]], [[1], [-1]], sigma=0.3, self_interaction=False)
        >>> r.energy.round(4)
        array([-4.7999])
        >>> r.dipole
        array([[ 0.,  0., -3.]])
    """
    options = inputs.options(boundary, method, accuracy, self_interaction=self_interaction)
    s = inputs.systems(positions, cell, pbc, batch)
    sources = inputs.sources(multipoles, sigma, s.n_atoms)
    f = inputs.field(external_field, s.n_systems)
    energy, potential, gradient, cell_gradient = _native.coulomb(s, sources, options, True)
    p = sources.multipoles
    dipole = _sum(s, fields.atomic_dipole(s.positions, p))
    inputs.require_finite("dipole", dipole)
    if f is not None:
        energy = energy - np.einsum("sx,sx->s", f, dipole)
        potential = potential + fields.potential(s.positions, s.batch, f, p.shape[1])
        gradient = gradient - p[:, :1] * f[s.batch]
    inputs.require_finite("energy", energy)
    inputs.require_finite("forces", gradient)
    inputs.require_finite("potential", potential)
    # r' = r (1 + strain): dE/dstrain = r^T dE/dr + cell^T dE/dcell
    if s.n_systems == 1:
        of_positions = s.positions.T @ gradient
    else:
        products = s.positions[:, :, None] * gradient[:, None, :]  # [n_atoms, 3, 3]
        of_positions = _sum(s, products.reshape(-1, 9)).reshape(-1, 3, 3)
    strain = of_positions + s.cell.transpose(0, 2, 1) @ cell_gradient  # [n_systems, 3, 3]
    virial = -0.5 * (strain + strain.transpose(0, 2, 1))
    inputs.require_finite("virial", virial)
    return CoulombResult(energy, potential, -gradient, virial, dipole, s.cell)


def _sum(systems: Systems, values: FloatArray) -> FloatArray:
    """Sum of per-atom values ``[n_atoms, n]`` over the atoms of each system, ``[n_systems, n]``."""
    if systems.n_systems == 1:
        return values.sum(axis=0)[None]
    columns = [np.bincount(systems.batch, column, systems.n_systems) for column in values.T]
    return np.stack(columns, axis=1)


@inputs.refuses(**inputs.ON_THE_CPU, max_l=inputs.RECEIVER_ORDER)
def features(
    positions: ArrayLike,
    multipoles: ArrayLike,
    sigma: ArrayLike = 1.0,
    widths: Sequence[float] | FloatArray = (1.5, 3.0),
    features_max_l: int = 1,
    normalization: str = "receiver",
    self_interaction: bool = False,
    cell: ArrayLike | None = None,
    pbc: ArrayLike = False,
    batch: ArrayLike | None = None,
    external_field: ArrayLike | None = None,
    boundary: str | None = None,
    method: str = "auto",
    accuracy: float = 1e-8,
    receivers: ArrayLike | None = None,
    receivers_batch: ArrayLike | None = None,
) -> FloatArray:
    """Projections of the electrostatic potential on Gaussian receivers at each atom, or at other points.

    Args:
        widths: receiver widths s in Å.
        features_max_l: highest order of the receivers.
        normalization: "receiver" (unit integral of ``r**(l+2) exp(-r**2/2s**2)``; the l = 0 value is sqrt(4
            pi) times the smeared potential) or "multipoles" (unit moment: at s = sigma these are dE/dp).
        self_interaction: include the potential of each atom's own density on its own receivers.
        external_field: adds the projections of the potential -F·r.
        receivers: ``[n_receivers, 3]`` in Å, where the receivers are in place of the atoms, which then are
            sources alone. Pairs of receivers cost time as pairs of atoms do.
        receivers_batch: ``[n_receivers]`` system of each receiver; None for one system.

    The other arguments are those of :func:`coulomb`.

    Returns:
        ``[n_atoms or n_receivers, n_widths, (features_max_l + 1)**2]`` in V (times powers of Å by order and
        normalisation).

    Raises:
        InputError: an argument cannot be used; the message names array, index, value and remedy.

    Example:
        >>> import electret
        >>> v = electret.features([[0, 0, 0], [0, 0, 3]], [[1], [-1]], widths=[1.5, 3.0], features_max_l=1)
        >>> v.shape
        (2, 2, 4)
    """
    options = inputs.options(boundary, method, accuracy, self_interaction=self_interaction)
    s = inputs.systems(positions, cell, pbc, batch)
    sources = inputs.sources(multipoles, sigma, s.n_atoms)
    f = inputs.field(external_field, s.n_systems)
    projected = inputs.receivers(widths, features_max_l, normalization)
    n_sources = 0
    if receivers is not None:  # atoms without a density
        r = inputs.points("receivers", receivers)
        index = inputs.labels("receivers_batch", receivers_batch, len(r), s.n_systems)
        n_sources = s.n_atoms
        s = s._replace(positions=np.concatenate([s.positions, r]), batch=np.concatenate([s.batch, index]))
        p, spread = sources
        sources = Sources(
            np.concatenate([p, np.zeros((len(r), p.shape[1]))]),
            np.concatenate([spread, np.full(len(r), spread.max(initial=0.0) or 1.0)]),
        )
    elif receivers_batch is not None:
        raise InputError("receivers_batch is given without receivers; give their positions, or batch")
    values = _native.features(s, sources, projected, options)
    if f is not None:
        values = values + fields.features(s.positions, s.batch, f, projected)
    inputs.require_finite("features", values)
    return values[n_sources:]


@inputs.refuses(**inputs.ON_THE_CPU)
def potential(
    points: ArrayLike,
    positions: ArrayLike,
    multipoles: ArrayLike,
    sigma: ArrayLike = 1.0,
    cell: ArrayLike | None = None,
    pbc: ArrayLike = False,
    batch: ArrayLike | None = None,
    points_batch: ArrayLike | None = None,
    external_field: ArrayLike | None = None,
    boundary: str | None = None,
    method: str = "auto",
    accuracy: float = 1e-8,
) -> FloatArray:
    """Electrostatic potential of the Gaussian multipoles at arbitrary points.

    Args:
        points: ``[n_points, 3]`` in Å.
        points_batch: ``[n_points]`` system of each point; None for one system.

    The other arguments are those of :func:`coulomb`.

    Returns:
        ``[n_points]`` in V (the energy of a unit charge there, in eV/e).

    Raises:
        InputError: an argument cannot be used; the message names array, index, value and remedy.

    Example:
        >>> import electret
        >>> electret.potential([[0, 0, 5]], [[0, 0, 0]], [[1]], sigma=0.5).round(6)
        array([2.879929])
    """
    options = inputs.options(boundary, method, accuracy)
    s = inputs.systems(positions, cell, pbc, batch)
    sources = inputs.sources(multipoles, sigma, s.n_atoms)
    f = inputs.field(external_field, s.n_systems)
    r = inputs.points("points", points)
    index = inputs.labels("points_batch", points_batch, r.shape[0], s.n_systems)
    values = _native.potential(s, sources, options, r, index)
    if f is not None:
        values = values + fields.potential(r, index, f, 1)[:, 0]
    inputs.require_finite("potential", values)
    return values
