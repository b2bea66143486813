"""One case of each kind of bad end, to test the watch."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from fuzz import watch

ENDS = {
    1: (lambda: os._exit(3), "abort (exit status 3)"),
    3: (lambda: max(range(10**12)), "hang"),
    4: (lambda: time.sleep(600), "hang"),
    5: (lambda: np.array([1.0, np.nan]), "wrong result"),
    7: (lambda: [].pop(), "raw error"),
    8: (lambda: np.ones(10**12), "raw error"),
}


def prepare() -> None:
    """Nothing is needed."""


def case(generator: np.random.Generator) -> tuple[str, Callable[[], Any]]:
    """A case that ends badly, or a finite result."""
    state = generator.bit_generator.state
    number = next(n for n in range(10) if watch.generator("fuzz.planted", 0, n).bit_generator.state == state)
    return f"planted {number}", ENDS[number][0] if number in ENDS else lambda: np.zeros(3)
