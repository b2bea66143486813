"""The YAML file of a comparison: which models, which data, which probes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field

from electret.analysis.entries import Entry
from electret.analysis.probes import Probe, parse_probe
from electret.data import DataKeys
from electret.data.keys import DipoleOrigin
from electret.errors import InputError
from electret.models.config import StrictConfig
from electret.support.yaml_files import read_yaml

__all__ = ["ComparisonFile", "is_comparison_file", "read_comparison"]


class _Model(StrictConfig):
    """A model by its path, with changes to the configuration where it is one."""

    path: str
    set: tuple[str, ...] = ()


class _Options(StrictConfig):
    """Options of the file."""

    models: dict[str, str | _Model]
    data: dict[str, str | tuple[str, ...]]
    keys: dict[str, str] = Field(default_factory=dict)
    dipole_origin: DipoleOrigin | None = None
    output: str = "comparison"
    batch_size: int = 10
    probes: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class ComparisonFile:
    """A checked comparison; paths of models, data and structures of probes are relative to its file."""

    entries: list[Entry]
    data: dict[str, list[Path]]
    keys: DataKeys
    output: Path
    batch_size: int
    probes: dict[str, Probe] = field(default_factory=dict)
    dipole_origin: DipoleOrigin | None = None


def is_comparison_file(path: Path) -> bool:
    """True if a path is a YAML file with the key `models`."""
    if path.suffix.lower() not in (".yaml", ".yml") or not path.is_file():
        return False
    return "models" in read_yaml(path, "comparison file")


def read_comparison(path: Path) -> ComparisonFile:
    """Reads and checks the file.

    Raises:
        InputError: not YAML, unknown options, no models or data; names the file and the option.
    """
    raw = read_yaml(path, "comparison file")
    try:
        options = _Options.parse(raw)
        keys = DataKeys(**_known_keys(options.keys))
        probes = {name: parse_probe(name, entry, path.parent) for name, entry in options.probes.items()}
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    for section in ("models", "data"):
        if not getattr(options, section):
            raise InputError(f"{path}: {section} is empty; name at least one")
    if options.batch_size < 1:
        raise InputError(f"{path}: batch_size is {options.batch_size}; give at least 1")
    models = {
        name: entry if isinstance(entry, _Model) else _Model(path=entry)
        for name, entry in options.models.items()
    }
    return ComparisonFile(
        entries=[Entry(name, path.parent / model.path, model.set) for name, model in models.items()],
        data={
            name: [path.parent / file for file in ([files] if isinstance(files, str) else files)]
            for name, files in options.data.items()
        },
        keys=keys,
        output=Path(options.output),
        batch_size=options.batch_size,
        probes=_with_known_models(probes, tuple(models), path),
        dipole_origin=options.dipole_origin,
    )


def _with_known_models(probes: dict[str, Probe], models: tuple[str, ...], path: Path) -> dict[str, Probe]:
    for name, probe in probes.items():
        unknown = sorted(set(probe.models or ()) - set(models))
        if unknown:
            raise InputError(
                f"{path}: probes.{name}.models names {', '.join(unknown)}; the models are {', '.join(models)}"
            )
    return probes


def _known_keys(keys: dict[str, str]) -> dict[str, str]:
    for name in keys:
        if name not in DataKeys.model_fields:
            raise InputError(
                f"keys.{name}: unknown quantity; the names are {', '.join(DataKeys.model_fields)}"
            )
    return keys
