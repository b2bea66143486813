"""The electrostatic operators of fixed atoms on a device, for self-consistent loops."""

from __future__ import annotations

import torch
from torch import Tensor

from electret import _native
from electret.cuda.operators import queue
from electret.cuda.plans import Request, find_plan, place_of
from electret.cuda.waves import Waves, find_waves
from electret.kernels.arguments import Options, Receivers, Systems
from electret.kernels.geometry import Geometry
from electret.support.locks import cached_property

__all__ = ["DeviceGeometry", "Layout", "host_geometry"]

SITES_PER_PRODUCT = 8192
"""Atoms that one evaluation of matrix columns takes together: enough to fill a device."""

MATRIX_BYTES = 1 << 30
"""Largest array of columns that is built at once."""


class Layout:
    """Places of the atoms of a batch in blocks padded to the largest system.

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
    """Operators from multipoles to energy, potential and features at fixed positions, for float64 tensors of
    a device (CPU tensors: the emulated one); the counterpart of :class:`electret.Geometry`.

    Args:
        systems: the atoms.
        sigma: `[n_atoms]` in Å.
        receivers: None without features.
        max_l: highest order of the sources.
        options: settings of the sums; `self_interaction` is that of the energies.
        features_self_interaction: that of the features.

    Raises:
        InputError: an argument cannot be used.
        DeviceError: the device or its libraries cannot be used.
    """

    def __init__(
        self,
        systems: Systems,
        sigma: Tensor,
        receivers: Receivers | None,
        max_l: int,
        options: Options,
        features_self_interaction: bool = False,
    ) -> None:
        positions, cell, self.pbc, self.batch = systems
        self.systems = systems._replace(
            positions=positions.detach().contiguous(), cell=cell.detach().contiguous()
        )
        self.positions, self.cell = self.systems.positions, self.systems.cell
        self.sigma, self.receivers, self.max_l = sigma.detach(), receivers, max_l
        self.options, self.features_self_interaction = options, features_self_interaction
        self.place = place_of(self.positions)
        self._subsets: dict[tuple[int, ...], tuple[DeviceGeometry, Tensor, Tensor]] = {}

    @property
    def widths(self) -> Tensor | None:
        """Widths of the receivers in Å, `[n_widths]`."""
        return None if self.receivers is None else self.receivers.widths

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
        return 0 if self.receivers is None else self.receivers.widths.shape[0] * self.receivers.n_lm

    def energy_and_potential(self, multipoles: Tensor) -> tuple[Tensor, Tensor]:
        """Energy `[n_systems]` in eV and potential dE/dp `[n_atoms, n_lm]`, of multipoles likewise."""
        energy, potential = multipoles.new_empty(self.n_systems), multipoles.new_empty(multipoles.shape)
        if self.n_atoms == 0:
            return energy.zero_(), potential
        outputs = {"value": energy, "multipoles_gradient": potential}
        self._queue(self._energy_plan, outputs, multipoles=multipoles)
        return energy, potential

    def potential(self, multipoles: Tensor) -> Tensor:
        """A p, `[n_atoms, n_lm]`."""
        return self.energy_and_potential(multipoles)[1]

    def features(self, multipoles: Tensor) -> Tensor:
        """B p, `[n_atoms, n_widths, (features_max_l + 1)**2]`."""
        assert self.receivers is not None
        widths, n_lm = self.receivers.widths, self.receivers.n_lm
        values = multipoles.new_empty(self.n_atoms, widths.shape[0], n_lm)
        if self.n_atoms:
            self._queue(self._features_plan, {"features": values}, multipoles=multipoles)
        return values

    def features_transpose(self, cotangent: Tensor) -> Tensor:
        """Bᵀ g, `[n_atoms, n_lm]` of `[n_atoms, n_widths, (features_max_l + 1)**2]`."""
        values = cotangent.new_empty(self.n_atoms, self.n_lm)
        if self.n_atoms:
            self._queue(self._features_plan, {"multipoles_gradient": values}, cotangent=cotangent)
        return values

    def _queue(self, plan: _native.DevicePlan, outputs: dict[str, Tensor], **inputs: Tensor) -> None:
        inputs |= {"positions": self.positions, "cell": self.cell}
        queue(self.place, plan, {name: tensor.detach() for name, tensor in inputs.items()}, outputs)

    @cached_property
    def layout(self) -> Layout:
        """Places of the atoms in the blocks of the matrices."""
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
        """The longest waves of B; None likewise."""
        return self._waves(self.receivers)

    def _waves(self, receivers: Receivers | None) -> Waves | None:
        return find_waves(self.systems, self.sigma, self.layout.sizes, self.max_l, receivers)

    @property
    def methods(self) -> list[tuple[str, str | None]]:
        """The methods that serve the energy and the features (None without widths) of each system."""
        return self._of_both("methods")

    @property
    def plans(self) -> list[tuple[str, str | None]]:
        """Methods with their parameters as text."""
        return self._of_both("plans")

    def subset(self, systems: tuple[int, ...]) -> tuple[DeviceGeometry, Tensor, Tensor]:
        """Some of the systems alone, with their atoms and systems in this batch, `[n]` each."""
        if systems not in self._subsets:
            index = torch.tensor(systems, dtype=torch.int64, device=self.batch.device)
            numbers = torch.full((self.n_systems,), -1, dtype=torch.int64, device=self.batch.device)
            numbers[index] = torch.arange(len(systems), device=self.batch.device)
            atoms = torch.nonzero(numbers[self.batch] >= 0)[:, 0]
            chosen = (self.positions[atoms], self.cell[index], self.pbc[index], numbers[self.batch[atoms]])
            part = self._of(Systems(*chosen), self.sigma[atoms])
            self._subsets[systems] = part, atoms, index
        return self._subsets[systems]

    def on_host(self) -> Geometry:
        """Operators of these atoms on the CPU."""
        return host_geometry(
            self.systems, self.sigma, self.receivers, self.max_l, self.options, self.features_self_interaction
        )

    def _of_both(self, attribute: str) -> list[tuple[str, str | None]]:
        energies = getattr(self._energy_plan, attribute)
        if self.receivers is None:
            return [(energy, None) for energy in energies]
        return list(zip(energies, getattr(self._features_plan, attribute), strict=True))

    @cached_property
    def _energy_plan(self) -> _native.DevicePlan:
        return self._plan(Request(self.max_l, options=self.options, fixed=True), None)

    @cached_property
    def _features_plan(self) -> _native.DevicePlan:
        assert self.receivers is not None
        widths, features_max_l, normalization = self.receivers
        options = self.options._replace(self_interaction=self.features_self_interaction)
        return self._plan(Request(self.max_l, features_max_l, normalization, options, fixed=True), widths)

    def _plan(self, request: Request, widths: Tensor | None) -> _native.DevicePlan:
        with self.place.current():
            return find_plan(self.place, request, self.systems, self.sigma, widths)

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
        """The systems n times."""
        shift = torch.arange(n, device=self.batch.device)[:, None] * self.n_systems
        copies = Systems(
            self.positions.repeat(n, 1),
            self.cell.repeat(n, 1, 1),
            self.pbc.repeat(n, 1),
            (self.batch + shift).reshape(-1),
        )
        return self._of(copies, self.sigma.repeat(n))

    def _of(self, systems: Systems, sigma: Tensor) -> DeviceGeometry:
        """Operators of other systems with these settings."""
        return DeviceGeometry(
            systems, sigma, self.receivers, self.max_l, self.options, self.features_self_interaction
        )


def host_geometry(
    systems: Systems,
    sigma: Tensor,
    receivers: Receivers | None,
    max_l: int,
    options: Options,
    features_self_interaction: bool = False,
) -> Geometry:
    """Operators of the atoms on the CPU. Arguments are those of `DeviceGeometry`, tensors of any device."""
    x, cell, pbc, batch = (tensor.detach().cpu().numpy() for tensor in systems)
    widths, features_max_l, normalization = receivers or Receivers(torch.empty(0), 0)
    boundary, method, accuracy, _, own = options
    return Geometry(
        x,
        sigma.detach().cpu().numpy(),
        widths.cpu().numpy(),
        max_l=max_l,
        features_max_l=features_max_l,
        cell=cell,
        pbc=pbc,
        batch=batch,
        normalization=normalization,
        self_interaction=own,
        features_self_interaction=features_self_interaction,
        boundary=boundary,
        method=method,
        accuracy=accuracy,
    )
