"""Exact values of Gaussian multipoles: the committed quadrature data, closed forms, and every method."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

import electret
import reference
from random_systems import relative

CASES = json.loads((Path(__file__).parent / "gaussian_multipoles.json").read_text())["cases"]
TIGHT = 1e-12
BAR = 1e-10


def external_cases() -> list[dict]:
    """Cases of a file in the format of the design's reference data, named by ELECTRET_REFERENCE."""
    path = os.environ.get("ELECTRET_REFERENCE")
    if not path:
        return []
    cases = []
    for case in json.loads(Path(path).read_text())["cases"]:
        wanted = case["features"]
        cases.append(
            {
                **{
                    key: case[key]
                    for key in ("name", "positions", "multipoles", "sigma", "cell", "pbc", "forces")
                },
                "pbc": [bool(flag) for flag in case["pbc"]],
                "widths": wanted["widths"],
                "features_max_l": wanted["max_l"],
                "normalization": wanted["normalization"],
                "features": wanted["values"],
                "energy": case["energy_with_self"],
                "self_energy": case["self_energy"],
                "potential": case["d_energy_d_multipoles"],
            }
        )
    return cases


ALL = CASES + external_cases()


def methods(case: dict) -> list[str]:
    return ["auto", "direct", "mesh"] if not any(case["pbc"]) else ["auto", "reciprocal", "ewald", "mesh"]


CASE_METHODS = [
    pytest.param(case, method, id=f"{case['name']}-{method}") for case in ALL for method in methods(case)
]


def arguments(case: dict, method: str) -> dict:
    keys = ("positions", "multipoles", "sigma", "cell", "pbc")
    return {**{key: case[key] for key in keys}, "method": method, "accuracy": TIGHT}


def test_the_data_cover_every_boundary_and_order():
    assert {sum(case["pbc"]) for case in CASES} == {0, 1, 2, 3}
    assert {math.isqrt(len(case["multipoles"][0])) - 1 for case in CASES} == {0, 1, 2, 3, 4}
    charged = [case for case in CASES if abs(sum(p[0] for p in case["multipoles"])) > 0.1]
    assert len(charged) >= 3


@pytest.mark.parametrize(("case", "method"), CASE_METHODS)
def test_energy_potential_forces(case, method):
    result = electret.coulomb(**arguments(case, method))
    assert relative(result.energy, [case["energy"]]) < BAR
    assert relative(result.potential, case["potential"]) < BAR
    assert relative(result.forces, case["forces"]) < BAR


@pytest.mark.parametrize(("case", "method"), CASE_METHODS)
def test_energy_without_self_interaction(case, method):
    result = electret.coulomb(**arguments(case, method), self_interaction=False)
    scale = abs(case["self_energy"])
    assert scale > 0.1
    assert abs(result.energy[0] - (case["energy"] - case["self_energy"])) < BAR * scale


@pytest.mark.parametrize(("case", "method"), CASE_METHODS)
def test_features(case, method):
    settings = {
        "widths": case["widths"],
        "features_max_l": case["features_max_l"],
        "normalization": case["normalization"],
    }
    values = electret.features(**arguments(case, method), **settings, self_interaction=True)
    assert relative(values, case["features"]) < BAR
    if "self_features" in case:
        without = electret.features(**arguments(case, method), **settings, self_interaction=False)
        expected = np.array(case["features"]) - np.array(case["self_features"])
        assert relative(without, expected) < 10 * BAR


@pytest.mark.parametrize(
    ("case", "method"),
    [p for p in CASE_METHODS if "potential_at_points" in p.values[0]],
)
def test_potential_at_points(case, method):
    values = electret.potential(case["points"], **arguments(case, method))
    assert relative(values, case["potential_at_points"]) < BAR


@pytest.mark.parametrize(("case", "method"), CASE_METHODS)
def test_features_at_the_source_width_are_the_potential(case, method):
    sigma = 0.8
    given = {**arguments(case, method), "sigma": sigma}
    max_l = math.isqrt(len(case["multipoles"][0])) - 1
    values = electret.features(
        **given, widths=[sigma], features_max_l=max_l, normalization="multipoles", self_interaction=True
    )
    assert relative(values[:, 0], electret.coulomb(**given).potential) < BAR


@pytest.mark.parametrize("max_l", range(5))
@pytest.mark.parametrize("normalization", ["receiver", "multipoles"])
def test_one_atom_alone_is_the_closed_form(max_l, normalization):
    """Self energy K sqrt(2/pi) p² / (2 (2l+1)!! (sqrt(2) sigma)^(2l+1)) of each coefficient."""
    sigma, width = 0.7, 1.3
    p = np.arange(1.0, (max_l + 1) ** 2 + 1)[None, :]
    energy = electret.coulomb([[0.1, 0.2, 0.3]], p, sigma).energy
    expected = 0.5 * (reference.self_potential(sigma, sigma, max_l) * p[0] ** 2).sum()
    assert relative(energy, [expected]) < 1e-13
    values = electret.features(
        [[0.1, 0.2, 0.3]], p, sigma, [width], max_l, normalization, self_interaction=True
    )
    ratio = reference.receiver_ratio(width, max_l, normalization)
    assert relative(values[0, 0], ratio * reference.self_potential(sigma, width, max_l) * p[0]) < 1e-13


def test_overlapping_and_distant_charges():
    """erf(r / (2 sigma)) / r from the same place to far away, with its finite limit at r = 0."""
    r = np.array([0.0, 1e-9, 1e-4, 0.03, 1.0, 10.0, 1000.0])
    for distance in r:
        energy = electret.coulomb(
            [[0, 0, 0], [0, 0, distance]], [[1.0], [1.0]], 0.5, self_interaction=False
        ).energy[0]
        expected = reference.K * (math.erf(distance) / distance if distance else 2 / math.sqrt(math.pi))
        assert energy == pytest.approx(expected, rel=1e-13)


def test_reference_harmonics_are_the_documented_ones():
    x, y, z = r = np.array([0.3, -0.7, 1.1])
    expected = [1.0, y, z, x, math.sqrt(3) * x * y, math.sqrt(3) * y * z, z * z - (x * x + y * y) / 2]
    assert np.allclose(reference.solid_harmonics(r, 2)[:7], expected, rtol=1e-14)
