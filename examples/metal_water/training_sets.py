"""Make the training and validation set of the metal-water case from trajectories (GFN1-xTB, tblite).

    python examples/demo_data/generate.py --output runs/metal_water/chains \\
        --cluster-chains 120 --slab-chains 24
    python examples/metal_water/evaluation_sets.py --output examples/metal_water/data
    python examples/metal_water/training_sets.py --output examples/metal_water/data \\
        --train runs/metal_water/chains/train.xyz --valid runs/metal_water/chains/valid.xyz \\
        --further examples/metal_water/data/bare_slabs.xyz examples/metal_water/data/long_rows.xyz

Takes some frames of each trajectory, adds polarisabilities to open ones (`polarizabilities.py`) and aligns
the Fermi levels of periodic ones (`alignment.py`), those of `slab_charges.xyz` in the same folder too. Slabs
have one lateral cell only: GFN1-xTB in tblite samples the Γ point alone, so that the energy per atom of an
ideal slab changes by an electronvolt from a 2 × 2 to a 4 × 4 cell, which a model of local surroundings
cannot represent.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from alignment import REFERENCE, align, fit
from ase import Atoms
from ase.io import read, write
from polarizabilities import label

LATERAL = 5.784
"""Length of both lateral cell vectors of Ag(111) 2 × 2, Å."""


def chains(frames: Sequence[Atoms], prefix: str) -> list[list[Atoms]]:
    """Frames by trajectory; open and periodic trajectories count their chains apart."""
    found: dict[str, list[Atoms]] = {}
    for atoms in frames:
        atoms.info["chain"] = f"{prefix}_{atoms.info['chain']}"
        found.setdefault(atoms.info["chain"], []).append(atoms)
    return list(found.values())


def some_of(chain: Sequence[Atoms], count: int) -> list[Atoms]:
    """`count` frames spread over a trajectory."""
    return list(chain[:: max(1, len(chain) // count)][:count])


def chosen(files: Sequence[Path], per_cluster: int, per_slab: int) -> list[Atoms]:
    """Frames of the trajectories: clusters, and slabs in the one lateral cell."""
    frames = [atoms for file in files for atoms in read(file, ":")]
    clusters = [atoms for atoms in frames if not atoms.pbc.any()]
    slabs = [
        atoms for atoms in frames if atoms.pbc.all() and np.isclose(atoms.cell.lengths()[0], LATERAL, 0.01)
    ]
    return [
        *(atoms for chain in chains(clusters, "cluster") for atoms in some_of(chain, per_cluster)),
        *(atoms for chain in chains(slabs, "slab") for atoms in some_of(chain, per_slab)),
    ]


def neutral_slabs(frames: Sequence[Atoms], count: int) -> list[Atoms]:
    """One neutral slab of each trajectory."""
    found: dict[str, Atoms] = {}
    for atoms in frames:
        if atoms.pbc.all() and atoms.info["total_charge"] == 0:
            found.setdefault(str(atoms.info["chain"]), atoms)
    return list(found.values())[:count]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--train", type=Path, nargs="+", required=True, help="trajectories")
    parser.add_argument("--valid", type=Path, nargs="+", required=True, help="other trajectories")
    parser.add_argument(
        "--further",
        type=Path,
        nargs="*",
        default=[],
        help="of evaluation_sets.py; a fifth is validation",
    )
    parser.add_argument("--clusters", type=int, default=3, help="frames of a trajectory of clusters")
    parser.add_argument("--slabs", type=int, default=3, help="frames of a trajectory of slabs")
    parser.add_argument("--polarizability-every", type=int, default=3, help="of the frames with metal")
    parser.add_argument("--step", type=float, default=0.02, help="field of their differences, V/Å")
    parser.add_argument("--alignment-slabs", type=int, default=14, help="neutral slabs of the fit")
    parser.add_argument("--extra", type=float, default=15.0, help="height added to them, Å")
    parser.add_argument("--sigma", type=float, default=1.5, help="width of the Gaussians of the fit, Å")
    options = parser.parse_args()
    train = chosen(options.train, options.clusters, options.slabs)
    valid = chosen(options.valid, options.clusters, options.slabs)
    for frames in (train, valid):
        label(frames, options.polarizability_every, options.step)
    for file in options.further:
        frames = read(file, ":")
        last = len(frames) - len(frames) // 5
        train, valid = train + frames[:last], valid + frames[last:]
    slabs = neutral_slabs(train, options.alignment_slabs)
    elements = [
        name for name in ("Ag", REFERENCE, "Na", "Cl") if any(name in atoms.symbols for atoms in slabs)
    ]
    constants = fit(slabs, elements, options.extra, options.sigma)
    print("alignment / eV Å³: " + " ".join(f"{name}={value:.2f}" for name, value in constants.items()))
    sets = {"train": train, "valid": valid}
    charges = options.output / "slab_charges.xyz"
    if charges.exists():
        sets["slab_charges"] = read(charges, ":")
    for name, frames in sets.items():
        for atoms in frames:
            align(atoms, constants)
        write(options.output / f"{name}.xyz", frames, format="extxyz")
        print(f"{name}: {len(frames)} frames")


if __name__ == "__main__":
    main()
