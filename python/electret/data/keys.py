"""Names under which a data file holds labels and inputs, and how each is shaped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

__all__ = ["CONVERTED", "LABELS", "DataKeys", "DipoleOrigin", "Label", "known_names"]


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


_NUMBER = ((), (1,))

LABELS: dict[str, Label] = {
    label.name: label
    for label in (
        Label("energy", _NUMBER, "system", "eV"),
        Label("forces", ((3,),), "atom", "eV/Å"),
        Label("grand_potential", _NUMBER, "system", "eV"),
        Label("stress", ((6,), (9,), (3, 3)), "system", "eV/Å³"),
        Label("virials", ((6,), (9,), (3, 3)), "system", "eV"),
        Label("charges", _NUMBER, "atom", "e"),
        Label("multipoles", (), "atom", "e·Å^l"),
        Label("dipole", ((3,),), "system", "e·Å"),
        Label("polarizability", ((9,), (3, 3)), "system", "e·Å²/V"),
        Label("born_effective_charges", ((9,), (3, 3)), "atom", "e"),
        Label("potentials", _NUMBER, "atom", "V"),
        Label("grid_points", ((3,),), "point", "Å"),
        Label("grid_potentials", _NUMBER, "point", "V"),
        Label("total_charge", _NUMBER, "system", "e"),
        Label("external_field", ((3,),), "system", "V/Å"),
        Label("fermi_level", _NUMBER, "system", "eV"),
    )
}
"""Every key of `DataKeys`. `multipoles` may have any square number of columns. Row a, column b of
`born_effective_charges` is dD_a/dR_b, of `polarizability` dD_a/dF_b."""

CONVERTED: Mapping[str, str] = {"grand_potential": "energy", "virials": "stress"}
"""Labels that are converted on reading, with what they become."""

DipoleOrigin = Literal["origin", "center_of_mass", "center_of_charge"]
"""Point about which dipole labels are given: the origin of the coordinates, the centre of mass, or the centre
of the nuclear charges."""


class DataKeys(BaseModel):
    """Key of each quantity in `atoms.info` or `atoms.arrays` (or in ASE's calculator results, e.g.
    `energy`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    energy: str = "REF_energy"
    grand_potential: str = "REF_grand_potential"
    """E + mu Q, converted to E with the total charge and the Fermi level of the frame."""
    forces: str = "REF_forces"
    stress: str = "REF_stress"
    virials: str = "REF_virials"
    """-dE/dstrain (as in MACE), converted to the stress -virials / volume."""
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
