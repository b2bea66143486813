"""Conditions of a structure by name: the keys that are read, and names of other codes and slips in their
place.

One table for everything that takes conditions from `atoms.info`: data files, graphs and the calculator.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from electret.errors import InputError

__all__ = ["CHARGE_TOLERANCE", "CONDITIONS", "SPIN", "UNITS", "check_other_names", "meant"]

UNITS: Mapping[str, str] = {
    "total_charge": "e",
    "external_field": "V/Å, energy -F·D",
    "fermi_level": "eV",
    "spin_multiplicity": "2S + 1",
}
"""The conditions with their units."""

CONDITIONS = ("total_charge", "charge", "external_field", "fermi_level", "spin_multiplicity")
"""Keys of `atoms.info` that are read; `charge` is a second name of `total_charge`."""

SPIN = "spin_multiplicity"
"""A condition that models without spin leave aside where it is 1, and refuse otherwise."""

_CHARGE = ("charge", "net_charge", "tot_charge", "charge_total", "system_charge", "molecular_charge", "qtot")
_FIELD = ("electric_field", "efield", "e_field", "elec_field", "applied_field", "field")
_LEVEL = ("chemical_potential", "electrode_potential", "mu")
_SPIN = ("spin", "total_spin", "multiplicity")
_MEANING: Mapping[str, str] = {
    **{name: name for name in UNITS},
    **dict.fromkeys(_CHARGE, "total_charge"),
    **dict.fromkeys(_FIELD, "external_field"),
    **dict.fromkeys(_LEVEL, "fermi_level"),
    **dict.fromkeys(_SPIN, SPIN),
}
CHARGE_TOLERANCE = 0.05
"""e by which charges of atoms may miss the total charge: what rounding in files and partitions of a density
leave."""

_LARGEST = {"total_charge": 1, "external_field": 3}
"""How many numbers an entry can have and still be the condition that its name says."""


@functools.cache
def meant(key: Any) -> str | None:
    """Condition that a key of `atoms.info` means, by itself, in another code (with `REF_` before it: of a
    charge or a field) or with a slip; None for other keys."""
    if not isinstance(key, str):
        return None
    name = key.lower()
    if name.startswith("ref_"):
        found = _MEANING.get(name.removeprefix("ref_"))
        return found if found in _LARGEST else None
    if name in _MEANING:
        return _MEANING[name]
    nearest = difflib.get_close_matches(name, UNITS, n=1, cutoff=0.85)
    return nearest[0] if nearest else None


def check_other_names(
    info: Mapping[Any, Any],
    keys: Mapping[str, str],
    values: Mapping[str, Any],
    where: str,
    remedy: str = "data.keys.{condition}: {key}, or --key {condition}={key}",
) -> None:
    """Refuse a charge or a field under a name that is not read, unless it is the value that is taken anyway.

    Args:
        info: `atoms.info`.
        keys: key that is read for each condition.
        values: what is taken for a condition, zero where it is absent.
        where: place of the structure, for the message.
        remedy: how to have the key read.

    Raises:
        InputError: names place, key, value and remedy.
    """
    for key, value in info.items():
        condition = meant(key)
        if condition not in _LARGEST or key == keys[condition]:
            continue
        given, taken = _numbers(value), np.ravel(values.get(condition, 0.0))
        if given is None or given.size > _LARGEST[condition]:
            continue
        if given.any() or taken.any():
            if given.size == taken.size and np.allclose(given, taken, rtol=1e-5, atol=1e-8):
                continue
            raise InputError(
                f"{where}: '{key}' = {value} is not read, and {condition} would be {taken.squeeze()} "
                f"({UNITS[condition]}). If it is the {condition.replace('_', ' ')}, have it read ("
                f"{remedy.format(condition=condition, key=key)}); if not, rename or remove it"
            )


def _numbers(value: Any) -> np.ndarray | None:
    """Finite numbers in one row, or None."""
    array = np.ravel(np.asarray(value))
    if array.dtype.kind not in "iufU":
        return None
    try:
        numbers = array.astype(np.float64)
    except ValueError:
        return None
    return numbers if np.isfinite(numbers).all() else None
