"""Conditions in `atoms.info`: which there are, wrong names for them, those that exclude each other."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from ase import Atoms

from electret.conditions import CHARGE_TOLERANCE, CONDITIONS, SPIN, UNITS, meant
from electret.errors import InputError
from electret.graph import APPLIED

__all__ = [
    "CONDITIONS",
    "ExtrapolationWarning",
    "changed",
    "check",
    "equal",
    "initial_charges_unread",
    "keep",
    "refuse_parameters",
    "requested",
    "select",
]


class ExtrapolationWarning(UserWarning):
    """A condition lies outside of the range in the training data of the model."""


def select(info: Mapping[str, Any], ignore: Collection[str]) -> dict[str, Any]:
    """The entries of `info` that change the result or stop it."""
    return {
        key: value
        for key, value in info.items()
        if key not in ignore and (key in CONDITIONS or _misnomer(key) is not None)
    }


def keep(atoms: Atoms, ignore: Collection[str]) -> None:
    """Keep of `info` and of the potentials of electrodes what changes or stops the result, in values of the
    atoms' own."""
    atoms.info = copy.deepcopy(select(atoms.info, ignore))
    if APPLIED in ignore:
        atoms.arrays.pop(APPLIED, None)


def changed(atoms: Atoms, others: Atoms, ignore: Collection[str] = ()) -> list[str]:
    """Names of the conditions that differ between two structures: `info`, the potentials of electrodes."""
    changes = [] if equal(select(atoms.info, ignore), select(others.info, ignore)) else ["info"]
    one, other = (each.arrays.get(APPLIED, 0.0) for each in (atoms, others))
    return changes if APPLIED in ignore or np.array_equal(one, other) else [*changes, APPLIED]


def check(conditions: Mapping[str, Any], honours: Collection[str]) -> None:
    """Refuse conditions that would be left out because of their name, and a charge together with the Fermi
    level that fixes it.

    Raises:
        InputError: names the key and what to do.
    """
    for key in conditions:
        if key not in CONDITIONS:
            raise InputError(
                f"atoms.info[{key!r}] is not a condition of this calculator: {_misnomer(key, honours)} "
                f"(to leave it out of account: Calculator(..., ignore=[{key!r}]))"
            )
    charges = [key for key in ("total_charge", "charge") if key in conditions]
    if charges and "fermi_level" in conditions and "fermi_level" in honours:
        raise InputError(
            f"atoms.info has both {charges[0]!r} = {conditions[charges[0]]} and 'fermi_level' = "
            f"{conditions['fermi_level']}, but each fixes the other; remove one, or leave one out of account "
            f"with Calculator(..., ignore=['fermi_level'])"
        )


def requested(conditions: Mapping[str, Any]) -> dict[str, Any]:
    """Values of checked conditions: the total charge (0 where neither it nor a Fermi level is given) and the
    Fermi level as numbers, the field [3]."""
    values = {key: np.ravel(value).astype(np.float64) for key, value in conditions.items()}
    found: dict[str, Any] = {
        key: values[key].item() for key in ("total_charge", "fermi_level") if key in values
    }
    if "charge" in values:
        found["total_charge"] = values["charge"].item()
    if "fermi_level" not in values:
        found.setdefault("total_charge", 0.0)
    if "external_field" in values:
        found["external_field"] = values["external_field"]
    return found


def initial_charges_unread(atoms: Atoms, honours: Collection[str]) -> str | None:
    """Sentence on initial charges (`atoms.set_initial_charges`, or a column of a file) that add up to
    another charge than the one that is calculated; None where they do not, or add up to zero."""
    total = float(atoms.get_initial_charges().sum())
    charge = requested(atoms.info).get("total_charge", total)
    if "total_charge" not in honours or min(abs(total), abs(total - charge)) < CHARGE_TOLERANCE:
        return None
    return (
        f"the initial charges of the atoms add up to {total:.4g} e, but the total charge is {charge:g} e: it "
        "is read from atoms.info['total_charge'] alone"
    )


def refuse_parameters(parameters: Mapping[str, Any]) -> None:
    """Refuse parameters of `Calculator.set`, which has none.

    Raises:
        InputError: names the parameter and where it belongs.
    """
    for key, value in parameters.items():
        condition = meant(key)
        place = "there is no such parameter; options are arguments of Calculator(...)"
        if condition is not None:
            unit = UNITS[condition]
            place = f"conditions are read from atoms.info: atoms.info[{condition!r}] = {value!r} ({unit})"
        raise InputError(f"calc.set({key}={value!r}): {place}")


def equal(conditions: Mapping[str, Any], others: Mapping[str, Any]) -> bool:
    """True if two sets of conditions are equal."""
    return conditions.keys() == others.keys() and all(
        np.array_equal(value, others[key]) for key, value in conditions.items()
    )


def _misnomer(key: Any, honours: Collection[str] = ()) -> str | None:
    """Remedy for a key of `atoms.info` that only looks like a condition; None for others."""
    if key == APPLIED:
        return f"it has a number (V) for each atom: atoms.set_array({APPLIED!r}, ...)"
    condition = None if key in CONDITIONS else meant(key)
    if condition == SPIN and SPIN not in honours:
        return "the model has no spin"
    return condition and f"name it {condition} ({UNITS[condition]})"
