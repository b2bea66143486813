"""Builds a model of any family, fresh or around an existing MACE model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from electret.errors import InputError
from electret.graph import Graph
from electret.models.backbone import Allocations, Backbone, describe_mace, load_tensors, mace_input
from electret.models.base import Model, assemble
from electret.models.config import ModelConfig
from electret.models.family import family_named, registered
from electret.models.start.statistics import Statistics

__all__ = ["MODEL_CLASSES", "build", "from_mace"]


class _ModelClasses(Mapping[str, type[Model]]):
    """The class of each family, imported when it is read."""

    def __getitem__(self, name: str) -> type[Model]:
        if name not in registered():
            raise KeyError(name)
        return family_named(name).model_class

    def __iter__(self) -> Iterator[str]:
        return iter(registered())

    def __len__(self) -> int:
        return len(registered())


MODEL_CLASSES: Mapping[str, type[Model]] = _ModelClasses()
"""The class of each family."""


def build(config: ModelConfig, statistics: Statistics, seed: int = 0) -> Model:
    """A fresh model; equal seeds give equal parameters, and the global random state is left alone.

    Raises:
        InputError: options that MACE or the family cannot use.
    """
    with Allocations():
        return assemble(MODEL_CLASSES[config.family], config, statistics, seed)


def from_mace(
    mace: torch.nn.Module, config: ModelConfig, seed: int = 0, charges: dict[int, float] | None = None
) -> Model:
    """A model whose backbone is a copy of an existing `mace.modules.ScaleShiftMACE`, foundation models too.

    The backbone is rebuilt through MACE's own constructor from what the object says of itself, and its energy
    is compared with the object's on a probe cluster. Last layers with scalars only are fine as long as
    another layer has the irreps that the multipoles need.

    Args:
        mace: the model object.
        config: `backbone` may set `head` and `dtype`; other backbone options must agree with the object.
        seed: for the parameters that the family adds.
        charges: mean labelled charge by atomic number, for `fixed_charges` without configured charges.

    Raises:
        InputError: a model that cannot be hosted, with the reason and a remedy.
    """
    found, statistics = describe_mace(mace, config.backbone.head)
    wanted = config.backbone.model_dump(include=config.backbone.model_fields_set)
    for name, value in wanted.items():
        if name not in ("dtype", "head") and getattr(found, name) != value:
            raise InputError(
                f"backbone.{name} = {value!r} contradicts the MACE model, which has "
                f"{getattr(found, name)!r}; remove the option"
            )
    if "dtype" in wanted:
        found = found.model_copy(update={"dtype": wanted["dtype"]})
    if charges is not None:
        statistics = statistics.model_copy(update={"charges": charges})
    model = build(config.model_copy(update={"backbone": found}), statistics, seed)
    try:
        load_tensors(model.backbone.mace, mace.state_dict())
    except InputError as error:
        raise InputError(
            f"the MACE model cannot be rebuilt from its description: {error}. It may be converted "
            "(cuEquivariance, compiled, LoRA) or of another version of mace-torch; convert it back to e3nn"
        ) from error
    _compare(model.backbone, mace)
    return model.to(next(mace.parameters()).device)


def _compare(backbone: Backbone, mace: torch.nn.Module) -> None:
    """Checks the rebuilt backbone against the original on a cluster of every element (8 at most)."""
    n_elements = len(backbone.elements)
    index = torch.arange(max(4, min(8, n_elements))) % n_elements
    angle = 2.0 * torch.arange(len(index), dtype=torch.float64)
    positions = 0.3 * backbone.config.r_max * torch.stack([angle.cos(), angle.sin(), angle / 4], dim=1)
    distances = torch.cdist(positions, positions)
    edges = torch.nonzero((distances < backbone.config.r_max) & (distances > 0)).T
    probe = Graph(
        positions=positions,
        atomic_numbers=torch.tensor(backbone.elements)[index],
        cell=torch.zeros(1, 3, 3, dtype=torch.float64),
        pbc=torch.zeros(1, 3, dtype=torch.bool),
        batch=torch.zeros(len(index), dtype=torch.int64),
        ptr=torch.tensor([0, len(index)]),
        edge_index=edges,
        unit_shifts=torch.zeros(edges.shape[1], 3, dtype=torch.float64),
        total_charge=torch.zeros(1, dtype=torch.float64),
        external_field=torch.zeros(1, 3, dtype=torch.float64),
        fermi_level=torch.full((1,), torch.nan, dtype=torch.float64),
    )

    def energies(model: torch.nn.Module) -> torch.Tensor:
        parameter = next(model.parameters())
        graph = probe.to(device=parameter.device, dtype=parameter.dtype)
        sender, receiver = graph.edge_index
        vectors = (graph.positions[receiver] - graph.positions[sender]).to(parameter.dtype)
        data = mace_input(graph, vectors, index.to(parameter.device), n_elements, backbone.head_index)
        with torch.no_grad():
            return model(data, compute_force=False)["interaction_energy"].double().cpu()

    original, rebuilt = energies(mace), energies(backbone.mace)
    if not torch.allclose(original, rebuilt, rtol=1e-4, atol=1e-4):
        raise InputError(
            f"the rebuilt MACE gives {rebuilt.item():.6f} eV for a probe cluster where the original gives "
            f"{original.item():.6f} eV; it has an option that its description lacks, and cannot be hosted"
        )
