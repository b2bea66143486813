"""Statistics of the training data that a model contains: elements, atomic energies, scales."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from ase.data import chemical_symbols
from pydantic import Field, model_validator

from electret.errors import InputError
from electret.graph import Graph
from electret.models.config import StrictConfig

__all__ = ["Statistics"]


class Statistics(StrictConfig):
    """Numbers from the training data that a model is built with."""

    elements: tuple[int, ...]
    """Atomic numbers of the model's elements, ascending."""
    e0s: dict[int, float]
    """Energy of the isolated atom of each element in eV."""
    mean: float = 0.0
    """Shift of the interaction energy per atom in eV."""
    scale: float = Field(default=1.0, gt=0)
    """Scale of the interaction energy per atom in eV (MACE: the RMS of the forces in eV/Å)."""
    avg_num_neighbors: float = Field(default=1.0, gt=0)
    """Mean number of neighbours of an atom inside the cutoff."""
    charges: dict[int, float] | None = None
    """Mean labelled charge of each element in e, where the data has charges."""
    charge_spread: dict[int, float] | None = None
    """Standard deviation of the labelled charges of each element in e."""
    polarizability: dict[int, float] | None = None
    """Polarisability of the atoms of each element in e·Å²/V, where the data has polarisabilities."""
    susceptibility: dict[int, float] | None = None
    """Charge per potential of the atoms of each element in e/V, fitted with `polarizability`."""
    feature_norms: tuple[tuple[float, ...], ...] | None = None
    """RMS per component of the potential features of the labelled densities, `[l][width]` in V Å^l; what
    `fixed_point` divides them by."""
    fermi_level: float = 0.0
    """Mean labelled Fermi level in eV, the origin of the Fermi level inside the models."""

    @model_validator(mode="after")
    def _check_elements(self) -> Statistics:
        if not self.elements:
            raise ValueError("elements is empty; name at least one atomic number")
        if list(self.elements) != sorted(set(self.elements)):
            raise ValueError(f"elements {list(self.elements)} must ascend without repeats")
        for number in self.elements:
            if not 0 < number < len(chemical_symbols):
                raise ValueError(f"element {number} is no atomic number")
            if not math.isfinite(self.e0s.get(number, math.nan)):
                raise ValueError(f"e0s has no energy for {chemical_symbols[number]}; give one in eV")
        return self

    @classmethod
    def from_graphs(cls, graphs: Iterable[Graph], e0s: dict[int, float] | None = None) -> Statistics:
        """Statistics of a training set.

        Atomic energies not given are the least-squares fit of the total energies to the composition;
        `scale` is the RMS of the labelled forces, `mean` the mean remaining energy per atom.

        Raises:
            InputError: no graphs, or no energies to fit the atomic energies to.
        """
        counts, energies, forces_squared, n_forces, n_edges, n_atoms = [], [], 0.0, 0, 0, 0
        charge_sum, charge_count = np.zeros(len(chemical_symbols)), np.zeros(len(chemical_symbols))
        for graph in graphs:
            n_edges += graph.n_edges
            n_atoms += graph.n_atoms
            composition = np.zeros((graph.n_systems, len(chemical_symbols)))
            np.add.at(composition, (graph.batch.numpy(), graph.atomic_numbers.numpy()), 1.0)
            counts.append(composition)
            energies.append(graph.labels.get("energy", torch.full((graph.n_systems,), torch.nan)).numpy())
            if "forces" in graph.labels:
                forces = graph.labels["forces"].double()
                known = torch.isfinite(forces)
                forces_squared += float((forces[known] ** 2).sum())
                n_forces += int(known.sum())
            if "charges" in graph.labels:
                charges = graph.labels["charges"].double().numpy()
                known_charges = np.isfinite(charges)
                numbers = graph.atomic_numbers.numpy()[known_charges]
                np.add.at(charge_sum, numbers, charges[known_charges])
                np.add.at(charge_count, numbers, 1.0)
        if not counts:
            raise InputError("no graphs given; statistics need at least one frame")
        composition, energy = np.concatenate(counts), np.concatenate(energies)
        elements = tuple(int(number) for number in np.flatnonzero(composition.sum(axis=0)))
        atomic = {number: float(value) for number, value in (e0s or {}).items() if number in elements}
        missing = [number for number in elements if number not in atomic]
        labelled = np.isfinite(energy)
        if missing:
            if not labelled.any():
                symbols = ", ".join(chemical_symbols[number] for number in missing)
                raise InputError(f"no frame has an energy and no e0s are given for {symbols}; give e0s")
            rest = energy[labelled] - sum(
                composition[labelled, number] * value for number, value in atomic.items()
            )
            fitted = np.linalg.lstsq(composition[labelled][:, missing], rest, rcond=None)[0]
            atomic.update({number: float(value) for number, value in zip(missing, fitted, strict=True)})
        mean = 0.0
        if labelled.any():
            bound = energy[labelled] - sum(
                composition[labelled, number] * atomic[number] for number in elements
            )
            mean = float(np.mean(bound / composition[labelled].sum(axis=1)))
        rms = math.sqrt(forces_squared / n_forces) if n_forces else 0.0
        return cls(
            elements=elements,
            e0s=atomic,
            mean=mean,
            scale=rms if rms > 0 else 1.0,
            avg_num_neighbors=max(n_edges / n_atoms, 1.0),
            charges={
                number: float(charge_sum[number] / charge_count[number])
                for number in elements
                if charge_count[number]
            }
            or None,
        )
