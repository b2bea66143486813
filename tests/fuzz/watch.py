"""Generated cases in a watched child process: one that aborts, hangs or exhausts memory is recorded, and
the run goes on behind it."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import resource
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

SECONDS_PER_CASE = 4.0
MEMORY_PER_CASE = 2 * 1024**3
"""Bounds of one case: CPU time, and memory in bytes beyond that of the started process."""
PATIENCE = 120.0
"""Seconds of the clock after which a case is taken for one that waits for ever."""

AREAS = {
    "numpy": "fuzz.calls",
    "extremes": "fuzz.extremes",
    "torch": "fuzz.tensors",
    "configuration": "fuzz.configurations",
    "files": "fuzz.files",
}
"""Modules with `case(generator) -> (description, call)`; the call returns what must be finite."""

LIMIT_FACTORS = {"numpy": "0.2"}
"""Factors on the bounds of work and memory (`ELECTRET_LIMIT_FACTOR`) by area: short calls are many calls."""


class WrongResult(Exception):
    """A result that is not finite."""


@dataclass
class Finding:
    """A case that ended neither in a finite result nor in an error of electret."""

    area: str
    seed: int
    number: int
    kind: str
    detail: str

    def __str__(self) -> str:
        again = f"python -m fuzz --area {self.area} --seed {self.seed} --case {self.number}"
        return f"{self.kind}: {again}\n    {self.detail}"


@dataclass
class Report:
    """Counts of outcomes, and the findings."""

    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    @property
    def cases(self) -> int:
        """Cases that were run."""
        return self.outcomes.total()


def generator(area: str, seed: int, number: int) -> np.random.Generator:
    """Random numbers of one case, independent of all others."""
    return np.random.default_rng([seed, number, *area.encode()])


def make(area: str, seed: int, number: int) -> tuple[str, Callable[[], Any]]:
    """Description and call of one case."""
    return importlib.import_module(AREAS.get(area, area)).case(generator(area, seed, number))


def outcome(call: Callable[[], Any]) -> str:
    """Runs one case: `result`, or `refused` with a named error. Anything else is raised."""
    from electret import ElectretError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = call()
    except ElectretError as error:
        if not str(error).strip():
            raise WrongResult(f"{type(error).__name__} without a message") from error
        return "refused"
    for array in _arrays(value):
        if not np.isfinite(array).all():
            raise WrongResult(f"not finite: {array.ravel()[:6]}")
    return "result"


def _arrays(value: Any) -> Iterator[np.ndarray]:
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _arrays(item)
    elif value is not None and not isinstance(value, str):
        array = np.asarray(value)
        if array.dtype.kind in "fc":
            yield array


def run(area: str, seed: int, first: int = 0, cases: int | None = None, seconds: float = np.inf) -> Report:
    """Runs the cases from `first` on in child processes until their number or the time is used up."""
    last = np.inf if cases is None else first + cases
    report, end, number = Report(), time.monotonic() + seconds, first
    while number < last and time.monotonic() < end:
        number = _child(area, seed, number, last, end, report)
    return report


def _child(area: str, seed: int, number: int, last: float, end: float, report: Report) -> int:
    """Follows one child process to its end; returns the number of the next case."""
    context = multiprocessing.get_context("spawn")
    # Case in work (-1: none yet), time and CPU time at which it began, results, refusals, 1 once all is done.
    shared = context.RawArray("d", [-1.0, np.inf, np.inf, 0.0, 0.0, 0.0])
    findings, sender = context.Pipe(duplex=False)
    child = context.Process(target=_work, args=(area, seed, number, last, end, shared, sender), daemon=True)
    child.start()
    sender.close()
    kind = ""
    while not kind:
        try:
            while findings.poll(0.1):
                at, found, detail = findings.recv()
                report.outcomes[found] += 1
                report.findings.append(Finding(area, seed, at, found, detail))
        except EOFError:
            child.join()
            kind = f"abort (exit status {child.exitcode})"
        if not kind and (
            time.monotonic() - shared[1] > PATIENCE or _cpu_time(child.pid) - shared[2] > SECONDS_PER_CASE
        ):
            child.kill()
            child.join()
            kind = f"hang (no end within {SECONDS_PER_CASE:g} s)"
    report.outcomes["result"] += int(shared[3])
    report.outcomes["refused"] += int(shared[4])
    at = int(shared[0])
    if not shared[5]:
        if at < 0:
            raise RuntimeError(f"the child process of area {area!r} did not start: {kind}")
        report.outcomes[kind.partition(" ")[0]] += 1
        report.findings.append(Finding(area, seed, at, kind, describe(area, seed, at)))
    return at + 1


def describe(area: str, seed: int, number: int) -> str:
    """The arguments of one case; cases are made without calling anything of electret."""
    return make(area, seed, number)[0]


def _work(
    area: str, seed: int, number: int, last: float, end: float, shared: Any, findings: Connection
) -> None:
    """The child: runs cases one after the other, counts them in `shared` and sends each finding."""
    os.environ["ELECTRET_LIMIT_FACTOR"] = LIMIT_FACTORS.get(area, "1")
    module = importlib.import_module(AREAS.get(area, area))
    module.prepare()
    used = _virtual_memory()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_PER_CASE, used + MEMORY_PER_CASE))
    while number < last and time.monotonic() < end:
        description, call = module.case(generator(area, seed, number))
        shared[:3] = number, time.monotonic(), time.process_time()
        try:
            shared[3 if outcome(call) == "result" else 4] += 1
        except WrongResult as error:
            findings.send((number, "wrong result", f"{error}; {description}"))
        except BaseException as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{os.path.basename(place.filename)}:{place.lineno}"
            findings.send((number, "raw error", f"{type(error).__name__} at {where}: {error}; {description}"))
        shared[1:3] = np.inf, np.inf
        number += 1
    shared[5] = 1.0


def _cpu_time(pid: int | None) -> float:
    """CPU time of a process in seconds: Linux's clock for it; 0 once it has ended."""
    try:
        return time.clock_gettime((~(pid or 0) << 3) | 2)
    except OSError:
        return 0.0


def _virtual_memory() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize()
