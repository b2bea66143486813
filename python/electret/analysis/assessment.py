"""One model on one data set: errors per config_type and per charge state, SCF, field response, time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from electret.analysis.field_response import FieldDipoles
from electret.analysis.scf_statistics import ScfStatistics
from electret.data import GraphDataset
from electret.graph import Graph
from electret.models import Model
from electret.training.evaluation import comparable, compute, predictions
from electret.training.metrics import Metrics, MetricsAccumulator

__all__ = ["Assessment", "assess", "charge_state"]

Observer = Callable[[list[int], Graph, dict[str, torch.Tensor]], None]


@dataclass
class Assessment:
    """Errors, convergence and time of a model on a data set.

    Attributes:
        metrics: errors overall and per config_type, with the pairs for parity plots; frames whose SCF did
            not converge are left out.
        by_charge: errors per charge state (`charge +1`, ...).
        scf: statistics of the SCF; None for explicit densities.
        dipoles: dipoles along the field of the frames in a field.
        seconds: time of all evaluations (energy, forces, and stress where labelled), without reading and
            neighbour lists.
        n_atoms: atoms evaluated.
    """

    metrics: Metrics
    by_charge: Metrics
    scf: ScfStatistics | None
    dipoles: FieldDipoles
    seconds: float
    n_atoms: int

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers in eV, Å, e for JSON."""
        charges = self.by_charge.as_dict()["errors"]
        charges.pop("all", None)
        return {
            **self.metrics.as_dict(),
            "errors_by_charge": charges,
            "scf": None if self.scf is None else self.scf.as_dict(),
            "field_response": {name: entry.as_dict() for name, entry in self.dipoles.responses().items()},
            "seconds": self.seconds,
            "n_atoms": self.n_atoms,
        }


def charge_state(charge: float) -> str:
    """Name of a charge state: `charge 0`, `charge +1`, `charge -0.5`."""
    return f"charge {charge:+g}" if abs(charge) > 1e-9 else "charge 0"


def assess(
    model: Model,
    dataset: GraphDataset,
    batch_size: int = 10,
    observe: Observer = lambda *_: None,
    every_stress: bool = False,
) -> Assessment:
    """Evaluate `model` on `dataset`.

    Args:
        model: any family.
        dataset: labelled frames for this model's cutoff and dtype.
        batch_size: frames computed at once; no result depends on it.
        observe: called with indices, graph and predictions of each batch.
        every_stress: compute the stress of every frame that has one, with a label or without.

    Raises:
        InputError: conditions or elements that the model cannot take; names file and frame.
    """
    by_kind, by_charge = MetricsAccumulator(parity=True), MetricsAccumulator()
    statistics = ScfStatistics()
    dipoles = FieldDipoles()
    seconds, n_atoms = 0.0, 0
    device = next(model.parameters()).device
    # The first evaluation of a process pays for loading and compilation, which is not the model's time.
    compute(model, dataset, [0], dataset.batch([0]).to(device=device), forces=True)
    started = time.perf_counter()
    for indices, graph, output in predictions(model, dataset, batch_size, every_stress=every_stress):
        seconds += time.perf_counter() - started
        n_atoms += graph.n_atoms
        if "scf_converged" in output:
            statistics.add([dataset.frames[index] for index in indices], output)
        compared = comparable(model, output)  # unconverged frames count in none of what follows
        by_kind.add(compared, graph)
        states = [charge_state(charge) for charge in graph.total_charge.tolist()]
        by_charge.add(compared, replace(graph, config_type=states))
        dipoles.add(compared, graph)
        observe(indices, graph, output)
        started = time.perf_counter()
    return Assessment(
        by_kind.result(),
        by_charge.result(),
        statistics if statistics.n_frames else None,
        dipoles,
        seconds,
        n_atoms,
    )
