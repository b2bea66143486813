"""Ranks, the processes that `torchrun` or `srun` starts for one piece of work, and their communication."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from electret.errors import RankError
from electret.support.cores import cores_of_rank

__all__ = [
    "add_gradients",
    "connected",
    "device_of_rank",
    "everywhere",
    "from_first",
    "gathered",
    "is_first",
    "is_rank",
    "process_group",
    "share",
    "shared",
]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@contextmanager
def process_group(device: str = "cpu") -> Iterator[bool]:
    """Connects the ranks by gloo, and by nccl where `device` is a GPU; True in the first of them, and in a
    process that is alone.

    An error inside ends all ranks: that of the rank which failed first is raised, the others end silently.
    """
    if not is_rank(os.environ):
        yield True
        return
    nccl = device.startswith("cuda") and dist.is_nccl_available()
    store, rank, count = next(rendezvous("env://"))
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if nccl else "gloo", store=store, rank=rank, world_size=count
    )
    try:
        yield rank == 0
    except BaseException as error:
        if not _tells(error, store):
            number = getattr(error, "signal", None)
            raise SystemExit(1 if number is None else 128 + number) from None
        raise
    dist.destroy_process_group()


def is_rank(variables: MutableMapping[str, str]) -> bool:
    """True in a process of `torchrun`, or of an `srun` of several tasks, for which it sets the variables of
    PyTorch and a share of the cores."""
    if "RANK" not in variables and int(variables.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        nodes = variables.get("SLURM_STEP_NODELIST", "localhost")
        first = re.match(r"([^\[,]*)(?:\[([^\],-]+)[^\]]*\]([^,]*))?", nodes)
        job = int(variables.get("SLURM_JOB_ID", 0)) + int(variables.get("SLURM_STEP_ID", 0))
        variables["RANK"] = variables["SLURM_PROCID"]
        variables["WORLD_SIZE"] = variables["SLURM_STEP_NUM_TASKS"]
        variables["LOCAL_RANK"] = variables["SLURM_LOCALID"]
        variables["LOCAL_WORLD_SIZE"] = variables.get("SLURM_STEP_TASKS_PER_NODE", "1").split("(")[0]
        variables.setdefault(
            "MASTER_ADDR", "".join(part or "" for part in first.groups()) if first else nodes
        )
        variables.setdefault("MASTER_PORT", str(20_000 + job % 20_000))
    if not variables.keys() >= {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}:
        return False
    variables.setdefault("RAYON_NUM_THREADS", str(cores_of_rank(variables)))
    return True


def _tells(error: BaseException, store: dist.Store) -> bool:
    """True in the rank that failed first. Where the first rank, which keeps the store, is gone, it has told
    its own error, which others may share; that it was killed is told by those that wait for it."""
    try:
        return bool(store.add("electret/failed", 1) == 1)
    except RuntimeError:
        return isinstance(error, RankError)


def connected() -> bool:
    """True if this process is one of several ranks."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def is_first() -> bool:
    """True in the first rank, and in a process that is alone."""
    return not connected() or dist.get_rank() == 0


def device_of_rank(device: str) -> str:
    """A GPU for each rank of a node where `device` is "cuda"."""
    local = os.environ.get("LOCAL_RANK")
    if device != "cuda" or local is None:
        return device
    return f"cuda:{int(local) % max(1, torch.cuda.device_count())}"


def share(items: Sequence[_Item], costs: Iterable[float] | None = None) -> list[_Item]:
    """Items of this rank, in their order: every so many, or with `costs` such that the ranks have equal work
    (the costliest go first, each to the rank with the least so far)."""
    if not connected():
        return list(items)
    rank, count = dist.get_rank(), dist.get_world_size()
    if costs is None:
        return list(items[rank::count])
    loads, owner = [0.0] * count, [0] * len(items)
    for index, cost in sorted(enumerate(costs), key=lambda entry: -entry[1]):
        owner[index] = min(range(count), key=loads.__getitem__)
        loads[owner[index]] += cost
    return [item for item, own in zip(items, owner, strict=True) if own == rank]


def shared(items: Sequence[_Item], work: Callable[[_Item], _Result]) -> Iterator[tuple[_Item, _Result]]:
    """Items in their order, each with the result of `work`. Ranks work on a share each; the first yields all
    items, to which results are sent as pickles, and the others none."""
    if not connected():
        for item in items:
            yield item, work(item)
        return
    rank, count = dist.get_rank(), dist.get_world_size()
    for start in range(0, len(items), count):
        turn = items[start : start + count]
        own: Any = work(turn[rank]) if rank < len(turn) else None
        found: list[Any] | None = [None] * count if rank == 0 else None
        with _together():
            dist.gather_object(own, found)
        if found is not None:
            yield from zip(turn, found, strict=False)


def gathered(values: Sequence[float]) -> torch.Tensor:
    """Numbers of all ranks, one row each: `[n_ranks, n]` float64 on the CPU."""
    own = torch.tensor(values, dtype=torch.float64)
    if not connected():
        return own[None]
    rows = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    with _together():
        dist.all_gather(rows, own)
    return torch.stack(rows)


def everywhere(found: _Item) -> list[_Item]:
    """Objects of all ranks, in their order; it waits for all."""
    if not connected():
        return [found]
    objects: list[Any] = [None] * dist.get_world_size()
    with _together():
        dist.all_gather_object(objects, found)
    return objects


def from_first(found: _Item) -> _Item:
    """Object of the first rank."""
    if not connected():
        return found
    objects = [found]
    with _together():
        dist.broadcast_object_list(objects)
    return objects[0]


@torch.no_grad()
def add_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace each gradient by its sum over the ranks, in one reduction; None stays where all have None."""
    if not connected():
        return
    parameters = list(parameters)
    gradients = [torch.zeros_like(entry) if entry.grad is None else entry.grad for entry in parameters]
    used = torch.tensor([entry.grad is not None for entry in parameters]).to(gradients[0])
    flat = torch.cat([used, *(gradient.flatten() for gradient in gradients)])
    with _together():
        dist.all_reduce(flat)
    parts = flat[len(used) :].split([gradient.numel() for gradient in gradients])
    for entry, part, count in zip(parameters, parts, flat[: len(used)].tolist(), strict=True):
        entry.grad = part.view_as(entry).to(entry.dtype) if count else None


@contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise RankError(
            "another rank of this run has ended, or cannot be reached any more "
            f"({(str(error).splitlines() or [''])[0]}); start all ranks again, a training with --resume"
        ) from error
