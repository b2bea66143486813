"""MACE's names for options, accepted at the top level of a config (stage options also inside a stage)."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

from electret.errors import InputError

__all__ = ["STAGE_ALIASES", "TOP_LEVEL_ALIASES", "WITHOUT_COUNTERPART", "convert"]

_DATA = (
    "valid_fraction",
    "batch_size",
    "valid_batch_size",
    "keep_isolated_atoms",
    "scaling",
    "config_type_weights",
)
_KEYS = ("energy", "forces", "stress", "virials", "charges", "dipole", "total_charge", "polarizability")
_BACKBONE = (
    *("r_max", "num_radial_basis", "num_cutoff_basis", "radial_type", "radial_MLP", "pair_repulsion"),
    *(
        "distance_transform",
        "max_ell",
        "interaction",
        "interaction_first",
        "num_interactions",
        "hidden_irreps",
    ),
    *("num_channels", "max_L", "MLP_irreps", "correlation", "gate", "avg_num_neighbors"),
    *("embedding_specs", "use_embedding_readout"),
)

TOP_LEVEL_ALIASES: dict[str, str] = {
    "work_dir": "output",
    "default_dtype": "dtype",
    "ema": "ema_decay",
    "train_file": "data.train",
    "valid_file": "data.valid",
    "test_file": "data.test",
    "E0s": "data.e0s",
    "foundation_model": "model.start",
    "lora_rank": "model.lora.rank",
    "lora_alpha": "model.lora.alpha",
    **{name: f"data.{name}" for name in _DATA},
    **{f"{name}_key": f"data.keys.{name}" for name in _KEYS},
    "total_spin_key": "data.keys.spin_multiplicity",
    **{name: f"model.backbone.{name}" for name in _BACKBONE},
    "atomic_multipoles_max_l": "model.electrostatics.max_l",
    "atomic_multipoles_smearing_width": "model.electrostatics.sigma",
}
"""MACE's name -> key path here."""

_WEIGHTED = (
    "energy",
    "forces",
    "stress",
    "charges",
    "multipoles",
    "dipole",
    "total_charge",
    "polarizability",
)

STAGE_ALIASES: dict[str, str] = {
    "max_num_epochs": "epochs",
    "lr": "lr",
    "clip_grad": "clip_grad",
    "freeze": "freeze",
    "patience": "early_stop",
    "optimizer": "optimizer.name",
    "amsgrad": "optimizer.amsgrad",
    "weight_decay": "optimizer.weight_decay",
    "scheduler": "scheduler.name",
    "lr_factor": "scheduler.factor",
    "scheduler_patience": "scheduler.patience",
    "lr_scheduler_gamma": "scheduler.gamma",
    "loss": "loss.form",
    "huber_delta": "loss.huber_delta",
    **{f"{target}_weight": f"loss.{target}" for target in _WEIGHTED},
}
"""MACE's name -> key path in a stage. At the top level they set every stage that does not say otherwise, and
make one stage `main` if the config has no `stages`. `optimizer`, `scheduler` and `loss` are aliases only if
their value is a name; mappings are the options of the same name here."""

_SECOND_STAGE = "write a second entry in 'stages' with its own lr and loss"
_ONE_FOLDER = "everything a run writes is in the folder 'output'"

WITHOUT_COUNTERPART: dict[str, str] = {
    **dict.fromkeys(("swa", "start_swa", "swa_lr", "swa_energy_weight", "swa_forces_weight"), _SECOND_STAGE),
    **dict.fromkeys(
        ("swa_stress_weight", "swa_dipole_weight", "stage_two", "start_stage_two"), _SECOND_STAGE
    ),
    **dict.fromkeys(("log_dir", "model_dir", "checkpoints_dir", "results_dir"), _ONE_FOLDER),
    **dict.fromkeys(
        ("multiheads_finetuning", "pt_train_file", "weight_pt_head", "num_samples_pt"),
        "name the earlier data and their weight in data.replay; a model has one head in training",
    ),
    "foundation_head": "set model.backbone.head",
    "foundation_filter_elements": "leave it out: a model keeps all elements of its start",
    "restart_latest": "run 'electret train ... --resume'",
    "virials_weight": "weight the stress, to which virials are converted",
    "compute_stress": "the stress is computed where it is needed",
    "compute_forces": "forces are computed where they are needed",
}
"""MACE's options that have no counterpart here, with what to do instead."""

_FAMILIES = {"MACE": "mace", "ScaleShiftMACE": "mace", "PolarMACE": "polar"}
_SCHEDULERS = {"ReduceLROnPlateau": "plateau", "ExponentialLR": "exponential"}
_LOSSES = {"weighted": "mse", "forces_only": "mse", "stress": "mse", "ef": "mse"}
_SCALINGS = {"rms_forces_scaling": "rms_forces", "std_scaling": "std", "no_scaling": "none"}


def _e0s(value: Any) -> Any:
    """MACE writes a mapping as a string and `average` or `isolated` in any case."""
    if isinstance(value, str) and value.strip().startswith("{"):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            raise InputError(f"E0s: {value!r} is not a mapping {{atomic number: eV}}") from None
    if isinstance(value, str):
        name = value.lower().replace("_", " ")
        return {"isolatedatom": "isolated", "estimated": "fit to residual"}.get(name, name)
    if isinstance(value, dict):
        return {str(name): energy for name, energy in value.items()}
    return "auto" if value is None else value


def _mapping(value: Any) -> Any:
    if isinstance(value, str) and value.strip().startswith("{"):
        try:
            return ast.literal_eval(value)
        except (ValueError, SyntaxError):
            raise InputError(f"config_type_weights: {value!r} is not a mapping") from None
    return value


def _list(value: Any) -> Any:
    if isinstance(value, str) and value.strip().startswith("["):
        return [int(word) for word in value.strip(" []").split(",")]
    return value


_CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    "model.family": lambda value: _FAMILIES.get(value, value) if isinstance(value, str) else value,
    "scheduler.name": lambda value: _SCHEDULERS.get(value, value) if isinstance(value, str) else value,
    "loss.form": lambda value: _LOSSES.get(value, value) if isinstance(value, str) else value,
    "data.scaling": lambda value: _SCALINGS.get(value, value) if isinstance(value, str) else value,
    "data.e0s": _e0s,
    "data.config_type_weights": _mapping,
    "model.backbone.radial_MLP": _list,
    "ema_decay": lambda value: {True: 0.99, False: None}[value] if isinstance(value, bool) else value,
}


def convert(path: str, value: Any) -> Any:
    """Value at a key path (in a stage: relative to the stage) from MACE's way of writing to ours."""
    return _CONVERSIONS[path](value) if path in _CONVERSIONS else value
