"""The graphs of the atoms of a trajectory: neighbours are followed, and tensors that stay are made once."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from ase import Atoms

from electret.calculator import conditions
from electret.cuda.neighbors import pairs_on_device
from electret.graph import APPLIED, Graph, edges_of, finite
from electret.kernels.arguments import Systems
from electret.kernels.neighbors import NeighborList

__all__ = ["TrajectoryGraph"]

SKIN = 1.0
"""Å beyond the cutoff within which neighbours are followed."""


@dataclass
class _Last:
    """Inputs of the tensors of the last graph."""

    numbers: bytes
    pbc: bytes
    cell: bytes
    info: dict[str, Any]
    applied: bytes
    graph: Graph


class TrajectoryGraph:
    """From `ase.Atoms` to graphs without labels, step by step; the atoms may change in any way between steps.

    Args:
        cutoff: of the model, Å.
        dtype, device: of the graphs.
    """

    def __init__(self, cutoff: float, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype = dtype
        self._device = device
        self._neighbors = NeighborList(cutoff, SKIN)
        self._last: _Last | None = None

    def of(self, atoms: Atoms) -> Graph:
        """The graph of the atoms; `atoms.info` may hold conditions only.

        Raises:
            InputError: as `Graph.from_atoms`.
        """
        numbers, pbc = atoms.numbers.tobytes(), atoms.pbc.tobytes()
        applied = np.asarray(atoms.arrays.get(APPLIED, ())).tobytes()
        last = self._last
        if (
            last is not None
            and numbers == last.numbers
            and pbc == last.pbc
            and applied == last.applied
            and conditions.equal(atoms.info, last.info)
        ):
            return self._moved(atoms, last)
        self._last = None
        graph = Graph.from_atoms(
            atoms, self._neighbors.cutoff, self._dtype, labels=False, neighbors=self._neighbors
        ).to(device=self._device)
        cell, info = atoms.cell.array.tobytes(), copy.deepcopy(atoms.info)
        self._last = _Last(numbers, pbc, cell, info, applied, graph)
        return graph

    def _moved(self, atoms: Atoms, last: _Last) -> Graph:
        """The last graph with other positions, cell and edges."""
        positions, cell = finite("positions", atoms.positions), atoms.cell.array
        if cell.tobytes() != last.cell:
            last.graph = replace(
                last.graph, cell=torch.tensor(finite("cell", cell)[None], device=self._device)
            )
            last.cell = cell.tobytes()
        edge_index, unit_shifts = self._edges(positions, cell, atoms.pbc)
        return replace(
            last.graph,
            positions=torch.tensor(positions, device=self._device),
            edge_index=edge_index,
            unit_shifts=unit_shifts,
        )

    def _edges(
        self, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Found anew on a GPU, where this takes less time than bringing them there."""
        if self._device.type == "cuda":
            there = torch.tensor(positions, dtype=torch.float64, device=self._device)
            one = np.zeros(len(positions), dtype=np.int64)
            systems = Systems(there, cell[None], pbc[None], one)
            i, j, shifts = pairs_on_device("ijS", systems, self._neighbors.cutoff)
            return torch.stack([i, j]), shifts.to(torch.float64)
        self._neighbors.update(positions, cell, pbc)
        return edges_of(self._neighbors.get("ijSd"))
