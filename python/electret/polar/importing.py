"""Models of family `polar` around existing PolarMACE models: objects, and files that MACE wrote."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch

from electret.errors import InputError
from electret.models.backbone import load_tensors
from electret.models.base import Model
from electret.models.config import ModelConfig
from electret.models.construction import build
from electret.models.hosted import o3
from electret.models.pickles import read_pickle
from electret.models.start.statistics import Statistics
from electret.polar.hosted import PARTS, polar_class
from electret.polar.pickles import PEER

__all__ = ["describe", "from_mace"]

_UPDATE, _READOUT = "AgnosticEmbeddedOneBodyVariableUpdate", "OneBodyMLPFieldReadout"
"""The classes of MACE that update a density and read its energy."""


def from_mace(
    mace: torch.nn.Module | str | os.PathLike[str],
    *,
    trust: bool = False,
    head: str | None = None,
    mode: str = "exact",
    dtype: str | None = None,
) -> Model:
    """A model of family `polar` with the parameters of a PolarMACE, for the calculator, training and
    `.electret` files.

    Args:
        mace: the object, or a file that MACE wrote.
        trust: for a file: it is a pickle from a trusted source, and may be read (in another process).
        head: energy head, where there are several.
        mode: `"exact"` or `"as_trained"`, as in `accelerate`.
        dtype: `"float32"` or `"float64"`; that of the object where None.

    Raises:
        InputError: a file without `trust`, no PolarMACE, or an option of it that has no counterpart.
    """
    if isinstance(mace, torch.nn.Module):
        found, tensors = describe(mace)
    else:
        moved = {
            f"{PEER}.{part}:{name}": f"electret.polar.pickles:{name}"
            for part, name in (("features", "GTOElectrostaticFeatures"), ("energy", "GTOElectrostaticEnergy"))
        }
        place = f"{__name__}:describe"
        found, tensors = read_pickle(mace, place, trust=trust, placeholders=[PEER], moved=moved)
    heads = found["backbone"]["heads"]
    if head is None and len(heads) > 1:
        raise InputError(f"the model has several heads; set head to one of {heads}")
    if head is not None and head not in heads:
        raise InputError(f"head = {head!r} is not a head of the model; it has {heads}")
    index = 0 if head is None else heads.index(head)
    backbone = {**found["backbone"], "head": head, **({} if dtype is None else {"dtype": dtype})}
    config = ModelConfig.parse(
        {
            "family": "polar",
            "backbone": backbone,
            "electrostatics": found["electrostatics"],
            "polar": {**found["polar"], "mode": mode},
        }
    )
    statistics = Statistics(
        elements=found["elements"],
        e0s=dict(zip(found["elements"], found["e0s"][index], strict=True)),
        mean=found["shift"][index],
        scale=found["scale"][index],
        avg_num_neighbors=backbone["avg_num_neighbors"],
    )
    model = build(config, statistics)
    for name, value in model.backbone.mace.state_dict().items():
        if name in tensors and tensors[name].numel() == value.numel():
            tensors[name] = tensors[name].reshape(value.shape)  # scalars may have shape (1,)
    load_tensors(model.backbone.mace, tensors)
    return model


def describe(mace: Any) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Plain numbers and tensors that rebuild a PolarMACE, without those of graph_longrange.

    Raises:
        InputError: no PolarMACE, or an option of it that has no counterpart.
    """
    if not isinstance(mace, polar_class()):
        raise InputError(
            f"the model is a {type(mace).__name__}; electret.polar is for PolarMACE, and "
            "electret.models.from_mace for other models of MACE"
        )
    if hasattr(mace, "joint_embedding"):
        raise InputError("the model embeds charge or spin itself (embedding_specs), which is not supported")
    if getattr(getattr(mace, "cueq_config", None), "enabled", False):
        raise InputError(
            "the model is converted to cuEquivariance; convert it back with mace.cli.convert_cueq_e3nn"
        )
    for name, known in (("_fixedpoint_update_config", _UPDATE), ("_field_readout_config", _READOUT)):
        given = getattr(mace, name, {}).get("type", known)
        if given != known:
            raise InputError(f"the model has {given!r} in {name}; only {known!r} is supported")
    from mace.tools.scripts_utils import extract_config_mace_model  # imports MACE's training tools

    found = extract_config_mace_model(mace)
    gates = {torch.nn.functional.silu: "silu", torch.tanh: "tanh", torch.abs: "abs"}
    heads = [str(name) for name in found["heads"]]
    per_head = {
        name: np.broadcast_to(np.ravel(found[f"atomic_inter_{name}"]), len(heads)).astype(float).tolist()
        for name in ("scale", "shift")
    }
    of_backbone = ("pair_repulsion", "apply_cutoff", "use_reduced_cg", "use_so3", "use_agnostic_product")
    switches = (*of_backbone, "use_last_readout_only", "use_edge_irreps_first")
    norms = found["field_feature_norms"]
    description = {
        "backbone": {
            "r_max": float(found["r_max"]),
            "num_radial_basis": int(found["num_bessel"]),
            "num_cutoff_basis": int(found["num_polynomial_cutoff"]),
            "max_ell": int(found["max_ell"]),
            "interaction": found["interaction_cls"].__name__,
            "interaction_first": found["interaction_cls_first"].__name__,
            "num_interactions": int(found["num_interactions"]),
            "hidden_irreps": str(found["hidden_irreps"]),
            "correlation": int(found["correlation"]),
            "MLP_irreps": str(found["MLP_irreps"]),
            "radial_MLP": [int(width) for width in found["radial_MLP"]],
            "radial_type": found["radial_type"],
            "gate": gates.get(found["gate"], "None"),
            "distance_transform": found["distance_transform"] or "None",
            "edge_irreps": None if found["edge_irreps"] is None else str(o3.Irreps(found["edge_irreps"])),
            "readout": found["readout_cls"].__name__,
            "avg_num_neighbors": float(found["avg_num_neighbors"]),
            "heads": heads,
            "dtype": str(next(mace.parameters()).dtype).removeprefix("torch."),
            **{name: bool(found[name]) for name in switches},
        },
        "electrostatics": {
            "max_l": int(found["atomic_multipoles_max_l"]),
            "sigma": float(found["atomic_multipoles_smearing_width"]),
            "widths": [float(width) for width in found["field_feature_widths"]],
            "features_max_l": int(found["field_feature_max_l"]),
        },
        "polar": {
            "steps": int(found["num_recursion_steps"]),
            "features_self_interaction": bool(found["field_si"]),
            "self_interaction": bool(found["include_electrostatic_self_interaction"]),
            "local_energy": bool(found["add_local_electron_energy"]),
            "feature_norms": None if norms is None else [float(norm) for norm in norms],
            "field_norm_factor": float(found["field_norm_factor"]),
            "kspace_cutoff_factor": float(found["kspace_cutoff_factor"]),
        },
        "elements": [int(number) for number in found["atomic_numbers"]],
        "e0s": np.reshape(found["atomic_energies"], (len(heads), -1)).astype(float).tolist(),
        **per_head,
    }
    of_peer = tuple(f"{part}." for part in PARTS if part != "local_electron_energy")
    tensors = {name: value for name, value in mace.state_dict().items() if not name.startswith(of_peer)}
    return description, tensors
