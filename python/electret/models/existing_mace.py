"""Models around existing MACE models: objects of mace-torch, and files that `mace_run_train` wrote."""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch

from electret.errors import InputError
from electret.graph import Graph
from electret.models.backbone import GATES, construction_dtype, load_tensors, mace_input
from electret.models.base import Model
from electret.models.config import BackboneConfig, LatentConfig, ModelConfig, StrictConfig
from electret.models.construction import build
from electret.models.hosted import o3
from electret.models.pickles import read_pickle
from electret.models.start.statistics import Statistics
from electret.units import COULOMB_CONSTANT

__all__ = ["describe", "from_mace"]

_EMBEDDED = ("total_charge", "total_spin")
"""Conditions that joint embeddings can have."""
_LATENT = ("sigma", "dl", "norm_factor", "remove_self_interaction")
"""Numbers of the Ewald sum of a MACE-LES model."""
_OF_PEER = ("electric_potential_descriptor.", "coulomb_energy.", "external_field_contribution.")
"""Parts of a PolarMACE whose tensors are those of graph_longrange."""
_POLAR_CLASSES = {
    "_fixedpoint_update_config": "AgnosticEmbeddedOneBodyVariableUpdate",
    "_field_readout_config": "OneBodyMLPFieldReadout",
}
_MOVED = {
    "mace.modules.models:MACELES": "mace.modules.extensions:MACELES",
    "graph_longrange.features:GTOElectrostaticFeatures": "electret.polar.pickles:GTOElectrostaticFeatures",
    "graph_longrange.energy:GTOElectrostaticEnergy": "electret.polar.pickles:GTOElectrostaticEnergy",
}
_WITHOUT_ENERGY = (
    *("training", "lammps_mliap", "return_electrostatic_potentials", "pbc_handling"),
    "quadrupole_feature_corrections",  # which no version of graph_longrange reads
)
"""Attributes of a PolarMACE that do not enter its energy."""
_UNUSED = ("pair_repulsion_fn.r_max", "pair_repulsion_fn.cutoff.r_max", "pair_repulsion_fn.cutoff.p")
"""Buffers of earlier versions of mace-torch that entered no result."""


def from_mace(
    mace: torch.nn.Module | str | os.PathLike[str],
    config: ModelConfig | BackboneConfig | None = None,
    seed: int = 0,
    charges: dict[int, float] | None = None,
    *,
    trust: bool = False,
    mode: str | None = None,
) -> Model:
    """A model whose backbone is a copy of an existing MACE model, foundation models too.

    `mace.modules.ScaleShiftMACE` is a start for any family; MACE-LES (`MACELES`) is family `latent_ewald`
    with readouts, widths and self-interaction of the object, MACE-POLAR-1 (`PolarMACE`) family `polar`. The
    backbone is rebuilt through MACE's own constructor from the attributes of the object, and its energy is
    compared with the object's on a probe cluster. Models converted to cuEquivariance or OpenEquivariance are
    converted back by mace-torch, where those packages are installed. Last layers with scalars only are fine
    as long as another layer has the irreps that the multipoles need.

    Args:
        mace: the model object, or a file that `mace_run_train` or `torch.save` wrote.
        config: `backbone` may set `head` and `dtype`; other backbone options must agree with the object. The
            backbone alone, or None, stands for family `mace`, and for that of MACE-LES or MACE-POLAR-1.
        seed: for the parameters that the family adds.
        charges: mean labelled charge by atomic number, for `fixed_charges` without configured charges.
        trust: for a file: it is a pickle from a trusted source, and may be read (in another process).
        mode: of MACE-POLAR-1 in place of `config.polar.mode`, `"exact"` or `"as_trained"`.

    Raises:
        InputError: a file without `trust`, or a model that cannot be hosted, with the reason and a remedy.
    """
    if isinstance(mace, torch.nn.Module):
        found, tensors = describe(mace)
    else:
        found, tensors = read_pickle(
            mace,
            f"{__name__}:describe",
            trust=trust,
            placeholders=("les", "graph_longrange"),
            moved=_MOVED,
        )
    latent, polar = found["latent"], found["polar"]
    if mode is not None:
        if polar is None:
            raise InputError(f"mode = {mode!r} is an option of MACE-POLAR-1 alone; remove it")
        polar["polar"]["mode"] = mode
    if not isinstance(config, ModelConfig):
        family = "latent_ewald" if latent else "polar" if polar else "mace"
        config = ModelConfig(family=family, backbone=config or BackboneConfig())
    head = _head(found["heads"], config.backbone.head)
    backbone = _backbone(found, config.backbone)
    if latent is not None:
        config = _latent_config(config, latent)
        tensors = _latent_tensors(tensors, latent)
    if polar is not None:
        config = _polar_config(config, polar)
    index = found["heads"].index(head)
    statistics = Statistics(
        elements=found["elements"],
        e0s=dict(zip(found["elements"], found["e0s"][index], strict=True)),
        mean=found["shift"][index],
        scale=found["scale"][index],
        avg_num_neighbors=found["backbone"]["avg_num_neighbors"],
        charges=charges,
    )
    model = build(config.model_copy(update={"backbone": backbone}), statistics, seed)
    own = {name: value for name, value in tensors.items() if not name.startswith(("les", *_OF_PEER))}
    try:
        load_tensors(model.backbone.mace, _present_form(model.backbone.mace, own))
        if latent is not None:
            prefix = "les_readouts."
            load_tensors(
                model.readout,  # type: ignore[arg-type]
                {f"blocks.{name.removeprefix(prefix)}": tensors[name] for name in set(tensors) - set(own)},
            )
    except InputError as error:
        raise InputError(
            f"the MACE model cannot be rebuilt from its description: {error}. It may be of a version of "
            "mace-torch whose modules differ, altered after its construction, or have the reduced couplings "
            "of cuequivariance (use_reduced_cg), which need that package here too"
        ) from error
    rebuilt = _probe(model.backbone.mace, backbone, found["elements"], index)
    if polar is not None:
        _check_attributes(polar["attributes"], model.backbone.mace)
    if not math.isclose(found["probe"][index], rebuilt, rel_tol=1e-4, abs_tol=1e-4):
        raise InputError(
            f"the rebuilt MACE gives {rebuilt:.6f} eV for a probe cluster where the original gives "
            f"{found['probe'][index]:.6f} eV; it has an option that its description lacks, and cannot be "
            "hosted"
        )
    return model.to(next(mace.parameters()).device) if isinstance(mace, torch.nn.Module) else model


def describe(mace: Any) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Plain numbers and tensors that rebuild an existing MACE model.

    Returns:
        Options of the backbone (`backbone`, `heads`, `elements`), per head `e0s` and (of the interaction
        energy) `scale` and `shift`, numbers of a MACE-LES model (`latent`, else None), and interaction
        energies of a cluster (`probe`); and the tensors of the model by name.

    Raises:
        InputError: a class or option of MACE that cannot be hosted.
    """
    kind = type(mace).__name__
    if kind not in ("ScaleShiftMACE", "MACELES", "PolarMACE"):
        known = "mace.modules.ScaleShiftMACE, MACELES and PolarMACE"
        given = f"a {kind}"
        if isinstance(mace, Mapping):
            given = f"a dictionary with {', '.join(sorted(map(str, mace))[:4])}"
        raise InputError(
            f"the model is {given}; only {known} can be hosted. Give the file NAME.model that mace_run_train "
            "writes, not a checkpoint or a compiled model"
        )
    specs = getattr(mace, "embedding_specs", None) or {}
    further = [name for name, spec in specs.items() if name not in _EMBEDDED or spec["per"] != "graph"]
    if further or (specs and kind == "PolarMACE"):
        raise InputError(
            f"the {kind} embeds {', '.join(further or specs)} (embedding_specs); total_charge and total_spin "
            "of a system can be, in ScaleShiftMACE and MACELES. Use a model without this embedding"
        )
    mace = _of_e3nn(mace)
    from mace.tools.scripts_utils import extract_config_mace_model  # imports MACE's training tools

    found = extract_config_mace_model(mace)
    heads = [str(name) for name in found["heads"]]
    deep = int(found["num_interactions"]) > 1
    gates = {function: name for name, function in GATES.items()}
    first, last = (str(mace.products[layer].linear.irreps_out) for layer in (0, -1))
    backbone = {
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
        "gate": gates.get(found["gate"], "None") if deep else "silu",
        "pair_repulsion": bool(found["pair_repulsion"]),
        "distance_transform": found["distance_transform"] or "None",
        "apply_cutoff": bool(found["apply_cutoff"]),
        "use_reduced_cg": bool(found["use_reduced_cg"]),
        "use_so3": bool(found["use_so3"]),
        "use_agnostic_product": bool(found["use_agnostic_product"]),
        "use_last_readout_only": bool(found["use_last_readout_only"]),
        "edge_irreps": None if found["edge_irreps"] is None else str(found["edge_irreps"]),
        "use_edge_irreps_first": bool(found["use_edge_irreps_first"]),
        "readout": found["readout_cls"].__name__ if deep else "NonLinearReadoutBlock",
        "embedding_specs": {
            name: {option: value for option, value in spec.items() if option != "key"}
            for name, spec in specs.items()
        },
        "use_embedding_readout": bool(found["use_embedding_readout"]),
        "keep_last_layer_irreps": deep and first == last and o3.Irreps(first).lmax > 0,
        "avg_num_neighbors": float(found["avg_num_neighbors"]),
        "dtype": str(next(mace.parameters()).dtype).removeprefix("torch."),
    }
    elements = [int(number) for number in found["atomic_numbers"]]
    per_head = {
        name: np.broadcast_to(np.ravel(found[f"atomic_inter_{name}"]), len(heads)).astype(float).tolist()
        for name in ("scale", "shift")
    }
    probed = BackboneConfig.parse({**backbone, "heads": heads, "head": heads[0]})
    description = {
        "backbone": backbone,
        "heads": heads,
        "elements": elements,
        "e0s": np.reshape(found["atomic_energies"], (len(heads), -1)).astype(float).tolist(),
        **per_head,
        "latent": _latent(mace) if kind == "MACELES" else None,
        "polar": _polar(found, mace) if kind == "PolarMACE" else None,
        "probe": [_probe(mace, probed, elements, index) for index in range(len(heads))],
    }
    return description, mace.state_dict()


def _of_e3nn(mace: Any) -> Any:
    """The model on e3nn, where it was converted to another library.

    Raises:
        InputError: the package of its modules, or the conversion back, is missing.
    """
    libraries = {"cuequivariance": "cueq", "openequivariance": "oeq"}
    packages = {type(module).__module__.split(".")[0].removesuffix("_torch") for module in mace.modules()}
    for package in packages & set(libraries):
        name = f"mace.cli.convert_{libraries[package]}_e3nn"
        try:
            with construction_dtype(next(mace.parameters()).dtype):
                mace = importlib.import_module(name).run(mace, device="cpu")
        except Exception as error:
            raise InputError(
                f"the model is converted to {package}, and {name} of mace-torch cannot convert it back "
                f"({type(error).__name__}: {error}); convert it where it was made"
            ) from error
    return mace


def _head(heads: list[str], wanted: str | None) -> str:
    if wanted is None and len(heads) > 1:
        raise InputError(f"the MACE model has several heads; set backbone.head to one of {heads}")
    if wanted is not None and wanted not in heads:
        raise InputError(f"backbone.head = {wanted!r} is not a head of the MACE model; it has {heads}")
    return wanted or heads[0]


def _backbone(found: Mapping[str, Any], wanted: BackboneConfig) -> BackboneConfig:
    """Options of the backbone, with head and dtype as wanted."""
    options = {**found["backbone"], "heads": found["heads"], "head": wanted.head}
    backbone = BackboneConfig.parse(options)
    names = set(BackboneConfig.model_fields) - {"dtype", "head"}
    _check_options("backbone", wanted, backbone, names, "the MACE model")
    if "dtype" in wanted.model_fields_set:
        backbone = backbone.model_copy(update={"dtype": wanted.dtype})
    return backbone


def _check_options(
    part: str, given: StrictConfig, found: StrictConfig, names: Collection[str], model: str
) -> None:
    """Refuse options of a part that are given and differ from those of the model."""
    for name in sorted(given.model_fields_set & set(names)):
        if getattr(given, name) != getattr(found, name):
            raise InputError(
                f"{part}.{name} = {getattr(given, name)!r} contradicts {model}, which has "
                f"{getattr(found, name)!r}; remove the option"
            )


def _present_form(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors in the form of the installed mace-torch: older versions lack buffers that the constructor
    computes, and have scalars of shape (1,) or energies without an axis of heads."""
    built, parameters = module.state_dict(), {name for name, _ in module.named_parameters()}
    present = {name: value for name, value in built.items() if name not in parameters or not value.numel()}
    present.update({name: value for name, value in tensors.items() if name not in _UNUSED})
    for name in ("scale_shift.scale", "scale_shift.shift", "atomic_energies_fn.atomic_energies"):
        if name in tensors and tensors[name].shape != built[name].shape:
            stored = tensors[name]
            stored = stored.reshape(built[name].shape) if stored.numel() == built[name].numel() else stored
            present[name] = stored.expand(built[name].shape) if stored.numel() == 1 else stored
    return present


def _probe(mace: Any, config: BackboneConfig, elements: list[int], head: int) -> float:
    """Interaction energy in eV of a cluster of every element (8 atoms at most, 4 at least)."""
    index = torch.arange(max(4, min(8, len(elements)))) % len(elements)
    angle = 2.0 * torch.arange(len(index), dtype=torch.float64)
    positions = 0.3 * config.r_max * torch.stack([angle.cos(), angle.sin(), angle / 4], dim=1)
    distances = torch.cdist(positions, positions)
    edges = torch.nonzero((distances < config.r_max) & (distances > 0)).T
    parameter = next(mace.parameters())
    graph = Graph(
        positions=positions,
        atomic_numbers=torch.tensor(elements)[index],
        cell=torch.zeros(1, 3, 3, dtype=torch.float64),
        pbc=torch.zeros(1, 3, dtype=torch.bool),
        batch=torch.zeros(len(index), dtype=torch.int64),
        ptr=torch.tensor([0, len(index)]),
        edge_index=edges,
        unit_shifts=torch.zeros(edges.shape[1], 3, dtype=torch.float64),
        total_charge=torch.zeros(1, dtype=torch.float64),
        external_field=torch.zeros(1, 3, dtype=torch.float64),
        fermi_level=torch.full((1,), torch.nan, dtype=torch.float64),
    ).to(device=parameter.device, dtype=parameter.dtype)
    sender, receiver = graph.edge_index
    vectors = (graph.positions[receiver] - graph.positions[sender]).to(parameter.dtype)
    data = mace_input(graph, vectors, index.to(parameter.device), len(elements), head)
    plain: Any = next(kind for kind in type(mace).__mro__ if kind.__name__ == "ScaleShiftMACE")
    with torch.no_grad():
        return float(plain.forward(mace, data, compute_force=False)["interaction_energy"])


def _polar(found: Mapping[str, Any], mace: Any) -> dict[str, Any]:
    """Options of `electrostatics` and `polar` of a PolarMACE.

    Raises:
        InputError: a class that updates the density, or reads its energy, other than the usual ones.
    """
    for name, usual in _POLAR_CLASSES.items():
        given = getattr(mace, name, {}).get("type", usual)
        if given != usual:
            raise InputError(f"the model has {given!r} in {name}; only {usual!r} is supported")
    norms = found["field_feature_norms"]
    return {
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
        "attributes": _attributes(mace),
    }


def _attributes(mace: Any) -> dict[str, Any]:
    """Plain attributes of a PolarMACE that may enter its energy, and its nested options."""
    options = {key: value for name in _POLAR_CLASSES for key, value in getattr(mace, name, {}).items()}
    of_class = {"type", "potential_embedding_cls", "nonlinearity_cls"}  # one class each, checked elsewhere
    found = {**vars(mace), **{key: value for key, value in options.items() if key not in of_class}}
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, (bool, int, float, str)) and name not in _WITHOUT_ENERGY
    }


def _check_attributes(given: Mapping[str, Any], rebuilt: Any) -> None:
    """Refuse a PolarMACE with an option that its description lacks.

    Raises:
        InputError: an attribute that the rebuilt model does not have, or not with this value.
    """
    present = _attributes(rebuilt)
    for name, value in given.items():
        if present.get(name) != value:
            raise InputError(
                f"the PolarMACE has {name} = {value!r}, where a model of family 'polar' has "
                f"{present.get(name)}; it may change the energy, so the model runs in the mace-torch that "
                "wrote it alone (electret.polar.accelerate)"
            )


def _polar_config(config: ModelConfig, polar: Mapping[str, Any]) -> ModelConfig:
    """The options of `polar` that give the energy of a PolarMACE; `polar.mode` is the caller's."""
    if config.family != "polar":
        raise InputError(
            f"the model is MACE-POLAR-1, whose energy without its density is no start; family "
            f"{config.family!r} cannot host it, use family: polar"
        )
    update = {}
    for part in ("electrostatics", "polar"):
        own = getattr(config, part)
        parsed = type(own).parse({**own.model_dump(), **polar[part]})
        _check_options(part, own, parsed, polar[part], "the PolarMACE")
        update[part] = parsed
    return config.model_copy(update=update)


def _latent(mace: Any) -> dict[str, Any]:
    """Numbers of the latent charges of a MACE-LES model.

    Raises:
        InputError: an attribute of `les` is missing, or a readout that MACE-LES does not have.
    """
    les = mace.les
    try:
        found = {name: getattr(les.ewald, name) for name in _LATENT}
        found |= {name: getattr(les.bec, name) for name in ("remove_mean", "epsilon_factor")}
    except AttributeError as error:
        raise InputError(f"the MACE-LES model lacks an attribute of the package les: {error}") from error
    return {name: value if isinstance(value, bool) else float(value) for name, value in found.items()}


def _latent_config(config: ModelConfig, latent: Mapping[str, Any]) -> ModelConfig:
    """The options of `latent_ewald` that give the energy of a MACE-LES model."""
    if config.family != "latent_ewald":
        raise InputError(
            f"the model is MACE-LES, whose energy without its latent charges is no start; family "
            f"{config.family!r} cannot host it, use family: latent_ewald"
        )
    wanted = {"max_l": 0, "sigma": latent["sigma"] / math.sqrt(2.0)}
    electrostatics = config.electrostatics.model_copy(update=wanted)
    _check_options("electrostatics", config.electrostatics, electrostatics, wanted, "the MACE-LES model")
    options = LatentConfig(
        readout="mace",
        self_interaction=not latent["remove_self_interaction"],
        remove_mean=latent["remove_mean"],
        # Born charges of the package les are those of its own unit of charge.
        epsilon_factor=latent["epsilon_factor"] / _charge_factor(latent) ** 2,
    )
    return config.model_copy(update={"electrostatics": electrostatics, "latent": options})


def _charge_factor(latent: Mapping[str, Any]) -> float:
    """Charge in e per latent charge of les: sqrt(norm_factor / (2 pi K))."""
    return math.sqrt(latent["norm_factor"] / (2.0 * math.pi * COULOMB_CONSTANT))


def _latent_tensors(
    tensors: Mapping[str, torch.Tensor], latent: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    """Tensors whose latent charges are in e: the last linear map of each readout is scaled, in float64."""
    factor = _charge_factor(latent)
    last = ("linear.weight", "linear.bias", "linear_2.weight", "linear_2.bias")
    return {
        name: value.double() * factor if name.startswith("les_readouts.") and name.endswith(last) else value
        for name, value in tensors.items()
        if not name.startswith("les.")
    }
