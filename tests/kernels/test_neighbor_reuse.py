"""Neighbour lists that follow moving atoms, against lists made anew: the same pairs, order and bits."""

import copy
import itertools
import pickle

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import electret
from threads import outputs_by_threads

ALL_PBC = list(itertools.product([False, True], repeat=3))
EVERYTHING = "ijSdD"


def assert_bitwise(pairs, positions, cell=None, pbc=False, batch=None, **options):
    """The list is that of the positions; returns its number of pairs."""
    expected = electret.neighbor_list(EVERYTHING, positions, cell, pbc, pairs.cutoff, batch, **options)
    found = pairs.get(EVERYTHING)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.shape == theirs.shape
        assert ours.tobytes() == theirs.tobytes()
    return len(found[0])


def dense_system(seed, n_atoms=40, length=6.0):
    """Atoms in a triclinic cell, some far outside of it."""
    rng = np.random.default_rng(seed)
    cell = length * (np.eye(3) + rng.uniform(-0.3, 0.3, (3, 3)))
    fractions = rng.uniform(-2.0, 3.0, (n_atoms, 3))
    return fractions @ cell, cell, rng


coordinates = st.floats(-9, 9, allow_subnormal=False)
atoms = st.lists(st.tuples(coordinates, coordinates, coordinates), min_size=1, max_size=6).map(np.array)


@st.composite
def cells(draw):
    entries = draw(st.lists(st.floats(-5, 5, allow_subnormal=False), min_size=9, max_size=9))
    cell = np.array(entries).reshape(3, 3) + 3.0 * np.eye(3)
    assume(np.linalg.svd(cell)[1].min() > 1.0)
    return cell


@settings(max_examples=150, deadline=None)
@given(
    atoms,
    cells(),
    st.sampled_from(ALL_PBC),
    st.floats(0.5, 5.0),
    st.sampled_from([0.0, 0.1, 0.6, 2.0]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_any_walk_gives_the_lists_made_anew(positions, cell, pbc, cutoff, skin, half, itself, seed):
    """Steps of all sizes, cells that strain and turn, atoms moved to other images."""
    rng = np.random.default_rng(seed)
    pairs = electret.NeighborList(cutoff, skin, half=half, self_interaction=itself)
    for step in range(8):
        assert pairs.update(positions, cell, pbc) or step > 0
        assert_bitwise(pairs, positions, cell, pbc, half=half, self_interaction=itself)
        positions = positions + rng.normal(scale=rng.choice([1e-3, 0.1, 0.5]) * skin, size=positions.shape)
        if rng.random() < 0.5:
            strain = np.eye(3) + rng.normal(scale=rng.choice([1e-3, 0.02]), size=(3, 3))
            positions, cell = positions @ strain, cell @ strain
        if rng.random() < 0.3:
            positions = positions + (rng.integers(-2, 3, positions.shape) * np.array(pbc)) @ cell
    assert pairs.n_updates == 8
    assert 1 <= pairs.n_builds <= 8


@pytest.mark.parametrize("pbc", ALL_PBC)
def test_a_long_walk_with_few_builds(pbc):
    """Long enough that a wrong criterion loses a pair, with cells crossed and few builds."""
    positions, cell, rng = dense_system(3)
    velocities = rng.normal(scale=0.05, size=positions.shape)
    pairs = electret.NeighborList(3.0, 1.0)
    crossings, before = 0, np.floor(positions @ np.linalg.inv(cell))
    for _ in range(120):
        pairs.update(positions, cell, pbc)
        assert assert_bitwise(pairs, positions, cell, pbc) > (100 if all(pbc) else -1)
        velocities += rng.normal(scale=0.02, size=positions.shape)
        velocities *= 0.95
        positions = positions + velocities
        now = np.floor(positions @ np.linalg.inv(cell))
        crossings, before = crossings + int((now != before).sum()), now
    assert crossings > 100
    assert 5 < pairs.n_builds < 60
    assert pairs.n_updates == 120


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_largest_displacement_decides(wrapped):
    """One atom of many moves: kept up to skin / 2, also when the caller wraps it, rebuilt beyond."""
    positions, cell, _ = dense_system(1)
    direction = np.array([0.6, 0.0, 0.8])
    for size, rebuilt in [(0.0, False), (0.4999, False), (0.5001, True)]:
        pairs = electret.NeighborList(3.0, 1.0)
        pairs.update(positions, cell, True)
        moved = positions.copy()
        moved[17] += size * direction + (wrapped * np.array([1, -2, 3])) @ cell
        assert pairs.update(moved, cell, True) is rebuilt
        assert assert_bitwise(pairs, moved, cell, True) > 100


def test_two_atoms_that_meet_are_found_before_they_are_near():
    """Each moves by less than the skin towards the other; half of the skin is all that either may move."""
    start = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 3.9]])
    pairs = electret.NeighborList(2.0, 1.0)
    assert pairs.update(start)
    approach = np.array([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]])
    near = start + 0.97 * approach
    assert pairs.update(near)
    assert assert_bitwise(pairs, near) == 2


@pytest.mark.parametrize("scale", [0.97, 0.999, 1.001, 1.03])
def test_a_breathing_cell_takes_its_part_of_the_skin(scale):
    """Affine motion is no displacement: 3 % of 7 Å is far less than the skin, and atoms move up to 2 Å."""
    rng = np.random.default_rng(0)
    cell = 60.0 * np.eye(3)
    positions = rng.uniform(0.0, 60.0, (400, 3))
    pairs = electret.NeighborList(6.0, 1.0)
    pairs.update(positions, cell, True)
    assert not pairs.update(scale * positions, scale * cell, True)
    assert assert_bitwise(pairs, scale * positions, scale * cell, True) > 500


def test_compression_beyond_the_skin_rebuilds():
    """Neighbours at 7 Å and beyond come within 6 Å when the cell shrinks by 6/7, not before."""
    positions = np.array([[0.0, 0.0, 0.0]])
    for scale, rebuilt in [(0.858, False), (0.856, True)]:
        pairs = electret.NeighborList(6.0, 1.0)
        pairs.update(positions, 7.005 * np.eye(3), True)
        assert pairs.update(positions, scale * 7.005 * np.eye(3), True) is rebuilt
        assert_bitwise(pairs, positions, scale * 7.005 * np.eye(3), True)
    # Atoms of the system that was not rebuilt may not move on their own at the same time.
    cube = 20.0 * np.eye(3)
    apart = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 6.99]])
    pairs = electret.NeighborList(6.0, 1.0)
    pairs.update(apart, cube, True)
    assert pairs.update(0.9 * apart + [[0.0, 0.0, 0.4], [0.0, 0.0, 0.0]], 0.9 * cube, True)


def test_a_fast_gas_loses_no_pair():
    """All atoms fly straight, a fifth of the skin per step: many pairs come from beyond cutoff and skin."""
    rng = np.random.default_rng(11)
    positions = rng.uniform(0.0, 14.0, (400, 3))
    flight = rng.normal(size=positions.shape)
    flight *= 0.4 / np.linalg.norm(flight, axis=1, keepdims=True)
    pairs = electret.NeighborList(2.0, 2.0)
    for step in range(12):
        moved = positions + step * flight
        pairs.update(moved)
        assert assert_bitwise(pairs, moved) > 200
    assert pairs.n_builds == 4


def test_a_turning_cell_is_no_motion():
    positions, cell, _ = dense_system(2)
    angle = 1.0
    turn = np.array([[np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0], [0, 0, 1.0]])
    pairs = electret.NeighborList(3.0, 1.0)
    pairs.update(positions, cell, True)
    assert not pairs.update(positions @ turn, cell @ turn, True)
    assert assert_bitwise(pairs, positions @ turn, cell @ turn, True) > 100


@pytest.mark.parametrize("pbc", [True, (True, True, False), (False, True, False)])
def test_constant_pressure(pbc):
    """Anisotropic cell fluctuations of a percent with thermal motion: the same lists, and of crystals fewer
    builds than steps (along open axes a strained system has no cell that says so)."""
    positions, cell, rng = dense_system(4, n_atoms=60, length=8.0)
    fractions = positions @ np.linalg.inv(cell)
    pairs = electret.NeighborList(3.0, 1.0)
    for _ in range(60):
        fractions = fractions + rng.normal(scale=0.005, size=fractions.shape)
        strained = cell @ (np.eye(3) + rng.normal(scale=0.01, size=(3, 3)))
        moved = fractions @ strained
        pairs.update(moved, strained, pbc)
        assert assert_bitwise(pairs, moved, strained, pbc) > 20
    assert 1 < pairs.n_builds < (40 if pbc is True else 60)


@pytest.mark.parametrize("length", [0.7, 1.3])
def test_cells_far_smaller_than_cutoff_and_skin(length):
    rng = np.random.default_rng(5)
    cell = length * (np.eye(3) + rng.uniform(-0.2, 0.2, (3, 3)))
    positions = rng.uniform(-3, 3, (2, 3))
    pairs = electret.NeighborList(3.0, 1.5)
    for _ in range(60):
        pairs.update(positions, cell, True)
        assert assert_bitwise(pairs, positions, cell, True) > 100
        positions = positions + rng.normal(scale=0.1, size=positions.shape)
    assert pairs.n_builds < 50


def test_a_batch_with_every_boundary():
    rng = np.random.default_rng(6)
    systems = [dense_system(seed, n_atoms=12 + seed) for seed in range(8)]
    pbc = np.array(ALL_PBC)
    cell = np.array([cell for _, cell, _ in systems])
    batch = np.repeat(np.arange(8), [len(positions) for positions, _, _ in systems])
    order = rng.permutation(len(batch))
    batch, positions = batch[order], np.concatenate([positions for positions, _, _ in systems])[order]
    pairs = electret.NeighborList(3.0, 0.8)
    for step in range(40):
        pairs.update(positions, cell, pbc, batch)
        assert assert_bitwise(pairs, positions, cell, pbc, batch) > 100
        positions = positions + rng.normal(scale=0.03, size=positions.shape)
        cell[step % 8] *= 1.0 + 0.002 * rng.normal()
    assert 1 < pairs.n_builds < 20


def test_what_always_rebuilds():
    positions, cell, _ = dense_system(7)
    batch = np.zeros(len(positions), int)
    batch[20:] = 1
    pairs = electret.NeighborList(3.0, 1.0)
    for arguments in [
        (positions, cell, True),
        (positions, cell, (True, True, False)),
        (positions, np.zeros((3, 3)), False),
        (positions[:-1], cell, False),
        (positions[:-1], cell, True),
        (positions, cell, True),
        (positions, np.array([cell, cell]), True, batch),
        (positions, np.array([cell, cell]), True, batch[::-1].copy() * 0 + batch[::-1]),
        (positions, np.array([cell, cell, cell]), True, batch),
    ]:
        assert pairs.update(*arguments)
        assert_bitwise(pairs, *arguments)
        assert not pairs.update(*arguments)
        assert_bitwise(pairs, *arguments)


def test_a_lost_and_a_new_atom():
    positions, cell, _ = dense_system(8)
    pairs = electret.NeighborList(3.0, 1.0)
    for n in [40, 39, 40, 0, 1, 40]:
        assert pairs.update(positions[:n], cell, True)
        assert_bitwise(pairs, positions[:n], cell, True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda x, h: (np.where(np.arange(40)[:, None] == 7, np.nan, x), h, True),
            r"positions\[7, 0\] is nan",
        ),
        (lambda x, h: (x, h * np.inf, True), r"cell\[0, 0\] is"),
        (lambda x, h: (x, 0 * h, True), r"cell\[0, 0\] is zero"),
        (lambda x, h: (x + 1e14, h, True), r"positions\[0\] = 1.*wrap"),
        (lambda x, h: (x[:, :2], h, True), r"positions has shape \[40, 2\]"),
        (lambda x, h: (x, h, True, np.arange(39)), r"batch has shape \[39\]"),
    ],
)
def test_refused_positions_leave_the_list_as_it_was(change, message):
    positions, cell, _ = dense_system(9)
    pairs = electret.NeighborList(3.0, 1.0)
    pairs.update(positions, cell, True)
    with pytest.raises(electret.InputError, match=message):
        pairs.update(*change(positions, cell))
    assert (pairs.n_builds, pairs.n_updates) == (1, 1)
    assert assert_bitwise(pairs, positions, cell, True) > 100
    assert not pairs.update(positions + 0.1, cell, True)
    assert_bitwise(pairs, positions + 0.1, cell, True)


def test_displacements_add_up_since_the_build():
    """Steps of 0.09 of the skin: the sixth is over half of it, and counting starts again."""
    pairs = electret.NeighborList(2.0, 1.0)
    positions = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 2.5]])
    rebuilt = [pairs.update(positions + 0.09 * step * np.eye(3)[0]) for step in range(13)]
    assert [step for step, anew in enumerate(rebuilt) if anew] == [0, 6, 12]


def test_without_a_skin_every_motion_rebuilds():
    pairs = electret.NeighborList(2.0, 0.0)
    positions = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.9]])
    assert pairs.update(positions)
    assert pairs.update(positions + 1e-9)
    assert_bitwise(pairs, positions + 1e-9)


def test_letters_copies_and_settings():
    positions, cell, _ = dense_system(10)
    pairs = electret.NeighborList(3.0, skin=0.7, half=True)
    pairs.update(positions, cell, True)
    D, i = pairs("Di")
    np.testing.assert_array_equal(D, electret.neighbor_list("D", positions, cell, True, 3.0, half=True))
    D += 1.0  # belongs to the caller
    np.testing.assert_array_equal(pairs.get("i"), i)
    assert_bitwise(pairs, positions, cell, True, half=True)
    for twin in (copy.deepcopy(pairs), pickle.loads(pickle.dumps(pairs))):
        assert (twin.cutoff, twin.skin, twin.n_builds) == (3.0, 0.7, 0)
        assert twin.update(positions, cell, True)
        assert_bitwise(twin, positions, cell, True, half=True)
    assert repr(pairs) == "NeighborList(cutoff=3.0, skin=0.7), 1 builds in 1 updates"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0,), "cutoff = 0;.*above zero"),
        ((np.nan,), "cutoff = NaN"),
        (("far",), "cutoff is 'far'; give a length"),
        ((2.0, -0.5), "skin = -0.5;.*at least zero"),
        ((2.0, np.inf), "skin = inf"),
        ((2.0, None), "skin is None; give a length"),
    ],
)
def test_bad_settings_are_named(arguments, message):
    with pytest.raises(electret.InputError, match=message):
        electret.NeighborList(*arguments)


def test_pairs_before_positions_are_refused():
    pairs = electret.NeighborList(2.0)
    with pytest.raises(electret.InputError, match="call update first"):
        pairs.get("ij")
    pairs.update([[0.0, 0.0, 0.0]])
    with pytest.raises(electret.InputError, match="letters i, j"):
        pairs.get("x")


THREADS_SCRIPT = """
import hashlib, numpy as np, electret
rng = np.random.default_rng(1)
cell = np.array([[22.0, 1, 0], [-3, 21, 2], [1, 0, -23]])
positions, digest = rng.uniform(-1, 2, (1100, 3)) @ cell, hashlib.sha256()
pairs = electret.NeighborList(5.0, 1.0)
for _ in range(6):
    pairs.update(positions, cell, True)
    for array in pairs.get("ijSdD"):
        digest.update(array.tobytes())
    positions = positions + rng.normal(scale=0.05, size=positions.shape)
    cell = cell * 1.001
assert 0 < pairs.n_builds < pairs.n_updates
assert len(array) > 20_000
for array in electret.neighbor_list("ijSdD", positions, cell, True, 5.0):
    digest.update(array.tobytes())
print(digest.hexdigest(), pairs.n_builds)
"""


def test_bitwise_the_same_for_any_number_of_threads():
    outputs = outputs_by_threads(THREADS_SCRIPT)
    assert len(outputs) == 1
