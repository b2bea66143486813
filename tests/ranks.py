"""Ranks of a training or an evaluation as forked processes, which need no second import of PyTorch."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from typing import Any

import torch

from electret.errors import ElectretError
from electret.support.ranks import process_group


def on_ranks(work: Callable[[], Any], count: int = 2, timeout: float = 120.0) -> list[int | None]:
    """Exit codes of processes that are connected and do `work`; None for one that does not end."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = found.getsockname()[1]

    def run(rank: int) -> None:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": str(rank)}
        os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
        torch.set_num_threads(1)
        try:
            with process_group():
                work()
        except ElectretError as error:  # as the command line tells it
            print(f"error: {error}", file=sys.stderr)
            sys.exit(128 + getattr(error, "signal", -127))

    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=run, args=(rank,)) for rank in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return codes
