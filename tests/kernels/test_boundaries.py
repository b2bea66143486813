"""Open axes are exactly open: no image, vacuum or background enters slabs, wires and molecules."""

from __future__ import annotations

import math

import numpy as np
import pytest

import electret
from electret.units import COULOMB_CONSTANT as K
from random_systems import random_system, relative

TIGHT = 1e-12
BAR = 1e-10


def results(system: dict, **settings):
    r = electret.coulomb(**system, accuracy=TIGHT, **settings)
    v = electret.features(**system, accuracy=TIGHT, **settings)
    return r.energy, r.potential, r.forces, r.virial, v


@pytest.mark.parametrize("axes", ["xy", "yz", "xz", "x", "y", "z", ""])
def test_charged_systems_do_not_see_the_open_cell_vectors(axes):
    """Vacuum of any length and direction along open axes, or none given at all."""
    system = random_system(41, axes, n=5, max_l=1)
    assert abs(system["multipoles"][:, 0].sum()) > 0.1
    reference = results({**system, "cell": np.where(system["pbc"][:, None], system["cell"], 0.0)})
    open_rows = ~system["pbc"]
    for factor, tilt in ((1.0, 0.0), (4.0, 0.7), (30.0, -2.0)):
        cell = system["cell"].copy()
        cell[open_rows] = factor * cell[open_rows] + tilt
        for value, expected in zip(results({**system, "cell": cell}), reference, strict=True):
            assert relative(value, expected) < BAR


def test_charged_sheet_has_its_uniform_field():
    """Far from a sheet of charge q per area A the potential is -2 pi K q |z| / A."""
    cell = np.diag([3.0, 4.0, 0.0])
    heights = np.array([20.0, 30.0, -25.0])
    points = np.stack([np.zeros(3), np.zeros(3), heights], axis=1)
    values = electret.potential(points, [[0, 0, 0]], [[1.0]], 0.5, cell, (True, True, False), accuracy=TIGHT)
    assert values == pytest.approx(-2 * math.pi * K * np.abs(heights) / 12.0, rel=1e-12)


def test_charged_wire_has_its_logarithm():
    """Far from a line of charge q per length L the potential is -2 K ln(rho / Å) q / L."""
    rho = np.array([15.0, 40.0])
    points = np.stack([np.zeros(2), rho, np.zeros(2)], axis=1)
    values = electret.potential(
        points, [[0, 0, 0]], [[1.0]], 0.5, np.diag([3.0, 0, 0]), (True, False, False), accuracy=TIGHT
    )
    assert values == pytest.approx(-2 * K * np.log(rho) / 3.0, rel=1e-12)


def test_parallel_charged_plates():
    """Opposite charges ±q on two distant planes attract with 2 pi K q² / A each."""
    cell = np.diag([2.5, 2.5, 0.0])
    result = electret.coulomb(
        [[0, 0, 0], [0, 0, 40.0]], [[1.0], [-1.0]], 0.5, cell, (True, True, False), accuracy=TIGHT
    )
    assert result.forces[:, 2] == pytest.approx([2 * math.pi * K / 6.25, -2 * math.pi * K / 6.25], rel=1e-10)


@pytest.mark.parametrize(("axes", "open_axis"), [("xy", 2), ("yz", 0)])
def test_slab_dipole_correction_is_the_periodic_sum_plus_its_term(axes, open_axis):
    system = random_system(42, axes, n=4, max_l=1, neutral=True)
    # the correction belongs to a cell whose open vector is normal to the slab
    cell = np.zeros((3, 3))
    cell[system["pbc"]] = np.delete(system["cell"][system["pbc"]], open_axis, axis=1) @ np.delete(
        np.eye(3), open_axis, axis=0
    )
    cell[open_axis, open_axis] = 40.0
    system["cell"] = cell
    volume = abs(np.linalg.det(cell))
    corrected = electret.coulomb(**system, boundary="slab_dipole_correction", accuracy=TIGHT)
    periodic = electret.coulomb(**{**system, "pbc": True}, accuracy=TIGHT)
    term = 2 * math.pi * K * corrected.dipole[0, open_axis] ** 2 / volume
    assert term > 0.01
    assert corrected.energy[0] - periodic.energy[0] == pytest.approx(term, rel=1e-8)
    # with 40 Å of vacuum the corrected neutral slab is the exact one
    assert corrected.energy == pytest.approx(electret.coulomb(**system, accuracy=TIGHT).energy, rel=1e-10)


@pytest.mark.parametrize(("axes", "open_axis"), [("xy", 2), ("yz", 0)])
def test_charged_slab_with_the_correction_is_the_exact_slab(axes, open_axis):
    """With vacuum the energy does not depend on the cell nor on the place of the slab; multipoles up to l = 2
    and the widths enter the second moment."""
    system = random_system(45, axes, n=4, max_l=2)
    assert abs(system["multipoles"][:, 0].sum()) > 0.5
    exact = results({**system, "cell": np.where(system["pbc"][:, None], system["cell"], 0.0)})
    normal = np.cross(*system["cell"][system["pbc"]])
    normal /= np.linalg.norm(normal)
    for height, shift in ((30.0, 0.0), (60.0, 0.0), (60.0, 7.0)):
        cell = system["cell"].copy()
        cell[open_axis] = height * normal + 0.3 * cell[(open_axis + 1) % 3]
        moved = {**system, "cell": cell, "positions": system["positions"] + shift * normal}
        plain = electret.coulomb(**{**moved, "pbc": True}, accuracy=TIGHT).energy
        assert abs(plain - exact[0]) > 1.0  # size of the correction
        found = results(moved, boundary="slab_dipole_correction")
        for value, expected in zip(found, exact, strict=True):
            assert relative(value, expected) < BAR


@pytest.mark.parametrize("neutral", [True, False])
def test_molecule_in_a_large_box_approaches_the_open_molecule(neutral):
    """Makov and Payne leave an error of the order 1/L^5."""
    system = random_system(43, "", n=4, max_l=0, neutral=neutral)
    system["sigma"] = 1.0
    exact = electret.coulomb(**{**system, "cell": None}).energy[0]
    errors = []
    for length in (20.0, 30.0):
        box = {**system, "cell": [length] * 3}
        errors.append(abs(electret.coulomb(**box, boundary="molecule_in_box").energy[0] - exact))
        plain = abs(electret.coulomb(**{**box, "pbc": True}).energy[0] - exact)
        assert errors[-1] < 0.2 * plain
    assert errors[1] < 0.3 * errors[0]


def test_far_apart_atoms_in_an_open_system_need_no_grid():
    """Two ions 10 km apart: K/r, at once and without memory for a vacuum cell."""
    distance = 1e14
    energy = electret.coulomb([[0, 0, 0], [distance, 0, 0]], [[1.0], [1.0]], self_interaction=False).energy
    assert energy == pytest.approx([K / distance], rel=1e-12)


def test_narrow_gaussians_in_a_dense_cell():
    """0.05 Å Gaussians: the split sum stays cheap and agrees between accuracies."""
    system = {**random_system(44, "xyz", n=6, max_l=1), "sigma": 0.05}
    loose = electret.coulomb(**system, accuracy=1e-8)
    tight = electret.coulomb(**system, accuracy=1e-12)
    assert relative(loose.forces, tight.forces) < 1e-6
    assert relative(loose.energy, tight.energy) < 1e-7
