"""Random validation split that keeps the frames of one chain (trajectory) together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from electret.data.reading import Frame
from electret.errors import InputError

__all__ = ["random_split"]


def random_split(frames: Sequence[Frame], fraction: float, seed: int) -> tuple[list[Frame], list[Frame]]:
    """Training and validation frames, both in file order.

    Whole chains are drawn at random until at least `fraction` of the frames is reached as closely as chains
    allow.
    Raises `InputError` if there are too few chains to fill both sets.
    """
    if not 0 < fraction < 1:
        raise InputError(f"valid_fraction is {fraction}, expected a number between 0 and 1")
    groups: dict[tuple[str, str], list[int]] = {}
    for index, frame in enumerate(frames):
        # Equal chain names in different files are taken as one chain: a trajectory may be spread over files.
        name = ("single", str(index)) if frame.chain is None else ("chain", frame.chain)
        groups.setdefault(name, []).append(index)
    if len(groups) < 2:
        raise InputError(
            f"a validation fraction of {fraction} cannot be split off {len(frames)} frame(s) of "
            f"{len(groups)} chain(s); give a validation file (data.valid) or more chains"
        )
    order = np.random.default_rng(seed).permutation(len(groups))
    members = list(groups.values())
    wanted = fraction * len(frames)
    chosen: list[int] = []
    for group in order[:-1]:
        size = len(members[group])
        if chosen and abs(len(chosen) + size - wanted) > abs(len(chosen) - wanted):
            continue
        chosen.extend(members[group])
        if len(chosen) >= wanted:
            break
    valid = set(chosen)
    return (
        [frame for index, frame in enumerate(frames) if index not in valid],
        [frame for index, frame in enumerate(frames) if index in valid],
    )
