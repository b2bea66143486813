"""Outputs of scripts for several numbers of threads."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from textwrap import indent

DIGEST = """
import hashlib
import numpy as np, electret
from random_systems import BOUNDARIES, random_system
digest = hashlib.sha256()
for axes in BOUNDARIES:
    {arrays}
    for array in arrays:
        assert np.isfinite(array).all() and np.abs(array).max() > 0
        digest.update(array.tobytes())
print(digest.hexdigest())
"""


def outputs_by_threads(script: str) -> set[str]:
    """The different outputs of a Python script with 1, 2 and 4 threads of the native module."""
    outputs = set()
    for threads in ("1", "2", "4"):
        environment = {**os.environ, "RAYON_NUM_THREADS": threads, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        )
        outputs.add(done.stdout.strip())
    return outputs


def check_bits(arrays: str) -> None:
    """Check that the bits of `arrays`, which the code makes for every entry `axes` of `BOUNDARIES`, are the
    same for any number of threads."""
    digests = outputs_by_threads(DIGEST.format(arrays=indent(arrays.strip(), "    ").strip()))
    assert len(digests) == 1
    assert len(digests.pop()) == len(hashlib.sha256().hexdigest())
