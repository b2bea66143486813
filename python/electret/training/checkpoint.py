"""Checkpoints: safetensors with JSON in the header, checksummed, written atomically, no pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from electret.support.outputs import atomic_write
from electret.support.tensor_files import checksum, tensor_file
from electret.training.errors import CheckpointError

__all__ = [
    "FORMAT",
    "Checkpoint",
    "optimizer_state",
    "read_checkpoint",
    "restore_optimizer",
    "write_checkpoint",
]

FORMAT = "electret-checkpoint-2"


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, and everything else as JSON values."""

    tensors: dict[str, torch.Tensor]
    state: dict[str, Any]

    def group(self, prefix: str) -> dict[str, torch.Tensor]:
        """Tensors whose names begin with `prefix/`, without it."""
        start = prefix + "/"
        return {name[len(start) :]: tensor for name, tensor in self.tensors.items() if name.startswith(start)}


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write atomically; the file before it stays until the new one is complete."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    state = json.dumps(checkpoint.state)
    metadata = {"format": FORMAT, "state": state, "sha256": checksum(tensors, state)}
    atomic_write(path, tensor_file(tensors, metadata))


def read_checkpoint(path: Path) -> Checkpoint:
    """Read and verify. Raises `CheckpointError` if the file is missing, truncated or altered."""
    remedy = "use another checkpoint of the run, or start again with --restart"
    if not path.is_file():
        raise CheckpointError(f"no checkpoint '{path}'; start the run without --resume")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"checkpoint '{path}' cannot be read ({error}); {remedy}") from error
    if metadata.get("format") != FORMAT or "state" not in metadata:
        raise CheckpointError(f"'{path}' is not a checkpoint of the format {FORMAT}; {remedy}")
    if checksum(tensors, metadata["state"]) != metadata.get("sha256"):
        raise CheckpointError(f"checkpoint '{path}' is corrupt: its checksum does not match; {remedy}")
    return Checkpoint(tensors, json.loads(metadata["state"]))


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and plain values of an optimiser's state."""
    raw = optimizer.state_dict()
    tensors: dict[str, torch.Tensor] = {}
    plain: dict[str, dict[str, Any]] = {}
    for index, entries in raw["state"].items():
        for key, value in entries.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{index}/{key}"] = value
            else:
                plain.setdefault(str(index), {})[key] = value
    return tensors, {"param_groups": raw["param_groups"], "plain": plain}


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]
) -> None:
    """Put back what `optimizer_state` gave."""
    state: dict[int, dict[str, Any]] = {
        int(index): dict(entries) for index, entries in values["plain"].items()
    }
    for name, tensor in tensors.items():
        index, key = name.split("/", 1)
        state.setdefault(int(index), {})[key] = tensor
    groups = [{**group, "betas": tuple(group["betas"])} for group in values["param_groups"]]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
