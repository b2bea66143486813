"""Which device the numpy layer uses, and how many tests want one that is not there."""

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
def numpy_layer_on_the_device(request, monkeypatch):
    """Sends the calls of the numpy layer to `--device`, whatever the test says for the CPU."""
    wanted = request.config.getoption("--device")
    if wanted == "cpu":
        return
    devices.require(wanted)
    from electret.kernels import backends, electrostatics, geometry

    def functions_on(device, *precision):
        return backends.functions_on(wanted if device == "cpu" else device, *precision)

    for module in (electrostatics, geometry):
        monkeypatch.setattr(module, "functions_on", functions_on)


def pytest_terminal_summary(terminalreporter):
    """A loud count of what was not tested for want of a GPU."""
    skipped = terminalreporter.stats.get("skipped", ())
    count = sum("gpu" in report.keywords for report in skipped)
    if count:
        reason = devices.missing("cuda") or "see the reasons above"
        terminalreporter.write_sep("=", f"{count} tests want a CUDA device: {reason}", yellow=True, bold=True)
