"""The harness of the tables of targets runs; times are not judged."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module

import pytest

import devices
from places import ROOT

BENCHES = ROOT / "benches"


@pytest.fixture(scope="module")
def module():
    """Imports a module of the tables, which are not installed."""
    sys.path.insert(0, str(BENCHES))
    yield lambda name: import_module(f"target_tables.{name}")
    sys.path.remove(str(BENCHES))


def test_tables_have_cases_and_a_report_without_rows(module):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    options = module("options").Options(max_atoms=192)
    for name in import_module("target_tables").SECTIONS:
        section = module(name)
        assert section.TITLE
        assert section.cases(options)
        assert section.table([])


def test_a_case_runs_in_its_own_process(module):
    options = module("options").Options(max_atoms=192, seconds=0.0)
    section = module("electrostatics")
    case = next(case for case in section.cases(options) if case["code"] == "electret")
    rows = module("process").run("electrostatics", case, options)
    assert len(rows) == len(section.ACCURACIES)
    assert all(0.0 < row["error"] < 1e-4 and row["min_ms"] > 0.0 for row in rows)
    assert rows[0]["error"] > 100 * rows[-1]["error"]
    assert "| 1.0 | 192 |" in section.table(rows)


@pytest.mark.parametrize(
    ("change", "reason"),
    [({}, "unknown"), ({"unexpected": 1}, "unexpected"), ({"timeout": 0.01}, "not done")],
)
def test_what_fails_is_a_row_with_its_reason(module, change, reason):
    case = {"task": "energy", "atoms": 24, "seconds": 0.0, "method": "none"} | change
    (row,) = module("process").run("scaling", case, module("options").Options())
    assert reason in row["missing"]
    assert row["task"] == "energy"


def test_a_peer_is_compared_at_its_own_error(module):
    rows = [{"error": 1e-4, "min_ms": 1.0}, {"error": 1e-7, "min_ms": 2.0}, {"error": 1e-9, "min_ms": 3.0}]
    at_most = module("electrostatics").at_most
    assert at_most(rows, 1e-6)["min_ms"] == 2.0
    assert at_most(rows, 1e-10) is None


def test_the_benchmark_of_gpus_is_rehearsed(tmp_path):
    """All of it on the emulated device, so that the little time on a GPU is not spent on its mistakes."""
    pytest.importorskip("mace", reason="mace-torch is not installed")
    devices.require("emulated")
    command = [sys.executable, BENCHES / "gpu.py", "--rehearse"]
    run = subprocess.run([*command, "--output", tmp_path], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    tables = json.loads((tmp_path / "gpu.json").read_text())["tables"]
    assert all(tables.values())
    for row in (row for rows in tables.values() for row in rows):
        assert row.get("missing", "No module").startswith(("No module", "ModuleNotFoundError")), row
        assert row.get("error", 0.0) < 2e-3, row
    assert (tmp_path / "gpu.md").read_text().count("\n## ") == len(tables)
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode != 0
    assert "--output" in refused.stderr
