"""Structures of the metal-water case: rows of waters, silver in layers, slabs without water."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import fcc111, molecule

sys.path.insert(0, str(Path(__file__).parents[1] / "demo_data"))
from structures import SILVER_LATTICE_CONSTANT

OXYGEN_DISTANCE = 3.0
"""Between neighbours in a row of waters, Å."""
CONTACT = 2.7
"""Height of the first O over silver, Å."""


def water_row(n_waters: int, first: int = 0) -> Atoms:
    """Waters along z, all oriented with one O-H bond along the row; `layer` numbers the molecules."""
    row = Atoms()
    for index in range(n_waters):
        water = molecule("H2O")
        water.positions -= water.positions[0]
        water.rotate(water.positions[1], (0, 0, 1))
        water.positions[:, 2] += index * OXYGEN_DISTANCE
        water.arrays["layer"] = np.full(3, first + index)
        row += water
    return row


def silver_layers(n_layers: int) -> Atoms:
    """An open cluster of (111) layers of six atoms, normal to z, in the middle of x and y; `layer`
    numbers the layers from below."""
    block = fcc111("Ag", (2, 3, n_layers), a=SILVER_LATTICE_CONSTANT)
    cluster = Atoms(block.numbers, block.positions - block.positions.mean(axis=0))
    heights = np.unique(cluster.positions[:, 2].round(3))
    cluster.arrays["layer"] = np.searchsorted(heights, cluster.positions[:, 2].round(3))
    return cluster


def silver_and_waters(n_layers: int, n_waters: int) -> Atoms:
    """A row of waters that stands on a cluster of layers."""
    silver = silver_layers(n_layers)
    waters = water_row(n_waters, first=n_layers)
    top = silver.positions[:, 2].max()
    waters.positions[:, 2] += top + CONTACT
    return silver + waters


def bare_slab(size: tuple[int, int, int], height: float, periodic_normal: bool) -> Atoms:
    """An Ag(111) slab of `size` atoms in a cell of `height` Å; periodic along its normal (z) or not. `layer`
    numbers the layers from below."""
    block = fcc111("Ag", size, a=SILVER_LATTICE_CONSTANT)
    cell = np.array(block.cell)
    cell[2] = (0.0, 0.0, height)
    slab = Atoms(block.numbers, block.positions, cell=cell, pbc=(True, True, periodic_normal))
    slab.positions[:, 2] += height / 2 - slab.positions[:, 2].mean()
    heights = np.unique(slab.positions[:, 2].round(3))
    slab.arrays["layer"] = np.searchsorted(heights, slab.positions[:, 2].round(3))
    return slab
