"""Plans of device evaluations, cached to avoid further reads from the device.

A plan (`electret._native.DevicePlan`) holds method and parameters of the sums of a batch. It follows from the
values of cell, pbc, batch and widths, which are on the device, so reading them makes the host wait. They are
read once, in one copy, and then:

- tensors read before (same memory, same version) find their plan without a synchronisation: repeated calls
  with the same tensors, forward and backward of one step, the steps of a trajectory;
- other tensors are read, and equal contents have the same plan.

If the plan depends on the positions (open axes, not method="direct") the extent of the atoms along open
directions is read in every call, and rounded up so that plans stay while atoms move.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Hashable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from electret import _native
from electret.cuda.package_folders import register_package_folders
from electret.errors import InputError
from electret.kernels.arguments import Options, Systems
from electret.support import torch_internals
from electret.support.locks import Lock

__all__ = [
    "EMULATED",
    "Place",
    "Recent",
    "Request",
    "find_plan",
    "forget_plans",
    "place_of",
    "require_one_device",
    "rounded_up",
]

EMULATED = -1
"""Ordinal of the device whose kernels are compiled for the CPU and whose memory is the host's (for tests)."""

SEEN_TENSORS = 64
"""Tensors whose host copies are kept; each keeps its device memory too."""

SEEN_CALLS = 16
"""Combinations of tensors and settings whose plans are found without reading them."""

KEPT_PLANS = 32
"""Plans that are kept by the contents they were made for."""


class Place(NamedTuple):
    """A device and the stream to queue work on."""

    ordinal: int
    device: torch.device

    @property
    def stream(self) -> int:
        """Handle of torch's current stream on the device."""
        return 0 if self.ordinal == EMULATED else torch_internals.current_stream(self.ordinal)

    def current(self) -> AbstractContextManager:
        """Makes the device the current one."""
        if self.ordinal == EMULATED or torch.cuda.current_device() == self.ordinal:
            return _AS_IT_IS
        return torch.cuda.device(self.device)

    def capturing(self) -> bool:
        """True if a CUDA graph is being captured on the current stream."""
        return self.ordinal != EMULATED and torch.cuda.is_current_stream_capturing()

    def synchronize(self) -> None:
        """Waits for the current stream."""
        if self.ordinal != EMULATED:
            torch.cuda.current_stream(self.device).synchronize()


_AS_IT_IS: AbstractContextManager[None] = nullcontext()


def place_of(tensor: Tensor) -> Place:
    """Device of a tensor; the emulated one for CPU tensors."""
    device = tensor.device
    return Place(device.index if device.type == "cuda" else EMULATED, device)


def require_one_device(device: torch.device, **tensors: Tensor | None) -> None:
    """Raise `InputError` for a tensor on another device than the positions."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.device != device:
            raise InputError(
                f"{name} is on {tensor.device} but positions on {device}; bring them together with "
                f"{name}.to(positions.device)"
            )


class Request(NamedTuple):
    """Settings of a plan."""

    max_l: int
    """Highest order of the sources."""
    features_max_l: int = 0
    normalization: str = "receiver"
    options: Options = Options()
    fixed: bool = False
    """For many evaluations at fixed atoms."""


# --- caches ---

Value = TypeVar("Value")


class Recent(Generic[Value]):
    """Cache of the most recently used entries.

    Args:
        size: number of entries.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._entries: OrderedDict[Hashable, Value] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable) -> Value | None:
        """The value, or None."""
        with self._lock:
            value = self._entries.get(key)
            if value is not None:
                self._entries.move_to_end(key)
            return value

    def put(self, key: Hashable, value: Value) -> None:
        """Store a value; evict the least recently used entry beyond the size."""
        with self._lock:
            self._entries[key] = value
            self._entries.move_to_end(key)
            while len(self._entries) > self.size:
                self._entries.popitem(last=False)

    def clear(self) -> None:
        """Evict all entries."""
        with self._lock:
            self._entries.clear()


@dataclass(frozen=True)
class _Seen:
    """Values of a tensor on the host. The alias holds its memory: no other tensor gets its address."""

    alias: Tensor
    values: NDArray[Any]
    digest: bytes


class _Host(NamedTuple):
    """Values of the tensors that plans are made of, on the host."""

    cell: NDArray[Any]
    pbc: NDArray[Any]
    batch: NDArray[Any]
    sigma: NDArray[Any]
    widths: NDArray[Any] | None
    points_batch: NDArray[Any] | None


@dataclass(frozen=True)
class _Call:
    """Host values and plan of a combination of tensors and settings."""

    aliases: tuple[Tensor, ...]
    host: _Host
    contents: tuple[Hashable, ...]
    plan: _native.DevicePlan | None
    """None where it depends on the extent of the atoms."""
    open_directions: Tensor | None
    """Projector on the open directions of each system, `[n_systems, 3, 3]` on the device; None likewise."""


_seen: Recent[_Seen] = Recent(SEEN_TENSORS)
_calls: Recent[_Call] = Recent(SEEN_CALLS)
_plans: Recent[_native.DevicePlan] = Recent(KEPT_PLANS)


def forget_plans() -> None:
    """Empty the caches and free the memory that they hold."""
    for cache in (_seen, _calls, _plans):
        cache.clear()


def _identity(tensor: Tensor | None) -> Hashable:
    """Key that is equal for tensors of one memory in one state. Changes through `.data` do not change it."""
    if tensor is None:
        return None
    if tensor.is_inference():  # has no version
        return object()
    # addresses are those of one space for all devices
    return tensor.data_ptr(), tensor._version, tensor.shape, tensor.stride(), tensor.dtype


# --- plans ---


def find_plan(
    place: Place,
    request: Request,
    systems: Systems,
    sigma: Tensor,
    widths: Tensor | None = None,
    points: Tensor | None = None,
    points_batch: Tensor | None = None,
) -> _native.DevicePlan:
    """The plan of a batch.

    Args:
        place: of all tensors.
        request: settings of the plan.
        systems: the batch; positions are read only where the plan depends on their extent.
        sigma: `[n_atoms]` in Å.
        widths: `[n_widths]` in Å of receivers on the atoms; None for energies and for points.
        points: `[n_points, 3]` in Å, read as the positions are.
        points_batch: `[n_points]`; None without points.

    Raises:
        InputError: an argument cannot be used, or a CUDA graph is being captured without a plan.
        DeviceError: the device or its libraries cannot be used.
    """
    tensors = (systems.cell, systems.pbc, systems.batch, sigma, widths, points_batch)
    key = (place.ordinal, request, *map(_identity, tensors))
    call = _calls.get(key)
    if call is None:
        call = _look_up(place, request, tensors)
        _calls.put(key, call)
    if call.plan is not None:
        return call.plan
    if place.capturing():
        raise InputError(
            "a CUDA graph is being captured, but systems with open axes that are summed over k-vectors or "
            "a mesh are planned from the extent of their atoms in every call; use method='direct' or leave "
            "this call out of the graph"
        )
    spans = _spans(call, systems.batch, systems.positions, points_batch, points)
    return _plan(place, request, call.host, call.contents, spans)


def _look_up(place: Place, request: Request, tensors: tuple[Tensor | None, ...]) -> _Call:
    """Reads the tensors and makes the plan."""
    if place.capturing():
        raise InputError(
            "a CUDA graph is being captured, but the sums of these tensors are not planned yet, and planning "
            "reads them; run the same call with the same tensors once before capturing"
        )
    found = _read(tensors)
    values: list[Any] = [None if entry is None else entry.values for entry in found]
    host = _Host(*values)
    contents = tuple(None if entry is None else entry.digest for entry in found)
    aliases = tuple(entry.alias for entry in found if entry is not None)
    if _native.DevicePlan.needs_spans(host, request.options):
        projector = torch.from_numpy(_open_directions(host.cell, host.pbc)).to(place.device)
        return _Call(aliases, host, contents, None, projector)
    return _Call(aliases, host, contents, _plan(place, request, host, contents, None), None)


def _plan(
    place: Place,
    request: Request,
    host: _Host,
    contents: tuple[Hashable, ...],
    spans: NDArray[np.float64] | None,
) -> _native.DevicePlan:
    """The plan of these contents, kept or new."""
    key = (place.ordinal, request, contents, None if spans is None else spans.tobytes())
    plan = _plans.get(key)
    if plan is None:
        register_package_folders()
        plan = _native.DevicePlan(place.ordinal, place.stream, host, request, spans)
        place.synchronize()  # its tables may be used on another stream
        _plans.put(key, plan)
    return plan


# --- reading the device ---


def _read(tensors: tuple[Tensor | None, ...]) -> list[_Seen | None]:
    """Host copies: cached ones, and the others read together in one copy."""
    keys = [_identity(tensor) for tensor in tensors]
    found = [None if tensor is None else _seen.get(key) for tensor, key in zip(tensors, keys, strict=True)]
    missing = [
        index
        for index, tensor in enumerate(tensors)
        if tensor is not None and found[index] is None and keys.index(keys[index]) == index
    ]
    fresh = to_host([tensor for index in missing if (tensor := tensors[index]) is not None])
    for index, values in zip(missing, fresh, strict=True):
        tensor = tensors[index]
        assert tensor is not None
        digest = hashlib.blake2b(values.tobytes(), digest_size=16).digest()
        entry = _Seen(tensor.detach(), values, digest + repr((values.dtype, values.shape)).encode())
        found[index] = entry
        _seen.put(keys[index], entry)
    return [
        found[keys.index(key)] if tensor is not None else None
        for tensor, key in zip(tensors, keys, strict=True)
    ]


def to_host(tensors: list[Tensor]) -> list[NDArray[Any]]:
    """The values of tensors of one device in memory of their own, through one copy."""
    if not tensors:
        return []
    if tensors[0].device.type == "cpu":
        return [tensor.detach().numpy().copy() for tensor in tensors]
    parts = [tensor.detach().contiguous().reshape(-1).view(torch.uint8) for tensor in tensors]
    packed = torch.cat(parts).cpu().numpy()
    ends = np.cumsum([part.numel() for part in parts])
    return [
        part.copy().view(_NUMPY_DTYPES[tensor.dtype]).reshape(tuple(tensor.shape))
        for tensor, part in zip(tensors, np.split(packed, ends[:-1]), strict=True)
    ]


_NUMPY_DTYPES = {
    torch.float64: np.float64,
    torch.float32: np.float32,
    torch.int64: np.int64,
    torch.int32: np.int32,
    torch.bool: np.bool_,
}


# --- extents along open directions ---


def _open_directions(cell: NDArray[np.float64], pbc: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Projectors `[n_systems, 3, 3]` on the directions perpendicular to every periodic vector."""
    periodic = np.where(pbc[:, :, None], cell, 0.0)
    return np.eye(3) - np.linalg.pinv(periodic) @ periodic


def _spans(
    call: _Call, batch: Tensor, positions: Tensor, points_batch: Tensor | None, points: Tensor | None
) -> NDArray[np.float64]:
    """Bound of the distance of sites along the open directions of each system, `[n_systems]` in Å."""
    projector = call.open_directions
    assert projector is not None
    if points is not None and points_batch is not None:
        positions, batch = torch.cat([positions, points]), torch.cat([batch, points_batch])
    across = (positions.detach()[:, None, :] @ projector[batch])[:, 0]  # [n_sites, 3]
    index = batch[:, None].expand(-1, 3)
    shape = (projector.shape[0], 3)
    high = across.new_full(shape, -math.inf).scatter_reduce(0, index, across, "amax")
    low = across.new_full(shape, math.inf).scatter_reduce(0, index, across, "amin")
    extent = torch.where(high >= low, high - low, torch.where(high.isnan() | low.isnan(), math.nan, 0.0))
    spans = torch.linalg.vector_norm(extent, dim=1).cpu().numpy()
    if not np.isfinite(spans).all():
        system = int(np.argmax(~np.isfinite(spans)))
        raise InputError(f"positions of system {system} hold an entry that is not finite")
    return rounded_up(spans)


def rounded_up(spans: NDArray[np.float64]) -> NDArray[np.float64]:
    """The next of the lengths 10 Å (1.05**k - 1), k = 0, 1, ..., so that plans stay while atoms move."""
    steps = np.ceil(np.log1p(spans / 10.0) / math.log(1.05) - 1e-9)
    return np.maximum(10.0 * np.expm1(steps * math.log(1.05)), spans)
