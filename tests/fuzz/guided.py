"""`python -m fuzz.guided model-file --minutes 60` (or `calls`): fuzzing led by coverage, by libFuzzer through
atheris (`pip install atheris`, Linux).

Inputs that reach new lines of the package are kept and mutated further. `model-file` mutates the header of a
model file, whose checksums count as right, so that what is behind them is reached; :mod:`fuzz.files` damages
whole files. `calls` mutates the choices that make the calls of :mod:`fuzz.calls`. A case may end in a result
or in an error of electret; anything else stops the run, and libFuzzer writes its input to `crash-*`, to be
given again: `python -m fuzz.guided calls crash-...`.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("ELECTRET_LIMIT_FACTOR", "0.02")

import atheris
import numpy as np

with atheris.instrument_imports(include=["electret"], exclude=["electret.models.families"]):
    import electret
    import electret.kernels.electrostatics
    import electret.kernels.geometry
    import electret.kernels.neighbors
    import electret.models.files
    import electret.models.header

from fuzz import calls, files, watch


class Choices:
    """Part of `numpy.random.Generator` that the cases use, on the bytes of an input; zeros after its end."""

    def __init__(self, data: bytes) -> None:
        self._provider = atheris.FuzzedDataProvider(data)

    def _array(self, size: Any, one: Any) -> Any:
        if size is None:
            return one()
        return np.array([one() for _ in range(int(np.prod(size)))]).reshape(size)

    def integers(self, low: int, high: int | None = None, size: Any = None) -> Any:
        """Integers below `low`, or from `low` to below `high`."""
        first, end = (0, low) if high is None else (low, high)
        return self._array(size, lambda: self._provider.ConsumeIntInRange(int(first), int(end) - 1))

    def uniform(self, low: float = 0.0, high: float = 1.0, size: Any = None) -> Any:
        """Numbers between the bounds."""
        return self._array(size, lambda: low + (high - low) * self._provider.ConsumeProbability())

    def random(self, size: Any = None) -> Any:
        """Numbers between 0 and 1."""
        return self.uniform(size=size)

    def normal(self, size: Any = None) -> Any:
        """Numbers between -3 and 3."""
        return self.uniform(-3.0, 3.0, size)

    def permutation(self, values: Any) -> list[Any]:
        """The values, or the numbers below one, in another order."""
        left = list(range(values)) if isinstance(values, int) else list(values)
        return [left.pop(self.integers(len(left))) for _ in range(len(left))]


def call(data: bytes) -> None:
    """A call of the numpy layer."""
    watch.outcome(calls.case(Choices(data))[1])  # type: ignore[arg-type]


def model_file(data: bytes) -> None:
    """Reads a model file with this header: the header, and where that is accepted all of it."""
    with tempfile.NamedTemporaryFile(dir="/dev/shm", suffix=".electret") as file:
        file.write(len(data).to_bytes(8, "little") + data + files.parts(files.model_bytes())[1])
        file.flush()
        with (
            mock.patch.object(electret.models.header, "text_checksum", return_value=mock.ANY),
            mock.patch.object(electret.models.files, "checksum", return_value=mock.ANY),
        ):
            watch.outcome(lambda: electret.models.files.load(file.name) and None)


TARGETS = {"model-file": model_file, "calls": call}


def main() -> None:
    """Runs libFuzzer for the minutes, or on the inputs given."""
    parser = argparse.ArgumentParser(prog="python -m fuzz.guided", description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("inputs", nargs="*", type=Path)
    parser.add_argument("--minutes", type=float, default=10.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as corpus:
        seeds = (
            [files.parts(files.model_bytes())[0]]
            if options.target == "model-file"
            else [bytes(k) for k in range(0, 999, 9)]
        )
        for number, seed in enumerate(seeds):
            (Path(corpus) / str(number)).write_bytes(seed)
        limits = [f"-max_total_time={60 * options.minutes:.0f}", "-timeout=100", "-rss_limit_mb=4096"]
        limits += [f"-max_len={2 * max(map(len, seeds))}", "-len_control=0"]
        chosen = list(map(str, options.inputs)) or [*limits, corpus]
        atheris.Setup([sys.argv[0], *chosen], TARGETS[options.target])
        atheris.Fuzz()


if __name__ == "__main__":
    main()
