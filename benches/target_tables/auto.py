"""Choice of the method against the fastest one, over a grid of cases."""

from __future__ import annotations

import json
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np

import electret
from target_tables.options import Options
from target_tables.process import Row
from target_tables.report import markdown, missing, ms, times
from water import water_of

TITLE = "Choice of method: auto against the best"
TEXT = """Water along periodic, slab (x, y), wire (x) and open boundaries; every method that serves a
case, at the same requested accuracy. *energy*: energy and gradients; *features*: one evaluation with its
geometry (widths 1.5 and 3.0 Å); *loop*: `Geometry` and 20 evaluations of its features. The grid is
measured in random order as far as its time goes. A method that is hopeless according to smaller sizes (4
times the fastest, or 1.5 s) is left out. Ratios above the target are measured again. Raw times are in
`targets.json`."""

BOUNDARIES = {
    "xyz": [True, True, True],
    "xy": [True, True, False],
    "x": [True, False, False],
    "": [False] * 3,
}
SIZES = (24, 192, 768, 1_536, 5_184, 12_288)
SIGMAS = (0.3, 1.0, 2.0)
ORDERS = (0, 1, 2)
ACCURACIES = (1e-4, 1e-6, 1e-8)
TASKS = ("energy", "features", "loop")
METHODS = ("auto", "direct", "reciprocal", "ewald", "mesh")
LIMIT_MS, HOPELESS = 1500.0, 4.0
"""Methods predicted to take longer than this, or than this many times the fastest one, are left out."""
LOOPS = 20
TARGET = 1.3


def cases(options: Options) -> list[Row]:
    sizes = options.sizes(*SIZES)
    return [
        {
            "boundary": boundary,
            "sizes": sizes,
            "budget": options.auto_seconds / len(BOUNDARIES),
            "seconds": 0.1 * options.seconds,
            "timeout": options.auto_seconds / len(BOUNDARIES) + options.timeout,
        }
        for boundary in BOUNDARIES
    ]


def measure(boundary: str, sizes: list[int], budget: float, seconds: float) -> Iterator[Row]:
    deadline = time.monotonic() + budget
    groups = list(product(SIGMAS, ORDERS, ACCURACIES, TASKS))
    np.random.default_rng(0).shuffle(groups)
    unavailable: dict[str, str] = {}
    for sigma, order, accuracy, task in groups:
        sigma, order, accuracy = float(sigma), int(order), float(accuracy)
        case = {"sigma": sigma, "max_l": order, "accuracy": accuracy, "task": str(task)}
        for row in group(boundary, sizes, case, seconds, unavailable, deadline):
            yield case | row
        if time.monotonic() > deadline:
            break
    for method, reason in unavailable.items():
        yield {"method": method, "missing": reason}


def group(
    boundary: str,
    sizes: list[int],
    case: Row,
    seconds: float,
    unavailable: dict[str, str],
    deadline: float,
) -> Iterator[Row]:
    """All methods and sizes of one case, from small to large."""
    history: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for n in sizes:
        if time.monotonic() > deadline:
            return
        system = {**multipoles_of(n, case["max_l"]), "pbc": BOUNDARIES[boundary]}
        expected = {method: predicted(history[method], n) for method in METHODS}
        tried = [method for method in METHODS if method not in unavailable]
        fastest = min(expected[method] for method in tried)
        runs = {}
        for method in tried:
            if expected[method] > min(LIMIT_MS, max(HOPELESS * fastest, 1.0)):
                continue
            run = task_of(case, system, method)
            try:
                run()
            except electret.InputError as error:
                if any(word in str(error) for word in ("unknown", "open system")):
                    unavailable[method] = str(error)[:150]
                continue
            runs[method] = run
        best = in_turn(runs, seconds)
        if len(best) > 1 and best.get("auto", 0.0) > TARGET * min(best.values()):
            again = in_turn(runs, 5 * seconds)  # it may have been other load
            best = {method: min(spent, again[method]) for method, spent in best.items()}
        for method, spent in best.items():
            history[method].append((n, spent))
            yield {"atoms": n, "method": method, "ms": round(spent, 4)}


def in_turn(runs: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Minimum times in ms. The methods take turns, so that other load meets all of them, in random order, so
    that none always finds the caches as another one leaves them."""
    best = dict.fromkeys(runs, float("inf"))
    turns = random.Random(0)
    begin, rounds = time.perf_counter(), 0
    while rounds < 1 or (time.perf_counter() - begin < seconds * len(runs) and rounds < 200):
        for method, run in turns.sample(list(runs.items()), len(runs)):
            start = time.perf_counter()
            run()
            best[method] = min(best[method], 1e3 * (time.perf_counter() - start))
        rounds += 1
    return best


def multipoles_of(n: int, max_l: int) -> dict[str, Any]:
    system = water_of(n)
    p = system["multipoles"]
    if max_l == 2:
        p = np.hstack([p, np.random.default_rng(0).normal(scale=0.05, size=(n, 5))])
    system["multipoles"] = np.ascontiguousarray(p[:, : (max_l + 1) ** 2])
    return system


def predicted(history: list[tuple[int, float]], n: int) -> float:
    """From the growth between the last two sizes, or quadratic."""
    if not history:
        return 0.0
    last, spent = history[-1]
    exponent = 2.0
    if len(history) > 1:
        before, less = history[-2]
        exponent = min(max(np.log(spent / less) / np.log(last / before), 1.0), 2.5)
    return spent * (n / last) ** exponent


def task_of(case: Row, system: dict[str, Any], method: str) -> Callable[[], object]:
    settings = {"sigma": case["sigma"], "accuracy": case["accuracy"], "method": method}
    if case["task"] == "energy":
        return lambda: electret.coulomb(**system, **settings)
    if case["task"] == "features":
        return lambda: electret.features(**system, **settings, widths=[1.5, 3.0], features_max_l=1)
    p = system["multipoles"]
    geometry = {key: value for key, value in system.items() if key != "multipoles"}

    def loop() -> None:
        fixed = electret.Geometry(
            **geometry, **settings, widths=[1.5, 3.0], max_l=case["max_l"], features_max_l=1
        )
        for _ in range(LOOPS):
            fixed.features(p)

    return loop


def table(rows: list[Row]) -> str:
    measured: dict[str, dict[str, float]] = defaultdict(dict)
    for row in rows:
        if "missing" not in row:
            names = ("boundary", "task", "atoms", "sigma", "max_l", "accuracy")
            measured[json.dumps([row[name] for name in names])][row["method"]] = row["ms"]
    ratios = []
    for key, found in measured.items():
        others = {method: spent for method, spent in found.items() if method != "auto"}
        if "auto" in found and others:
            best = min(others, key=lambda method: others[method])
            ratios.append((found["auto"] / others[best], json.loads(key), found["auto"], best, others[best]))
    if not ratios:
        return "Nothing measured." + missing(rows, ("boundary", "method"))
    summary = []
    for boundary in BOUNDARIES:
        for task in TASKS:
            here = sorted(entry[0] for entry in ratios if entry[1][0] == boundary and entry[1][1] == task)
            if here:
                late = sum(ratio > TARGET for ratio in here)
                cells = (times(np.median(here)), times(here[int(0.95 * (len(here) - 1))]), times(here[-1]))
                verdict = "met" if late == 0 else f"**missed in {late}**"
                summary.append((boundary, task, len(here), *cells, f"{TARGET:g} ×", verdict))
    worst = sorted(ratios, key=lambda entry: -entry[0])[:20]
    columns = ("boundary", "task", "cases", "median", "95 %", "max of auto / best", "target", "")
    head = (
        "auto / best",
        "boundary",
        "task",
        "atoms",
        "sigma / Å",
        "l",
        "accuracy",
        "auto / ms",
        "best",
        "best / ms",
    )
    lines = [
        (times(r), key[0], *key[1:5], f"{key[5]:g}", ms(auto), best, ms(spent))
        for r, key, auto, best, spent in worst
    ]
    return (
        markdown(columns, summary)
        + "\n\nThe worst:\n\n"
        + markdown(head, lines)
        + missing(rows, ("boundary", "method"))
    )
