"""What a model can be trained on, and which of it each family predicts in each mode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from electret.errors import InputError

__all__ = [
    "DENSITY_LABELS",
    "FAMILY_MODES",
    "FAMILY_TARGETS",
    "RESPONSE_TARGETS",
    "TARGETS",
    "Target",
    "check_family",
    "resolved_mode",
    "without_loss",
]

DENSITY_LABELS = ("multipoles", "charges")
"""Labels that give the reference density, the first that a frame carries."""


@dataclass(frozen=True)
class Target:
    """A quantity with a loss and a metric.

    Attributes:
        name: key of the model's output and of the loss weight.
        rows: one row per `atom`, per `system`, or per `point` of the grids of the frames.
        extensive: the loss takes the residual per atom of the system, so that large systems do not dominate.
        scale: factor from eV, Å, e, V to `unit`, the unit of printed metrics.
        labels: a frame needs one of these labels to count; without any it always counts.
    """

    name: str
    rows: Literal["atom", "system", "point"]
    extensive: bool
    scale: float
    unit: str
    labels: tuple[str, ...]


def _target(
    name: str,
    rows: Literal["atom", "system", "point"],
    scale: float,
    unit: str,
    extensive: bool = False,
    labels: tuple[str, ...] | None = None,
) -> Target:
    return Target(name, rows, extensive, scale, unit, (name,) if labels is None else labels)


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        _target("energy", "system", 1e3, "meV/atom", extensive=True),
        _target("forces", "atom", 1e3, "meV/Å"),
        _target("stress", "system", 1e3, "meV/Å³"),
        _target("charges", "atom", 1e3, "me"),
        _target("multipoles", "atom", 1e3, "me·Å^l"),
        _target("dipole", "system", 1e3, "me·Å/atom", extensive=True),
        _target("total_charge", "system", 1e3, "me/atom", extensive=True),
        _target("fermi_level", "system", 1e3, "meV"),
        _target("polarizability", "system", 1e3, "me·Å²/V/atom", extensive=True),
        _target("born_effective_charges", "atom", 1e3, "me"),
        _target("potentials", "atom", 1e3, "mV"),
        _target("grid_potentials", "point", 1e3, "mV"),
        _target("stationarity", "atom", 1e3, "mV·Å^-l", labels=DENSITY_LABELS),
        _target("stability", "system", 1.0, "over limit", labels=()),
    )
}

RESPONSE_TARGETS = ("polarizability", "born_effective_charges", "potentials", "stability")
"""Targets that the model computes only if it is asked for them (`properties` of `Model.forward`)."""

_SHORT_RANGE = ("energy", "forces", "stress")
_EXPLICIT_DENSITY = (
    *_SHORT_RANGE,
    "charges",
    "multipoles",
    "dipole",
    "born_effective_charges",
    "potentials",
    "grid_potentials",
)
_SELF_CONSISTENT = (*_EXPLICIT_DENSITY, "fermi_level", "polarizability")

FAMILY_TARGETS: dict[str, tuple[str, ...]] = {
    "mace": _SHORT_RANGE,
    "fixed_charges": _SHORT_RANGE,
    "latent_ewald": _SHORT_RANGE,
    "local_charges": (*_EXPLICIT_DENSITY, "total_charge"),
    "split_charges": _EXPLICIT_DENSITY,
    "qeq": (*_SELF_CONSISTENT, "stationarity"),
    "energy_functional": (*_SELF_CONSISTENT, "stationarity"),
    "fixed_point": (*_SELF_CONSISTENT, "total_charge", "stability"),
}
"""Targets whose loss has a gradient in the family: charges of `fixed_charges` are constants, those of
`latent_ewald` are latent and mean nothing to a label, an explicit density does not answer a field, the total
charge is exact but for `local_charges` and a single evaluation of the map of `fixed_point`."""

FAMILY_MODES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(FAMILY_TARGETS, ()),
    **dict.fromkeys(("qeq", "energy_functional", "fixed_point"), ("implicit", "unrolled", "direct")),
}
"""Training modes of each family's density, the default first; a density that is an explicit function of the
geometry has none."""

_VARIATIONAL = ("qeq", "energy_functional")
_GIVEN_IN_DIRECT_MODE = ("charges", "multipoles", "dipole", "potentials", "grid_potentials")


def without_loss(family: str, mode: str, target: str) -> str | None:
    """Why a target of a self-consistent family has no loss in a mode, with the remedy; None if it has one."""
    if target == "stationarity" and mode != "direct":
        return "it is the derivative at the reference density; use mode: direct"
    if target == "total_charge" and mode != "direct":
        return "it is exact at self-consistency; remove the weight"
    if mode == "direct" and target in ("polarizability", "born_effective_charges"):
        return "it belongs to the self-consistent density; use mode: implicit"
    if mode == "direct" and target == "fermi_level":
        return "there it is the reference itself; remove the weight"
    if mode == "direct" and family in _VARIATIONAL and target in _GIVEN_IN_DIRECT_MODE:
        return "there the density is the reference itself; weight the stationarity instead"
    return None


def resolved_mode(family: str, mode: str | None) -> str | None:
    """`mode`, or the family's default; None where the density is explicit."""
    modes = FAMILY_MODES[family]
    return mode if mode is not None or not modes else modes[0]


def check_family(family: str, targets: tuple[str, ...], mode: str | None, where: str) -> None:
    """Raise `InputError` for targets or a mode that `family` does not define."""
    for name in targets:
        if name not in FAMILY_TARGETS[family]:
            raise InputError(
                f"{where}.loss.{name}: family '{family}' cannot be trained on '{name}' (it is trained on "
                f"{', '.join(FAMILY_TARGETS[family])}); remove the weight or choose another family"
            )
    if mode is not None and mode not in FAMILY_MODES[family]:
        known = ", ".join(FAMILY_MODES[family])
        reason = f"its modes are {known}" if known else "its density is an explicit function and has no modes"
        raise InputError(
            f"{where}.mode: family '{family}' does not define mode '{mode}': {reason}; remove the key"
        )
    used = resolved_mode(family, mode)
    if used is None:
        return
    for name in targets:
        objection = without_loss(family, used, name)
        if objection is not None:
            raise InputError(f"{where}.loss.{name}: '{name}' has no loss in mode '{used}': {objection}")
