"""The examples in the docstrings run and print what they say."""

from __future__ import annotations

import doctest
import importlib

import pytest

MODULES = ["electret.kernels.electrostatics", "electret.kernels.geometry", "electret.torch"]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    if name == "electret.torch":
        pytest.importorskip("torch", reason="PyTorch is not installed")
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
