"""The range of conditions that a model was trained on, and what lies outside of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from electret.graph import Graph

__all__ = ["outside", "training_ranges"]

_UNITS = {"total_charge": "e", "fermi_level": "eV", "external_field": "V/Å"}
_MARGIN = 1e-6
"""Conditions that exceed a range by rounding alone are inside."""


def training_ranges(graphs: Sequence[Graph]) -> dict[str, Any]:
    """Conditions that occur in labelled frames, as plain numbers for the metadata of a model file.

    Returns:
        `total_charge` [lowest, highest] in e; `external_field`, the largest magnitude in V/Å; and where
        frames carry one, `fermi_level` [lowest, highest] in eV.
    """
    if not graphs:
        return {}
    charges = torch.cat([graph.total_charge for graph in graphs])
    fields = torch.cat([torch.linalg.vector_norm(graph.external_field, dim=1) for graph in graphs])
    ranges: dict[str, Any] = {
        "total_charge": [float(charges.min()), float(charges.max())],
        "external_field": float(fields.max()),
    }
    labels = [graph.labels["fermi_level"] for graph in graphs if "fermi_level" in graph.labels]
    levels = torch.cat(labels) if labels else torch.empty(0)
    levels = levels[torch.isfinite(levels)]
    if len(levels):
        ranges["fermi_level"] = [float(levels.min()), float(levels.max())]
    return ranges


def outside(ranges: Mapping[str, Any], conditions: Mapping[str, Any]) -> dict[str, str]:
    """Conditions outside of the training ranges, each with a sentence that says by how much.

    Args:
        ranges: of `training_ranges`; a condition without an entry is not judged.
        conditions: `total_charge` (e), `fermi_level` (eV), `external_field` [3] (V/Å); any of them.
    """
    found = {}
    for name, value in conditions.items():
        if name not in ranges:
            continue
        number = float(np.linalg.norm(value))
        low, high = 0.0, ranges[name]
        if name != "external_field":
            number = float(value)
            low, high = ranges[name]
        if not low - _MARGIN <= number <= high + _MARGIN:
            unit = _UNITS[name]
            found[name] = (
                f"{name} is {number:.6g} {unit}; the training data has {low:.6g} to {high:.6g} {unit}"
            )
    return found
