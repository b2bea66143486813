"""Bounds of time and memory, cells of extreme shape, lengths that arithmetic does not hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import electret
from fuzz import watch
from random_systems import random_system, relative

VALUES = ("energy", "potential", "forces", "virial")


@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="limits the address space as Linux counts it"
)
def test_hostile_calls_give_finite_numbers_or_a_named_error(monkeypatch):
    """A short run of `make fuzz` in a process with 2 GiB, whose end would show an allocation that fails."""
    # Far above what calls take, whatever else the machine does.
    monkeypatch.setattr(watch, "SECONDS_PER_CASE", 60.0)
    report = watch.run("extremes", seed=1, cases=400)
    assert not report.findings, "\n".join(str(finding)[:2000] for finding in report.findings)
    assert report.outcomes["result"] > 100
    assert report.outcomes["refused"] > 100


R = np.array([[0.0, 0.0, 0.0], [1.0, 1.5, 0.5]])
Q = np.array([[1.0], [-1.0]])


@pytest.mark.parametrize("cutoff", [3e4, 1e18, 1e99])
@pytest.mark.parametrize("pbc", [True, (True, False, False)])
def test_lists_of_too_many_pairs_are_refused_with_their_number(cutoff, pbc):
    cell = np.diag([1e-3, 5.0, 5.0])
    with pytest.raises(electret.InputError, match=r"reaches .* images of cell\[0\] and gives some .* pairs"):
        electret.neighbor_list("ij", R, cell, pbc, cutoff)
    with pytest.raises(electret.InputError, match="pairs"):
        electret.NeighborList(cutoff).update(R, cell, pbc)


def test_buffers_of_a_list_count_as_its_memory():
    """Thirteen million images of one atom."""
    cell = np.diag([3.5e-8, 5.0, 5.0])
    with pytest.raises(electret.InputError, match=r"a list of 1\d{7} pairs does not fit into memory"):
        electret.neighbor_list("d", R[:1], cell, (True, False, False), 0.23)


def test_needles_in_a_batch_cost_no_memory():
    cells = np.array(
        [np.diag(lengths) for lengths in ([1e10, 1e10, 1.0], [1e14, 3.0, 3.0], [5.0, 5.0, 1e12])] * 50
    )
    positions, batch = np.tile(R, (len(cells), 1)), np.repeat(np.arange(len(cells)), 2)
    i = electret.neighbor_list("i", positions, cells, [True, True, False], 2.5, batch=batch)
    assert len(i) > 100


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sigma": 1e-3, "method": "reciprocal"}, ["k-vectors", "0.001", 'method="auto"']),
        ({"pbc": (True, True, False), "positions": R * 1e9, "method": "mesh"}, ["a mesh of", "open axis"]),
        ({"pbc": False, "method": "reciprocal", "sigma": 1e-3}, ["k-vectors", 'method="direct"']),
        ({"pbc": (True, False, False), "positions": R * 1e9, "sigma": 0.1}, ["along an open axis"]),
    ],
)
def test_sums_that_take_too_much_are_refused_with_the_estimate(settings, words):
    arguments = {
        "positions": R,
        "multipoles": Q,
        "sigma": 1.0,
        "cell": np.diag([50.0] * 3),
        "pbc": True,
        **settings,
    }
    with pytest.raises(electret.InputError) as error:
        electret.coulomb(**arguments)
    for word in [*words, "bytes", " s, where 2 sites may take", "accuracy", "ELECTRET_LIMIT_FACTOR"]:
        assert word in str(error.value), str(error.value)


def test_auto_finds_what_is_within_the_bounds():
    cell = np.diag([50.0] * 3)
    found = electret.coulomb(R, Q, 1e-3, cell, True)
    wide = electret.coulomb(R, Q, 1e-2, cell, True, method="ewald")
    assert relative(found.forces, wide.forces) < 1e-7


def test_matrices_that_take_too_much_are_refused():
    rng = np.random.default_rng(0)
    positions = rng.uniform(0.0, 30.0, (20, 3))
    g = electret.Geometry(
        positions, rng.uniform(0.05, 0.1, 20), [0.05], 6, cell=[30.0] * 3, pbc=True, accuracy=1e-12
    )
    with pytest.raises(electret.InputError, match=r"matrix of 980 × 980 elements.*s, where 20 sites"):
        g.coulomb_matrix()


@pytest.mark.parametrize("length", [1e16, 1e300])
def test_lengths_beyond_arithmetic_are_refused(length):
    far = np.array([[0.0, 0.0, 0.0], [0.0, length, 0.0]])
    message = r"positions\[.*\] = .*give lengths up to 1e15 Å"
    for call in (
        lambda: electret.coulomb(far, Q),
        lambda: electret.features(far, Q, method="direct"),
        lambda: electret.potential(R, far, Q),
        lambda: electret.Geometry(far),
        lambda: electret.neighbor_list("ij", far, cutoff=1.0),
    ):
        with pytest.raises(electret.InputError, match=message):
            call()
    with pytest.raises(electret.InputError, match=r"points\[.*1e15 Å"):
        electret.potential(far, R, Q)
    with pytest.raises(electret.InputError, match=r"cell\[.*1e15 Å"):
        electret.coulomb(R, Q, cell=[length, 5.0, 5.0], pbc=True)
    with pytest.raises(electret.InputError, match=r"sigma\[0\] = .*1e10"):
        electret.coulomb(R, Q, length)


# -------------------------------------------------------------- cells of extreme shape


def shaped(seed: int, kind: str, max_l: int) -> dict:
    """A random system in a needle, a plate, or in very oblique vectors of a lattice."""
    system = random_system(seed, "xyz", n=4, max_l=max_l)
    rng = np.random.default_rng(seed)
    cell = system["cell"]
    if kind == "needle":
        cell = cell * np.array([[0.3], [0.4], [8.0]])[rng.permutation(3)]
    elif kind == "plate":
        cell = cell * np.array([[0.3], [5.0], [5.0]])[rng.permutation(3)]
    elif kind == "sheared":
        numbers = np.eye(3) + np.triu(rng.integers(2, 40, (3, 3)) * rng.choice([-1, 1], (3, 3)), 1)
        cell = (numbers @ cell)[rng.permutation(3)]
    system["cell"] = cell
    system["positions"] = rng.uniform(0.0, 1.0, (4, 3)) @ system["cell"]
    return system


@pytest.mark.parametrize("max_l", [0, 1, 3, 4, 6])
@pytest.mark.parametrize("kind", ["needle", "plate", "sheared"])
def test_meshes_in_cells_of_any_shape_are_as_accurate_as_asked_for(kind, max_l):
    """Or refused, where derivatives on a mesh are rounded by more."""
    accuracy = {4: 1e-12, 6: 1e-9}.get(max_l, 1e-13)
    for seed in range(2):
        system = shaped(seed, kind, max_l)
        exact = electret.coulomb(**system, method="reciprocal", accuracy=1e-14)
        for method in ("mesh", "ewald"):
            found = electret.coulomb(**system, method=method, accuracy=accuracy)
            for name in VALUES:
                # Sums of many terms, and the cell, have some rounding of their own.
                error = relative(getattr(found, name), getattr(exact, name))
                assert error < accuracy + 3e-13, (method, name)
        settings = {"widths": [0.6, 1.2], "features_max_l": max_l}
        found = electret.features(**system, **settings, method="mesh", accuracy=accuracy)
        exact = electret.features(**system, **settings, method="reciprocal", accuracy=1e-14)
        assert relative(found, exact) < accuracy + 3e-13
    if max_l > 3:
        with pytest.raises(electret.InputError, match="below the rounding of meshes"):
            electret.coulomb(**system, method="mesh", accuracy=0.9 * accuracy)
        found = electret.coulomb(**system, accuracy=0.9 * accuracy)
        assert relative(found.energy, electret.coulomb(**system, method="reciprocal").energy) < 1e-9


@pytest.mark.parametrize("axes", ["xyz", "xy", "yz"])
@pytest.mark.parametrize("method", ["reciprocal", "ewald", "mesh"])
def test_any_vectors_of_a_lattice_give_the_same(axes, method):
    """Energies, forces and virials; also of vectors 1e5 times as long as the cell is high."""
    system = random_system(5, axes, n=4, max_l=2)
    expected = electret.coulomb(**system, method=method, accuracy=1e-11)
    a, b = (0, 1) if axes != "yz" else (1, 2)
    for n in (3, 1000, 100_000):
        oblique = dict(system, cell=system["cell"].copy())
        oblique["cell"][a] += n * oblique["cell"][b]
        found = electret.coulomb(**oblique, method=method, accuracy=1e-11)
        for name in VALUES:
            assert relative(getattr(found, name), getattr(expected, name)) < 1e-10 * max(1.0, 1e-4 * n), (
                n,
                name,
            )


def test_forces_in_nearly_singular_cells_are_differences_of_the_energy():
    system = random_system(6, "xyz", n=3, max_l=4)
    cell = system["cell"]
    cell[2] = 0.3 * cell[0] + 0.7 * cell[1] + [0.0, 0.0, 0.02]
    arguments = {**system, "method": "mesh", "accuracy": 1e-10}
    forces = electret.coulomb(**arguments).forces
    step = np.zeros((3, 3))
    step[1, 0] = 1e-4
    energies = [
        electret.coulomb(**{**arguments, "positions": system["positions"] + s * step}).energy[0]
        for s in (1, -1)
    ]
    assert abs((energies[0] - energies[1]) / 2e-4 + forces[1, 0]) < 1e-6 * np.abs(forces).max()


def test_vectors_of_pairs_are_as_exact_as_is_said():
    """In cells of extreme shape, with atoms many cells away: the bound of the conventions."""
    rng = np.random.default_rng(3)
    for shear in (0.0, 30.0, 300.0):
        cell = np.diag([3.0, 4.0, 5.0])
        cell[2] += [shear, -2.0 * shear, 0.0]
        positions = rng.uniform(-3.0, 4.0, (6, 3)) @ cell
        i, j, S, D = electret.neighbor_list("ijSD", positions, cell, True, 6.0)
        assert len(i) > 100
        wrapped = np.abs(np.floor(positions @ np.linalg.inv(cell))) + 1
        lengths = np.linalg.norm(cell, axis=1)
        largest = np.linalg.norm(positions, axis=1).max() + ((wrapped.max(axis=0) + np.abs(S)) * lengths).sum(
            axis=1
        )
        error = np.abs(D - (positions[j] - positions[i] + S @ cell)).max(axis=1)
        assert (error <= 4 * np.finfo(float).eps * largest).all()
