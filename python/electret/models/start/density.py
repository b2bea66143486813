"""Statistics of labelled densities for self-consistent models: scales of potential, Fermi level, charges.

The map of a fixed-point model reads the potential features v = B p + v_ext + mu of its own density, divided
by one number per (l, width), so that its inputs are of order one. These norms are taken over the labelled
densities, since that is where the trained model should arrive.

For l = 0 the mean over the atoms of each system is taken off first. A constant in the potential of a system
carries no information: mu is added to v and fixed by the total charge, so it absorbs the constant, be it from
the origin that a field is measured from, the net charge of a cluster, or the neutralising background of a
charged cell. What remains is what distinguishes the atoms of a system, which is what the map has to resolve.
Without this a charged cluster in a field, moved by 100 Å, would change the norms of the whole data set. The
sum of squares is divided by n_atoms - 1 per system, as one degree of freedom went with the mean. Higher l are
gradients and have no such constant.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

import electret
from electret.graph import Graph
from electret.models.base import per_element
from electret.models.config import ModelConfig
from electret.models.start.responses import element_responses
from electret.models.start.statistics import Statistics

__all__ = ["density_statistics", "reference_multipoles", "unit_norm"]

_SMALLEST = 1e-6
"""Part of `unit_norm` below which a norm counts as none."""
_ATOMS_PER_BATCH = 2000


def unit_norm(l: int, width: float) -> float:
    """Norm of a feature of order `l` and `width` (Å) where the data gives none: about that of a potential of
    1 V, a field of 1 V/Å, ..."""
    return math.sqrt(4.0 * math.pi / (2 * l + 1)) * width**l


def density_statistics(statistics: Statistics, config: ModelConfig, graphs: Iterable[Graph]) -> Statistics:
    """`statistics` with `feature_norms`, `fermi_level` and `charge_spread` of the labelled frames.

    - `feature_norms[l][width]`: RMS per component of `electret.features` of the labelled densities
      (normalisation "receiver"), with the field of each frame; see the module for l = 0. Only frames whose
      every atom is labelled count. Labels with fewer components than the model are padded with zeros.
    - `fermi_level`: mean of the labels in eV, 0 without any.
    - `charge_spread`: standard deviation of the labelled charges of each element in e, None without any.
    - `polarizability`, `susceptibility`: of each element, `element_responses` of the labelled
      polarisabilities, None without any.

    Without labelled densities there are no norms (None; a model then takes `unit_norm`), and where a norm
    vanishes (isolated atoms, zero charges, sites without a field by symmetry) it is `unit_norm`. Both are
    said in a warning.

    Args:
        statistics: of the same data.
        config: with the Gaussians, receivers and boundary of the model.
        graphs: training data on the CPU.

    Returns:
        A copy of `statistics`.

    Raises:
        InputError: labelled densities whose electrostatics cannot be computed, or an element without a width.
    """
    graphs = list(graphs)
    responses = element_responses(statistics.elements, graphs)
    return statistics.model_copy(
        update={
            "polarizability": responses and responses[0],
            "susceptibility": responses and responses[1],
            "feature_norms": _feature_norms(statistics, config, graphs),
            "fermi_level": _mean_fermi_level(graphs),
            "charge_spread": _charge_spread(statistics, graphs),
        }
    )


def reference_multipoles(graph: Graph, n_lm: int) -> NDArray[np.float64] | None:
    """Labelled multipoles `[n_atoms, n_lm]` of the graph, else its charges, padded with zeros or cut to
    `n_lm`; None if an atom lacks one."""
    label = graph.labels.get("multipoles")
    if label is None or not bool(torch.isfinite(label).all()):
        label = graph.labels.get("charges")
        if label is None or not bool(torch.isfinite(label).all()):
            return None
        label = label[:, None]
    multipoles = np.zeros((graph.n_atoms, n_lm))
    shared = min(n_lm, label.shape[1])
    multipoles[:, :shared] = label[:, :shared].double().numpy()
    return multipoles


def _feature_norms(
    statistics: Statistics, config: ModelConfig, graphs: Sequence[Graph]
) -> tuple[tuple[float, ...], ...] | None:
    options = config.electrostatics
    n_lm = (options.max_l + 1) ** 2
    labelled = [(graph, p) for graph in graphs if (p := reference_multipoles(graph, n_lm)) is not None]
    shape = (options.features_max_l + 1, len(options.widths))
    if not labelled:
        warnings.warn(
            "no training frame has charges or multipoles, so the model takes a potential of 1 V and a field "
            "of 1 V/Å as the scale of its potential features; give charges for better scales",
            stacklevel=3,
        )
        return None
    squares, counts = np.zeros(shape), np.zeros(shape[0])
    for batch, multipoles in _batches(labelled):
        features = _features(statistics, config, batch, multipoles)  # [n_atoms, n_widths, n_lm]
        features[:, :, 0] -= _system_means(features[:, :, 0], batch)
        for l in range(shape[0]):
            block = features[:, :, l * l : (l + 1) ** 2]
            squares[l] += (block**2).sum(axis=(0, 2))
            counts[l] += (2 * l + 1) * batch.n_atoms - (batch.n_systems if l == 0 else 0)
    norms = np.sqrt(squares / np.maximum(counts, 1.0)[:, None])
    default = np.array([[unit_norm(l, width) for width in options.widths] for l in range(shape[0])])
    vanishing = norms < _SMALLEST * default
    if vanishing.any():
        places = ", ".join(f"l={l} width={options.widths[n]:g} Å" for l, n in np.argwhere(vanishing))
        warnings.warn(
            f"the potential of the labelled densities has no features of {places}, as in data of isolated "
            "or uncharged atoms or at sites of high symmetry; they are scaled as if a potential of 1 V or a "
            "field of 1 V/Å were usual, and there is nothing to learn from them",
            stacklevel=3,
        )
    return tuple(tuple(float(norm) for norm in row) for row in np.where(vanishing, default, norms))


def _batches(
    labelled: Sequence[tuple[Graph, NDArray[np.float64]]],
) -> Iterator[tuple[Graph, NDArray[np.float64]]]:
    """The frames and their densities, joined up to some number of atoms."""
    start = n_atoms = 0
    for index, (graph, _) in enumerate(labelled):
        n_atoms += graph.n_atoms
        if n_atoms >= _ATOMS_PER_BATCH or index + 1 == len(labelled):
            chosen = labelled[start : index + 1]
            bare = [Graph(**{**graph.__dict__, "labels": {}}) for graph, _ in chosen]
            yield Graph.collate(bare), np.concatenate([multipoles for _, multipoles in chosen])
            start, n_atoms = index + 1, 0


def _features(
    statistics: Statistics, config: ModelConfig, batch: Graph, multipoles: NDArray[np.float64]
) -> NDArray[np.float64]:
    options = config.electrostatics
    sigma: float | NDArray[np.float64]
    if isinstance(options.sigma, dict):
        of_elements = per_element(options.sigma, statistics, "electrostatics.sigma")
        elements = np.searchsorted(statistics.elements, batch.atomic_numbers.numpy())
        sigma = np.array(of_elements)[elements]
    else:
        sigma = options.sigma
    in_field = "external_field" not in config.ignored_conditions
    return electret.features(
        batch.positions.double().numpy(),
        multipoles,
        sigma,
        widths=options.widths,
        features_max_l=options.features_max_l,
        normalization="receiver",
        self_interaction=config.fixed_point.self_interaction,
        cell=batch.cell.double().numpy(),
        pbc=batch.pbc.numpy(),
        batch=batch.batch.numpy(),
        external_field=batch.external_field.double().numpy() if in_field else None,
        boundary=options.boundary,
        method=options.method,
        accuracy=options.accuracy,
    )


def _system_means(values: NDArray[np.float64], batch: Graph) -> NDArray[np.float64]:
    """Mean over the atoms of each system, for each atom, `[n_atoms, n_widths]`."""
    system = batch.batch.numpy()
    sums = np.zeros((batch.n_systems, values.shape[1]))
    np.add.at(sums, system, values)
    return (sums / batch.n_atoms_per_system.numpy()[:, None])[system]


def _mean_fermi_level(graphs: Sequence[Graph]) -> float:
    found = [graph.labels["fermi_level"].double() for graph in graphs if "fermi_level" in graph.labels]
    levels = torch.cat(found) if found else torch.empty(0)
    levels = levels[torch.isfinite(levels)]
    return float(levels.mean()) if len(levels) else 0.0


def _charge_spread(statistics: Statistics, graphs: Sequence[Graph]) -> dict[int, float] | None:
    charges: dict[int, list[NDArray[np.float64]]] = {number: [] for number in statistics.elements}
    for graph in graphs:
        multipoles = reference_multipoles(graph, 1)
        if multipoles is not None:
            numbers = graph.atomic_numbers.numpy()
            for number in np.unique(numbers):
                charges.setdefault(int(number), []).append(multipoles[numbers == number, 0])
    spread = {number: float(np.concatenate(parts).std()) for number, parts in charges.items() if parts}
    return spread or None
