"""Jacobians against numpy.linalg on explicit matrices; charge equilibration against its definition."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import numpy as np
import pytest

import electret
from electret.units import COULOMB_CONSTANT as K

PBC = [(True, True, True), (True, True, False), (False, False, True), (False, False, False)]
BATCH = np.array([0, 1, 0, 2, 1, 0, 2, 2, 1, 0, 1])
N_SYSTEMS = 3


def geometry(seed: int, pbc, max_l: int = 1, method: str = "ewald", **settings) -> electret.Geometry:
    """Three systems, by a method whose matrices are its operators to rounding (`auto` may choose a mesh)."""
    rng = np.random.default_rng(seed)
    cells = 6.0 * np.eye(3) + rng.normal(scale=0.3, size=(N_SYSTEMS, 3, 3))
    return electret.Geometry(
        rng.uniform(0, 6, size=(BATCH.size, 3)),
        sigma=rng.choice([0.8, 1.1, 1.4], BATCH.size),
        widths=[0.8, 2.0],
        max_l=max_l,
        features_max_l=1,
        cell=cells,
        pbc=pbc,
        batch=BATCH,
        accuracy=1e-7,
        method=method,
        **settings,
    )


class Problem:
    """Random blocks and the matrices they stand for; with edges along which charge flows, one of them double,
    one from an atom to itself, and atoms that take no charge."""

    def __init__(self, pbc, operator: str, max_l: int = 1, seed: int = 0, flows: bool = False) -> None:
        rng = np.random.default_rng(seed)
        self.geometry = geometry(seed, pbc, max_l)
        self.operator = operator
        n, n_lm = BATCH.size, (max_l + 1) ** 2
        self.shape = (n, n_lm)
        n_rows = n_lm if operator == "coulomb" else 8
        scale = 12.0 if operator == "coulomb" else 1.0
        self.left = rng.normal(scale=0.1, size=(n, n_lm, n_lm)) + scale * np.eye(n_lm)
        self.right = None if operator == "coulomb" else rng.normal(scale=0.02, size=(n, n_lm, n_rows))
        self.column = rng.normal(size=self.shape) + np.eye(1, n_lm)
        self.constrained = np.array([True, False, True])
        self.residual = rng.normal(size=self.shape)
        self.constraint = rng.normal(size=N_SYSTEMS)
        self.flow = None
        if flows:
            edges = [(i, j) for i in range(n) for j in range(i) if BATCH[i] == BATCH[j] and (i + j) % 4]
            edges += [edges[0][::-1], (3, 3)]
            placement = np.arange(n) % 3 / np.bincount(BATCH, np.arange(n) % 3)[BATCH]
            self.flow = electret.ChargeFlow(edges, rng.uniform(0.0, 0.2, len(edges)), placement)

    def jacobian(self, **settings) -> electret.Jacobian:
        return electret.Jacobian(
            self.geometry,
            self.operator,
            self.left,
            self.right,
            self.column,
            self.constrained,
            flow=self.flow,
            **settings,
        )

    def product(self, system: int) -> np.ndarray:
        """R M, ``[n * n_lm, n * n_lm]``."""
        g, atoms = self.geometry, np.flatnonzero(system == BATCH)
        if self.right is None:
            return g.coulomb_matrix(system)
        size = atoms.size * self.shape[1]
        matrix = g.features_matrix(system).reshape(atoms.size, -1, size)
        return np.einsum("iab,ibc->iac", self.right[atoms], matrix).reshape(size, size)

    def matrix(self, system: int) -> np.ndarray:
        """K, ``[n * n_lm + 1, n * n_lm + 1]``."""
        atoms, n_lm = np.flatnonzero(system == BATCH), self.shape[1]
        inner = self.product(system)
        n = len(inner)
        for k, atom in enumerate(atoms):
            block = slice(k * n_lm, (k + 1) * n_lm)
            inner[block, block] += self.left[atom]
        full = np.zeros((n + 1, n + 1))
        full[:n, :n] = inner
        full[:n, n] = self.column[atoms].ravel()
        if self.flow is not None:
            w = self.flow.placement[atoms]
            through = 0.1 * len(atoms) * np.outer(w, w)  # 0.1 e/V per atom
            for (i, j), c in zip(self.flow.edges, self.flow.conductance, strict=True):
                if BATCH[i] == system:
                    difference = (atoms == i) * 1.0 - (atoms == j)
                    through += c * np.outer(difference, difference)
            full[:n:n_lm] = through @ full[:n:n_lm]
            full[:n:n_lm, :n:n_lm] += np.eye(len(atoms)) - w[:, None]
        if self.constrained[system]:
            full[n, :n:n_lm] = 1.0
        else:
            full[n, n] = 1.0
        return full


def relative(found: np.ndarray, exact: np.ndarray) -> float:
    scale = np.abs(exact).max()
    assert scale > 1e-3
    return float(np.abs(found - exact).max() / scale)


@pytest.mark.parametrize("pbc", PBC)
@pytest.mark.parametrize("operator", ["coulomb", "features"])
@pytest.mark.parametrize(("max_l", "flows"), [(0, False), (1, False), (2, False), (0, True), (1, True)])
def test_solves_and_products_are_those_of_numpy(pbc, operator, max_l, flows):
    problem = Problem(pbc, operator, max_l, flows=flows)
    for method in ("dense", "krylov"):
        jacobian = problem.jacobian(method=method)
        assert jacobian.methods == [method] * N_SYSTEMS
        for transpose in (False, True):
            x, y, status = jacobian.solve(problem.residual, problem.constraint, transpose)
            r, s = jacobian.apply(x, y, transpose)
            assert (status == 0).all()
            for system in range(N_SYSTEMS):
                atoms = np.flatnonzero(system == BATCH)
                matrix = problem.matrix(system).T if transpose else problem.matrix(system)
                assert np.linalg.cond(matrix) < 1e5
                b = np.append(problem.residual[atoms].ravel(), problem.constraint[system])
                found = np.append(x[atoms].ravel(), y[system])
                assert relative(found, np.linalg.solve(matrix, b)) < 1e-9
                assert relative(np.append(r[atoms].ravel(), s[system]), matrix @ found) < 1e-12


def test_defaults_are_the_identity_the_charges_and_a_constraint_of_zero():
    g = geometry(3, True)
    n_lm = 4
    ones = np.zeros((BATCH.size, n_lm))
    ones[:, 0] = 1.0
    r = np.random.default_rng(0).normal(size=ones.shape)
    short = electret.Jacobian(g, "coulomb").solve(r)
    identity = np.tile(np.eye(n_lm), (BATCH.size, 1, 1))
    full = electret.Jacobian(g, "coulomb", identity, identity, ones, [True] * 3).solve(r, [0, 0, 0])
    for a, b in zip(short, full, strict=True):
        assert np.allclose(a, b, rtol=1e-10, atol=1e-12)
    assert np.abs(short[0]).max() > 0.01
    assert np.allclose(np.bincount(BATCH, short[0][:, 0]), 0.0, atol=1e-12)


@pytest.mark.parametrize("pbc", PBC)
@pytest.mark.parametrize("operator", ["coulomb", "features"])
def test_eigenpairs_are_those_of_numpy(pbc, operator):
    problem = Problem(pbc, operator)
    jacobian = problem.jacobian()
    values, right, left = jacobian.eigenpair()
    assert np.allclose(jacobian.spectral_radius(), np.abs(values), rtol=1e-12)
    for system in range(N_SYSTEMS):
        atoms = np.flatnonzero(system == BATCH)
        t = -problem.product(system)
        spectrum = np.linalg.eigvals(t)
        exact = spectrum[np.argmax(np.abs(spectrum))]
        assert abs(exact) > 0.05
        assert abs(values[system] - (exact.conjugate() if exact.imag < 0 else exact)) < 1e-10 * abs(exact)
        w, u = right[atoms].ravel(), left[atoms].ravel()
        assert np.linalg.norm(w) == pytest.approx(1.0)
        assert np.vdot(u, w) == pytest.approx(1.0)
        assert np.abs(t @ w - values[system] * w).max() < 1e-10 * abs(exact)
        assert np.abs(u.conj() @ t - values[system] * u.conj()).max() < 1e-9 * abs(exact) * np.abs(u).max()


def test_the_eigenpair_gives_the_derivative_of_the_spectral_radius():
    problem = Problem(True, "features", seed=2)
    change = np.random.default_rng(1).normal(scale=0.02, size=problem.right.shape)
    values, w, u = problem.jacobian().eigenpair()
    h = 1e-5
    radii = []
    for sign in (1, -1):
        moved = Problem(True, "features", seed=2)
        moved.right = problem.right + sign * h * change
        radii.append(moved.jacobian().spectral_radius())
    difference = (radii[0] - radii[1]) / (2 * h)
    for system in range(N_SYSTEMS):
        atoms = np.flatnonzero(system == BATCH)
        # T = -R M: dT w = -dR (M w)
        v = (problem.geometry.features_matrix(system) @ w[atoms].ravel()).reshape(atoms.size, -1)
        slope = np.vdot(u[atoms], -np.einsum("iab,ib->ia", change[atoms], v))
        exact = (slope * values[system].conjugate()).real / abs(values[system])
        assert abs(exact) > 1e-3
        assert difference[system] == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize(("method", "tolerance"), [("ewald", 1e-11), ("mesh", 1e-7), ("auto", 1e-7)])
@pytest.mark.parametrize("pbc", PBC)
def test_transposed_features(pbc, method, tolerance):
    g = geometry(5, pbc, method=method, self_interaction=False, features_self_interaction=True)
    rng = np.random.default_rng(0)
    p, cotangent = rng.normal(size=(BATCH.size, 4)), rng.normal(size=(BATCH.size, 2, 4))
    potential = g.features_transpose(cotangent)
    product = np.sum(g.features(p) * cotangent)
    assert abs(product) > 0.1
    assert np.sum(p * potential) == pytest.approx(product, rel=1e-11)
    for system in range(N_SYSTEMS):
        atoms = system == BATCH
        expected = g.features_matrix(system).T @ cotangent[atoms].ravel()
        assert relative(potential[atoms].ravel(), expected) < tolerance


def test_a_failed_system_is_zero_and_leaves_the_others_alone():
    for method, failed in (("dense", 1), ("krylov", 2)):
        problem = Problem(True, "features")
        x, y, _ = problem.jacobian(method=method).solve(problem.residual, problem.constraint)
        inside = BATCH == 1
        problem.left[inside] = 0.0
        problem.right[inside] = 0.0
        partial = problem.jacobian(method=method).solve(problem.residual, problem.constraint)
        assert partial[2].tolist() == [0, failed, 0]
        assert (partial[0][inside] == 0).all()
        assert partial[1][1] == 0
        assert np.abs(x[inside]).max() > 1e-3
        assert np.allclose(partial[0][~inside], x[~inside], rtol=1e-12, atol=0)
        assert np.allclose(partial[1][[0, 2]], y[[0, 2]], rtol=1e-12, atol=0)


def test_too_few_iterations_are_reported():
    problem = Problem(True, "features")
    x, y, status = problem.jacobian(method="krylov", max_iterations=2).solve(problem.residual)
    assert (status == 2).all()
    assert not x.any()
    assert not y.any()


SHAPES = {
    "left": ({"left": np.ones((BATCH.size, 4))}, r"left has shape \[11, 4\]; expected \[11, 4, 4\]"),
    "right": ({"right": np.ones((BATCH.size, 4, 4))}, r"right has shape .* expected \[11, 4, 8\]"),
    "missing": ({}, "right is missing"),
    "column": ({"right": np.ones((BATCH.size, 4, 8)), "column": np.ones(3)}, "column has shape"),
    "flags": ({"right": np.ones((BATCH.size, 4, 8)), "constrained": [True, False]}, "constrained has shape"),
    "numbers": ({"right": np.ones((BATCH.size, 4, 8)), "constrained": 1}, "constrained = 1 is not a flag"),
    "nan": ({"right": np.full((BATCH.size, 4, 8), np.nan)}, r"right\[0, 0, 0\] is nan"),
    "method": ({"right": np.ones((BATCH.size, 4, 8)), "method": "lu"}, 'method "lu" is unknown'),
    "tolerance": ({"right": np.ones((BATCH.size, 4, 8)), "tolerance": 0}, "tolerance = 0.0"),
}


@pytest.mark.parametrize("name", SHAPES)
def test_blocks_that_do_not_fit_are_named(name):
    arguments, message = SHAPES[name]
    with pytest.raises(electret.InputError, match=message):
        electret.Jacobian(geometry(0, True), "features", **arguments)


def test_other_errors():
    g = geometry(0, True)
    with pytest.raises(electret.InputError, match="operator 'potential' is unknown"):
        electret.Jacobian(g, "potential")
    with pytest.raises(electret.InputError, match="geometry is list"):
        electret.Jacobian([], "coulomb")
    without = electret.Geometry(np.eye(3), widths=[])
    with pytest.raises(electret.InputError, match="no widths"):
        electret.Jacobian(without, "features", right=np.ones((3, 4, 0)))
    jacobian = electret.Jacobian(g, "coulomb")
    with pytest.raises(electret.InputError, match=r"residual has shape \[11\]; expected \[11, 4\]"):
        jacobian.solve(np.ones(11))
    with pytest.raises(electret.InputError, match=r"constraint has shape \[1\]; expected \[3\]"):
        jacobian.solve(np.ones((11, 4)), [1.0])
    with pytest.raises(electret.InputError, match="cotangent has shape"):
        g.features_transpose(np.ones((11, 4)))


THREADS = """
import numpy as np, electret
rng = np.random.default_rng(0)
pos = rng.uniform(0, 9, size=(90, 3))
g = electret.Geometry(pos, sigma=1.0, widths=[1.5, 3.0], max_l=1, cell=[9, 9, 9], pbc=True)
R, r = rng.normal(scale=0.01, size=(90, 4, 8)), rng.normal(size=(90, 4))
out = [g.features_matrix(), g.coulomb_matrix()]
for method in ("dense", "krylov"):
    J = electret.Jacobian(g, "features", right=R, method=method)
    out += [*J.solve(r)[:2], *J.solve(r, transpose=True)[:2], *J.eigenpair()]
q = electret.charge_equilibration(pos, r[:, 0], 9.0, cell=[9, 9, 9], pbc=True)
out += [q.charges, q.forces]
import hashlib
print(hashlib.sha256(b"".join(a.tobytes() for a in out)).hexdigest())
"""


def test_threads_do_not_change_a_bit():
    digests = set()
    for threads in ("1", "2", "4"):
        run = subprocess.run(
            [sys.executable, "-c", THREADS],
            env={**os.environ, "RAYON_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
        )
        digests.add(run.stdout.strip())
    assert len(digests) == 1
    assert len(digests.pop()) == 64


class Atoms:
    """Arguments of charge equilibration for three systems."""

    def __init__(self, pbc, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        n = BATCH.size
        self.positions = rng.uniform(0, 6, size=(n, 3))
        self.arguments = {
            "electronegativity": rng.normal(scale=3.0, size=n),
            "hardness": rng.uniform(8.0, 14.0, size=n),
            "sigma": rng.choice([0.8, 1.1], n),
            "cell": 6.0 * np.eye(3) + rng.normal(scale=0.3, size=(N_SYSTEMS, 3, 3)),
            "pbc": pbc,
            "batch": BATCH,
            "external_field": rng.normal(scale=0.2, size=(N_SYSTEMS, 3)),
            "accuracy": 1e-11,
        }

    def run(self, positions=None, **changes) -> electret.ChargeEquilibration:
        r = self.positions if positions is None else positions
        return electret.charge_equilibration(r, **{**self.arguments, **changes})


TOTAL = np.array([0.5, -1.0, 0.0])


@pytest.mark.parametrize("pbc", PBC)
def test_equilibrated_charges_are_those_of_numpy(pbc):
    atoms = Atoms(pbc)
    result = atoms.run(total_charge=TOTAL)
    g = electret.Geometry(
        atoms.positions,
        widths=[],
        max_l=0,
        **{key: atoms.arguments[key] for key in ("sigma", "cell", "pbc", "batch", "accuracy")},
    )
    for system in range(N_SYSTEMS):
        own = np.flatnonzero(system == BATCH)
        chi, eta = atoms.arguments["electronegativity"][own], atoms.arguments["hardness"][own]
        work = atoms.positions[own] @ atoms.arguments["external_field"][system]
        matrix = np.ones((own.size + 1, own.size + 1))
        matrix[:-1, :-1] = g.coulomb_matrix(system) + np.diag(eta)
        matrix[-1, -1] = 0.0
        exact = np.linalg.solve(matrix, np.append(work - chi, TOTAL[system]))
        found = np.append(result.charges[own], result.fermi_level[system])
        assert relative(found, exact) < 1e-10
        q = exact[:-1]
        energy = chi @ q + 0.5 * q @ matrix[:-1, :-1] @ q - work @ q
        assert result.energy[system] == pytest.approx(energy, rel=1e-10)
        assert np.allclose(result.dipole[system], q @ atoms.positions[own], atol=1e-9)


@pytest.mark.parametrize("pbc", PBC)
@pytest.mark.parametrize("grand", [False, True])
def test_forces_are_the_gradient_of_the_energy(pbc, grand):
    atoms = Atoms(pbc, seed=1)
    held = {"fermi_level": [-1.0, 0.5, 0.0]} if grand else {"total_charge": TOTAL}
    result = atoms.run(**held)
    assert np.abs(result.forces).max() > 0.05
    h = 1e-4
    for atom, axis in ((0, 0), (4, 1), (7, 2)):
        energies = []
        for sign in (1, -1):
            moved = atoms.positions.copy()
            moved[atom, axis] += sign * h
            r = atoms.run(moved, **held)
            charge = np.bincount(BATCH, r.charges)
            energies.append((r.energy + (r.fermi_level * charge if grand else 0.0)).sum())
        assert result.forces[atom, axis] == pytest.approx(
            -(energies[0] - energies[1]) / (2 * h), rel=1e-6, abs=1e-6
        )


@pytest.mark.parametrize("pbc", PBC)
def test_charge_and_fermi_level_are_conjugate(pbc):
    atoms = Atoms(pbc, seed=2)
    h = 1e-3
    level = np.array([-1.0, 0.5, 0.3])
    at = {shift: atoms.run(fermi_level=level + shift) for shift in (-h, 0.0, h)}
    charge = {shift: np.bincount(BATCH, r.charges) for shift, r in at.items()}
    potential = {shift: at[shift].energy + (level + shift) * charge[shift] for shift in at}
    slope = (potential[h] - potential[-h]) / (2 * h)
    assert np.abs(charge[0.0]).max() > 0.1
    assert np.allclose(slope, charge[0.0], rtol=1e-7, atol=1e-8)
    # and at fixed charge dE/dQ = -mu
    energy = {shift: atoms.run(total_charge=TOTAL + shift).energy for shift in (-h, h)}
    mu = atoms.run(total_charge=TOTAL).fermi_level
    assert np.abs(mu).max() > 0.1
    assert np.allclose((energy[h] - energy[-h]) / (2 * h), -mu, rtol=1e-7, atol=1e-8)
    # the same state from either side
    again = atoms.run(fermi_level=mu)
    assert np.allclose(np.bincount(BATCH, again.charges), TOTAL, atol=1e-8)


def test_a_batch_is_its_systems():
    atoms = Atoms(True, seed=3)
    whole = atoms.run(total_charge=TOTAL)
    for system in range(N_SYSTEMS):
        own = np.flatnonzero(system == BATCH)
        single = electret.charge_equilibration(
            atoms.positions[own],
            atoms.arguments["electronegativity"][own],
            atoms.arguments["hardness"][own],
            atoms.arguments["sigma"][own],
            total_charge=TOTAL[system],
            cell=atoms.arguments["cell"][system],
            pbc=True,
            external_field=atoms.arguments["external_field"][system],
            accuracy=1e-11,
        )
        assert (whole.charges[own] == single.charges).all()
        assert whole.energy[system] == single.energy[0]


CASES = {
    "maximum": (
        {"hardness": [30.0, -60.0], "fermi_level": 0.0},
        r"no minimum at fixed fermi_level.*smallest eigenvalue -5\d\..*hardness\[1\] = -60",
    ),
    "saddle": ({"hardness": [-11.0, -14.0]}, "no minimum at fixed total_charge.*smallest eigenvalue -"),
    "nan": ({"electronegativity": [0.0, np.nan]}, r"electronegativity\[1\] is nan"),
    "shape": ({"hardness": [1.0, 2.0, 3.0]}, r"hardness has shape \[3\]; .* \[n_atoms = 2\]"),
    "charge": ({"total_charge": [0.0, 1.0]}, r"total_charge has shape \[2\]"),
    "level": ({"fermi_level": np.inf}, "fermi_level is inf"),
    "field": ({"external_field": [1.0]}, "external_field has shape"),
    "sigma": ({"sigma": -1.0}, "sigma = -1.0"),
}


@pytest.mark.parametrize("name", CASES)
def test_unusable_arguments_of_charge_equilibration(name):
    changes, message = CASES[name]
    arguments = {"electronegativity": [8.0, 4.5], "hardness": [13.0, 14.0], **changes}
    with pytest.raises(electret.InputError, match=message):
        electret.charge_equilibration([[0, 0, 0], [0, 0, 1]], **arguments)


# Two NH3 molecules in bohr, with electronegativities at their coordination numbers, hardnesses and radii of
# the EEQ model in atomic units (Caldeweyher et al., J. Chem. Phys. 150, 154122 (2019)), and charges by
# tad-multicharge.
AMMONIA = np.array(
    [
        [-2.98334550857544, -0.08808205276728, 0.0],
        [2.98334550857544, 0.08808205276728, 0.0],
        [-4.07920360565186, 0.25775116682053, 1.52985656261444],
        [-1.60526800155640, 1.24380481243134, 0.0],
        [-4.07920360565186, 0.25775116682053, -1.52985656261444],
        [4.07920360565186, -0.25775116682053, -1.52985656261444],
        [1.60526800155640, -1.24380481243134, 0.0],
        [4.07920360565186, -0.25775116682053, 1.52985656261444],
    ]
)
EEQ = {"N": (1.3974671539272585, 0.05317918, 1.32250290), "H": (1.18778931, -0.35015861, 0.55159092)}
EEQ_CHARGES = {
    0.0: [-0.8347, -0.8347, 0.2731, 0.2886, 0.2731, 0.2731, 0.2886, 0.2731],
    1.0: [-0.6708, -0.6708, 0.3982, 0.3745, 0.3982, 0.3982, 0.3745, 0.3982],
}


def dense_equilibration(chi, hardness, distances, gamma, total):
    """Charges and energy of chi q + 1/2 q J q, with J = erf(gamma r) / r, and on its diagonal
    2 gamma / sqrt(pi) + hardness."""
    n = len(chi)
    r = distances + np.eye(n)
    matrix = np.ones((n + 1, n + 1))
    matrix[:n, :n] = np.vectorize(math.erf)(gamma * r) / r
    matrix[range(n), range(n)] = 2.0 * np.diag(gamma) / math.sqrt(math.pi) + hardness
    matrix[n, n] = 0.0
    q = np.linalg.solve(matrix, np.append(-np.asarray(chi), total))[:n]
    return q, chi @ q + 0.5 * q @ matrix[:n, :n] @ q


@pytest.mark.parametrize("total", EEQ_CHARGES)
def test_charges_of_the_eeq_model(total):
    """Hardnesses below zero, for which the interaction of a Gaussian with itself makes up. With bohr for Å
    and e²/bohr for eV, energies are those in atomic units times the Coulomb constant."""
    chi, eta, radius = np.array([EEQ["N"]] * 2 + [EEQ["H"]] * 6).T
    assert eta.min() < -0.3
    result = electret.charge_equilibration(
        AMMONIA, K * chi, K * eta, radius / np.sqrt(2.0), total_charge=total, accuracy=1e-15
    )
    distances = np.linalg.norm(AMMONIA[:, None] - AMMONIA, axis=2)
    gamma = 1.0 / np.sqrt(radius[:, None] ** 2 + radius**2)
    charges, energy = dense_equilibration(chi, eta, distances, gamma, total)
    np.testing.assert_allclose(charges, EEQ_CHARGES[total], atol=1e-4)
    np.testing.assert_allclose(result.charges, charges, rtol=0, atol=1e-12)
    assert result.energy[0] / K == pytest.approx(energy, rel=1e-12)


def test_charges_of_nearly_point_like_gaussians():
    """Hardnesses below -120 V/e, which leave 22 to 24 V/e beside the Gaussians' own interaction."""
    water = np.array([[0.0, 0.0, 0.0], [0.76, 0.59, 0.0], [-0.76, 0.57, 0.1]])
    r = np.concatenate([water, water + np.array([3.0, 0.3, 0.2])])
    sigma = 0.05
    own = K / (np.sqrt(np.pi) * sigma)
    chi, whole = np.tile([8.7, 4.5, 4.5], 2), np.tile([22.0, 24.0, 24.0], 2)
    result = electret.charge_equilibration(r, chi, whole - own, sigma, accuracy=1e-15)
    distances = np.linalg.norm(r[:, None] - r, axis=2)
    gamma = np.full((6, 6), 0.5 / sigma)
    q, energy = dense_equilibration(chi / K, (whole - own) / K, distances, gamma, 0.0)
    assert (whole - own).max() < -120.0
    assert q[0] < -0.1
    np.testing.assert_allclose(result.charges, q, rtol=0, atol=1e-11)
    assert result.energy[0] == pytest.approx(K * energy, rel=1e-11)


@pytest.mark.parametrize("grand", [False, True])
@pytest.mark.parametrize("pbc", PBC)
def test_hardnesses_below_zero_where_there_is_a_minimum(pbc, grand):
    """In a batch whose other systems have hardnesses above zero."""
    if grand and sum(pbc) in (1, 2):
        pytest.skip("charge on slabs and wires lowers their energy without limit")
    atoms = Atoms(pbc, seed=6)
    eta = np.where(BATCH == 1, -0.5, atoms.arguments["hardness"])
    held = {"fermi_level": [0.5, -1.0, 0.0]} if grand else {"total_charge": TOTAL}
    result = atoms.run(hardness=eta, **held)
    whole = atoms.run(**held)
    own = BATCH == 1
    assert np.allclose(result.charges[~own], whole.charges[~own], rtol=0, atol=1e-9)
    kept = {key: atoms.arguments[key] for key in ("sigma", "cell", "pbc", "batch", "accuracy")}
    matrix = electret.Geometry(atoms.positions, widths=[], max_l=0, **kept).coulomb_matrix(1)
    q, work = result.charges[own], atoms.positions[own] @ atoms.arguments["external_field"][1]
    gradient = atoms.arguments["electronegativity"][own] + eta[own] * q + matrix @ q - work
    assert np.abs(q).max() > 0.1
    np.testing.assert_allclose(gradient, -result.fermi_level[1], atol=1e-8)


def test_hardnesses_below_zero_of_many_atoms():
    """Solved by iterations: the equations hold, and a hardness without a minimum is refused there too."""
    side = np.arange(10.0)
    r = 1.9 * np.stack(np.meshgrid(side, side, np.arange(11.0)), axis=-1).reshape(-1, 3)
    n = len(r)
    chi = np.random.default_rng(7).normal(scale=2.0, size=n)
    arguments = {"sigma": 0.5, "accuracy": 1e-12}
    result = electret.charge_equilibration(r, chi, -1.0, **arguments)
    v = electret.coulomb(r, result.charges[:, None], **arguments).potential[:, 0]
    assert np.abs(result.charges).max() > 0.1
    np.testing.assert_allclose(chi - result.charges + v, -result.fermi_level[0], atol=1e-9)
    with pytest.raises(electret.InputError, match=r"no minimum at fixed total.*hardness\[77\] = -40"):
        electret.charge_equilibration(r, chi, np.where(np.arange(n) == 77, -40.0, -1.0), **arguments)


def test_no_atoms():
    result = electret.charge_equilibration(np.zeros((0, 3)), 1.0, 1.0, fermi_level=0.0)
    assert result.charges.shape == (0,)
    assert result.energy.tolist() == [0.0]
    with pytest.raises(electret.InputError, match="could not be equilibrated"):
        electret.charge_equilibration(np.zeros((0, 3)), 1.0, 1.0, total_charge=1.0)
