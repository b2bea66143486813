"""Generate the data of the SiO2 case with GFN1-xTB (tblite): quartz, perfect and with a charged vacancy.

Each chain is one Langevin trajectory from a strained cell, drawn from (seed, cell, chain number) alone, and
written to a file of its own when it is complete: an interrupted run continues from there. Whole chains go
to the training or validation set, one in `--valid-every` of each state. A few frames with a vacancy are
labelled at the other charges too (`charge_states.py`).

    python examples/sio2_vacancy/generate.py --output examples/sio2_vacancy/data
"""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.io import read, write
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from charge_states import at_charges
from rich.progress import track
from states import labelled_state
from structures import quartz, strained, vacancy_position, without_oxygen

sys.path.insert(0, str(Path(__file__).parents[1] / "demo_data"))
from labels import XTB

TIMESTEP = 2.0  # fs
PERFECT = "perfect"


@dataclass(frozen=True)
class Settings:
    """Settings of the generation."""

    output: Path
    seed: int
    charges: tuple[float, ...]  # e, of the cells with a vacancy
    repeats: tuple[int, int, int]
    frames: int
    steps: int
    equilibration: int
    temperatures: tuple[float, float]  # K
    strain: float


def states(charges: tuple[float, ...]) -> list[str]:
    """The perfect crystal and the charge states of the vacancy."""
    return [PERFECT, *(f"vacancy_q{charge:+.0f}" for charge in charges)]


def run_chain(settings: Settings, number: int) -> list[Atoms]:
    """Labelled frames of one trajectory; the state follows from the number."""
    rng = np.random.default_rng([settings.seed, *settings.repeats, number])
    names = states(settings.charges)
    name = names[number % len(names)]
    atoms = strained(rng, quartz(settings.repeats), settings.strain)
    charge = 0.0
    if name != PERFECT:
        charge = settings.charges[number % len(names) - 1]
        atoms = without_oxygen(rng, atoms)
    atoms.rattle(0.03, rng=rng)
    atoms.calc = calculator = XTB(charge)
    temperature = rng.uniform(*settings.temperatures)
    MaxwellBoltzmannDistribution(atoms, temperature_K=temperature, rng=rng)
    dynamics = Langevin(
        atoms, TIMESTEP * units.fs, temperature_K=temperature, friction=0.03 / units.fs, rng=rng, fixcm=False
    )
    dynamics.run(settings.equilibration)
    frames = []
    for _ in range(settings.frames):
        dynamics.run(settings.steps)
        frame = labelled_state(atoms, calculator, name, f"{'x'.join(map(str, settings.repeats))}_{number}")
        vacancy = vacancy_position(atoms) if name != PERFECT else None
        if vacancy is not None:
            frame.info["vacancy"] = vacancy
        frames.append(frame)
    return frames


def complete_chain(settings: Settings, number: int) -> Path:
    """Write the chain's file unless it exists; the file appears only when it is complete."""
    folder = settings.output / "chains" / "x".join(map(str, settings.repeats))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{number:03d}.xyz"
    if not path.exists():
        partial = path.with_suffix(".partial")
        write(partial, run_chain(settings, number), format="extxyz")
        os.replace(partial, path)
    return path


def all_chains(settings: Settings, per_state: int, workers: int) -> list[list[Atoms]]:
    """Frames of every chain, the states taking turns."""
    count = per_state * len(states(settings.charges))
    with ProcessPoolExecutor(workers) as pool:
        jobs = [pool.submit(complete_chain, settings, number) for number in range(count)]
        paths = [job.result() for job in track(jobs, description="x".join(map(str, settings.repeats)))]
    return [read(path, ":") for path in paths]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="folder; a run found in it is continued")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--charges", type=float, nargs="+", default=(0, 1, 2), help="of the vacancy, e")
    parser.add_argument("--repeats", type=int, nargs=3, default=(2, 2, 1), help="cells of 9 atoms")
    parser.add_argument("--large-repeats", type=int, nargs=3, default=(2, 2, 2), help="of the transfer set")
    parser.add_argument("--chains", type=int, default=3, help="trajectories of each state")
    parser.add_argument("--frames", type=int, default=6, help="of a trajectory")
    parser.add_argument("--steps", type=int, default=10, help=f"between frames, of {TIMESTEP} fs")
    parser.add_argument("--equilibration", type=int, default=20, help="steps before the first frame")
    parser.add_argument("--temperatures", type=float, nargs=2, default=(300, 1200), metavar=("MIN", "MAX"))
    parser.add_argument("--strain", type=float, default=0.03, help="largest component")
    parser.add_argument("--valid-every", type=int, default=3, help="one chain of each state in so many")
    parser.add_argument("--other-charges-every", type=int, default=2, help="frames, labelled at all charges")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), help="processes; set OMP_NUM_THREADS=1"
    )
    options = parser.parse_args()
    small = Settings(
        options.output,
        options.seed,
        tuple(options.charges),
        tuple(options.repeats),
        options.frames,
        options.steps,
        options.equilibration,
        tuple(options.temperatures),
        options.strain,
    )
    chains = all_chains(small, options.chains, options.workers)
    n_states = len(states(small.charges))
    held = [
        number // n_states % options.valid_every == options.valid_every - 1 for number in range(len(chains))
    ]
    train = [atoms for chain, out in zip(chains, held, strict=True) if not out for atoms in chain]
    valid = [atoms for chain, out in zip(chains, held, strict=True) if out for atoms in chain]
    every = options.other_charges_every
    train += at_charges(train[1::every], small.charges, others_only=True)
    large = Settings(
        **{**vars(small), "repeats": tuple(options.large_repeats), "frames": 1, "equilibration": small.steps}
    )
    transfer = [atoms for chain in all_chains(large, 1, options.workers) for atoms in chain]
    sets = {
        "train": train,
        "valid": valid,
        "large": transfer,
        "charge_states": at_charges(valid[::every], small.charges, others_only=False),
        "charge_states_large": at_charges(transfer, small.charges, others_only=False),
    }
    for name, frames in sets.items():
        write(options.output / f"{name}.xyz", frames, format="extxyz")
        print(f"{name}: {len(frames)} frames")


if __name__ == "__main__":
    main()
