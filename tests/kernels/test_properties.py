"""Properties over random systems: any boundary, order, width, overlap and batch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import electret

SETTINGS = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def systems(draw, min_atoms=1, max_atoms=5):
    """A valid system: any boundary, sheared cells of either hand, atoms anywhere, even overlapping."""
    n = draw(st.integers(min_atoms, max_atoms))
    max_l = draw(st.integers(0, 2))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    cell = np.diag(rng.uniform(3.0, 9.0, 3)) + rng.uniform(-1.0, 1.0, (3, 3))
    if draw(st.booleans()):
        cell[0] *= -1
    spread = draw(st.sampled_from([0.0, 0.5, 6.0]))
    return {
        "positions": rng.uniform(-1, 1, (n, 3)) * spread,
        "multipoles": rng.normal(size=(n, (max_l + 1) ** 2)),
        "sigma": rng.uniform(0.6, 1.5, n),
        "cell": cell,
        "pbc": draw(st.tuples(st.booleans(), st.booleans(), st.booleans())),
    }


@SETTINGS
@given(system=systems())
def test_results_are_finite_consistent_and_quadratic(system):
    r = electret.coulomb(**system)
    for values in (r.energy, r.potential, r.forces, r.virial):
        assert np.isfinite(values).all()
    # Euler: E = 1/2 p dE/dp with self-interaction
    assert 0.5 * (system["multipoles"] * r.potential).sum() == pytest.approx(r.energy[0], rel=1e-9, abs=1e-9)
    doubled = electret.coulomb(**{**system, "multipoles": 2 * system["multipoles"]})
    assert doubled.energy == pytest.approx(4 * r.energy, rel=1e-9, abs=1e-9)


@SETTINGS
@given(system=systems())
def test_no_net_force(system):
    forces = electret.coulomb(**system).forces
    assert np.abs(forces.sum(0)).max() <= 1e-7 * max(1.0, np.abs(forces).max())


@SETTINGS
@given(system=systems(min_atoms=2))
def test_the_operator_is_symmetric_and_positive(system):
    """With self-interaction a neutral density has the energy of its field: never negative."""
    p = system.pop("multipoles")
    max_l = int(np.sqrt(p.shape[1])) - 1
    a = electret.Geometry(**system, max_l=max_l).coulomb_matrix()
    assert np.abs(a - a.T).max() <= 1e-8 * np.abs(a).max()
    charge = np.zeros_like(p)
    charge[:, 0] = 1.0
    project = np.eye(p.size) - np.outer(charge, charge) / charge.sum()
    assert np.linalg.eigvalsh(project @ a @ project).min() > -1e-6 * np.abs(a).max()


@SETTINGS
@given(systems=st.lists(systems(), min_size=2, max_size=4), seed=st.integers(0, 1000))
def test_batch_is_single(systems, seed):
    order = np.random.default_rng(seed).permutation(sum(len(s["positions"]) for s in systems))
    n_lm = max(s["multipoles"].shape[1] for s in systems)
    padded = [np.pad(s["multipoles"], ((0, 0), (0, n_lm - s["multipoles"].shape[1]))) for s in systems]
    batch = np.repeat(np.arange(len(systems)), [len(s["positions"]) for s in systems])
    r = electret.coulomb(
        np.concatenate([s["positions"] for s in systems])[order],
        np.concatenate(padded)[order],
        np.concatenate([s["sigma"] for s in systems])[order],
        np.stack([s["cell"] for s in systems]),
        np.stack([s["pbc"] for s in systems]),
        batch[order],
    )
    for i, system in enumerate(systems):
        alone = electret.coulomb(**system)
        assert r.energy[i] == pytest.approx(alone.energy[0], rel=1e-7, abs=1e-7)


@SETTINGS
@given(system=systems(), method=st.sampled_from(["auto", "reciprocal", "ewald", "direct"]))
def test_every_method_serves_or_refuses_by_name(system, method):
    expected = electret.coulomb(**system)
    if method == "direct" and any(system["pbc"]):
        with pytest.raises(electret.InputError, match="direct"):
            electret.coulomb(**system, method=method)
        return
    result = electret.coulomb(**system, method=method)
    scale = max(1.0, np.abs(expected.forces).max())
    assert result.energy == pytest.approx(expected.energy, rel=1e-7, abs=1e-7)
    assert np.abs(result.forces - expected.forces).max() < 1e-6 * scale
