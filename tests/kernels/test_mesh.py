"""The particle mesh: forces as accurate as requested, gradients of the interpolated energy, shapes of cells.

Exact values, Madelung constants, invariances, `Geometry` and torch with ``method="mesh"`` are in the tests of
those.
"""

from __future__ import annotations

import numpy as np
import pytest

import electret
from mesh_systems import caesium_chloride, gas, liquid, measure, results, rock_salt
from random_systems import BOUNDARIES, random_system, relative
from threads import check_bits

TIGHT = 1e-12
BAR = 1e-10
VALUES = ("energy", "potential", "forces", "virial")


def periodic(axes: str) -> np.ndarray:
    return np.array([axis in axes for axis in "xyz"])


def other_method(axes: str) -> str:
    return "ewald" if axes else "direct"


def assert_same_as_the_sum(system: dict, axes: str, bar: float = BAR, method: str = "mesh", **settings):
    """Energy, potential, forces, virial and features of a mesh and of a sum."""
    settings = {"accuracy": TIGHT, **settings}
    found = electret.coulomb(**system, method=method, **settings)
    expected = electret.coulomb(**system, method=other_method(axes), **settings)
    for name in VALUES:
        assert relative(getattr(found, name), getattr(expected, name)) < bar, name
    settings = {"widths": [0.7, 1.4], "features_max_l": 1, **settings}
    found = electret.features(**system, method=method, **settings)
    expected = electret.features(**system, method=other_method(axes), **settings)
    assert relative(found, expected) < bar


# -------------------------------------------------------------- the accuracy that is promised

SYSTEMS = {
    "water": (liquid, {}, "xyz", 1.0),
    "water slab": (liquid, {}, "xy", 1.0),
    "water wire": (liquid, {}, "x", 1.0),
    "water droplet": (liquid, {}, "", 1.0),
    # The cutoffs of the split, which "ewald" has too, make up for the most of what is above 1.
    "rock salt": (rock_salt, {}, "xyz", 1.5),
    "caesium chloride": (caesium_chloride, {}, "xyz", 1.5),
    "rock salt sheared": (rock_salt, {"shear": 1.0}, "xyz", 1.5),
    "dense gas": (gas, {"n": 60, "lengths": (8.0, 8.0, 8.0)}, "xyz", 1.0),
    "charged gas": (gas, {"n": 60, "lengths": (4.0, 8.0, 30.0), "charged": True}, "xyz", 1.0),
    "few atoms": (gas, {"n": 5, "lengths": (6.0, 6.0, 6.0), "charged": True}, "xyz", 2.0),
    "few atoms, slab": (gas, {"n": 5, "lengths": (6.0, 6.0, 6.0), "charged": True}, "yz", 2.0),
    "few atoms, open": (gas, {"n": 5, "lengths": (6.0, 6.0, 6.0), "charged": True}, "", 2.0),
}


@pytest.mark.parametrize("max_l", [0, 1, 2])
@pytest.mark.parametrize("sigma", [0.3, 0.6, 1.0])
@pytest.mark.parametrize("name", SYSTEMS)
def test_forces_are_as_accurate_as_asked_for(name, sigma, max_l):
    """Relative RMS error of forces; the benchmark ``mesh_accuracy.py`` has more of the same."""
    make, settings, axes, allowed = SYSTEMS[name]
    system = {**make(max_l, **settings), "pbc": periodic(axes), "sigma": sigma}
    ratios = measure(system, ("mesh",), (1e-3, 1e-6, 1e-9))
    for (_, accuracy), row in ratios.items():
        assert row["forces"] < allowed, (accuracy, row)
        assert row["energy"] < allowed, (accuracy, row)
        assert row["features"] < allowed, (accuracy, row)


@pytest.mark.parametrize("sigma", [0.3, 2.0])
def test_forces_of_many_atoms_are_as_accurate_as_asked_for(sigma):
    system = {**liquid(1, (2, 2, 2)), "pbc": True, "sigma": sigma}
    assert len(system["positions"]) == 1536
    for row in measure(system, ("mesh",), (1e-3, 1e-6)).values():
        assert row["forces"] < 1.0


@pytest.mark.parametrize("order", [4, 5, 6, 7, 8, 9, 11, 12, 14, 16])
def test_every_order_of_splines_is_as_accurate_as_asked_for(order):
    system = {**liquid(0), "pbc": True, "sigma": 1.0}
    for row in measure(system, (f"mesh-{order}",), (1e-3, 1e-5)).values():
        assert 1e-4 < row["forces"] < 1.0


def test_the_estimate_is_not_wasteful():
    """Errors are mostly ten to a hundred times smaller than requested, not thousands of times."""
    ratios = []
    for max_l in (0, 1):
        for sigma in (0.3, 1.0):
            system = {**liquid(max_l), "pbc": True, "sigma": sigma}
            ratios += [row["forces"] for row in measure(system, ("mesh",), (1e-3, 1e-5, 1e-7)).values()]
    assert np.exp(np.log(ratios).mean()) > 1 / 150


# -------------------------------------------------------------- the same as sums, for any input


@pytest.mark.parametrize("max_l", range(5))
@pytest.mark.parametrize("axes", BOUNDARIES)
def test_degrees_and_boundaries(axes, max_l):
    """Mixed widths, sheared cells, charged."""
    system = random_system(81, axes, n=5, max_l=max_l)
    assert abs(system["multipoles"][:, 0].sum()) > 0.01
    assert_same_as_the_sum(system, axes)


@pytest.mark.parametrize("max_l", [5, 6])
def test_high_degrees(max_l):
    """At accuracies that derivatives on a mesh are not rounded by; others are refused."""
    for axes in ("xyz", "xy"):
        system = random_system(82, axes, n=4, max_l=max_l)
        assert_same_as_the_sum(system, axes, accuracy=1e-9)
        with pytest.raises(electret.InputError, match=r"accuracy = 1e-12 is below the rounding"):
            electret.coulomb(**system, method="mesh", accuracy=TIGHT)


@pytest.mark.parametrize("order", [5, 8, 10, 16])
@pytest.mark.parametrize("axes", ["xyz", "xy", "x", ""])
def test_orders(axes, order):
    """Low orders need fine meshes, so the accuracy is what they can pay for."""
    system = random_system(83, axes, n=5, max_l=1)
    exact = electret.coulomb(**system, method=other_method(axes), accuracy=TIGHT)
    accuracy = 1e-4 if order < 8 else 1e-8
    found = electret.coulomb(**system, method=f"mesh-{order}", accuracy=accuracy)
    for name in VALUES:
        assert relative(getattr(found, name), getattr(exact, name)) < 5 * accuracy, name
    assert np.abs(found.forces - exact.forces).max() > 0.0


@pytest.mark.parametrize("sigma", [0.05, 0.25, 3.0])
def test_narrow_and_wide(sigma):
    """Narrow Gaussians leave most to the real-space part, wide ones none."""
    system = {**random_system(84, "xyz", n=6, max_l=1), "sigma": sigma}
    if sigma == 3.0:
        system["cell"] = 4 * system["cell"]
    assert_same_as_the_sum(system, "xyz", 1e-9)


@pytest.mark.parametrize("axes", BOUNDARIES)
def test_widths_far_from_each_other(axes):
    system = {**random_system(85, axes, n=4, max_l=1), "sigma": [0.3, 2.0, 0.3, 0.9]}
    assert_same_as_the_sum(system, axes, 1e-9)


@pytest.mark.parametrize("axes", BOUNDARIES)
def test_potential_at_points(axes):
    system = random_system(86, axes, n=4, max_l=2)
    points = np.random.default_rng(0).uniform(-3, 6, (7, 3))
    points[0] = system["positions"][1]
    found = electret.potential(points, **system, method="mesh", accuracy=TIGHT)
    expected = electret.potential(points, **system, method=other_method(axes), accuracy=TIGHT)
    assert relative(found, expected) < BAR


@pytest.mark.parametrize("self_interaction", [True, False])
@pytest.mark.parametrize("axes", BOUNDARIES)
def test_field_and_self_interaction(axes, self_interaction):
    system = {**random_system(87, axes, n=4, max_l=2), "external_field": [0.3, -0.2, 0.5]}
    assert_same_as_the_sum(system, axes, self_interaction=self_interaction)


@pytest.mark.parametrize(
    ("axes", "boundary"),
    [("xy", "slab_dipole_correction"), ("yz", "slab_dipole_correction"), ("", "molecule_in_box")],
)
def test_corrections(axes, boundary):
    system = random_system(88, axes, n=4, max_l=2)
    assert_same_as_the_sum(system, "xyz", boundary=boundary)
    plain = electret.coulomb(**system, method="mesh", accuracy=TIGHT).energy
    corrected = electret.coulomb(**system, method="mesh", accuracy=TIGHT, boundary=boundary).energy
    assert abs(plain - corrected) > 1e-3


CELLS = {
    "left-handed": np.array([[0, 5.0, 0.3], [5.5, 0.2, 0], [0.1, -0.4, 6.0]]),
    "strongly sheared": np.array([[5.0, 0, 0], [14.0, 5.2, 0], [-9.0, 11.0, 4.9]]),
    "anisotropic": np.array([[3.1, 0, 0], [0.4, 5.0, 0], [0, -2.0, 45.0]]),
    "tiny": np.array([[2.0, 0, 0], [0.5, 1.8, 0], [0, -0.2, 2.2]]),
}


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("axes", ["xyz", "xy", "x"])
def test_cells(axes, name):
    system = {**random_system(89, axes, n=5, max_l=1), "cell": CELLS[name]}
    assert (np.linalg.det(system["cell"]) < 0) == (name == "left-handed")
    assert_same_as_the_sum(system, axes, 1e-9)


@pytest.mark.parametrize("max_l", [0, 2])
@pytest.mark.parametrize("order", [8, 16])
def test_splines_wider_than_the_mesh(max_l, order):
    """Wide Gaussians in a cell of 2 Å at low accuracy have a mesh of few points, which a spline fills several
    times."""
    system = {**random_system(90, "xyz", n=4, max_l=max_l), "cell": CELLS["tiny"], "sigma": 0.9}
    exact = electret.coulomb(**system, method="reciprocal", accuracy=TIGHT)
    found = electret.coulomb(**system, method=f"mesh-{order}", accuracy=1e-2)
    assert relative(found.potential, exact.potential) < 1e-2
    assert_same_as_the_sum(system, "xyz", 1e-9, method=f"mesh-{order}")


@pytest.mark.parametrize("axes", ["xyz", "xy", "x"])
def test_atoms_far_outside_of_the_cell(axes):
    system = random_system(91, axes, n=5, max_l=1)
    shifts = np.array([[1000, -2000, 30], [0, 0, 0], [-1, 1, 0], [5, 7, -900], [0, -1, 0]]) * system["pbc"]
    far = {**system, "positions": system["positions"] + shifts @ system["cell"]}
    inside = electret.coulomb(**system, method="mesh", accuracy=1e-6)
    outside = electret.coulomb(**far, method="mesh", accuracy=1e-6)
    for name in ("energy", "potential", "forces"):
        # the same splines, so equal to the rounding of positions
        assert relative(getattr(outside, name), getattr(inside, name)) < 1e-9


def test_atoms_on_the_edge_of_the_mesh():
    """Coordinates that round to the far edge of the cell are those at its near edge."""
    cell = np.diag([5.0, 6.0, 7.0])
    p = np.array([[1.0, 0.2, -0.1, 0.4], [-0.7, 0.1, 0.3, 0.2], [0.4, 0.0, 0.5, 0.1]])
    rest = [[2.0, 1.0, 3.0], [4.0, 4.5, 0.3]]
    settings = {"sigma": 0.8, "cell": cell, "pbc": True, "method": "mesh", "accuracy": 1e-6}
    expected = electret.coulomb([[0.0, 0.0, 0.0], *rest], p, **settings)
    for tiny in (-1e-17, -1e-300, 1e-17, -5e-16):
        found = electret.coulomb([[tiny] * 3, *rest], p, **settings)
        assert relative(found.forces, expected.forces) < 1e-12
    for edge in (np.nextafter(1.0, 0), 1.0, np.nextafter(1.0, 2)):
        found = electret.coulomb([np.diag(cell) * edge, *rest], p, **settings)
        assert relative(found.forces, expected.forces) < 1e-12


def test_batch_of_mixed_boundaries_is_each_alone():
    systems = [random_system(92 + i, axes, n=2 + i, max_l=1) for i, axes in enumerate(BOUNDARIES)]
    joined = {
        key: np.concatenate([s[key] for s in systems]) for key in ("positions", "multipoles", "sigma")
    } | {key: np.stack([s[key] for s in systems]) for key in ("cell", "pbc")}
    batch = np.repeat(np.arange(len(systems)), [len(s["positions"]) for s in systems])
    shuffle = np.random.default_rng(0).permutation(len(batch))
    for key in ("positions", "multipoles", "sigma"):
        joined[key] = joined[key][shuffle]
    joined["batch"] = batch[shuffle]
    settings = {"method": "mesh", "accuracy": 1e-6}
    together = electret.coulomb(**joined, **settings)
    features = electret.features(**joined, **settings)
    for i, system in enumerate(systems):
        alone = electret.coulomb(**system, **settings)
        atoms = np.flatnonzero(joined["batch"] == i)
        own = np.empty_like(atoms)
        own[np.argsort(np.argsort(shuffle[atoms]))] = atoms
        own = atoms[np.argsort(shuffle[atoms])]
        assert relative(together.energy[i], alone.energy[0]) < BAR
        assert relative(together.virial[i], alone.virial[0]) < BAR
        for name in ("potential", "forces"):
            assert relative(getattr(together, name)[own], getattr(alone, name)) < BAR
        assert relative(features[own], electret.features(**system, **settings)) < BAR


# -------------------------------------------------------------- gradients of the interpolated energy

LOW = 1e-3
"""An accuracy so low that gradients of the exact energy would fail by far."""


def energy(system: dict, **changes) -> float:
    return electret.coulomb(**{**system, **changes}, method="mesh", accuracy=LOW).energy[0]


def slope(function, step: float) -> float:
    return (8 * (function(step) - function(-step)) - (function(2 * step) - function(-2 * step))) / (12 * step)


@pytest.fixture(params=["xyz", "xy", "x", ""])
def corners(request) -> tuple[dict, str]:
    """A system whose first two atoms span its open directions; the mesh follows that span, so that gradients
    are those of the energy on a fixed mesh only for the atoms between."""
    system = random_system(93, request.param, n=6, max_l=2)
    system["positions"][0], system["positions"][1] = [-1.0] * 3, [5.0] * 3
    return system, request.param


def test_forces_are_the_gradient_of_the_interpolated_energy(corners):
    system, axes = corners
    forces = electret.coulomb(**system, method="mesh", accuracy=LOW).forces
    exact = electret.coulomb(**system, method=other_method(axes), accuracy=TIGHT).forces
    scale = np.abs(forces).max()
    for atom, axis in ((2, 0), (3, 1), (5, 2)):
        direction = np.zeros_like(system["positions"])
        direction[atom, axis] = 1.0
        expected = -slope(lambda t, d=direction: energy(system, positions=system["positions"] + t * d), 1e-3)
        assert abs(forces[atom, axis] - expected) < 1e-8 * scale
    assert np.abs(forces - exact).max() > 1e-8 * scale


def test_stress_is_the_strain_derivative_of_the_interpolated_energy(corners):
    """Strain of periodic directions only, since the span along open ones sets the mesh. The energy jumps if
    the number of mesh points changes between the steps: of cells of several sizes the first one without a
    jump (by the fourth differences of the energy) is taken."""
    system, axes = corners
    # open rows normal to the periodic ones, so that the strain leaves the span alone
    system["cell"] = np.where(system["pbc"][:, None] & system["pbc"][None, :], system["cell"], 0.0)
    if not axes:
        pytest.skip("no periodic direction")
    pairs = [(i, j) for i in range(3) for j in range(i + 1) if system["pbc"][i] and system["pbc"][j]]

    def energies(i: int, j: int, step: float = 2e-4) -> np.ndarray:
        strain = np.zeros((3, 3))
        strain[i, j] += 0.5
        strain[j, i] += 0.5
        deformations = [np.eye(3) + t * step * strain for t in (-2, -1, 0, 1, 2)]
        return np.array(
            [energy(system, positions=system["positions"] @ d, cell=system["cell"] @ d) for d in deformations]
        )

    def jumps(values: np.ndarray) -> bool:
        return np.abs(np.diff(values, 4)).max() > 1e-9 * np.abs(values).max()

    for _ in range(10):
        curves = {pair: energies(*pair) for pair in pairs}
        if not any(jumps(values) for values in curves.values()):
            break
        system["cell"] = system["cell"] * 1.013
    else:
        pytest.fail("every cell has a jump")
    virial = electret.coulomb(**system, method="mesh", accuracy=LOW).virial[0]
    for (i, j), (a, b, _, c, d) in curves.items():
        expected = (8 * (c - b) - (d - a)) / (12 * 2e-4)
        assert abs(virial[i, j] + expected) < 1e-7 * np.abs(virial).max()


def test_potential_is_the_derivative_in_the_multipoles(corners):
    system, _ = corners
    p = system["multipoles"]
    potential = electret.coulomb(**system, method="mesh", accuracy=LOW).potential
    direction = np.random.default_rng(0).normal(size=p.shape)
    expected = slope(lambda t: energy(system, multipoles=p + t * direction), 0.5)
    assert (potential * direction).sum() == pytest.approx(expected, rel=1e-11)
    assert relative(0.5 * (potential * p).sum(), energy(system)) < 1e-11


def test_operators_of_a_coarse_mesh_are_each_others_transposes(corners):
    """Reciprocity, which self-consistent solvers rely on, holds whatever the accuracy. Matrices are made by
    sums over k-vectors, so that they are those of the mesh to the accuracy only."""
    system, _ = corners
    p = system.pop("multipoles")
    settings = {"max_l": 2, "widths": [0.8, 1.5], "features_max_l": 1, "method": "mesh", "accuracy": LOW}
    g = electret.Geometry(**system, **settings)
    assert g.methods == [("mesh", "mesh")]
    a, b = g.coulomb_matrix(), g.features_matrix()
    assert np.abs(a - a.T).max() < 1e-12 * np.abs(a).max()
    assert relative((a @ p.ravel()).reshape(p.shape), g.potential(p)) < LOW
    values = g.features(p)
    assert relative((b @ p.ravel()).reshape(values.shape), values) < LOW
    rng = np.random.default_rng(1)
    cotangent, other = rng.normal(size=values.shape), rng.normal(size=p.shape)
    expected = (values * cotangent).sum()
    assert abs(expected) > 0.1
    assert (g.features_transpose(cotangent) * p).sum() == pytest.approx(expected, rel=1e-11)
    assert (g.potential(p) * other).sum() == pytest.approx((g.potential(other) * p).sum(), rel=1e-11)


# -------------------------------------------------------------- invariances, to the accuracy


@pytest.mark.parametrize("accuracy", [1e-3, 1e-5, 1e-7])
@pytest.mark.parametrize("axes", ["xyz", "xy", ""])
def test_translation_by_a_part_of_the_spacing(axes, accuracy):
    system = {**liquid(1), "pbc": periodic(axes), "sigma": 0.8}
    found = results(system, method="mesh", accuracy=accuracy)
    moved = {**system, "positions": system["positions"] + [0.11, 0.07, -0.05]}
    shifted = results(moved, method="mesh", accuracy=accuracy)
    error = np.linalg.norm(shifted["forces"] - found["forces"]) / np.linalg.norm(found["forces"])
    assert error < 2 * accuracy
    if axes:  # along open axes the mesh moves with the atoms
        assert error > 1e-4 * accuracy
    assert np.abs(found["forces"].sum(0)).max() < accuracy * np.abs(found["forces"]).sum()


@pytest.mark.parametrize("accuracy", [1e-3, 1e-6])
def test_permutation_changes_nothing_but_rounding(accuracy):
    system = random_system(95, "xyz", n=9, max_l=2)
    order = np.random.default_rng(2).permutation(9)
    permuted = {**system, **{key: system[key][order] for key in ("positions", "multipoles", "sigma")}}
    found = electret.coulomb(**permuted, method="mesh", accuracy=accuracy)
    expected = electret.coulomb(**system, method="mesh", accuracy=accuracy)
    assert relative(found.forces, expected.forces[order]) < 1e-12
    assert relative(found.energy, expected.energy) < 1e-12


ARRAYS = """
system = random_system(97, axes, n=700 if axes == "xyz" else 60, max_l=1)
settings = dict(method="mesh", accuracy=1e-5)
r = electret.coulomb(**system, **settings)
arrays = [r.energy, r.potential, r.forces, r.virial]
arrays.append(electret.features(**system, **settings))
arrays.append(electret.potential(system["positions"] + 0.5, **system, **settings))
p = system.pop("multipoles")
g = electret.Geometry(**system, **settings)
arrays += [g.potential(p), g.features(p), g.features_transpose(g.features(p))]
"""


def test_bitwise_the_same_for_any_number_of_threads():
    check_bits(ARRAYS)


# -------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("method", "max_l", "fragments"),
    [
        ("mesh-3", 0, ["mesh-3", "mesh-4", "mesh-16"]),
        ("mesh-17", 0, ["mesh-17", "mesh-4", "mesh-16"]),
        ("mesh-", 0, ["mesh-", "order"]),
        ("mesh-eight", 0, ["mesh-eight", "order"]),
        ("mesh8", 0, ["mesh8", "unknown"]),
        ("mesh-4", 1, ["mesh-4", "degree 1", "mesh-5"]),
        ("mesh-8", 6, ["mesh-8", "degree 6", "mesh-10"]),
    ],
)
def test_unusable_orders_are_named(method, max_l, fragments):
    system = random_system(98, "xyz", n=3, max_l=max_l)
    with pytest.raises(electret.InputError) as error:
        electret.coulomb(**system, method=method)
    for fragment in fragments:
        assert fragment in str(error.value), str(error.value)


def test_orders_must_suit_the_receivers_too():
    system = random_system(98, "xyz", n=3, max_l=0)
    with pytest.raises(electret.InputError, match=r"degree 3.*mesh-7"):
        electret.features(**system, features_max_l=3, method="mesh-6")
    assert electret.features(**system, features_max_l=3, method="mesh-7").shape == (3, 2, 16)


def test_meshes_that_exhaust_memory_are_refused():
    system = {**random_system(98, "xy", n=2, max_l=0), "sigma": 0.3}
    system["positions"][1, 2] = 1e9
    with pytest.raises(electret.InputError, match="need a mesh of"):
        electret.coulomb(**system, method="mesh")


@pytest.mark.parametrize("axes", BOUNDARIES)
def test_systems_without_atoms(axes):
    cell = np.stack([np.eye(3) * 5] * 2)
    pbc = np.stack([periodic(axes)] * 2)
    result = electret.coulomb(
        [[0, 0, 0], [1, 1, 1]], [[1], [-1]], cell=cell, pbc=pbc, batch=[1, 1], method="mesh"
    )
    assert result.energy[0] == 0.0
    assert abs(result.energy[1]) > 0.1
    assert electret.coulomb([], [], cell=[5, 5, 5], pbc=periodic(axes), method="mesh").energy == [0.0]
