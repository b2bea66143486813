"""The electrostatic operators of fixed atoms on a device, for self-consistent loops."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from electret import _native
from electret.cuda.plans import Request, find_plan, place_of
from electret.cuda.waves import Waves, find_waves
from electret.kernels.geometry import Geometry

__all__ = ["DeviceGeometry", "Layout"]

SITES_PER_PRODUCT = 8192
"""Atoms that one evaluation of matrix columns takes together: enough to fill a device."""

MATRIX_BYTES = 1 << 30
"""Largest array of columns that is built at once."""


class Layout:
    """Where the atoms of a batch are in blocks padded to the largest system.

    Args:
        batch: `[n_atoms]`, the system of each atom, in any order.
        n_systems: systems.
    """

    def __init__(self, batch: Tensor, n_systems: int) -> None:
        self.batch, self.n_systems = batch, n_systems
        self.counts = torch.bincount(batch, minlength=n_systems)  # [n_systems]
        order = torch.argsort(batch, stable=True)
        first = torch.cumsum(self.counts, 0) - self.counts
        ranks = torch.arange(len(batch), device=batch.device) - first[batch[order]]
        self.slot = torch.empty_like(batch).scatter(0, order, ranks)  # [n_atoms]: which atom of its system
        self.sizes = self.counts.tolist()
        self.largest = max(self.sizes, default=0)

    def pad(self, values: Tensor) -> Tensor:
        """`[n_systems, largest, ...]` of `[n_atoms, ...]`, zero where there is no atom."""
        padded = values.new_zeros(self.n_systems, self.largest, *values.shape[1:])
        padded[self.batch, self.slot] = values
        return padded

    def unpad(self, padded: Tensor) -> Tensor:
        """`[n_atoms, ...]` of `[n_systems, largest, ...]`."""
        return padded[self.batch, self.slot]


class DeviceGeometry:
    """Operators from multipoles to energy, potential and features at fixed positions; as
    :class:`electret.Geometry`, for float64 tensors of a device (CPU tensors: the emulated one).

    Args:
        positions: `[n_atoms, 3]` in Å.
        sigma: `[n_atoms]` in Å.
        widths: `[n_widths]` in Å, on the device; None without features.
        max_l: of the multipoles.
        features_max_l: of the receivers.
        cell: `[n_systems, 3, 3]` in Å.
        pbc: `[n_systems, 3]`.
        batch: `[n_atoms]`.
        normalization, self_interaction, features_self_interaction, boundary, method, accuracy, precision: as
            there.

    Raises:
        InputError: an argument cannot be used.
        DeviceError: the device or its libraries cannot be used.
    """

    def __init__(
        self,
        positions: Tensor,
        sigma: Tensor,
        widths: Tensor | None,
        max_l: int,
        features_max_l: int,
        cell: Tensor,
        pbc: Tensor,
        batch: Tensor,
        normalization: str = "receiver",
        self_interaction: bool = True,
        features_self_interaction: bool = False,
        boundary: str | None = None,
        method: str = "auto",
        accuracy: float = 1e-8,
        precision: str = "float64",
    ) -> None:
        self.positions = positions.detach().contiguous()
        self.cell = cell.detach().contiguous()
        self.sigma, self.widths, self.pbc, self.batch = sigma.detach(), widths, pbc, batch
        self.max_l, self.features_max_l = max_l, features_max_l
        self.place = place_of(self.positions)
        settings = (boundary, method, accuracy, precision)
        self._energies = Request(max_l, 0, "receiver", *settings, self_interaction, fixed=True)
        self._features = Request(
            max_l, features_max_l, normalization, *settings, features_self_interaction, fixed=True
        )
        self._subsets: dict[tuple[int, ...], tuple[DeviceGeometry, Tensor, Tensor]] = {}

    @property
    def n_atoms(self) -> int:
        """Number of atoms of all systems together."""
        return self.positions.shape[0]

    @property
    def n_systems(self) -> int:
        """Number of systems."""
        return self.cell.shape[0]

    @property
    def n_lm(self) -> int:
        """Multipole components of an atom."""
        return (self.max_l + 1) ** 2

    @property
    def n_rows(self) -> int:
        """Features of an atom."""
        return 0 if self.widths is None else self.widths.shape[0] * (self.features_max_l + 1) ** 2

    def energy_and_potential(self, multipoles: Tensor) -> tuple[Tensor, Tensor]:
        """Energy `[n_systems]` in eV and potential dE/dp `[n_atoms, n_lm]`, of multipoles likewise."""
        p = _plain(multipoles)
        energy, potential = p.new_empty(self.n_systems), torch.empty_like(p)
        if self.n_atoms == 0:
            return energy.zero_(), potential
        with self.place.current():
            self._energy_plan.evaluate(
                self.place.stream,
                positions=self.positions.data_ptr(),
                multipoles=p.data_ptr(),
                cell=self.cell.data_ptr(),
                value=energy.data_ptr(),
                multipoles_gradient=potential.data_ptr(),
            )
        return energy, potential

    def potential(self, multipoles: Tensor) -> Tensor:
        """A p, `[n_atoms, n_lm]`."""
        return self.energy_and_potential(multipoles)[1]

    def features(self, multipoles: Tensor) -> Tensor:
        """B p, `[n_atoms, n_widths, (features_max_l + 1)**2]`."""
        p = _plain(multipoles)
        assert self.widths is not None
        values = p.new_empty(self.n_atoms, self.widths.shape[0], (self.features_max_l + 1) ** 2)
        if self.n_atoms == 0:
            return values
        with self.place.current():
            self._features_plan.evaluate(
                self.place.stream,
                positions=self.positions.data_ptr(),
                multipoles=p.data_ptr(),
                cell=self.cell.data_ptr(),
                features=values.data_ptr(),
            )
        return values

    def features_transpose(self, cotangent: Tensor) -> Tensor:
        """Bᵀ g, `[n_atoms, n_lm]` of `[n_atoms, n_widths, (features_max_l + 1)**2]`."""
        g = _plain(cotangent)
        values = g.new_empty(self.n_atoms, self.n_lm)
        if self.n_atoms == 0:
            return values
        with self.place.current():
            self._features_plan.evaluate(
                self.place.stream,
                positions=self.positions.data_ptr(),
                multipoles=0,
                cell=self.cell.data_ptr(),
                cotangent=g.data_ptr(),
                multipoles_gradient=values.data_ptr(),
            )
        return values

    @cached_property
    def layout(self) -> Layout:
        """Where the atoms are in the blocks of the matrices."""
        return Layout(self.batch, self.n_systems)

    @cached_property
    def coulomb_blocks(self) -> Tensor:
        """A of every system, `[n_systems, n, n]` with n = largest * n_lm; zero where there is no atom."""
        return self._blocks(features=False)

    @cached_property
    def features_blocks(self) -> Tensor:
        """B of every system, `[n_systems, largest * n_rows, largest * n_lm]`; zero where there is no atom."""
        return self._blocks(features=True)

    @cached_property
    def coulomb_waves(self) -> Waves | None:
        """The longest waves of A; None without systems that are periodic along every axis."""
        return self._waves(None)

    @cached_property
    def features_waves(self) -> Waves | None:
        """The same of B."""
        assert self.widths is not None
        return self._waves((self.widths, self.features_max_l, self._features.normalization))

    def _waves(self, receivers: tuple[Tensor, int, str] | None) -> Waves | None:
        return find_waves(
            self.positions,
            self.sigma,
            self.cell,
            self.pbc,
            self.batch,
            self.layout.sizes,
            self.max_l,
            receivers,
        )

    @property
    def methods(self) -> list[tuple[str, str | None]]:
        """The methods that serve the energy and the features (None without widths) of each system."""
        return self._of_both("methods")

    @property
    def plans(self) -> list[tuple[str, str | None]]:
        """The same with parameters, for people."""
        return self._of_both("plans")

    def subset(self, systems: tuple[int, ...]) -> tuple[DeviceGeometry, Tensor, Tensor]:
        """Some of the systems alone, with their atoms and systems in this batch, `[n]` each."""
        if systems not in self._subsets:
            index = torch.tensor(systems, dtype=torch.int64, device=self.batch.device)
            numbers = torch.full((self.n_systems,), -1, dtype=torch.int64, device=self.batch.device)
            numbers[index] = torch.arange(len(systems), device=self.batch.device)
            atoms = torch.nonzero(numbers[self.batch] >= 0)[:, 0]
            part = self._of(
                self.positions[atoms],
                self.sigma[atoms],
                self.cell[index],
                self.pbc[index],
                numbers[self.batch[atoms]],
            )
            self._subsets[systems] = part, atoms, index
        return self._subsets[systems]

    def on_host(self) -> Geometry:
        """The same operators on the CPU."""
        energies, features = self._energies, self._features
        return Geometry(
            self.positions.cpu().numpy(),
            self.sigma.cpu().numpy(),
            () if self.widths is None else self.widths.cpu().numpy(),
            max_l=self.max_l,
            features_max_l=self.features_max_l,
            cell=self.cell.cpu().numpy(),
            pbc=self.pbc.cpu().numpy(),
            batch=self.batch.cpu().numpy(),
            normalization=features.normalization,
            self_interaction=energies.self_interaction,
            features_self_interaction=features.self_interaction,
            boundary=energies.boundary,
            method=energies.method,
            accuracy=energies.accuracy,
        )

    def _of_both(self, what: str) -> list[tuple[str, str | None]]:
        energies = getattr(self._energy_plan, what)
        if self.widths is None:
            return [(energy, None) for energy in energies]
        return list(zip(energies, getattr(self._features_plan, what), strict=True))

    @cached_property
    def _energy_plan(self) -> _native.DevicePlan:
        return self._plan(self._energies, None)

    @cached_property
    def _features_plan(self) -> _native.DevicePlan:
        return self._plan(self._features, self.widths)

    def _plan(self, request: Request, widths: Tensor | None) -> _native.DevicePlan:
        with self.place.current():
            return find_plan(
                self.place,
                request,
                self.cell,
                self.pbc,
                self.batch,
                self.sigma,
                widths,
                None,
                self.positions,
            )

    def _blocks(self, features: bool) -> Tensor:
        """The matrices, from products with unit multipoles: the same component of the same atom of every
        system at once, and several of them in copies of the batch, as far as that fills the device."""
        layout, n_lm = self.layout, self.n_lm
        n_rows = self.n_rows if features else n_lm
        columns = layout.largest * n_lm
        blocks = self.positions.new_zeros(self.n_systems, layout.largest * n_rows, columns)
        if columns == 0:
            return blocks
        per_copy = 8 * self.n_atoms * max(n_rows, n_lm)
        copies = min(columns, SITES_PER_PRODUCT // self.n_atoms, MATRIX_BYTES // per_copy)
        copies = max(copies, 1)
        together = self if copies == 1 else self._copies(copies)
        product = together.features if features else together.potential
        component = torch.arange(n_lm, device=self.positions.device)
        # [n_atoms, n_lm]: the column of each multipole in the matrix of its system
        column = layout.slot[:, None] * n_lm + component
        view = blocks.view(self.n_systems, layout.largest, n_rows, columns)
        for start in range(0, columns, copies):
            wanted = torch.arange(start, start + copies, device=self.positions.device)
            units = (column == wanted[:, None, None]).to(self.positions.dtype)  # [copies, n_atoms, n_lm]
            values = product(units.reshape(-1, n_lm)).reshape(copies, self.n_atoms, n_rows)
            count = min(copies, columns - start)
            view[self.batch, layout.slot, :, start : start + count] = values[:count].permute(1, 2, 0)
        return blocks

    def _copies(self, n: int) -> DeviceGeometry:
        """The same systems n times."""
        shift = torch.arange(n, device=self.batch.device)[:, None] * self.n_systems
        return self._of(
            self.positions.repeat(n, 1),
            self.sigma.repeat(n),
            self.cell.repeat(n, 1, 1),
            self.pbc.repeat(n, 1),
            (self.batch + shift).reshape(-1),
        )

    def _of(
        self, positions: Tensor, sigma: Tensor, cell: Tensor, pbc: Tensor, batch: Tensor
    ) -> DeviceGeometry:
        """Other systems with the same settings."""
        energies, features = self._energies, self._features
        return DeviceGeometry(
            positions,
            sigma,
            self.widths,
            self.max_l,
            self.features_max_l,
            cell,
            pbc,
            batch,
            features.normalization,
            energies.self_interaction,
            features.self_interaction,
            energies.boundary,
            energies.method,
            energies.accuracy,
            energies.precision,
        )


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().resolve_neg().contiguous()
