"""Work that the processes of a `torchrun` share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch.distributed as dist

__all__ = ["device_of_rank", "own_share", "process_group", "shared"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@contextmanager
def process_group() -> Iterator[bool]:
    """Connects the processes of a `torchrun`; True in the first of them, and in a process that is alone."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield True
        return
    dist.init_process_group("gloo")
    try:
        yield dist.get_rank() == 0
    finally:
        dist.destroy_process_group()


def device_of_rank(device: str) -> str:
    """A GPU for each process of a node where `device` is "cuda"."""
    local = os.environ.get("LOCAL_RANK")
    return f"cuda:{local}" if device == "cuda" and local is not None else device


def own_share(items: Sequence[_Item]) -> Sequence[_Item]:
    """Items that `shared` gives this process, in their order."""
    if not (dist.is_available() and dist.is_initialized()):
        return items
    return items[dist.get_rank() :: dist.get_world_size()]


def shared(items: Sequence[_Item], work: Callable[[_Item], _Result]) -> Iterator[tuple[_Item, _Result]]:
    """Items in their order, each with the result of `work`. Connected processes work on a share each; the
    first yields all items, to which results are sent as pickles, and the others none."""
    if not (dist.is_available() and dist.is_initialized()):
        for item in items:
            yield item, work(item)
        return
    rank, count = dist.get_rank(), dist.get_world_size()
    for start in range(0, len(items), count):
        turn = items[start : start + count]
        own: Any = work(turn[rank]) if rank < len(turn) else None
        found: list[Any] | None = [None] * count if rank == 0 else None
        dist.gather_object(own, found)
        if found is not None:
            yield from zip(turn, found, strict=False)
