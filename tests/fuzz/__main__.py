"""`python -m fuzz`: generated calls for some minutes; exit status 1 where one ended badly."""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from fuzz import watch


def main(arguments: list[str] | None = None) -> int:
    """Runs the areas one after the other, each in the given number of processes."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=watch.__doc__)
    parser.add_argument("--area", choices=watch.AREAS, action="append", help="default: all")
    parser.add_argument("--minutes", type=float, default=10.0, help="for all areas together")
    parser.add_argument("--cases", type=int, help="of each area and process, in place of a time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes of each area")
    parser.add_argument("--case", type=int, help="run this one case here, with its traceback")
    options = parser.parse_args(arguments)
    areas = options.area or list(watch.AREAS)
    if options.case is not None:
        description, call = watch.make(areas[0], options.seed, options.case)
        print(description)
        print(watch.outcome(call))
        return 0
    seconds = float("inf") if options.cases else 60.0 * options.minutes / len(areas)
    found = 0
    print(f"{'area':14s} {'cases':>9s} {'results':>9s} {'refused':>9s} {'findings':>9s} {'s':>6s}")
    for area in areas:
        start = time.monotonic()
        with ThreadPoolExecutor(options.jobs) as pool:
            reports = list(
                pool.map(
                    lambda job, area=area: watch.run(area, options.seed + job, 0, options.cases, seconds),
                    range(options.jobs),
                )
            )
        cases = sum(report.cases for report in reports)
        results, refused = (sum(r.outcomes[kind] for r in reports) for kind in ("result", "refused"))
        findings = [finding for report in reports for finding in report.findings]
        found += len(findings)
        elapsed = time.monotonic() - start
        print(
            f"{area:14s} {cases:9d} {results:9d} {refused:9d} {len(findings):9d} {elapsed:6.0f}", flush=True
        )
        for finding in findings:
            print(finding, flush=True)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
