"""Scales of the terms of the loss, taken from the labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from electret.data.dataset import GraphDataset
from electret.graph import Graph
from electret.models.family import Family
from electret.models.start.density import Mean
from electret.support import ranks
from electret.support.console import PlainTable, say
from electret.training.config import StageConfig, TrainingConfig
from electret.training.loss import Loss
from electret.training.targets import TARGETS

__all__ = ["scaled"]

MOST_FRAMES = 1000
"""Frames that scales are taken from; drawn by the seed of the run where there are more."""
SMALLEST = 1e-12
"""Term below which labels count as equal to their mean: residuals of 1e-6 eV, Å, e, V."""
_FRAMES_PER_BATCH = 32


def scaled(
    config: TrainingConfig, train_set: GraphDataset, e0s: Mapping[int, float], console: Console
) -> list[StageConfig]:
    """Stages of the run with the weights that `loss.scales` stands for, shown in a table.

    With `scales: data` the weight of each target is divided by the term of weight 1 that the mean of the
    labels has: the energies of isolated atoms and one mean energy per atom, the mean charge of each element,
    the mean Fermi level, and zero for all others. A weight then counts in the error of that guess, whatever
    the unit. Targets without a label of their own (`stationarity`, ...) keep their weight, and so do those
    whose labels equal their mean, with a warning.
    """
    if all(stage.loss.scales == "units" for stage in config.stages):
        return config.stages
    chosen = np.arange(len(train_set))
    if len(chosen) > MOST_FRAMES:
        chosen = np.sort(np.random.default_rng(config.seed).choice(chosen, MOST_FRAMES, replace=False))
    guess = _Means(train_set, chosen, e0s)
    result = []
    for index, stage in enumerate(config.stages):
        if stage.loss.scales == "data":
            terms = ranks.from_first(_terms(stage, guess, config.model.description))
            for name in stage.loss.weights:
                if TARGETS[name].has_own_label and name not in terms:
                    say(
                        console,
                        f"warning: stages.{index}.loss.{name}: the labels equal their mean, which gives no "
                        "scale; the weight is taken as it is",
                    )
            weights = {name: weight / terms.get(name, 1.0) for name, weight in stage.loss.weights.items()}
            _show(console, stage, terms, weights)
            stage = stage.model_copy(update={"loss": stage.loss.model_copy(update=weights)})
        result.append(stage)
    return result


class _Means:
    """Labels that are guessed by their means over the frames."""

    def __init__(self, train_set: GraphDataset, chosen: NDArray[np.int64], e0s: Mapping[int, float]) -> None:
        self.train_set, self.chosen, self.e0s = train_set, chosen, e0s
        frames = train_set.frames.take(chosen)
        n_atoms = frames.column("atoms")[frames.has("energy")]
        self.energy = _mean(frames.energies_without(e0s) / n_atoms)
        self.fermi_level = _mean(frames.column("fermi_level"))
        self.charges: dict[int, Mean] = {}
        for graph in self.graphs():
            charges = self._charges(graph)
            known = torch.isfinite(charges)
            for number in graph.atomic_numbers[known].unique().tolist():
                own = charges[known & (graph.atomic_numbers == number)]
                self.charges.setdefault(number, Mean()).add(own)

    def graphs(self) -> Iterator[Graph]:
        """Batches of the frames."""
        for start in range(0, len(self.chosen), _FRAMES_PER_BATCH):
            yield self.train_set.batch(self.chosen[start : start + _FRAMES_PER_BATCH].tolist())

    def predictions(self, graph: Graph) -> dict[str, torch.Tensor]:
        """Guess of every target with a label in the batch."""
        labels = graph.labels
        found = {name: torch.zeros_like(label) for name, label in labels.items() if name in TARGETS}
        found["total_charge"] = torch.zeros_like(graph.total_charge)
        if "energy" in labels:
            found["energy"] = self._atoms(graph) + self.energy * graph.n_atoms_per_system
        if "fermi_level" in labels:
            found["fermi_level"] = torch.full_like(labels["fermi_level"], self.fermi_level)
        numbers = graph.atomic_numbers.tolist()
        means = [self.charges[number].result() if number in self.charges else 0.0 for number in numbers]
        if "charges" in labels:
            found["charges"] = labels["charges"].new_tensor(means)
        if "multipoles" in labels:
            found["multipoles"][:, 0] = labels["multipoles"].new_tensor(means)
        return found

    def _atoms(self, graph: Graph) -> torch.Tensor:
        """Energy of the isolated atoms of each system."""
        numbers = graph.atomic_numbers.tolist()
        own = graph.labels["energy"].new_tensor([self.e0s[number] for number in numbers])
        return own.new_zeros(graph.n_systems).index_add(0, graph.batch, own)

    @staticmethod
    def _charges(graph: Graph) -> torch.Tensor:
        """Labelled charges, NaN without."""
        if "multipoles" in graph.labels:
            return graph.labels["multipoles"][:, 0]
        return graph.labels.get("charges", torch.full_like(graph.positions[:, 0], torch.nan))


def _mean(values: NDArray[np.float64]) -> float:
    """Mean of the finite numbers, 0 of none."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else 0.0


def _terms(stage: StageConfig, guess: _Means, family: Family) -> dict[str, float]:
    """Terms of weight 1 of the guess by target, of those with a label of their own."""
    names = [name for name in stage.loss.weights if TARGETS[name].has_own_label]
    loss = Loss(stage.loss.model_copy(update=dict.fromkeys(names, 1.0)), family.periodic_responses)
    totals: dict[str, tuple[float, int]] = {}
    for graph in guess.graphs():
        for name, (total, count) in loss.sums(guess.predictions(graph), graph).items():
            if name in names:
                before = totals.get(name, (0.0, 0))
                totals[name] = before[0] + float(total), before[1] + int(count)
    return {name: total / count for name, (total, count) in totals.items() if total > SMALLEST * count}


def _show(
    console: Console, stage: StageConfig, terms: Mapping[str, float], weights: Mapping[str, float]
) -> None:
    headings = ("target", "weight", "scale from the data", "weight per square of eV, Å, e, V")
    table = PlainTable(f"Loss of stage '{stage.name}'", headings, right=headings[1:])
    for name, weight in stage.loss.weights.items():
        scale = f"{terms[name]:.4g}" if name in terms else "none"
        table.add_row(name, f"{weight:g}", scale, f"{weights[name]:.4g}")
    table.show(console)
