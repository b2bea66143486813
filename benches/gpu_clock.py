"""Times on a CUDA device, and a rehearsal of them on the emulated one, which shows that a benchmark runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np
import torch
from torch.profiler import ProfilerActivity

from electret import _native

Call = Callable[[], object]


class Clock(Protocol):
    """Device of a benchmark, and the timing of its calls."""

    device: str
    """Device of the tensors."""
    activity: ProfilerActivity
    """Activities that the profiler records."""

    def stream_ms(self, function: Call) -> float:
        """Time per call in the stream."""

    def latency_ms(self, function: Call, repeats: int = 15) -> float:
        """Wall time of one call, waited for: median."""

    def graph_ms(self, function: Call) -> float:
        """Time of a replayed graph; an error where the call cannot be captured."""

    def memory_mb(self, function: Call) -> float:
        """Most memory that a call holds at one time, MB: torch's tensors and electret's work areas."""

    def synchronize(self) -> None:
        """Waits for everything queued."""

    def card(self) -> dict[str, Any]:
        """Name, memory, driver and clocks of the device, from torch and the driver."""

    def use(self) -> AbstractContextManager[None]:
        """Within it tensors of `device` go to the device."""


class Cuda:
    """The first CUDA device."""

    device = "cuda"
    activity = ProfilerActivity.CUDA

    def stream_ms(self, function: Call, seconds: float = 0.15) -> float:
        """Median of five runs of as many calls as fit."""
        function()
        torch.cuda.synchronize()
        begin = time.perf_counter()
        function()
        torch.cuda.synchronize()
        once = max(time.perf_counter() - begin, 1e-5)
        n = int(np.clip(seconds / 5 / once, 1, 200))
        found = []
        for _ in range(5):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            for _ in range(n):
                function()
            end.record()
            end.synchronize()
            found.append(start.elapsed_time(end) / n)
        return float(np.median(found))

    def latency_ms(self, function: Call, repeats: int = 15) -> float:
        return _latency_ms(function, repeats, torch.cuda.synchronize)

    def graph_ms(self, function: Call) -> float:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            function()
            function()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            function()
        return self.stream_ms(graph.replay)

    def memory_mb(self, function: Call) -> float:
        function()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        _native.device_memory_peak(0, True)
        function()
        torch.cuda.synchronize()
        tensors = torch.cuda.max_memory_allocated() - before
        return (tensors + _native.device_memory_peak(0, False)) / 1e6

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def card(self) -> dict[str, Any]:
        properties = torch.cuda.get_device_properties(0)
        return {
            "name": properties.name,
            "multiprocessors": properties.multi_processor_count,
            "memory_gb": properties.total_memory / 1e9,
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
        }

    def use(self) -> AbstractContextManager[None]:
        return nullcontext()


class Rehearsal:
    """The emulated device: every call is made, and no time means anything."""

    device = "cpu"
    activity = ProfilerActivity.CPU

    def stream_ms(self, function: Call) -> float:
        return self.latency_ms(function, 1)

    def latency_ms(self, function: Call, repeats: int = 1) -> float:
        return _latency_ms(function, 1, self.synchronize)

    def graph_ms(self, function: Call) -> float:
        return self.latency_ms(function, 1)

    def memory_mb(self, function: Call) -> float:
        function()
        return 0.0

    def synchronize(self) -> None:
        pass

    def card(self) -> dict[str, Any]:
        return {"name": "none: a rehearsal on the emulated device", "torch": torch.__version__}

    def use(self) -> AbstractContextManager[None]:
        from electret.testing import emulated_device

        return emulated_device()


def _latency_ms(function: Call, repeats: int, synchronize: Call) -> float:
    found = []
    for _ in range(repeats):
        synchronize()
        begin = time.perf_counter()
        function()
        synchronize()
        found.append(1e3 * (time.perf_counter() - begin))
    return float(np.median(found))
