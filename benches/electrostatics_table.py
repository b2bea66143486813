"""Turns the JSON of ``pytest benches/test_electrostatics.py --benchmark-json=out.json`` into a table of
ratios.

``python benches/electrostatics_table.py out.json`` writes ``benches/results/electrostatics.md``. On a machine
with other load wall times of threaded codes mean little: give both codes one thread (RAYON_NUM_THREADS=1
OMP_NUM_THREADS=1, for both commands) and ``--benchmark-timer=time.process_time``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections import defaultdict
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "electrostatics.md"


def machine(info: dict) -> str:
    cpu = info.get("cpu", {})
    threads = os.environ.get("RAYON_NUM_THREADS", "all")
    torch_threads = os.environ.get("OMP_NUM_THREADS", "all")
    return (
        f"{cpu.get('brand_raw', platform.processor())}, {cpu.get('count', os.cpu_count())} logical cores, "
        f"rayon threads: {threads}, torch threads: {torch_threads}, "
        f"Python {info.get('python_version')}, load average at the end {os.getloadavg()[0]:.1f}"
    )


def table(document: dict) -> str:
    groups = defaultdict(list)
    for entry in document["benchmarks"]:
        extra = entry["extra_info"]
        groups[extra["task"], extra["sigma"], extra["n_atoms"]].append(entry)
    timer = document["benchmarks"][0]["options"]["timer"]
    lines = [
        "# Electrostatics benchmark",
        "",
        f"{document['datetime'][:16]}, {machine(document['machine_info'])}, timer: {timer}.",
        "Periodic water-like systems, multipoles l <= 1, f64. Minimum over rounds; the ratio is to the "
        "fastest electret entry of the group. Force error: relative L2, against electret at accuracy 1e-12.",
        "",
        "| task | sigma / Å | atoms | code | min / ms | median / ms | ratio | force error |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (task, sigma, n), entries in sorted(groups.items()):
        ours = [e["stats"]["min"] for e in entries if e["extra_info"]["code"].startswith("electret")]
        for entry in sorted(entries, key=lambda e: e["stats"]["min"]):
            extra, stats = entry["extra_info"], entry["stats"]
            error = f"{extra['force_error']:.1e}" if "force_error" in extra else ""
            ratio = f"{stats['min'] / min(ours):.1f}" if ours else ""
            lines.append(
                f"| {task} | {sigma} | {n} | {extra['code']} | {1e3 * stats['min']:.3f} | "
                f"{1e3 * stats['median']:.3f} | {ratio} | {error} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("json", type=Path)
    document = json.loads(parser.parse_args().json.read_text())
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(table(document))
    print(RESULTS.read_text())


if __name__ == "__main__":
    main()
