"""Kinds of probes of a comparison, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from electret.analysis.probes.base import Probe
from electret.analysis.probes.capacitance import Capacitance
from electret.analysis.probes.charge_states import ChargeStates
from electret.analysis.probes.constant_potential import ConstantPotential
from electret.analysis.probes.dynamics import Dynamics
from electret.analysis.probes.field_scan import FieldScan
from electret.analysis.probes.molecule_polarizability import MoleculePolarizability
from electret.analysis.probes.screening import Screening
from electret.analysis.probes.stability import Stability
from electret.errors import InputError

__all__ = ["PROBES", "parse_probe"]

PROBES: dict[str, type[Probe]] = {
    "field_scan": FieldScan,
    "molecule_polarizability": MoleculePolarizability,
    "screening": Screening,
    "capacitance": Capacitance,
    "stability": Stability,
    "charge_states": ChargeStates,
    "dynamics": Dynamics,
    "constant_potential": ConstantPotential,
}


def parse_probe(name: str, options: Any, folder: Path) -> Probe:
    """A probe from its entry in a comparison file; its data are relative to `folder`.

    The kind is `kind`, or the name of the entry where that is missing.

    Raises:
        InputError: an unknown kind or option; names the entry.
    """
    if not isinstance(options, dict):
        raise InputError(f"probes.{name}: expected a mapping of options, found {type(options).__name__}")
    options = dict(options)
    kind = options.pop("kind", name)
    if kind not in PROBES:
        raise InputError(f"probes.{name}: unknown kind {kind!r}; the kinds are {', '.join(PROBES)}")
    try:
        probe = PROBES[kind].parse(options)
    except InputError as error:
        raise InputError(f"probes.{name}: {error}") from error
    return probe.model_copy(update={"data": folder / probe.data})
