"""Values that are kept while the tensors that they follow from stay."""

from __future__ import annotations

import copy
import pickle

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("mace", reason="MACE is not installed")
from electret.models.unchanged import Unchanged  # noqa: E402


@pytest.fixture
def made():
    """A keeper of sums with the list of those that it made."""
    kept: Unchanged[float] = Unchanged()
    found = []

    def total(*tensors):
        def make():
            found.append(float(sum(tensor.detach().sum() for tensor in tensors)))
            return found[-1]

        return kept.of(make, *tensors)

    return total, found, kept


def test_the_same_tensors_give_the_value_again(made):
    total, found, _ = made
    a, b = torch.ones(3), torch.ones(2)
    assert total(a, b) == total(a, b) == 5.0
    assert len(found) == 1


def test_other_tensors_and_written_ones_do_not(made):
    total, found, _ = made
    a = torch.ones(3)
    assert total(a) == 3.0
    assert total(a.clone()) == 3.0
    assert len(found) == 2
    assert total(a) == 3.0
    a.add_(1.0)
    assert total(a) == 6.0
    assert len(found) == 4


def test_graphs_and_inference_are_not_kept(made):
    total, found, _ = made
    a = torch.ones(3, requires_grad=True)
    assert total(a) == total(a) == 3.0
    b = torch.ones(2)
    with torch.inference_mode():
        assert total(b) == 2.0
        c = torch.ones(1)
    assert total(b) == 2.0
    assert total(c) == total(c) == 1.0
    assert len(found) == 6


def test_copies_begin_anew(made):
    total, _, kept = made
    total(torch.ones(3))
    assert kept._last is not None
    assert copy.deepcopy(kept)._last is None
    assert pickle.loads(pickle.dumps(kept))._last is None
