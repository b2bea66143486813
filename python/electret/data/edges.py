"""Numbers of edges of frames on disk, counted once for each cutoff and kept beside the frames."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from electret.data.frames import Frames, Part, Weighted
from electret.errors import OutputError
from electret.graph import NEAREST
from electret.kernels.neighbors import neighbor_list
from electret.support.outputs import atomic_write

__all__ = ["count_edges"]

_ATOMS = 50_000
"""Atoms whose neighbours are searched at once."""


def count_edges(
    frames: Frames, cutoff: float, advance: Callable[[int], object] = lambda _: None
) -> NDArray[np.int64]:
    """Directed edges of each frame, -1 where two atoms coincide.

    Args:
        frames: of any sources.
        cutoff: of the neighbour lists in Å.
        advance: called with numbers of frames that are done.
    """
    found = [np.empty(0, dtype=np.int64)]
    for part in frames.parts:
        if isinstance(part, Weighted):
            found.append(count_edges(part.frames, cutoff, advance))
        else:
            found.append(_of_part(part, cutoff))
            advance(len(part))
    return np.concatenate(found)[frames.rows]


def _of_part(part: Part, cutoff: float) -> NDArray[np.int64]:
    kept = (
        None if part.path is None else part.path.parent / f"edges_{float(cutoff)!r}" / f"{part.path.stem}.npy"
    )
    if kept is not None and kept.is_file():
        with suppress(ValueError, OSError):
            known: NDArray[np.int64] = np.load(kept, allow_pickle=False)
            if len(known) == len(part):
                return known
    counted = _counted(part, cutoff)
    if kept is not None:
        content = io.BytesIO()
        np.save(content, counted)
        with suppress(OutputError):  # a set on a disk that cannot be written is counted each time
            atomic_write(kept, content.getvalue())
    return counted


def _counted(part: Part, cutoff: float) -> NDArray[np.int64]:
    arrays = part.columns.arrays
    starts = np.concatenate([[0], np.cumsum(arrays["atoms"])])
    positions, found = part.positions, np.empty(len(part), dtype=np.int64)
    first = 0
    while first < len(part):
        last = max(int(np.searchsorted(starts, starts[first] + _ATOMS, side="right")) - 1, first + 1)
        chosen = slice(first, last)
        owner = np.repeat(np.arange(last - first), arrays["atoms"][chosen])
        own = positions[starts[first] : starts[last]]
        cells = arrays["cell"][chosen].reshape(-1, 3, 3)
        pairs, distances = neighbor_list("id", own, cells, arrays["pbc"][chosen], cutoff, batch=owner)
        found[chosen] = np.bincount(owner[pairs], minlength=last - first)
        found[first + owner[pairs[distances < NEAREST]]] = -1
        first = last
    return found
