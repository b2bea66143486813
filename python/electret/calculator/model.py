"""The model of a calculator: from a file or another model, on a device, in a dtype."""

from __future__ import annotations

import copy
import os
from typing import Any

import torch

from electret.cuda.found_device import found_device
from electret.kernels.inputs import require_precision
from electret.models import BackboneConfig, Model, ModelConfig, build, from_mace, load, read_header
from electret.models.backbone import load_tensors
from electret.models.config import LEAST_SINGLE
from electret.models.files import dtype_name
from electret.models.header import is_pickle

__all__ = ["frozen_model"]


def frozen_model(
    model: str | os.PathLike[str] | torch.nn.Module,
    device: str | torch.device,
    dtype: torch.dtype | str | None,
    precision: str | None = None,
    trust: bool = False,
) -> tuple[Model, dict[str, Any]]:
    """The model ready for evaluation and the training ranges of its file (empty where not known).

    Raises:
        InputError: a file, device, dtype or precision that cannot be used.
    """
    place, wanted = found_device(device), dtype_name(dtype)
    if precision is not None:
        require_precision(precision)
    ranges: dict[str, Any] = {}
    if isinstance(model, Model):
        found = _copy(model, wanted).to(place)
    elif isinstance(model, torch.nn.Module) or is_pickle(model):
        options = {} if wanted is None else {"dtype": wanted}
        found = from_mace(model, BackboneConfig.parse(options), trust=trust).to(place)
    else:
        found = load(model, device=place, dtype=wanted)
        ranges = read_header(model)["metadata"].get("training_ranges", {})
    if precision is not None:
        found.config = _summed_in(precision, found.config)
    return found.eval().requires_grad_(False), ranges


def _summed_in(precision: str, config: ModelConfig) -> ModelConfig:
    """The config with another precision, and the accuracy that it can have."""
    options = config.electrostatics
    least = LEAST_SINGLE if precision == "float32" else 0.0
    update = {"precision": precision, "accuracy": max(options.accuracy, least)}
    return config.model_copy(update={"electrostatics": options.model_copy(update=update)})


def _copy(model: Model, dtype: str | None) -> Model:
    """A model of its own memory, in `dtype`."""
    if dtype in (None, dtype_name(model.dtype)):
        return copy.deepcopy(model)
    backbone = model.config.backbone.model_copy(update={"dtype": dtype})
    twin = build(model.config.model_copy(update={"backbone": backbone}), model.statistics)
    load_tensors(twin, model.state_dict())  # the parts that are float64 in every dtype keep their digits
    return twin
