"""Operators of fixed atoms on tensors of the CPU or a GPU, without derivatives."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from electret.cuda.geometry import DeviceGeometry, host_geometry
from electret.cuda.operators import emulated
from electret.errors import InputError
from electret.kernels import inputs
from electret.kernels.arguments import Options, Receivers, Systems
from electret.kernels.geometry import Geometry as NumpyGeometry
from electret.torch import arguments
from electret.torch.operators import array

__all__ = ["FixedOperators", "Geometry", "HostOperators", "fixed_operators"]


class HostOperators:
    """Operators of an :class:`electret.Geometry`, which reads CPU tensors in place; as
    `electret.cuda.geometry.DeviceGeometry`."""

    def __init__(self, geometry: NumpyGeometry) -> None:
        self.geometry = geometry

    def energy_and_potential(self, multipoles: Tensor) -> tuple[Tensor, Tensor]:
        """Energy `[n_systems]` and potential `[n_atoms, n_lm]`."""
        energy, potential = self.geometry.energy_and_potential(array(multipoles))
        return torch.from_numpy(energy), torch.from_numpy(potential)

    def potential(self, multipoles: Tensor) -> Tensor:
        """A p."""
        return self.energy_and_potential(multipoles)[1]

    def features(self, multipoles: Tensor) -> Tensor:
        """B p."""
        return torch.from_numpy(self.geometry.features(array(multipoles)))

    def features_transpose(self, cotangent: Tensor) -> Tensor:
        """Bᵀ g."""
        return torch.from_numpy(self.geometry.features_transpose(array(cotangent)))

    @property
    def methods(self) -> list[tuple[str, str | None]]:
        """The methods that serve the energy and the features (None without widths) of each system."""
        return self.geometry.methods


FixedOperators = HostOperators | DeviceGeometry
"""Operators of fixed atoms for the loop of a solver; float64, without derivatives."""


def fixed_operators(
    systems: Systems,
    sigma: Tensor,
    receivers: Receivers | None,
    max_l: int,
    options: Options,
    features_self_interaction: bool = False,
) -> FixedOperators:
    """Operators of fixed atoms on the device of their tensors. Arguments are those of `DeviceGeometry`."""
    on_host = systems.positions.device.type == "cpu" and not emulated()
    make = host_geometry if on_host else DeviceGeometry
    found = make(systems, sigma, receivers, max_l, options, features_self_interaction)
    return HostOperators(found) if isinstance(found, NumpyGeometry) else found


class Geometry:
    """Operators from multipoles to energy, potential and features at fixed positions, on their device: the
    counterpart of :class:`electret.Geometry`, whose arguments, units and conventions these are.

    Results are float64 tensors without derivatives. On a GPU everything stays there, and the work is queued
    on torch's current stream.

    Raises:
        InputError: an argument cannot be used; the message names array, index, value and remedy.

    Example:
        >>> import torch
        >>> from electret.torch import Geometry
        >>> r = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 3.0]], dtype=torch.float64)
        >>> g = Geometry(r, sigma=0.3, widths=[1.5], max_l=0)
        >>> g.features(torch.tensor([[1.0], [-1.0]], dtype=torch.float64)).shape
        torch.Size([2, 1, 1])
    """

    def __init__(
        self,
        positions: Tensor,
        sigma: float | Tensor = 1.0,
        widths: Sequence[float] | Tensor = (1.5, 3.0),
        max_l: int = 1,
        features_max_l: int | None = None,
        cell: Tensor | None = None,
        pbc: bool | Sequence[bool] | Tensor = False,
        batch: Tensor | None = None,
        normalization: str = "receiver",
        self_interaction: bool = True,
        features_self_interaction: bool = False,
        boundary: str | None = None,
        method: str = "auto",
        accuracy: float = 1e-8,
        precision: str = "float64",
    ) -> None:
        options = inputs.options(boundary, method, accuracy, precision, self_interaction)
        inputs.require_normalization(normalization)
        own = inputs.switch("features_self_interaction", features_self_interaction)
        self.max_l = inputs.max_order("max_l", max_l)
        order = self.max_l if features_max_l is None else inputs.max_order("features_max_l", features_max_l)
        arguments.require_real(positions=positions)
        inputs.require_points("positions", positions.shape)
        none = positions.new_zeros(positions.shape[0], 1)
        with torch.no_grad():
            systems, sources, _ = arguments.prepare(positions, none, sigma, cell, pbc, batch)
            w = arguments.constant("widths", widths, systems.positions).reshape(-1)
        receivers = Receivers(w, order, normalization)
        self._shape = (systems.n_atoms, w.shape[0], receivers.n_lm)
        self._positions = systems.positions
        self._operators = fixed_operators(
            systems, sources.sigma, receivers if w.shape[0] else None, self.max_l, options, own
        )

    def energy_and_potential(self, multipoles: Tensor) -> tuple[Tensor, Tensor]:
        """Energy ``[n_systems]`` in eV and potential dE/dp ``[n_atoms, n_lm]`` of one evaluation."""
        shape = (self._shape[0], (self.max_l + 1) ** 2)
        return self._operators.energy_and_potential(self._checked("multipoles", multipoles, shape))

    def features(self, multipoles: Tensor) -> Tensor:
        """Features ``[n_atoms, n_widths, (features_max_l + 1)**2]``, as :func:`electret.torch.features`."""
        self._require_receivers()
        shape = (self._shape[0], (self.max_l + 1) ** 2)
        return self._operators.features(self._checked("multipoles", multipoles, shape))

    def features_transpose(self, cotangent: Tensor) -> Tensor:
        """Transpose of :meth:`features`: ``[n_atoms, n_lm]`` of a `cotangent`
        ``[n_atoms, n_widths, (features_max_l + 1)**2]``."""
        self._require_receivers()
        return self._operators.features_transpose(self._checked("cotangent", cotangent, self._shape))

    @property
    def methods(self) -> list[tuple[str, str | None]]:
        """The methods that serve the energy and the features (None without widths) of each system."""
        return self._operators.methods

    def _require_receivers(self) -> None:
        if self._shape[1] == 0:
            raise InputError("this Geometry has no widths, so no features; make it with widths=[...]")

    def _checked(self, name: str, values: Tensor, shape: tuple[int, ...]) -> Tensor:
        arguments.require_real(**{name: values})
        arguments.require_together(self._positions, **{name: values})
        if tuple(values.shape) != shape:
            raise InputError(f"{name} has shape {list(values.shape)}; expected {list(shape)}")
        return arguments.cast(values.detach(), torch.float64)
