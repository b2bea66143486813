"""Time of the host in one call of `electret.torch` on a GPU, beside the kernels that it queues.

``python benches/host_overhead.py`` needs no GPU: tensors are those of the emulated device and its evaluation
is replaced by one that does nothing, so that what is left is electret's and torch's own Python.
``--device cuda`` takes a GPU with its kernels, and waits for them once per repetition of many calls; that
time includes the launches. Calls are energy with gradients in positions and multipoles, features with
gradients, and the energy alone, of 192 atoms with dipoles in a periodic cell; settings are given as numbers,
or as tensors as a model has them. *floor* is one multiplication with its gradients, which is what autograd
takes at least. Best of the repetitions, microseconds of the process; *operators* are torch's, by its
profiler.

``--label before`` and ``--append`` put the tables of two versions of the package into one file.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor

from electret import _native
from electret.testing import emulated_device
from electret.torch import coulomb_energy, features
from machine import machine, versions

RESULTS = Path(__file__).parent / "results"
N_ATOMS = 192


class Idle:
    """A plan that evaluates nothing."""

    def __init__(self, *arguments: object) -> None:
        pass

    @staticmethod
    def needs_spans(*arguments: object) -> bool:
        return False

    def evaluate(self, *arguments: object, **buffers: object) -> None:
        pass


def calls(device: str) -> dict[str, Callable[[], object]]:
    """Timed calls, by name."""
    generator = torch.Generator().manual_seed(0)
    x = (12.4 * torch.rand(N_ATOMS, 3, generator=generator, dtype=torch.float64)).to(device)
    p = torch.rand(N_ATOMS, 4, generator=generator, dtype=torch.float64).sub_(0.5).to(device)
    cell = 12.4 * torch.eye(3, dtype=torch.float64, device=device)
    numbers = {"sigma": 0.9, "cell": cell, "pbc": True}
    given = {
        "sigma": torch.full((N_ATOMS,), 0.9, dtype=torch.float64, device=device),
        "cell": cell[None],
        "pbc": torch.ones(1, 3, dtype=torch.bool, device=device),
        "batch": torch.zeros(N_ATOMS, dtype=torch.int64, device=device),
    }

    def with_gradients(function: Callable[..., Tensor], **settings: object) -> Callable[[], object]:
        def run() -> object:
            leaves = x.detach().requires_grad_(), p.detach().requires_grad_()
            return torch.autograd.grad(function(*leaves, **settings).sum(), leaves)

        return run

    return {
        "floor": with_gradients(lambda x, p: x * p[:, :1]),
        "energy and gradients, numbers": with_gradients(coulomb_energy, **numbers),
        "energy and gradients, tensors": with_gradients(coulomb_energy, **given),
        "features and gradients, numbers": with_gradients(features, **numbers),
        "energy alone, numbers": lambda: coulomb_energy(x, p, **numbers),
    }


def microseconds(call: Callable[[], object], device: str, repetitions: int, repeats: int = 100) -> float:
    """Best time of the process per call."""
    best = float("inf")
    for _ in range(repetitions):
        start = time.process_time() if device == "cpu" else time.perf_counter()
        for _ in range(repeats):
            call()
        if device == "cpu":
            best = min(best, time.process_time() - start)
        else:
            torch.cuda.synchronize()
            best = min(best, time.perf_counter() - start)
    return 1e6 * best / repeats


def operators(call: Callable[[], object]) -> int:
    """Operators of torch in a call, those inside of others included."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        call()
    return sum(event.name.startswith("aten::") for event in profile.events())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("emulated", "cuda"), default="emulated")
    parser.add_argument("--repetitions", type=int, default=60)
    parser.add_argument("--label", default="this version")
    parser.add_argument("--append", action="store_true", help="keep what the file holds")
    parser.add_argument("--output", type=Path, default=RESULTS / "host_overhead.md")
    arguments = parser.parse_args()
    emulated = arguments.device == "emulated"
    torch.set_flush_denormal(True)  # what nothing was written to may hold such numbers, which are slow
    device = "cpu" if emulated else "cuda"
    m = machine() | versions()
    lines = [
        f"## {arguments.label}",
        "",
        f"{m['time']}, {m['cpu']}, device: {arguments.device}, Python {m['python']}, torch {m['torch']}; "
        f"load average {m['load_before']}. `{m['command']}`.",
        "",
        "| call | µs | operators |",
        "|---|---|---|",
    ]
    with (
        mock.patch.object(_native, "DevicePlan", Idle) if emulated else nullcontext(),
        emulated_device() if emulated else nullcontext(),
    ):
        for name, call in calls(device).items():
            call()
            best = microseconds(call, device, arguments.repetitions)
            lines.append(f"| {name} | {best:.0f} | {operators(call)} |")
    head = "# The host's part of calls on a GPU\n\nSee `benches/host_overhead.py`.\n\n"
    path: Path = arguments.output
    before = path.read_text() + "\n" if arguments.append and path.exists() else head
    path.write_text(before + "\n".join(lines) + "\n")
    print(path.read_text())


if __name__ == "__main__":
    main()
