"""Constant Fermi level: grand potential, forces, capacitance with every boundary, and mixed batches."""

import math

import numpy as np
import pytest
import torch
from scipy.special import erf

from electret.scf.response import linear_responses
from electret.scf.solvers import Newton
from electret.scf.state import State
from solvable import FixedPoint, Functional, K, charge_matrix, electrostatics_of, quadratic, staircase

SIGMA = 1.2  # Å
POSITIONS = np.array([[0.0, 0.0, 0.0], [1.9, 0.3, 0.2], [-0.8, 2.1, 0.4], [0.7, -0.9, 2.3]])
CHI = torch.tensor([-1.0, 2.0, 0.5, -0.3], dtype=torch.float64)
FIELD = (0.1, 0.0, -0.2)


def convex_energy(p: torch.Tensor) -> torch.Tensor:
    """Not quadratic: hardness and a blunt kink of each charge, dipoles coupled to it."""
    q, d = p[:, 0], p[:, 1:]
    step = staircase([(0.1, 5.0)], 0.0, 3.0, 4.0)
    return CHI * q + step(q) + 4.0 * d.square().sum(dim=1) + torch.nn.functional.softplus(q + d[:, 1])


def functional(positions: object = POSITIONS, **condition: object) -> Functional:
    """Four sites with charges and dipoles in a field."""
    return Functional(electrostatics_of(positions, SIGMA, max_l=1, field=FIELD), convex_energy, **condition)


def grand_potential(level: float, positions: np.ndarray = POSITIONS) -> tuple[float, float]:
    """Omega and Q at a Fermi level."""
    open_system = functional(positions, fermi_level=level)
    state = open_system.solve()
    return float(open_system.grand_potential(state)), float(state.multipoles[:, 0].sum())


@pytest.mark.parametrize("level", [-6.0, 0.0, 3.0])
def test_the_charge_is_the_slope_of_the_grand_potential(level):
    """Analytic: Q = dOmega/dmu, and C = -dQ/dmu > 0 (Omega is concave); by central differences."""
    h = 1e-4
    low, middle, high = (grand_potential(level + s * h) for s in (-1, 0, 1))
    assert abs(middle[1]) > 0.02
    assert (high[0] - low[0]) / (2 * h) == pytest.approx(middle[1], abs=1e-7)
    open_system = functional(fermi_level=level)
    responses = responses_of(open_system, open_system.solve())
    assert responses["capacitance"] > 0.05
    assert responses["capacitance"] == pytest.approx(-(high[1] - low[1]) / (2 * h), abs=1e-7)


def responses_of(system: Functional, state: State) -> dict[str, float | np.ndarray]:
    """Capacitance and Fukui function."""
    point = system.problem.at(state)
    found = linear_responses({"fukui", "capacitance"}, system.problem, point, point.jacobian())
    return {"fukui": found["fukui"].numpy(), "capacitance": float(found["capacitance"])}


@pytest.mark.parametrize("total", [-1.0, 0.4])
def test_both_conditions_describe_the_same_states(total):
    """Legendre transformation: the state with charge Q has a Fermi level at which the charge is Q;
    densities, capacitance and Fukui functions agree, Omega = E + mu Q, and fukui = dq_i/dQ by
    differences."""
    closed = functional(total_charge=total)
    state = closed.solve()
    level = float(state.fermi_level)
    open_system = functional(fermi_level=level)
    other = open_system.solve()
    assert float(state.multipoles.abs().max()) > 0.05
    assert torch.allclose(other.multipoles, state.multipoles, atol=1e-9)
    assert float(open_system.grand_potential(other)) == pytest.approx(
        float(closed.energy(state)) + level * total, abs=1e-9
    )
    at_charge, at_level = responses_of(closed, state), responses_of(open_system, other)
    assert at_charge["capacitance"] == pytest.approx(at_level["capacitance"], rel=1e-8)
    assert at_charge["fukui"] == pytest.approx(at_level["fukui"], abs=1e-8)
    h = 1e-4
    low, high = (functional(total_charge=total + s * h).solve().multipoles[:, 0] for s in (-1, 1))
    assert at_charge["fukui"] == pytest.approx(((high - low) / (2 * h)).numpy(), abs=1e-7)
    assert at_charge["fukui"].sum() == pytest.approx(1.0)


def test_forces_at_constant_fermi_level_are_the_slope_of_the_grand_potential():
    """Hellmann-Feynman: dOmega/dR is the derivative at fixed multipoles and mu. At constant charge the
    same state's forces are those of E, equal to them."""
    level = 3.0
    open_system = functional(fermi_level=level)
    state = open_system.solve()
    own = open_system.electrostatics
    positions = own.positions.clone().requires_grad_()
    moved = Functional(
        electrostatics_of(POSITIONS, SIGMA, max_l=1, field=FIELD), convex_energy, fermi_level=level
    )
    object.__setattr__(moved.electrostatics, "positions", positions)
    (slope,) = torch.autograd.grad(moved.grand_potential(state).sum(), positions)
    charge = float(state.multipoles[:, 0].sum())
    h = 1e-4
    for atom, axis in [(0, 0), (2, 1), (3, 2)]:
        energies, at_charge = [], []
        for sign in (-1, 1):
            x = POSITIONS.copy()
            x[atom, axis] += sign * h
            energies.append(grand_potential(level, x)[0])
            closed = functional(x, total_charge=charge)
            at_charge.append(float(closed.energy(closed.solve())))
        expected = float(slope[atom, axis])
        assert abs(expected) > 0.01
        assert (energies[1] - energies[0]) / (2 * h) == pytest.approx(expected, abs=1e-6)
        assert (at_charge[1] - at_charge[0]) / (2 * h) == pytest.approx(expected, abs=1e-6)


# --- capacitances that are known ---

EULER = 0.5772156649015329
CELL = 1.3  # Å; Gaussians of 1.3 Å or more on a lattice of that constant are uniform to exp(-4 pi²)


def sphere() -> float:
    """One Gaussian: potential K / (sqrt(pi) sigma) per charge."""
    return K / (math.sqrt(math.pi) * 1.4)


def sheet() -> float:
    """Uniform sheet of thickness sigma: -2 pi K <|z|> / A, z normal with variance 2 sigma²."""
    return -2 * math.pi * K / CELL**2 * 2 * 1.4 / math.sqrt(math.pi)


def line() -> float:
    """Uniform line of thickness sigma: -2 K <ln(rho / Å)> / L, rho² two-dimensional with variance 2
    sigma² per axis: <ln rho²> = ln 4 sigma² - Euler's constant."""
    return K / CELL * (EULER - math.log(4 * 1.4**2))


@pytest.mark.parametrize(
    ("pbc", "potential"),
    [
        ((False, False, False), sphere()),
        ((True, True, False), sheet()),
        ((False, False, True), line()),
        ((True, True, True), 0.0),
    ],
    ids=["open", "slab", "wire", "bulk"],
)
@pytest.mark.parametrize("condition", [{"total_charge": 0.3}, {"fermi_level": 1.7}])
def test_capacitance_with_every_boundary(pbc, potential, condition):
    """Analytic: C = 1 / (eta + potential of a unit charge on itself and its images); mean potential zero
    in the bulk. The slab's and the wire's are negative, as their zero is at 0 and at 1 Å."""
    chi, eta = -0.8, 9.0 + max(0.0, -potential)
    cell = np.where(pbc, CELL, 20.0)
    single = Functional(
        electrostatics_of(np.zeros((1, 3)), 1.4, cell=np.diag(cell), pbc=pbc),
        quadratic(chi, eta),
        quadratic=True,
        **condition,
    )
    state = single.solve()
    q, level = float(state.multipoles.sum()), float(state.fermi_level)
    stiffness = eta + potential
    if potential:
        assert abs(potential) > 0.5
    assert responses_of(single, state)["capacitance"] == pytest.approx(1 / stiffness, rel=1e-9)
    assert level == pytest.approx(-chi - stiffness * q, abs=1e-9)
    if "fermi_level" in condition:
        assert q == pytest.approx((-chi - level) / stiffness, abs=1e-10)
        assert float(single.grand_potential(state)) == pytest.approx(-0.5 * stiffness * q * q, abs=1e-9)


def test_a_plate_capacitor_has_the_capacitance_of_its_distance():
    """External: C / A = 1 / (4 pi K d). Two uniform sheets at different electronegativities: charge per
    volt 1 / C with dC^-1/dd = 4 pi K / A to rounding, and C A -> 1 / (4 pi K d) for thin, soft plates."""
    inverse = []
    for distance in (12.0, 20.0):
        positions = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, distance]])
        cell = np.diag([CELL, CELL, 60.0])
        charges = []
        for volt in (0.0, 2.0):
            chi = np.array([[0.0], [-volt]])
            plates = Functional(
                electrostatics_of(positions, 1.4, cell=cell, pbc=(True, True, False)),
                quadratic(chi, 0.5),
                quadratic=True,
            )
            charges.append(float(plates.solve().multipoles[1, 0]))
        assert charges[0] == pytest.approx(0.0, abs=1e-12)
        assert charges[1] > 1e-3
        inverse.append(2.0 / charges[1])
    per_length = 4 * math.pi * K / CELL**2
    assert (inverse[1] - inverse[0]) / 8.0 == pytest.approx(per_length, rel=1e-9)
    assert inverse[1] == pytest.approx(per_length * 20.0, rel=0.1)


def test_the_capacitance_of_a_sphere_is_its_radius():
    """External: C = R / K for a conducting sphere. For Gaussians on a sphere, as wide as their distance
    so that they are a uniform shell, K / R becomes the mean of K erf(r / 2 sigma) / r over the sphere, (K
    / R) (erf(R / sigma) - sigma (1 - exp(-R² / sigma²)) / (sqrt(pi) R)): 6 % less."""
    n, radius, sigma, eta = 900, 8.0, 0.9, 1e-2
    k = np.arange(n) + 0.5
    z, angle = 1 - 2 * k / n, math.pi * (1 + math.sqrt(5)) * k
    rho = np.sqrt(1 - z * z)
    positions = radius * np.stack([rho * np.cos(angle), rho * np.sin(angle), z], axis=1)
    ball = Functional(
        electrostatics_of(positions, sigma), quadratic(0.0, eta), quadratic=True, fermi_level=-1.0
    )
    state = ball.solve()
    capacitance = responses_of(ball, state)["capacitance"]
    edge = sigma / (math.sqrt(math.pi) * radius) * (1 - math.exp(-((radius / sigma) ** 2)))
    shell = K / radius * (erf(radius / sigma) - edge)
    assert capacitance == pytest.approx(1 / (shell + eta / n), rel=1e-4)
    assert capacitance == pytest.approx(radius / K, rel=0.08)
    assert float(state.multipoles.sum()) == pytest.approx(capacitance, rel=1e-9)


# --- mixed batches ---

CELLS = {
    (False, False, False): np.zeros((3, 3)),
    (True, True, False): np.array([[4.1, 0.3, 0.0], [-0.4, 4.4, 0.0], [0.0, 0.0, 14.0]]),
    (False, True, False): np.diag([20.0, 5.0, 20.0]),
    (True, True, True): np.array([[4.4, 0.3, -0.2], [0.9, 4.2, 0.4], [-0.6, 0.7, 4.6]]),
}


def mixed(make, level_known: list[bool], solver: Newton):
    """States of the four boundaries one by one and in one batch, with charges and Fermi levels of their
    own."""
    generator = np.random.default_rng(3)
    n = len(CELLS)
    positions = [POSITIONS + generator.uniform(-0.2, 0.2, POSITIONS.shape) for _ in range(n)]
    fields = generator.uniform(-0.1, 0.1, (n, 3))
    charge = torch.tensor([-0.4, 0.3, 0.2, 0.5], dtype=torch.float64)
    level = torch.where(
        torch.tensor(level_known), torch.tensor([0.5, -0.5, 1.0, 2.0], dtype=torch.float64), torch.nan
    )
    flags = torch.tensor(list(CELLS))
    cells = torch.as_tensor(np.stack(list(CELLS.values())))
    for i, pbc in enumerate(CELLS):
        fields[i, list(pbc)] = 0.0  # along periodic axes a field's potential is a sawtooth
    singles = [
        make(positions[i], cells[i].numpy(), flags[i], fields[i], None, charge[i], level[i]).solve(
            solver=solver
        )
        for i in range(n)
    ]
    batch = np.repeat(np.arange(n), len(POSITIONS))
    together = make(np.concatenate(positions), cells, flags, fields, batch, charge, level)
    return singles, together.solve(solver=solver)


def variational(positions, cell, pbc, field, batch, charge, level) -> Functional:
    """Functional of `convex_energy` for one system or a batch."""
    own = electrostatics_of(positions, SIGMA, 1, cell, pbc, field, batch)

    def local(p: torch.Tensor) -> torch.Tensor:
        return torch.cat([convex_energy(part) for part in p.split(len(POSITIONS))])

    return Functional(own, local, total_charge=charge, fermi_level=level)


def fixed_point(positions, cell, pbc, field, batch, charge, level) -> FixedPoint:
    """Saturating charges and dipoles."""
    own = electrostatics_of(positions, SIGMA, 1, cell, pbc, field, batch, widths=(1.5,))

    def update(v: torch.Tensor) -> torch.Tensor:
        chi = CHI.repeat(len(v) // len(CHI))[:, None]
        return torch.cat([-0.3 * torch.tanh(0.5 * (v[:, :1] + chi)), -0.1 * v[:, 1:]], dim=1)

    return FixedPoint(own, update, total_charge=charge, fermi_level=level)


@pytest.mark.parametrize("level_known", [[False] * 4, [True] * 4, [True, False, True, False]])
@pytest.mark.parametrize("make", [variational, fixed_point])
def test_any_mix_of_boundaries_and_conditions_equals_single_systems(make, level_known):
    """Charged open, slab, wire and bulk systems, at constant charge and constant Fermi level, in one
    batch."""
    solver = Newton(tolerance=1e-13, max_iterations=60)
    singles, together = mixed(make, level_known, solver)
    n = len(POSITIONS)
    for i, single in enumerate(singles):
        p = together.multipoles[n * i : n * (i + 1)]
        assert float(single.multipoles.abs().max()) > 0.05
        assert torch.allclose(p, single.multipoles, rtol=0, atol=1e-10)
        assert float(together.fermi_level[i]) == pytest.approx(float(single.fermi_level[0]), abs=1e-9)
    total = torch.stack([s.multipoles[:, 0].sum() for s in singles])
    known = torch.tensor(level_known)
    charge = torch.tensor([-0.4, 0.3, 0.2, 0.5], dtype=torch.float64)
    assert torch.allclose(total[~known], charge[~known], atol=1e-10)
    if known.any():
        assert float((total[known] - charge[known]).abs().min()) > 1e-3


def test_the_potential_of_a_wide_sheet_is_the_closed_form():
    """The closed form behind the slab's capacitance, at every distance: -2 pi K <|z|> / A with z normal
    about its mean, against the operator of the kernel for two sheets."""
    heights = np.array([0.0, 0.7, 3.0, 9.0])
    positions = np.stack([0 * heights, 0 * heights, heights], axis=1)
    own = electrostatics_of(positions, 1.4, cell=np.diag([CELL, CELL, 30.0]), pbc=(True, True, False))
    z, width = heights[:, None] - heights[None], math.sqrt(2) * 1.4
    mean = z * erf(z / (math.sqrt(2) * width)) + width * math.sqrt(2 / math.pi) * np.exp(
        -((z / width) ** 2) / 2
    )
    expected = -2 * math.pi * K / CELL**2 * mean
    assert np.abs(expected).min() > 10
    assert own.operators.geometry.coulomb_matrix() == pytest.approx(expected, abs=1e-9)
    free = electrostatics_of(positions, 1.4)
    assert free.operators.geometry.coulomb_matrix() == pytest.approx(charge_matrix(positions, 1.4), abs=1e-9)
