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
    *("embedding_specs", "use_embedding_readout", "apply_cutoff", "edge_irreps"),
    *("use_reduced_cg", "use_so3", "use_agnostic_product", "use_last_readout_only", "use_edge_irreps_first"),
)
_POLAR = {
    "atomic_multipoles_max_l": "electrostatics.max_l",
    "atomic_multipoles_smearing_width": "electrostatics.sigma",
    "field_feature_max_l": "electrostatics.features_max_l",
    "field_feature_widths": "electrostatics.widths",
    "field_feature_norms": "polar.feature_norms",
    "field_norm_factor": "polar.field_norm_factor",
    "field_si": "polar.features_self_interaction",
    "include_electrostatic_self_interaction": "polar.self_interaction",
    "add_local_electron_energy": "polar.local_energy",
    "num_recursion_steps": "polar.steps",
    "kspace_cutoff_factor": "polar.kspace_cutoff_factor",
}

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
    **{name: f"model.{place}" for name, place in _POLAR.items()},
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

_OF_SECOND_STAGE = (
    *("lr", "energy_weight", "forces_weight", "stress_weight", "virials_weight"),
    *("dipole_weight", "polarizability_weight"),
)
_SECOND_STAGE = "write a second entry in 'stages' with its own lr and loss"
_ONE_FOLDER = "everything a run writes is in the folder 'output'"

WITHOUT_COUNTERPART: dict[str, str] = {
    **dict.fromkeys(("swa", "start_swa", "stage_two", "start_stage_two"), _SECOND_STAGE),
    **{f"{stage}_{name}": _SECOND_STAGE for stage in ("swa", "stage_two") for name in _OF_SECOND_STAGE},
    **dict.fromkeys(("log_dir", "model_dir", "checkpoints_dir", "results_dir"), _ONE_FOLDER),
    **dict.fromkeys(
        (
            *("multiheads_finetuning", "pt_train_file", "pt_valid_file", "weight_pt_head", "num_samples_pt"),
            *("filter_type_pt", "subselect_pt", "pseudolabel_replay", "force_mh_ft_lr"),
            *("heads", "head_key"),
        ),
        "name the earlier data and their weight in data.replay; a model has one head in training",
    ),
    "foundation_head": "set model.backbone.head",
    "foundation_model_readout": "leave it out: a model keeps the readouts of its start",
    "lora": "give lora_rank, and lora_alpha",
    "lr_params_factors": "give lr as a mapping of backbone, readouts and electrostatics, and freeze",
    **dict.fromkeys(
        ("fixedpoint_update_config", "field_readout_config"),
        "leave it out: family polar has the default of mace-torch",
    ),
    "quadrupole_feature_corrections": "leave it out: graph_longrange does not read it",
    **dict.fromkeys(
        ("atomic_numbers", "mean", "std", "statistics_file", "compute_avg_num_neighbors"),
        "leave it out: it is found from the training data, or that of the start",
    ),
    **dict.fromkeys(("enable_cueq", "only_cueq", "enable_oeq"), "leave it out: modules are those of e3nn"),
    **dict.fromkeys(("distributed", "launcher"), "leave it out: a run is one process on one device"),
    **dict.fromkeys(
        ("wandb", "plot", "plot_frequency", "error_table"),
        "see tensorboard, plots and the tables of the run",
    ),
    **dict.fromkeys(
        ("foundation_filter_elements", "foundation_model_elements"),
        "leave it out: a model keeps all elements of its start",
    ),
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
        return [float(word) if "." in word else int(word) for word in value.strip(" []").split(",")]
    return value


def _freeze(value: Any) -> Any:
    """MACE counts groups of parts."""
    if isinstance(value, int) and value != 0:
        raise InputError(
            f"freeze: {value} counts parts in MACE; name them here, as [embedding, layer 0] (embedding, "
            "layer N, readout N, from 0)"
        )
    return value or ()


_CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    "model.family": lambda value: _FAMILIES.get(value, value) if isinstance(value, str) else value,
    "scheduler.name": lambda value: _SCHEDULERS.get(value, value) if isinstance(value, str) else value,
    "loss.form": lambda value: _LOSSES.get(value, value) if isinstance(value, str) else value,
    "data.scaling": lambda value: _SCALINGS.get(value, value) if isinstance(value, str) else value,
    "data.e0s": _e0s,
    "data.config_type_weights": _mapping,
    **dict.fromkeys(
        ("model.backbone.radial_MLP", "model.electrostatics.widths", "model.polar.feature_norms"), _list
    ),
    "freeze": _freeze,
    "ema_decay": lambda value: {True: 0.99, False: None}[value] if isinstance(value, bool) else value,
}


def convert(path: str, value: Any) -> Any:
    """Value at a key path (in a stage: relative to the stage) from MACE's way of writing to ours."""
    return _CONVERSIONS[path](value) if path in _CONVERSIONS else value
