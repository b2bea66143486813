"""Types of the Rust extension. Arrays are C-contiguous; the binding refuses others."""

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from electret.kernels.arguments import Options, Receivers, Sources, Systems, Tangents

_Floats: TypeAlias = NDArray[np.float64]
_Flags: TypeAlias = NDArray[np.bool_]
_Integers: TypeAlias = NDArray[np.int64]

__all__ = [
    "COULOMB_CONSTANT",
    "DENSE_LIMIT",
    "FLOW_CAPACITY",
    "INSTRUCTIONS",
    "KRYLOV_LEAST_GAIN",
    "KRYLOV_RESTART",
    "KRYLOV_TOLERANCE",
    "SMALLEST_SCHUR",
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
    "dominant_eigenpairs",
    "features",
    "features_gradient",
    "features_tangent",
    "longest_waves",
    "most_products",
    "neighbor_list",
    "potential",
    "receiver_factors",
]

__version__: str
COULOMB_CONSTANT: float
DENSE_LIMIT: int
FLOW_CAPACITY: float
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
        cell: _Floats,
        pbc: _Flags,
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

class _Batch(Protocol):
    @property
    def cell(self) -> _Floats: ...
    @property
    def pbc(self) -> _Flags: ...
    @property
    def batch(self) -> _Integers: ...
    @property
    def sigma(self) -> _Floats: ...
    @property
    def widths(self) -> _Floats | None: ...
    @property
    def points_batch(self) -> _Integers | None: ...

class _PlanSettings(Protocol):
    @property
    def max_l(self) -> int: ...
    @property
    def features_max_l(self) -> int: ...
    @property
    def normalization(self) -> str: ...
    @property
    def options(self) -> Options: ...
    @property
    def fixed(self) -> bool: ...

@final
class DevicePlan:
    def __new__(
        cls,
        device: int,
        stream: int,
        batch: _Batch,
        settings: _PlanSettings,
        spans: _Floats | None,
    ) -> DevicePlan: ...
    @staticmethod
    def needs_spans(batch: _Batch, options: Options) -> bool: ...
    def evaluate(self, stream: int, **addresses: int) -> None: ...
    @property
    def methods(self) -> list[str]: ...
    @property
    def plans(self) -> list[str]: ...

def neighbor_list(
    quantities: str, systems: Systems, cutoff: float, half: bool, self_interaction: bool
) -> tuple[NDArray[Any], ...]: ...

@final
class NeighborList:
    def __new__(cls, cutoff: float, skin: float, half: bool, self_interaction: bool) -> NeighborList: ...
    def update(self, systems: Systems) -> bool: ...
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
    systems: Systems, sources: Sources, options: Options, gradients: bool
) -> tuple[_Floats, _Floats, _Floats, _Floats]: ...
def coulomb_tangent(
    systems: Systems, sources: Sources, options: Options, directions: Tangents
) -> tuple[_Floats, _Floats, _Floats, _Floats]: ...
def features(systems: Systems, sources: Sources, receivers: Receivers, options: Options) -> _Floats: ...
def features_gradient(
    systems: Systems, sources: Sources, receivers: Receivers, options: Options, cotangent: _Floats
) -> tuple[_Floats, _Floats, _Floats]: ...
def features_tangent(
    systems: Systems,
    sources: Sources,
    receivers: Receivers,
    options: Options,
    cotangent: _Floats,
    directions: Tangents,
) -> tuple[_Floats, _Floats, _Floats, _Floats]: ...
def potential(
    systems: Systems, sources: Sources, options: Options, points: _Floats, points_batch: _Integers
) -> _Floats: ...
def dominant_eigenpairs(matrices: _Floats, sizes: _Integers) -> tuple[_Floats, _Floats, _Floats]: ...
def most_products(unknowns: int) -> int: ...
def charge_equilibration(
    systems: Systems,
    electronegativity: _Floats,
    hardness: _Floats,
    sigma: _Floats,
    held: _Floats,
    fixed_fermi_level: bool,
    external_field: _Floats,
    options: Options,
) -> tuple[_Floats, _Floats, _Floats, _Floats, _Floats]: ...
def longest_waves(cell: _Floats, unknowns: int, max_l: int) -> tuple[_Floats, _Floats]: ...
def receiver_factors(receivers: Receivers) -> _Floats: ...

@final
class Geometry:
    def __new__(
        cls,
        systems: Systems,
        sigma: _Floats,
        max_l: int,
        receivers: Receivers,
        options: Options,
        features_self_interaction: bool,
    ) -> Geometry: ...
    def energy(self, multipoles: _Floats) -> tuple[_Floats, _Floats]: ...
    def features(self, multipoles: _Floats) -> _Floats: ...
    def features_transpose(self, cotangent: _Floats) -> _Floats: ...
    def coulomb_matrix(self, system: int) -> _Floats: ...
    def features_matrix(self, system: int) -> _Floats: ...
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
        left: _Floats | None,
        right: _Floats | None,
        column: _Floats | None,
        flow: tuple[_Integers, _Floats, _Floats] | None,
        constrained: _Flags,
        method: str,
        tolerance: float,
        max_iterations: int | None,
    ) -> Jacobian: ...
    def solve(
        self,
        residual: _Floats,
        constraint: _Floats,
        transpose: bool = False,
        tolerance: float | None = None,
    ) -> tuple[_Floats, _Floats, _Integers]: ...
    def apply(self, x: _Floats, y: _Floats, transpose: bool = False) -> tuple[_Floats, _Floats]: ...
    def eigenpair(self) -> tuple[_Floats, _Floats, _Floats]: ...
    def spectral_radius(self) -> _Floats: ...
    @property
    def methods(self) -> list[str]: ...
