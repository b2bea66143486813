"""Machine and software of a benchmark."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "electret",
    "numpy",
    "torch",
    "mace-torch",
    "graph-longrange",
    "nvalchemi-toolkit-ops",
    "warp-lang",
    "openmm",
    "torch-pme",
    "vesin",
    "matscipy",
)


def machine() -> dict[str, object]:
    """Processor, threads, load average, date and command."""
    return {
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "rayon_threads": os.environ.get("RAYON_NUM_THREADS", "all"),
        "openmp_threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 1),
        "time": datetime.now(timezone.utc).isoformat(timespec="minutes"),
        "command": "python " + " ".join(sys.argv),
    }


def versions() -> dict[str, str]:
    """Installed versions of electret and its peers, and the commit of the working tree."""
    found = {"commit": _commit()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=9"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
