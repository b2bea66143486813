"""Features at fixed atoms, and self-consistent solves with their gradients."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from fixed_atoms import FACTORS, of_electret, of_graph_longrange
from target_tables.memory import PeakMemory
from target_tables.options import Options
from target_tables.process import Row
from target_tables.report import against, error, markdown, megabytes, missing, ms, times
from timing import fastest

TITLE = "Features in an SCF loop: l ≤ 1, widths 1.5 and 3.0 Å, sigma 1.0 Å"
TEXT = """Periodic water. *One evaluation* is at fixed atoms (`electret.Geometry`), *50 mixed* is the
geometry and 50 evaluations with mixing. Error: relative RMS error of the features against accuracy
1e-12. The *ratio* is the peer's time over that of the fastest electret setting with at most its error:
of one evaluation, of 50 mixed. A *solve* is the affine `fixed_point` model of `scf_table.py` from its
learned parameters to the density (tolerance 1e-8, the faster of dense and matrix-free), *gradients* adds
implicit derivatives in positions and parameters, *training* the second derivatives of a loss of forces;
without the backbone."""

SIZES = (192, 768, 1_536, 5_184)
MIXED_UP_TO = 1_536
ACCURACIES = (1e-4, 1e-5, 1e-6, 1e-8)
HEADLINE_ERROR = 1e-6
EVALUATION_TARGETS = {192: 0.2, 768: 0.5, 1_536: 1.0}
MIXED_TARGETS = {192: 10.0, 768: 25.0}
SOLVE_TARGETS = {5_184: 300.0}
GRADIENTS_TARGETS = {192: 10.0, 768: 80.0}
"""ms; at 192 the stricter of 15 ms (against unrolled) and 10 ms (against a dense linearised solve)."""
SOLVERS = {"dense": 768, "krylov": 5_184}
"""Largest number of atoms for each."""


def cases(options: Options) -> list[Row]:
    limits = {"seconds": options.seconds, "method": options.method}
    found = []
    for n in options.sizes(*SIZES):
        found.append({"code": "electret", "atoms": n, **limits})
        found += [{"code": "graph-longrange", "atoms": n, "factor": f, **limits} for f in FACTORS]
        found += [
            {"code": "solve", "atoms": n, "solver": solver, **limits}
            for solver, most in SOLVERS.items()
            if n <= most
        ]
    return found


def measure(
    code: str, atoms: int, seconds: float, method: str, factor: float = 0.0, solver: str = ""
) -> Iterator[Row]:
    timer, mixing = partial(fastest, seconds=seconds, most=1000), atoms <= MIXED_UP_TO
    if code == "solve":
        yield solve(atoms, solver, partial(fastest, seconds=seconds))
        return
    if code == "graph-longrange":
        of_graph_longrange(24, partial(fastest, seconds=0), factor)
        memory = PeakMemory()
        row = of_graph_longrange(atoms, timer, factor, mixing)
        yield row | {"code": code, "settings": f"cutoff factor {factor:g}", "memory_mb": memory.megabytes()}
        return
    of_electret(24, partial(fastest, seconds=0), method=method)
    memory = PeakMemory()
    for accuracy in ACCURACIES:
        memory.restart()
        row = of_electret(atoms, timer, accuracy, method, mixing)
        yield row | {"code": code, "settings": f"accuracy {accuracy:g}", "memory_mb": memory.megabytes()}


def solve(atoms: int, solver: str, timer) -> Row:
    """Options of the affine fixed point."""
    from scf_table import Case, models, water_frame
    from scf_table import measure as measure_solve

    model = models([])["fixed_point, affine"]
    case = Case.of(model, water_frame(atoms), f"newton, {solver}")
    memory = PeakMemory()
    row = measure_solve(case, timer, newton=True)
    return {"code": "solve", "settings": solver, "memory_mb": memory.megabytes()} | row


def fastest_row(rows: list[Row], key: str, limit: float = float("inf")) -> Row | None:
    fit = [row for row in rows if key in row and row.get("error", 0.0) <= limit]
    return min(fit, default=None, key=lambda row: row[key])


def table(rows: list[Row]) -> str:
    measured = [row for row in rows if "missing" not in row]
    summary, details, solves = [], [], []
    for n in dict.fromkeys(row["atoms"] for row in rows):
        here = [row for row in measured if row["atoms"] == n]
        ours = [row for row in here if row["code"] == "electret"]
        own_solves = [row for row in here if row["code"] == "solve"]
        for name, key, targets, candidates in (
            ("one evaluation", "evaluation_ms", EVALUATION_TARGETS, ours),
            ("50 mixed", "mixed_ms", MIXED_TARGETS, ours),
            ("solve", "solve_ms", SOLVE_TARGETS, own_solves),
            ("solve and gradients", "gradients_ms", GRADIENTS_TARGETS, own_solves),
        ):
            best, target = fastest_row(candidates, key, HEADLINE_ERROR), targets.get(n)
            if best is not None or target is not None:
                value = best and best[key]
                settings = best["settings"] if best else ""
                summary.append((n, name, settings, ms(value), ms(target), against(value, target)))
        for row in here:
            if row["code"] == "solve":
                cells = [ms(row.get(key)) for key in ("solve_ms", "gradients_ms", "training_ms")]
                memory = megabytes(row["memory_mb"])
                solves.append((n, row["settings"], row["iterations"], row["unconverged"], *cells, memory))
                continue
            ratios = []
            for key in ("evaluation_ms", "mixed_ms"):
                mine = fastest_row(ours, key, row["error"])
                if row["code"] != "electret" and mine and key in row:
                    ratios.append(times(row[key] / mine[key]))
            details.append(
                (
                    n,
                    f"{row['code']}, {row['settings']}",
                    row["method"] if row["code"] == "electret" else "",
                    error(row["error"]),
                    *(ms(row.get(key)) for key in ("geometry_ms", "evaluation_ms", "mixed_ms")),
                    megabytes(row["memory_mb"]),
                    ", ".join(ratios),
                )
            )
    return "\n\n".join(
        (
            markdown(("atoms", "electret", "settings", "ms", "target / ms", ""), summary),
            markdown(
                (
                    "atoms",
                    "code",
                    "method",
                    "error",
                    "geometry / ms",
                    "one evaluation",
                    "50 mixed",
                    "memory / MB",
                    "ratios",
                ),
                details,
            ),
            markdown(
                (
                    "atoms",
                    "linear solver",
                    "iterations",
                    "unconverged",
                    "solve / ms",
                    "+ gradients",
                    "training",
                    "memory / MB",
                ),
                solves,
            ),
        )
    ) + missing(rows, ("code", "atoms", "factor", "solver"))
