"""Generate the demo's training data: silver and water in fields and at several charges, labelled with
GFN1-xTB (tblite).

Each chain is one Langevin trajectory from a random structure, drawn from (seed, chain number) alone, and
written to a file of its own when it is complete: an interrupted run continues from there. Whole chains
go to the training or validation set.

    python examples/demo_data/generate.py --output runs/demo_data --cluster-chains 60 --slab-chains 12
"""

import argparse
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import SCFError
from ase.io import read, write
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from labels import XTB, labelled
from rich.progress import track
from structures import add_waters, random_rotation, silver_cluster, silver_slab

TIMESTEP = 1.0  # fs
MAX_RESTARTS = 20


@dataclass(frozen=True)
class Settings:
    """Settings of the generation. Sizes are inclusive ranges."""

    output: Path
    seed: int
    frames_per_chain: int
    steps_between_frames: int
    silver_atoms: tuple[int, int]
    waters: tuple[int, int]
    temperatures: tuple[float, float]  # K
    max_field: float  # V/Å


def draw_cluster(rng: np.random.Generator, settings: Settings) -> tuple[Atoms, XTB, str]:
    """An open-boundary structure with its calculator and config type."""
    config_type = str(rng.choice(["ag_cluster", "water_cluster", "ag_water_cluster"]))
    atoms = Atoms()
    if config_type != "water_cluster":
        atoms = silver_cluster(rng, int(rng.integers(settings.silver_atoms[0], settings.silver_atoms[1] + 1)))
    if config_type != "ag_cluster":
        add_waters(rng, atoms, int(rng.integers(settings.waters[0], settings.waters[1] + 1)))
    charge = 0.0 if config_type == "water_cluster" else float(rng.choice([0, 0, 1, -1]))
    strength = 0.0 if rng.random() < 0.25 else rng.uniform(0.0, settings.max_field)
    return atoms, XTB(charge, strength * random_rotation(rng)[0]), config_type


def draw_slab(rng: np.random.Generator, settings: Settings) -> tuple[Atoms, XTB, str]:
    """A periodic slab with its calculator and config type."""
    ion = [None, "Na", "Cl"][int(rng.integers(3))]
    charge = float(rng.choice({None: [-1, 0, 1], "Na": [0, 1], "Cl": [-1, 0]}[ion]))
    atoms = silver_slab(rng, int(rng.integers(3, 7)), ion, vacuum=rng.uniform(8.0, 12.0))
    return atoms, XTB(charge), f"slab_{ion or 'water'}_q{charge:+.0f}"


def run_chain(settings: Settings, chain: int, slab: bool) -> list[Atoms]:
    """Frames of one trajectory. A structure whose SCF fails is replaced by the chain's next draw."""
    rng = np.random.default_rng([settings.seed, int(slab), chain])
    for _ in range(MAX_RESTARTS):
        atoms, calculator, config_type = (draw_slab if slab else draw_cluster)(rng, settings)
        atoms.calc = calculator
        temperature = rng.uniform(*settings.temperatures)
        MaxwellBoltzmannDistribution(atoms, temperature_K=temperature, rng=rng)
        dynamics = Langevin(
            atoms,
            TIMESTEP * units.fs,
            temperature_K=temperature,
            friction=0.02 / units.fs,
            rng=rng,
            fixcm=False,
        )
        frames = []
        try:
            for _ in range(settings.frames_per_chain):
                dynamics.run(settings.steps_between_frames)
                frames.append(labelled(atoms, calculator, config_type, chain))
        except SCFError:
            continue
        return frames
    raise RuntimeError(
        f"chain {chain}: no converged trajectory in {MAX_RESTARTS} draws; lower --temperatures or --max-field"
    )


def complete_chain(settings: Settings, chain: int, slab: bool) -> Path:
    """Write the chain's file unless it exists; the file appears only when it is complete."""
    kind = "slab" if slab else "cluster"
    path = settings.output / "chains" / f"{kind}_{chain:04d}.xyz"
    if not path.exists():
        partial = path.with_suffix(".partial")
        write(partial, run_chain(settings, chain, slab), format="extxyz")
        os.replace(partial, path)
    return path


def generate(
    settings: Settings, cluster_chains: int, slab_chains: int, valid_fraction: float, workers: int
) -> None:
    """Run all chains and write ``train.xyz`` and ``valid.xyz``; both kinds are split by chain."""
    (settings.output / "chains").mkdir(parents=True, exist_ok=True)
    jobs = [(chain, False) for chain in range(cluster_chains)] + [
        (chain, True) for chain in range(slab_chains)
    ]
    with ProcessPoolExecutor(workers) as pool:
        futures = {pool.submit(complete_chain, settings, *job): job for job in jobs}
        paths = {
            futures[done]: done.result()
            for done in track(as_completed(futures), total=len(jobs), description="Trajectories")
        }
    train, valid = [], []
    for count, slab in ((cluster_chains, False), (slab_chains, True)):
        n_valid = round(valid_fraction * count)
        for chain in range(count):
            (valid if chain < n_valid else train).extend(read(paths[chain, slab], ":"))
    for name, frames in (("train", train), ("valid", valid)):
        path = settings.output / f"{name}.xyz"
        write(path, frames, format="extxyz")
        print(f"{path}: {len(frames)} frames")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="folder; a run found in it is continued")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cluster-chains", type=int, default=60, help="open-boundary trajectories")
    parser.add_argument("--slab-chains", type=int, default=12, help="periodic slab trajectories")
    parser.add_argument("--frames-per-chain", type=int, default=4)
    parser.add_argument("--steps-between-frames", type=int, default=40, help=f"of {TIMESTEP} fs")
    parser.add_argument("--silver-atoms", type=int, nargs=2, default=(8, 20), metavar=("MIN", "MAX"))
    parser.add_argument("--waters", type=int, nargs=2, default=(2, 7), metavar=("MIN", "MAX"))
    parser.add_argument(
        "--temperatures", type=float, nargs=2, default=(200, 1200), metavar=("MIN", "MAX"), help="K"
    )
    parser.add_argument("--max-field", type=float, default=0.2, help="V/Å")
    parser.add_argument("--valid-fraction", type=float, default=0.125)
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), help="processes; set OMP_NUM_THREADS=1"
    )
    options = vars(parser.parse_args())
    run = {name: options.pop(name) for name in ("cluster_chains", "slab_chains", "valid_fraction", "workers")}
    generate(Settings(**options), **run)


if __name__ == "__main__":
    main()
