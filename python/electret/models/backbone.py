"""The hosted MACE: built from the configuration or taken from an existing model object."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import e3nn
import numpy as np
import torch
from ase.data import chemical_symbols
from torch.overrides import TorchFunctionMode

from electret.errors import ElectretError, InputError
from electret.graph import Graph
from electret.models.config import BackboneConfig
from electret.models.hosted import couplings_once, mace_blocks, mace_models, o3, quiet, torch_tools
from electret.models.start.statistics import Statistics
from electret.support.locks import Lock

__all__ = [
    "GATES",
    "Allocations",
    "Backbone",
    "BackboneOutput",
    "construction_dtype",
    "load_tensors",
    "mace_input",
]

_CONSTRUCTION = Lock()

MOST_MEMORY = 16 * 2**30
"""Bytes that the tensors of a model may take."""

# The tables of mace.modules, whose import takes seconds.
_INTERACTIONS = {name: entry for name, entry in vars(mace_blocks).items() if name.startswith("RealAgnostic")}
_READOUTS = {
    name: getattr(mace_blocks, name)
    for name in (
        "LinearReadoutBlock",
        "NonLinearReadoutBlock",
        "NonLinearBiasReadoutBlock",
        "GeneralNonLinearBiasReadoutBlock",
    )
    if hasattr(mace_blocks, name)
}
GATES = {"abs": torch.abs, "tanh": torch.tanh, "silu": torch.nn.functional.silu, "None": None}


class Allocations(TorchFunctionMode):
    """Refuses a model by the size of its tensors, before they are allocated."""

    _MADE = (torch.empty, torch.ones, torch.rand, torch.randn, torch.zeros)

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in self._MADE:
            shape = args[0] if args and isinstance(args[0], (list, tuple)) else args
            self.total += 8 * math.prod(length for length in shape if isinstance(length, int))
            if self.total > MOST_MEMORY:
                raise InputError(
                    f"the model needs more than {self.total / 2**30:.3g} GiB of parameters (one tensor of "
                    f"shape {list(shape)}); at most {MOST_MEMORY / 2**30:g} are taken. Use fewer channels or "
                    "narrower layers"
                )
        return function(*args, **(kwargs or {}))


@contextmanager
def construction_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Builds e3nn and MACE modules without TorchScript, in `dtype`, which they take from torch's default.

    Casting afterwards would leave coupling coefficients with the 7 digits of float32. TorchScript takes
    seconds per model to compile and gives the same results. Defaults are back as they were on exit,
    exceptions included; one thread at a time.
    """
    failure: BaseException | None = None
    with _CONSTRUCTION:
        scripting = e3nn.get_optimization_defaults()["jit_script_fx"]
        e3nn.set_optimization_defaults(jit_script_fx=False)
        with torch_tools.default_dtype(dtype), couplings_once(), quiet():
            try:
                yield
            except BaseException as error:
                # MACE's context does not restore the default when an exception passes through it.
                failure = error
        e3nn.set_optimization_defaults(jit_script_fx=scripting)
        if failure is not None:
            raise failure


class BackboneOutput(NamedTuple):
    """Energies and node features of the hosted MACE for a batch."""

    energies: torch.Tensor  # [n_atoms] float64, short-range energies with those of isolated atoms, eV
    features: list[torch.Tensor]  # per layer [n_atoms, irreps of the layer], e3nn order


class Backbone(torch.nn.Module):
    """An ordinary `mace.modules.ScaleShiftMACE` with its per-layer features."""

    e0s: torch.Tensor
    element_index: torch.Tensor

    def __init__(
        self, config: BackboneConfig, statistics: Statistics, make: Callable[..., Any] | None = None
    ) -> None:
        super().__init__()
        self.mace: Any
        self.config = config
        self.head_index = config.head_index
        self.elements = statistics.elements
        with construction_dtype(getattr(torch, config.dtype)):
            try:
                self.mace = _build_mace(config, statistics, make or mace_models.ScaleShiftMACE)
            except (ElectretError, MemoryError, KeyboardInterrupt):
                raise
            except Exception as error:
                options = config.model_dump(exclude_defaults=True, exclude={"dtype"})
                reason = f"{type(error).__name__}: {error}".rstrip(": ")
                raise InputError(
                    f"MACE cannot be built with backbone options {options} ({reason})"
                ) from error
        self.layer_irreps = [o3.Irreps(str(product.linear.irreps_out)) for product in self.mace.products]
        # Total energies of 1e5 eV need more than float32, so atomic energies are added in float64 here.
        self.register_buffer(
            "e0s", torch.tensor([statistics.e0s[number] for number in self.elements], dtype=torch.float64)
        )
        # The last entry stands for every number beyond; no element has it or the first.
        index = torch.full((len(chemical_symbols) + 1,), -1, dtype=torch.int64)
        index[list(self.elements)] = torch.arange(len(self.elements))
        self.register_buffer("element_index", index, persistent=False)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the parameters."""
        return self.mace.r_max.dtype  # the parameters take longer to reach

    def elements_of(self, graph: Graph) -> torch.Tensor:
        """Index of each atom's element in the model, `[n_atoms]` int64.

        Raises:
            InputError: an element the model was not trained on.
        """
        numbers = graph.atomic_numbers
        index = self.element_index[numbers.clamp(0, len(self.element_index) - 1)]
        if bool((index < 0).any()):
            atom = int(torch.nonzero(index < 0)[0])
            number = int(numbers[atom])
            name = chemical_symbols[number] if 0 < number < len(chemical_symbols) else f"Z = {number}"
            known = ", ".join(chemical_symbols[element] for element in self.elements)
            raise InputError(
                f"atom {atom} is {name}, which is no element of the model; it was trained on {known}. "
                "Use a model trained with this element"
            )
        return index

    def forward(self, graph: Graph, vectors: torch.Tensor, elements: torch.Tensor) -> BackboneOutput:
        """Short-range energies and features.

        Args:
            graph: the batch.
            vectors: from sender to receiver of each edge, `[n_edges, 3]` Å, strained if a stress is computed.
            elements: `[n_atoms]` from `elements_of`.
        """
        data = mace_input(graph, vectors.to(self.dtype), elements, len(self.elements), self.head_index)
        output = self.mace(data, compute_force=False)
        features = torch.split(output["node_feats"], [irreps.dim for irreps in self.layer_irreps], dim=-1)
        return BackboneOutput(self.energies_of(data, output, elements), list(features))

    def energies_of(
        self, data: dict[str, torch.Tensor], output: Mapping[str, torch.Tensor], elements: torch.Tensor
    ) -> torch.Tensor:
        """Energies `[n_atoms]` float64 of MACE's output, with those of isolated atoms."""
        # MACE has added its own energies of isolated atoms, with the digits of its dtype.
        isolated = self.mace.atomic_energies_fn(data["node_attrs"])[:, self.head_index].double()
        energies = self.e0s.double()[elements] + (output["node_energy"] - isolated)
        if self.config.use_embedding_readout:
            # MACE adds it to its total energy alone.
            embedded = self.mace.node_embedding(data["node_attrs"])
            embedded = embedded + self.mace.joint_embedding(data["batch"], data)
            energies = energies + self.mace.embedding_readout(embedded, None)[:, self.head_index].double()
        return energies


def mace_input(
    graph: Graph, vectors: torch.Tensor, elements: torch.Tensor, n_elements: int, head_index: int
) -> dict[str, torch.Tensor]:
    """The dictionary that a MACE model's forward takes.

    MACE adds differences of positions and the shifts of the edges. In the dtype of the model such differences
    lose digits far from the origin, so all atoms are put there and the shifts are the `vectors` of the edges.
    """
    return {
        "positions": vectors.new_zeros(len(elements), 3),
        "node_attrs": torch.nn.functional.one_hot(elements, n_elements).to(vectors.dtype),
        "edge_index": graph.edge_index,
        "shifts": vectors,
        "unit_shifts": graph.unit_shifts,
        "cell": graph.cell.reshape(-1, 3),
        "batch": graph.batch,
        "ptr": graph.ptr,
        "head": torch.full_like(graph.ptr[:-1], head_index),
        "total_charge": graph.total_charge,
        "total_spin": graph.spin_multiplicity,
    }


def _class_named(kind: str, name: str, classes: Mapping[str, Any]) -> Any:
    if name not in classes:
        nearest = difflib.get_close_matches(name, classes, n=1, cutoff=0.0)[0]
        raise InputError(f"backbone.{kind} = {name!r} is no class of MACE; did you mean {nearest!r}?")
    return classes[name]


HIGHEST_IRREP = 11
"""Highest order of the coupling coefficients that e3nn has."""
MOST_CHANNELS = 4096
"""The time in which MACE is built grows with their square."""


def _irreps(option: str, text: str) -> o3.Irreps:
    try:
        irreps = o3.Irreps(text)
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError(
            f"backbone.{option} = {text!r} are no irreps; write them as '128x0e + 128x1o'"
        ) from error
    if any(irrep.l > HIGHEST_IRREP for _, irrep in irreps):
        raise InputError(f"backbone.{option} = {text!r} has irreps above l = {HIGHEST_IRREP}")
    widest = max((channels for channels, _ in irreps), default=0)
    if widest > MOST_CHANNELS:
        raise InputError(
            f"backbone.{option} = {text!r} has {widest} channels, whose linear maps hold {widest**2:.3g} "
            f"numbers each; at most {MOST_CHANNELS} are taken"
        )
    if irreps.count(o3.Irrep(0, 1)) == 0:
        raise InputError(f"backbone.{option} = {text!r} has no scalars; MACE needs '0e' among them")
    return irreps


def _check_couplings(config: BackboneConfig) -> None:
    """Refuses products whose coupling coefficients would not fit: (2l + 1) dim^n numbers for each path
    of order n from the dim = (max_ell + 1)² harmonics of an edge to an irrep of degree l."""
    orders = config.correlation if isinstance(config.correlation, tuple) else (config.correlation,)
    dim, highest = (config.max_ell + 1) ** 2, max(orders)
    paths = dict.fromkeys(range(config.max_ell + 1), 1)
    for _ in range(highest - 1):
        longer: dict[int, int] = {}
        for l, count in paths.items():
            for other in range(config.max_ell + 1):
                for total in range(abs(l - other), l + other + 1):
                    longer[total] = longer.get(total, 0) + count
        paths = longer
    size = 8 * dim**highest * sum((2 * l + 1) * count for l, count in paths.items() if l <= config.max_ell)
    if size > MOST_MEMORY:
        raise InputError(
            f"backbone.correlation = {highest} with max_ell = {config.max_ell} needs {size / 2**30:.3g} GiB "
            f"of coupling coefficients; at most {MOST_MEMORY / 2**30:g} are taken. Lower one of them"
        )


def _build_mace(config: BackboneConfig, statistics: Statistics, make: Callable[..., Any]) -> Any:
    """MACE's own constructor with our names; tensors are filled in from files or other models later."""
    n_heads = len(config.heads)
    hidden = _irreps("hidden_irreps", config.hidden_irreps)
    per_channel = {mul for mul, _ in hidden}
    if len(per_channel) > 1:
        raise InputError(
            f"backbone.hidden_irreps = {config.hidden_irreps!r} has unequal channels {sorted(per_channel)}; "
            "MACE needs the same number for every irrep"
        )
    edges = None if config.edge_irreps is None else _irreps("edge_irreps", config.edge_irreps)
    _check_couplings(config)
    correlation = config.correlation
    scale: Any = [statistics.scale] * n_heads if n_heads > 1 else statistics.scale
    shift: Any = [statistics.mean] * n_heads if n_heads > 1 else statistics.mean
    specs = {
        spec.name: spec.model_dump(exclude={"name"}, exclude_none=True) for spec in config.embedding_specs
    }
    return make(
        r_max=config.r_max,
        num_bessel=config.num_radial_basis,
        num_polynomial_cutoff=config.num_cutoff_basis,
        max_ell=config.max_ell,
        interaction_cls=_class_named("interaction", config.interaction, _INTERACTIONS),
        interaction_cls_first=_class_named("interaction_first", config.interaction_first, _INTERACTIONS),
        num_interactions=config.num_interactions,
        num_elements=len(statistics.elements),
        hidden_irreps=hidden,
        MLP_irreps=_irreps("MLP_irreps", config.MLP_irreps),
        atomic_energies=np.tile([statistics.e0s[number] for number in statistics.elements], (n_heads, 1)),
        avg_num_neighbors=config.avg_num_neighbors or statistics.avg_num_neighbors,
        atomic_numbers=list(statistics.elements),
        correlation=correlation if isinstance(correlation, int) else list(correlation),
        gate=GATES[config.gate],
        pair_repulsion=config.pair_repulsion,
        apply_cutoff=config.apply_cutoff,
        use_reduced_cg=config.use_reduced_cg,
        use_so3=config.use_so3,
        use_agnostic_product=config.use_agnostic_product,
        use_last_readout_only=config.use_last_readout_only,
        distance_transform=config.distance_transform,
        edge_irreps=edges,
        use_edge_irreps_first=config.use_edge_irreps_first,
        radial_MLP=list(config.radial_MLP),
        radial_type=config.radial_type,
        heads=list(config.heads),
        readout_cls=_class_named("readout", config.readout, _READOUTS),
        keep_last_layer_irreps=config.keep_last_layer_irreps,
        embedding_specs=specs or None,
        use_embedding_readout=config.use_embedding_readout,
        atomic_inter_scale=scale,
        atomic_inter_shift=shift,
    )


def load_tensors(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Fills every parameter and buffer of `module` from `tensors`, converting the dtype.

    A buffer that was built with more digits and agrees with the stored one to its precision is kept: coupling
    coefficients of a float32 model widened to float64 stay exact.

    Raises:
        InputError: missing, unknown or misshapen tensors.
    """
    own = module.state_dict()
    parameters = {name for name, _ in module.named_parameters()}
    missing, unknown = sorted(set(own) - set(tensors)), sorted(set(tensors) - set(own))
    if missing or unknown:
        raise InputError(
            f"the tensors do not fit the model: {len(missing)} missing {missing[:4]}, {len(unknown)} unknown "
            f"{unknown[:4]}"
        )
    merged = {}
    for name, built in own.items():
        stored = tensors[name]
        if built.shape != stored.shape:
            raise InputError(
                f"tensor {name} has shape {tuple(stored.shape)}; the model needs {tuple(built.shape)}"
            )
        stored = stored.to(built.device)
        widened = built.is_floating_point() and torch.finfo(built.dtype).bits > torch.finfo(stored.dtype).bits
        agrees = (
            widened and name not in parameters and torch.allclose(built, stored.to(built.dtype), rtol=1e-6)
        )
        merged[name] = built if agrees else stored.to(built.dtype)
    module.load_state_dict(merged)
