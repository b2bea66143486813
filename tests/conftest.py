"""Device of the numpy layer, counts of tests left out for lack of a device or for their time."""

from __future__ import annotations

from pathlib import Path

import pytest

import devices


def pytest_addoption(parser):
    parser.addoption(
        "--device",
        choices=("cpu", "emulated", "cuda"),
        default="cpu",
        help="where electret.coulomb, features, potential and Geometry run in every test",
    )


@pytest.fixture(autouse=True)
def numpy_layer_on_the_device(request):
    """Send the calls of the numpy layer to `--device`."""
    wanted = request.config.getoption("--device")
    if wanted == "cpu":
        yield
        return
    devices.require(wanted)
    from numpy_on_device import numpy_layer_on

    with numpy_layer_on(wanted):
        yield


SLOW = frozenset((Path(__file__).parent / "slow.txt").read_text(encoding="utf-8").split())
LEFT_OUT = pytest.StashKey[int]()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Marks the tests of `tests/slow.txt`, and those on emulated and labelled devices."""
    for item in items:
        name = getattr(item, "originalname", item.name)
        parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
        if f"{item.path.name}::{name}" in SLOW or {"emulated", "labelled"} & set(map(str, parameters)):
            item.add_marker(pytest.mark.slow)


def pytest_deselected(items):
    """Counts the slow tests that `-m "not slow"` leaves out."""
    for item in items:
        if item.get_closest_marker("slow"):
            item.config.stash[LEFT_OUT] = item.config.stash.get(LEFT_OUT, 0) + 1


def pytest_sessionfinish(session):
    """Sends the count from a process of xdist."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = session.config.stash.get(LEFT_OUT, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    """Receives it; every process leaves out the same tests."""
    node.config.stash[LEFT_OUT] = getattr(node, "workeroutput", {}).get("left_out", 0)


def pytest_terminal_summary(terminalreporter):
    """Loud counts of the tests that were left out, for their time or for lack of a GPU."""
    left_out = terminalreporter.config.stash.get(LEFT_OUT, 0)
    if left_out:
        terminalreporter.write_sep(
            "=", f"{left_out} slow tests are left out: `make test` runs all", yellow=True, bold=True
        )
    skipped = terminalreporter.stats.get("skipped", ())
    count = sum("gpu" in getattr(report, "keywords", ()) for report in skipped)
    if count:
        reason = devices.missing("cuda") or "see the reasons above"
        terminalreporter.write_sep("=", f"{count} tests need a CUDA device: {reason}", yellow=True, bold=True)
