"""Energy against total charge: parabola, straight pieces and jumps of the Fermi level."""

import math

import numpy as np
import pytest
import torch

from electret.scf.state import State
from solvable import FixedPoint, Functional, K, charge_matrix, electrostatics_of, quadratic, staircase

SIGMA = 1.1  # Å
SELF = K / (math.sqrt(math.pi) * SIGMA)  # eV/e²
POSITIONS = np.array([[0.0, 0.0, 0.0], [1.9, 0.3, 0.2], [-0.8, 2.1, 0.4]])
CHI = np.array([-1.0, 2.0, 0.5])
ETA = np.array([4.0, 7.0, 5.0])


def equilibration(**condition: object) -> Functional:
    """Three sites with hardness."""
    return Functional(
        electrostatics_of(POSITIONS, SIGMA, field=(0.1, 0.0, -0.2)),
        quadratic(CHI[:, None], ETA[:, None]),
        quadratic=True,
        **condition,
    )


def test_charge_equilibration_gives_a_parabola_whose_curvature_is_the_inverse_capacitance():
    """Analytic: with M = A + diag eta, 1ᵀ M^-1 1 = C, E(Q) = E_0 - mu_0 Q + ½ Q² / C and mu = mu_0 - Q /
    C."""
    inverse = np.linalg.inv(charge_matrix(POSITIONS, SIGMA) + np.diag(ETA))
    capacitance = inverse.sum()
    charges = np.linspace(-3.0, 3.0, 7)
    solved = [equilibration(total_charge=q) for q in charges]
    states = [functional.solve() for functional in solved]
    energies = np.array([float(f.energy(s)) for f, s in zip(solved, states, strict=True)])
    levels = np.array([float(s.fermi_level) for s in states])
    assert np.ptp(energies) > 1.0
    assert np.diff(energies, 2) == pytest.approx(1 / capacitance, rel=1e-9)
    assert np.abs(np.diff(energies, 3)).max() < 1e-9
    assert np.diff(levels) == pytest.approx(-1 / capacitance, rel=1e-9)
    # the parabola through three points has the slope -mu exactly
    assert (energies[2:] - energies[:-2]) / 2 == pytest.approx(-levels[1:-1], abs=1e-9)


# --- atoms with straight pieces ---

# electron affinity, first and second ionisation energy in eV: NIST Atomic Spectra Database; T. Andersen,
# Phys. Rep. 394, 157 (2004)
SODIUM = (0.5479, 5.1391, 47.2864)
POTASSIUM = (0.5015, 4.3407, 31.625)
CURVATURE = 5e-3  # eV/e²
DISTANCE = 1e4  # Å: the attraction of 1.4e-3 eV/e² is less than the curvature, so the whole is convex


def atom(levels: tuple[float, float, float], sharpness: float):
    """Slopes A, I_1, I_2 of E(q) between the integer charges -1, 0, 1, 2, without the self-interaction of the
    Gaussian."""
    affinity, first, second = levels
    steps = [(0, first - affinity), (1, second - first)]
    return staircase(steps, affinity, CURVATURE - SELF, sharpness)


def atoms(n: int, sharpness: float, **condition: object) -> Functional:
    """Potassium (`n` = 1), or potassium and sodium far apart (2)."""
    positions = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, DISTANCE]])[:n]
    energies = [atom(levels, sharpness) for levels in (POTASSIUM, SODIUM)[:n]]
    return Functional(
        electrostatics_of(positions, SIGMA),
        lambda p: torch.stack([energy(p[i, 0]) for i, energy in enumerate(energies)]),
        **condition,
    )


def curve(n: int, charges: np.ndarray, sharpness: float = 1000.0):
    """E(Q), mu(Q) and the charges of the atoms, from one charge to the next."""
    energies, levels, densities = [], [], []
    for total in charges:
        state = None
        for b in [b for b in (2.0, 5.0, 12.0, 30.0, 80.0, 200.0, 450.0) if b < sharpness] + [sharpness]:
            functional = atoms(n, b, total_charge=total)
            state = functional.solve(state)
        energies.append(float(functional.energy(state)))
        levels.append(float(state.fermi_level))
        densities.append(state.multipoles[:, 0].numpy())
    return np.array(energies), np.array(levels), np.array(densities)


def test_the_energy_of_an_atom_is_straight_between_whole_charges():
    """External: J. P. Perdew, R. G. Parr, M. Levy and J. L. Balduz, Phys. Rev. Lett. 49, 1691 (1982):
    E(Q) is straight between whole charges, with slopes -mu that jump by I - A at Q = 0: the derivative
    discontinuity. Charge equilibration has a parabola there."""
    charges = np.array([-0.9, -0.5, -0.1, 0.1, 0.5, 0.9, 1.1, 1.5])
    energies, levels, _ = curve(1, charges)
    slope = np.repeat(POTASSIUM, (3, 3, 2))
    assert -levels == pytest.approx(slope, abs=1e-2)
    assert -(levels[3] - levels[2]) == pytest.approx(POTASSIUM[1] - POTASSIUM[0], abs=1e-2)
    assert np.diff(energies)[[0, 1, 3, 4, 6]] == pytest.approx(0.4 * slope[[0, 1, 3, 4, 6]], abs=5e-3)


def test_two_atoms_are_ionised_one_after_the_other():
    """Analytic: while potassium goes from 0 to 1 sodium does not respond (zero susceptibility) and
    potassium takes all charge (infinite susceptibility, up to the small curvature); then sodium is next.
    Fermi level: -I(K), then -I(Na)."""
    charges = np.array([0.25, 0.75, 1.25, 1.75])
    _, levels, densities = curve(2, charges)
    assert densities[:, 0] == pytest.approx([0.25, 0.75, 1.0, 1.0], abs=8e-3)
    assert densities[:, 1] == pytest.approx([0.0, 0.0, 0.25, 0.75], abs=8e-3)
    expected = [POTASSIUM[1], POTASSIUM[1], SODIUM[1], SODIUM[1]]
    assert -levels == pytest.approx(expected, abs=1e-2)


def test_the_slope_of_the_energy_is_minus_the_fermi_level():
    """Analytic: dE/dQ = -mu for any functional, here two atoms with blunt kinks, by central differences."""
    h = 1e-4
    for total in (-0.4, 0.0, 0.3, 1.0):
        energies, levels, _ = curve(2, np.array([total - h, total, total + h]), sharpness=8.0)
        assert abs(levels[1]) > 0.1
        assert (energies[2] - energies[0]) / (2 * h) == pytest.approx(-levels[1], abs=1e-6)


@pytest.mark.parametrize(("level", "charge"), [(-2.0, 0.0), (-12.0, 1.0), (-4.0, 0.0)])
def test_in_the_gap_the_charge_is_independent_of_the_fermi_level(level, charge):
    """Analytic: for A < -mu < I_1 (or I_1 < -mu < I_2) the charge of potassium is whole and dQ/dmu = -1 /
    eps'' of the flank of a kink, of order 1 / (b gap); at -mu = I_1 it is -1 / curvature, larger by
    1e5."""
    functional = atoms(1, 1000.0, fermi_level=level)
    start = State(torch.tensor([[charge]], dtype=torch.float64), torch.tensor([level], dtype=torch.float64))
    state = functional.solve(start)
    assert float(state.multipoles[0, 0]) == pytest.approx(charge, abs=5e-3)
    with torch.no_grad():
        _, y = susceptibility(functional, state)
    at_level = atoms(1, 1000.0, fermi_level=-POTASSIUM[1] - 0.5 * CURVATURE)
    half = State(torch.tensor([[0.5]], dtype=torch.float64), torch.tensor([level], dtype=torch.float64))
    _, steep = susceptibility(at_level, at_level.solve(half))
    assert 0 < -y < 0.02
    assert -steep == pytest.approx(1 / CURVATURE, rel=1e-3)


def susceptibility(functional: Functional, state: State) -> tuple[float, float]:
    """Charge and its derivative in the Fermi level."""
    jacobian = functional.problem.at(state).jacobian()
    x, _ = jacobian.solve(torch.zeros_like(state.multipoles), torch.ones(1, dtype=torch.float64))
    return float(state.multipoles.sum()), float(x[0, 0])


def test_a_fixed_point_can_be_flat_and_steep():
    """Analytic: one site without its own potential, q = s(-mu - I) with temperature T: dq/dmu = -q (1 -
    q) / T, from 0 in the gap to 1 / 4T at the level."""
    temperature, level = 0.05, POTASSIUM[1]
    electrostatics = electrostatics_of(np.zeros((1, 3)), SIGMA, widths=(SIGMA,))

    def update(v: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid((-v - level) / temperature)

    slopes = []
    for mu in (-2.0, -level, -level + 0.05, -8.0):
        problem = FixedPoint(electrostatics, update, fermi_level=mu)
        state = problem.solve()
        q = float(state.multipoles[0, 0])
        assert q == pytest.approx(1 / (1 + math.exp((mu + level) / temperature)), abs=1e-12)
        x, _ = (
            problem.problem.at(state)
            .jacobian()
            .solve(torch.zeros_like(state.multipoles), torch.ones(1, dtype=torch.float64))
        )
        assert float(x[0, 0]) == pytest.approx(-q * (1 - q) / temperature, abs=1e-12)
        slopes.append(-float(x[0, 0]))
    assert slopes[1] == pytest.approx(1 / (4 * temperature))
    assert max(slopes[0], slopes[3]) < 1e-10
