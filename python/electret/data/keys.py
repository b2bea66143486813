"""Names under which a data file holds labels and inputs, and how each is shaped."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

__all__ = ["LABELS", "DataKeys", "Label", "known_names"]


@dataclass(frozen=True)
class Label:
    """One quantity a frame may carry: `per_atom` ones have a leading axis of atoms."""

    name: str
    shapes: tuple[tuple[int, ...], ...]
    per_atom: bool
    unit: str


LABELS: dict[str, Label] = {
    label.name: label
    for label in (
        Label("energy", ((),), False, "eV"),
        Label("forces", ((3,),), True, "eV/Å"),
        Label("stress", ((6,), (9,), (3, 3)), False, "eV/Å³"),
        Label("charges", ((), (1,)), True, "e"),
        Label("multipoles", (), True, "e·Å^l"),
        Label("dipole", ((3,),), False, "e·Å"),
        Label("total_charge", ((),), False, "e"),
        Label("external_field", ((3,),), False, "V/Å"),
        Label("fermi_level", ((),), False, "eV"),
    )
}
"""Every key of `DataKeys`. `multipoles` may have any square number of columns."""


class DataKeys(BaseModel):
    """Key of each quantity in `atoms.info` or `atoms.arrays` (or in ASE's calculator results, e.g.
    `energy`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    energy: str = "REF_energy"
    forces: str = "REF_forces"
    stress: str = "REF_stress"
    charges: str = "REF_charges"
    multipoles: str = "REF_multipoles"
    dipole: str = "REF_dipole"
    total_charge: str = "total_charge"
    external_field: str = "external_field"
    fermi_level: str = "fermi_level"


DEFAULT_KEYS = DataKeys()


def known_names(name: str) -> str:
    """Key under which a normalised frame holds quantity `name`."""
    return str(getattr(DEFAULT_KEYS, name))
