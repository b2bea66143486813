"""Geometry: the cached operators equal the functions they cache."""

from __future__ import annotations

import numpy as np
import pytest

import electret
from random_systems import BOUNDARIES, random_system, relative

TIGHT = 1e-12
BAR = 1e-10


def split(system: dict) -> tuple[dict, np.ndarray]:
    return {key: value for key, value in system.items() if key != "multipoles"}, system["multipoles"]


@pytest.mark.parametrize("method", ["auto", "mesh"])
@pytest.mark.parametrize("axes", BOUNDARIES)
@pytest.mark.parametrize("self_interaction", [True, False])
def test_evaluations_are_those_of_the_functions(axes, self_interaction, method):
    system = random_system(51, axes, n=5, max_l=1)
    geometry, p = split(system)
    settings = {"widths": [0.9, 1.7], "normalization": "receiver", "method": method, "accuracy": TIGHT}
    g = electret.Geometry(
        **geometry,
        **settings,
        max_l=1,
        features_max_l=2,
        self_interaction=self_interaction,
        features_self_interaction=not self_interaction,
    )
    for scale in (1.0, -0.3):
        expected = electret.coulomb(
            **geometry,
            multipoles=scale * p,
            self_interaction=self_interaction,
            method=method,
            accuracy=TIGHT,
        )
        energy, potential = g.energy_and_potential(scale * p)
        assert relative(energy, expected.energy) < BAR
        assert relative(potential, expected.potential) < BAR
        values = electret.features(
            **geometry,
            multipoles=scale * p,
            features_max_l=2,
            self_interaction=not self_interaction,
            **settings,
        )
        assert relative(g.features(scale * p), values) < BAR


@pytest.mark.parametrize("method", ["auto", "mesh"])
@pytest.mark.parametrize("axes", ["xyz", "xy", ""])
def test_matrices_are_the_operators(axes, method):
    system = random_system(52, axes, n=4, max_l=1)
    geometry, p = split(system)
    settings = {"widths": [0.9, 1.7], "max_l": 1, "features_max_l": 2, "method": method, "accuracy": TIGHT}
    g = electret.Geometry(**geometry, **settings)
    a, b = g.coulomb_matrix(), g.features_matrix()
    assert a.shape == (16, 16)
    assert b.shape == (4 * 2 * 9, 16)
    assert np.abs(a - a.T).max() < BAR * np.abs(a).max()
    assert relative(0.5 * p.ravel() @ a @ p.ravel(), g.energy(p)[0]) < BAR
    assert relative((a @ p.ravel()).reshape(p.shape), g.potential(p)) < BAR
    assert relative((b @ p.ravel()).reshape(4, 2, 9), g.features(p)) < BAR
    cotangent = np.random.default_rng(0).normal(size=(4, 2, 9))
    assert relative((b.T @ cotangent.ravel()).reshape(p.shape), g.features_transpose(cotangent)) < BAR


@pytest.mark.parametrize("axes", BOUNDARIES)
def test_matrices_and_operators_of_few_atoms_are_the_same_sums(axes):
    """At any accuracy."""
    geometry, p = split(random_system(57, axes, n=6, max_l=1))
    g = electret.Geometry(**geometry, widths=[0.9], max_l=1, features_max_l=1, accuracy=1e-3)
    assert "mesh" not in g.methods[0]
    assert relative((g.features_matrix() @ p.ravel()).reshape(6, 1, 4), g.features(p)) < 1e-12
    assert relative((g.coulomb_matrix() @ p.ravel()).reshape(p.shape), g.potential(p)) < 1e-12


def test_auto_takes_a_mesh_where_dense_solvers_fit_too(pytestconfig):
    """Narrow charges: operators come from a mesh, matrices from sums, and both keep the accuracy."""
    if pytestconfig.getoption("--device") != "cpu":
        pytest.skip("another device has other costs, and another choice")
    rng = np.random.default_rng(3)
    sites = np.stack(np.meshgrid(*[np.arange(8)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)[:500]
    geometry = {
        "positions": 2.3 * sites + rng.uniform(-0.3, 0.3, size=sites.shape),
        "sigma": 0.3,
        "cell": 18.4 * np.eye(3),
        "pbc": True,
    }
    p = rng.choice([-1.0, 1.0], size=(500, 1))
    settings = {"widths": [0.4], "max_l": 0, "features_max_l": 0}
    accuracy = 1e-4
    g = electret.Geometry(**geometry, **settings, accuracy=accuracy)
    assert g.methods == [("mesh", "mesh")]
    exact = electret.Geometry(**geometry, **settings, method="ewald", accuracy=TIGHT)
    for values, wanted in (
        (g.potential(p), exact.potential(p)),
        (g.coulomb_matrix() @ p, exact.potential(p)),
        (g.features(p).reshape(500, 1), exact.features(p).reshape(500, 1)),
        (g.features_matrix() @ p, exact.features(p).reshape(500, 1)),
    ):
        assert relative(values, wanted) < accuracy
    assert relative(g.coulomb_matrix() @ p, g.potential(p)) > 1e-12


def test_matrices_of_one_system_in_a_batch():
    first, second = random_system(53, "xyz", n=2), random_system(54, "", n=3)
    joined = {key: np.concatenate([first[key], second[key]]) for key in ("positions", "sigma")}
    joined |= {key: np.stack([first[key], second[key]]) for key in ("cell", "pbc")}
    g = electret.Geometry(**joined, batch=[0, 0, 1, 1, 1], max_l=1, accuracy=TIGHT)
    for index, system in enumerate((first, second)):
        alone = electret.Geometry(**split(system)[0], max_l=1, accuracy=TIGHT)
        assert relative(g.coulomb_matrix(index), alone.coulomb_matrix()) < BAR
        assert relative(g.features_matrix(index), alone.features_matrix()) < BAR
    assert len(g.methods) == 2


def test_lower_orders_count_as_zero():
    positions, charges = [[0, 0, 0], [0, 1, 2]], np.array([[1.0], [-0.6]])
    g = electret.Geometry(positions, sigma=0.8, max_l=1, accuracy=TIGHT)
    exact = electret.coulomb(positions, charges, sigma=0.8, accuracy=TIGHT)
    energy, potential = g.energy_and_potential(charges)
    assert potential.shape == (2, 1)
    assert relative(energy, exact.energy) < BAR
    assert relative(potential, exact.potential) < BAR
    features = electret.features(positions, charges, sigma=0.8, accuracy=TIGHT)
    assert relative(g.features(charges), features) < BAR


def test_errors():
    g = electret.Geometry([[0, 0, 0]], max_l=1)
    with pytest.raises(electret.InputError, match="max_l = 1, so give at most 4, or make it with max_l=2"):
        g.energy(np.ones((1, 9)))
    with pytest.raises(electret.InputError, match=r"multipoles\[0, 2\] is nan"):
        g.features([[1.0, 0.0, np.nan, 0.0]])
    with pytest.raises(electret.InputError, match="system = 1"):
        g.features_matrix(1)
    with pytest.raises(electret.InputError, match="features_max_l = -1"):
        electret.Geometry([[0, 0, 0]], features_max_l=-1)
    with pytest.raises(electret.InputError, match=r"sigma = 0\.0"):
        electret.Geometry([[0, 0, 0]], sigma=0)


@pytest.mark.parametrize("pbc", [False, (True, True, False), True])
def test_receivers_apart_from_the_sources(pbc):
    """At the atoms they have the features of these, own density included; elsewhere smeared potentials."""
    rng = np.random.default_rng(5)
    positions, p = rng.random((7, 3)) * 6.0, rng.normal(size=(7, 4))
    sigma, batch = rng.uniform(0.5, 1.2, 7), np.array([0, 0, 0, 1, 1, 1, 1])
    p[:, 0] -= np.array([p[:3, 0].mean(), p[3:, 0].mean()])[batch]
    cell = np.array([np.diag([6.0, 6.5, 7.0]), np.diag([8.0, 6.0, 9.0])])
    options = {"cell": cell, "pbc": pbc, "external_field": [0.0, 0.0, 0.2], "accuracy": 1e-10}
    sources = {"positions": positions, "multipoles": p, "sigma": sigma, "batch": batch}
    at_atoms = electret.features(
        **sources, **options, widths=[0.7, 1.5], features_max_l=2, self_interaction=True
    )
    order = [6, 0, 3]
    points = {"receivers": positions[order], "receivers_batch": batch[order]}
    found = electret.features(**sources, **options, **points, widths=[0.7, 1.5], features_max_l=2)
    assert np.abs(at_atoms).max() > 1.0
    np.testing.assert_allclose(found, at_atoms[order], rtol=0, atol=1e-7)
    points = {"receivers": rng.random((4, 3)) * 6.0, "receivers_batch": [1, 0, 0, 1]}
    narrow = electret.features(
        **sources, **options, **points, widths=[1e-5], features_max_l=0, normalization="multipoles"
    )
    renamed = {"points": points["receivers"], "points_batch": points["receivers_batch"]}
    potential = electret.potential(**sources, **options, **renamed)
    assert np.abs(potential).max() > 0.5
    np.testing.assert_allclose(narrow[:, 0, 0], potential, rtol=0, atol=1e-6)


def test_receivers_are_checked():
    system = {"positions": [[0.0, 0.0, 0.0]], "multipoles": [[1.0]]}
    assert electret.features(**system, receivers=[]).shape == (0, 2, 4)
    with pytest.raises(electret.InputError, match=r"receivers has shape \[3\]"):
        electret.features(**system, receivers=[0.0, 0.0, 1.0])
    with pytest.raises(electret.InputError, match="receivers_batch"):
        electret.features(**system, receivers=[[0.0, 0.0, 1.0]], receivers_batch=[1])
    with pytest.raises(electret.InputError, match="receivers_batch is given without"):
        electret.features(**system, receivers_batch=[0])
