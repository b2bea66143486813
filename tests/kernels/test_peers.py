"""Agreement with independent codes: graph-longrange 0.4.4 and pyscf's integrals."""

from __future__ import annotations

import math

import numpy as np
import pytest

import electret
from electret.units import COULOMB_CONSTANT as K
from random_systems import random_system, relative

TIGHT = 1e-12
BAR = 1e-7
CUBIC_MADELUNG = 2.837297  # the peer's rounding of 2.8372974794806


@pytest.fixture(scope="module")
def peer_module():
    pytest.importorskip(
        "graph_longrange", reason="graph-longrange is not installed: pip install electret[peers]"
    )
    import graph_longrange_peer

    return graph_longrange_peer


def common_width(seed: int, neutral: bool, max_l: int = 1, length: float | None = None) -> tuple[dict, float]:
    system = random_system(seed, "xyz", n=5, max_l=max_l, neutral=neutral)
    del system["pbc"]
    if length is not None:
        system["cell"] = np.eye(3) * length
    system["sigma"] = 0.9
    return system, 0.9


def compare(system, peer, **settings):
    """Energies, gradients and features of both codes; returns electret's energy."""
    given = {**system, **settings, "accuracy": TIGHT}
    ours = electret.coulomb(**given)
    energy, gradient, potential = peer.energy_and_gradients(
        system["positions"], system["multipoles"], system["cell"]
    )
    assert np.abs(ours.energy).max() > 0.1
    assert relative(energy, ours.energy) < BAR
    assert relative(-gradient, ours.forces) < BAR
    assert relative(potential, ours.potential) < BAR
    ours_v = electret.features(**given, widths=peer.widths, features_max_l=1, self_interaction=True)
    theirs = peer.features(system["positions"], system["multipoles"], system["cell"])
    assert relative(theirs, ours_v) < BAR
    return ours


@pytest.mark.parametrize("neutral", [True, False])
@pytest.mark.parametrize("max_l", [0, 1])
def test_periodic(peer_module, max_l, neutral):
    system, sigma = common_width(81, neutral, max_l)
    compare(system, peer_module.Peer(sigma, max_l), pbc=True)


def test_periodic_without_self_interaction(peer_module):
    system, sigma = common_width(82, neutral=False)
    peer = peer_module.Peer(sigma, self_interaction=False)
    energy = peer.energy_and_gradients(system["positions"], system["multipoles"], system["cell"])[0]
    ours = electret.coulomb(**system, pbc=True, self_interaction=False, accuracy=TIGHT).energy
    # the peer integrates its self-interaction by the trapezoidal rule, which costs it some digits
    assert relative(energy, ours) < 1e-6


SLAB = np.array([[5.5, 0.4, 0.0], [-0.8, 6.0, 0.0], [0.0, 0.0, 12.0]])


@pytest.mark.parametrize("neutral", [True, False])
def test_slab_dipole_correction(peer_module, neutral):
    """The peer has the term of the dipole alone. The terms of the charge are added here: the second moment
    q (z² + sigma²) + 2 d z by hand; of a neutral slab they are a constant potential."""
    system, sigma = common_width(83, neutral)
    system["cell"] = SLAB
    peer = peer_module.Peer(sigma, handling="slab")
    energy, gradient, potential = peer.energy_and_gradients(system["positions"], system["multipoles"], SLAB)
    q, d, z = system["multipoles"][:, 0], system["multipoles"][:, 2], system["positions"][:, 2]
    charge, second = q.sum(), (q * (z**2 + sigma**2) + 2 * d * z).sum()
    factor = 2 * math.pi * K / np.linalg.det(SLAB)
    energy = energy - factor * (charge * second + charge**2 * 12.0**2 / 12)
    potential[:, 0] -= factor * (second + charge * (z**2 + sigma**2) + charge * 12.0**2 / 6)
    potential[:, 2] -= factor * charge * 2 * z
    gradient[:, 2] -= factor * charge * 2 * (q * z + d)
    assert abs(factor * second) > 0.1
    ours = electret.coulomb(
        **system, pbc=(True, True, False), boundary="slab_dipole_correction", accuracy=TIGHT
    )
    assert abs(ours.dipole[0, 2]) > 0.1
    assert energy == pytest.approx(ours.energy, rel=5 * BAR)
    assert relative(potential, ours.potential) < BAR
    assert relative(-gradient, ours.forces) < BAR


def test_molecule_in_box_neutral(peer_module):
    system, sigma = common_width(84, neutral=True, length=11.0)
    compare(system, peer_module.Peer(sigma, handling="molecule_in_box"), boundary="molecule_in_box")


def test_molecule_in_box_charged(peer_module):
    """The peer writes the box length as V**0.3333, so its monopole term carries L**1e-4, and its second
    moment has no widths: both put back here."""
    system, sigma = common_width(85, neutral=False, length=11.0)
    peer = peer_module.Peer(sigma, handling="molecule_in_box")
    energy, gradient, _ = peer.energy_and_gradients(system["positions"], system["multipoles"], system["cell"])
    charge = system["multipoles"][:, 0].sum()
    assert abs(charge) > 0.3
    volume = 11.0**3
    energy = energy + 0.5 * K * charge**2 * (2.8372974794806 / 11.0 - CUBIC_MADELUNG / volume**0.3333)
    energy = energy - 2 * math.pi * K / volume * charge**2 * sigma**2
    ours = electret.coulomb(**system, boundary="molecule_in_box", accuracy=TIGHT)
    assert relative(energy, ours.energy) < BAR
    assert relative(-gradient, ours.forces) < BAR


@pytest.mark.parametrize("max_l", [0, 1, 2])
def test_pyscf_integrals_of_overlapping_gaussians(max_l):
    """Two-centre Coulomb integrals (i|j) of normalised s, p, d Gaussians, exponent 1 / (2 sigma²).

    pyscf works in atomic units with functions normalised to unit norm; ours have unit multipole moment. With
    lengths read as Å the integrals are in 1/Å and K makes them eV.
    """
    gto = pytest.importorskip("pyscf.gto", reason="pyscf is not installed: pip install electret[peers]")
    system = random_system(86, "", n=4, max_l=max_l)
    positions = 0.4 * system["positions"]  # overlapping
    sigma = system["sigma"]
    basis = {f"H{i}": [[l, [0.5 / s**2, 1.0]] for l in range(max_l + 1)] for i, s in enumerate(sigma)}
    mol = gto.M(
        atom=[(f"H{i}", r) for i, r in enumerate(positions)],
        basis=basis,
        unit="Bohr",
        charge=len(sigma),  # no electrons: integrals only
        verbose=0,
    )
    integrals = mol.intor("int2c2e_sph")
    # pyscf orders p as (x, y, z); ours is (y, z, x); d and s agree
    order, scale = [], []
    for s in sigma:
        start = len(order)
        local = [0, 2, 3, 1, 4, 5, 6, 7, 8][: (max_l + 1) ** 2]
        order += [start + i for i in local]
        for l in range(max_l + 1):
            odd = math.prod(range(2 * l + 1, 0, -2))
            # unit norm: N² I_(2l+2)(sigma/sqrt 2) = 1; unit moment: M sqrt(4 pi/(2l+1)) I_(2l+2)(sigma) = 1
            radial = odd * math.sqrt(math.pi / 2)
            unit_norm = 1 / math.sqrt(radial * (s / math.sqrt(2)) ** (2 * l + 3))
            unit_moment = 1 / (math.sqrt(4 * math.pi / (2 * l + 1)) * radial * s ** (2 * l + 3))
            scale += [unit_moment / unit_norm] * (2 * l + 1)
    scale = np.array(scale)
    expected = K * scale[:, None] * integrals[np.ix_(order, order)] * scale
    # dE/dp is linear in p: its columns are the potentials of single coefficients
    n_lm = (max_l + 1) ** 2
    units = np.eye(len(sigma) * n_lm).reshape(-1, len(sigma), n_lm)
    matrix = np.stack([electret.coulomb(positions, p, sigma).potential.ravel() for p in units], axis=1)
    assert relative(matrix, expected) < 1e-10
