"""Speed on a CUDA device against the peers on the same card: ``python benches/gpu.py [--output DIR]``.

Energy with gradients in positions and multipoles at 192 to 998,784 atoms and for batches, features at fixed
atoms, SCF solves, the neighbour list, training steps; the card's own ceilings first. Times are those of the
stream (CUDA events around many calls, so that a call's own work on the host hides behind the queue where it
can), of one call that is waited for (`latency`), and of a replayed CUDA graph. Errors are relative RMS errors
of the forces against accuracy 1e-13 on the CPU.

Writes ``gpu.json`` and ``gpu.md``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # for the peers

from machine import machine, versions
from target_tables.reference import exact_forces, relative
from water import batch_of, water_of

RESULTS = Path(__file__).parent / "results"
SIZES = (192, 1_536, 12_288, 98_304, 998_784)
ACCURACIES = (1e-4, 1e-6)
ENERGIES = ((1e-4, "float32"), (1e-5, "float32"), (1e-4, "float64"), (1e-5, "float64"), (1e-6, "float64"))
"""Accuracy and precision of the sums; float32 and float64 at the same accuracy have the same plan."""
SIGMAS = (1.0, 0.3)
BATCHES = (64,)
DEVICE = "cuda"
Row = dict[str, Any]


# --- times ---


def stream_ms(function: Callable[[], object], seconds: float = 0.15) -> float:
    """Time per call in the stream: median of five runs of as many calls as fit."""
    function()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    function()
    torch.cuda.synchronize()
    once = max(time.perf_counter() - begin, 1e-5)
    n = int(np.clip(seconds / 5 / once, 1, 200))
    found = []
    for _ in range(5):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(n):
            function()
        end.record()
        end.synchronize()
        found.append(start.elapsed_time(end) / n)
    return float(np.median(found))


def latency_ms(function: Callable[[], object], repeats: int = 15) -> float:
    """Wall time of one call, waited for: median."""
    found = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        function()
        torch.cuda.synchronize()
        found.append(1e3 * (time.perf_counter() - begin))
    return float(np.median(found))


def graph_ms(function: Callable[[], object]) -> float | None:
    """Time of a replayed graph, or None where the call cannot be captured."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        function()
        function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return stream_ms(graph.replay)


def memory_mb(function: Callable[[], object]) -> float:
    """Most memory that a call holds at one time, MB: torch's tensors and electret's work areas."""
    from electret import _native

    function()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    _native.device_memory_peak(0, True)
    function()
    torch.cuda.synchronize()
    tensors = torch.cuda.max_memory_allocated() - before
    return (tensors + _native.device_memory_peak(0, False)) / 1e6


# --- ceilings ---


def ceilings() -> Iterator[Row]:
    a = torch.empty(2**28, dtype=torch.float64, device=DEVICE)  # 2 GiB
    b = torch.empty_like(a)
    spent = stream_ms(lambda: b.copy_(a))
    yield {"what": "copy, GB/s read and written", "value": 2 * 8 * a.numel() / spent / 1e6}
    n = 4096
    x = torch.randn(n, n, dtype=torch.float64, device=DEVICE)
    spent = stream_ms(lambda: x @ x)
    yield {"what": "float64 matrix product (tensor cores), TFLOP/s", "value": 2 * n**3 / spent / 1e9}
    torch.backends.cuda.matmul.allow_tf32 = False
    single = x.float()
    spent = stream_ms(lambda: single @ single)
    yield {"what": "float32 matrix product, TFLOP/s", "value": 2 * n**3 / spent / 1e9}
    y = torch.randn(2**20, dtype=torch.float64, device=DEVICE)
    scratch = torch.zeros_like(y)
    yield {"what": "launch of a small kernel, us", "value": 1e3 * stream_ms(lambda: scratch.add_(y))}


# --- energy and gradients ---


def tensors(system: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(values).to(DEVICE) for name, values in system.items()}


def electret_energy(
    system, sigma: float, accuracy: float, method: str = "auto", precision: str = "float64"
) -> Callable[[], Any]:
    from electret.torch import coulomb_energy

    given = tensors(system)
    x, p = given.pop("positions").requires_grad_(), given.pop("multipoles").requires_grad_()
    # settings that stay the same tensors are read back from the device once
    pbc = torch.ones(3, dtype=torch.bool, device=DEVICE)
    width = torch.full((len(x),), sigma, dtype=torch.float64, device=DEVICE)

    def evaluate():
        energy = coulomb_energy(
            x, p, width, pbc=pbc, accuracy=accuracy, method=method, precision=precision, **given
        )
        return torch.autograd.grad(energy.sum(), (x, p))

    return evaluate


def graph_longrange_energy(system, sigma: float, factor: float) -> Callable[[], Any]:
    import graph_longrange_peer as longrange

    peer = longrange.Peer(sigma, factor=factor)
    module = peer.energy_module.to(DEVICE)
    given = tensors(system)
    x, p = given["positions"].requires_grad_(), given["multipoles"].requires_grad_()
    cells = given["cell"].reshape(-1, 3, 3)
    batch = torch.zeros(len(x), dtype=torch.int64, device=DEVICE)
    pbc = torch.ones(len(cells), 3, dtype=torch.bool, device=DEVICE)

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


def nvalchemi_energy(system, sigma: float, settings) -> Callable[[], Any]:
    from target_tables.multipole_codes import nvalchemi_at

    return nvalchemi_at(system, sigma, settings, device=DEVICE).evaluate


def energies(sizes: tuple[int, ...]) -> Iterator[Row]:
    for sigma in SIGMAS:
        for n in sizes:
            system = water_of(n)
            exact = exact_forces(n, sigma)
            for accuracy, precision in ENERGIES:

                def row(
                    n=n, sigma=sigma, accuracy=accuracy, precision=precision, system=system, exact=exact
                ) -> Row:
                    evaluate = electret_energy(system, sigma, accuracy, precision=precision)
                    memory = memory_mb(evaluate)
                    error = relative(-evaluate()[0].cpu().numpy(), exact)
                    return timed(evaluate) | {"error": error, "memory_mb": memory}

                yield attempt(case("electret", n, sigma, f"{accuracy:g} {precision}"), row)


def peers(sizes: tuple[int, ...]) -> Iterator[Row]:
    from target_tables.multipole_codes import PmeSettings

    for n in sizes:
        system, exact = water_of(n), exact_forces(n, 1.0)
        if n <= 5_184:
            for factor in (1.0, 1.5):

                def longrange(system=system, factor=factor, exact=exact) -> Row:
                    evaluate = graph_longrange_energy(system, 1.0, factor)
                    error = relative(-evaluate()[0].cpu().numpy(), exact)
                    return timed(evaluate, graph=False) | {"error": error}

                yield attempt(
                    {"code": "graph-longrange", "atoms": n, "sigma": 1.0, "settings": f"{factor:g}"},
                    longrange,
                )
        for settings in (PmeSettings(24, 5), PmeSettings(36, 6)):

            def nvalchemi(system=system, settings=settings, exact=exact) -> Row:
                evaluate = nvalchemi_energy(system, 1.0, settings)
                error = relative(-evaluate()[0].cpu().numpy(), exact)
                return timed(evaluate, graph=False) | {"error": error}

            yield attempt(case("nvalchemi", n, 1.0, str(settings)), nvalchemi)


def case(code: str, atoms: int, sigma: float, settings: str) -> Row:
    return {"code": code, "atoms": atoms, "sigma": sigma, "settings": settings}


def timed(evaluate: Callable[[], object], graph: bool = True) -> Row:
    found = {"stream_ms": stream_ms(evaluate), "latency_ms": latency_ms(evaluate)}
    if graph:
        try:
            found["graph_ms"] = graph_ms(evaluate)
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
        torch.cuda.empty_cache()
    print(case | found, flush=True)
    return case | found


def batches() -> Iterator[Row]:
    for n in BATCHES:
        system = batch_of(n)
        for accuracy in ACCURACIES:

            def row(system=system, accuracy=accuracy) -> Row:
                return timed(electret_energy(system, 1.0, accuracy))

            yield attempt({"code": "electret", "systems": n, "atoms": 192, "settings": f"{accuracy:g}"}, row)


KERNELS = 98_304
"""Atoms of the profile."""


def kernels() -> Iterator[Row]:
    """Where the time of one call goes, kernel by kernel."""
    from torch.profiler import ProfilerActivity, profile

    for sigma, precision in itertools.product(SIGMAS, ("float64", "float32")):
        accuracy = 1e-6 if precision == "float64" else 1e-5
        evaluate = electret_energy(water_of(KERNELS), sigma, accuracy, precision=precision)
        evaluate()
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CUDA]) as found:
            for _ in range(5):
                evaluate()
            torch.cuda.synchronize()
        rows = [
            (e.key.split("<")[0][:40], e.device_time_total / 5, e.count / 5) for e in found.key_averages()
        ]
        for name, spent, count in sorted(rows, key=lambda row: -row[1])[:9]:
            yield {
                "atoms": KERNELS,
                "sigma": sigma,
                "precision": precision,
                "kernel": name,
                "us": spent,
                "launches": count,
            }


# --- self-consistency ---


def geometries(sizes: tuple[int, ...]) -> Iterator[Row]:
    """Features at fixed atoms, widths 1.5 and 3 Å, l <= 1."""
    from electret.torch import features

    for n in sizes:

        def row(n=n) -> Row:
            given = tensors(water_of(n))
            x, p = given.pop("positions"), given.pop("multipoles")
            pbc = torch.ones(3, dtype=torch.bool, device=DEVICE)
            width = torch.ones(len(x), dtype=torch.float64, device=DEVICE)
            widths = torch.tensor([1.5, 3.0], dtype=torch.float64, device=DEVICE)
            return timed(lambda: features(x, p, width, widths, pbc=pbc, accuracy=1e-6, **given))

        yield attempt({"code": "electret", "atoms": n}, row)


def neighbors(sizes: tuple[int, ...]) -> Iterator[Row]:
    """Full list with shifts, distances and vectors, 6 Å, on the device."""
    from electret import torch as electret_torch

    for n in sizes:

        def row(n=n) -> Row:
            given = tensors(water_of(n))
            x, cell = given["positions"], given["cell"]
            pbc = torch.ones(3, dtype=torch.bool, device=DEVICE)
            evaluate = lambda: electret_torch.neighbor_list("ijSdD", x, cell, pbc, 6.0)  # noqa: E731
            pairs = len(evaluate()[0])
            return timed(evaluate, graph=False) | {"pairs": pairs}

        yield attempt({"code": "electret", "atoms": n}, row)


def solves(sizes: tuple[int, ...]) -> Iterator[Row]:
    """Charge equilibration: from positions to charges (plans, operator or matrix, factors, solve), and the
    same on the CPU."""
    import electret
    from electret.device_geometry import DeviceGeometry
    from electret.scf.device_jacobian import DeviceJacobian

    for n in (192, 768, *sizes[1:3]):
        system = water_of(n)
        chi, eta = np.tile([8.0, 4.5, 4.5], n // 3), np.full(n, 13.0)

        def row(n=n, system=system, chi=chi, eta=eta) -> Row:
            given = tensors({"x": system["positions"], "h": system["cell"][None], "chi": chi, "eta": eta})
            pbc = torch.ones(1, 3, dtype=torch.bool, device=DEVICE)
            batch = torch.zeros(n, dtype=torch.int64, device=DEVICE)
            sigma = torch.ones(n, dtype=torch.float64, device=DEVICE)
            held = torch.ones(1, dtype=torch.bool, device=DEVICE)
            total = torch.zeros(1, dtype=torch.float64, device=DEVICE)

            def evaluate():
                geometry = DeviceGeometry(
                    given["x"], sigma, None, 0, 0, given["h"], pbc, batch, accuracy=1e-6
                )
                column = torch.ones(n, 1, dtype=torch.float64, device=DEVICE)
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
            return timed(evaluate, graph=False) | {"error": error, "cpu_ms": cpu}

        yield attempt({"code": "electret", "atoms": n}, row)


def training() -> Iterator[Row]:
    """A step on 20 frames of 72 atoms, on the device and on the CPU; `mace` has no electrostatics."""
    import tempfile

    from target_tables.training import FRAMES, LAYERS, make_trainer, water_frames

    frames = water_frames(FRAMES, LAYERS)
    for dtype in ("float32", "float64"):
        for family in ("mace", "local_charges", "qeq", "fixed_point"):

            def row(family=family, dtype=dtype) -> Row:
                with tempfile.TemporaryDirectory(prefix="electret_bench_") as folder:
                    trainer = make_trainer(family, dtype, frames, Path(folder), DEVICE)
                    indices = list(range(len(frames)))
                    trainer._step(indices)
                    return {"latency_ms": latency_ms(lambda: trainer._step(indices), repeats=5)}

            yield attempt({"code": "electret", "family": family, "dtype": dtype, "frames": len(frames)}, row)


TABLES: dict[str, Callable[[tuple[int, ...]], Iterator[Row]]] = {
    "ceilings": lambda sizes: ceilings(),
    "energies": energies,
    "batches": lambda sizes: batches(),
    "kernels": lambda sizes: kernels(),
    "geometries": geometries,
    "solves": solves,
    "training": lambda sizes: training(),
    "neighbors": neighbors,
    "peers": peers,
}


def card() -> Row:
    """The device, as torch and the driver tell it."""
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "multiprocessors": properties.multi_processor_count,
        "memory_gb": properties.total_memory / 1e9,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
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
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("torch finds no CUDA device; 'electret info' says why")
    results: dict[str, Any] = {"card": card(), "machine": machine(), "versions": versions(), "tables": {}}
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name in arguments.only:
        print(f"== {name}", flush=True)
        results["tables"][name] = list(TABLES[name](tuple(arguments.sizes)))
        (arguments.output / "gpu.json").write_text(json.dumps(results, indent=1))
        (arguments.output / "gpu.md").write_text(markdown(results))


if __name__ == "__main__":
    main()
