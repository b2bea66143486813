"""The graphs of the atoms of a trajectory: neighbours are followed, and tensors that stay are made once."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from ase import Atoms

from electret.calculator import conditions
from electret.device_neighbors import pairs_on_device
from electret.graph import Graph, edges_of, finite
from electret.neighbors import NeighborList

__all__ = ["TrajectoryGraph"]

SKIN = 1.0
"""Å beyond the cutoff within which neighbours are followed."""


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
        self._last: tuple[bytes, bytes, dict[str, Any], Graph] | None = None

    def of(self, atoms: Atoms) -> Graph:
        """The graph of the atoms; `atoms.info` may hold conditions only.

        Raises:
            InputError: as `Graph.from_atoms`.
        """
        numbers, pbc = atoms.numbers.tobytes(), atoms.pbc.tobytes()
        if self._last is not None:
            last_numbers, last_pbc, last_info, last = self._last
            if numbers == last_numbers and pbc == last_pbc and conditions.equal(atoms.info, last_info):
                return self._moved(atoms, last)
        self._last = None
        graph = Graph.from_atoms(
            atoms, self._neighbors.cutoff, self._dtype, labels=False, neighbors=self._neighbors
        ).to(device=self._device)
        self._last = numbers, pbc, copy.deepcopy(atoms.info), graph
        return graph

    def _moved(self, atoms: Atoms, last: Graph) -> Graph:
        """The last graph with other positions, cell and edges."""
        positions = finite("positions", atoms.positions)
        cell = finite("cell", atoms.cell.array)
        edge_index, unit_shifts = self._edges(positions, cell, atoms.pbc)
        return replace(
            last,
            positions=self._tensor(positions),
            cell=self._tensor(cell[None]),
            edge_index=edge_index,
            unit_shifts=unit_shifts,
        )

    def _edges(
        self, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Found anew on a GPU, where this takes less time than bringing them there."""
        if self._device.type == "cuda":
            there = torch.tensor(positions, dtype=torch.float64, device=self._device)
            i, j, shifts = pairs_on_device("ijS", there, cell[None], pbc[None], self._neighbors.cutoff)
            return torch.stack([i, j]), shifts.to(self._dtype)
        self._neighbors.update(positions, cell, pbc)
        return edges_of(self._neighbors.get("ijS"), self._dtype)

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        """A tensor with memory of its own."""
        return torch.tensor(values, dtype=self._dtype, device=self._device)
