"""Speed on a CUDA device against the peers on the same card: ``python benches/gpu.py [--output DIR]``.

Energy with gradients in positions and multipoles at 192 to 998,784 atoms and for batches, features at fixed
atoms, SCF solves, the neighbour list, training steps; the card's own ceilings first. Times are those of the
stream (CUDA events around many calls, so that a call's own work on the host hides behind the queue where it
can), of one call that is waited for (`latency`), and of a replayed CUDA graph. Errors are relative RMS errors
of the forces against accuracy 1e-13 on the CPU.

Writes ``gpu.json`` and ``gpu.md``. ``--rehearse`` needs no GPU.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gpu_clock import Clock, Cuda, Rehearsal
from machine import machine, versions
from target_tables.reference import exact_forces, relative
from target_tables.training import FRAMES, LAYERS, make_trainer, water_frames
from water import batch_of, water_of

RESULTS = Path(__file__).parent / "results"
SIZES = (192, 1_536, 12_288, 98_304, 998_784)
ACCURACIES = (1e-4, 1e-6)
ENERGIES = ((1e-4, "float32"), (1e-5, "float32"), (1e-4, "float64"), (1e-5, "float64"), (1e-6, "float64"))
"""Accuracy and precision of the sums; float32 and float64 at the same accuracy have the same plan."""
SIGMAS = (1.0, 0.3)
Row = dict[str, Any]


@dataclass(frozen=True)
class Scope:
    """Benchmarks to run, and their device."""

    clock: Clock
    sizes: tuple[int, ...]
    """Atoms of single systems."""
    solves: tuple[int, ...]
    batch: int
    """Systems of 192 atoms."""
    profile: int
    """Atoms of the profile."""
    frames: int
    layers: tuple[int, int, int]
    """Frames of a training step, and molecules along each axis of a frame."""
    numbers: int
    """Entries of the array that is copied for the ceiling of memory."""

    @property
    def device(self) -> str:
        return self.clock.device


def measurement(sizes: Sequence[int]) -> Scope:
    """On the CUDA device."""
    return Scope(
        clock=Cuda(),
        sizes=tuple(sizes),
        solves=(192, 768, *sizes[1:3]),
        batch=64,
        profile=98_304,
        frames=FRAMES,
        layers=LAYERS,
        numbers=2**28,  # 2 GiB
    )


def rehearsal() -> Scope:
    """Everything once, small, on the emulated device."""
    return Scope(
        clock=Rehearsal(),
        sizes=(24,),
        solves=(24,),
        batch=1,
        profile=24,
        frames=2,
        layers=(2, 2, 1),
        numbers=2**10,
    )


# --- ceilings ---


def ceilings(scope: Scope) -> Iterator[Row]:
    stream_ms = scope.clock.stream_ms
    a = torch.zeros(scope.numbers, dtype=torch.float64, device=scope.device)
    b = torch.empty_like(a)
    spent = stream_ms(lambda: b.copy_(a))
    yield {"what": "copy, GB/s read and written", "value": 2 * 8 * a.numel() / spent / 1e6}
    n = math.isqrt(scope.numbers) // 4
    x = torch.randn(n, n, dtype=torch.float64, device=scope.device)
    spent = stream_ms(lambda: x @ x)
    yield {"what": "float64 matrix product (tensor cores), TFLOP/s", "value": 2 * n**3 / spent / 1e9}
    torch.backends.cuda.matmul.allow_tf32 = False
    single = x.float()
    spent = stream_ms(lambda: single @ single)
    yield {"what": "float32 matrix product, TFLOP/s", "value": 2 * n**3 / spent / 1e9}
    y = torch.randn(scope.numbers // 256, dtype=torch.float64, device=scope.device)
    scratch = torch.zeros_like(y)
    yield {"what": "launch of a small kernel, us", "value": 1e3 * stream_ms(lambda: scratch.add_(y))}


# --- energy and gradients ---


def tensors(system: dict[str, np.ndarray], device: str) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(values).to(device) for name, values in system.items()}


def electret_energy(
    system, device: str, sigma: float, accuracy: float, precision: str = "float64"
) -> Callable[[], Any]:
    from electret.torch import coulomb_energy

    given = tensors(system, device)
    x, p = given.pop("positions").requires_grad_(), given.pop("multipoles").requires_grad_()
    # settings that stay the same tensors are read back from the device once
    pbc = torch.ones(3, dtype=torch.bool, device=device)
    width = torch.full((len(x),), sigma, dtype=torch.float64, device=device)

    def evaluate():
        energy = coulomb_energy(x, p, width, pbc=pbc, accuracy=accuracy, precision=precision, **given)
        return torch.autograd.grad(energy.sum(), (x, p))

    return evaluate


def graph_longrange_energy(system, device: str, sigma: float, factor: float) -> Callable[[], Any]:
    import graph_longrange_peer as longrange

    peer = longrange.Peer(sigma, factor=factor)
    module = peer.energy_module.to(device)
    given = tensors(system, device)
    x, p = given["positions"].requires_grad_(), given["multipoles"].requires_grad_()
    cells = given["cell"].reshape(-1, 3, 3)
    batch = torch.zeros(len(x), dtype=torch.int64, device=device)
    pbc = torch.ones(len(cells), 3, dtype=torch.bool, device=device)

    def evaluate():
        # the k-vectors are part of its cost
        reciprocal = 2 * torch.pi * torch.linalg.inv(cells).transpose(1, 2)
        k, k2, k_batch, zero = longrange.compute_k_vectors_flat(peer.cutoff, cells, reciprocal)
        energy = module(
            k_vectors=k,
            k_norm2=k2,
            k_vector_batch=k_batch,
            k0_mask=zero,
            source_feats=p,
            node_positions=x,
            batch=batch,
            volume=torch.linalg.det(cells).abs(),
            pbc=pbc,
        )
        return torch.autograd.grad(energy.sum(), (x, p))

    return evaluate


def energies(scope: Scope) -> Iterator[Row]:
    for sigma in SIGMAS:
        for n in scope.sizes:
            system = water_of(n)
            exact = exact_forces(n, sigma)
            for accuracy, precision in ENERGIES:

                def row(
                    n=n, sigma=sigma, accuracy=accuracy, precision=precision, system=system, exact=exact
                ) -> Row:
                    evaluate = electret_energy(system, scope.device, sigma, accuracy, precision)
                    memory = scope.clock.memory_mb(evaluate)
                    error = relative(-evaluate()[0].cpu().numpy(), exact)
                    return timed(scope.clock, evaluate) | {"error": error, "memory_mb": memory}

                yield attempt(case("electret", n, sigma, f"{accuracy:g} {precision}"), row)


def peers(scope: Scope) -> Iterator[Row]:
    from target_tables.multipole_codes import PmeSettings, nvalchemi_at

    for n in scope.sizes:
        system, exact = water_of(n), exact_forces(n, 1.0)
        if n <= 5_184:
            for factor in (1.0, 1.5):

                def longrange(system=system, factor=factor, exact=exact) -> Row:
                    evaluate = graph_longrange_energy(system, scope.device, 1.0, factor)
                    error = relative(-evaluate()[0].cpu().numpy(), exact)
                    return timed(scope.clock, evaluate, graph=False) | {"error": error}

                yield attempt(
                    {"code": "graph-longrange", "atoms": n, "sigma": 1.0, "settings": f"{factor:g}"},
                    longrange,
                )
        for settings in (PmeSettings(24, 5), PmeSettings(36, 6)):

            def nvalchemi(system=system, settings=settings, exact=exact) -> Row:
                evaluate = nvalchemi_at(system, 1.0, settings, scope.device).evaluate
                error = relative(-evaluate()[0].cpu().numpy(), exact)
                return timed(scope.clock, evaluate, graph=False) | {"error": error}

            yield attempt(case("nvalchemi", n, 1.0, str(settings)), nvalchemi)


def case(code: str, atoms: int, sigma: float, settings: str) -> Row:
    return {"code": code, "atoms": atoms, "sigma": sigma, "settings": settings}


def timed(clock: Clock, evaluate: Callable[[], object], graph: bool = True) -> Row:
    found = {"stream_ms": clock.stream_ms(evaluate), "latency_ms": clock.latency_ms(evaluate)}
    if graph:
        try:
            found["graph_ms"] = clock.graph_ms(evaluate)
        except Exception as error:  # what a capture refuses is part of the result
            found["graph"] = str(error).splitlines()[0][:200]
    return found


def attempt(case: Row, function: Callable[[], Row]) -> Row:
    """The case with its results, or with the reason why there are none."""
    try:
        found = function()
    except Exception as error:
        lines = str(error).splitlines() or [""]
        found = {"missing": f"{type(error).__name__}: {lines[0][:300]}"}
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    print(case | found, flush=True)
    return case | found


def batches(scope: Scope) -> Iterator[Row]:
    system = batch_of(scope.batch)
    for accuracy in ACCURACIES:

        def row(accuracy=accuracy) -> Row:
            return timed(scope.clock, electret_energy(system, scope.device, 1.0, accuracy))

        yield attempt(
            {"code": "electret", "systems": scope.batch, "atoms": 192, "settings": f"{accuracy:g}"}, row
        )


def kernels(scope: Scope) -> Iterator[Row]:
    """Time of one call, kernel by kernel."""
    from torch.profiler import profile

    for sigma, precision in itertools.product(SIGMAS, ("float64", "float32")):
        accuracy = 1e-6 if precision == "float64" else 1e-5
        evaluate = electret_energy(water_of(scope.profile), scope.device, sigma, accuracy, precision)
        evaluate()
        scope.clock.synchronize()
        with profile(activities=[scope.clock.activity]) as found:
            for _ in range(5):
                evaluate()
            scope.clock.synchronize()
        rows = [
            (e.key.split("<")[0][:40], e.device_time_total / 5, e.count / 5) for e in found.key_averages()
        ]
        for name, spent, count in sorted(rows, key=lambda row: -row[1])[:9]:
            yield {
                "atoms": scope.profile,
                "sigma": sigma,
                "precision": precision,
                "kernel": name,
                "us": spent,
                "launches": count,
            }


# --- self-consistency ---


def geometries(scope: Scope) -> Iterator[Row]:
    """Features at fixed atoms, widths 1.5 and 3 Å, l <= 1."""
    from electret.torch import features

    for n in scope.sizes:

        def row(n=n) -> Row:
            given = tensors(water_of(n), scope.device)
            x, p = given.pop("positions"), given.pop("multipoles")
            pbc = torch.ones(3, dtype=torch.bool, device=scope.device)
            width = torch.ones(len(x), dtype=torch.float64, device=scope.device)
            widths = torch.tensor([1.5, 3.0], dtype=torch.float64, device=scope.device)
            return timed(scope.clock, lambda: features(x, p, width, widths, pbc=pbc, accuracy=1e-6, **given))

        yield attempt({"code": "electret", "atoms": n}, row)


def neighbors(scope: Scope) -> Iterator[Row]:
    """Full list with shifts, distances and vectors, 6 Å, on the device."""
    from electret import torch as electret_torch

    for n in scope.sizes:

        def row(n=n) -> Row:
            given = tensors(water_of(n), scope.device)
            x, cell = given["positions"], given["cell"]
            pbc = torch.ones(3, dtype=torch.bool, device=scope.device)
            evaluate = lambda: electret_torch.neighbor_list("ijSdD", x, cell, pbc, 6.0)  # noqa: E731
            pairs = len(evaluate()[0])
            return timed(scope.clock, evaluate, graph=False) | {"pairs": pairs}

        yield attempt({"code": "electret", "atoms": n}, row)


def solves(scope: Scope) -> Iterator[Row]:
    """Charge equilibration: from positions to charges (plans, operator or matrix, factors, solve), and the
    same on the CPU."""
    import electret
    from electret.cuda.geometry import DeviceGeometry
    from electret.kernels.arguments import Options, Systems
    from electret.scf.linear.device import DeviceJacobian

    for n in scope.solves:
        system = water_of(n)
        chi, eta = np.tile([8.0, 4.5, 4.5], n // 3), np.full(n, 13.0)

        def row(n=n, system=system, chi=chi, eta=eta) -> Row:
            given = tensors(
                {"x": system["positions"], "h": system["cell"][None], "chi": chi, "eta": eta}, scope.device
            )
            pbc = torch.ones(1, 3, dtype=torch.bool, device=scope.device)
            batch = torch.zeros(n, dtype=torch.int64, device=scope.device)
            sigma = torch.ones(n, dtype=torch.float64, device=scope.device)
            held = torch.ones(1, dtype=torch.bool, device=scope.device)
            total = torch.zeros(1, dtype=torch.float64, device=scope.device)

            def evaluate():
                atoms = Systems(given["x"], given["h"], pbc, batch)
                geometry = DeviceGeometry(atoms, sigma, None, 0, Options(accuracy=1e-6))
                column = torch.ones(n, 1, dtype=torch.float64, device=scope.device)
                left = given["eta"][:, None, None]
                jacobian = DeviceJacobian(geometry, "coulomb", left, None, column, held)
                return jacobian.solve(-given["chi"][:, None], total, tolerance=1e-8)

            def on_the_cpu():
                return electret.charge_equilibration(
                    system["positions"], chi, eta, cell=system["cell"], pbc=True, accuracy=1e-6
                )

            exact = on_the_cpu().charges
            error = relative(evaluate()[0][:, 0].cpu().numpy(), exact)
            begin = time.perf_counter()
            on_the_cpu()
            cpu = 1e3 * (time.perf_counter() - begin)
            return timed(scope.clock, evaluate, graph=False) | {"error": error, "cpu_ms": cpu}

        yield attempt({"code": "electret", "atoms": n}, row)


def training(scope: Scope) -> Iterator[Row]:
    """A step on 20 frames of 72 atoms; `mace` has no electrostatics."""
    import tempfile

    frames = water_frames(scope.frames, scope.layers)
    for dtype in ("float32", "float64"):
        for family in ("mace", "local_charges", "qeq", "fixed_point"):

            def row(family=family, dtype=dtype) -> Row:
                with tempfile.TemporaryDirectory(prefix="electret_bench_") as folder:
                    trainer = make_trainer(family, dtype, frames, Path(folder), scope.device)
                    indices = list(range(len(frames)))
                    trainer._step(indices, trainer.train_set.batch(indices).to(device=trainer.device))
                    return {
                        "latency_ms": scope.clock.latency_ms(
                            lambda: trainer._step(
                                indices, trainer.train_set.batch(indices).to(device=trainer.device)
                            ),
                            repeats=5,
                        )
                    }

            yield attempt({"code": "electret", "family": family, "dtype": dtype, "frames": len(frames)}, row)


TABLES: dict[str, Callable[[Scope], Iterator[Row]]] = {
    "ceilings": ceilings,
    "energies": energies,
    "batches": batches,
    "kernels": kernels,
    "geometries": geometries,
    "solves": solves,
    "training": training,
    "neighbors": neighbors,
    "peers": peers,
}


def markdown(results: dict[str, Any]) -> str:
    lines = ["# GPU", "", "Written by `python benches/gpu.py`.", ""]
    lines += [f"- {name}: {value}" for name, value in (results["card"] | results["machine"]).items()]
    for name, rows in results["tables"].items():
        columns = list(dict.fromkeys(key for row in rows for key in row))
        lines += ["", f"## {name}", "", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        for row in rows:
            cells = [row.get(column, "") for column in columns]
            shown = [f"{c:.3g}" if isinstance(c, float) else str(c) for c in cells]
            lines.append("| " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--only", nargs="+", choices=list(TABLES), default=list(TABLES))
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES))
    parser.add_argument(
        "--rehearse",
        action="store_true",
        help="run it all once, small, on the emulated device; needs --output",
    )
    arguments = parser.parse_args()
    if arguments.rehearse and arguments.output == RESULTS:
        parser.error("--rehearse would write over measurements: give --output a folder of its own")
    if not arguments.rehearse and not torch.cuda.is_available():
        raise SystemExit("torch finds no CUDA device; 'electret info' says why")
    scope = rehearsal() if arguments.rehearse else measurement(arguments.sizes)
    results: dict[str, Any] = {
        "card": scope.clock.card(),
        "machine": machine(),
        "versions": versions(),
        "tables": {},
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name in arguments.only:
        print(f"== {name}", flush=True)
        with scope.clock.use():
            results["tables"][name] = list(TABLES[name](scope))
        (arguments.output / "gpu.json").write_text(json.dumps(results, indent=1))
        (arguments.output / "gpu.md").write_text(markdown(results))


if __name__ == "__main__":
    main()
