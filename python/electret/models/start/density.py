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
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

import electret
from electret.graph import Graph
from electret.models.base import per_element
from electret.models.config import ModelConfig
from electret.models.start.responses import element_responses
from electret.models.start.statistics import Statistics

__all__ = ["Mean", "density_statistics", "reference_multipoles", "unit_norm"]

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
    norms, spread, levels = _FeatureNorms(statistics, config), _Spread(), Mean()

    def passed() -> Iterator[Graph]:
        for graph in graphs:
            norms.add(graph)
            spread.add(graph)
            if "fermi_level" in graph.labels:
                found = graph.labels["fermi_level"].double()
                levels.add(found[torch.isfinite(found)])
            yield graph

    responses = element_responses(statistics.elements, passed())
    return statistics.model_copy(
        update={
            "polarizability": responses and responses[0],
            "susceptibility": responses and responses[1],
            "feature_norms": norms.result(),
            "fermi_level": levels.result(),
            "charge_spread": spread.result(),
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


class _FeatureNorms:
    """RMS of the features of labelled densities; frames are joined up to some number of atoms."""

    def __init__(self, statistics: Statistics, config: ModelConfig) -> None:
        self.statistics, self.config = statistics, config
        options = config.electrostatics
        self.squares = np.zeros((options.features_max_l + 1, len(options.widths)))
        self.counts = np.zeros(options.features_max_l + 1)
        self.waiting: list[tuple[Graph, NDArray[np.float64]]] = []
        self.n_waiting = self.n_frames = 0

    def add(self, graph: Graph) -> None:
        """Count a frame, if all its atoms are labelled."""
        multipoles = reference_multipoles(graph, (self.config.electrostatics.max_l + 1) ** 2)
        if multipoles is None:
            return
        self.waiting.append((Graph(**{**graph.__dict__, "labels": {}}), multipoles))
        self.n_waiting += graph.n_atoms
        self.n_frames += 1
        if self.n_waiting >= _ATOMS_PER_BATCH:
            self._count()

    def _count(self) -> None:
        batch = Graph.collate([graph for graph, _ in self.waiting])
        multipoles = np.concatenate([own for _, own in self.waiting])
        self.waiting, self.n_waiting = [], 0
        features = _features(self.statistics, self.config, batch, multipoles)  # [n_atoms, n_widths, n_lm]
        features[:, :, 0] -= _system_means(features[:, :, 0], batch)
        for l in range(len(self.counts)):
            block = features[:, :, l * l : (l + 1) ** 2]
            self.squares[l] += (block**2).sum(axis=(0, 2))
            self.counts[l] += (2 * l + 1) * batch.n_atoms - (batch.n_systems if l == 0 else 0)

    def result(self) -> tuple[tuple[float, ...], ...] | None:
        """Norms `[l][width]`, None without labelled frames."""
        if self.waiting:
            self._count()
        widths, shape = self.config.electrostatics.widths, self.squares.shape
        if not self.n_frames:
            warnings.warn(
                "no training frame has charges or multipoles, so the model takes a potential of 1 V and a "
                "field of 1 V/Å as the scale of its potential features; give charges for better scales",
                stacklevel=3,
            )
            return None
        norms = np.sqrt(self.squares / np.maximum(self.counts, 1.0)[:, None])
        default = np.array([[unit_norm(l, width) for width in widths] for l in range(shape[0])])
        vanishing = norms < _SMALLEST * default
        if vanishing.any():
            places = ", ".join(f"l={l} width={widths[n]:g} Å" for l, n in np.argwhere(vanishing))
            warnings.warn(
                f"the potential of the labelled densities has no features of {places}, as in data of "
                "isolated or uncharged atoms or at sites of high symmetry; they are scaled as if a potential "
                "of 1 V or a field of 1 V/Å were usual, and there is nothing to learn from them",
                stacklevel=3,
            )
        return tuple(tuple(float(norm) for norm in row) for row in np.where(vanishing, default, norms))


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


class Mean:
    """Mean and standard deviation of numbers that come one after the other, taken about the first of them."""

    def __init__(self) -> None:
        self.origin, self.count, self.sum, self.squares = 0.0, 0, 0.0, 0.0

    def add(self, values: torch.Tensor | NDArray[np.float64]) -> None:
        """Count some numbers."""
        if len(values):
            if not self.count:
                self.origin = float(values[0])
            rest = np.asarray(values, dtype=np.float64) - self.origin
            self.count += len(rest)
            self.sum += float(rest.sum())
            self.squares += float(rest @ rest)

    def result(self) -> float:
        """The mean, 0 without numbers."""
        return self.origin + self.sum / self.count if self.count else 0.0

    def deviation(self) -> float:
        """The standard deviation."""
        mean = self.sum / self.count
        return math.sqrt(max(self.squares / self.count - mean**2, 0.0))


class _Spread:
    """Standard deviation of the labelled charges of each element."""

    def __init__(self) -> None:
        self.found: dict[int, Mean] = {}

    def add(self, graph: Graph) -> None:
        """Count a frame, if all its atoms are labelled."""
        multipoles = reference_multipoles(graph, 1)
        if multipoles is not None:
            numbers = graph.atomic_numbers.numpy()
            for number in np.unique(numbers):
                self.found.setdefault(int(number), Mean()).add(multipoles[numbers == number, 0])

    def result(self) -> dict[int, float] | None:
        """In e by atomic number, None without labels."""
        return {number: entry.deviation() for number, entry in sorted(self.found.items())} or None
