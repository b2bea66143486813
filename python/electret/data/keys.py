"""Names under which a data file holds labels and inputs, and how each is shaped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

__all__ = ["LABELS", "DataKeys", "Label", "known_names"]


@dataclass(frozen=True)
class Label:
    """One quantity a frame may carry.

    Attributes:
        name: name in `DataKeys`.
        shapes: allowed shapes of one row.
        rows: whether there is one row per system, per atom (a column of the file) or per point of a grid that
            the frame brings along.
        unit: unit of the numbers.
    """

    name: str
    shapes: tuple[tuple[int, ...], ...]
    rows: Literal["system", "atom", "point"]
    unit: str

    @property
    def per_atom(self) -> bool:
        """Whether the quantity is a column of the file."""
        return self.rows == "atom"


LABELS: dict[str, Label] = {
    label.name: label
    for label in (
        Label("energy", ((),), "system", "eV"),
        Label("forces", ((3,),), "atom", "eV/Å"),
        Label("stress", ((6,), (9,), (3, 3)), "system", "eV/Å³"),
        Label("charges", ((), (1,)), "atom", "e"),
        Label("multipoles", (), "atom", "e·Å^l"),
        Label("dipole", ((3,),), "system", "e·Å"),
        Label("polarizability", ((9,), (3, 3)), "system", "e·Å²/V"),
        Label("born_effective_charges", ((9,), (3, 3)), "atom", "e"),
        Label("potentials", ((), (1,)), "atom", "V"),
        Label("grid_points", ((3,),), "point", "Å"),
        Label("grid_potentials", ((), (1,)), "point", "V"),
        Label("total_charge", ((),), "system", "e"),
        Label("external_field", ((3,),), "system", "V/Å"),
        Label("fermi_level", ((),), "system", "eV"),
    )
}
"""Every key of `DataKeys`. `multipoles` may have any square number of columns. Row a, column b of
`born_effective_charges` is dD_a/dR_b, of `polarizability` dD_a/dF_b."""


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
    polarizability: str = "REF_polarizability"
    born_effective_charges: str = "REF_born_effective_charges"
    potentials: str = "REF_potentials"
    grid_points: str = "REF_grid_points"
    grid_potentials: str = "REF_grid_potentials"
    total_charge: str = "total_charge"
    external_field: str = "external_field"
    fermi_level: str = "fermi_level"


DEFAULT_KEYS = DataKeys()


def known_names(name: str) -> str:
    """Key under which a normalised frame holds quantity `name`."""
    return str(getattr(DEFAULT_KEYS, name))
