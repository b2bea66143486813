"""Predictions and errors of a model on a set of frames."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from electret.data.dataset import GraphDataset, Limits
from electret.data.frames import Frames
from electret.data.keys import DataKeys, DipoleOrigin
from electret.data.reading import Frame, wrap_atoms
from electret.data.sources import read_frames
from electret.errors import InputError
from electret.graph import Graph
from electret.models import Model
from electret.support import ranks
from electret.training.config import LossConfig
from electret.training.loss import Loss
from electret.training.metrics import Metrics, MetricsAccumulator
from electret.training.self_consistency import (
    add_grid_potentials,
    evaluated_targets,
    has_density,
    requested_properties,
    scf_options,
)

__all__ = ["as_dataset", "comparable", "compute", "evaluate", "evaluate_dataset", "predictions"]

Predictions = dict[str, torch.Tensor]


def compute(
    model: Model,
    dataset: GraphDataset,
    indices: Sequence[int],
    graph: Graph,
    targets: Collection[str] = (),
    **options: Any,
) -> Predictions:
    """Output of `model` for the frames of `dataset` in `graph`.

    Args:
        model: any family.
        dataset: for messages.
        indices: of the frames of the graph in the data set.
        graph: the batch.
        targets: with response properties and potentials on grids among them, which are computed on request.
        options: of `Model.forward`.

    Raises:
        InputError: names file and frame where the model refuses one of them.
    """
    options |= requested_properties(targets, graph)
    try:
        output: Predictions = model(graph, **options)
    except InputError:
        for name, parameter in model.named_parameters():
            if not bool(torch.isfinite(parameter).all()):
                raise InputError(
                    f"the model's parameter {name} holds nan or infinity, as after a diverged training; take "
                    "an earlier model or train it again"
                ) from None
        for index in indices:
            try:
                model(dataset.batch([index]).to(device=graph.device), **options)
            except InputError as error:
                raise InputError(f"{dataset.frames[index].where}: {error}") from None
        raise
    if "grid_potentials" in targets and "grid_points" in graph.labels:
        add_grid_potentials(model, output, graph)
    return output


def predictions(
    model: Model,
    dataset: GraphDataset,
    batch_size: int | Limits,
    weighted: Collection[str] = (),
    every_stress: bool = False,
    collected: bool = True,
) -> Iterator[tuple[list[int], Graph, Predictions]]:
    """Indices, graph and detached predictions of each batch.

    Forces always, stress, response properties and potentials on grids where there is a label, with
    `every_stress` the stress wherever it is defined, and what is `weighted` in a loss. A self-consistent
    density is converged, in whichever mode the model is trained; `stationarity` alone belongs to the
    reference density. Ranks share the batches; the first yields all, or, unless `collected`, each its own.
    """
    device = next(model.parameters()).device
    targets = evaluated_targets(model.description, weighted)
    stressed = dataset.wants_stress(every_stress)
    known = has_density(dataset.frames) if "stationarity" in targets else None
    batches = list(dataset.batches(batch_size, every_stress))
    own = ranks.share(batches)
    graphs = dataset.load(own)

    def evaluated(indices: list[int]) -> tuple[Graph, Predictions]:
        graph = next(graphs).to(device=device)
        output = compute(
            model,
            dataset,
            indices,
            graph,
            targets,
            forces=True,
            stress=bool(stressed[indices[0]]),
            **scf_options(model.family),
        )
        if known is not None:
            _add_stationarity(model, dataset, indices, graph, output, known[indices])
        return graph, {name: value.detach() for name, value in output.items()}

    found = ((indices, evaluated(indices)) for indices in own)
    for indices, (graph, output) in ranks.shared(batches, evaluated) if collected else found:
        yield indices, graph, output


def _add_stationarity(
    model: Model,
    dataset: GraphDataset,
    indices: Sequence[int],
    graph: Graph,
    output: Predictions,
    known: NDArray[np.bool_],
) -> None:
    """Put `stationarity` at the reference density beside the other predictions, NaN for frames where it is
    not `known`."""
    chosen = np.flatnonzero(known).tolist()
    if not chosen:
        return
    labelled = [indices[position] for position in chosen]
    there = dataset.batch(labelled).to(device=graph.device)
    direct = scf_options(model.family, mode="direct")
    values = compute(model, dataset, labelled, there, forces=False, **direct)["stationarity"]
    rows = torch.isin(graph.batch, torch.tensor(chosen, device=graph.device))
    output["stationarity"] = values.new_full((graph.n_atoms, values.shape[1]), torch.nan)
    output["stationarity"][rows] = values


def evaluate_dataset(
    model: Model,
    dataset: GraphDataset,
    batch_size: int | Limits,
    loss: LossConfig | None = None,
    parity: bool = False,
) -> Metrics:
    """Errors of `model` on `dataset`, and the mean loss per frame if `loss` is given; in all ranks, which
    share the batches."""
    periodic = model.description.periodic_responses
    measure = Loss(loss, periodic) if loss else None
    weighted = loss.weights if loss else ()
    limit = loss.stability_limit if loss else LossConfig.model_fields["stability_limit"].default
    accumulator = MetricsAccumulator(loss.dipole_components if loss else None, parity, limit, periodic)
    for _, graph, output in predictions(model, dataset, batch_size, weighted, collected=False):
        value = None
        if measure is not None:
            total = measure.total(measure.terms(output, graph), graph)
            value = 0.0 if total is None else float(total)
        accumulator.add(comparable(model, output), graph, value)
    first, *others = ranks.everywhere(accumulator)
    for other in others:
        first.merge(other)
    return first.result()


def comparable(model: Model, output: Predictions) -> Predictions:
    """Outputs that labels apply to; a latent density is compared with no label."""
    if model.description.properties:
        return output
    return {name: output[name] for name in model.description.targets if name in output}


def as_dataset(
    model: Model,
    frames: str | Path | Sequence[Frame] | Sequence[Atoms] | GraphDataset,
    keys: DataKeys | None = None,
    dipole_origin: DipoleOrigin | None = None,
) -> GraphDataset:
    """Graphs for `model` from a file, frames, or ASE structures."""
    if isinstance(frames, GraphDataset):
        return frames
    if isinstance(frames, (str, Path)):
        frames = read_frames(frames, keys, dipole_origin)
    if not isinstance(frames, Frames):
        items = list(frames)
        structures = [item for item in items if isinstance(item, Atoms)]
        frames = [item for item in items if isinstance(item, Frame)]
        frames += wrap_atoms(structures, keys, dipole_origin=dipole_origin or "origin")
    return GraphDataset(frames, model.cutoff, model.dtype)


def evaluate(
    model: Model,
    frames: str | Path | Sequence[Frame] | Sequence[Atoms] | GraphDataset,
    *,
    keys: DataKeys | None = None,
    dipole_origin: DipoleOrigin | None = None,
    batch_size: int = 10,
    loss: LossConfig | None = None,
    parity: bool = False,
) -> Metrics:
    """Errors of a model on labelled frames.

    Args:
        model: any electret model, on any device.
        frames: a data file or the folder of a prepared set, frames of `electret.data`, ASE structures with
            labels, or their graphs.
        keys: names of the labels in file or structures, if not the defaults.
        dipole_origin: point about which dipole labels of charged open systems are given, `"origin"`,
            `"center_of_mass"` or `"center_of_charge"` (of the nuclei); None is the first.
        batch_size: frames computed at once; the result does not depend on it.
        loss: also give the mean of this loss.
        parity: keep labels and predictions for parity plots.

    Raises:
        InputError: malformed data, unknown elements, conditions the family cannot honour.
    """
    return evaluate_dataset(model, as_dataset(model, frames, keys, dipole_origin), batch_size, loss, parity)
