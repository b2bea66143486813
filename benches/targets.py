"""Measures every row of the table of targets, electret and its peers in the same run.

``python benches/targets.py`` measures all tables, ``--only electrostatics features`` some of them; the others
keep what `benches/results/targets.json` has. `benches/results/targets.md` shows all, with targets, ratios
to the peers, and misses. Peers that are not installed are listed as such; the extras `peers` and `bench`
have them. Every case runs in a process of its own. On a machine with other load only ratios mean anything.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from machine import machine, versions
from target_tables import SECTIONS
from target_tables.options import Options
from target_tables.process import run

RESULTS = Path(__file__).parent / "results" / "targets.json"


def measured(name: str, options: Options) -> dict:
    """One section: what it ran on, and its rows."""
    begin = time.monotonic()
    about = machine() | {"versions": versions(), "options": asdict(options)}
    section = import_module(f"target_tables.{name}")
    rows = []
    for case in section.cases(options):
        label = ", ".join(f"{value}" for value in case.values() if not isinstance(value, (list, dict)))
        print(f"[{time.monotonic() - begin:5.0f} s] {name}: {label}", flush=True)
        for row in run(name, case, options):
            rows.append(row)
            if "missing" in row:
                print(f"    not measured: {row['missing']}", flush=True)
    about["load_after"] = round(os.getloadavg()[0], 1)
    about["seconds"] = round(time.monotonic() - begin)
    return {"machine": about, "rows": rows}


def write(document: dict, path: Path) -> None:
    """JSON with one row per line, and the report beside it."""
    path.parent.mkdir(exist_ok=True)
    parts = []
    for name, section in document.items():
        rows = ",\n".join("   " + json.dumps(row) for row in section["rows"])
        about = json.dumps(section["machine"])
        parts.append(f' "{name}": {{\n  "machine": {about},\n  "rows": [\n{rows}\n  ]\n }}')
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n")
    path.with_suffix(".md").write_text(report(document, path))


def report(document: dict, path: Path) -> str:
    lines = [
        "# Targets",
        "",
        "Written by `python benches/targets.py`; float64 unless said, times in ms of wall clock, minimum "
        "over repeats, warm-up left out. Targets: `TARGETS` in the modules of `benches/target_tables`.",
    ]
    for name in SECTIONS:
        if name not in document:
            continue
        section = import_module(f"target_tables.{name}")
        m = document[name]["machine"]
        found = ", ".join(f"{package} {version}" for package, version in m["versions"].items())
        lines += [
            "",
            f"## {section.TITLE}",
            "",
            section.TEXT,
            "",
            f"{m['time']}, {m['cpu']}, {m['cores']} logical cores, {m['options']['threads']} threads; load "
            f"average {m['load_before']} before and {m['load_after']} after; {m['seconds']} s; Python "
            f"{m['python']}, {found}. `{m['command']}`",
            "",
            section.table(document[name]["rows"]),
        ]
        if hasattr(section, "plot"):
            picture = path.with_name(f"targets_{name}.png")
            if section.plot(document, picture):
                lines += ["", f"![{section.TITLE}]({picture.name})"]
    return "\n".join(lines) + "\n"


def free_memory_gb() -> float:
    """80 % of what is available now; 0 (no limit) where that is unknown."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0.0
    kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    return round(0.8e-6 * kilobytes * 1.024, 1)


def main(arguments: list[str] | None = None) -> None:
    default = Options()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS, help="tables to measure")
    parser.add_argument("--max-atoms", type=int, default=default.max_atoms)
    parser.add_argument("--seconds", type=float, default=default.seconds, help="of repeats per entry")
    parser.add_argument("--timeout", type=float, default=default.timeout, help="seconds per case")
    parser.add_argument("--memory-gb", type=float, default=free_memory_gb(), help="per case; 0: no limit")
    parser.add_argument("--threads", type=int, default=default.threads)
    parser.add_argument("--method", default=default.method, help="of electret")
    parser.add_argument("--million", action="store_true", help="one million atoms in `scaling`")
    parser.add_argument("--auto-seconds", type=float, default=default.auto_seconds, help="for `auto`")
    parser.add_argument("--output", type=Path, default=RESULTS, help="JSON; the report goes beside it")
    parser.add_argument("--report-only", action="store_true", help="write the report of the JSON again")
    given = vars(parser.parse_args(arguments))
    only, path, report_only = (given.pop(key) for key in ("only", "output", "report_only"))
    options = Options(**given)
    document = json.loads(path.read_text()) if path.exists() else {}
    for name in () if report_only else only:
        document[name] = measured(name, options)
        write({name: document[name] for name in SECTIONS if name in document}, path)
    write({name: document[name] for name in SECTIONS if name in document}, path)
    print(path.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
