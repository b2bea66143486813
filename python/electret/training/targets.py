"""What a model can be trained on, and which of it each family predicts."""

from __future__ import annotations

from dataclasses import dataclass

from electret import InputError

__all__ = ["FAMILY_MODES", "FAMILY_TARGETS", "TARGETS", "Target", "check_family"]


@dataclass(frozen=True)
class Target:
    """A quantity with a loss and a metric.

    Attributes:
        name: key of the model's output, of the label, and of the loss weight.
        per_atom: one row per atom; otherwise one per system.
        extensive: the loss takes the residual per atom of the system, so that large systems do not dominate.
        scale: factor from eV, Å, e to `unit`, the unit of printed metrics.
    """

    name: str
    per_atom: bool
    extensive: bool
    scale: float
    unit: str


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target("energy", False, True, 1e3, "meV/atom"),
        Target("forces", True, False, 1e3, "meV/Å"),
        Target("stress", False, False, 1e3, "meV/Å³"),
        Target("charges", True, False, 1e3, "me"),
        Target("multipoles", True, False, 1e3, "me·Å^l"),
        Target("dipole", False, True, 1e3, "me·Å/atom"),
        Target("total_charge", False, True, 1e3, "me/atom"),
    )
}

_SHORT_RANGE = ("energy", "forces", "stress")

FAMILY_TARGETS: dict[str, tuple[str, ...]] = {
    "mace": _SHORT_RANGE,
    "fixed_charges": _SHORT_RANGE,
    "latent_ewald": _SHORT_RANGE,
    "local_charges": tuple(TARGETS),
    "split_charges": tuple(name for name in TARGETS if name != "total_charge"),
}
"""Targets whose loss has a gradient in the family: charges of `fixed_charges` are constants, those of
`latent_ewald` are latent and mean nothing to a label, the total charge of `split_charges` is exact."""

FAMILY_MODES: dict[str, tuple[str, ...]] = dict.fromkeys(FAMILY_TARGETS, ())
"""Training modes of each family's density; a density that is an explicit function of the geometry has
none."""


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
