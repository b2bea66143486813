"""Options of a run of the tables."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """Limits of a run.

    Attributes:
        max_atoms: larger systems are left out.
        seconds: of repeats per timed entry.
        timeout: seconds after which a process is stopped; what it has measured until then counts.
        memory_gb: of data per process; more raises an error in it instead of filling the machine.
        threads: of every code that has them.
        method: of electret.
        million: whether the million atoms are measured.
        auto_seconds: for the whole grid of `auto`, which is sampled at random as far as that goes.
    """

    max_atoms: int = 98_304
    seconds: float = 0.5
    timeout: float = 90.0
    memory_gb: float = 0.0
    threads: int = os.cpu_count() or 1
    method: str = "auto"
    million: bool = False
    auto_seconds: float = 240.0

    def sizes(self, *candidates: int) -> list[int]:
        return [n for n in candidates if n <= self.max_atoms]
