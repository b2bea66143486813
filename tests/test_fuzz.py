"""The fuzzing tools: each kind of bad end is seen, and a short run of every area ends well."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mace")

if not sys.platform.startswith("linux"):
    pytest.skip("the limits of memory are those of Linux", allow_module_level=True)

from fuzz import soak, watch

PLANTED = {
    1: (lambda: os._exit(3), "abort (exit status 3)"),
    3: (lambda: time.sleep(60), "hang"),
    5: (lambda: np.array([1.0, np.nan]), "wrong result"),
    7: (lambda: [].pop(), "raw error"),
    8: (lambda: np.ones(10**12), "raw error"),
}


def prepare() -> None:
    """This module is an area of its own, with one case of each kind of bad end."""


def case(generator: np.random.Generator) -> tuple[str, Callable[[], Any]]:
    number = next(n for n in range(10) if _first_bits(n) == generator.bit_generator.state["state"]["state"])
    return f"planted {number}", PLANTED[number][0] if number in PLANTED else lambda: np.zeros(3)


def _first_bits(number: int) -> int:
    return watch.generator("test_fuzz", 0, number).bit_generator.state["state"]["state"]


def test_every_bad_end_is_found_and_the_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(watch.AREAS, "test_fuzz", "test_fuzz")
    monkeypatch.setattr(watch, "SECONDS_PER_CASE", 1.0)
    report = watch.run("test_fuzz", 0, 0, 10)
    assert report.cases == 10
    assert report.outcomes["result"] == 5
    found = {finding.number: finding.kind for finding in report.findings}
    assert found.keys() == PLANTED.keys()
    for number, kind in found.items():
        assert kind.startswith(PLANTED[number][1])


@pytest.mark.parametrize(
    ("area", "cases"), [("numpy", 1500), ("torch", 400), ("configuration", 150), ("files", 300)]
)
def test_a_short_run_ends_well(area: str, cases: int) -> None:
    report = watch.run(area, 0, 0, cases)
    assert report.cases == cases
    assert report.outcomes["result"] > cases // 50  # enough of them reach the sums
    assert not report.findings, "\n".join(map(str, report.findings))


def test_soak_is_flat_and_reproducible() -> None:
    found = soak.soak(160, ("local_charges", "fixed_point"))
    assert found["refused"] == 2
    assert found["difference"] < 1e-8
    samples = found["samples"][len(found["samples"]) // 2 :]
    assert samples[-1][2] <= samples[0][2]
