"""Kills and full disks: a training that is interrupted anywhere and resumed ends with the same bits.

`python benches/killed_runs.py [--kills 29] [--calls 29] [--disks 7]` trains a tiny model once, then

- kills that training with SIGKILL at random moments (`--kills`), and before one of the system calls that
  change files (`--calls`, spread over all of them),
- gives it a small file system that fills up (`--disks`; needs root, mounts a tmpfs in its temporary folder),

each time resumes it in another process, and compares model, checkpoints and metrics. Prints one line a case.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import torch
from rich.console import Console
from safetensors.torch import load_file

import electret.training.run as run_module
from electret.support.outputs import LOCK_FILE
from electret.training import TrainingConfig, train
from electret.training.resumption import BEST_CHECKPOINT, LAST_CHECKPOINT
from electret.training.run_log import read_history
from training_frames import clusters, run_options, write_frames

CALLS = ("open", "fsync", "replace", "unlink", "mkdir", "ftruncate", "pwrite")


def main() -> None:
    """Run all cases; ends with status 1 if one differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("kills", 29), ("calls", 29), ("disks", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        cases = Cases(folder)
        different = sum(
            not same
            for same in itertools.chain(
                cases.killed_at_random(wanted.kills),
                cases.killed_at_calls(wanted.calls),
                cases.full(wanted.disks),
            )
        )
    print(f"{different} cases differ")
    sys.exit(different > 0)


class Cases:
    """A reference run, and interrupted ones to compare with it.

    Runs are forked from this process, with the model built once, so that a case takes seconds.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        data = write_frames(folder / "data.xyz", clusters(12))
        self.options = run_options(data, folder)
        self.options["stages"][0] |= {"epochs": 3}
        build, built = run_module._build_model, []

        def build_once(*arguments: Any) -> Any:
            built.append(built[0] if built else build(*arguments))
            return copy.deepcopy(built[0])

        run_module._build_model = build_once
        self.config(folder / "first")  # reports mistakes before any fork
        run_module._build_model(self.config(folder), *self.parts())
        self.seconds = -time.monotonic()
        assert self.process(folder / "whole") == 0
        self.seconds += time.monotonic()
        self.number = itertools.count()

    def config(self, output: Path) -> TrainingConfig:
        """The run in a folder."""
        return TrainingConfig.from_dict({**self.options, "output": str(output)})

    def parts(self) -> tuple[Any, Any]:
        """Data and training set of the model."""
        data = run_module.load_data(self.config(self.folder))
        return data, run_module._datasets(self.config(self.folder), {"train": data.train})["train"]

    def process(
        self,
        output: Path,
        resume: bool = False,
        prepare: Callable[[], None] = lambda: None,
        after: float = 0.0,
    ) -> int:
        """Status of a training in a forked process; killed after some seconds if `after` is positive."""
        child = os.fork()
        if child == 0:
            status = 1
            try:
                prepare()
                train(self.config(output), resume=resume, console=Console(quiet=True))
                status = 0
            except BaseException as error:
                (self.folder / "said").write_text(str(error))
            finally:
                os._exit(status)
        if after:
            time.sleep(after)
            os.kill(child, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def finish(self, output: Path, what: str, status: int) -> bool:
        """Resume a run, or begin it if it had not begun, and compare."""
        begun = (output / LAST_CHECKPOINT).exists()
        locked = (output / LOCK_FILE).exists()
        ended = self.process(output, resume=begun)
        left = [
            path.name for path in output.rglob("*") if path.name.endswith(".tmp") or path.name == LOCK_FILE
        ]
        same = (
            ended == 0
            and not left
            and all(
                _equal(output / name, self.folder / "whole" / name)
                for name in (LAST_CHECKPOINT, BEST_CHECKPOINT, Path("model.electret"))
            )
        )
        rows = (
            [_without_time(read_history(place)) for place in (output, self.folder / "whole")]
            if same
            else [0, 1]
        )
        same = same and rows[0] == rows[1]
        state = (
            f"status {status}, {'resumed' if begun else 'begun anew'}{', lock taken over' if locked else ''}"
        )
        print(f"{what}: {state}: {'the same bits' if same else f'DIFFERENT, {ended} {left}'}", flush=True)
        return same

    def killed_at_random(self, n: int) -> list[bool]:
        """SIGKILL at random moments."""
        generator, results = random.Random(1), []
        for _ in range(n):
            output = self.folder / f"run{next(self.number)}"
            after = generator.uniform(0.01, self.seconds)
            while (status := self.process(output, after=after)) == 0:  # it ended before
                self.seconds, after = after, generator.uniform(0.01, after)
                shutil.rmtree(output)
            results.append(self.finish(output, f"killed after {after:.2f} of {self.seconds:.2f} s", status))
        return results

    def killed_at_calls(self, n: int) -> list[bool]:
        """SIGKILL before a system call that changes a file."""
        count = self.folder / "count"

        def counted(limit: float) -> Callable[[], None]:
            def prepare() -> None:
                calls = itertools.count(1)

                def watched(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
                    def call(*arguments: Any, **options: Any) -> Any:
                        number = next(calls)
                        count.write_bytes(f"{number} {name}".encode()) if limit == float("inf") else None
                        if number >= limit:
                            os.kill(os.getpid(), signal.SIGKILL)
                        return original(*arguments, **options)

                    return call

                for name in CALLS:
                    setattr(os, name, watched(name, getattr(os, name)))

            return prepare

        self.process(self.folder / "counting", prepare=counted(float("inf")))
        most = int(count.read_text().split()[0])
        results = []
        for index in range(n):
            output, call = self.folder / f"run{next(self.number)}", 1 + index * (most - 1) // max(n - 1, 1)
            status = self.process(output, prepare=counted(call))
            results.append(self.finish(output, f"killed at call {call} of {most}", status))
        return results

    def full(self, n: int) -> list[bool]:
        """File systems that fill up, and are enlarged before the run goes on."""
        whole = (
            sum(path.stat().st_size for path in (self.folder / "whole").rglob("*") if path.is_file()) // 1024
        )
        results = []
        for index in range(n):
            place = self.folder / f"disk{index}"
            place.mkdir()
            size = max(16, int(whole * (0.2 + 1.1 * index / n)))
            mounted = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(place)]
            subprocess.run(mounted, check=True)
            try:
                (self.folder / "said").unlink(missing_ok=True)
                status = self.process(place / "run")
                said = (self.folder / "said").read_text() if (self.folder / "said").exists() else "no error"
                named = status == 0 or (
                    "No space left" in said and str(place) in said and "free some space" in said
                )
                subprocess.run(["mount", "-o", "remount,size=64m", str(place)], check=True)
                results.append(
                    self.finish(place / "run", f"disk of {size} of {whole} KiB ({said[:150]})", status)
                    and named
                )
            finally:
                subprocess.run(["umount", str(place)], check=True)
        return results


def _equal(one: Path, other: Path) -> bool:
    ours, theirs = load_file(one), load_file(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def _without_time(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


if __name__ == "__main__":
    main()
