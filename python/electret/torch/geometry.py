"""Operators of fixed atoms on tensors of the CPU or a GPU, without derivatives."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from electret import _native
from electret.cuda.geometry import DeviceGeometry
from electret.cuda.operators import emulated
from electret.errors import InputError
from electret.kernels import inputs
from electret.kernels.arguments import Receivers
from electret.torch import arguments
from electret.torch.operators import arrays

__all__ = ["Geometry"]


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
        self._on_cpu = positions.device.type == "cpu" and not emulated()
        if self._on_cpu:
            self._native = _native.Geometry(
                arrays(systems), arrays(sources.sigma), self.max_l, arrays(receivers), options, own
            )
        else:
            self._device = DeviceGeometry(
                systems, sources.sigma, receivers if w.shape[0] else None, self.max_l, options, own
            )

    def energy_and_potential(self, multipoles: Tensor) -> tuple[Tensor, Tensor]:
        """Energy ``[n_systems]`` in eV and potential dE/dp ``[n_atoms, n_lm]`` of one evaluation."""
        p = self._checked("multipoles", multipoles, (self._shape[0], (self.max_l + 1) ** 2))
        if self._on_cpu:
            energy, potential = self._native.energy(arrays(p))
            return torch.from_numpy(energy), torch.from_numpy(potential)
        return self._device.energy_and_potential(p)

    def features(self, multipoles: Tensor) -> Tensor:
        """Features ``[n_atoms, n_widths, (features_max_l + 1)**2]``, as :func:`electret.torch.features`."""
        self._require_receivers()
        p = self._checked("multipoles", multipoles, (self._shape[0], (self.max_l + 1) ** 2))
        if self._on_cpu:
            return torch.from_numpy(self._native.features(arrays(p)))
        return self._device.features(p)

    def features_transpose(self, cotangent: Tensor) -> Tensor:
        """Transpose of :meth:`features`: ``[n_atoms, n_lm]`` of a `cotangent`
        ``[n_atoms, n_widths, (features_max_l + 1)**2]``."""
        self._require_receivers()
        g = self._checked("cotangent", cotangent, self._shape)
        if self._on_cpu:
            return torch.from_numpy(self._native.features_transpose(arrays(g)))
        return self._device.features_transpose(g)

    @property
    def methods(self) -> list[tuple[str, str | None]]:
        """The methods that serve the energy and the features (None without widths) of each system."""
        return (self._native if self._on_cpu else self._device).methods

    def _require_receivers(self) -> None:
        if self._shape[1] == 0:
            raise InputError("this Geometry has no widths, so no features; make it with widths=[...]")

    def _checked(self, name: str, values: Tensor, shape: tuple[int, ...]) -> Tensor:
        arguments.require_real(**{name: values})
        if not self._on_cpu:
            arguments.require_together(self._device.positions, **{name: values})
        if tuple(values.shape) != shape:
            raise InputError(f"{name} has shape {list(values.shape)}; expected {list(shape)}")
        return arguments.cast(values.detach(), torch.float64)
