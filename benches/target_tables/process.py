"""Runs one case in a process of its own: its memory is its own, and a crash, a hang or a missing package
costs one row.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from target_tables.options import Options

Row = dict[str, Any]
BENCHES = Path(__file__).parents[1]
THREAD_VARIABLES = (
    "RAYON_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENMM_CPU_THREADS",
)


def run(section: str, arguments: Row, options: Options) -> list[Row]:
    """Rows of `target_tables.<section>.measure(**arguments)`; where it does not finish, the last one has the
    reason under `missing`, with the arguments that are labels."""
    environment = os.environ | dict.fromkeys(THREAD_VARIABLES, str(arguments.get("threads", options.threads)))
    paths = [str(BENCHES), str(BENCHES.parent / "tests"), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    with tempfile.TemporaryDirectory(prefix="electret_bench_") as folder:
        out = Path(folder) / "rows"
        request = json.dumps([section, arguments, str(out), options.memory_gb])
        command = [sys.executable, "-m", "target_tables.process", request]
        reason = None
        timeout = arguments.get("timeout", options.timeout)
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
            if done.returncode:
                reason = f"process ended with {done.returncode}: {_last_line(done.stderr)}"
        except subprocess.TimeoutExpired:
            reason = f"not done after {timeout:g} s"
        lines = out.read_text().splitlines() if out.exists() else []
    rows = [json.loads(line) for line in lines]
    if reason is not None:
        rows.append(arguments | {"missing": reason})
    return rows


def attempt(labels: Row, measure: Callable[[], Row]) -> Row:
    """A measured row, or one that says why it could not be measured."""
    try:
        return labels | measure()
    except ImportError as error:
        return labels | {"missing": f"not installed ({error})"}
    except MemoryError:
        return labels | {"missing": "out of memory"}
    except (RuntimeError, ValueError, NotImplementedError) as error:
        text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        lack = "can't allocate memory" in str(error) or "not enough memory" in str(error)
        return labels | {"missing": "out of memory" if lack else text[:200]}


def _last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no message"


def _limit_memory(gigabytes: float) -> None:
    try:
        import resource
    except ImportError:
        return
    if gigabytes:
        resource.setrlimit(resource.RLIMIT_DATA, (int(gigabytes * 1e9), resource.RLIM_INFINITY))


def _main() -> None:
    section, arguments, out, memory = json.loads(sys.argv[1])
    _limit_memory(memory)
    arguments.pop("timeout", None)
    module = import_module(f"target_tables.{section}")
    with Path(out).open("w") as file:
        labels = {key: value for key, value in arguments.items() if not isinstance(value, (list, dict))}

        def rows():
            yield from module.measure(**arguments)

        source = rows()
        while "end" not in (row := attempt(labels, lambda: next(source, {"end": True}))):
            file.write(json.dumps(row) + "\n")
            file.flush()


if __name__ == "__main__":
    _main()
