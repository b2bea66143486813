"""The device of the numpy layer, and a count of the tests that lack one."""

from __future__ import annotations

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


def pytest_terminal_summary(terminalreporter):
    """Report loudly how many tests were skipped for lack of a GPU."""
    skipped = terminalreporter.stats.get("skipped", ())
    count = sum("gpu" in report.keywords for report in skipped)
    if count:
        reason = devices.missing("cuda") or "see the reasons above"
        terminalreporter.write_sep("=", f"{count} tests need a CUDA device: {reason}", yellow=True, bold=True)
