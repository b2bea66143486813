"""Boxes of 24 waters at 1 g/cm³ from Langevin dynamics with GFN1-xTB; energies, forces, stress, charges.

python examples/bulk_water/generate.py --output examples/bulk_water/data
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.io import write
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

sys.path.append(str(Path(__file__).parents[1] / "demo_data"))

from labels import XTB, labelled

VOLUME = 29.92
"""Å³ per molecule."""
GRID = (2, 3, 4)


def box(rng: np.random.Generator) -> Atoms:
    """Molecules of random orientation on a grid, shifted a little."""
    spacing = VOLUME ** (1 / 3)
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in GRID], indexing="ij"), axis=-1).reshape(-1, 3)
    positions = []
    for center in (grid + 0.5) * spacing + rng.uniform(-0.2, 0.2, (len(grid), 3)):
        first, other = rng.normal(size=(2, 3))
        first /= np.linalg.norm(first)
        other = np.cross(first, other)
        other /= np.linalg.norm(other)
        second = np.cos(np.radians(104.5)) * first + np.sin(np.radians(104.5)) * other
        positions += [center, center + 0.96 * first, center + 0.96 * second]
    return Atoms("OHH" * len(grid), positions, cell=np.array(GRID) * spacing, pbc=True)


def trajectory(chain: int, temperature: float, n_frames: int, interval: int) -> list[Atoms]:
    """Labelled frames every `interval` fs, after ten times that to settle."""
    rng = np.random.default_rng(chain)
    atoms = box(rng)
    atoms.calc = XTB()
    MaxwellBoltzmannDistribution(atoms, temperature_K=temperature, rng=rng)
    dynamics = Langevin(
        atoms, units.fs, temperature_K=temperature, friction=0.05 / units.fs, rng=rng, fixcm=False
    )
    dynamics.run(10 * interval)
    frames = []
    for _ in range(n_frames):
        dynamics.run(interval)
        frames.append(labelled(atoms, atoms.calc, "water", chain))
    return frames


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--temperatures", type=float, nargs="+", default=[300.0, 350.0, 450.0])
    parser.add_argument("--frames", type=int, default=30, help="of each trajectory; the last one validates")
    parser.add_argument("--interval", type=int, default=8, help="fs between frames")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    sets: dict[str, list[Atoms]] = {"train": [], "valid": []}
    for chain, temperature in enumerate([*options.temperatures, options.temperatures[0]]):
        last = chain == len(options.temperatures)
        n_frames = options.frames // 3 if last else options.frames
        sets["valid" if last else "train"] += trajectory(chain, temperature, n_frames, options.interval)
        print(f"trajectory {chain} at {temperature:g} K: {n_frames} frames", flush=True)
    for name, frames in sets.items():
        write(options.output / f"{name}.xyz", frames, format="extxyz")


if __name__ == "__main__":
    main()
