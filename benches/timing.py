"""Times of repeated calls."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np


def fastest(
    function: Callable[[], object],
    seconds: float,
    most: int = 50,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Minimum time in ms over repeats that take about `seconds` together, the first for warming up if there
    are more."""
    times: list[float] = []
    while not times or (sum(times) < seconds and len(times) < most):
        begin = clock()
        function()
        times.append(clock() - begin)
    return 1e3 * min(times)


def timed(function: Callable[[], object], seconds: float, most: int = 1000) -> dict[str, float | int]:
    """Wall times in ms, minimum and median over repeats of about `seconds` together, and the least CPU time
    of all threads. Call the function once before, to warm up."""
    walls, begin = [], time.perf_counter()
    while not walls or (time.perf_counter() - begin < seconds and len(walls) < most):
        walls.append(_once(function))
    elapsed, processors = zip(*walls, strict=True)
    return {
        "min_ms": min(elapsed),
        "median_ms": float(np.median(elapsed)),
        "cpu_ms": min(processors),
        "repeats": len(elapsed),
    }


def _once(function: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU time of one call, ms."""
    cpu, wall = time.process_time(), time.perf_counter()
    function()
    return 1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu)
