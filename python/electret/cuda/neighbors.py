"""Neighbour lists of tensors on a device: the pairs of `electret.neighbor_list`, in its order."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from electret import _native
from electret.cuda.package_folders import register_package_folders
from electret.cuda.plans import place_of
from electret.errors import InputError
from electret.kernels.arguments import Systems

__all__ = ["pairs_on_device"]

LETTERS = {"i": "i", "j": "j", "S": "shifts", "d": "distances", "D": "vectors"}


def pairs_on_device(
    quantities: str,
    systems: Systems,
    cutoff: float,
    half: bool = False,
    self_interaction: bool = False,
) -> tuple[Tensor, ...]:
    """Pairs of atoms nearer than `cutoff`, sorted by i, then j, then S.

    Waits for the number of pairs.

    Args:
        quantities: letters of `electret.neighbor_list`.
        systems: positions are a tensor of the device (a CPU tensor is taken for one of the emulated device),
            cell, pbc and batch are arrays.
        cutoff: Å.
        half: each pair once: i < j, or i = j where the first non-zero entry of S is positive.
        self_interaction: each atom with itself, once.

    Returns:
        The tensors in the order of the letters: i, j `[n_pairs]` and S `[n_pairs, 3]` int64, d `[n_pairs]`
        and D `[n_pairs, 3]` float64.

    Raises:
        InputError: an unknown letter, or what `electret.neighbor_list` refuses.
    """
    unknown = [letter for letter in quantities if letter not in LETTERS]
    if unknown or not quantities:
        raise InputError(f"quantities = {quantities!r}; give letters of 'ijSdD'")
    register_package_folders()
    positions, cells, pbc, batch = systems
    place = place_of(positions)
    n_systems = len(cells)
    counts = np.bincount(batch, minlength=n_systems)
    order = None
    if (np.diff(batch) < 0).any():
        order = torch.from_numpy(np.argsort(batch, kind="stable")).to(positions.device)
    x = positions.detach().to(torch.float64)
    x = (x if order is None else x[order]).contiguous()
    first = [0, *np.cumsum(counts).tolist()]
    sorted_by = {"i", "j", "S"} if half or self_interaction else {"i"} if order is not None else set()
    needed = set(quantities) | sorted_by
    with place.current():
        search = _native.DeviceNeighborSearch(
            place.ordinal, place.stream, x.data_ptr(), cells, pbc, first, cutoff
        )
        found = {letter: _empty(letter, len(search), x) for letter in LETTERS if letter in needed}
        targets = {LETTERS[letter]: tensor.data_ptr() for letter, tensor in found.items()}
        search.write(place.stream, **targets)
        if order is not None:
            found = _renumbered(found, order)
        if half:
            kept = _half(found["i"], found["j"], found["S"])
            found = {letter: tensor[kept] for letter, tensor in found.items()}
        if self_interaction:
            found = _with_self(found, x)
        place.synchronize()  # work areas of the search go with it
    return tuple(found[letter] for letter in quantities)


def _empty(letter: str, n: int, like: Tensor) -> Tensor:
    shape = (n, 3) if letter in "SD" else (n,)
    dtype = torch.float64 if letter in "dD" else torch.int64
    return torch.empty(shape, dtype=dtype, device=like.device)


def _with_self(found: dict[str, Tensor], positions: Tensor) -> dict[str, Tensor]:
    """The pairs and each atom with itself, sorted by i, then j, then S."""
    atoms = torch.arange(len(positions), device=positions.device)
    out = {}
    for letter, tensor in found.items():
        own = atoms if letter in "ij" else tensor.new_zeros((len(atoms), *tensor.shape[1:]))
        out[letter] = torch.cat([tensor, own])
    order = torch.arange(len(out["i"]), device=positions.device)
    for key in (*out["S"].unbind(1)[::-1], out["j"], out["i"]):
        order = order[torch.argsort(key[order], stable=True)]
    return {letter: tensor[order] for letter, tensor in out.items()}


def _renumbered(found: dict[str, Tensor], order: Tensor) -> dict[str, Tensor]:
    """Pairs with the caller's numbers of the atoms in place of those in the order of systems, sorted by i."""
    i = order[found["i"]]
    by_i = torch.argsort(i, stable=True)
    out: dict[str, Any] = {letter: tensor[by_i] for letter, tensor in found.items()}
    out["i"] = i[by_i]
    if "j" in out:
        out["j"] = order[out["j"]]
    return out


def _half(i: Tensor, j: Tensor, shifts: Tensor) -> Tensor:
    x, y, z = shifts.unbind(1)
    positive = (x > 0) | ((x == 0) & ((y > 0) | ((y == 0) & (z > 0))))
    return (i < j) | ((i == j) & positive)
