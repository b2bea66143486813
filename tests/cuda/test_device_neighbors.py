"""Neighbour lists on a device: the pairs of the CPU, in its order and to the last bit."""

import itertools

import numpy as np
import pytest
import torch

import electret
from devices import NOT_CPU, on_device, torch_device
from electret.torch import neighbor_list

ALL_PBC = list(itertools.product([False, True], repeat=3))
CELL = np.array([[6.0, 0.3, 0.0], [0.5, 7.0, -0.2], [0.1, 0.4, -5.0]])


def atoms(n=60, seed=1):
    return np.random.default_rng(seed).uniform(-3, 9, (n, 3))


def there(values, device):
    return torch.from_numpy(np.ascontiguousarray(values)).to(torch_device(device))


@pytest.mark.parametrize("device", NOT_CPU)
@pytest.mark.parametrize("pbc", ALL_PBC, ids=str)
@pytest.mark.parametrize("half", [False, True], ids=["full", "half"])
def test_pairs_are_those_of_the_cpu(device, pbc, half):
    x, systems = atoms(), np.random.default_rng(2).integers(0, 3, 60)
    for batch in (None, np.sort(systems), systems):
        expected = electret.neighbor_list("ijSdD", x, CELL, pbc, 3.7, batch, half)
        with on_device(device):
            index = None if batch is None else there(batch, device)
            found = neighbor_list("ijSdD", there(x, device), there(CELL, device), pbc, 3.7, index, half)
        assert len(expected[0]) > 20
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours.cpu().numpy(), theirs)


@pytest.mark.parametrize("device", NOT_CPU)
@pytest.mark.parametrize("half", [False, True], ids=["full", "half"])
def test_images_of_the_same_atom(device, half):
    """Atoms see their own images, each once in half lists."""
    x = atoms(3)
    expected = electret.neighbor_list("ijSdD", x, CELL, True, 7.5, None, half)
    own = expected[0] == expected[1]
    assert 0 < own.sum() < len(own)
    with on_device(device):
        found = neighbor_list("ijSdD", there(x, device), there(CELL, device), True, 7.5, None, half)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours.cpu().numpy(), theirs)


@pytest.mark.parametrize("device", ["cpu", *NOT_CPU])
@pytest.mark.parametrize("half", [False, True], ids=["full", "half"])
def test_atoms_with_themselves_and_cutoffs_of_their_own(device, half):
    x, systems = atoms(20), np.random.default_rng(3).integers(0, 2, 20)
    numbers = np.arange(20) % 2 * 7 + 1
    for cutoff in (3.0, np.linspace(0.5, 2.0, 20), {("H", "O"): 3.5}, 0.0):
        settings = {"half": half, "self_interaction": True}
        expected = electret.neighbor_list(
            "ijSdD", x, CELL, True, cutoff, systems, numbers=numbers, **settings
        )
        assert len(expected[0]) > 20 or cutoff == 0.0
        with on_device(device):
            where, index = there(x, device), there(systems, device)
            limit = there(cutoff, device) if isinstance(cutoff, np.ndarray) else cutoff
            found = neighbor_list(
                "ijSdD", where, CELL, [[True] * 3], limit, index, numbers=numbers, **settings
            )
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours.cpu().numpy(), theirs)


@pytest.mark.parametrize("device", NOT_CPU)
def test_single_letter_no_pairs_and_no_atoms(device):
    with on_device(device):
        x = there(atoms(5), device)
        assert neighbor_list("i", x, cutoff=0.01).shape == (0,)
        assert neighbor_list("D", x[:0], cutoff=2.0).shape == (0, 3)


@pytest.mark.parametrize("device", NOT_CPU)
def test_refusals_name_the_value(device):
    with on_device(device):
        x = there(atoms(5), device)
        with pytest.raises(electret.InputError, match="give letters of 'ijSdD'"):
            neighbor_list("q", x, cutoff=2.0)
        with pytest.raises(electret.InputError, match="cutoff is missing"):
            neighbor_list("i", x)
        with pytest.raises(electret.InputError, match="no cell was given"):
            neighbor_list("i", x, pbc=True, cutoff=2.0)
        batch = there(np.array([0, 0, 7, 0, 0]), device)
        cells = there(np.stack([CELL, CELL]), device)
        with pytest.raises(electret.InputError, match=r"batch\[2\] = 7"):
            neighbor_list("i", x, cells, True, 2.0, batch)
        x[3, 1] = float("nan")
        with pytest.raises(electret.InputError, match="NaN"):
            neighbor_list("i", x, there(CELL, device), True, 2.0)
