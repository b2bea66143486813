"""Potential features and energies of MACE-POLAR-1 by the kernels of `electret.torch`.

`exact` sums every system as its periodic axes say. `as_trained` repeats the approximations of
graph-longrange, the package that published weights were fitted with: dipoles of open systems as displaced
charges, slabs as crystals with the field of their images removed along z, wires as crystals, and sums over
waves that end at the cutoff of the model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch

from electret.errors import InputError
from electret.polar.waves import Waves
from electret.scf.electrostatics import Electrostatics
from electret.support.locks import cached_property
from electret.torch import coulomb_energy, features, field_features
from electret.torch.per_system import at_atoms, sum_over_atoms
from electret.units import COULOMB_CONSTANT

__all__ = ["Mode", "PolarElectrostatics", "checked_mode"]

Mode = Literal["exact", "as_trained"]

COULOMB_OF_PEER = 1.0 / (4.0 * math.pi * 5.526349406e-3)
"""Coulomb constant of graph-longrange in eV Å/e²."""
RATIO = COULOMB_OF_PEER / COULOMB_CONSTANT

ENERGY_OFFSET, FEATURES_OFFSET = 0.02, 0.1
"""Displacements in Å of the charges that stand for dipoles in energies and features of open systems."""


def checked_mode(mode: str) -> Mode:
    """The name of a mode.

    Raises:
        InputError: no mode has the name.
    """
    if mode not in get_args(Mode):
        raise InputError(f"mode = {mode!r}; use 'exact' or 'as_trained' (the sums of the training code)")
    return mode  # type: ignore[return-value]


@dataclass(frozen=True)
class PolarElectrostatics(Electrostatics):
    """Electrostatics of a batch with the Coulomb constant of graph-longrange; one width for all densities."""

    mode: Mode = "exact"
    waves_cutoff: float = math.nan
    """Largest wave number of sums as trained, 1/Å."""

    @property
    def width(self) -> torch.Tensor:
        """Width of the densities, Å."""
        return self.sigma[:1]

    def energies(
        self, multipoles: torch.Tensor, per_atom: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Energies `[n_systems]` eV, and with `per_atom` shares `[n_atoms]` without derivatives."""
        if self.mode == "exact":
            energy, halves = super().energies(multipoles, per_atom)
            return RATIO * energy, None if halves is None else RATIO * halves
        energy = RATIO * self._trained_energies(multipoles)
        if not per_atom:
            return energy, None
        with torch.enable_grad():
            p = multipoles.detach().requires_grad_()
            fixed: Any = self._detached
            (potential,) = torch.autograd.grad(fixed._trained_energies(p).sum(), p)
        return energy, RATIO * 0.5 * (p.detach() * potential).sum(dim=1)

    def features(self, multipoles: torch.Tensor) -> torch.Tensor:
        """Features `[n_atoms, n_widths, n_features_lm]`; differentiable twice."""
        return RATIO * (
            super().features(multipoles) if self.mode == "exact" else self._trained_features(multipoles)
        )

    def features_of(self, densities: list[torch.Tensor]) -> list[torch.Tensor]:
        """Features of several densities of the same atoms, by one evaluation."""
        count = len(densities)
        if count == 1 or self.mode == "as_trained":
            return [self.features(density) for density in densities]
        together = self._repeated(count).features(torch.cat(densities))
        return list(together.chunk(count))

    def _repeated(self, count: int) -> PolarElectrostatics:
        """Copies of every system, one after the other."""
        batch = torch.cat([self.batch + copy * self.n_systems for copy in range(count)])
        tensors = {
            name: getattr(self, name).repeat(count, *[1] * (getattr(self, name).dim() - 1))
            for name in ("positions", "cell", "pbc", "sigma", "external_field")
        }
        return replace(self, batch=batch, lattice=None, **tensors)

    def features_of_field(self, external_field: torch.Tensor) -> torch.Tensor:
        """Features of the potential F·(r - centre) of a field `[n_systems, 3]` about the mean position of the
        atoms of each system, as MACE-POLAR-1 has it (energy +F·D)."""
        counts = sum_over_atoms(torch.ones_like(self.sigma), self.batch, self.n_systems)
        centre = sum_over_atoms(self.positions, self.batch, self.n_systems) / counts[:, None]
        positions = self.positions - at_atoms(centre, self.batch)
        local = at_atoms(-external_field, self.batch)
        return field_features(positions, local, self._receivers, self.features_max_l, "receiver")

    # --- sums of graph-longrange ---

    @cached_property
    def _parts(self) -> list[tuple[PolarElectrostatics, torch.Tensor, torch.Tensor, bool]]:
        """The open systems and the others, with the places of their atoms and systems."""
        is_open = ~self.pbc.any(dim=1)  # [n_systems]
        parts = []
        for wanted in (True, False):
            systems = torch.nonzero(is_open == wanted).flatten()
            if len(systems) == 0:
                continue
            atoms = torch.nonzero(is_open[self.batch] == wanted).flatten()
            index = self.batch.new_full((self.n_systems,), -1)
            index[systems] = torch.arange(len(systems), device=index.device)
            part = replace(
                self,
                positions=self.positions[atoms],
                cell=self.cell[systems],
                lattice=None,
                pbc=self.pbc[systems],
                batch=index[self.batch[atoms]],
                external_field=self.external_field[systems],
                sigma=self.sigma[atoms],
                mode="exact",
            )
            parts.append((part, atoms, systems, wanted))
        return parts

    def _trained_energies(self, p: torch.Tensor) -> torch.Tensor:
        energy = p.new_zeros(self.n_systems)
        for part, atoms, systems, is_open in self._parts:
            of_part = part._open_energies if is_open else part._periodic_energies
            energy = energy.index_add(0, systems, of_part(p[atoms]))
        return energy

    def _trained_features(self, p: torch.Tensor) -> torch.Tensor:
        values = p.new_zeros(len(p), len(self.widths), (self.features_max_l + 1) ** 2)
        for part, atoms, _, is_open in self._parts:
            of_part = part._open_features if is_open else part._periodic_features
            values = values.index_add(0, atoms, of_part(p[atoms]))
        return values

    @cached_property
    def _waves(self) -> list[tuple[torch.Tensor, Waves]]:
        """Places of the atoms of each system, and its waves."""
        places = [torch.nonzero(self.batch == system).flatten() for system in range(self.n_systems)]
        return [
            (atoms, Waves(self.positions[atoms], cell, self.waves_cutoff, self.width))
            for atoms, cell in zip(places, self.cell, strict=True)
        ]

    def _dipole_along_z(self, p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Dipoles along z of slabs open along their third axis, zero for other systems, and volumes."""
        is_slab = self.pbc[:, 0] & self.pbc[:, 1] & ~self.pbc[:, 2]
        return self.dipole(p)[:, 2] * is_slab, torch.linalg.det(self.cell).abs()

    def _periodic_energies(self, p: torch.Tensor) -> torch.Tensor:
        energy = torch.stack([waves.energy(p[atoms]) for atoms, waves in self._waves])
        if not self.options.self_interaction:
            own = 0.5 * (p.square() * self.self_interaction()).sum(dim=1)
            energy = energy - sum_over_atoms(own, self.batch, self.n_systems)
        dipole, volume = self._dipole_along_z(p)
        return energy + 2 * math.pi * COULOMB_CONSTANT * dipole**2 / volume

    def _periodic_features(self, p: torch.Tensor) -> torch.Tensor:
        dipole, volume = self._dipole_along_z(p)
        along_z = -4 * math.pi * COULOMB_CONSTANT * dipole / volume
        field = torch.stack([torch.zeros_like(along_z), torch.zeros_like(along_z), along_z], dim=1)
        local = at_atoms(field, self.batch)
        removed = field_features(self.positions, local, self._receivers, self.features_max_l, "receiver")
        values = p.new_zeros(len(p), len(self.widths), 4)
        for atoms, waves in self._waves:
            values = values.index_add(0, atoms, waves.features(p[atoms], self._receivers))
        result = values[:, :, : removed.shape[2]] + removed
        return result if self.features_self_interaction else result - self._own_features(p)

    def _own_features(self, p: torch.Tensor) -> torch.Tensor:
        """Features of the density of each atom at itself."""
        apart = torch.arange(len(p), device=p.device)
        none, cells = p.new_zeros(len(p), 3), p.new_zeros(len(p), 3, 3)
        settings: tuple[Any, ...] = (
            self._receivers,
            self.features_max_l,
            "receiver",
            True,
            cells,
            False,
            apart,
        )
        return features(none, p, self.sigma, *settings)

    def _displaced(self, p: torch.Tensor, offset: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Positions, charges and systems of four charges for each atom: at its position, and displaced by
        `offset` along x, y, z."""
        steps = offset * torch.cat([p.new_zeros(1, 3), torch.eye(3, dtype=p.dtype, device=p.device)])
        positions = (self.positions[:, None] + steps).reshape(-1, 3)
        charges = p.new_zeros(len(p), 4) if p.shape[1] < 4 else p[:, [0, 3, 1, 2]] / offset
        charges = torch.cat([p[:, :1] - charges[:, 1:].sum(dim=1, keepdim=True), charges[:, 1:]], dim=1)
        return positions, charges, self.batch.repeat_interleave(4)

    def _between_displaced(self, widths: torch.Tensor, offset: float) -> torch.Tensor:
        """K erf(d / 2w) / d between the four charges of an atom, `[n_widths, 4, 4]`."""
        steps = offset * torch.cat([widths.new_zeros(1, 3), torch.eye(3).to(widths)])
        d = torch.cdist(steps, steps)[None].clamp(min=1e-9)
        return COULOMB_CONSTANT * torch.erf(d / (2 * widths[:, None, None])) / d

    def _open_energies(self, p: torch.Tensor) -> torch.Tensor:
        """Charges of an atom do not interact with each other; its own energy is that of the multipoles."""
        x, q, batch = self._displaced(p, ENERGY_OFFSET)
        sigma, cell = self.width.expand(len(x)), torch.zeros_like(self.cell)
        energy = coulomb_energy(x, q.reshape(-1, 1), sigma, cell, False, batch, **self._direct)
        own = 0.5 * torch.einsum("ni,ij,nj->n", q, self._between_displaced(self.width, ENERGY_OFFSET)[0], q)
        energy = energy - sum_over_atoms(own, self.batch, self.n_systems)
        if self.options.self_interaction:
            alone = 0.5 * (self.self_interaction() * p**2).sum(dim=1)
            energy = energy + sum_over_atoms(alone, self.batch, self.n_systems)
        return energy

    @property
    def _direct(self) -> dict[str, Any]:
        """Settings of sums over pairs."""
        return {"method": "direct", "accuracy": self.options.accuracy, "precision": self.options.precision}

    def _open_features(self, p: torch.Tensor) -> torch.Tensor:
        """One-sided differences of potentials at displaced receivers."""
        x, q, batch = self._displaced(p, FEATURES_OFFSET)
        widths, sigma, cell = self._receivers, self.width.expand(len(x)), torch.zeros_like(self.cell)
        settings: tuple[Any, ...] = (widths, 0, "receiver", True, cell, False, batch)
        values = features(x, q.reshape(-1, 1), sigma, *settings, **self._direct)
        values = values[:, :, 0].reshape(len(p), 4, -1).transpose(1, 2)  # [n_atoms, n_widths, 4]
        pair = torch.sqrt((self.width**2 + widths**2) / 2)
        own = math.sqrt(4 * math.pi) * self._between_displaced(pair, FEATURES_OFFSET)
        values = values - torch.einsum("wij,nj->nwi", own, q)
        found = [values[:, :, :1]]
        if self.features_max_l == 1:
            factor = math.sqrt(6 * math.pi) / 4 * widths[:, None] / FEATURES_OFFSET
            found.append(factor * (values[:, :, [2, 3, 1]] - values[:, :, :1]))
        result = torch.cat(found, dim=2)
        return result + self._own_features(p) if self.features_self_interaction else result
