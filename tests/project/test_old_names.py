"""Names of earlier versions: an import says what to use in their place, and what it names exists."""

from __future__ import annotations

import importlib
import importlib.util
import re

import pytest

import electret
from electret.support.moved import MOVED


@pytest.mark.parametrize("name", MOVED)
def test_a_module_that_moved_names_its_place(name: str) -> None:
    with pytest.raises(ModuleNotFoundError, match=f"{re.escape(name)} has moved; use "):
        importlib.import_module(name)
    if name.startswith("electret.models"):
        pytest.importorskip("mace")
    for place in re.findall(r"electret(?:\.\w+)+", MOVED[name]):
        assert place not in MOVED
        package, _, last = place.rpartition(".")
        known = importlib.util.find_spec(place) if package != "electret" else None
        assert known or hasattr(importlib.import_module(package), last), place


def test_attributes_name_the_place_too() -> None:
    with pytest.raises(AttributeError, match=r"has no attribute 'neighbors' \(electret\.neighbors has moved"):
        electret.neighbors  # noqa: B018 (an attribute that is read)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        electret.nothing  # noqa: B018 (an attribute that is read)


def test_a_renamed_class_names_its_successor() -> None:
    pytest.importorskip("mace")
    import electret.analysis

    with pytest.raises(AttributeError, match="has no attribute 'Candidate'; it is called Entry"):
        electret.analysis.Candidate  # noqa: B018 (an attribute that is read)
