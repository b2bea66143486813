"""The electrostatic operators of fixed atoms as functions of tensors, on the CPU or on a device."""

from __future__ import annotations

from typing import Protocol

import torch

from electret.kernels.geometry import Geometry

__all__ = ["FixedOperators", "HostOperators"]


class FixedOperators(Protocol):
    """What a solver's loop evaluates again and again; float64, without derivatives.
    `electret.cuda.geometry.DeviceGeometry` is the one of a device."""

    def features(self, multipoles: torch.Tensor) -> torch.Tensor:
        """B p `[n_atoms, n_widths, n_features_lm]` of multipoles `[n_atoms, n_lm]`."""
        ...

    def features_transpose(self, cotangent: torch.Tensor) -> torch.Tensor:
        """Bᵀ g `[n_atoms, n_lm]` of `[n_atoms, n_widths, n_features_lm]`."""
        ...

    def potential(self, multipoles: torch.Tensor) -> torch.Tensor:
        """A p `[n_atoms, n_lm]`."""
        ...


class HostOperators:
    """Those of an :class:`electret.Geometry`, which reads CPU tensors in place.

    Args:
        geometry: of the batch.
    """

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry

    def features(self, multipoles: torch.Tensor) -> torch.Tensor:
        """B p."""
        return torch.from_numpy(self.geometry.features(_array(multipoles)))

    def features_transpose(self, cotangent: torch.Tensor) -> torch.Tensor:
        """Bᵀ g."""
        return torch.from_numpy(self.geometry.features_transpose(_array(cotangent)))

    def potential(self, multipoles: torch.Tensor) -> torch.Tensor:
        """A p."""
        return torch.from_numpy(self.geometry.potential(_array(multipoles)))


def _array(tensor: torch.Tensor):
    return tensor.detach().resolve_neg().contiguous().numpy()
