"""Neighbour lists, full, with shifts and vectors, 6 Å, against vesin and matscipy.

Run with ``pytest -o addopts= benches/test_neighbors.py --benchmark-only``. A step of a followed list moves
every atom by some hundredths of an Å, within the skin, and gives the arrays of a list made anew. vesin is
measured as it comes, and without copies (its arrays are then overwritten by the next call); electret's arrays
always belong to the caller.
"""

import numpy as np
import pytest

import electret

CUTOFF = 6.0
REPEATS = {192: 1, 12_288: 4, 98_304: 8}


def water(repeats):
    """64 molecules at random orientations near the points of a lattice, in a 13.73 Å cell, repeated."""
    rng = np.random.default_rng(0)
    length = 13.73
    molecule = np.array([[0.0, 0.0, 0.0], [0.9572, 0.0, 0.0], [-0.23999, 0.92663, 0.0]])
    grid = (np.stack(np.meshgrid(*[np.arange(4)] * 3, indexing="ij"), -1).reshape(-1, 3) + 0.5) * length / 4
    oxygen = grid + rng.uniform(-0.3, 0.3, grid.shape)
    rotations = np.linalg.qr(rng.normal(size=(64, 3, 3)))[0]
    atoms = (oxygen[:, None] + molecule @ rotations.swapaxes(1, 2)).reshape(-1, 3)
    offsets = np.stack(np.meshgrid(*[np.arange(repeats)] * 3, indexing="ij"), -1).reshape(-1, 1, 3) * length
    return (offsets + atoms).reshape(-1, 3), repeats * length * np.eye(3)


@pytest.fixture(scope="module", params=REPEATS)
def system(request):
    return water(REPEATS[request.param])


def measure(benchmark, system, find):
    """Measures, once it is clear that the right number of pairs is found."""
    positions, cell = system
    pairs = len(find()[0])
    assert pairs == len(electret.neighbor_list("i", positions, cell, True, CUTOFF)) > 0
    benchmark.group = f"neighbour list, {len(positions)} atoms"
    benchmark.extra_info["pairs"] = pairs
    benchmark.pedantic(find, rounds=300 if len(positions) < 1000 else 10, warmup_rounds=1)


@pytest.mark.parametrize("quantities", ["ijS", "ijSD", "ijSdD"])
def test_electret(benchmark, system, quantities):
    positions, cell = system
    measure(benchmark, system, lambda: electret.neighbor_list(quantities, positions, cell, True, CUTOFF))


@pytest.mark.parametrize("quantities", ["ijS", "ijSD"])
def test_electret_followed(benchmark, system, quantities):
    positions, cell = system
    pairs = electret.NeighborList(CUTOFF, skin=1.0)
    pairs.update(positions, cell, True)
    moved = [positions, positions + np.random.default_rng(0).normal(scale=0.03, size=positions.shape)]

    def step():
        moved.reverse()
        pairs.update(moved[0], cell, True)
        return pairs.get(quantities)

    found = step() and step()
    assert len(found[0]) == len(electret.neighbor_list("i", positions, cell, True, CUTOFF))
    benchmark.group = f"neighbour list, {len(positions)} atoms"
    benchmark.pedantic(step, rounds=300 if len(positions) < 1000 else 10, warmup_rounds=2)
    assert pairs.n_builds == 1


@pytest.mark.parametrize("copy", [False, True], ids=["no_copy", "default"])
def test_vesin(benchmark, system, copy):
    vesin = pytest.importorskip("vesin", reason="vesin is not installed")
    positions, cell = system
    calculator = vesin.NeighborList(cutoff=CUTOFF, full_list=True)
    measure(
        benchmark,
        system,
        lambda: calculator.compute(points=positions, box=cell, periodic=True, quantities="ijSD", copy=copy),
    )


def test_matscipy(benchmark, system):
    neighbours = pytest.importorskip("matscipy.neighbours", reason="matscipy is not installed")
    positions, cell = system
    pbc = np.array([True, True, True])
    measure(
        benchmark,
        system,
        lambda: neighbours.neighbour_list("ijSD", positions=positions, cell=cell, pbc=pbc, cutoff=CUTOFF),
    )
