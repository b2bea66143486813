"""Batches of graphs made by other processes while the model computes."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch.utils.data import DataLoader

from electret.errors import InputError
from electret.graph import Graph
from electret.support.cores import cores_of_rank

__all__ = ["default_workers", "loaded"]

_AHEAD = 4
"""Batches that a worker keeps ready."""

_FEWEST = 8
"""Batches per worker for which it is worth starting one."""


def default_workers() -> int:
    """Workers for frames on disk: one per core of this rank beside that of the model, at most four."""
    return min(cores_of_rank() - 1, 4)


def loaded(
    make: Callable[[Sequence[int]], Graph], batches: Sequence[Sequence[int]], workers: int
) -> Iterator[Graph]:
    """Graph of each batch, in their order.

    Args:
        make: the graph of some indices; another process calls it where there are workers.
        batches: indices of each batch.
        workers: number of processes that make graphs ahead; 0: none.

    Raises:
        InputError: as `make`.
    """
    workers = min(workers, len(batches) // _FEWEST)
    if workers == 0:
        yield from map(make, batches)
        return
    forks = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    loader: DataLoader[Any] = DataLoader(
        _Made(make),  # type: ignore[arg-type]
        batch_sampler=batches,  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=_unchanged,
        prefetch_factor=_AHEAD,
        worker_init_fn=_begin,
        multiprocessing_context=forks,
        generator=torch.Generator(),  # the default one belongs to the run, which must not depend on workers
    )
    for found in loader:
        if isinstance(found, InputError):
            raise found
        yield _unpacked(found)


class _Made:
    """Batches as a data set of torch."""

    def __init__(self, make: Callable[[Sequence[int]], Graph]) -> None:
        self.make = make

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any] | InputError:
        try:
            return _packed(self.make(indices))
        except InputError as error:  # as it is, without the traceback that torch would put into its text
            return error


def _begin(worker: int) -> None:
    """A worker has one thread, and leaves signals to the process that it works for."""
    os.environ["RAYON_NUM_THREADS"] = "1"
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def _unchanged(found: Any) -> Any:
    return found


def _packed(graph: Graph) -> dict[str, Any]:
    """Arrays of a graph: torch would send each tensor through shared memory of its own."""
    return {entry.name: _converted(getattr(graph, entry.name), torch.Tensor.numpy) for entry in fields(graph)}


def _unpacked(arrays: dict[str, Any]) -> Graph:
    return Graph(**{name: _converted(value, torch.from_numpy) for name, value in arrays.items()})


def _converted(value: Any, convert: Callable[[Any], Any]) -> Any:
    if isinstance(value, dict):
        return {name: convert(entry) for name, entry in value.items()}
    return value if value is None or isinstance(value, list) else convert(value)
