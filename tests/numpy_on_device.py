"""The numpy layer on a device: arrays are copied there, results are copied back.

Stands in for `electret._native` in :mod:`electret.kernels`, so that every test of the numpy layer tests the
kernels of a device too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from electret import _native
from electret.cuda import operators
from electret.cuda.found_device import found_device
from electret.cuda.geometry import DeviceGeometry
from electret.errors import InputError
from electret.kernels import electrostatics, geometry, jacobian
from electret.kernels.arguments import Options
from electret.scf.flow import Flow
from electret.scf.linear.device import DeviceJacobian
from electret.scf.problem import Batch


@contextmanager
def numpy_layer_on(device: str, precision: str = "float64") -> Iterator[None]:
    """Send calls of `coulomb`, `features`, `potential`, `Geometry` and `Jacobian` to a device.

    Args:
        device: "cpu", "cuda", "cuda:1", ... or "emulated".
        precision: of long sums on the device.
    """
    stand_in = _native if device == "cpu" else DeviceFunctions(device, precision)
    with ExitStack() as stack:
        for module in (electrostatics, geometry, jacobian):
            stack.enter_context(mock.patch.object(module, "_native", stand_in))
        yield


def array(tensor: Tensor) -> np.ndarray:
    return tensor.cpu().numpy()


class DeviceFunctions:
    """The functions of `electret._native` on a device."""

    def __init__(self, device: str, precision: str) -> None:
        self.device = torch.device("cpu") if device == "emulated" else found_device(device)
        self.emulated, self.precision = device == "emulated", precision

    def tensor(self, values: Any) -> Any:
        """A value whose arrays are copies on the device, and whose precision is that of the device."""
        if isinstance(values, np.ndarray):
            return torch.from_numpy(np.ascontiguousarray(values).copy()).to(self.device)
        if isinstance(values, Options):
            return values._replace(precision=self.precision)
        return type(values)(*map(self.tensor, values)) if isinstance(values, tuple) else values

    @contextmanager
    def active(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            if self.emulated:
                stack.enter_context(operators.emulation())
            yield

    def run(self, function: Any, *arguments: Any, **settings: Any) -> Any:
        """Result of a function of tensors, as arrays."""
        with self.active():
            found = function(*map(self.tensor, arguments), **settings)
        return array(found) if isinstance(found, Tensor) else tuple(map(array, found))

    def __getattr__(self, name: str) -> Any:
        """`coulomb`, `features`, `potential`."""
        return partial(self.run, getattr(operators, name))

    def Geometry(self, systems, sigma, max_l, receivers, *settings):
        return ArrayGeometry(
            self, systems, sigma, receivers if receivers.widths.size else None, max_l, *settings
        )

    def Jacobian(self, geometry, operator, *arguments):
        return ArrayJacobian(geometry, operator, *arguments)


class ArrayGeometry:
    """`electret._native.Geometry` on a device."""

    def __init__(self, functions: DeviceFunctions, *arguments: Any) -> None:
        self.functions = functions
        with functions.active():
            self.there = DeviceGeometry(*map(functions.tensor, arguments))
            self.methods, self.plans = self.there.methods, self.there.plans

    def require_receivers(self) -> None:
        if self.there.receivers is None:
            raise InputError("this Geometry has no widths, so no features; make it with widths=[...]")

    def energy(self, multipoles):
        return self.functions.run(self.there.energy_and_potential, multipoles)

    def features(self, multipoles):
        self.require_receivers()
        return self.functions.run(self.there.features, multipoles)

    def features_transpose(self, cotangent):
        self.require_receivers()
        return self.functions.run(self.there.features_transpose, cotangent)

    def coulomb_matrix(self, system):
        return self.block(self.there.coulomb_blocks, system, self.there.n_lm)

    def features_matrix(self, system):
        self.require_receivers()
        return self.block(self.there.features_blocks, system, self.there.n_rows)

    def block(self, blocks, system, n_rows):
        size = self.there.layout.sizes[system]
        return array(blocks[system, : size * n_rows, : size * self.there.n_lm]).copy()


class ArrayJacobian:
    """`electret._native.Jacobian` on a device."""

    def __init__(self, geometry, operator, left, right, column, flow, constrained, *settings) -> None:
        self.functions, there = geometry.functions, geometry.there
        if operator == "features":
            geometry.require_receivers()
            if right is None:
                raise InputError('right is missing, but the rows of operator "features" are not multipoles')
        if column is None:
            column = np.zeros((there.n_atoms, there.n_lm))
            column[:, 0] = 1.0
        blocks = map(self.functions.tensor, (left, right, column, constrained))
        if flow is not None:
            edges, *values = (self.functions.tensor(part) for part in flow)
            flow = Flow(Batch(there.batch, there.n_systems), edges.T, *values)
        self.there = DeviceJacobian(there, operator, *blocks, *settings, flow=flow)

    def solve(self, residual, constraint, transpose=False, tolerance=None):
        there = self.there
        there.failed = torch.zeros_like(there.failed)
        x, y = self.functions.run(there.solve, residual, constraint, transpose=transpose, tolerance=tolerance)
        reasons = np.array([1 if method == "dense" else 2 for method in there.methods])
        return x, y, np.where(array(there.failed), reasons, 0)

    def apply(self, x, y, transpose=False):
        return self.functions.run(self.there.apply, x, y, transpose=transpose)

    def eigenpair(self):
        with self.functions.active():
            found = self.there.dominant_eigenpair()
        values, *vectors = (array(torch.view_as_real(part.resolve_conj())) for part in found)
        return values, *(part.reshape(-1, 2) for part in vectors)

    def spectral_radius(self):
        values = self.eigenpair()[0]
        return np.hypot(values[:, 0], values[:, 1])

    @property
    def methods(self):
        return self.there.methods
