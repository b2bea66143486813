"""Neighbour lists against sums over images, ASE, matscipy and scipy, and the laws that any list obeys."""

import doctest
import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import electret
import electret.kernels.neighbors
from threads import outputs_by_threads

ALL_PBC = list(itertools.product([False, True], repeat=3))
# Distances this close to the cutoff may fall on either side of it, depending on how they are summed.
DOUBT = 1e-9


def brute_force(positions, cell, pbc, cutoff):
    """(i, j, S, d, D) sorted by (i, j, S), by trying every image up to a generous number."""
    positions = np.asarray(positions, float)
    pbc = np.broadcast_to(pbc, 3)
    # |S·cell| <= cutoff + span of the atoms, and |S·cell| >= |S| times the smallest singular value.
    reach = 0
    if pbc.any():
        span = np.linalg.norm(np.ptp(positions, axis=0))
        reach = int(np.ceil((cutoff + span) / np.linalg.svd(np.asarray(cell)[pbc])[1].min()))
    shifts = np.array(list(itertools.product(*[range(-reach, reach + 1) if axis else [0] for axis in pbc])))
    images = shifts @ np.where(pbc[:, None], cell, 0.0)
    vectors = positions[None, :, None] - positions[:, None, None] + images  # [i, j, S, 3]
    distances = np.linalg.norm(vectors, axis=-1)
    assume(not (abs(distances - cutoff) < DOUBT).any())
    itself = np.eye(len(positions), dtype=bool)[:, :, None] & (shifts == 0).all(axis=1)
    i, j, s = np.nonzero((distances < cutoff) & ~itself)
    return i, j, shifts[s], distances[i, j, s], vectors[i, j, s]


def assert_same(found, expected, tolerance=1e-12):
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        if ours.dtype.kind == "i":
            np.testing.assert_array_equal(ours, theirs)
        else:
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)


def sort_pairs(i, j, S, *rest):
    order = np.lexsort((S[:, 2], S[:, 1], S[:, 0], j, i))
    return tuple(np.asarray(array)[order] for array in (i, j, S, *rest))


def random_system(seed, n_atoms=12, length=5.0, left_handed=False):
    """Atoms in and around a triclinic cell that is not too flat."""
    rng = np.random.default_rng(seed)
    while True:
        cell = length * (np.eye(3) + rng.uniform(-0.6, 0.6, (3, 3)))
        if abs(np.linalg.det(cell)) > 0.3 * length**3:
            break
    if (np.linalg.det(cell) < 0) != left_handed:
        cell = cell[[1, 0, 2]]
    return rng.uniform(-1.0, 2.0, (n_atoms, 3)) @ cell, cell


coordinates = st.floats(-9, 9, allow_subnormal=False)
atoms = st.lists(st.tuples(coordinates, coordinates, coordinates), min_size=1, max_size=6).map(np.array)
boundaries = st.sampled_from(ALL_PBC)


@st.composite
def cells(draw):
    entries = draw(st.lists(st.floats(-5, 5, allow_subnormal=False), min_size=9, max_size=9))
    cell = np.array(entries).reshape(3, 3) + 3.0 * np.eye(3)
    assume(np.linalg.svd(cell)[1].min() > 1.5)
    return cell


@settings(max_examples=100, deadline=None)
@given(atoms, cells(), boundaries, st.floats(0.5, 6.0))
def test_agrees_with_all_images(positions, cell, pbc, cutoff):
    assert_same(
        electret.neighbor_list("ijSdD", positions, cell, pbc, cutoff),
        brute_force(positions, cell, pbc, cutoff),
    )


@pytest.mark.parametrize("left_handed", [False, True])
@pytest.mark.parametrize("pbc", ALL_PBC)
def test_agrees_with_ase(pbc, left_handed):
    neighborlist = pytest.importorskip("ase.neighborlist", reason="ASE is not installed")
    for seed, cutoff in enumerate([2.5, 4.0, 9.0]):
        positions, cell = random_system(seed, left_handed=left_handed)
        theirs = neighborlist.primitive_neighbor_list("ijSdD", pbc, cell, positions, cutoff)
        assert len(theirs[0]) > 0 or cutoff == 2.5
        assert_same(electret.neighbor_list("ijSdD", positions, cell, pbc, cutoff), sort_pairs(*theirs))


@pytest.mark.parametrize("pbc", ALL_PBC)
def test_agrees_with_matscipy(pbc):
    neighbours = pytest.importorskip("matscipy.neighbours", reason="matscipy is not installed")
    for seed, cutoff in enumerate([2.0, 6.0]):
        # matscipy requires atoms inside the cell along open axes.
        positions, cell = random_system(10 + seed, n_atoms=40, length=7.0)
        fractions = np.linalg.solve(cell.T, positions.T).T
        positions = np.where(pbc, fractions, (fractions + 1.0) / 3.0) @ cell
        theirs = neighbours.neighbour_list(
            "ijSdD", positions=positions, cell=cell, pbc=np.array(pbc), cutoff=cutoff
        )
        ours = electret.neighbor_list("ijSdD", positions, cell, pbc, cutoff)
        assert len(ours[0]) > 0
        assert_same(ours, sort_pairs(*theirs))


def test_agrees_with_a_tree_at_a_size_that_uses_all_threads():
    spatial = pytest.importorskip("scipy.spatial", reason="scipy is not installed")
    length, cutoff = 30.0, 4.0
    positions = np.random.default_rng(0).uniform(0, length, (3000, 3))
    i, j, d = electret.neighbor_list("ijd", positions, length * np.eye(3), True, cutoff)
    pairs = spatial.cKDTree(positions, boxsize=length).query_pairs(cutoff, output_type="ndarray")
    both = np.concatenate([pairs, pairs[:, ::-1]])
    both = both[np.lexsort((both[:, 1], both[:, 0]))]
    assert len(both) > 50_000
    np.testing.assert_array_equal(np.stack([i, j], axis=1), both)
    vectors = positions[both[:, 1]] - positions[both[:, 0]]
    vectors -= length * np.round(vectors / length)
    np.testing.assert_allclose(d, np.linalg.norm(vectors, axis=1), rtol=1e-12)


def test_a_single_atom_with_over_a_thousand_images():
    vectors = [n for n in itertools.product(range(-7, 8), repeat=3) if 0 < np.dot(n, n) < 50]
    assert len(vectors) > 1000
    i, S, d = electret.neighbor_list("iSd", [[0.3, 0.2, 0.9]], np.eye(3), True, np.sqrt(50.0) - 1e-9)
    assert not i.any()
    np.testing.assert_array_equal(S, sorted(vectors))
    np.testing.assert_allclose(d, np.linalg.norm(sorted(vectors), axis=1), rtol=1e-14)


@settings(max_examples=40, deadline=None)
@given(atoms, cells(), boundaries, st.floats(0.5, 6.0), st.integers(0, 2**31))
def test_moving_all_atoms_changes_nothing(positions, cell, pbc, cutoff, seed):
    brute_force(positions, cell, pbc, cutoff)  # drops examples with a distance at the cutoff
    offset = np.random.default_rng(seed).uniform(-20, 20, 3)
    assert_same(
        electret.neighbor_list("ijSdD", positions + offset, cell, pbc, cutoff),
        electret.neighbor_list("ijSdD", positions, cell, pbc, cutoff),
        1e-11,
    )


@settings(max_examples=40, deadline=None)
@given(atoms, cells(), boundaries, st.floats(0.5, 6.0), st.integers(0, 2**31))
def test_moving_an_atom_to_an_image_changes_its_shifts_only(positions, cell, pbc, cutoff, seed):
    brute_force(positions, cell, pbc, cutoff)
    moved = np.random.default_rng(seed).integers(-3, 4, positions.shape) * np.array(pbc)
    i, j, S, d, D = electret.neighbor_list("ijSdD", positions, cell, pbc, cutoff)
    expected = sort_pairs(i, j, S + moved[i] - moved[j], d, D)
    assert_same(electret.neighbor_list("ijSdD", positions + moved @ cell, cell, pbc, cutoff), expected, 1e-11)


@settings(max_examples=40, deadline=None)
@given(atoms, cells(), boundaries, st.floats(0.5, 6.0), st.data())
def test_renumbering_atoms_renumbers_pairs(positions, cell, pbc, cutoff, data):
    brute_force(positions, cell, pbc, cutoff)
    order = np.array(data.draw(st.permutations(range(len(positions)))))
    i, j, S, d, D = electret.neighbor_list("ijSdD", positions[order], cell, pbc, cutoff)
    assert_same(
        sort_pairs(order[i], order[j], S, d, D), electret.neighbor_list("ijSdD", positions, cell, pbc, cutoff)
    )


@settings(max_examples=40, deadline=None)
@given(atoms, cells(), boundaries, st.floats(0.5, 5.0), st.tuples(*[st.integers(1, 3)] * 3))
def test_a_supercell_has_as_many_pairs_per_atom(positions, cell, pbc, cutoff, repeats):
    brute_force(positions, cell, pbc, cutoff)
    repeats = np.where(pbc, repeats, 1)
    offsets = np.array(list(itertools.product(*map(range, repeats)))) @ cell
    repeated = (offsets[:, None] + positions).reshape(-1, 3)
    one = electret.neighbor_list("d", positions, cell, pbc, cutoff)
    many = electret.neighbor_list("d", repeated, cell * repeats[:, None], pbc, cutoff)
    np.testing.assert_allclose(np.sort(many), np.sort(np.tile(one, len(offsets))), atol=1e-11)


@settings(max_examples=40, deadline=None)
@given(atoms, cells(), boundaries, st.floats(0.5, 6.0), st.booleans())
def test_a_full_list_is_a_half_list_and_its_mirror(positions, cell, pbc, cutoff, self_interaction):
    i, j, S, d, D = electret.neighbor_list("ijSdD", positions, cell, pbc, cutoff, half=True)
    positive = np.array([tuple(shift) > (0, 0, 0) for shift in S.tolist()], bool)
    assert ((i < j) | ((i == j) & positive)).all()
    mirrored = sort_pairs(np.r_[i, j], np.r_[j, i], np.r_[S, -S], np.r_[d, d], np.r_[D, -D])
    assert_same(electret.neighbor_list("ijSdD", positions, cell, pbc, cutoff), mirrored, 0.0)
    with_self = electret.neighbor_list("i", positions, cell, pbc, cutoff, None, True, self_interaction)
    assert len(with_self) == len(i) + self_interaction * len(positions)


def test_self_interaction_adds_each_atom_once():
    positions, cell = random_system(3)
    i, j, S, d = electret.neighbor_list("ijSd", positions, cell, True, 4.0, self_interaction=True)
    own = (i == j) & (S == 0).all(axis=1)
    np.testing.assert_array_equal(i[own], np.arange(len(positions)))
    assert not d[own].any()
    np.testing.assert_array_equal(d[~own], electret.neighbor_list("d", positions, cell, True, 4.0))


# Every cell of an example has to be far enough from singular, so many examples are filtered out.
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(
    st.lists(st.tuples(atoms, cells(), boundaries), min_size=1, max_size=4), st.floats(0.5, 5.0), st.data()
)
def test_a_batch_is_its_systems_one_by_one(systems, cutoff, data):
    sizes = [len(positions) for positions, _, _ in systems]
    batch = np.repeat(np.arange(len(systems)), sizes)
    order = np.array(data.draw(st.permutations(range(len(batch)))))
    batch = batch[order]
    positions = np.concatenate([positions for positions, _, _ in systems])[order]
    together = electret.neighbor_list(
        "ijSdD",
        positions,
        np.array([cell for _, cell, _ in systems]),
        np.array([pbc for _, _, pbc in systems]),
        cutoff,
        batch=batch,
    )
    alone = []
    for number, (_, cell, pbc) in enumerate(systems):
        members = np.flatnonzero(batch == number)
        i, j, *rest = electret.neighbor_list("ijSdD", positions[members], cell, pbc, cutoff)
        alone.append((members[i], members[j], *rest))
    assert_same(together, sort_pairs(*(np.concatenate(parts) for parts in zip(*alone, strict=True))), 0.0)


def test_systems_without_atoms_and_shared_cells():
    positions, cell = random_system(5)
    alone = electret.neighbor_list("ijS", positions, cell, True, 4.0)
    assert len(alone[0]) > 0
    batch = np.full(len(positions), 2)
    for shared, pbc in [(np.array([cell] * 4), True), (cell, [[True] * 3] * 4), (cell, True)]:
        assert_same(electret.neighbor_list("ijS", positions, shared, pbc, 4.0, batch), alone)


def test_open_systems_need_no_cell():
    positions, cell = random_system(6)
    i, j, S, D = electret.neighbor_list("ijSD", positions, cutoff=5.0)
    assert len(i) > 0
    assert not S.any()
    np.testing.assert_array_equal(D, positions[j] - positions[i])
    assert_same((i, j, S, D), electret.neighbor_list("ijSD", positions, cell, False, 5.0), 0.0)


def test_rows_of_the_cell_along_open_axes_are_ignored():
    positions, cell = random_system(7)
    zeroed = cell.copy()
    zeroed[1] = 0.0
    pbc = [True, False, True]
    expected = electret.neighbor_list("ijSdD", positions, cell, pbc, 5.0)
    assert expected[2].any()
    assert_same(electret.neighbor_list("ijSdD", positions, zeroed, pbc, 5.0), expected, 0.0)


def test_atoms_far_apart_cost_no_memory():
    positions = np.array([[0.0, 0, 0], [1.0, 0, 0], [1e12, -1e12, 3e9], [1e12, -1e12, 3e9 + 1]])
    i, j = electret.neighbor_list("ij", positions, cutoff=2.0)
    assert list(zip(i.tolist(), j.tolist(), strict=True)) == [(0, 1), (1, 0), (2, 3), (3, 2)]


def test_atoms_at_one_place_are_neighbours_of_each_other_not_of_themselves():
    i, j, d = electret.neighbor_list("ijd", np.zeros((3, 3)), cutoff=1.0)
    assert list(zip(i.tolist(), j.tolist(), strict=True)) == [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]
    assert not d.any()


@pytest.mark.parametrize("distance", [0.1 + 0.2, 1.0, np.sqrt(3.0), 1e-3, 7.7])
def test_the_cutoff_is_exclusive(distance):
    positions = [[0.0, 0, 0], [distance, 0, 0]]
    assert len(electret.neighbor_list("i", positions, cutoff=distance)) == 0
    assert len(electret.neighbor_list("i", positions, cutoff=np.nextafter(distance, 9))) == 2


def test_letters_order_types_and_shapes():
    positions, cell = random_system(8)
    D, i, S, j, d = electret.neighbor_list("DiSjd", positions, cell, True, 4.0)
    n = len(i)
    assert n > 0
    assert [array.shape for array in (D, i, S, j, d)] == [(n, 3), (n,), (n, 3), (n,), (n,)]
    assert [array.dtype for array in (D, i, S, j, d)] == [float, np.int64, np.int64, np.int64, float]
    assert all(array.flags.c_contiguous and array.flags.writeable for array in (D, i, S, j, d))
    np.testing.assert_allclose(D, positions[j] - positions[i] + S @ cell, rtol=0, atol=1e-13)
    alone = electret.neighbor_list("d", positions, cell, True, 4.0)
    assert isinstance(alone, np.ndarray)
    np.testing.assert_array_equal(alone, d)


@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_other_numbers_and_strides_are_converted(dtype):
    positions = np.array([[0, 0, 0], [1, 0, 0], [0, 2, 0]], dtype)
    expected = electret.neighbor_list("ijd", positions.astype(float), cutoff=2.1)
    assert len(expected[0]) == 4
    wide = np.zeros((3, 6), dtype)
    wide[:, ::2] = positions
    found = electret.neighbor_list("ijd", wide[:, ::2], np.zeros((3, 3), int), [0, 0, 0], 2.1)
    assert_same(found, expected, 0.0)


@pytest.mark.parametrize("pbc", [True, False])
def test_no_atoms_give_empty_arrays(pbc):
    for positions in ([], np.zeros((0, 3))):
        arrays = electret.neighbor_list("ijSdD", positions, np.eye(3), pbc, 2.0)
        assert [array.shape for array in arrays] == [(0,), (0,), (0, 3), (0,), (0, 3)]
    assert electret.neighbor_list("i", [], cutoff=1.0, batch=[]).shape == (0,)


THREADS_SCRIPT = """
import hashlib, numpy as np, electret
rng = np.random.default_rng(1)
cell = np.array([[22.0, 1, 0], [-3, 21, 2], [1, 0, -23]])
arrays = electret.neighbor_list("ijSdD", rng.uniform(-1, 2, (1100, 3)) @ cell, cell, True, 6.0)
assert len(arrays[0]) > 50_000
print(hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest())
"""


def test_bitwise_the_same_for_any_number_of_threads():
    digests = outputs_by_threads(THREADS_SCRIPT)
    assert len(digests) == 1
    assert len(digests.pop()) == 64


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("self_interaction", [False, True])
def test_cutoffs_per_atom_and_per_pair_of_elements_are_those_of_ase(half, self_interaction):
    neighborlist = pytest.importorskip("ase.neighborlist", reason="ASE is not installed")
    positions, cell = random_system(12, n_atoms=20)
    numbers = np.arange(20) % 3 * 7 + 1  # H, O, P
    radii = np.random.default_rng(1).uniform(0.0, 2.0, 20)
    pairs = {("H", "O"): 2.5, (8, 8): 3.5, ("H", "H"): 1.0, ("C", "H"): 9.0}
    for cutoff in (radii, pairs):
        theirs = neighborlist.primitive_neighbor_list(
            "ijSdD", [True] * 3, cell, positions, cutoff, numbers, self_interaction=self_interaction
        )
        found = electret.neighbor_list(
            "ijSdD", positions, cell, True, cutoff, None, half, self_interaction, numbers=numbers
        )
        i, j, S, d, _ = sorted_pairs = sort_pairs(*theirs)
        positive = [tuple(shift) >= (0, 0, 0) for shift in S.tolist()]
        kept = ((i < j) | ((i == j) & positive)) if half else np.ones(len(i), bool)
        assert 20 < kept.sum() < len(electret.neighbor_list("i", positions, cell, True, 4.0))
        assert (d == 0).sum() == (0 if not self_interaction else 20 if cutoff is radii else 14)
        assert_same(found, [array[kept] for array in sorted_pairs])
    symbols = np.array(["H", "O", "P"])[np.arange(20) % 3]
    assert_same(
        electret.neighbor_list("ij", positions, cell, True, pairs, numbers=symbols),
        electret.neighbor_list("ij", positions, cell, True, pairs, numbers=numbers),
    )


def test_a_cutoff_of_zero_has_no_pairs():
    for cutoff in (0, 0.0, [0.0, 0.0], {("H", "H"): 0.0}):
        found = electret.neighbor_list("ijSdD", np.zeros((2, 3)), cutoff=cutoff, numbers=[1, 1])
        assert [array.shape for array in found] == [(0,), (0,), (0, 3), (0,), (0, 3)]


def test_one_row_of_flags_serves_all_systems():
    rng = np.random.default_rng(2)
    arguments = {"positions": rng.uniform(0, 4, (6, 3)), "cell": np.stack([4.0 * np.eye(3), 5.0 * np.eye(3)])}
    arguments |= {"batch": [0, 0, 0, 1, 1, 1], "cutoff": 3.0}
    expected = electret.neighbor_list("ijSd", pbc=[[True, False, True]] * 2, **arguments)
    assert_same(electret.neighbor_list("ijSd", pbc=[[True, False, True]], **arguments), expected)
    assert_same(electret.neighbor_list("ijSd", pbc=[True, False, True], **arguments), expected)
    lengths = electret.neighbor_list("ijSd", TWO, [4.0, 5.0, 6.0], True, 4.5)
    assert_same(lengths, electret.neighbor_list("ijSd", TWO, np.diag([4.0, 5.0, 6.0]), True, 4.5))


ONE = [[0.0, 0.0, 0.0]]
TWO = [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ij", ONE), "cutoff is missing"),
        (("ij", ONE, None, False, -1.5), "cutoff = -1.5;"),
        (("ij", ONE, None, False, np.nan), "cutoff is nan"),
        (("ij", ONE, None, False, np.inf), "cutoff is inf"),
        (("ij", ONE, None, False, "far"), "cutoff has dtype .*a length in Å"),
        (("ij", TWO, None, False, [1.0, -2.0]), r"cutoff = -2.0"),
        (("ij", TWO, None, False, [1.0] * 3), r"cutoff has shape \[3\]; .*\[n_atoms = 2\]"),
        (("ij", TWO, None, False, {("H", "H"): 1.0}), "numbers is missing"),
        (("ij", TWO, None, False, {("H", "H"): -1.0}, None, False, False, [1, 1]), "cutoff.*= -1.0"),
        (("ij", TWO, None, False, {("H", "Q"): 1.0}, None, False, False, [1, 1]), "'Q' is not an element"),
        (("ij", TWO, None, False, {"HH": 1.0}, None, False, False, [1, 1]), "key 'HH'; give pairs"),
        (("ij", TWO, None, False, {(1, 1): 1.0}, None, False, False, [1]), "numbers has 1 entries"),
        (("ix", ONE, None, False, 1.0), '"ix".*letters i, j'),
        (("", ONE, None, False, 1.0), "letters i, j"),
        (("ij", [[0.0, 0.0]], None, False, 1.0), r"positions has shape \[1, 2\]; expected \[n, 3\]"),
        (("ij", [0.0, 0.0, 0.0], None, False, 1.0), r"positions has shape \[3\]"),
        (("ij", [[0.0], [1.0, 2.0]], None, False, 1.0), "positions cannot be read as an array"),
        (("ij", [["a", "b", "c"]], None, False, 1.0), "positions has dtype"),
        (("ij", [[0.0, np.nan, 0.0]], None, False, 1.0), r"positions\[0, 1\] is nan"),
        (("ij", [*TWO, [np.inf, 0.0, 0.0]], None, False, 1.0), r"positions\[2, 0\] is inf"),
        (("ij", ONE, np.eye(3) * np.nan, False, 1.0), r"cell\[0, 0\] is nan"),
        (("ij", ONE, None, True, 1.0), r"pbc\[0, 0\] is True but no cell"),
        (("ij", ONE, np.zeros((3, 3)), True, 1.0), r"cell\[0, 0\] is zero"),
        (("ij", ONE, [[1, 0, 0], [1, 1, 0], [0, 1, 0]], True, 1.0), r"cell\[0\] is singular"),
        (("ij", ONE, [[1, 0, 0], [2, 0, 0], [0, 1, 0]], [True, True, False], 1.0), r"cell\[0\] is singular"),
        (("ij", ONE, np.eye(2), True, 1.0), r"cell has shape \[2, 2\]"),
        (("ij", ONE, [np.eye(3)] * 2, True, 1.0), "batch is None but cell says 2 systems"),
        (("ij", ONE, np.eye(3), [True, False], 1.0), r"pbc has shape \[2\]"),
        (("ij", ONE, np.eye(3), [[True] * 3] * 2, 1.0), "batch is None but pbc says 2 systems"),
        (("ij", TWO, [np.eye(3)] * 2, [[True] * 3] * 3, 1.0, [0, 1]), "cell: 2, pbc: 3"),
        (("ij", ONE, np.eye(3), [0.5, 0.0, 0.0], 1.0), "pbc = .* is not a flag"),
        (("ij", TWO, [np.eye(3)] * 2, True, 1.0, [0]), r"batch has shape \[1\]; expected \[2\]"),
        (("ij", TWO, [np.eye(3)] * 2, True, 1.0, [0, 2]), r"batch\[1\] = 2;"),
        (("ij", TWO, [np.eye(3)] * 2, True, 1.0, [-1, 0]), r"batch\[0\] = -1;"),
        (("ij", TWO, None, False, 1.0, [0, 10**15]), r"batch\[1\] = 1000000000000000 would make"),
        (("ij", TWO, None, False, 1.0, [0.0, 0.5]), "batch has dtype float64"),
        (("ij", ONE, np.eye(3), True, 1e7), "reaches .* images"),
        (("ij", ONE, np.eye(3) * 1e-8, True, 1.0), "reaches .* images"),
        (("ij", [[1e15, 0.0, 0.0]], np.eye(3), True, 1.0), r"positions\[0\] = 1000000000000000;.*wrap"),
        (("ij", np.zeros((200_000, 3)), None, False, 1.0), "gives some .* pairs"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(electret.InputError, match=message):
        electret.neighbor_list(*arguments)


def test_the_error_names_the_system_of_a_batch():
    cell = np.array([np.eye(3), np.ones((3, 3))])
    with pytest.raises(ValueError, match=r"cell\[1\] is singular"):
        electret.neighbor_list("ij", TWO, cell, True, 1.0, batch=[0, 1])


def test_examples_in_the_documentation_run():
    result = doctest.testmod(electret.kernels.neighbors)
    assert result.attempted >= 3
    assert result.failed == 0
