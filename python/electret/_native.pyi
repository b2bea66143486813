"""Typed face of the Rust extension. Arrays are C-contiguous; anything else is refused by the binding."""

from collections.abc import Sequence
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "COULOMB_CONSTANT",
    "DENSE_LIMIT",
    "INSTRUCTIONS",
    "DeviceError",
    "DeviceNeighborSearch",
    "DevicePlan",
    "ElectretError",
    "Geometry",
    "InputError",
    "Jacobian",
    "NeighborList",
    "__version__",
    "add_package_folders",
    "charge_equilibration",
    "compile_kernels",
    "coulomb",
    "coulomb_tangent",
    "device_count",
    "device_libraries",
    "device_memory_peak",
    "device_properties",
    "features",
    "features_gradient",
    "features_tangent",
    "longest_waves",
    "neighbor_list",
    "potential",
    "receiver_factors",
]

__version__: str
COULOMB_CONSTANT: float
DENSE_LIMIT: int
KRYLOV_LEAST_GAIN: float
KRYLOV_RESTART: int
KRYLOV_TOLERANCE: float
SMALLEST_SCHUR: float
INSTRUCTIONS: str

class ElectretError(Exception): ...
class InputError(ElectretError, ValueError): ...
class DeviceError(ElectretError, RuntimeError): ...

def device_count() -> int: ...
def device_properties(device: int) -> dict[str, Any]: ...
def device_libraries() -> dict[str, Any]: ...
def add_package_folders(folders: list[str]) -> None: ...

@final
class DeviceNeighborSearch:
    def __new__(
        cls,
        device: int,
        stream: int,
        positions: int,
        cell: NDArray[np.float64],
        pbc: NDArray[np.bool_],
        first: Sequence[int],
        cutoff: float,
    ) -> DeviceNeighborSearch: ...
    def __len__(self) -> int: ...
    def write(
        self,
        stream: int,
        *,
        i: int = 0,
        j: int = 0,
        shifts: int = 0,
        distances: int = 0,
        vectors: int = 0,
    ) -> None: ...

def compile_kernels(architecture: int) -> list[tuple[str, int]]: ...
def device_memory_peak(device: int, reset: bool) -> int: ...

@final
class DevicePlan:
    def __new__(
        cls,
        device: int,
        stream: int,
        cell: NDArray[np.float64],
        pbc: NDArray[np.bool_],
        batch: NDArray[np.int64],
        sigma: NDArray[np.float64],
        max_l: int,
        widths: NDArray[np.float64] | None,
        features_max_l: int,
        normalization: str,
        points_batch: NDArray[np.int64] | None,
        spans: NDArray[np.float64] | None,
        fixed: bool,
        boundary: str | None,
        method: str,
        accuracy: float,
        precision: str,
        self_interaction: bool,
    ) -> DevicePlan: ...
    @staticmethod
    def needs_spans(
        pbc: NDArray[np.bool_], batch: NDArray[np.int64], boundary: str | None, method: str
    ) -> bool: ...
    def evaluate(
        self,
        stream: int,
        *,
        positions: int,
        multipoles: int,
        cell: int,
        cotangent: int = 0,
        points: int = 0,
        tangents: bool = False,
        positions_tangent: int = 0,
        multipoles_tangent: int = 0,
        cotangent_tangent: int = 0,
        cell_tangent: int = 0,
        value: int = 0,
        multipoles_gradient: int = 0,
        features: int = 0,
        positions_gradient: int = 0,
        cell_gradient: int = 0,
    ) -> None: ...
    @property
    def methods(self) -> list[str]: ...
    @property
    def plans(self) -> list[str]: ...

def neighbor_list(
    quantities: str,
    positions: NDArray[np.float64],
    cell: NDArray[np.float64],
    pbc: NDArray[np.bool_],
    cutoff: float,
    batch: NDArray[np.int64] | None = None,
    half: bool = False,
    self_interaction: bool = False,
) -> tuple[NDArray[Any], ...]: ...

@final
class NeighborList:
    def __new__(
        cls, cutoff: float, skin: float, half: bool = False, self_interaction: bool = False
    ) -> NeighborList: ...
    def update(
        self,
        positions: NDArray[np.float64],
        cell: NDArray[np.float64],
        pbc: NDArray[np.bool_],
        batch: NDArray[np.int64] | None = None,
    ) -> bool: ...
    def get(self, quantities: str) -> tuple[NDArray[Any], ...]: ...
    @property
    def n_builds(self) -> int: ...
    @property
    def n_updates(self) -> int: ...
    @property
    def cutoff(self) -> float: ...
    @property
    def skin(self) -> float: ...
    @property
    def half(self) -> bool: ...
    @property
    def self_interaction(self) -> bool: ...

def coulomb(
    positions: NDArray[np.float64],
    multipoles: NDArray[np.float64],
    sigma: NDArray[np.float64],
    cell: NDArray[np.float64],
    pbc: NDArray[np.bool_],
    batch: NDArray[np.int64],
    boundary: str | None = None,
    method: str = "auto",
    accuracy: float = 1e-8,
    self_interaction: bool = True,
    gradients: bool = True,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]: ...
def coulomb_tangent(
    positions: NDArray[np.float64],
    multipoles: NDArray[np.float64],
    sigma: NDArray[np.float64],
    cell: NDArray[np.float64],
    pbc: NDArray[np.bool_],
    batch: NDArray[np.int64],
    positions_tangent: NDArray[np.float64],
    multipoles_tangent: NDArray[np.float64],
    cell_tangent: NDArray[np.float64],
    boundary: str | None = None,
    method: str = "auto",
    accuracy: float = 1e-8,
    self_interaction: bool = True,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]: ...
def features(
    positions: NDArray[np.float64],
    multipoles: NDArray[np.float64],
    sigma: NDArray[np.float64],
    widths: NDArray[np.float64],
    max_l: int,
    cell: NDArray[np.float64],
    pbc: NDArray[np.bool_],
    batch: NDArray[np.int64],
    normalization: str = "receiver",
    boundary: str | None = None,
    method: str = "auto",
    accuracy: float = 1e-8,
    self_interaction: bool = False,
) -> NDArray[np.float64]: ...
def features_gradient(
    positions: NDArray[np.float64],
    multipoles: NDArray[np.float64],
    cotangent: NDArray[np.float64],
    sigma: NDArray[np.float64],
    widths: NDArray[np.float64],
    max_l: int,
    cell: NDArray[np.float64],
    pbc: NDArray[np.bool_],
    batch: NDArray[np.int64],
    normalization: str = "receiver",
    boundary: str | None = None,
    method: str = "auto",
    accuracy: float = 1e-8,
    self_interaction: bool = False,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]: ...
def features_tangent(
    positions: NDArray[np.float64],
    multipoles: NDArray[np.float64],
    cotangent: NDArray[np.float64],
    sigma: NDArray[np.float64],
    widths: NDArray[np.float64],
    max_l: int,
    cell: NDArray[np.float64],
    pbc: NDArray[np.bool_],
    batch: NDArray[np.int64],
    positions_tangent: NDArray[np.float64],
    multipoles_tangent: NDArray[np.float64],
    cotangent_tangent: NDArray[np.float64],
    cell_tangent: NDArray[np.float64],
    normalization: str = "receiver",
    boundary: str | None = None,
    method: str = "auto",
    accuracy: float = 1e-8,
    self_interaction: bool = False,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]: ...
def potential(
    points: NDArray[np.float64],
    points_batch: NDArray[np.int64],
    positions: NDArray[np.float64],
    multipoles: NDArray[np.float64],
    sigma: NDArray[np.float64],
    cell: NDArray[np.float64],
    pbc: NDArray[np.bool_],
    batch: NDArray[np.int64],
    boundary: str | None = None,
    method: str = "auto",
    accuracy: float = 1e-8,
) -> NDArray[np.float64]: ...
def dominant_eigenpairs(
    matrices: NDArray[np.float64], sizes: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]: ...
def most_products(unknowns: int) -> int: ...
def charge_equilibration(
    positions: NDArray[np.float64],
    electronegativity: NDArray[np.float64],
    hardness: NDArray[np.float64],
    sigma: NDArray[np.float64],
    held: NDArray[np.float64],
    fixed_fermi_level: bool,
    external_field: NDArray[np.float64],
    cell: NDArray[np.float64],
    pbc: NDArray[np.bool_],
    batch: NDArray[np.int64],
    boundary: str | None = None,
    method: str = "auto",
    accuracy: float = 1e-8,
) -> tuple[
    NDArray[np.float64],
    NDArray[np.float64],
    NDArray[np.float64],
    NDArray[np.float64],
    NDArray[np.float64],
]: ...
def longest_waves(
    cell: NDArray[np.float64], unknowns: int, max_l: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]: ...
def receiver_factors(widths: NDArray[np.float64], max_l: int, normalization: str) -> NDArray[np.float64]: ...

@final
class Geometry:
    def __new__(
        cls,
        positions: NDArray[np.float64],
        sigma: NDArray[np.float64],
        widths: NDArray[np.float64],
        max_l: int,
        features_max_l: int,
        cell: NDArray[np.float64],
        pbc: NDArray[np.bool_],
        batch: NDArray[np.int64],
        normalization: str = "receiver",
        boundary: str | None = None,
        method: str = "auto",
        accuracy: float = 1e-8,
        self_interaction: bool = True,
        features_self_interaction: bool = False,
    ) -> Geometry: ...
    def energy(self, multipoles: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]: ...
    def features(self, multipoles: NDArray[np.float64]) -> NDArray[np.float64]: ...
    def features_transpose(self, cotangent: NDArray[np.float64]) -> NDArray[np.float64]: ...
    def coulomb_matrix(self, system: int) -> NDArray[np.float64]: ...
    def features_matrix(self, system: int) -> NDArray[np.float64]: ...
    @property
    def methods(self) -> list[tuple[str, str | None]]: ...
    @property
    def plans(self) -> list[tuple[str, str | None]]: ...

@final
class Jacobian:
    def __new__(
        cls,
        geometry: Geometry,
        operator: str,
        left: NDArray[np.float64] | None,
        right: NDArray[np.float64] | None,
        column: NDArray[np.float64] | None,
        constrained: NDArray[np.bool_],
        method: str = "auto",
        tolerance: float = 1e-12,
        max_iterations: int | None = None,
    ) -> Jacobian: ...
    def solve(
        self,
        residual: NDArray[np.float64],
        constraint: NDArray[np.float64],
        transpose: bool = False,
        tolerance: float | None = None,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]: ...
    def apply(
        self, x: NDArray[np.float64], y: NDArray[np.float64], transpose: bool = False
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]: ...
    def eigenpair(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]: ...
    def spectral_radius(self) -> NDArray[np.float64]: ...
    @property
    def methods(self) -> list[str]: ...
