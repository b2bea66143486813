"""Response of each element to a field, from labelled polarisabilities: where the responses of fresh
models start.

Atoms without mutual interaction have the polarisability

    alpha_aa = sum_i alpha_i + sum_i chi_i (r_ia - <r_a>)²,

the first of their dipoles, the second of charge that flows over the whole structure. Least squares over open
structures separate the two, since the second grows with size: silver has both, water the first only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from electret.graph import Graph

__all__ = ["element_responses"]

LEAST = 1e-4
"""Weight of the sum of squares of the solution relative to the data."""

SMALLEST_POLARIZABILITY = 1e-3
"""Mean polarisability below which structures are not weighted up further, e·Å²/V."""


def element_responses(
    elements: Sequence[int], graphs: Iterable[Graph]
) -> tuple[dict[int, float], dict[int, float]] | None:
    """Polarisability (e·Å²/V) and susceptibility (e/V) of each element, not negative; see the module.

    Errors count relative to the polarisability of the structure. Elements without any labelled structure are
    left out; None without labels. Periodic structures do not count.
    """
    rows, values = [], []
    for graph in graphs:
        labels = graph.labels.get("polarizability")
        if labels is None:
            continue
        for system in range(graph.n_systems):
            label = labels[system].double()
            if bool(graph.pbc[system].any()) or not bool(torch.isfinite(label).all()):
                continue
            own = graph.batch == system
            design = _design(elements, graph.positions[own].double(), graph.atomic_numbers[own])
            diagonal = label.diagonal().numpy()
            weight = 1.0 / max(float(diagonal.mean()), SMALLEST_POLARIZABILITY)
            rows.append(weight * design)
            values.append(weight * diagonal)
    if not rows:
        return None
    matrix, n_elements = np.concatenate(rows), len(elements)
    lengths = np.linalg.norm(matrix, axis=0)
    known = [k for k in range(n_elements) if lengths[k] > 0]
    lengths[lengths == 0] = 1.0
    # Elements in one proportion throughout cannot be distinguished: the solution of least norm shares evenly.
    padded = np.concatenate([matrix / lengths, LEAST * np.eye(2 * n_elements)])
    from scipy.optimize import nnls  # here: its import takes longer than loading a model

    solution = nnls(padded, np.concatenate([*values, np.zeros(2 * n_elements)]))[0] / lengths
    return (
        {elements[k]: float(solution[k]) for k in known},
        {elements[k]: float(solution[n_elements + k]) for k in known},
    )


def _design(elements: Sequence[int], positions: torch.Tensor, numbers: torch.Tensor) -> NDArray[np.float64]:
    """Coefficients `[3, 2 n_elements]` of the diagonal of the polarisability."""
    squares = (positions - positions.mean(dim=0)).square()
    found = np.zeros((3, 2 * len(elements)))
    for k, number in enumerate(elements):
        own = numbers == number
        found[:, k] = float(own.sum())
        found[:, len(elements) + k] = squares[own].sum(dim=0).numpy()
    return found
