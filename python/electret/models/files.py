"""`.electret` model files: one safetensors file whose header holds versioned JSON. No pickle."""

from __future__ import annotations

import importlib.metadata
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from electret._native import __version__
from electret.cuda.found_device import found_device
from electret.errors import InputError
from electret.models.backbone import load_tensors
from electret.models.base import Model, assemble
from electret.models.config import ModelConfig
from electret.models.header import (
    CHECKSUM_KEY,
    FORMAT_VERSION,
    HEADER_KEY,
    ModelFileError,
    read_header,
    text_checksum,
)
from electret.models.start.statistics import Statistics
from electret.support.outputs import atomic_write, check_outputs
from electret.support.tensor_files import checksum, tensor_file

__all__ = ["FORMAT_VERSION", "ModelFileError", "dtype_name", "load", "read_header", "save"]


def save(model: Model, path: str | os.PathLike[str], metadata: dict[str, Any] | None = None) -> None:
    """Writes a model to one file that `load` reads, in this version and later ones.

    The file appears complete or not at all: it is written beside its place, synced and renamed.

    Args:
        model: any family.
        path: the file, by custom `name.electret`.
        metadata: anything JSON can hold (training data, errors, date, ...), given back by `read_header`.

    Raises:
        InputError: metadata that JSON cannot hold, statistics that contradict the tensors.
        OutputError: the file cannot be written, or a file that is no model has its name.
    """
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    _check_statistics(model, tensors)
    header = {
        "format_version": FORMAT_VERSION,
        "versions": {"electret": __version__, **_installed("torch", "mace-torch", "e3nn")},
        "config": model.config.model_dump(mode="json"),
        "statistics": model.statistics.model_dump(mode="json"),
        "n_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "metadata": metadata or {},
        "checksum": checksum(tensors),
    }
    try:
        text = json.dumps(header, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"metadata cannot be written as JSON: {error}; give numbers, strings, lists"
        ) from error
    path = Path(path)
    own = path.suffix == ".electret" or _is_model(path)
    check_outputs([path], replace=own, remedy="it is no model file: give another name or remove it")
    atomic_write(path, tensor_file(tensors, {HEADER_KEY: text, CHECKSUM_KEY: text_checksum(text)}))


def _check_statistics(model: Model, tensors: dict[str, torch.Tensor]) -> None:
    """Raise `InputError` where tensors made from the statistics contradict those of the header."""
    found, head = model.statistics, model.backbone.head_index
    expected: dict[str, Sequence[float]] = {
        "backbone.e0s": [found.e0s[number] for number in found.elements],
        "backbone.mace.atomic_numbers": found.elements,
        "backbone.mace.scale_shift.scale": [found.scale],
        "backbone.mace.scale_shift.shift": [found.mean],
    }
    if model.family == "fixed_charges" and model.config.charges is None and found.charges is not None:
        expected["element_charges"] = [found.charges[number] for number in found.elements]
    for name, values in expected.items():
        stored = tensors[name].reshape(-1)
        if len(stored) > len(values):
            stored = stored[head : head + 1]  # one number per head
        if not torch.allclose(
            stored.double(), torch.tensor(values, dtype=torch.float64), rtol=1e-5, atol=1e-7
        ):
            raise InputError(
                f"the model's tensor {name} = {stored.tolist()} contradicts its statistics, {list(values)}: "
                "such a file would describe another model; build the model with the statistics of its tensors"
            )


def _is_model(path: Path) -> bool:
    try:
        return bool(read_header(path))
    except ModelFileError:
        return False


def dtype_name(dtype: torch.dtype | str | None) -> str | None:
    """`float32` or `float64` of a type or its name; None stays None.

    Raises:
        InputError: another type.
    """
    name = str(dtype).removeprefix("torch.") if isinstance(dtype, (torch.dtype, str)) else dtype
    if name in ("float32", "float64", None):
        return name
    raise InputError(f"dtype is {dtype!r}; use 'float32', 'float64' or None for that of the model")


def load(
    path: str | os.PathLike[str], device: torch.device | str = "cpu", dtype: torch.dtype | str | None = None
) -> Model:
    """Reads a model.

    Args:
        path: the file.
        device: where its tensors go.
        dtype: `torch.float32`, `torch.float64` or the name of one; None keeps the dtype of the file.

    Raises:
        ModelFileError: no such file, not a model file, truncated or damaged, written by a newer electret, or
            tensors that do not fit its configuration.
    """
    place = found_device(device)
    header = read_header(path)
    config = ModelConfig.parse(header["config"])
    name = dtype_name(dtype)
    if name is not None:
        config = config.model_copy(update={"backbone": config.backbone.model_copy(update={"dtype": name})})
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{path}: the tensors cannot be read ({error}); copy the file again") from error
    if checksum(tensors) != header["checksum"]:
        raise ModelFileError(f"{path}: the checksum does not match; the file is damaged, copy it again")
    model = assemble(config.description.model_class, config, Statistics.parse(header["statistics"]))
    try:
        load_tensors(model, tensors)
    except InputError as error:
        raise ModelFileError(
            f"{path}: {error}. The file was written with {header['versions']}; install these versions or "
            "train and save the model again"
        ) from error
    return model.to(place)


def _installed(*packages: str) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in packages}
