"""Full neighbour lists with shifts and vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

import electret
from target_tables.options import Options
from target_tables.process import Row, attempt
from target_tables.report import against, markdown, missing, ms, times
from timing import timed
from water import water_of

TITLE = "Neighbour list: full, with shifts and vectors, 6 Å"
TEXT = """Periodic water; i, j, shifts and vectors of every code, the same number of pairs. *no copy*:
vesin's arrays are overwritten by its next call, while electret's and the other ones belong to the
caller. *default* is vesin's own number of threads, which follows OMP_NUM_THREADS here. matscipy has one
thread. The ratio is to electret."""

SIZES = (192, 12_288, 98_304)
CUTOFF = 6.0
TARGETS = {192: 0.15, 12_288: 8.0, 98_304: 70.0}
"""ms."""
CODES = ("electret", "vesin, no copy", "vesin, default", "matscipy")


def cases(options: Options) -> list[Row]:
    return [
        {"atoms": n, "seconds": options.seconds, "threads": options.threads} for n in options.sizes(*SIZES)
    ]


def measure(atoms: int, seconds: float, threads: int) -> Iterator[Row]:
    system = water_of(atoms)
    n_pairs = len(electret.neighbor_list("i", system["positions"], system["cell"], True, CUTOFF))
    for code in CODES:

        def row(code: str = code) -> Row:
            find = finder(code, system["positions"], system["cell"], threads)
            found = len(find()[0])
            if found != n_pairs:
                raise ValueError(f"{found} pairs instead of {n_pairs}")
            return {"pairs": found} | timed(find, seconds)

        yield attempt({"code": code}, row)


def finder(code: str, positions: np.ndarray, cell: np.ndarray, threads: int) -> Callable[[], tuple]:
    if code == "electret":
        return lambda: electret.neighbor_list("ijSD", positions, cell, True, CUTOFF)
    if code == "matscipy":
        from matscipy.neighbours import neighbour_list

        pbc = np.array([True, True, True])
        return lambda: neighbour_list("ijSD", positions=positions, cell=cell, pbc=pbc, cutoff=CUTOFF)
    from vesin import NeighborList

    no_copy = code == "vesin, no copy"
    calculator = NeighborList(cutoff=CUTOFF, full_list=True, **({"n_threads": threads} if no_copy else {}))
    return lambda: calculator.compute(positions, cell, True, "ijSD", copy=not no_copy)


def table(rows: list[Row]) -> str:
    lines = []
    for n in dict.fromkeys(row["atoms"] for row in rows):
        here = {row["code"]: row for row in rows if row["atoms"] == n and "missing" not in row}
        ours = here.get("electret")
        for code, row in here.items():
            target = TARGETS.get(n) if code == "electret" else None
            lines.append(
                (
                    n,
                    f"{row['pairs']:,}",
                    code,
                    ms(row["min_ms"]),
                    ms(row["median_ms"]),
                    ms(row["cpu_ms"]),
                    times(row["min_ms"] / ours["min_ms"]) if ours and row is not ours else "",
                    ms(target),
                    against(row["min_ms"], target),
                )
            )
    columns = ("atoms", "pairs", "code", "min / ms", "median", "CPU", "ratio", "target / ms", "")
    return markdown(columns, lines) + missing(rows, ("atoms", "code"))
