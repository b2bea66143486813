"""Forms of cell, pbc and batch: one specification for every function that takes them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import electret

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
from electret import torch as differentiable  # noqa: E402

R, Q, POINTS = [[0.0, 0.0, 0.0], [0.0, 0.0, 3.0]], [[1.0], [-1.0]], [[1.0, 1.0, 1.0]]
LENGTHS = [6.0, 7.0, 8.0]
USUAL = {"cell": np.diag(LENGTHS)[None], "pbc": np.ones((1, 3), bool), "batch": np.zeros(2, np.int64)}


def followed(**systems):
    pairs = electret.NeighborList(4.0)
    pairs.update(R, **systems)
    return pairs.get("d")


def at_points(function, *arguments, batch=None, **settings):
    return function(*arguments, batch=batch, points_batch=None if batch is None else [0], **settings)


def functions() -> dict[str, Callable]:
    """Results as functions of cell, pbc and batch."""
    x, q, r = (torch.tensor(values, dtype=torch.float64) for values in (R, Q, POINTS))
    return {
        "coulomb": lambda **s: electret.coulomb(R, Q, **s).energy,
        "features": lambda **s: electret.features(R, Q, **s),
        "potential": lambda **s: at_points(electret.potential, POINTS, R, Q, **s),
        "Geometry": lambda **s: electret.Geometry(R, **s).energy(Q),
        "charge_equilibration": lambda **s: electret.charge_equilibration(R, [8.0, 4.5], 13.0, **s).charges,
        "neighbor_list": lambda **s: electret.neighbor_list("d", R, cutoff=4.0, **s),
        "NeighborList": followed,
        "torch.coulomb_energy": lambda **s: differentiable.coulomb_energy(x, q, **s).numpy(),
        "torch.features": lambda **s: differentiable.features(x, q, **s).numpy(),
        "torch.potential": lambda **s: at_points(differentiable.potential, r, x, q, **s).numpy(),
        "torch.potential, values": lambda **s: at_points(
            differentiable.potential, r, x, q, differentiable=False, **s
        ).numpy(),
        "torch.neighbor_list": lambda **s: differentiable.neighbor_list("d", x, cutoff=4.0, **s).numpy(),
    }


FORMS = [
    {"cell": LENGTHS},
    {"cell": tuple(LENGTHS)},
    {"cell": [6, 7, 8]},
    {"cell": np.array(LENGTHS, dtype=np.float32)},
    {"cell": np.diag(LENGTHS).tolist()},
    {"cell": torch.tensor(LENGTHS)},
    {"pbc": True},
    {"pbc": 1},
    {"pbc": (1, 1, 1)},
    {"pbc": [[True] * 3]},
    {"pbc": torch.tensor(True)},
    {"batch": None},
    {"batch": (0, 0)},
    {"batch": np.zeros(2, np.int32)},
    {"batch": torch.zeros(2, dtype=torch.int32)},
]


@pytest.mark.parametrize("name", functions())
def test_every_form_has_the_result_of_the_usual_one(name):
    function = functions()[name]
    expected = function(**USUAL)
    assert np.abs(expected).max() > 1e-3
    for form in FORMS:
        assert np.allclose(function(**{**USUAL, **form}), expected, rtol=1e-12, atol=1e-14), form


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cell": [1, 2, 3, 4]}, "cell has shape"),
        ({"cell": "a"}, "cell has dtype"),
        ({"cell": None}, r"pbc\[0, 0\] is True but no cell was given"),
        ({"cell": [np.nan, 1.0, 1.0]}, r"cell\[0\] is nan"),
        ({"cell": [[1, 0, 0]] * 3}, r"cell\[0\] is singular"),
        ({"pbc": "yes"}, "pbc = 'yes' is not a flag"),
        ({"pbc": 2}, "pbc = 2 is not a flag"),
        ({"pbc": [True, False]}, r"pbc has shape \[2\]"),
        ({"batch": [0]}, r"batch has shape \[1\]"),
        ({"batch": [0.0, 1.0]}, "batch has dtype"),
        ({"batch": [0, -1]}, r"batch\[1\] = -1"),
        ({"cell": np.stack([np.diag(LENGTHS)] * 2), "batch": None}, "batch is None but cell says 2 systems"),
    ],
)
@pytest.mark.parametrize("name", functions())
def test_every_refusal_is_the_same(name, change, message):
    with pytest.raises(electret.InputError, match=message):
        functions()[name](**{**USUAL, **change})
