"""Conductors and insulators in a field, and how polarisability grows with length, against plain numpy."""

import itertools
import math

import numpy as np
import pytest
import torch

from solvable import (
    CARTESIAN,
    FixedPoint,
    Functional,
    K,
    charge_matrix,
    dipole_matrix,
    electrostatics_of,
    quadratic,
)

FIELD = 0.3  # V/Å


def chain(n: int, spacing: float = 2.5) -> np.ndarray:
    """`n` sites along z."""
    return spacing * np.arange(n)[:, None] * np.array([0.0, 0.0, 1.0])


def cube(n: int, spacing: float = 2.5) -> np.ndarray:
    """Cluster of `n`³ sites of a simple cubic lattice."""
    axis = spacing * (np.arange(n) - (n - 1) / 2)
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)


def layers(n: int, spacing: float) -> tuple[np.ndarray, np.ndarray]:
    """A slab of `n` layers of one atom per cell, and its cell."""
    return chain(n, spacing), np.diag([spacing, spacing, (n + 4) * spacing])


def equilibrated(matrix: np.ndarray, external: np.ndarray, total: float) -> tuple[np.ndarray, float]:
    """Charges and Fermi level with matrix q + external + mu = 0 and sum q = total."""
    n = len(external)
    bordered = np.block([[matrix, np.ones((n, 1))], [np.ones((1, n)), np.zeros((1, 1))]])
    solution = np.linalg.solve(bordered, np.append(-external, total))
    return solution[:n], solution[n]


# --- conductors ---


@pytest.mark.parametrize("total", [0.0, 1.5])
def test_charges_screen_a_field_in_an_open_cluster(total):
    """External: a conductor is an equipotential. With eta_i everywhere, chi_i + v_i + mu = -eta_i q_i
    exactly, and the charges are those of the bordered linear system in closed-form Gaussian integrals."""
    positions, sigma = cube(4), 1.2
    generator = np.random.default_rng(1)
    chi, eta = generator.normal(scale=0.3, size=64), generator.uniform(0.05, 0.2, 64)
    field = np.array([0.1, -0.05, FIELD])
    functional = Functional(
        electrostatics_of(positions, sigma, field=field),
        quadratic(chi[:, None], eta[:, None]),
        quadratic=True,
        total_charge=total,
    )
    state = functional.solve()
    q = state.multipoles[:, 0].numpy()
    matrix = charge_matrix(positions, sigma)
    expected, level = equilibrated(matrix + np.diag(eta), chi - positions @ field, total)
    assert np.abs(q).max() > 0.05
    assert q == pytest.approx(expected, abs=1e-10)
    assert float(state.fermi_level) == pytest.approx(level, abs=1e-9)
    effective = matrix @ q - positions @ field + chi + level
    assert effective == pytest.approx(-eta * q, abs=1e-9)
    assert np.ptp(positions @ field) > 100 * 1e-9


def test_the_field_inside_a_conductor_vanishes():
    """External: inside a conductor the field is zero. With eta -> 0 the potential is the same at every
    site, so that its drop across the cluster falls from F L to nothing, in proportion to eta."""
    positions = cube(5)
    drops = []
    for eta in (1e-1, 1e-2, 1e-3):
        functional = Functional(
            electrostatics_of(positions, 1.2, field=(0.0, 0.0, FIELD)), quadratic(0.0, eta), quadratic=True
        )
        q = functional.solve().multipoles[:, 0].numpy()
        drops.append(np.ptp(charge_matrix(positions, 1.2) @ q - FIELD * positions[:, 2]))
    applied = FIELD * np.ptp(positions[:, 2])
    assert applied == pytest.approx(3.0)
    assert drops[0] < 0.05 * applied
    assert drops[1] / drops[0] == pytest.approx(0.1, rel=0.2)
    assert drops[2] / drops[1] == pytest.approx(0.1, rel=0.05)


def test_a_conducting_slab_carries_the_charge_of_gauss_law():
    """External: Gauss's law, surface charge F / (4 pi K) per area. Sheets of Gaussians as wide as their
    lattice constant are uniform in the plane, so that adding a layer adds exactly F spacing to the drop
    across the slab's plates, and the dipole per area grows by F spacing / (4 pi K) per layer (eta ->
    0)."""
    sigma, spacing, area = 1.2, 3.0, 1.2**2
    dipoles, surface = [], []
    for n in (20, 21):
        positions = chain(n, spacing)
        cell = np.diag([1.2, 1.2, (n + 4) * spacing])
        functional = Functional(
            electrostatics_of(positions, sigma, cell=cell, pbc=(True, True, False), field=(0, 0, FIELD)),
            quadratic(0.0, 1e-7),
            quadratic=True,
        )
        q = functional.solve().multipoles[:, 0].numpy()
        assert np.abs(q).max() > 1e-3
        surface.append(q[n // 2 :].sum() / area)
        dipoles.append(positions[:, 2] @ q / area)
    expected = FIELD / (4 * math.pi * K)
    assert surface[0] == pytest.approx(expected, rel=1e-3)
    assert dipoles[1] - dipoles[0] == pytest.approx(expected * spacing, rel=1e-4)


# --- insulators ---


def test_coupled_dipoles_of_an_open_cluster():
    """External: J. Applequist, J. Am. Chem. Soc. 94, 2952 (1972), coupled dipoles (k + T) d = F, here
    with Gaussian-damped interactions as closed forms; energy -½ F·D."""
    positions = np.random.default_rng(5).normal(scale=2.5, size=(9, 3))
    stiffness = np.random.default_rng(6).uniform(4.0, 12.0, 9)
    field = np.array([0.1, -0.05, FIELD])
    eta = np.repeat(stiffness[:, None], 4, axis=1)
    eta[:, 0] = 1e9  # no charges
    functional = Functional(
        electrostatics_of(positions, 0.9, max_l=1, field=field), quadratic(0.0, eta), quadratic=True
    )
    state = functional.solve()
    d = state.multipoles[:, 1:].numpy()[:, CARTESIAN]
    matrix = dipole_matrix(positions, 0.9) + np.diag(np.repeat(stiffness, 3))
    expected = np.linalg.solve(matrix, np.tile(field, 9)).reshape(-1, 3)
    uncoupled = field / (stiffness[:, None] + K / (6 * math.sqrt(math.pi) * 0.9**3))
    assert np.abs(expected - uncoupled).max() > 1e-3
    assert d == pytest.approx(expected, abs=1e-8)
    assert float(functional.energy(state)) == pytest.approx(-0.5 * field @ d.sum(axis=0), abs=1e-8)


def test_a_dielectric_slab_screens_by_the_clausius_mossotti_constant():
    """External: Clausius-Mossotti, (eps - 1) / (eps + 2) = 4 pi K alpha / (3 V) for a simple cubic
    lattice of dipoles. Deep in a slab the dipole is alpha F (eps + 2) / (3 eps), and the dipole per
    volume gives the field inside, F / eps. A conductor's would be 0."""
    n, spacing, sigma, alpha = 9, 3.0, 0.4, 0.12  # alpha in (e Å)²/eV; K alpha = 1.73 Å^3
    positions, cell = layers(n, spacing)
    own = K / (6 * math.sqrt(math.pi) * sigma**3)
    eta = np.array([1e9, 1, 1, 1]) * (1 / alpha - own)
    electrostatics = electrostatics_of(
        positions, sigma, max_l=1, cell=cell, pbc=(True, True, False), field=(0, 0, FIELD)
    )
    d = Functional(electrostatics, quadratic(0.0, np.tile(eta, (n, 1))), quadratic=True).solve().multipoles
    ratio = 4 * math.pi * K * alpha / (3 * spacing**3)
    dielectric = (1 + 2 * ratio) / (1 - ratio)
    assert dielectric > 1.8
    inner = float(d[n // 2, 2])
    assert inner == pytest.approx(alpha * FIELD * (dielectric + 2) / (3 * dielectric), rel=1e-4)
    inside = FIELD - 4 * math.pi * K * inner / spacing**3
    assert inside == pytest.approx(FIELD / dielectric, rel=1e-4)
    assert float(d[:, 0].abs().max()) < 1e-8


# --- polarisability against length ---

LENGTHS = (8, 16, 32, 64)


def slopes(polarisabilities: list[float]) -> list[float]:
    """Local exponents of the length."""
    return [math.log(b / a) / math.log(2) for a, b in itertools.pairwise(polarisabilities)]


def test_the_polarisability_of_charge_equilibration_grows_as_the_cube_of_the_length():
    """External: the polarisability of a conducting needle of length L is L³ / (24 (ln(L / a) + c))
    (Landau and Lifshitz, Electrodynamics of Continuous Media, §3): exponents rise towards 3 and pass 2.5.
    This is what QEq gives for an insulating chain too (Warren, Davis and Patel, J. Chem. Phys. 128,
    144110 (2008)). Values from the bordered linear system in numpy."""
    found = []
    for n in LENGTHS:
        positions = chain(n)
        functional = Functional(
            electrostatics_of(positions, 1.0, field=(0, 0, FIELD)), quadratic(0.0, 5.0), quadratic=True
        )
        q = functional.solve().multipoles[:, 0].numpy()
        expected, _ = equilibrated(
            charge_matrix(positions, 1.0) + 5 * np.eye(n), -FIELD * positions[:, 2], 0.0
        )
        assert q == pytest.approx(expected, abs=1e-10)
        found.append(q @ positions[:, 2] / FIELD)
    exponents = slopes(found)
    assert exponents == sorted(exponents)
    assert 2.5 < exponents[-1] < 3.0
    assert found[-1] / LENGTHS[-1] > 10 * found[0] / LENGTHS[0]


def test_the_polarisability_of_dipoles_is_linear_in_the_length():
    """External: short-ranged coupling (1 / r³ in one dimension) makes alpha / N converge, to 1 / (k +
    A_ii - 4 K zeta(3) / a³) for point dipoles along a chain. Values by numpy."""
    spacing, sigma, stiffness = 2.5, 0.4, 30.0
    found = []
    for n in LENGTHS:
        positions = chain(n, spacing)
        eta = np.tile([1e9, stiffness, stiffness, stiffness], (n, 1))
        functional = Functional(
            electrostatics_of(positions, sigma, max_l=1, field=(0, 0, FIELD)),
            quadratic(0.0, eta),
            quadratic=True,
        )
        d = functional.solve().multipoles[:, 2].numpy()
        matrix = dipole_matrix(positions, sigma) + stiffness * np.eye(3 * n)
        expected = np.linalg.solve(matrix, np.tile([0, 0, FIELD], n)).reshape(-1, 3)[:, 2]
        assert d == pytest.approx(expected, abs=1e-8)
        found.append(d.sum() / FIELD)
    zeta3 = 1.2020569031595942
    own = K / (6 * math.sqrt(math.pi) * sigma**3)
    limit = 1 / (stiffness + own - 4 * K * zeta3 / spacing**3)
    assert limit > 1.05 / (stiffness + own)
    assert slopes(found)[-1] == pytest.approx(1.0, abs=5e-3)
    assert (found[-1] - found[-2]) / (LENGTHS[-1] - LENGTHS[-2]) == pytest.approx(limit, rel=5e-4)


def test_kinks_in_the_charge_make_a_chain_of_charges_insulating():
    """External: E has a kink of ± gap / 2 at the neutral charge, so no charge moves while the potential
    between the ends stays below the gap: then the chain of charges has no polarisability, and that of its
    dipoles is linear in its length. Without the kink it conducts."""
    spacing, gap, sharpness, field = 2.5, 12.0, 1e5, 0.02
    response, per_length = [], []
    for kink in (gap, 0.0):
        for n in (8, 16, 32):
            positions = chain(n, spacing)
            assert field * np.ptp(positions[:, 2]) < gap

            def energy(p: torch.Tensor, jump: float = kink, b: float = sharpness) -> torch.Tensor:
                q = p[:, 0]
                local = 2.5 * q.square() - 0.5 * jump * q + 3.0 * p[:, 1:].square().sum(dim=1)
                return local + jump * torch.nn.functional.softplus(b * q) / b

            functional = Functional(electrostatics_of(positions, 1.0, max_l=1, field=(0, 0, field)), energy)
            p = functional.solve().multipoles.numpy()
            response.append(np.abs(p[:, 0]).max())
            per_length.append((p[:, 0] @ positions[:, 2] + p[:, 2].sum()) / (field * n))
    assert max(response[:3]) < 1e-4 < 0.01 < max(response[3:])
    assert per_length[2] == pytest.approx(per_length[1], rel=0.1)
    assert per_length[5] > 5 * per_length[3]


# --- fixed points ---


def test_a_fixed_point_can_be_an_insulator_or_a_conductor():
    """The density responds to the potential of all others, p_i = F(v_i + mu), v_i from receivers of width s.
    Without a response of charges, the polarisability is that of coupled dipoles without their own field,
    linear in the length; with it, charge flows over any distance. Values by numpy with T_ij
    of gamma² = sigma² + s²."""
    spacing, sigma, width, alpha, softness = 2.5, 1.0, 1.5, 0.1, 0.1
    insulating, conducting = [], []
    for n in LENGTHS:
        positions = chain(n, spacing)
        electrostatics = electrostatics_of(positions, sigma, max_l=1, field=(0, 0, FIELD), widths=(width,))

        def dipoles(v: torch.Tensor) -> torch.Tensor:
            return torch.cat([torch.zeros_like(v[:, :1]), -alpha * v[:, 1:]], dim=1)

        def charges(v: torch.Tensor) -> torch.Tensor:
            return torch.cat([-softness * v[:, :1], torch.zeros_like(v[:, 1:])], dim=1)

        d = FixedPoint(electrostatics, dipoles, affine=True, fermi_level=0.0).solve().multipoles.numpy()
        matrix = dipole_matrix(positions, sigma, width)
        matrix -= np.kron(np.eye(n), np.ones((3, 3))) * matrix  # without their own field
        expected = np.linalg.solve(np.eye(3 * n) + alpha * matrix, np.tile([0, 0, alpha * FIELD], n))
        assert np.abs(expected).max() > 1e-3
        assert d[:, 1:][:, CARTESIAN].ravel() == pytest.approx(expected, abs=1e-9)
        assert np.abs(d[:, 0]).max() == 0.0
        insulating.append(d[:, 2].sum() / FIELD)

        q = FixedPoint(electrostatics, charges, affine=True).solve().multipoles[:, 0].numpy()
        other = charge_matrix(positions, math.sqrt((sigma**2 + width**2) / 2))
        np.fill_diagonal(other, 0.0)
        own, _ = equilibrated(np.eye(n) / softness + other, -FIELD * positions[:, 2], 0.0)
        assert q == pytest.approx(own, abs=1e-9)
        conducting.append(q @ positions[:, 2] / FIELD)
    assert slopes(insulating)[-1] == pytest.approx(1.0, abs=5e-3)
    assert slopes(conducting)[-1] > 2.4
    assert conducting[-1] / LENGTHS[-1] > 10 * conducting[0] / LENGTHS[0]
