"""Arguments of the numpy layer: accepted forms, and the named errors of all others."""

from __future__ import annotations

import numpy as np
import pytest

import electret
from random_systems import random_system, relative

R = [[0.0, 0.0, 0.0], [0.0, 0.0, 3.0]]
Q = [[1.0], [-1.0]]
CELL = np.diag([5.0, 6.0, 7.0])


def nan(index, shape, value=np.nan):
    array = np.ones(shape)
    array[index] = value
    return array


BAD = {
    # name: (arguments of coulomb, fragments the message must hold)
    "nan position": ({"positions": nan((1, 2), (2, 3))}, ["positions[1, 2]", "nan", "finite"]),
    "infinite position": ({"positions": nan((0, 1), (2, 3), np.inf)}, ["positions[0, 1]", "inf"]),
    "flat positions": ({"positions": [0.0, 0.0, 0.0]}, ["positions", "[3]", "[n, 3]", "[[x, y, z]]"]),
    "two coordinates": ({"positions": [[0.0, 0.0], [1.0, 1.0]]}, ["positions", "[2, 2]"]),
    "ragged positions": ({"positions": [[0.0, 0.0, 0.0], [1.0]]}, ["positions"]),
    "text positions": ({"positions": [["a", "b", "c"]] * 2}, ["positions", "dtype"]),
    "complex positions": ({"positions": np.zeros((2, 3), complex)}, ["positions", "complex"]),
    "nan multipole": ({"multipoles": nan((1, 0), (2, 1))}, ["multipoles[1, 0]", "nan"]),
    "too many multipoles": ({"multipoles": np.ones((3, 1))}, ["multipoles", "[3, 1]", "n_atoms = 2"]),
    "flat multipoles": ({"multipoles": [1.0, -1.0]}, ["multipoles", "charges[:, None]"]),
    "three coefficients": ({"multipoles": np.ones((2, 3))}, ["3 coefficients", "1, 4, 9"]),
    "no coefficients": ({"multipoles": np.ones((2, 0))}, ["0 coefficients"]),
    "zero sigma": ({"sigma": 0.0}, ["sigma", "0.0", "positive"]),
    "negative sigma": ({"sigma": [1.0, -0.5]}, ["sigma[1]", "-0.5", "positive"]),
    "nan sigma": ({"sigma": np.nan}, ["sigma", "nan"]),
    "three sigmas": ({"sigma": [1.0, 1.0, 1.0]}, ["sigma", "n_atoms = 2"]),
    "periodic without a cell": ({"pbc": True}, ["pbc[0, 0]", "no cell"]),
    "periodic along a zero vector": (
        {"cell": np.diag([5.0, 0.0, 7.0]), "pbc": (True, True, False)},
        ["pbc[0, 1]", "cell[0, 1] is zero"],
    ),
    "flags of the wrong kind": ({"pbc": "yes"}, ["pbc", "'yes'"]),
    "two flags": ({"pbc": [True, False]}, ["pbc", "[2]"]),
    "flag 2": ({"pbc": 2}, ["pbc", "2"]),
    "nan cell": ({"cell": nan((1, 1), (3, 3)), "pbc": True}, ["cell[1, 1]", "nan"]),
    "cell of four": ({"cell": [1, 2, 3, 4]}, ["cell", "[4]"]),
    "singular cell": ({"cell": [[5, 0, 0], [0, 5, 0], [5, 5, 0]], "pbc": True}, ["cell[0]", "singular"]),
    "parallel slab vectors": (
        {"cell": [[5, 0, 0], [10, 0, 0], [0, 0, 5]], "pbc": (True, True, False)},
        ["cell[0]", "singular"],
    ),
    "short batch": ({"batch": [0]}, ["batch", "[1]", "[2]"]),
    "float batch": ({"batch": [0.0, 1.0]}, ["batch", "float64", "integers"]),
    "negative batch": ({"batch": [0, -1]}, ["batch[1]", "-1"]),
    "huge batch": ({"batch": [0, 10**12]}, ["batch[1]", "1000000000000"]),
    "batch beyond the cells": ({"batch": [0, 2], "cell": np.stack([CELL] * 2)}, ["batch[1]", "2 systems"]),
    "cells without batch": ({"cell": np.stack([CELL] * 2)}, ["batch", "2 systems"]),
    "cells and flags disagree": (
        {"batch": [0, 1], "cell": np.stack([CELL] * 2), "pbc": [[True] * 3] * 3},
        ["cell: 2", "pbc: 3"],
    ),
    "field of two": ({"external_field": [0.1, 0.1]}, ["external_field", "[2]"]),
    "nan field": ({"external_field": [0.1, 0.1, np.nan]}, ["external_field[2]", "nan"]),
    "method of another kind": ({"method": 3}, ["method = 3", "'auto'"]),
    "boundary of another kind": ({"boundary": True}, ["boundary = True", "None"]),
    "no accuracy": ({"accuracy": None}, ["accuracy = None"]),
    "unknown method": ({"method": "magic"}, ["method", "magic", "ewald"]),
    "unknown boundary": ({"boundary": "slab"}, ["boundary", "slab", "slab_dipole_correction"]),
    "direct and periodic": ({"cell": CELL, "pbc": True, "method": "direct"}, ["direct"]),
    "zero accuracy": ({"accuracy": 0.0}, ["accuracy", "0.0"]),
    "nan accuracy": ({"accuracy": np.nan}, ["accuracy", "nan"]),
    "overflowing multipoles": ({"multipoles": [[1e200], [1e200]]}, ["energy[0]", "inf", "multipoles"]),
    "overflowing field": ({"external_field": [0.0, 0.0, 1e308]}, ["energy[0]", "inf", "external_field"]),
    "seventh order": ({"multipoles": np.ones((2, 64))}, ["max_l", "7", "6"]),
    "text accuracy": ({"accuracy": "high"}, ["accuracy", "high"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name):
    arguments, fragments = BAD[name]
    with pytest.raises(electret.InputError) as error:
        electret.coulomb(**{"positions": R, "multipoles": Q, **arguments})
    for fragment in fragments:
        assert fragment in str(error.value), str(error.value)
    assert isinstance(error.value, ValueError)
    assert isinstance(error.value, electret.ElectretError)


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        ({"widths": []}, ["widths"]),
        ({"widths": [1.0, 0.0]}, ["widths[1]", "0.0"]),
        ({"widths": [[1.0]]}, ["widths", "[1, 1]"]),
        ({"widths": [1.0, [2.0]]}, ["widths cannot be read as an array"]),
        ({"external_field": [0.0, 0.0, 1e308]}, ["features[", "inf", "external_field"]),
        ({"features_max_l": -1}, ["features_max_l", "-1"]),
        ({"features_max_l": 1.0}, ["features_max_l", "1.0"]),
        ({"max_l": 1}, ["max_l = 1", "features_max_l"]),
        ({"normalization": "unit"}, ["normalization", "unit", "receiver", "multipoles"]),
        ({"normalization": "unit", "external_field": [0, 0, 1]}, ["normalization", "unit"]),
    ],
)
def test_bad_features_are_named(arguments, fragments):
    with pytest.raises(electret.InputError) as error:
        electret.features(R, Q, **arguments)
    for fragment in fragments:
        assert fragment in str(error.value), str(error.value)


@pytest.mark.parametrize("keyword", ["device", "precision"])
@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (electret.coulomb, (R, Q)),
        (electret.features, (R, Q)),
        (electret.potential, (R, R, Q)),
        (electret.Geometry, (R,)),
        (electret.neighbor_list, ("ij", R)),
    ],
)
def test_calls_for_a_gpu_are_sent_to_electret_torch(function, arguments, keyword):
    with pytest.raises(electret.InputError, match=rf"{keyword} = 'cuda'.*electret\.torch"):
        function(*arguments, **{keyword: "cuda"})


def test_bad_points_are_named():
    with pytest.raises(electret.InputError, match=r"points\[0, 2\] is nan"):
        electret.potential([[0, 0, np.nan]], R, Q)
    with pytest.raises(electret.InputError, match=r"points_batch\[0\] = 1"):
        electret.potential([[0, 0, 1]], R, Q, points_batch=[1])
    with pytest.raises(electret.InputError, match=r"points_batch is None"):
        electret.potential([[0, 0, 1]], R, Q, batch=[0, 1])
    with pytest.raises(electret.InputError, match=r"potential\[0\] is -inf.*external_field"):
        electret.potential([[0, 0, 3]], R, Q, external_field=[0.0, 0.0, 1e308])
    with pytest.raises(electret.InputError, match="widths cannot be read as an array"):
        electret.Geometry(R, widths=[[0.0, 0.0], [1.0]], max_l=0)


def test_every_reasonable_form_gives_the_same_result():
    system = random_system(1, "xyz", n=2, max_l=0)
    cell, sigma = [5.0, 6.0, 7.0], 0.9
    r = np.round(system["positions"], 3)
    expected = electret.coulomb(r, Q, sigma, np.diag(cell), (True, True, True))
    assert abs(expected.energy[0]) > 0.1
    forms = [
        (r.tolist(), [[1], [-1]], sigma, cell, True),
        (np.asfortranarray(r), np.array(Q, dtype=np.float32), [sigma] * 2, np.diag(cell)[None], [[1, 1, 1]]),
        (r[::-1][::-1], np.array(Q, dtype=np.int8), np.array(sigma), tuple(cell), np.ones(3, dtype=bool)),
    ]
    for form in forms:
        result = electret.coulomb(*form)
        assert relative(result.energy, expected.energy) < 1e-14
        assert relative(result.forces, expected.forces) < 1e-14
    batched = electret.coulomb(r, Q, sigma, cell, True, batch=np.zeros(2, dtype=np.uint8))
    assert relative(batched.energy, expected.energy) < 1e-14


def test_one_row_of_flags_serves_all_systems():
    cells, batch = np.stack([CELL, 1.1 * CELL]), [0, 1]
    expected = electret.coulomb(R, Q, cell=cells, pbc=[[True, False, True]] * 2, batch=batch)
    assert (expected.energy != electret.coulomb(R, Q, cell=cells, pbc=True, batch=batch).energy).all()
    found = electret.coulomb(R, Q, cell=cells, pbc=[[True, False, True]], batch=batch)
    assert (found.energy == expected.energy).all()


def test_reprs_are_one_line_with_shapes():
    rng = np.random.default_rng(1)
    x, q = rng.uniform(0, 20, (100, 3)), rng.normal(size=(100, 1))
    assert repr(electret.coulomb(x, q, batch=np.arange(100) % 2)) == (
        "CoulombResult(energy[2], potential[100, 1], forces[100, 3], virial[2, 3, 3], dipole[2, 3], "
        "cell[2, 3, 3])"
    )
    single = repr(electret.charge_equilibration(x, 1.0, 12.0))
    assert single.startswith("ChargeEquilibration(charges[100], fermi_level=")
    assert "\n" not in single


def test_inputs_are_not_changed():
    system = random_system(2, "xy")
    copies = {key: np.copy(value) for key, value in system.items()}
    electret.coulomb(**system)
    electret.features(**system)
    assert all(np.array_equal(system[key], copies[key]) for key in system)


def test_stress_without_volume_has_a_remedy():
    result = electret.coulomb(R, Q)
    with pytest.raises(electret.InputError, match=r"cell\[0\] has no volume.*virial"):
        _ = result.stress
    assert result.virial.shape == (1, 3, 3)
    assert abs(result.virial[0, 2, 2]) > 0.1


def instructions(value):
    """Output of an import with the variable ELECTRET_INSTRUCTIONS, or its last line of error."""
    import os
    import subprocess
    import sys

    script = "import electret; print(electret._native.INSTRUCTIONS)"
    environment = {**os.environ, "ELECTRET_INSTRUCTIONS": value}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    return (run.stdout or run.stderr).strip().splitlines()[-1]


def test_instructions_are_lowered_by_the_variable_or_refused():
    levels = ["portable", "avx2", "avx512"]
    best = instructions("")
    assert best in levels
    for number, level in enumerate(levels):
        found = instructions(level)
        if number <= levels.index(best):
            assert found == level
        else:
            assert found.startswith("electret.InputError: ELECTRET_INSTRUCTIONS")
            assert f'"{level}"' in found
            assert f"its best is {best}" in found
    assert "AVX2" in (found := instructions("AVX2"))
    assert "use portable, avx2 or avx512" in found


def test_import_needs_numpy_only():
    import subprocess
    import sys

    script = "import sys, electret; print(*(m for m in ('torch', 'mace', 'e3nn', 'ase') if m in sys.modules))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edges": [[0, 12]]}, r"edges\[0\] = 12"),
        ({"edges": [[0, 1]]}, r"edges\[0\] = 1; an edge joins atoms of one system"),
        ({"edges": [[0, 2, 6]]}, "n_edges, 2"),
        ({"edges": [[0.0, 2.0]]}, "integers"),
        ({"conductance": [-0.1]}, r"conductance\[0\] = -0.1"),
        ({"conductance": [0.1, 0.2]}, "conductance"),
        ({"placement": [0.5, 0.5]}, "placement"),
    ],
)
def test_unusable_flows_are_named(change, message):
    batch = [0, 1, 0, 2, 1, 0, 2, 2, 1, 0, 1]
    positions = 2.0 * np.arange(33.0).reshape(11, 3)
    geometry = electret.Geometry(positions, sigma=1.0, widths=[], max_l=0, batch=batch)
    flow = electret.ChargeFlow([[0, 2]], [0.1], np.full(11, 0.25))._replace(**change)
    with pytest.raises(electret.InputError, match=message):
        electret.Jacobian(geometry, "coulomb", flow=flow)
