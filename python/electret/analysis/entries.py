"""The models of a comparison: model files, folders of runs, or configurations that are trained first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from electret.errors import InputError
from electret.models import read_header
from electret.support.console import heading, say
from electret.support.outputs import MODEL_FILE, check_file_name, check_not_in_use
from electret.training import TrainingConfig, train
from electret.training.checkpoint import read_checkpoint
from electret.training.resumption import FREE_OPTIONS, LAST_CHECKPOINT, with_defaults

__all__ = ["Entry", "is_trained", "prepare"]

_CONFIG_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class Entry:
    """A model to compare.

    Attributes:
        name: in tables and plots.
        path: a `.electret` file, the folder of a run, or the YAML file of a run.
        overrides: changes to the YAML file, as `stages.0.epochs=3`.
    """

    name: str
    path: Path
    overrides: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Entry:
        """From `path` or `name=path`; the name of a path is that of its file, or of its folder where the
        file is a run's `model.electret`."""
        name, separator, path = text.partition("=")
        if separator and name and path and not Path(text).exists():
            return cls(name, Path(path))
        chosen = Path(text)
        return cls(chosen.resolve().parent.name if chosen.name == MODEL_FILE else chosen.stem, chosen)

    @property
    def is_configuration(self) -> bool:
        """True if the model is trained from a YAML file, unless that has been done."""
        return self.path.suffix.lower() in _CONFIG_SUFFIXES


def prepare(entries: Sequence[Entry], console: Console) -> dict[str, Path]:
    """Model file of each entry, in order, after training what is missing.

    Training continues where an earlier call was interrupted; a run that is complete is taken as it is.

    Raises:
        InputError: no such file, names or run folders that two entries share, bad configurations.
        CheckpointError: the run of a configuration was made with other options.
    """
    names = [entry.name for entry in entries]
    for name in names:
        check_file_name(name, "model")
        if names.count(name) > 1:
            raise InputError(f"two models have the name '{name}'; give them names with name=path")
    configs = {
        entry.name: TrainingConfig.from_yaml(entry.path, entry.overrides)
        for entry in entries
        if entry.is_configuration
    }
    folders: dict[Path, str] = {}
    for name, config in configs.items():
        check_not_in_use(config.run_folder)
        other = folders.setdefault(config.run_folder.resolve(), name)
        if other != name:
            raise InputError(
                f"models '{other}' and '{name}' would be trained in the same folder '{config.run_folder}'; "
                "set another name or output for one of them"
            )
    files = {entry.name: _model_file(entry.path) for entry in entries if not entry.is_configuration}
    for number, (name, config) in enumerate(configs.items(), 1):
        if is_trained(config):
            say(console, f"{name}: trained already, {config.run_folder / MODEL_FILE}")
            files[name] = config.run_folder / MODEL_FILE
            continue
        heading(console, f"training {name} ({number}/{len(configs)})")
        resume = (config.run_folder / LAST_CHECKPOINT).exists()
        files[name] = train(config, resume=resume, console=console).model_file
    return {name: files[name] for name in names}


def is_trained(config: TrainingConfig) -> bool:
    """True if the folder of the run holds the finished model of exactly this configuration."""
    folder = config.run_folder
    model_file, last, written = folder / MODEL_FILE, folder / LAST_CHECKPOINT, folder / "config.yaml"
    if not (model_file.is_file() and written.is_file() and last.is_file()):
        return False
    stored = with_defaults(yaml.safe_load(written.read_text(encoding="utf-8")))
    if _relevant(stored) != _relevant(config.model_dump(mode="json")):
        return False
    # A continued run that was interrupted has the model file of its earlier end.
    epochs = read_checkpoint(last).state["progress"]["epoch"]
    return read_header(model_file)["metadata"].get("epochs") == epochs


def _relevant(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in FREE_OPTIONS}


def _model_file(path: Path) -> Path:
    if path.is_dir():
        file = path / MODEL_FILE
        if not file.is_file():
            raise InputError(
                f"'{path}' holds no {MODEL_FILE}; the run is not finished (electret train --resume), or give "
                "a model file"
            )
        return file
    read_header(path)  # an unusable file is refused before any training
    return path
