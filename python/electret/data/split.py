"""Random validation split that keeps the frames of one chain (trajectory) together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from electret.data.frames import Frames, as_frames
from electret.data.reading import Frame
from electret.errors import InputError

__all__ = ["random_split"]


def random_split(frames: Sequence[Frame], fraction: float, seed: int) -> tuple[Frames, Frames]:
    """Training and validation frames, both in file order.

    Whole chains are drawn at random until at least `fraction` of the frames is reached as closely as chains
    allow.
    Raises `InputError` if there are too few chains to fill both sets.
    """
    if not 0 < fraction < 1:
        raise InputError(f"valid_fraction is {fraction}, expected a number between 0 and 1")
    found = as_frames(frames)
    # Equal chain names in different files are taken as one chain: a trajectory may be spread over files.
    chains, names = found.codes("chain")
    own = np.where(chains < 0, len(names) + np.arange(len(found)), chains)
    _, first, group = np.unique(own, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))  # chains in the order of their first frames
    group = rank[group.reshape(-1)]
    sizes = np.bincount(group)
    if len(sizes) < 2:
        raise InputError(
            f"a validation fraction of {fraction} cannot be split off {len(frames)} frame(s) of "
            f"{len(sizes)} chain(s); give a validation file (data.valid) or more chains"
        )
    order = np.random.default_rng(seed).permutation(len(sizes))
    wanted, reached = fraction * len(found), 0
    chosen: list[int] = []
    for number in order[:-1]:
        size = int(sizes[number])
        if chosen and abs(reached + size - wanted) > abs(reached - wanted):
            continue
        chosen.append(number)
        reached += size
        if reached >= wanted:
            break
    valid = np.isin(group, chosen)
    return found.take(~valid), found.take(valid)
