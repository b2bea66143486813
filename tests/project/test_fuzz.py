"""The fuzzing tools: each kind of bad end is detected, and a short run of every area ends well."""

from __future__ import annotations

import sys

import pytest

pytest.importorskip("mace")

if not sys.platform.startswith("linux"):
    pytest.skip("the limits of memory are those of Linux", allow_module_level=True)

from fuzz import planted, soak, watch


def test_every_bad_end_is_found_and_the_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "SECONDS_PER_CASE", 1.0)
    monkeypatch.setattr(watch, "PATIENCE", 10.0)
    report = watch.run("fuzz.planted", 0, 0, 10)
    assert report.cases == 10
    assert report.outcomes["result"] == 4
    found = {finding.number: finding.kind for finding in report.findings}
    assert found.keys() == planted.ENDS.keys()
    for number, kind in found.items():
        assert kind.startswith(planted.ENDS[number][1])


@pytest.mark.parametrize(
    ("area", "cases"), [("numpy", 500), ("torch", 250), ("configuration", 60), ("files", 120)]
)
def test_a_short_run_ends_well(area: str, cases: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "SECONDS_PER_CASE", 60.0)  # whatever the processor
    report = watch.run(area, 0, 0, cases)
    assert report.cases == cases
    assert report.outcomes["result"] > cases // 50  # enough of them reach the sums
    assert not report.findings, "\n".join(map(str, report.findings))


def test_soak_is_flat_and_reproducible() -> None:
    found = soak.soak(60, ("local_charges", "fixed_point"))
    assert found["refused"] == 1
    assert found["difference"] < 1e-8
    samples = found["samples"][len(found["samples"]) // 2 :]
    assert samples[-1][2] <= samples[0][2]
