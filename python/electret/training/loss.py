"""The training loss: a weighted sum of terms over whatever labels a batch carries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from electret.graph import Graph
from electret.training.config import LossConfig
from electret.training.residuals import Residual, residual

__all__ = ["Loss", "frame_weights"]


@dataclass(frozen=True)
class Loss:
    """Loss of a stage.

    The term of target t is `mean over labelled entries of w_t w_frame f(difference)`, with f the square or
    the Huber function `d²/2` below delta and `delta (|d| - delta/2)` above. Where ranks share a batch, the
    mean is that over the entries of all ranks.
    """

    config: LossConfig
    periodic_responses: frozenset[str] = frozenset()
    """Derivatives of the dipole that the family defines along periodic axes."""

    def sums(
        self, predictions: Mapping[str, torch.Tensor], graph: Graph
    ) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Sum over labelled entries without the weight of the target, and their number, per target of the
        loss that the batch has labels for."""
        found = {}
        for name in self.config.weights:
            entry = residual(
                name,
                predictions,
                graph,
                self.config.dipole_components,
                self.config.stability_limit,
                self.periodic_responses,
            )
            if entry is not None:
                found[name] = (self._sum(entry, graph), entry.mask.sum())
        return found

    def terms(self, predictions: Mapping[str, torch.Tensor], graph: Graph) -> dict[str, torch.Tensor]:
        """Weighted terms, one scalar per target of the loss that the batch has labels for."""
        return self.means(self.sums(predictions, graph))

    def means(self, sums: Mapping[str, tuple[torch.Tensor, torch.Tensor | float]]) -> dict[str, torch.Tensor]:
        """Weighted terms of sums over entries and the numbers that they are divided by."""
        weights = self.config.weights
        return {name: weights[name] * (total / count) for name, (total, count) in sums.items()}

    def total(self, terms: Mapping[str, torch.Tensor], graph: Graph) -> torch.Tensor | None:
        """Sum of the terms in the dtype of the model; None for a batch without any label of the loss."""
        if not terms:
            return None
        return torch.stack([term.to(graph.dtype) for term in terms.values()]).sum()

    def _sum(self, entry: Residual, graph: Graph) -> torch.Tensor:
        difference = entry.difference
        if self.config.form == "mse":
            values = difference.square()
        else:
            zero = torch.zeros_like(difference)
            values = torch.nn.functional.huber_loss(
                difference, zero, reduction="none", delta=self.config.huber_delta
            )
        weights = frame_weights(entry.target.name, graph)[entry.system].to(values.dtype)
        values = torch.where(entry.mask, values, torch.zeros_like(values))
        return (values * weights[:, None]).sum()


def frame_weights(name: str, graph: Graph) -> torch.Tensor:
    """Weight of each system in the term of a target, `[n_systems]`."""
    ones = torch.ones(graph.n_systems, dtype=graph.dtype, device=graph.device)
    return graph.weights.get("frame", ones) * graph.weights.get(name, ones)
