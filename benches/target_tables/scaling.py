"""Times and memory against the number of atoms."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

import electret
from target_tables.memory import PeakMemory
from target_tables.options import Options
from target_tables.process import Row
from target_tables.report import against, markdown, megabytes, missing, ms
from timing import timed
from water import water_of

TITLE = "Scaling of electret"
TEXT = """Periodic water, one process per entry. *energy*: energy and gradients, l ≤ 1, sigma 1.0 Å,
accuracy 1e-6; *features*: geometry and one evaluation (l ≤ 1, widths 1.5 and 3.0 Å, accuracy 1e-6); *at
fixed atoms*: the evaluation alone; *neighbours*: full list, 6 Å, i, j, shifts, vectors. The exponent is
that of time between this size and the one before."""

SIZES = (192, 1_536, 5_184, 12_288, 41_472, 98_304)
MILLION = 998_784
TASKS = ("energy", "features", "neighbours")
TARGETS = {
    ("energy", 192): 0.5,
    ("energy", 1_536): 2.0,
    ("energy", 5_184): 6.0,
    ("energy", 12_288): 12.0,
    ("energy", 98_304): 150.0,
    ("neighbours", 192): 0.15,
    ("neighbours", 12_288): 8.0,
    ("neighbours", 98_304): 70.0,
    ("at fixed atoms", 192): 0.2,
    ("at fixed atoms", 768): 0.5,
    ("at fixed atoms", 1_536): 1.0,
}
"""ms."""
ACCURACY = 1e-6


def cases(options: Options) -> list[Row]:
    sizes = options.sizes(*SIZES) + ([MILLION] if options.million else [])
    limits = {"seconds": options.seconds, "method": options.method}
    return [{"task": task, "atoms": n, **limits} for task in TASKS for n in sizes]


def measure(task: str, atoms: int, seconds: float, method: str) -> Iterator[Row]:
    def function(system):
        p, common = system["multipoles"], {"accuracy": ACCURACY, "method": method}
        geometry = {"positions": system["positions"], "cell": system["cell"], "pbc": True}
        if task == "energy":
            return lambda: electret.coulomb(**geometry, multipoles=p, sigma=1.0, **common)
        if task == "neighbours":
            return lambda: electret.neighbor_list("ijSD", **geometry, cutoff=6.0)
        return lambda: electret.features(**geometry, multipoles=p, widths=[1.5, 3.0], **common)

    function(water_of(24))()
    system = water_of(atoms)
    memory = PeakMemory()
    memory.restart()
    run = function(system)
    run()
    yield {"memory_mb": memory.megabytes()} | timed(run, seconds)
    if task == "features":
        p = system.pop("multipoles")
        fixed = electret.Geometry(**system, pbc=True, accuracy=ACCURACY, method=method)
        fixed.features(p)
        yield {"task": "at fixed atoms", "memory_mb": memory.megabytes()} | timed(
            lambda: fixed.features(p), seconds
        )


def table(rows: list[Row]) -> str:
    lines = []
    measured = [row for row in rows if "missing" not in row]
    for task in dict.fromkeys(row["task"] for row in measured):
        before = None
        for row in (row for row in measured if row["task"] == task):
            exponent = ""
            if before is not None:
                growth = np.log(row["min_ms"] / before["min_ms"]) / np.log(row["atoms"] / before["atoms"])
                exponent = f"{growth:.2f}"
            target = TARGETS.get((task, row["atoms"]))
            lines.append(
                (
                    task,
                    f"{row['atoms']:,}",
                    ms(row["min_ms"]),
                    ms(row["median_ms"]),
                    ms(row["cpu_ms"]),
                    f"{1e3 * row['min_ms'] / row['atoms']:.2g}",
                    exponent,
                    megabytes(row["memory_mb"]),
                    ms(target),
                    against(row["min_ms"], target),
                )
            )
            before = row
    columns = (
        "task",
        "atoms",
        "min / ms",
        "median",
        "CPU",
        "µs per atom",
        "exponent",
        "memory / MB",
        "target / ms",
        "",
    )
    return markdown(columns, lines) + missing(rows, ("task", "atoms"))


def plot(document: dict, path: Path) -> bool:
    """Log-log plot with targets, and the peers of the electrostatics where those were measured."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = FigureCanvasAgg(figure).figure.subplots()
    measured = [row for row in document["scaling"]["rows"] if "missing" not in row]
    for task in dict.fromkeys(row["task"] for row in measured):
        points = sorted((row["atoms"], row["min_ms"]) for row in measured if row["task"] == task)
        (line,) = axes.plot(*zip(*points, strict=True), "o-", label=f"electret, {task}")
        goals = sorted((n, value) for (name, n), value in TARGETS.items() if name == task)
        if goals:
            axes.plot(*zip(*goals, strict=True), "_", color=line.get_color(), markersize=14)
    for name, points in peers(document).items():
        axes.plot(*zip(*sorted(points), strict=True), "x:", label=f"{name}, energy")
    axes.set(xscale="log", yscale="log", xlabel="atoms", ylabel="time / ms", title="targets: bars")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=150)
    return True


def peers(document: dict) -> dict[str, list[tuple[int, float]]]:
    """Times of the peers for energy and gradients at sigma 1.0 Å."""
    found: dict[str, list[tuple[int, float]]] = {}
    for row in document.get("electrostatics", {}).get("rows", []):
        if row["code"] != "electret" and "missing" not in row and row["sigma"] == 1.0 and row["systems"] == 1:
            found.setdefault(f"{row['code']}, {row['settings']}", []).append((row["atoms"], row["min_ms"]))
    return {name: points for name, points in found.items() if len(points) > 1}
