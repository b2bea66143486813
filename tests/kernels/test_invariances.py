"""Invariance of results under images, order, orientation, batching, accuracy settings, threads."""

from __future__ import annotations

import numpy as np
import pytest

import electret
from random_systems import BOUNDARIES, random_system, relative, rotation, wigner
from threads import check_bits

TIGHT = 1e-12
BAR = 1e-10
METHODS = ("auto", "mesh")
SETTINGS = {"widths": [0.9, 1.6], "self_interaction": False, "accuracy": TIGHT}


def evaluate(system: dict, **settings) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Energy, potential, forces and features (max_l = 2)."""
    r = electret.coulomb(**system, accuracy=TIGHT, **settings)
    v = electret.features(**system, features_max_l=2, **SETTINGS, **settings)
    return r.energy, r.potential, r.forces, v


def assert_same(result, expected, bar=BAR):
    for value, wanted in zip(result, expected, strict=True):
        assert relative(value, wanted) < bar


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("axes", BOUNDARIES)
def test_translation(axes, method):
    system = random_system(1, axes, max_l=2)
    moved = {**system, "positions": system["positions"] + [0.37, -1.21, 5.3]}
    assert_same(evaluate(moved, method=method), evaluate(system, method=method))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("axes", BOUNDARIES)
def test_lattice_translation_of_single_atoms(axes, method):
    system = random_system(2, axes, max_l=1)
    shifts = np.array([[1, 0, -2], [0, 3, 0], [-1, 1, 1], [0, 0, 0]]) * system["pbc"]
    moved = {**system, "positions": system["positions"] + shifts @ system["cell"]}
    assert_same(evaluate(moved, method=method), evaluate(system, method=method))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("axes", BOUNDARIES)
def test_permutation(axes, method):
    system = random_system(3, axes, n=5, max_l=1)
    order = np.array([3, 0, 4, 2, 1])
    permuted = {**system, **{key: system[key][order] for key in ("positions", "multipoles", "sigma")}}
    energy, *atomic = evaluate(system, method=method)
    assert_same(evaluate(permuted, method=method), (energy, *(values[order] for values in atomic)))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("max_l", [1, 3])
@pytest.mark.parametrize("axes", BOUNDARIES)
def test_rotation(axes, max_l, method):
    """Multipoles and features turn with the Wigner matrices, forces and stress as vectors and tensors."""
    system = random_system(4, axes, max_l=max_l)
    r = rotation(7)
    turned = {
        **system,
        "positions": system["positions"] @ r.T,
        "cell": system["cell"] @ r.T,
        "multipoles": system["multipoles"] @ wigner(r, max_l).T,
    }
    energy, potential, forces, features = evaluate(system, method=method)
    expected = (energy, potential @ wigner(r, max_l).T, forces @ r.T, features @ wigner(r, 2).T)
    assert_same(evaluate(turned, method=method), expected)
    stress = electret.coulomb(**system, method=method, accuracy=TIGHT).stress
    assert relative(electret.coulomb(**turned, method=method, accuracy=TIGHT).stress, r @ stress @ r.T) < BAR


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("axes", BOUNDARIES)
def test_mirrored_and_reordered_axes(axes, method):
    """A cyclic or odd reordering of the Cartesian axes (left-handed cells, slabs along any axis)."""
    system = random_system(5, axes, max_l=1)
    for order in ([1, 2, 0], [1, 0, 2]):
        p = np.eye(3)[order]
        turned = {
            **system,
            "positions": system["positions"] @ p.T,
            "cell": (system["cell"] @ p.T)[order],
            "pbc": system["pbc"][order],
            "multipoles": system["multipoles"] @ wigner(p, 1).T,
        }
        energy, potential, forces, features = evaluate(system, method=method)
        assert_same(
            evaluate(turned, method=method),
            (energy, potential @ wigner(p, 1).T, forces @ p.T, features @ wigner(p, 2).T),
        )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("axes", [axes for axes in BOUNDARIES if axes])
def test_other_cells_of_the_same_lattice(axes, method):
    """Sheared by lattice vectors and left-handed: the same lattice, so the same everything."""
    system = random_system(6, axes, max_l=1, full_cell=False)
    mix = np.array([[1, 1, 0], [0, 1, -1], [0, 0, 1]]) * np.outer(system["pbc"], system["pbc"])
    other = {**system, "cell": -(mix @ system["cell"])}
    assert_same(evaluate(other, method=method), evaluate(system, method=method))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("axes", [axes for axes in BOUNDARIES if axes])
def test_supercell(axes, method):
    system = random_system(7, axes, n=3, max_l=1, neutral=True)
    axis = "xyz".index(axes[0])
    shift = system["cell"][axis]
    cell = system["cell"].copy()
    cell[axis] *= 2
    double = {
        **system,
        "positions": np.concatenate([system["positions"], system["positions"] + shift]),
        "multipoles": np.concatenate([system["multipoles"]] * 2),
        "sigma": np.concatenate([system["sigma"]] * 2),
        "cell": cell,
    }
    energy, *atomic = evaluate(system, method=method)
    assert_same(
        evaluate(double, method=method), (2 * energy, *(np.concatenate([values] * 2) for values in atomic))
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("axes", BOUNDARIES)
def test_accuracy_settings_agree(axes, method):
    """Splitting width and cutoffs follow `accuracy`: each setting keeps what it promises."""
    system = random_system(8, axes, max_l=2)
    exact = evaluate(system)
    for accuracy in (1e-4, 1e-6, 1e-9):
        result = electret.coulomb(**system, method=method, accuracy=accuracy)
        for value, wanted in zip((result.energy, result.potential, result.forces), exact[:3], strict=True):
            assert relative(value, wanted) < 10 * accuracy


@pytest.mark.parametrize("axes", BOUNDARIES)
def test_methods_agree(axes):
    system = random_system(9, axes, n=6, max_l=2)
    expected = evaluate(system)
    for method in ("reciprocal", "ewald", "mesh") if axes else ("direct", "mesh"):
        assert_same(evaluate(system, method=method), expected)


def test_batch_of_mixed_boundaries_is_each_alone():
    systems = [random_system(20 + i, axes, n=2 + i, max_l=1) for i, axes in enumerate(BOUNDARIES)]
    sizes = [len(s["positions"]) for s in systems]
    batch = np.repeat(np.arange(len(systems)), sizes)
    shuffle = np.random.default_rng(0).permutation(len(batch))
    joined = {
        key: np.concatenate([s[key] for s in systems])[shuffle]
        for key in ("positions", "multipoles", "sigma")
    }
    joined |= {key: np.stack([s[key] for s in systems]) for key in ("cell", "pbc")}
    joined["batch"] = batch[shuffle]
    field = np.random.default_rng(1).normal(size=(len(systems), 3))
    together = electret.coulomb(**joined, external_field=field, accuracy=TIGHT)
    features = electret.features(**joined, **SETTINGS, external_field=field)
    for i, system in enumerate(systems):
        alone = electret.coulomb(**system, external_field=field[i], accuracy=TIGHT)
        atoms = np.flatnonzero(joined["batch"] == i)
        order = np.argsort(shuffle[atoms])
        assert relative(together.energy[i : i + 1], alone.energy) < BAR
        assert relative(together.potential[atoms][order], alone.potential) < BAR
        assert relative(together.forces[atoms][order], alone.forces) < BAR
        assert relative(together.stress[i], alone.stress[0]) < BAR
        assert relative(together.dipole[i], alone.dipole[0]) < BAR
        single = electret.features(**system, **SETTINGS, external_field=field[i])
        assert relative(features[atoms][order], single) < BAR


def test_systems_without_atoms_have_zero_energy():
    system = random_system(11, "xyz")
    cell = np.stack([system["cell"]] * 3)
    result = electret.coulomb(**{**system, "cell": cell}, batch=[1] * 4)
    assert result.energy[0] == result.energy[2] == 0.0
    assert abs(result.energy[1]) > 0.1
    assert not result.stress[0].any()
    assert np.abs(result.stress[1]).max() > 1e-3


def test_zero_atoms():
    result = electret.coulomb([], [])
    assert result.energy.tolist() == [0.0]
    assert result.forces.shape == (0, 3)
    assert electret.features([], [], widths=[1.0, 2.0], features_max_l=1).shape == (0, 2, 4)
    assert electret.potential([], [[0, 0, 0]], [[1]]).shape == (0,)
    assert electret.potential([[0, 0, 0]], [], []).tolist() == [0.0]


ARRAYS = """
system = random_system(12, axes, n=40, max_l=1)
system["sigma"] = system["sigma"] + 0.3
r = electret.coulomb(**system)
arrays = [r.energy, r.potential, r.forces, r.virial]
arrays.append(electret.features(**system))
arrays.append(electret.potential(system["positions"] + 0.5, **system))
"""


def test_bitwise_the_same_for_any_number_of_threads():
    check_bits(ARRAYS)
