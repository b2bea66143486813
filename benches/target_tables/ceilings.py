"""How near the kernels come to what the machine can do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

import electret
from target_tables.options import Options
from target_tables.process import Row, attempt
from target_tables.report import markdown, missing, ms
from timing import timed
from water import water_of

TITLE = "Ceilings"
TEXT = """The machine: copy bandwidth of numpy (`copyto` of 256 MB, bytes read and written,
write-allocation not counted), multiply-add rate as a float64 matrix product of 2,048 (BLAS of numpy,
some 10 % below the peak). Kernels: operations and bytes that the algorithm needs (formulas in
`ceilings.py`), over the measured time, and the larger of the two fractions of the ceiling for the same
number of threads. Counts leave out set-up, lists, transcendental functions and caches, so that fractions
are lower bounds."""

ATOMS = 1_536
ACCURACY = 1e-6
MESH_ORDER, MESH_SPACING = 8, 0.5
"""Å, nominal."""
NARROW, NARROW_ACCURACY = 0.3, 1e-3
"""Å; errors of 4e-5."""
KERNELS = (
    "reciprocal sum, energy and gradients",
    "reciprocal sum, features at fixed atoms",
    "pair sum, energy and gradients",
    "mesh, energy and gradients",
    "mesh and pairs, narrow charges",
    "matrix of features",
    "charge equilibration, dense",
    "neighbour list",
)


def cases(options: Options) -> list[Row]:
    counts = sorted({1, options.threads})
    found = [{"kernel": "machine", "threads": n, "seconds": options.seconds} for n in counts]
    atoms = min(ATOMS, max(options.sizes(24, 192, 1_536), default=24))
    for kernel in KERNELS:
        n = 8 * atoms if kernel.startswith("mesh") and options.max_atoms >= 8 * atoms else atoms
        found += [{"kernel": kernel, "threads": t, "atoms": n, "seconds": options.seconds} for t in counts]
    return found


def measure(kernel: str, threads: int, seconds: float, atoms: int = 0) -> Iterator[Row]:
    if kernel == "machine":
        yield {"copy_gb_s": copy_bandwidth(threads, seconds), "gflop_s": multiply_add_rate(seconds)}
        return

    def row() -> Row:
        run, operations, moved = prepared(kernel, atoms)
        run()
        return {"gflop": 1e-9 * operations, "gb": 1e-9 * moved} | timed(run, seconds)

    yield attempt({}, row)


def copy_bandwidth(threads: int, seconds: float) -> float:
    """GB/s read and written."""
    n = 2**25 // threads
    pairs = [(np.ones(n), np.zeros(n)) for _ in range(threads)]  # 8 bytes a number
    with ThreadPoolExecutor(threads) as pool:

        def copy() -> None:
            list(pool.map(lambda pair: np.copyto(pair[1], pair[0]), pairs))

        copy()
        spent = timed(copy, max(seconds, 0.2))["min_ms"]
    return 16e-9 * n * threads / (1e-3 * spent)


def multiply_add_rate(seconds: float) -> float:
    """GFLOP/s; BLAS has its threads from the environment of this process."""
    n = 2_048
    a, b = np.ones((n, n)), np.ones((n, n))
    out = np.empty((n, n))
    np.matmul(a, b, out=out)
    return 2e-9 * n**3 / (1e-3 * timed(lambda: np.matmul(a, b, out=out), seconds)["min_ms"])


def prepared(kernel: str, n: int) -> tuple[Callable[[], object], float, float]:
    """Call to time, its floating-point operations and its bytes."""
    system = water_of(n)
    x, p, cell = system["positions"], system["multipoles"], system["cell"]
    periodic = {"cell": cell, "pbc": True, "accuracy": ACCURACY}
    volume = float(np.linalg.det(cell))
    if kernel == "reciprocal sum, energy and gradients":
        # Along a column of k-vectors an amplitude of degree l is a polynomial of l + 1 complex coefficients,
        # times tables of cos and sin that serve +n3 and -n3: 4 (l + 1) operations per (k, atom) forward
        # and, with the gradient one degree higher, 4 (l + 2) back; l = 1.
        operations = n * wave_vectors(volume, 1.0, 1.0, 3) * (8 + 12)
        return lambda: electret.coulomb(x, p, method="reciprocal", **periodic), operations, 0.0
    if kernel == "reciprocal sum, features at fixed atoms":
        # Forward as above, back to two widths.
        operations = n * wave_vectors(volume, 1.0, 1.5, 3) * (8 + 2 * 8)
        fixed = electret.Geometry(x, method="reciprocal", **periodic)
        return lambda: fixed.features(p), operations, 0.0
    if kernel == "pair sum, energy and gradients":
        # Each pair once: tensors of erf(r)/r to rank 3 (30), potentials on both sides (2 · 28), forces (40);
        # erf and exp not counted.
        operations = 0.5 * n * n * 126.0
        return lambda: electret.coulomb(x, p, method="direct"), operations, 0.0
    if kernel == "mesh, energy and gradients":
        points = (np.cbrt(volume) / MESH_SPACING) ** 3
        # Two real transforms of 2.5 M log2 M; spreading charges and dipoles and gathering potentials with
        # two derivatives: 1, 3 and 6 products of splines, each a multiply-add of order³ points.
        operations = 2 * 2.5 * points * np.log2(points) + n * 2 * MESH_ORDER**3 * (4 + 10)
        # Written once, read and written by three passes of each transform, by the kernel, read once.
        moved = 8 * points * (1 + 2 * 6 + 2 + 1)
        return lambda: electret.coulomb(x, p, method="mesh", **periodic), operations, moved
    if kernel == "mesh and pairs, narrow charges":
        q = np.ascontiguousarray(p[:, :1])
        periodic["accuracy"] = NARROW_ACCURACY
        points, order, cutoff = narrow_plan(x, periodic)
        pairs = 0.5 * n * (n / volume) * 4 / 3 * np.pi * cutoff**3
        # As above, with 1 product of splines to spread and 4 to gather; a pair: 9 for the distance,
        # two erf-like functions from tables of degree 7 with their derivatives (40), forces and potentials
        # (14). Finding pairs: 8 for each of some 60 candidates around an atom and of 27 atoms in bins.
        operations = 2 * 2.5 * points * np.log2(points) + n * 2 * order**3 * 5 + pairs * 63 + n * 87 * 8
        # The mesh as above; indices of pairs are written and read, positions and results of images twice.
        moved = 8 * points * (1 + 2 * 6 + 2 + 1) + pairs * 2 * 4 + n * 8 * 4 * 12
        return lambda: electret.coulomb(x, q, NARROW, method="mesh", **periodic), operations, moved
    if kernel == "matrix of features":
        # Written once: [n_atoms · 2 widths · 4, n_atoms · 4].
        m = min(n, 768)
        small = water_of(m)
        arguments = {"cell": small["cell"], "pbc": True, "accuracy": ACCURACY}
        moved = 8.0 * (8 * m) * (4 * m)
        return lambda: electret.Geometry(small["positions"], **arguments).features_matrix(), 0.0, moved
    if kernel == "charge equilibration, dense":
        # LU of one row more than there are atoms, 2/3 n³; the matrix itself is not counted.
        m = min(n, 768)  # above 1,000 it is solved without a matrix
        small = water_of(m)
        arguments = {"cell": small["cell"], "pbc": True, "accuracy": ACCURACY}
        chi = np.tile([3.0, 0.0, 0.0], m // 3)
        return (
            lambda: electret.charge_equilibration(small["positions"], chi, 20.0, **arguments),
            2 / 3 * (m + 1.0) ** 3,
            0.0,
        )
    # i, j, shifts and vectors are written once; positions are in the cache.
    arrays = electret.neighbor_list("ijSD", x, cell, True, 6.0)
    moved = float(sum(array.nbytes for array in arrays))
    return lambda: electret.neighbor_list("ijSD", x, cell, True, 6.0), 0.0, moved


def narrow_plan(positions: np.ndarray, periodic: dict[str, Any]) -> tuple[float, int, float]:
    """Mesh points, order of the splines and cutoff of the pairs, Å."""
    geometry = electret.Geometry(positions, sigma=NARROW, max_l=0, widths=[], method="mesh", **periodic)
    plan = geometry.plans[0][0]
    found = re.search(r"order (\d+) on (\d+) × (\d+) × (\d+) points.* cutoff ([\d.]+) Å", plan)
    assert found is not None, plan
    order, *points = (int(found[k]) for k in range(1, 5))
    return float(np.prod(points)), order, float(found[5])


def wave_vectors(volume: float, source: float, receiver: float, degree: int) -> float:
    """Number of k-vectors with k² (source² + receiver²) / 2 below the exponent, ±k once, as in `plan.rs`."""
    exponent = target = 1.0 - np.log(ACCURACY)
    for _ in range(20):
        exponent = target + 0.5 * degree * np.log(exponent)
    cutoff = np.sqrt(2 * exponent / (source**2 + receiver**2))
    return 2 / 3 * np.pi * cutoff**3 * volume / (2 * np.pi) ** 3


def table(rows: list[Row]) -> str:
    measured = [row for row in rows if "missing" not in row]
    ceilings = {row["threads"]: row for row in measured if row["kernel"] == "machine"}
    machine = [(t, f"{row['copy_gb_s']:.1f}", f"{row['gflop_s']:.1f}") for t, row in ceilings.items()]
    lines = []
    for row in measured:
        if row["kernel"] == "machine":
            continue
        seconds = 1e-3 * row["min_ms"]
        flops, bandwidth = row["gflop"] / seconds, row["gb"] / seconds
        top = ceilings.get(row["threads"])
        fractions = (flops / top["gflop_s"], bandwidth / top["copy_gb_s"]) if top else (0.0, 0.0)
        lines.append(
            (
                row["kernel"],
                row["atoms"],
                row["threads"],
                ms(row["min_ms"]),
                f"{flops:.1f}" if flops else "",
                f"{bandwidth:.1f}" if bandwidth else "",
                f"{100 * max(fractions):.0f} %" if top else "",
                ("multiply-add" if fractions[0] >= fractions[1] else "copy") if top else "",
            )
        )
    head = ("threads", "copy / GB/s", "multiply-add / GFLOP/s")
    columns = ("kernel", "atoms", "threads", "min / ms", "GFLOP/s", "GB/s", "fraction", "of")
    return markdown(head, machine) + "\n\n" + markdown(columns, lines) + missing(rows, ("kernel", "threads"))
