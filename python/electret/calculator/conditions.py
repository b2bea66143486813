"""Conditions in `atoms.info`: which there are, wrong names for them, those that exclude each other."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from electret import InputError

__all__ = ["CONDITIONS", "ExtrapolationWarning", "check", "equal", "select"]

CONDITIONS = ("total_charge", "charge", "external_field", "fermi_level")
"""Keys of `atoms.info` that change the result."""

FOREIGN_CONDITIONS: Mapping[str, str] = {
    "electric_field": "name it external_field (V/Å, energy -F·D)",
    "efield": "name it external_field (V/Å, energy -F·D)",
    "field": "name it external_field (V/Å, energy -F·D)",
    "chemical_potential": "name it fermi_level (eV)",
    "electrode_potential": "name it fermi_level (eV)",
    "mu": "name it fermi_level (eV)",
    "net_charge": "name it total_charge (e)",
    "spin": "the model has no spin",
    "total_spin": "the model has no spin",
    "multiplicity": "the model has no spin",
    "spin_multiplicity": "the model has no spin",
}
"""Keys by which other codes take conditions, and what to do about each."""


class ExtrapolationWarning(UserWarning):
    """A condition lies outside of the range in the training data of the model."""


def select(info: Mapping[str, Any], ignore: Collection[str]) -> dict[str, Any]:
    """The entries of `info` that change the result or stop it."""
    return {
        key: value
        for key, value in info.items()
        if key not in ignore and (key in CONDITIONS or _misnomer(key) is not None)
    }


def check(conditions: Mapping[str, Any], honours: Collection[str]) -> None:
    """Refuse conditions that would be left without an answer because of their name, and a charge together
    with the Fermi level that fixes it.

    Raises:
        InputError: names the key and what to do.
    """
    for key in conditions:
        if key not in CONDITIONS:
            raise InputError(
                f"atoms.info[{key!r}] is not a condition of this calculator: {_misnomer(key)} "
                f"(to leave it out of account: Calculator(..., ignore=[{key!r}]))"
            )
    charges = [key for key in ("total_charge", "charge") if key in conditions]
    if charges and "fermi_level" in conditions and "fermi_level" in honours:
        raise InputError(
            f"atoms.info has both {charges[0]!r} = {conditions[charges[0]]} and 'fermi_level' = "
            f"{conditions['fermi_level']}, but each fixes the other; remove one, or leave one out of account "
            f"with Calculator(..., ignore=['fermi_level'])"
        )


def equal(conditions: Mapping[str, Any], others: Mapping[str, Any]) -> bool:
    """Whether two sets of conditions are the same."""
    return conditions.keys() == others.keys() and all(
        np.array_equal(value, others[key]) for key, value in conditions.items()
    )


@functools.cache
def _misnomer(key: Any) -> str | None:
    """What to do about a key of `atoms.info` that only looks like a condition; None for one that does not."""
    if not isinstance(key, str) or key in CONDITIONS or key.startswith("REF_"):
        return None
    name = key.lower()
    if name in FOREIGN_CONDITIONS:
        return FOREIGN_CONDITIONS[name]
    nearest = difflib.get_close_matches(name, CONDITIONS, n=1, cutoff=0.85)
    return f"did you mean {nearest[0]!r}?" if nearest else None
