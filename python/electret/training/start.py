"""Runs that go on from an existing model: its options and tensors, energies of atoms, low-rank changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols

from electret.data import GraphDataset
from electret.errors import InputError
from electret.models import Model, ModelConfig, Statistics, build, from_mace, load
from electret.models.backbone import construction_dtype, load_tensors
from electret.models.config import StrictConfig
from electret.models.families.charge_flux import EdgeFlux
from electret.models.families.latent_ewald import EnergyReadout
from electret.models.readouts import MultipoleReadout
from electret.training.config import START_OPTIONS, LoraConfig, TrainedModelConfig, TrainingConfig

__all__ = ["add_lora", "continued", "merge_lora", "read_start", "started"]

SILENCE = 1e-2
"""Factor of the last linear maps of a density that is added to a trained model: its energies are some 1e-4 of
those of a fresh model, and their gradients are not zero."""
_FREE = {"family", "scf", "ignored_conditions", *START_OPTIONS}
"""Options that need not agree with those of the start."""
_FREE_PARTS = {"backbone": {"dtype", "head"}, "electrostatics": {"method", "accuracy", "precision"}}


def read_start(config: TrainingConfig) -> tuple[TrainingConfig, Model]:
    """The run with the options of the model that it starts from, and that model.

    Raises:
        InputError: a pickle without `trust`, a family that the start does not fit, or options that
            contradict the file.
    """
    wanted = config.model
    assert wanted.start is not None
    dtype = wanted.backbone.dtype
    if wanted.start.suffix == ".electret":
        model = load(wanted.start, dtype=dtype)
        head = wanted.backbone.head
        if head is not None and head != model.config.backbone.head:
            raise InputError(
                f"backbone.head = {head!r}, but {wanted.start} has {model.config.backbone.head!r}; remove it"
            )
    else:
        given = wanted.backbone.model_dump(include={"dtype", "head"}, exclude_unset=True)
        backbone = type(wanted.backbone).parse(given)
        model = from_mace(wanted.start, backbone, trust=wanted.trust)
    if model.family not in ("mace", wanted.family):
        raise InputError(
            f"model.start: {wanted.start} is of family {model.family!r}, and goes on as that family alone; "
            f"set model.family: {model.family}"
        )
    return _with_model(config, model.config), model


def continued(config: TrainingConfig, stored: TrainedModelConfig) -> TrainingConfig:
    """The run with the options of the model in its checkpoint, where it began from the same start."""
    return _with_model(config, stored) if stored.start == config.model.start else config


def _with_model(config: TrainingConfig, found: ModelConfig) -> TrainingConfig:
    wanted, options = config.model, found.model_dump(exclude=set(START_OPTIONS))
    same = found.family == wanted.family
    names = set(type(found).model_fields) - _FREE if same else {"backbone"}
    for name in sorted(names & wanted.model_fields_set):
        _check_agreement(getattr(wanted, name), getattr(found, name), name)
    kept = {name: options[name] for name in names}
    own = wanted.model_dump(exclude=names, exclude_unset=True)
    if same and "electrostatics" in wanted.model_fields_set:
        free = wanted.electrostatics.model_dump(include=_FREE_PARTS["electrostatics"], exclude_unset=True)
        kept["electrostatics"] |= free
    return config.model_copy(update={"model": TrainedModelConfig.parse({**kept, **own})})


def _check_agreement(wanted: object, found: object, path: str) -> None:
    """Raise `InputError` for an option that is given and differs."""
    if isinstance(wanted, StrictConfig):
        for name in sorted(wanted.model_fields_set - _FREE_PARTS.get(path, set())):
            _check_agreement(getattr(wanted, name), getattr(found, name), f"{path}.{name}")
    elif wanted != found:
        raise InputError(f"model.{path} = {wanted!r}, but the start has {found!r}; remove the option")


def started(
    config: TrainingConfig, source: Model, own: Statistics, train_set: GraphDataset
) -> tuple[Model, str]:
    """The model of a run at step 0, and a sentence about it.

    A density that the family adds starts near zero: its last linear maps are small, so that energies and
    forces are those of the start, and the losses determine its growth.

    Args:
        config: the run, with the options of the start.
        source: the model to start from.
        own: statistics of the training data, for what the family adds.
        train_set: the frames to fit atomic energies to.

    Raises:
        InputError: elements of the data that the start lacks.
    """
    old = source.statistics
    missing = [chemical_symbols[number] for number in own.elements if number not in old.elements]
    if missing:
        known = ", ".join(chemical_symbols[number] for number in old.elements)
        raise InputError(
            f"the training data has {', '.join(missing)}, which the start ({config.model.start}) was not "
            f"trained on (it has {known}); start from another model, or remove these frames"
        )
    shared = ("elements", "e0s", "mean", "scale", "avg_num_neighbors")
    same = source.family == config.model.family
    statistics = old if same else own.model_copy(update={name: getattr(old, name) for name in shared})
    model = build(config.model.plain, statistics, config.seed)
    if same:
        load_tensors(model, source.state_dict())
    else:
        load_tensors(model.backbone, source.backbone.state_dict())
        _silence(model)
    rule = config.data.e0s
    e0s = dict(old.e0s)
    if rule == "fit to residual":
        e0s |= _fitted(model, train_set, e0s)
    elif rule not in ("auto", "foundation"):
        e0s |= own.e0s
    model.statistics = model.statistics.model_copy(update={"e0s": e0s})
    values = torch.tensor([e0s[number] for number in model.backbone.elements], dtype=torch.float64)
    model.backbone.e0s.copy_(values)
    changes = [f"{chemical_symbols[z]} {e0s[z] - old.e0s[z]:+.4g} eV" for z in own.elements]
    return model, f"started from {config.model.start} ({source.family}); E0s changed by {', '.join(changes)}"


@torch.no_grad()
def _silence(model: Model) -> None:
    for module in model.modules():
        if isinstance(module, MultipoleReadout):
            for weight in module.linears.parameters():
                weight.mul_(SILENCE)
        elif isinstance(module, EnergyReadout):
            for block in module.blocks:
                last: Any = getattr(block, "linear_2", None) or block.linear
                last.weight.mul_(SILENCE)
        elif isinstance(module, EdgeFlux):
            module.out.weight.mul_(SILENCE)


def _fitted(model: Model, data: GraphDataset, e0s: dict[int, float]) -> dict[int, float]:
    """E0s that fit the residual of the model: the smallest change that solves the least squares."""
    counts, errors = [], []
    for graph in data.graphs:
        if "energy" in graph.labels and bool(torch.isfinite(graph.labels["energy"]).all()):
            found = model(graph, forces=False)["energy"]
            errors.append(float(graph.labels["energy"] - found))
            counts.append(np.bincount(graph.atomic_numbers.numpy(), minlength=len(chemical_symbols)))
    if not errors:
        raise InputError(
            "data.e0s = 'fit to residual' needs energies, and no training frame has one; use foundation"
        )
    matrix = np.array(counts, dtype=np.float64)
    present = [int(number) for number in np.flatnonzero(matrix.sum(axis=0))]
    change = np.linalg.lstsq(matrix[:, present], np.array(errors), rcond=None)[0]
    return {number: e0s[number] + float(value) for number, value in zip(present, change, strict=True)}


def add_lora(model: Model, config: LoraConfig) -> None:
    """Low-rank changes of every linear map of the backbone, zero at first; its own parameters are frozen.

    Raises:
        InputError: a mace-torch without `mace.modules.lora`.
    """
    try:
        from mace.modules.lora import inject_LoRAs
    except ImportError as error:
        raise InputError("model.lora needs mace-torch 0.3.15 or later; upgrade it") from error
    with construction_dtype(model.dtype):
        inject_LoRAs(model.backbone.mace, config.rank, config.alpha)  # type: ignore[arg-type]


def merge_lora(model: Model) -> None:
    """Put the low-rank changes into the weights, in place."""
    from mace.modules.lora import merge_lora_weights

    merge_lora_weights(model.backbone.mace)
