"""Dissociation of a donor and an acceptor: the two-site problem, against closed forms."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.special import erf

from electret.models.families.energy_functional import EnergyFunctional
from electret.scf.state import State
from electret.units import COULOMB_CONSTANT as K
from solvable import FixedPoint, Functional, electrostatics_of, pair, quadratic, staircase

SIGMA = 0.9  # Å
SELF = K / (math.sqrt(math.pi) * SIGMA)  # eV/e²
CHI = np.array([-2.1, 3.4])  # eV/e: the first site gives electrons away
ETA = np.array([6.0, 9.0])  # eV/e²
FAR = 1e4  # Å


def attraction(distance: float) -> float:
    """Coulomb interaction of unit charges, eV/e²."""
    return K * erf(distance / (2 * SIGMA)) / distance


def transferred(distance: float) -> float:
    """Charge of the donor that minimises (chi_1 - chi_2) q + ½ (eta_1 + eta_2 + 2 J - 2 k) q², in e."""
    return (CHI[1] - CHI[0]) / (ETA.sum() + 2 * SELF - 2 * attraction(distance))


@pytest.mark.parametrize("distance", [1.2, 4.0, 30.0, FAR])
def test_charge_equilibration_leaves_a_fraction_of_an_electron_at_any_distance(distance):
    """Analytic: q = (chi_2 - chi_1) / (eta_1 + eta_2 + 2 J - 2 k(R)), which tends to a constant that is
    not whole. Energy -½ (chi_2 - chi_1) q."""
    functional = Functional(
        electrostatics_of(pair(distance), SIGMA), quadratic(CHI[:, None], ETA[:, None]), quadratic=True
    )
    state = functional.solve()
    q = state.multipoles[:, 0]
    expected = transferred(distance)
    assert 0.1 < expected < 0.9
    assert q.tolist() == pytest.approx([expected, -expected], abs=1e-12)
    assert float(functional.energy(state)) == pytest.approx(-0.5 * (CHI[1] - CHI[0]) * expected, abs=1e-11)
    # both sites have the same electronegativity, -mu
    assert float(state.fermi_level) == pytest.approx(
        -(CHI[0] + (ETA[0] + SELF - attraction(distance)) * expected), abs=1e-10
    )


def test_the_fraction_does_not_vanish_at_infinity():
    """The limit of the closed form, approached as k(R) = K / R."""
    limit = (CHI[1] - CHI[0]) / (ETA.sum() + 2 * SELF)
    assert abs(transferred(1.5) - limit) > 0.02
    assert transferred(FAR) == pytest.approx(limit, rel=2e-4)
    assert limit > 0.1


# --- kinks in the shipped form of the functional ---

WIDE = 1.5  # Å
GAP = 14.0  # eV: jump of eps' at each whole charge
HARDNESS = 0.05  # eV/e²


def shipped_functional(distance: float, difference: float, sharpness: float) -> Functional:
    """`energy_functional` with softplus kinks at -1, 0 and 1: eps' = chi + eta q + gap (steps passed -
    3/2)."""
    chi = torch.tensor([0.0, difference], dtype=torch.float64)
    ones = torch.ones(2, 3, dtype=torch.float64)
    parameters = {
        "electronegativity": chi - 1.5 * GAP,
        "reference": torch.zeros(2, 1, dtype=torch.float64),
        "hardness": torch.full((2, 1), HARDNESS, dtype=torch.float64),
        "vectors": torch.ones(2, 1, 1, dtype=torch.float64),
        "stiffness": torch.zeros(2, 1, dtype=torch.float64),
        "amplitude": ones * GAP / sharpness,
        "slopes": torch.full((3, 1), sharpness, dtype=torch.float64),
        "offset": -sharpness * ones * torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64),
    }
    model = SimpleNamespace(n_convex=3)
    return Functional(
        electrostatics_of(pair(distance), WIDE),
        lambda p: EnergyFunctional.local_energy(model, parameters, p),
    )


def sharpen(make, start: State | None = None, steps=(2.0, 6.0, 20.0, 60.0, 200.0, 600.0, 2000.0)):
    """The solution for the sharpest kinks, each sharpness starting from the one before."""
    for sharpness in steps:
        functional = make(sharpness)
        start = functional.solve(start)
    return functional, start


@pytest.mark.parametrize("distance", [2.0, 8.0, FAR])
@pytest.mark.parametrize(("difference", "whole"), [(6.0, 0), (30.0, 1)], ids=["atoms", "ions"])
def test_a_functional_with_kinks_dissociates_into_whole_charges(distance, difference, whole):
    """Analytic: with d = chi_2 - chi_1 and c = 2 (eta + J - k), dE/dq = c q - d + gap (2 floor(q) + 1):
    it changes sign at the kink q = 0 for |d| < gap, and at q = 1 for c + gap < d < c + 3 gap. Without the
    kinks q = d / c, a fraction. The ions attract each other as whole charges, E(R) - E(inf) = -k(R)."""
    stiffness = 2 * (HARDNESS + K / (math.sqrt(math.pi) * WIDE) - K * erf(distance / (2 * WIDE)) / distance)
    if whole == 0:
        assert abs(difference) < GAP
    else:
        assert stiffness + GAP < difference < stiffness + 3 * GAP
    fraction = difference / stiffness
    assert abs(fraction - round(fraction)) > 0.02
    functional, state = sharpen(lambda b: shipped_functional(distance, difference, b))
    q = state.multipoles[:, 0]
    assert q.tolist() == pytest.approx([whole, -whole], abs=1e-3)
    apart, apart_state = sharpen(lambda b: shipped_functional(FAR, difference, b))
    binding = float(functional.energy(state) - apart.energy(apart_state))
    assert binding == pytest.approx(-whole * (K * erf(distance / (2 * WIDE)) / distance - K / FAR), abs=1e-2)


def test_blunt_kinks_leave_a_fraction():
    """The charges are whole because the kinks are sharp: with a softplus over 2 e they are not."""
    state = shipped_functional(FAR, 6.0, 0.5).solve()
    assert 0.05 < float(state.multipoles[0, 0]) < 0.5


# --- sodium and chlorine ---

SODIUM = {"affinity": 0.548, "ionisation": 5.139, "second": 47.29}  # eV, NIST Atomic Spectra Database, CRC
CHLORINE = {"affinity": 3.613, "ionisation": 12.968, "second_affinity": -5.0}  # the last: no bound Cl2-


def sodium_chloride(distance: float, sharpness: float) -> Functional:
    """Atoms with piecewise straight energies: eps cancels the interaction of each Gaussian with itself,
    up to 0.01 eV/e² that keep its Hessian regular."""
    a, b = SODIUM, CHLORINE
    sodium = staircase(
        [(0, a["ionisation"] - a["affinity"]), (1, a["second"] - a["ionisation"])],
        a["affinity"],
        -SELF + 0.01,
        sharpness,
    )
    chlorine = staircase(
        [(-1, b["affinity"] - b["second_affinity"]), (0, b["ionisation"] - b["affinity"])],
        b["second_affinity"],
        -SELF + 0.01,
        sharpness,
    )
    return Functional(
        electrostatics_of(pair(distance), SIGMA),
        lambda p: torch.stack([sodium(p[0, 0]), chlorine(p[1, 0])]),
    )


def ions() -> State:
    """Na+ Cl-, with a Fermi level between their levels."""
    return State(
        torch.tensor([[1.0], [-1.0]], dtype=torch.float64), torch.tensor([-4.4], dtype=torch.float64)
    )


def cost_of(functional: Functional, state: State) -> float:
    """Energy above that of the neutral atoms, eV."""
    return float(functional.energy(state)) - float(functional.local_energy(0 * state.multipoles).sum())


@pytest.mark.parametrize("distance", [2.4, 6.0, 12.0])
def test_sodium_chloride_has_an_ionic_state_at_short_distance(distance):
    """Analytic: for charges ±1, E = I(Na) - A(Cl) - k(R), with dE/dq = I - A - 2 k < 0 left of q = 1."""
    cost = SODIUM["ionisation"] - CHLORINE["affinity"]
    assert cost - 2 * attraction(distance) < -0.5
    functional = sodium_chloride(distance, 2000.0)
    state = functional.solve(ions())
    assert state.multipoles[:, 0].tolist() == pytest.approx([1.0, -1.0], abs=5e-3)
    assert cost_of(functional, state) == pytest.approx(cost - attraction(distance), abs=2e-2)


def test_sodium_chloride_is_neutral_at_infinity_and_crosses_at_the_harpoon_radius():
    """External: ionic and neutral curves cross at R = K / (I(Na) - A(Cl)) = 9.44 Å (Magee's harpoon
    radius; Zewail's pump-probe experiments are at this crossing for NaI, 6.9 Å). Apart, both atoms are
    neutral, where charge equilibration leaves a fraction."""
    cost = SODIUM["ionisation"] - CHLORINE["affinity"]
    assert cost == pytest.approx(1.526, abs=1e-3)
    functional, state = sharpen(lambda b: sodium_chloride(FAR, b))
    assert state.multipoles[:, 0].tolist() == pytest.approx([0.0, 0.0], abs=5e-3)

    def ionic_energy(distance: float) -> float:
        functional = sodium_chloride(distance, 2000.0)
        return cost_of(functional, functional.solve(ions()))

    neutral = cost_of(functional, state)
    crossing = brentq(lambda distance: ionic_energy(distance) - neutral, 5.0, 15.0, xtol=1e-3)
    assert crossing == pytest.approx(K / cost, rel=1e-2)
    assert K / cost == pytest.approx(9.44, abs=0.01)


# --- a fixed point of levels that fill ---

TEMPERATURE = 0.05  # eV


def levels(distance: float) -> FixedPoint:
    """q_1 = s(-(v + mu) - I), q_2 = -s(v + mu + A), s(e) = 1 / (1 + exp(-e / T)): Na gives its electron
    where its level lies above the Fermi level, Cl takes one where its level lies below."""

    def update(v: torch.Tensor) -> torch.Tensor:
        donor = torch.sigmoid((-v[:1] - SODIUM["ionisation"]) / TEMPERATURE)
        acceptor = -torch.sigmoid((v[1:] + CHLORINE["affinity"]) / TEMPERATURE)
        return torch.cat([donor, acceptor])

    return FixedPoint(electrostatics_of(pair(distance), SIGMA, widths=(SIGMA,)), update)


@pytest.mark.parametrize("start", [0.0, 1.0])
@pytest.mark.parametrize("distance", [3.0, 8.0, 25.0, FAR])
def test_a_fixed_point_dissociates_into_whole_charges(distance, start):
    """Analytic: mu = -(I + A) / 2 and q = s((k q - (I - A) / 2) / T): whole up to exp(-(I - A) / 2T) at
    infinity; at k > (I - A) / 2 there are an ionic and a neutral solution."""
    cost, k = SODIUM["ionisation"] - CHLORINE["affinity"], attraction(distance)

    def defect(q: float) -> float:
        return q - 1 / (1 + math.exp(-(k * q - cost / 2) / TEMPERATURE))

    grid = np.linspace(0.0, 1.00001, 20001)
    values = np.array([defect(q) for q in grid])
    roots = [
        brentq(defect, a, b)
        for a, b, x, y in zip(grid[:-1], grid[1:], values[:-1], values[1:], strict=True)
        if x * y < 0
    ]
    expected = min(roots, key=lambda q: abs(q - start))
    assert min(expected, 1 - expected) < 0.01  # whole
    assert len(roots) == (3 if distance in (3.0, 8.0) else 1)
    problem = levels(distance)
    first = State(
        torch.tensor([[start], [-start]], dtype=torch.float64),
        torch.tensor([-(SODIUM["ionisation"] + CHLORINE["affinity"]) / 2], dtype=torch.float64),
    )
    state = problem.solve(first)
    q = state.multipoles[:, 0].tolist()
    assert q == pytest.approx([expected, -expected], abs=1e-9)
    level = -(SODIUM["ionisation"] + CHLORINE["affinity"]) / 2
    assert float(state.fermi_level) == pytest.approx(level, abs=1e-8)


@pytest.mark.parametrize("start", [0.0, 0.3, 0.77])
@pytest.mark.parametrize("sharpness", [20.0, 2000.0, 20000.0])
def test_newton_finds_the_minimum_over_kinks_from_any_start(start, sharpness):
    """The pair far apart is strictly convex, so its minimum is unique. From a fractional start the norm of
    the residual has to rise before it falls, and a line search on it did not converge (300 iterations,
    charges of 0.3 to 0.7 e)."""
    functional = sodium_chloride(FAR, sharpness)
    first = State(torch.tensor([[start], [-start]], dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
    state = functional.solve(first)
    assert int(functional.record.iterations) < 40
    assert state.multipoles[:, 0].abs().max() < 3 / sharpness
