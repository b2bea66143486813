"""Committee of models: mean and spread of their results, for uncertainties and active learning."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator as ASECalculator
from ase.calculators.calculator import all_changes
from ase.data import chemical_symbols
from ase.outputs import Properties, all_outputs

from electret.calculator import conditions
from electret.calculator.calculator import Calculator
from electret.errors import InputError
from electret.support.locks import Lock

__all__ = ["SPREAD", "Committee", "mean_and_spread"]

SPREAD = "_spread"
"""After the name of a property in the name of its spread."""


class Committee(ASECalculator):
    """ASE calculator of several models: mean of their results, and the spread beside each.

    Properties are those that every member has, as in `Calculator`, and `fermi_level` (eV) of self-consistent
    families. `NAME_spread` is the sample standard deviation over the members (divisor n - 1) in the unit and
    shape of the property: `energy_spread` (eV), `forces_spread` [n_atoms, 3] (eV/Å), `stress_spread` [6],
    `charges_spread` [n_atoms] (e), `dipole_spread` [3] (e·Å), `fermi_level_spread` (eV). Forces are the
    derivative of the mean energy, so that optimisers and dynamics run on the mean. Conditions are those of
    `Calculator`; every member finds its own density.

    Args:
        models: two or more, each as for `Calculator`; families may differ, elements may not.
        device: of all members.
        options: of `Calculator`, the same for every member.

    Raises:
        InputError: fewer than two models, models of different elements, a condition that a member ignores;
            names the member.
        ConvergenceError: the SCF of a member did not converge.
        PropertyNotImplementedError: a property that a member or the boundary does not define.

    Example:
        >>> from electret.calculator import Committee
        >>> atoms.calc = Committee(["a.electret", "b.electret", "c.electret"])   # doctest: +SKIP
        >>> atoms.calc.get_property("forces_spread", atoms)                      # doctest: +SKIP
    """

    name = "electret committee"
    ignored_changes = Calculator.ignored_changes

    def __init__(
        self,
        models: Sequence[str | os.PathLike[str] | torch.nn.Module],
        device: str | torch.device = "cpu",
        **options: Any,
    ) -> None:
        super().__init__()
        self._lock = Lock()
        if isinstance(models, (str, os.PathLike, torch.nn.Module)) or len(list(models)) < 2:
            raise InputError("a committee needs two or more models; give a list of them, or use Calculator")
        self.members = [Calculator(model, device, **options) for model in models]
        elements = [tuple(member.model.statistics.elements) for member in self.members]
        for number, found in enumerate(elements):
            if set(found) != set(elements[0]):
                names = [
                    " ".join(chemical_symbols[z] for z in sorted(known)) for known in (elements[0], found)
                ]
                raise InputError(
                    f"models[0] has the elements {names[0]}, models[{number}] has {names[1]}; the members of "
                    "a committee need the same"
                )
        shared = [
            name
            for name in self.members[0].implemented_properties
            if all(name in member.implemented_properties for member in self.members)
        ]
        if all("fermi_level" in member.model.honours for member in self.members):
            shared.append("fermi_level")
        self.implemented_properties = [*shared, *(name + SPREAD for name in shared)]

    def __repr__(self) -> str:
        return f"Committee({', '.join(map(repr, self.members))})"

    def set(self, **parameters: Any) -> dict[str, Any]:
        """ASE's way to change parameters; there are none, so that any is an `InputError`."""
        conditions.refuse_parameters(parameters)
        return super().set()

    def reset(self) -> None:
        """Drop all results, and the starts of the next SCFs."""
        with self._lock:
            super().reset()
            for member in self.members:
                member.reset()

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """Differences from the atoms of the last calculation, conditions in `atoms.info` included."""
        changes = super().check_state(atoms, tol=tol)
        if self.atoms is not None:
            changes += conditions.changed(self.atoms, atoms, self.members[0].ignore)
        return changes

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """A property of `atoms`, or the spread of one; `PropertyNotImplementedError` gives the reason where a
        member does not define it."""
        subject = self.atoms if atoms is None else atoms
        plain = name.removesuffix(SPREAD)
        if plain != "fermi_level" and subject is not None:
            for member in self.members:
                member._require(plain, subject)
        with self._lock:  # threads share the results
            return super().get_property(name, subject, allow_calculation)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Evaluate every member; called by ASE."""
        super().calculate(atoms, properties, system_changes)
        system = self.atoms
        if system is None:
            raise InputError("the committee has no atoms yet; give atoms to calculate")
        conditions.keep(system, self.members[0].ignore)
        wanted = [name.removesuffix(SPREAD) for name in properties]
        found = [self._of(number, system, wanted) for number in range(len(self.members))]
        for name in found[0]:
            if all(name in values for values in found):
                self.results.update(mean_and_spread(name, [values[name] for values in found]))

    def _of(self, number: int, system: Atoms, wanted: Iterable[str]) -> dict[str, Any]:
        """Results of a member."""
        member = self.members[number]
        try:
            for name in ("energy", *wanted):
                if name != "fermi_level":
                    member.get_property(name, system)
        except InputError as error:
            raise InputError(f"models[{number}]: {error}") from error
        level = {"fermi_level": member.state["fermi_level"]} if "fermi_level" in member.state else {}
        return {**member.results, **level}

    def export_properties(self) -> Any:
        """Results that ASE has a definition of; it has none of the spreads."""
        return Properties({name: value for name, value in self.results.items() if name in all_outputs})


def mean_and_spread(name: str, values: Sequence[Any]) -> dict[str, Any]:
    """`name` and `name_spread` of the values of the members, numbers or arrays of one shape."""
    stacked = np.stack([np.asarray(value, dtype=np.float64) for value in values])
    mean, spread = stacked.mean(axis=0), stacked.std(axis=0, ddof=1)
    found = {name: mean, name + SPREAD: spread}
    return found if mean.ndim else {key: float(value) for key, value in found.items()}
