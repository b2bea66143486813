"""Charge that flows along edges: insulators and conductors of any size, E(Q), dissociation, crystals."""

import math

import numpy as np
import pytest
import torch
from scipy.special import erf

from electret.models.families.charge_flux import placement
from electret.scf.problem import Batch
from electret.scf.solvers import Newton
from solvable import Functional, K, charge_matrix, electrostatics_of, pair, quadratic

SIGMA = 1.0  # Å
FIELD = 0.1  # V/Å
WATER = np.array([[0.0, 0.0, 0.1193], [0.7632, 0.0, -0.4770], [-0.7632, 0.0, -0.4770]])


def bonds(positions: np.ndarray, longest: float) -> np.ndarray:
    """Pairs of sites nearer than `longest`, `[2, n]`."""
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=2)
    return np.stack(np.nonzero(np.triu((distances < longest) & (distances > 0))))


def laplacian(edges: np.ndarray, conductance: np.ndarray, n: int) -> np.ndarray:
    """Bᵀ diag(c) B by plain numpy."""
    incidence = np.zeros((edges.shape[1], n))
    incidence[np.arange(edges.shape[1]), edges[1]] = 1.0
    incidence[np.arange(edges.shape[1]), edges[0]] -= 1.0
    return incidence.T @ (conductance[:, None] * incidence)


def flow_of(positions: np.ndarray, longest: float, conductance: float, cutoff: float = math.inf):
    """Conductances c (1 - (r / cutoff)²)² of all pairs nearer than `longest`, and equal shares of the total
    charge."""
    edges = bonds(positions, longest)
    lengths = np.linalg.norm(positions[edges[1]] - positions[edges[0]], axis=1)
    return (
        edges,
        conductance * (1 - (lengths / cutoff) ** 2) ** 2,
        np.full(len(positions), 1 / len(positions)),
    )


def polarizability(positions: np.ndarray, flow) -> float:
    """Along x, e·Å²/V, of charges alone without hardness."""
    functional = Functional(
        electrostatics_of(positions, SIGMA, field=(FIELD, 0.0, 0.0)), quadratic(0.0, 0.0), True, flow=flow
    )
    q = functional.solve(solver=Newton(tolerance=1e-10)).multipoles[:, 0].numpy()
    edges, conductance, _ = flow
    network = laplacian(edges, conductance, len(q))
    matrix = network @ charge_matrix(positions, SIGMA)
    expected = np.linalg.solve(np.eye(len(q)) + matrix, network @ positions[:, 0] * FIELD)
    assert q == pytest.approx(expected, abs=1e-10)
    assert q.sum() == pytest.approx(0.0, abs=1e-11)
    return float(q @ positions[:, 0]) / FIELD


def row(n: int) -> np.ndarray:
    """Waters along x, 2.9 Å apart."""
    return np.concatenate([WATER + np.array([2.9 * k, 0.0, 0.0]) for k in range(n)])


def inside_molecules(n: int):
    """0.05 e/V between all atoms of each molecule of a row."""
    edges = bonds(row(n), 1.6)
    edges = edges[:, edges[0] // 3 == edges[1] // 3]
    return edges, np.full(edges.shape[1], 0.05), np.full(3 * n, 1 / (3 * n))


def test_the_polarizability_of_an_insulator_is_extensive():
    """Per molecule 0.146 to 0.173 e·Å²/V (an independent calculation of these rows), where an answer to the
    potential at each site grows with the square of the number."""
    sizes = (1, 4, 16, 48, 96)
    found = [polarizability(row(n), inside_molecules(n)) / n for n in sizes]
    assert found == pytest.approx([0.146, 0.161, 0.170, 0.173, 0.173], abs=1.1e-3)
    exponent = math.log(found[4] * 96 / (found[3] * 48)) / math.log(2)
    assert exponent == pytest.approx(1.0, abs=1e-2)


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_large_conductances_are_a_conductor_at_any_size(n):
    """0.963 to 0.970 of an ideal conductor with 5 e/V, and the ideal one in the limit."""
    axis = 2.9 * np.arange(n)
    positions = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    matrix = charge_matrix(positions, SIGMA)
    ones = np.ones(len(positions))
    inverse = np.linalg.inv(matrix)
    x = positions[:, 0]
    q = inverse @ x - (inverse @ ones) * (ones @ inverse @ x) / (ones @ inverse @ ones)
    ideal = float(q @ x)
    found = polarizability(positions, flow_of(positions, 4.4, 5.0, 4.5)) / ideal
    assert found == pytest.approx({2: 0.963, 3: 0.968, 4: 0.969, 5: 0.970}[n], abs=1e-3)
    assert polarizability(positions, flow_of(positions, 4.4, 1e5, 4.5)) / ideal == pytest.approx(
        1.0, abs=1e-5
    )


def test_a_slab_screens_by_the_permittivity_of_its_edges():
    """Gauss: sheets with edges between neighbours alone have eps = 1 + 4 pi K c d / area, so that c d F / eps
    flows through the middle of the slab."""
    spacing, area, n = 3.0, 1.2**2, 20
    positions = spacing * np.arange(n)[:, None] * np.array([0.0, 0.0, 1.0])
    cell = np.diag([1.2, 1.2, (n + 4) * spacing])
    electrostatics = electrostatics_of(
        positions, 1.2, cell=cell, pbc=(True, True, False), field=(0.0, 0.0, FIELD)
    )
    edges = np.stack([np.arange(n - 1), np.arange(1, n)])
    for conductance in (1e-3, 0.1):
        flow = (edges, np.full(n - 1, conductance), np.full(n, 1.0 / n))
        q = Functional(electrostatics, quadratic(0.0, 0.0), True, flow=flow).solve().multipoles[:, 0].numpy()
        eps = 1.0 + 4 * math.pi * K * conductance * spacing / area
        assert eps > 1.3
        # flow through the middle of the slab
        assert q[n // 2 :].sum() == pytest.approx(conductance * spacing * FIELD / eps, rel=2e-3)


def test_the_polarization_of_a_crystal_follows_its_edges():
    """One atom per cubic cell, whose charge cannot change, with edges to its images: P = c a² F per cell,
    energy -½ F·P; the field along periodic axes drives it."""
    a, conductance = 3.0, 0.02
    crossed = a * np.eye(3)
    flow = (np.zeros((2, 3), dtype=int), np.full(3, conductance), np.ones(1), crossed)
    field = np.array([0.1, -0.2, 0.05])
    functional = Functional(
        electrostatics_of(np.zeros((1, 3)), 1.0, cell=a * np.eye(3), pbc=True, field=field),
        quadratic(0.0, 0.0),
        True,
        flow=flow,
    )
    state = functional.solve()
    point = functional.problem.at(state)
    expected = conductance * a**2 * field
    assert point.crossing.sum(dim=0).numpy() == pytest.approx(expected, abs=1e-14)
    energy = float(point.energies().sum()) - field @ expected
    assert energy == pytest.approx(-0.5 * field @ expected, abs=1e-14)


# --- two sites ---

CHI = np.array([-2.1, 3.4])
ETA = np.array([6.0, 9.0])


def two_sites(distance: float, conductance: float, shares=(0.3, 0.7), **condition) -> Functional:
    flow = (np.array([[0], [1]]), np.array([conductance]), np.array(shares))
    return Functional(
        electrostatics_of(pair(distance), SIGMA),
        quadratic(CHI[:, None], ETA[:, None]),
        True,
        flow=flow,
        **condition,
    )


@pytest.mark.parametrize("conductance", [0.0, 1e-3, 0.05, 10.0])
@pytest.mark.parametrize("distance", [1.2, 6.0])
def test_energy_charges_and_fermi_level_of_two_sites(distance, conductance):
    """Analytic: with M = diag eta + A, drive r = chi + M w Q and q = w Q + (-f, f), f = -c (r_2 - r_1) /
    (1 + c (M_11 + M_22 - 2 M_12)) and mu = -w·(chi + M q) = -dE/dQ; the energy has f² / 2c."""
    matrix = charge_matrix(pair(distance), SIGMA) + np.diag(ETA)
    w, total = np.array([0.3, 0.7]), 0.4
    drive = CHI + matrix @ w * total
    f = -conductance * (drive[1] - drive[0])
    f /= 1 + conductance * (matrix[0, 0] + matrix[1, 1] - 2 * matrix[0, 1])
    q = w * total + np.array([-f, f])
    functional = two_sites(distance, conductance, total_charge=total)
    state = functional.solve()
    assert state.multipoles[:, 0].numpy() == pytest.approx(q, abs=1e-12)
    level = -w @ (CHI + matrix @ q)
    assert float(state.fermi_level) == pytest.approx(level, abs=1e-11)
    energy = CHI @ q + 0.5 * q @ matrix @ q + (0.5 * f * f / conductance if conductance else 0.0)
    assert float(functional.energy(state)) == pytest.approx(energy, abs=1e-11)
    step = 1e-4
    energies = []
    for charge in (total - step, total + step):
        moved = two_sites(distance, conductance, total_charge=charge)
        energies.append(float(moved.energy(moved.solve())))
    assert (energies[1] - energies[0]) / (2 * step) == pytest.approx(-level, abs=1e-7)
    held = two_sites(distance, conductance, fermi_level=level)
    assert held.solve().multipoles[:, 0].numpy() == pytest.approx(q, abs=1e-11)


def test_fragments_beyond_their_edges_keep_whole_charges():
    """Charge equilibration leaves a fraction of an electron at any distance; without an edge none is moved,
    and a charge that is asked for is on the site that takes it, to the last bit."""
    equilibration = Functional(
        electrostatics_of(pair(1e4), SIGMA), quadratic(CHI[:, None], ETA[:, None]), True
    )
    assert abs(float(equilibration.solve().multipoles[0, 0])) > 0.1
    for total in (0.0, 1.0, -1.0):
        functional = two_sites(1e4, 0.0, (1.0, 0.0), total_charge=total)
        assert functional.solve().multipoles[:, 0].tolist() == [total, 0.0]
        slope = CHI[0] + (ETA[0] + K / math.sqrt(math.pi) / SIGMA) * total
        assert float(functional.solve().fermi_level) == pytest.approx(-slope, abs=1e-11)


def test_the_attraction_of_ions_is_that_of_whole_charges():
    """E(R) - E(infinity) = -k(R) of two fragments of charges ±1, each on its own edge-less site."""

    def energy(distance: float) -> float:
        functional = two_sites(distance, 0.0, total_charge=0.0)
        functional.problem.reference = torch.tensor([1.0, -1.0], dtype=torch.float64)
        return float(functional.energy(functional.solve()))

    assert energy(4.0) - energy(1e6) == pytest.approx(-K * erf(2.0) / 4.0 + K / 1e6, abs=1e-9)


# --- placement ---


def test_shares_of_the_charge():
    """Squares of positive scores; none for others beside any number of atoms; even shares without any."""
    batch = Batch(torch.tensor([0, 0, 0, 1, 1, 2]), 3)
    scores = torch.tensor([0.5, 1.0, -3.0, -1.0, -2.0, 0.3], dtype=torch.float64)
    w = placement(scores, batch)
    assert w.tolist() == [0.2, 0.8, 0.0, 0.5, 0.5, 1.0]
    many = torch.full((100_001,), -0.1, dtype=torch.float64)
    many[0] = 1.0
    shares = placement(many, Batch(torch.zeros(100_001, dtype=torch.int64), 1))
    assert shares[0] == 1.0
    assert not shares[1:].any()
    inside = torch.tensor([0.5, 1.0, 0.3, 0.02, 0.01, 0.3], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: placement(x, batch), inside)
    assert torch.autograd.gradgradcheck(lambda x: placement(x, batch), inside)
