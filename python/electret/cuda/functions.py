"""The functions of `electret._native` on a device: numpy arrays are copied in, results are copied out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from electret.cuda import operators as device_operators
from electret.cuda.found_device import found_device
from electret.cuda.geometry import DeviceGeometry
from electret.cuda.neighbors import pairs_on_device
from electret.errors import InputError
from electret.kernels.inputs import FloatArray

__all__ = ["DeviceFunctions"]


class DeviceFunctions:
    """The functions with the arguments and results of `electret._native`, of which the docs of
    :mod:`electret.kernels.electrostatics` and :mod:`electret.kernels.geometry` tell more.

    Args:
        name: "cuda", "cuda:1", ... or "emulated".
        precision: of long sums, "float64" or "float32".

    Raises:
        InputError: there is no such device.
    """

    def __init__(self, name: str, precision: str = "float64") -> None:
        self.name, self.precision = name, precision
        self._device = torch.device("cpu") if name == "emulated" else found_device(name)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Within it operators take the device's way."""
        if self.name != "emulated":
            yield
            return
        with device_operators.emulation():
            yield

    def tensor(self, array: NDArray[Any]) -> Tensor:
        """A copy on the device."""
        return torch.from_numpy(np.ascontiguousarray(array).copy()).to(self._device)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        moved = [self.tensor(value) if isinstance(value, np.ndarray) else value for value in arguments]
        with torch.no_grad(), self.active():
            found = function(*moved)
        if isinstance(found, Tensor):
            return found.cpu().numpy()
        return tuple(value.cpu().numpy() for value in found)

    def coulomb(
        self,
        positions: FloatArray,
        multipoles: FloatArray,
        sigma: FloatArray,
        cell: FloatArray,
        pbc: NDArray[np.bool_],
        batch: NDArray[np.int64],
        boundary: str | None = None,
        method: str = "auto",
        accuracy: float = 1e-8,
        self_interaction: bool = True,
        gradients: bool = True,
    ) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Energy, dE/dmultipoles, dE/dpositions, dE/dcell."""
        return self._call(
            device_operators.coulomb,
            positions,
            multipoles,
            cell,
            sigma,
            pbc,
            batch,
            boundary,
            method,
            accuracy,
            self.precision,
            self_interaction,
            gradients,
        )

    def features(
        self,
        positions: FloatArray,
        multipoles: FloatArray,
        sigma: FloatArray,
        widths: FloatArray,
        max_l: int,
        cell: FloatArray,
        pbc: NDArray[np.bool_],
        batch: NDArray[np.int64],
        normalization: str = "receiver",
        boundary: str | None = None,
        method: str = "auto",
        accuracy: float = 1e-8,
        self_interaction: bool = False,
    ) -> FloatArray:
        """Features `[n_atoms, n_widths, (max_l + 1)**2]`."""
        return self._call(
            device_operators.features,
            positions,
            multipoles,
            cell,
            sigma,
            widths,
            pbc,
            batch,
            max_l,
            normalization,
            boundary,
            method,
            accuracy,
            self.precision,
            self_interaction,
        )

    def potential(
        self,
        points: FloatArray,
        points_batch: NDArray[np.int64],
        positions: FloatArray,
        multipoles: FloatArray,
        sigma: FloatArray,
        cell: FloatArray,
        pbc: NDArray[np.bool_],
        batch: NDArray[np.int64],
        boundary: str | None = None,
        method: str = "auto",
        accuracy: float = 1e-8,
    ) -> FloatArray:
        """Potential `[n_points]` at points."""
        return self._call(
            device_operators.potential,
            points,
            points_batch,
            positions,
            multipoles,
            cell,
            sigma,
            pbc,
            batch,
            boundary,
            method,
            accuracy,
            self.precision,
        )

    def neighbor_list(
        self,
        quantities: str,
        positions: FloatArray,
        cells: FloatArray,
        pbc: NDArray[np.bool_],
        cutoff: float,
        batch: NDArray[np.int64],
        half: bool,
        self_interaction: bool,
    ) -> tuple[NDArray[Any], ...]:
        """Arrays of pairs in the order of the letters."""
        moved = self.tensor(positions)
        found = pairs_on_device(quantities, moved, cells, pbc, batch, cutoff, half, self_interaction)
        return tuple(values.cpu().numpy() for values in found)

    def Geometry(self, *arguments: Any, **settings: Any) -> _ArrayGeometry:
        """The operators of fixed atoms."""
        return _ArrayGeometry(self, *arguments, **settings)

    def Jacobian(self, *arguments: Any, **settings: Any) -> _ArrayJacobian:
        """The Jacobians over a geometry of this device."""
        return _ArrayJacobian(self, *arguments, **settings)


class _ArrayGeometry:
    """`electret._native.Geometry` on a device."""

    def __init__(
        self,
        functions: DeviceFunctions,
        positions: FloatArray,
        sigma: FloatArray,
        widths: FloatArray,
        max_l: int,
        features_max_l: int,
        cell: FloatArray,
        pbc: NDArray[np.bool_],
        batch: NDArray[np.int64],
        **settings: Any,
    ) -> None:
        self.functions = functions
        with functions.active():
            self.on_device = DeviceGeometry(
                functions.tensor(positions),
                functions.tensor(sigma),
                functions.tensor(widths) if widths.size else None,
                max_l,
                features_max_l,
                functions.tensor(cell),
                functions.tensor(pbc),
                functions.tensor(batch),
                precision=functions.precision,
                **settings,
            )
            _ = self.on_device.methods  # makes the plans, which look at the arguments
        self.n_rows = self.on_device.n_rows

    def energy(self, multipoles: FloatArray) -> tuple[FloatArray, FloatArray]:
        energy, potential = self.on_device.energy_and_potential(self.functions.tensor(multipoles))
        return energy.cpu().numpy(), potential.cpu().numpy()

    def features(self, multipoles: FloatArray) -> FloatArray:
        self._require_receivers()
        return self.on_device.features(self.functions.tensor(multipoles)).cpu().numpy()

    def features_transpose(self, cotangent: FloatArray) -> FloatArray:
        self._require_receivers()
        return self.on_device.features_transpose(self.functions.tensor(cotangent)).cpu().numpy()

    def coulomb_matrix(self, system: int) -> FloatArray:
        return self._matrix(self.on_device.coulomb_blocks, system, self.on_device.n_lm)

    def features_matrix(self, system: int) -> FloatArray:
        self._require_receivers()
        return self._matrix(self.on_device.features_blocks, system, self.n_rows)

    def _matrix(self, blocks: Tensor, system: int, n_rows: int) -> FloatArray:
        size = self.on_device.layout.sizes[system]
        block = blocks[system, : size * n_rows, : size * self.on_device.n_lm]
        return block.cpu().numpy().copy()

    def _require_receivers(self) -> None:
        if self.on_device.widths is None:
            raise InputError("this Geometry has no widths, so no features; make it with widths=[...]")

    @property
    def methods(self) -> list[tuple[str, str | None]]:
        return self.on_device.methods

    @property
    def plans(self) -> list[tuple[str, str | None]]:
        return self.on_device.plans


class _ArrayJacobian:
    """`electret._native.Jacobian` on a device."""

    def __init__(
        self,
        functions: DeviceFunctions,
        geometry: _ArrayGeometry,
        operator: str,
        left: FloatArray | None,
        right: FloatArray | None,
        column: FloatArray | None,
        constrained: NDArray[np.bool_],
        **settings: Any,
    ) -> None:
        from electret.scf.linear.device import DeviceJacobian

        self.functions, on_device = functions, geometry.on_device
        if operator == "features":
            if on_device.widths is None:
                raise InputError(
                    'operator "features" needs receivers, but the Geometry has no widths; make the Geometry '
                    "with widths=[...]"
                )
            if right is None:
                raise InputError(
                    'right is missing, but the rows of operator "features" are not multipoles; give right '
                    "[n_atoms, n_lm, n_widths * n_features_lm]"
                )
        if column is None:
            column = np.zeros((on_device.n_atoms, on_device.n_lm))
            column[:, 0] = 1.0
        self._jacobian = DeviceJacobian(
            on_device,
            operator,
            None if left is None else functions.tensor(left),
            None if right is None else functions.tensor(right),
            functions.tensor(column),
            functions.tensor(constrained),
            **settings,
        )

    def solve(
        self,
        residual: FloatArray,
        constraint: FloatArray,
        transpose: bool = False,
        tolerance: float | None = None,
    ) -> tuple[FloatArray, FloatArray, NDArray[np.int64]]:
        jacobian = self._jacobian
        jacobian.failed = torch.zeros_like(jacobian.failed)
        with self.functions.active():
            x, y = jacobian.solve(
                self.functions.tensor(residual), self.functions.tensor(constraint), transpose, tolerance
            )
        reasons = np.array([1 if method == "dense" else 2 for method in jacobian.methods], dtype=np.int64)
        status = np.where(jacobian.failed.cpu().numpy(), reasons, 0)
        return x.cpu().numpy(), y.cpu().numpy(), status

    def apply(self, x: FloatArray, y: FloatArray, transpose: bool = False) -> tuple[FloatArray, FloatArray]:
        with self.functions.active():
            r, s = self._jacobian.apply(self.functions.tensor(x), self.functions.tensor(y), transpose)
        return r.cpu().numpy(), s.cpu().numpy()

    def eigenpair(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        with self.functions.active():
            found = self._jacobian.dominant_eigenpair()
        values, right, left = (torch.view_as_real(part.resolve_conj()).cpu().numpy() for part in found)
        return values, right.reshape(-1, 2), left.reshape(-1, 2)

    def spectral_radius(self) -> FloatArray:
        values = self.eigenpair()[0]
        return np.hypot(values[:, 0], values[:, 1])

    @property
    def methods(self) -> list[str]:
        return self._jacobian.methods
