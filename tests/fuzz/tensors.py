"""Calls of `electret.torch`, first and second derivatives included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fuzz import calls

FUNCTIONS = {
    "coulomb": "coulomb_energy",
    "features": "features",
    "potential": "potential",
    "neighbor_list": "neighbor_list",
}


def prepare() -> None:
    """Imports before the memory is limited."""
    import torch

    import electret.torch

    torch.set_num_threads(1)
    x = torch.zeros((1, 3), dtype=torch.float64, requires_grad=True)
    electret.torch.coulomb_energy(x, torch.ones((1, 1), dtype=torch.float64)).sum().backward()


def case(generator: np.random.Generator) -> tuple[str, Callable[[], Any]]:
    """One call with tensors, some of them of other types, devices and layouts."""
    function = calls.pick(generator, sorted(FUNCTIONS))
    values = calls.arguments(generator, function)
    hostile = generator.random() < 0.4
    changed = dict.fromkeys(values, "plain")
    if hostile:
        for _ in range(int(generator.integers(1, 3))):
            name = calls.pick(generator, sorted(values))
            if generator.random() < 0.5:
                values[name] = calls.pick(generator, calls.HOSTILE)
            changed[name] = calls.pick(
                generator, ("float32", "float16", "bfloat16", "meta", "sparse", "numpy", "int64")
            )
    order = int(generator.integers(3))
    shown = ", ".join(f"{name}={calls.shown(value)} ({changed[name]})" for name, value in values.items())
    return f"{FUNCTIONS[function]}({shown}), order {order}", lambda: call(function, values, changed, order)


def call(function: str, values: dict[str, Any], changed: dict[str, str], order: int) -> Any:
    """Calls the function; returns its values and derivatives up to an order."""
    import torch

    import electret.torch

    arguments = {name: tensor(value, changed[name]) for name, value in values.items()}
    leaves = []
    for name in ("positions", "multipoles", "cell", "points"):
        value = arguments.get(name)
        if (
            order
            and isinstance(value, torch.Tensor)
            and value.is_floating_point()
            and value.device.type == "cpu"
        ):
            arguments[name] = value.requires_grad_()
            leaves.append(value)
    result = getattr(electret.torch, FUNCTIONS[function])(**arguments)
    found = list(result) if isinstance(result, tuple) else [result]
    if function != "neighbor_list" and leaves and found[0].requires_grad:
        first = torch.autograd.grad(found[0].sum(), leaves, create_graph=order > 1, allow_unused=True)
        first = [item for item in first if item is not None]
        found += first
        if order > 1 and any(item.requires_grad for item in first):
            total = sum(item.sum() for item in first)
            found += [
                item for item in torch.autograd.grad(total, leaves, allow_unused=True) if item is not None
            ]
    return [item.detach().cpu().double().numpy() for item in found if item.device.type == "cpu"]


def tensor(value: Any, change: str) -> Any:
    """Arrays as tensors, converted to another type if one is given; other values unchanged."""
    import torch

    if not isinstance(value, np.ndarray) or change == "numpy":
        return value
    try:
        made = torch.from_numpy(value.copy())
    except TypeError:  # dtypes that torch lacks
        return value
    if change == "meta":
        return made.to("meta")
    if change == "sparse":
        return made.to_sparse() if made.ndim else made
    return made.to(getattr(torch, change)) if change != "plain" and not made.is_complex() else made
