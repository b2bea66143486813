"""First derivatives against central differences, in dense sheared cells where they are large."""

from __future__ import annotations

import numpy as np
import pytest

import electret
from random_systems import BOUNDARIES, random_system

TIGHT = 1e-12
FORCE_BAR = 1e-7  # eV/Å
STRESS_BAR = 1e-8  # eV/Å³
CORRECTIONS = ("slab_dipole_correction", "molecule_in_box")
CASES = [
    *[(axes, None, l) for axes in BOUNDARIES for l in range(4)],
    ("xyz", None, 4),
    ("", None, 4),
    ("xy", "slab_dipole_correction", 1),
    ("yz", "slab_dipole_correction", 2),
    ("", "molecule_in_box", 1),
]
MESH_CASES = [
    *[(axes, None, l) for axes in ("xyz", "xy", "x", "") for l in (1, 2)],
    ("xyz", None, 4),
    ("xy", "slab_dipole_correction", 1),
    ("", "molecule_in_box", 1),
]
SETTINGS = [
    pytest.param(axes, boundary, l, method, id=f"{boundary or axes or 'open'}-l{l}-{method}")
    for method, cases in (("auto", CASES), ("mesh", MESH_CASES))
    for axes, boundary, l in cases
]


def derivative(function, step: float):
    """Fourth-order central difference of `function` at 0."""
    return (8 * (function(step) - function(-step)) - (function(2 * step) - function(-2 * step))) / (12 * step)


def energy(system: dict, boundary, method, **changes) -> float:
    settings = {"boundary": boundary, "method": method, "accuracy": TIGHT}
    return electret.coulomb(**{**system, **changes}, **settings).energy[0]


@pytest.fixture(scope="module")
def field():
    return np.array([0.11, -0.23, 0.31])


@pytest.mark.parametrize(("axes", "boundary", "max_l", "method"), SETTINGS)
def test_forces(axes, boundary, max_l, method, field):
    system = {**random_system(31, axes, n=5, max_l=max_l), "external_field": field}
    forces = electret.coulomb(**system, boundary=boundary, method=method, accuracy=TIGHT).forces
    assert np.abs(forces).max() > 100 * FORCE_BAR
    for atom, axis in ((0, 0), (2, 1), (4, 2)):
        direction = np.zeros_like(system["positions"])
        direction[atom, axis] = 1.0
        expected = -derivative(
            lambda t, d=direction: energy(system, boundary, method, positions=system["positions"] + t * d),
            2e-3,
        )
        assert abs(forces[atom, axis] - expected) < FORCE_BAR


@pytest.mark.parametrize(("axes", "boundary", "max_l", "method"), SETTINGS)
def test_stress(axes, boundary, max_l, method, field):
    system = {**random_system(32, axes, n=5, max_l=max_l), "external_field": field}
    result = electret.coulomb(**system, boundary=boundary, method=method, accuracy=TIGHT)
    volume = abs(np.linalg.det(system["cell"]))
    assert np.abs(result.stress).max() > 100 * STRESS_BAR
    assert np.allclose(result.stress, result.stress.transpose(0, 2, 1), rtol=0, atol=1e-14)
    for i, j in ((0, 0), (1, 1), (2, 2), (0, 1), (1, 2), (0, 2)):
        strain = np.zeros((3, 3))
        strain[i, j] += 0.5
        strain[j, i] += 0.5

        def strained(t, strain=strain):
            deformation = np.eye(3) + t * strain
            return energy(
                system,
                boundary,
                method,
                positions=system["positions"] @ deformation,
                cell=system["cell"] @ deformation,
            )

        expected = derivative(strained, 5e-4) / volume
        assert abs(result.stress[0, i, j] - expected) < STRESS_BAR
        assert abs(result.virial[0, i, j] + expected * volume) < STRESS_BAR * volume


@pytest.mark.parametrize(("axes", "boundary", "max_l", "method"), SETTINGS)
def test_potential_is_the_derivative_in_the_multipoles(axes, boundary, max_l, method, field):
    """The energy is quadratic in the multipoles, so that the central difference is exact."""
    system = {**random_system(33, axes, n=3, max_l=max_l), "external_field": field}
    potential = electret.coulomb(**system, boundary=boundary, method=method, accuracy=TIGHT).potential
    direction = np.random.default_rng(0).normal(size=potential.shape)
    slope = derivative(
        lambda t: energy(system, boundary, method, multipoles=system["multipoles"] + t * direction), 0.5
    )
    assert abs(slope) > 0.01
    assert (potential * direction).sum() == pytest.approx(slope, rel=1e-10)


@pytest.mark.parametrize("axes", BOUNDARIES)
def test_potential_at_points_gives_the_force_on_a_probe(axes):
    """A charge of width s feels the potential smeared by s: compare the narrow limit with the features."""
    system = random_system(34, axes, n=4, max_l=1)
    width = 1e-3
    smeared = electret.features(
        **system, widths=[width], features_max_l=1, normalization="multipoles", self_interaction=True,
        accuracy=TIGHT, method="ewald" if axes else "direct",
    )[:, 0]  # fmt: skip
    step = 1e-3
    for axis in range(3):
        shift = step * np.eye(3)[axis]

        def at(t, shift=shift):
            return electret.potential(system["positions"] + t * shift, **system, accuracy=TIGHT)

        slope = (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * step)
        gradient = smeared[:, 1 + [2, 0, 1][axis]]  # l = 1 is (y, z, x)
        assert np.abs(gradient).max() > 0.1
        assert np.allclose(slope, gradient, rtol=0, atol=2e-5 * np.abs(gradient).max())


def test_field_energy_and_features(field):
    """-F·D, its potential -F·r on charges and -F on dipoles, and the receiver norms by integration."""
    system = random_system(35, "", n=3, max_l=2)
    with_field = electret.coulomb(**system, external_field=field)
    without = electret.coulomb(**system)
    p, r = system["multipoles"], system["positions"]
    dipole = p[:, 0] @ r + p[:, [3, 1, 2]].sum(0)
    assert np.allclose(with_field.dipole[0], dipole, rtol=1e-14)
    assert with_field.energy - without.energy == pytest.approx([-field @ dipole], rel=1e-12)
    assert np.allclose(with_field.forces - without.forces, p[:, :1] * field, rtol=0, atol=1e-12)
    width = 1.3
    x = np.linspace(0, 12 * width, 4001)
    weight = np.exp(-0.5 * (x / width) ** 2)
    for normalization in ("multipoles", "receiver"):
        settings = {"widths": [width], "features_max_l": 2, "normalization": normalization}
        change = electret.features(**system, **settings, external_field=field) - electret.features(
            **system, **settings
        )
        ratio = np.ones(2)
        if normalization == "receiver":
            for l in range(2):
                top, bottom = (
                    np.trapezoid(x ** (2 * l + 2) * weight, x),
                    np.trapezoid(x ** (l + 2) * weight, x),
                )
                ratio[l] = np.sqrt(4 * np.pi / (2 * l + 1)) * top / bottom
        assert np.allclose(change[:, 0, 0], -ratio[0] * (r @ field), rtol=1e-10)
        assert np.allclose(change[:, 0, 1:4], -ratio[1] * field[[1, 2, 0]], rtol=1e-10)
        assert not change[:, 0, 4:].any()
