"""Tensors that say they are on a GPU while their numbers are on the CPU, to find where code mixes devices.

Every operation on them checks what a GPU would: tensors of both devices in one operation (but for single
numbers and indices), and numpy views, are errors. Kernels are those of the CPU. Inside `labelled()` factories
with `device="cuda"` and `.to("cuda")` give such tensors; electret's own kernels take the emulated device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map_only

CUDA = torch.device("cuda", 0)

# Copies between devices are what these are for; indices of a tensor that is there may be on the CPU.
ACROSS = ("aten::copy_", "aten::_to_copy", "aten::index", "aten::index_put", "aten::index_put_")


# Calls that wait for a GPU, beside copies to the CPU.
WAITED_FOR = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::_unique2")

waits: list[str] = []
"""Operations on labelled tensors so far that would wait for a GPU."""


class MixedDevices(RuntimeError):
    """An operation has tensors of both devices."""


class Labelled(torch.Tensor):
    """A tensor that says it is on cuda:0."""

    values: torch.Tensor

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> Labelled:
        found = torch.Tensor._make_wrapper_subclass(
            cls,
            values.size(),
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=values.device,
        )
        found.values = values
        return found

    @property
    def device(self) -> torch.device:
        return CUDA

    def data_ptr(self) -> int:
        return self.values.data_ptr()

    def __repr__(self) -> str:
        return f"Labelled({self.values})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func._schema.name
        plain = [
            leaf
            for leaf in tree_flatten((args, kwargs))[0]
            if isinstance(leaf, torch.Tensor) and not isinstance(leaf, Labelled) and leaf.dim() > 0
        ]
        if name.startswith("electret::"):  # autograd's zeros for missing gradients carry no label
            plain = [tensor for tensor in plain if bool(tensor.any())]
        # a tensor may have indices of the CPU, but not the other way round
        indexed = name.startswith("aten::index") and not isinstance(args[0], Labelled)
        if plain and (name not in ACROSS or indexed):
            raise MixedDevices(
                f"{name} has tensors of the CPU, {[tuple(t.shape) for t in plain]}, and cuda:0"
            )
        if name in WAITED_FOR:
            waits.append(name)
        args, kwargs = tree_map_only(Labelled, lambda t: t.values, (args, kwargs))
        found = func(*args, **kwargs)
        return tree_map_only(torch.Tensor, _label, found)


def _label(values: torch.Tensor) -> torch.Tensor:
    return values if isinstance(values, Labelled) else Labelled(values)


class _Move(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor):
        ctx.back = isinstance(tensor, Labelled)
        return tensor.values.clone() if ctx.back else Labelled(tensor.clone())

    @staticmethod
    def backward(ctx, grad):
        return _Move.apply(grad)


def _moved(tensor: torch.Tensor, device: torch.device | None) -> torch.Tensor:
    wanted = device is not None and torch.device(device).type == "cuda"
    if isinstance(tensor, Labelled) and device is not None and not wanted:
        waits.append("to the CPU")
    return _Move.apply(tensor) if wanted != isinstance(tensor, Labelled) and device is not None else tensor


# Composite operations that create tensors in C++, where they get no label.
UNWRAPPED = (torch.nn.functional.one_hot, torch.bincount)


class _Labels(TorchFunctionMode):
    """Redirects requests to cuda to labelled tensors."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.numpy and isinstance(args[0], Labelled):
            raise TypeError("can't convert cuda:0 device type tensor to numpy; use Tensor.cpu() first")
        if func is torch.Tensor.tolist and isinstance(args[0], Labelled):
            return args[0].values.tolist()
        if func is torch.Tensor.cpu:
            return _moved(args[0], torch.device("cpu"))
        if func is torch.Tensor.to:
            return self._to(func, args, kwargs)
        if func is torch.Tensor.new_tensor and isinstance(args[0], Labelled):
            return Labelled(func(args[0].values, *args[1:], **kwargs))
        if func in UNWRAPPED:
            args, kwargs = tree_map_only(Labelled, lambda t: t.values, (args, kwargs))
            return _label(func(*args, **kwargs))
        device = kwargs.get("device")
        if device is not None and torch.device(device).type == "cuda":
            kwargs["device"] = torch.device("cpu")
            return _label(func(*args, **kwargs)) if not _has(args) else func(*args, **kwargs)
        if device is not None and _has(args):
            raise MixedDevices(f"{func} asks for {device} of a tensor on cuda:0")
        return func(*args, **kwargs)

    def _to(self, func: Any, args: tuple, kwargs: dict) -> torch.Tensor:
        tensor, *rest = args
        device = kwargs.pop("device", None)
        if rest and isinstance(rest[0], torch.Tensor):
            other, *rest = rest
            device, kwargs["dtype"] = other.device, other.dtype
        elif rest and isinstance(rest[0], (str, torch.device)):
            device, *rest = rest
        tensor = _moved(tensor, device)
        return func(tensor, *rest, **kwargs) if rest or kwargs.get("dtype") is not None else tensor


def _has(args: Any) -> bool:
    return any(isinstance(leaf, Labelled) for leaf in tree_flatten(args)[0])


def to_labelled(module: torch.nn.Module) -> torch.nn.Module:
    """Labels all parameters and buffers of a module, in place."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                labelled = Labelled(parameter.detach())
                part._parameters[name] = torch.nn.Parameter(labelled, parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = Labelled(buffer)
    return module


@contextmanager
def labelled() -> Iterator[None]:
    """See the module."""
    from electret.cuda import geometry as device_geometry
    from electret.cuda import neighbors as device_neighbors
    from electret.cuda import plans as device_plans
    from electret.testing import emulated_device

    def place_of(tensor: torch.Tensor) -> device_plans.Place:
        return device_plans.Place(device_plans.EMULATED, tensor.device)

    run_backward = torch.autograd._engine_run_backward

    def labelled_backward(*args: Any, **kwargs: Any) -> Any:  # a mode is off inside what it handles
        with _Labels():
            return run_backward(*args, **kwargs)

    with (
        emulated_device(),
        mock.patch.object(device_geometry, "place_of", place_of),
        mock.patch.object(device_neighbors, "place_of", place_of),
        mock.patch.object(torch.autograd, "_engine_run_backward", labelled_backward),
        _Labels(),
    ):
        yield


def _module_to(self: torch.nn.Module, *args: Any, **kwargs: Any) -> torch.nn.Module:
    device, rest = kwargs.pop("device", None), list(args)
    if rest and isinstance(rest[0], (str, torch.device)):
        device = rest.pop(0)
    if rest or kwargs:
        MODULE_TO(self, *rest, **kwargs)
    if device is not None and torch.device(device).type == "cuda":
        to_labelled(self)
    return self


MODULE_TO = torch.nn.Module.to


@contextmanager
def found_as_cuda() -> Iterator[None]:
    """As `labelled`, and what looks for the device "cuda" finds it, so that a whole training runs there."""
    from electret.cuda import found_device

    one_device = SimpleNamespace(is_available=lambda: True, device_count=lambda: 1)
    with (
        mock.patch.object(found_device, "torch", SimpleNamespace(device=torch.device, cuda=one_device)),
        mock.patch.object(torch.nn.Module, "to", _module_to),
        labelled(),
    ):
        yield
