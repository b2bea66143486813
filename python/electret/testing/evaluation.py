"""Evaluations, and derivatives by finite differences, for the checks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from electret.graph import Graph
from electret.models import Model

__all__ = [
    "MULTIPOLES",
    "STENCIL",
    "as_arrays",
    "batch_of",
    "derivative",
    "energies",
    "evaluate",
    "evaluate_all",
    "graph_of",
    "has_volume",
]

Array = NDArray[np.float64]

MULTIPOLES = ("multipoles", "latent_multipoles")
"""Names under which a model gives its density."""

STENCIL = ((-2, 1 / 12), (-1, -2 / 3), (1, 2 / 3), (2, -1 / 12))
"""Fourth-order central difference: offset in steps, and weight divided by the step."""


def evaluate(model: Model, atoms: Atoms, stress: bool = False) -> dict[str, Array]:
    """Results of one system as float64 arrays."""
    return as_arrays(model(graph_of(model, atoms), stress=stress))


def graph_of(model: Model, atoms: Atoms) -> Graph:
    """The graph of one system, for the model's cutoff, dtype and device; `atoms.info` are conditions."""
    graph = Graph.from_atoms(atoms, model.cutoff, model.dtype, labels=False)
    return graph.to(device=next(model.parameters()).device)


def batch_of(model: Model, systems: Sequence[Atoms]) -> Graph:
    """The graphs of all systems, as one."""
    return Graph.collate([graph_of(model, atoms) for atoms in systems])


def as_arrays(result: dict[str, torch.Tensor]) -> dict[str, Array]:
    """Results as float64 arrays."""
    return {name: value.detach().cpu().double().numpy() for name, value in result.items()}


def evaluate_all(model: Model, systems: Sequence[Atoms]) -> dict[str, Array]:
    """Results without forces of a batch of systems of equally many atoms, those of atoms as
    `[n_systems, n_atoms, ...]`."""
    graph = batch_of(model, systems)
    found = as_arrays(model(graph, forces=False))
    n_atoms = len(systems[0])
    return {
        name: value.reshape(len(systems), n_atoms, *value.shape[1:]) if len(value) == graph.n_atoms else value
        for name, value in found.items()
    }


def energies(model: Model, systems: Sequence[Atoms]) -> Array:
    """Energies `[n_systems]`, grand potentials at constant Fermi level, of a batch."""
    found = evaluate_all(model, systems)
    return found.get("grand_potential", found["energy"])


def derivative(values: Array, step: float) -> Array:
    """Derivative of the values `[..., points]` at the points of the stencil."""
    return np.asarray(values @ np.array([weight for _, weight in STENCIL]) / step)


def has_volume(atoms: Atoms) -> bool:
    """True if a stress is defined."""
    return bool(atoms.pbc.any() and abs(np.linalg.det(atoms.cell.array)) > 1e-6)
