"""Descriptions of the model families, read without PyTorch: options, targets, modes, properties.

A family is a module with a subclass of `Model` and one description, registered under its name. The
descriptions of this package are in `electret.models.config`, beside the options; modules of other packages
call `register` themselves.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from electret.errors import InputError

__all__ = [
    "CHARGES_AND_DIPOLE",
    "LABELLED_DENSITY",
    "LABELLED_FORCES",
    "SOLVED_DENSITY",
    "Family",
    "family_named",
    "flowing",
    "register",
    "registered",
]

LABELLED_FORCES = ("energy", "forces", "stress")
"""Training targets of every family."""
LABELLED_DENSITY = (
    *LABELLED_FORCES,
    "charges",
    "multipoles",
    "dipole",
    "born_effective_charges",
    "potentials",
    "grid_potentials",
)
"""Training targets of a density that is an explicit function of the geometry, which has no response to a
field."""
SOLVED_DENSITY = (*LABELLED_DENSITY, "fermi_level", "polarizability")
"""Training targets of a self-consistent density."""

CHARGES_AND_DIPOLE: Mapping[str, Literal["atom", "system"]] = {"charges": "atom", "dipole": "system"}
"""Observables of every density that labels apply to."""


@dataclass(frozen=True)
class Family:
    """Facts about a family that hold for all of its models.

    Attributes:
        name: `family` in configurations and files.
        model: module and class, as `package.module:Class`; imported when the first model is built.
        options: fields of `ModelConfig` that have an effect in the family.
        electrostatics: options of `ElectrostaticsConfig` with an effect: `none`, those of a `density`, or
            those of a density and of the potential `features` that it reads.
        properties: observables of the density, each with one value per `atom` or per `system`; results of the
            model and of the calculator. Empty without a density, and for a latent one.
        targets: quantities whose loss has a gradient in the family (`electret.training.targets.TARGETS`).
        local_charges: charges are functions of the surroundings of each atom, which gives Born charges at any
            boundary.
        modes: training modes of a self-consistent density, the default first; empty where the density is an
            explicit function of the geometry.
    """

    name: str
    model: str
    options: tuple[str, ...] = ()
    electrostatics: Literal["none", "density", "features"] = "density"
    properties: Mapping[str, Literal["atom", "system"]] = field(default_factory=lambda: CHARGES_AND_DIPOLE)
    targets: tuple[str, ...] = LABELLED_DENSITY
    modes: tuple[str, ...] = ()
    local_charges: bool = False

    @property
    def self_consistent(self) -> bool:
        """True if the density solves equations."""
        return bool(self.modes)

    @property
    def has_polarization(self) -> bool:
        """True if a field along a periodic axis has a meaning."""
        return "polarization" in self.properties

    @property
    def periodic_responses(self) -> frozenset[str]:
        """Derivatives of the dipole that have a meaning along periodic axes."""
        if self.has_polarization:
            return frozenset({"polarizability", "energy_polarizability", "born_effective_charges"})
        return frozenset({"born_effective_charges"} if self.local_charges else ())

    @property
    def model_class(self) -> Any:
        """The subclass of `Model`."""
        module, _, name = self.model.partition(":")
        return getattr(importlib.import_module(module), name)


def flowing(family: Family) -> Family:
    """The description of a self-consistent family whose charges flow along edges: they have a polarisation,
    and `direct` training compares the density that the labelled one drives."""
    return replace(
        family, properties={**CHARGES_AND_DIPOLE, "polarization": "system"}, targets=SOLVED_DENSITY
    )


_families: dict[str, Family] = {}


def register(family: Family) -> Family:
    """Make a family known to configurations, training, calculators and files.

    Raises:
        InputError: another family has the name.
    """
    if _families.setdefault(family.name, family) != family:
        raise InputError(f"family '{family.name}' is registered already, for {_families[family.name].model}")
    return family


def registered() -> tuple[str, ...]:
    """Names of the families, in the order in which they were registered."""
    return tuple(_families)


def family_named(name: str) -> Family:
    """The description of a family.

    Raises:
        InputError: no family has the name.
    """
    if name not in _families:
        nearest = difflib.get_close_matches(name, _families, n=1, cutoff=0.0)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        raise InputError(
            f"unknown family {name!r}; {hint}The families are {', '.join(_families)}; import the module of a "
            "family of another package first"
        )
    return _families[name]
