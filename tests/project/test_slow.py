"""The list of slow tests, which `make check` leaves out."""

from __future__ import annotations

import re

import pytest

from places import ROOT

TESTS = ROOT / "tests"


@pytest.mark.parametrize("entry", (TESTS / "slow.txt").read_text(encoding="utf-8").split())
def test_a_slow_test_exists(entry: str) -> None:
    file, _, function = entry.partition("::")
    (path,) = TESTS.glob(f"*/{file}")
    assert re.search(rf"^def {function}\(", path.read_text(encoding="utf-8"), re.M), entry
