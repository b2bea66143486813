"""Cores that this process may use."""

from __future__ import annotations

import os
from collections.abc import Mapping

__all__ = ["available_cores", "cores_of_rank"]


def available_cores() -> int:
    """Cores on which the system lets this process run."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores_of_rank(variables: Mapping[str, str] = os.environ) -> int:
    """Share of the available cores for each rank of a node, one at least; all for a process that is alone."""
    return max(1, available_cores() // int(variables.get("LOCAL_WORLD_SIZE", 1)))
