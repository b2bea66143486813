"""Comparison of two results that cannot pass emptily."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["ContractError", "assert_close"]


class ContractError(AssertionError):
    """A model breaks the contract, or a check would have passed whatever the model does."""


def assert_close(what: str, found: ArrayLike, expected: ArrayLike, tolerance: float) -> None:
    """Compares arrays to an absolute tolerance, after making sure that the comparison says something.

    Args:
        what: name of the quantity for the message.
        found: the result to check.
        expected: what it must be, of the same shape.
        tolerance: largest absolute difference.

    Raises:
        ContractError: different shapes, entries that are not finite, nothing above 100 x tolerance (a
            comparison of zeros), or a difference above the tolerance.
    """
    a, b = np.asarray(found, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    if a.shape != b.shape:
        raise ContractError(f"{what}: shape {a.shape}, expected {b.shape}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ContractError(f"{what}: entries that are not finite")
    size = float(np.abs(b).max(initial=0.0))
    if size < 100 * tolerance:
        raise ContractError(
            f"{what}: the largest expected value {size:.3e} is below 100 x tolerance = "
            f"{100 * tolerance:.3e}, so the check could not fail; use a system where the quantity is larger"
        )
    error = float(np.abs(a - b).max())
    if error > tolerance:
        place = np.unravel_index(int(np.abs(a - b).argmax()), a.shape)
        raise ContractError(
            f"{what}: differs by {error:.3e} at {tuple(int(index) for index in place)} "
            f"({a[place]:.10g}, expected {b[place]:.10g}), tolerance {tolerance:.1e}"
        )
