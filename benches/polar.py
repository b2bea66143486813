"""Time and memory of MACE-POLAR-1: energy and forces by graph-longrange 0.4.0 and by electret.

``RAYON_NUM_THREADS=1 OMP_NUM_THREADS=1 python benches/polar.py`` writes ``benches/results/polar.md``. One
model with random weights and a small backbone (16 channels), so that the electrostatics show; a larger one
adds the same time to every row. Each cell is a process of its own: the least CPU time of some calls, and what
the peak of its memory grew by. ``--largest`` adds the crystals of 1,536 and 5,184 atoms, and graph-longrange
for the alkane away from the origin, which takes more than 9 GB.

graph-longrange 0.4.0 lies beside the version of the peers: ``make test-python`` brings it, or set
``GRAPH_LONGRANGE_0_4_0`` to a folder of ``pip install --target``.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from ase import Atoms
from ase.build import molecule

from machine import machine, versions
from scf_table import water_frame
from timing import fastest

RESULTS = Path(__file__).parent / "results" / "polar.md"
CODES = ("graph-longrange", "exact", "as_trained")


def crystal(times: int) -> Atoms:
    """The water box of 192 atoms, repeated."""
    return water_frame(192).repeat(times)


def slab() -> Atoms:
    """The molecules in the lower half of the water box, with vacuum along z."""
    atoms = water_frame(192)
    atoms.wrap()
    oxygens = np.flatnonzero(atoms.numbers == 8)
    lowest = oxygens[np.argsort(atoms.positions[oxygens, 2])[:32]]
    hydrogens = np.flatnonzero(atoms.numbers == 1)
    vectors = atoms.get_all_distances(mic=True, vector=True)
    found = []
    for oxygen in lowest:
        near = hydrogens[np.argsort(np.linalg.norm(vectors[oxygen, hydrogens], axis=1))[:2]]
        found.append(atoms.positions[oxygen] + np.vstack([np.zeros(3), vectors[oxygen, near]]))
    cell = atoms.cell.array.copy()
    cell[2] *= 2.0
    return Atoms("OHH" * 32, np.concatenate(found), cell=cell, pbc=[True, True, False])


def alkane(shift: float) -> Atoms:
    """C19H40, straight, `shift` Å away from the origin."""
    n = 19
    carbons = np.array([[1.27 * k, 0.42 * (-1) ** k, 0.0] for k in range(n)])
    numbers, positions = [6] * n, list(carbons)
    for k in range(n):
        for side in (-1, 1):
            positions.append(carbons[k] + [0.0, 0.63 * (-1) ** k, 0.89 * side])
    for end, outward in ((0, -1), (n - 1, 1)):
        positions.append(carbons[end] + [0.9 * outward, -0.6 * (-1) ** end, 0.0])
    numbers += [1] * (len(positions) - n)
    return Atoms(numbers, np.array(positions) + shift / np.sqrt(3))


SYSTEMS: dict[str, Callable[[], Atoms]] = {
    "crystal, 192 atoms": lambda: crystal(1),
    "crystal, 1536 atoms": lambda: crystal(2),
    "crystal, 5184 atoms": lambda: crystal(3),
    "slab, 96 atoms": slab,
    "C60": lambda: molecule("C60"),
    "alkane, 59 atoms": lambda: alkane(0.0),
    "alkane, 15 Å away": lambda: alkane(15.0),
}
FAR = "alkane, 15 Å away"
LARGEST = ("crystal, 1536 atoms", "crystal, 5184 atoms")


def measured(system: str, code: str, seconds: float) -> dict[str, float]:
    """CPU time in ms, growth of the memory in MB, largest force in eV/Å."""
    import electret.polar
    import polar_models
    from electret.models.hosted import o3

    channels = {
        "hidden_irreps": o3.Irreps("16x0e+16x1o"),
        "MLP_irreps": o3.Irreps("16x0e"),
        "radial_MLP": [32],
    }
    changes: dict[str, Any] = {
        **channels,
        "r_max": 4.0,
        "atomic_numbers": [1, 6, 8],
        "field_si": False,
        "kspace_cutoff_factor": 1.5,
    }
    peer = polar_models.peer()
    model = peer.model(**changes)
    forward: Callable[..., Any] = partial(peer.forward, model)
    if code != "graph-longrange":
        forward = electret.polar.accelerate(model, code, accuracy=1e-7)
    data = polar_models.mace_batch(model, polar_models.under(SYSTEMS[system]()))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(3):  # TorchScript compiles in the first calls
        forces = forward(dict(data))["forces"].abs().max()
    least = fastest(lambda: forward(dict(data)), seconds, clock=time.process_time)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"ms": least, "mb": (after - before) / 1024, "forces": float(forces)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--largest", action="store_true", help="cases of more than 4 GB too")
    parser.add_argument("--seconds", type=float, default=3.0, help="time of the repeats of a cell")
    parser.add_argument("--one", nargs=2, metavar=("SYSTEM", "CODE"), help="print one cell as JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measured(*options.one, options.seconds)))
        return
    rows = []
    for system in SYSTEMS:
        if system in LARGEST and not options.largest:
            continue
        cells = {}
        for code in CODES:
            cells[code] = None
            if (system, code) == (FAR, "graph-longrange") and not options.largest:
                continue
            command = [sys.executable, __file__, "--seconds", str(options.seconds), "--one", system, code]
            answer = subprocess.run(command, capture_output=True, text=True)
            last = (answer.stdout.strip().splitlines() or [""])[-1]
            cells[code] = json.loads(last) if answer.returncode == 0 else None
            print(system, code, cells[code] or answer.stderr.strip().splitlines()[-1:], flush=True)
        rows.append((system, cells))
    RESULTS.write_text(report(rows), encoding="utf-8")


def report(rows: list[tuple[str, dict[str, Any]]]) -> str:
    """The table, with the machine."""
    place = machine()
    lines = [
        "# MACE-POLAR-1: energy and forces",
        "",
        f"{place['time']}, {place['cpu']}, rayon threads: {place['rayon_threads']}, torch threads: "
        f"{place['openmp_threads']}, Python {place['python']}, {versions()}; load average "
        f"{place['load_before']}; CPU time of the process. `{place['command']}`.",
        "",
        "| system | graph-longrange 0.4.0, ms | exact, ms | as_trained, ms "
        "| graph-longrange, MB | exact, MB | as_trained, MB | time, exact |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for system, cells in rows:
        times = [f"{cells[code]['ms']:.0f}" if cells[code] else "not run" for code in CODES]
        memory = [f"{cells[code]['mb']:.0f}" if cells[code] else "not run" for code in CODES]
        both = cells["graph-longrange"] and cells["exact"]
        ratio = f"{cells['graph-longrange']['ms'] / cells['exact']['ms']:.1f} ×" if both else ""
        lines.append(f"| {' | '.join([system, *times, *memory, ratio])} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
