"""Statistics of the training data that a model contains: elements, atomic energies, scales."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray
from pydantic import Field, model_validator

from electret.errors import InputError
from electret.models.config import StrictConfig

if TYPE_CHECKING:
    from electret.data.frames import Frames

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
    def from_frames(
        cls, frames: Frames, n_edges: NDArray[np.int64], e0s: Mapping[int, float] | None = None
    ) -> Statistics:
        """Statistics of a training set.

        Atomic energies not given are the least-squares fit of the total energies to the composition;
        `scale` is the RMS of the labelled forces, `mean` the mean remaining energy per atom.

        Args:
            frames: of the set.
            n_edges: directed edges of each of its graphs.
            e0s: atomic energies in eV by atomic number.

        Raises:
            InputError: no frames, or no energies to fit the atomic energies to.
        """
        if not len(frames):
            raise InputError("no frames given; statistics need at least one")
        elements = frames.elements
        atomic = {number: float(value) for number, value in (e0s or {}).items() if number in elements}
        missing = [number for number in elements if number not in atomic]
        labelled = frames.has("energy")
        if missing:
            if not labelled.any():
                symbols = ", ".join(chemical_symbols[number] for number in missing)
                raise InputError(f"no frame has an energy and no e0s are given for {symbols}; give e0s")
            rest = frames.energies_without(atomic)
            numbers, counts = frames.composition()
            design = counts[labelled][:, np.searchsorted(numbers, missing)]
            fitted = np.linalg.lstsq(design, rest, rcond=None)[0]
            atomic.update({number: float(value) for number, value in zip(missing, fitted, strict=True)})
        rms = frames.rms_force
        has_charges = frames.has("charges")
        numbers, counts = frames.composition()
        labels = counts[has_charges].sum(axis=0)
        sums = frames.by_element("charges_by_element").sum(axis=0)
        found = cls(
            elements=tuple(elements),
            e0s=atomic,
            scale=rms if rms > 0 else 1.0,
            avg_num_neighbors=max(int(n_edges.sum()) / int(frames.column("atoms").sum()), 1.0),
            charges={z: float(q / n) for z, q, n in zip(numbers, sums, labels, strict=True) if n} or None,
        )
        mean = float(np.mean(found.interaction_energies(frames))) if labelled.any() else 0.0
        return found.model_copy(update={"mean": mean})

    def interaction_energies(self, frames: Frames) -> NDArray[np.float64]:
        """Energy per atom without E0s of each frame with an energy, eV."""
        n_atoms = frames.column("atoms")[frames.has("energy")]
        return frames.energies_without(self.e0s) / n_atoms
