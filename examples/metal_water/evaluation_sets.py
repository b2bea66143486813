"""Make the sets for the probes of the metal-water comparison, labelled with GFN1-xTB (tblite).

    python examples/metal_water/evaluation_sets.py --output examples/metal_water/data

`field_scan.xyz`: silver layers, a row of waters, and waters on silver in fields along z. `water_rows.xyz`:
polarisabilities of rows of waters. `slab_charges.xyz`: one slab at several charges, with Fermi levels.
`slab.xyz`: a thicker slab, not periodic along its normal and without labels, to put into a field.
`bare_slabs.xyz`: displaced slabs at several charges, and `long_rows.xyz`: rows of waters with
polarisabilities, both for training.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from arrangements import bare_slab, silver_and_waters, silver_layers, water_row
from ase import Atoms
from ase.io import write
from polarizabilities import add_polarizability
from rich.progress import track

sys.path.insert(0, str(Path(__file__).parents[1] / "demo_data"))
from labels import XTB, labelled
from structures import random_rotation

HEIGHT = 22.0
"""Cell of the labelled slabs along the normal, Å."""


def with_layers(frame: Atoms, source: Atoms) -> Atoms:
    """The frame with the layers of the structure that it was labelled from."""
    frame.arrays["layer"] = source.arrays["layer"].copy()
    return frame


def field_scan(fields: list[float], waters: int) -> list[Atoms]:
    """Three structures in each field along z (V/Å)."""
    structures = {
        "silver": silver_layers(3),
        "water": water_row(waters),
        "silver and water": silver_and_waters(2, waters // 2),
    }
    frames = []
    for name, atoms in structures.items():
        for field in track(fields, description=name):
            frame = labelled(atoms, XTB(0.0, (0.0, 0.0, field)), name, f"scan_{name}")
            frames.append(with_layers(frame, atoms))
    return frames


def water_rows(sizes: list[int]) -> list[Atoms]:
    """Rows of waters with their polarisabilities."""
    frames = []
    for size in track(sizes, description="rows of waters"):
        atoms = water_row(size)
        frame = labelled(atoms, XTB(), "water_row", f"row_{size}")
        add_polarizability(frame, 0.02)
        frames.append(frame)
    return frames


def long_rows(count: int, sizes: list[int], displacement: float, max_field: float, seed: int) -> list[Atoms]:
    """Displaced rows of waters in random orientations and fields (V/Å), with polarisabilities. In compact
    clusters a small flow of charge between molecules is masked by their own polarisability; in rows it
    grows with the square of their length."""
    rng = np.random.default_rng(seed)
    frames = []
    for number in track(range(count), description="long rows"):
        atoms = water_row(sizes[number % len(sizes)])
        atoms.positions += rng.normal(scale=displacement, size=atoms.positions.shape)
        atoms.positions = (atoms.positions - atoms.positions.mean(axis=0)) @ random_rotation(rng).T
        field = rng.uniform(0, max_field) * random_rotation(rng)[0]
        frame = labelled(atoms, XTB(0.0, field), "water_row", f"long_row_{number}")
        add_polarizability(frame, 0.02)
        frames.append(frame)
    return frames


def slab_charges(charges: list[float], layers: int) -> list[Atoms]:
    """The ideal slab at each charge (e)."""
    atoms = bare_slab((2, 2, layers), HEIGHT, periodic_normal=True)
    return [
        with_layers(labelled(atoms, XTB(charge), "slab", "slab"), atoms)
        for charge in track(charges, description="slab charges")
    ]


def bare_slabs(count: int, charges: list[float], displacement: float, seed: int) -> list[Atoms]:
    """Slabs of three to five layers with random displacements (Å), the charges taking turns."""
    rng = np.random.default_rng(seed)
    frames = []
    for number in track(range(count), description="bare slabs"):
        atoms = bare_slab((2, 2, 3 + number % 3), rng.uniform(18.0, 24.0), periodic_normal=True)
        atoms.positions += rng.normal(scale=displacement, size=atoms.positions.shape)
        charge = charges[number % len(charges)]
        frames.append(labelled(atoms, XTB(charge), "slab_bare", f"bare_{number}"))
    return frames


def write_sets(options: argparse.Namespace) -> None:
    """Make every set and write it to the folder."""
    slab = bare_slab((2, 2, options.field_layers), 30.0, periodic_normal=False)
    slab.info["config_type"] = "slab"
    sets = {
        "water_rows": lambda: water_rows(options.row_sizes),
        "slab_charges": lambda: slab_charges(options.slab_charges, options.layers),
        "slab": lambda: [slab],
        "bare_slabs": lambda: bare_slabs(
            options.bare_slabs, options.slab_charges, options.displacement, options.seed
        ),
        "long_rows": lambda: long_rows(
            options.long_rows,
            options.long_row_sizes,
            options.row_displacement,
            options.max_field,
            options.seed,
        ),
        "field_scan": lambda: field_scan(options.fields, options.waters),
    }
    options.output.mkdir(parents=True, exist_ok=True)
    for name, make in sets.items():
        frames = make()
        write(options.output / f"{name}.xyz", frames, format="extxyz")
        print(f"{name}: {len(frames)} frames")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument(
        "--fields", type=float, nargs="+", default=[-0.2, -0.1, -0.05, 0.0, 0.05, 0.1, 0.2], help="V/Å"
    )
    parser.add_argument("--waters", type=int, default=6, help="of the scan")
    parser.add_argument("--row-sizes", type=int, nargs="+", default=[1, 2, 3, 4, 6, 8, 12, 16, 24, 36, 48])
    parser.add_argument(
        "--slab-charges", type=float, nargs="+", default=[-1.0, -0.5, 0.0, 0.5, 1.0], help="e per cell"
    )
    parser.add_argument("--layers", type=int, default=4, help="of the slab that is charged")
    parser.add_argument("--field-layers", type=int, default=7, help="of the slab that is put into a field")
    parser.add_argument("--bare-slabs", type=int, default=25, help="frames for training")
    parser.add_argument("--long-rows", type=int, default=40, help="frames for training")
    parser.add_argument("--long-row-sizes", type=int, nargs="+", default=[2, 4, 8, 12, 24])
    parser.add_argument("--row-displacement", type=float, default=0.06, help="of their atoms, Å")
    parser.add_argument("--max-field", type=float, default=0.2, help="on them, V/Å")
    parser.add_argument("--displacement", type=float, default=0.12, help="of their atoms, Å")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    write_sets(options)


if __name__ == "__main__":
    main()
