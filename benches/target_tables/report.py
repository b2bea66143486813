"""Markdown of the tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def markdown(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def ms(value: float | None) -> str:
    """Three digits."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def times(value: float | None) -> str:
    """A ratio."""
    return "" if value is None else f"{value:,.0f} ×" if value >= 100 else f"{value:.2g} ×"


def error(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"


def megabytes(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def against(value: float | None, target: float | None) -> str:
    """True if a target (an upper bound) is met."""
    if target is None:
        return ""
    if value is None:
        return "not measured"
    return "met" if value <= target else f"**missed, {value / target:.2g} ×**"


def missing(rows: Sequence[dict[str, Any]], labels: Sequence[str]) -> str:
    """Rows that could not be measured, and why."""
    lines = []
    for row in rows:
        if "missing" in row:
            place = ", ".join(f"{row[label]}" for label in labels if label in row)
            lines.append(f"- {place}: {row['missing']}")
    return "\n\nNot measured:\n\n" + "\n".join(lines) if lines else ""
