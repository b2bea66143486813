"""Checks that a checkpoint belongs to the run that continues from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from electret.data.dataset import GraphDataset
from electret.training.config import TrainingConfig
from electret.training.errors import CheckpointError

__all__ = [
    "BEST_CHECKPOINT",
    "FREE_OPTIONS",
    "LAST_CHECKPOINT",
    "check_data",
    "check_options",
    "fingerprints",
    "with_defaults",
]

LAST_CHECKPOINT = Path("checkpoints/last.safetensors")
BEST_CHECKPOINT = Path("checkpoints/best.safetensors")


def fingerprints(
    train_set: GraphDataset, valid_set: GraphDataset, references: GraphDataset | None = None
) -> dict[str, str]:
    """Hashes of all data that the model depends on, for its checkpoints; `references` are isolated atoms."""
    sets = {"train": train_set, "valid": valid_set, "isolated-atom": references}
    return {name: "" if entry is None else entry.fingerprint() for name, entry in sets.items()}


def check_options(state: Mapping[str, Any], config: TrainingConfig) -> None:
    """Raise `CheckpointError` if options differ that matter to the continued run."""
    before, now = with_defaults(state["config"]), config.model_dump(mode="json")
    changed = _changed_options(before, now, state["progress"]["stage"])
    if changed:
        raise CheckpointError(
            f"'{config.run_folder / LAST_CHECKPOINT}' was written with other options ({', '.join(changed)}); "
            "put them back to resume, or start again with --restart"
        )


def with_defaults(config: dict[str, Any]) -> dict[str, Any]:
    """A stored configuration with options that a later electret added; unchanged if it is refused now."""
    try:
        return TrainingConfig.model_validate(config).model_dump(mode="json")
    except ValidationError:
        return config


def check_data(state: Mapping[str, Any], found: Mapping[str, str], folder: Path) -> None:
    """Raise `CheckpointError` if the frames are not those of the checkpoint."""
    for name, fingerprint in found.items():
        if state["data"][name] != fingerprint:
            raise CheckpointError(
                f"'{folder / LAST_CHECKPOINT}' was written with other {name} data; "
                "put the data back to resume, or start again with --restart"
            )


_FREE_DATA = ("train", "valid", "test", "workers")  # what the files hold is compared instead
FREE_OPTIONS = ("name", "output", "plots", "tensorboard", "device")
"""Options of a run that do not change its model."""


def _changed_options(old: dict[str, Any], new: dict[str, Any], stage: int) -> list[str]:
    """Paths that differ and matter to the continued run.

    Later stages may change, and the epochs of `stage`, but not under a cosine schedule that has begun.
    """

    def relevant(config: dict[str, Any]) -> dict[str, Any]:
        kept = {key: value for key, value in config.items() if key not in FREE_OPTIONS}
        kept["data"] = {key: value for key, value in config["data"].items() if key not in _FREE_DATA}
        kept["stages"] = [
            {key: value for key, value in entry.items() if key != "epochs" or fixed(index, entry)}
            for index, entry in enumerate(config["stages"][: stage + 1])
        ]
        return kept

    def fixed(index: int, entry: dict[str, Any]) -> bool:
        return index < stage or (index == stage and entry["scheduler"]["name"] == "cosine")

    return _differences(relevant(old), relevant(new), "")


def _differences(old: Any, new: Any, path: str) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            place
            for key in sorted({*old, *new})
            for place in _differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            place
            for index, (left, right) in enumerate(zip(old, new, strict=True))
            for place in _differences(left, right, f"{path}.{index}")
        ]
    return [] if old == new else [path]
