"""What a script prints, for several numbers of threads."""

from __future__ import annotations

import os
import subprocess
import sys


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
