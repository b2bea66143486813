"""Small labelled systems for the tests of data, training and command line: Lennard-Jones clusters of two
elements with fixed point charges, so that energies, forces, charges and dipoles follow from the positions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.lj import LennardJones
from ase.io import write

CHARGES = {"O": -0.4, "H": 0.4}


def cluster(rng: np.random.Generator, symbols: str = "OHOH") -> Atoms:
    """A labelled cluster without close pairs."""
    while True:
        positions = rng.uniform(0.0, 3.5, (4, 3))
        distances = np.linalg.norm(positions[:, None] - positions, axis=-1) + 10 * np.eye(4)
        if distances.min() > 1.2:
            break
    atoms = Atoms(symbols, positions=positions)
    atoms.calc = LennardJones(sigma=1.3, epsilon=0.05, rc=10.0)
    charges = np.array([CHARGES[symbol] for symbol in atoms.get_chemical_symbols()])
    atoms.info["REF_energy"] = atoms.get_potential_energy() - 12.0
    atoms.arrays["REF_forces"] = atoms.get_forces()
    atoms.arrays["REF_charges"] = charges
    atoms.info["REF_dipole"] = charges @ positions
    atoms.calc = None
    return atoms


def clusters(n: int, seed: int = 0) -> list[Atoms]:
    """`n` clusters in chains of three, of two config_types."""
    rng = np.random.default_rng(seed)
    frames = [cluster(rng) for _ in range(n)]
    for index, atoms in enumerate(frames):
        atoms.info["chain"] = f"chain{index // 3}"
        atoms.info["config_type"] = ("first", "second")[index % 2]
    return frames


def crystal(rng: np.random.Generator) -> Atoms:
    """A periodic system with a stress label."""
    atoms = Atoms(
        "OH",
        positions=[[0, 0, 0], [1.5, 1.4, 1.6]],
        cell=[[3.0, 0, 0], [0.4, 3.1, 0], [0, 0.2, 3.2]],
        pbc=True,
    )
    atoms.positions += rng.normal(0.0, 0.05, (2, 3))
    atoms.calc = LennardJones(sigma=1.3, epsilon=0.05, rc=4.0)
    atoms.info["REF_energy"] = atoms.get_potential_energy() - 6.0
    atoms.info["REF_stress"] = atoms.get_stress()
    atoms.arrays["REF_forces"] = atoms.get_forces()
    atoms.calc = None
    return atoms


def write_frames(path: Path, frames: list[Atoms]) -> Path:
    """Write extended XYZ."""
    write(path, frames, format="extxyz")
    return path


def run_options(data: Path, output: Path, **changes: Any) -> dict[str, Any]:
    """A complete config of a run of seconds; `changes` replace top-level options."""
    options: dict[str, Any] = {
        "name": "tiny",
        "output": str(output),
        "seed": 3,
        "model": {
            "family": "local_charges",
            "backbone": {
                "r_max": 3.5,
                "hidden_irreps": "4x0e + 4x1o",
                "num_interactions": 2,
                "correlation": 1,
                "max_ell": 1,
                "num_radial_basis": 4,
                "radial_MLP": [8],
            },
        },
        "data": {"train": str(data), "valid_fraction": 0.25, "batch_size": 3},
        "stages": [
            {
                "name": "first",
                "epochs": 2,
                "lr": 0.01,
                "loss": {"energy": 1.0, "forces": 10.0, "charges": 1.0, "dipole": 1.0},
            }
        ],
        "tensorboard": False,
        "plots": False,
    }
    return {**options, **changes}
