"""Quantities that models are trained on, and the modes in which a family has a loss of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from electret.errors import InputError
from electret.models.family import Family, family_named

__all__ = [
    "DENSITY_LABELS",
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
        name: key of the model's output, of the loss weight and of the families' `targets`.
        rows: one row per `atom`, per `system`, or per `point` of the grids of the frames.
        unit: of printed metrics.
        scale: factor from eV, Å, e, V to `unit`.
        extensive: the loss takes the residual per atom of the system, so that large systems do not dominate.
        on_request: the model computes it only where `properties` of `Model.forward` name it.
        labels: a frame needs one of these labels to count; None is the label of the name, () is none.
        note: explanation of the loss weight.
    """

    name: str
    rows: Literal["atom", "system", "point"]
    unit: str
    scale: float = 1e3
    extensive: bool = False
    on_request: bool = False
    labels: tuple[str, ...] | None = None
    note: str = ""

    @property
    def needs(self) -> tuple[str, ...]:
        """Labels of which a frame needs one."""
        return (self.name,) if self.labels is None else self.labels

    @property
    def base_unit(self) -> str:
        """Unit of the numbers before `scale`."""
        return self.unit.removeprefix("m") if self.scale == 1e3 else self.unit

    @property
    def has_own_label(self) -> bool:
        """True if its label has its name."""
        return self.labels is None


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target("energy", "system", "meV/atom", extensive=True),
        Target("forces", "atom", "meV/Å"),
        Target("stress", "system", "meV/Å³"),
        Target("charges", "atom", "me"),
        Target("multipoles", "atom", "me·Å^l"),
        Target("dipole", "system", "me·Å/atom", extensive=True),
        Target("total_charge", "system", "me/atom", extensive=True),
        Target("fermi_level", "system", "meV"),
        Target("polarizability", "system", "me·Å²/V/atom", extensive=True, on_request=True),
        Target("born_effective_charges", "atom", "me", on_request=True),
        Target(
            "potentials",
            "atom",
            "mV",
            on_request=True,
            note="Potential that a unit charge of the width of the atom feels at each atom.",
        ),
        Target(
            "grid_potentials",
            "point",
            "mV",
            note="Potential of the density at the points of each frame; without its mean in crystals.",
        ),
        Target(
            "stationarity",
            "atom",
            "mV·Å^-l",
            labels=DENSITY_LABELS,
            note="dE/dp + mu at the reference density, zero where that density minimises the energy; "
            "variational families in mode `direct`.",
        ),
        Target(
            "stability",
            "system",
            "over limit",
            scale=1.0,
            on_request=True,
            labels=(),
            note="Excess of the spectral radius of the self-consistency over `stability_limit`.",
        ),
        Target(
            "charge_response",
            "system",
            "of wrong sign",
            scale=1.0,
            on_request=True,
            labels=(),
            note="Share of the responses of the charges to the Fermi level that is positive. It keeps the "
            "Fermi level defined; a weight of 100 unless another is given, 0 turns it off.",
        ),
    )
}

_GIVEN_IN_DIRECT_MODE = ("charges", "multipoles", "dipole", "potentials", "grid_potentials")


def without_loss(family: Family, mode: str, target: str) -> str | None:
    """Reason for which a target of a self-consistent family has no loss in a mode, with the remedy; None if
    it has one."""
    if target == "stationarity" and mode != "direct":
        return "it is the derivative at the reference density; use mode: direct"
    if target == "total_charge" and mode != "direct":
        return "it is exact at self-consistency; remove the weight"
    if mode == "direct" and target in ("polarizability", "born_effective_charges"):
        return "it belongs to the self-consistent density; use mode: implicit"
    if mode == "direct" and target == "fermi_level" and not family.has_polarization:
        return "there it is the reference itself; remove the weight"
    if mode == "direct" and "stationarity" in family.targets and target in _GIVEN_IN_DIRECT_MODE:
        return "there the density is the reference itself; weight the stationarity instead"
    return None


def resolved_mode(family: str, mode: str | None) -> str | None:
    """`mode`, or the family's default; None where the density is explicit."""
    modes = family_named(family).modes
    return mode if mode is not None or not modes else modes[0]


def check_family(defined: Family, targets: tuple[str, ...], mode: str | None, where: str) -> None:
    """Raise `InputError` for targets or a mode that a family does not define."""
    family = defined.name
    for name in targets:
        if name not in defined.targets:
            raise InputError(
                f"{where}.loss.{name}: family '{family}' cannot be trained on '{name}' (it is trained on "
                f"{', '.join(defined.targets)}); remove the weight or choose another family"
            )
    if mode is not None and mode not in defined.modes:
        known = ", ".join(defined.modes)
        reason = f"its modes are {known}" if known else "its density is an explicit function and has no modes"
        raise InputError(
            f"{where}.mode: family '{family}' does not define mode '{mode}': {reason}; remove the key"
        )
    used = resolved_mode(family, mode)
    if used is None:
        return
    for name in targets:
        objection = without_loss(defined, used, name)
        if objection is not None:
            raise InputError(f"{where}.loss.{name}: '{name}' has no loss in mode '{used}': {objection}")
