"""Quantities that a structure carries in files and in `ase.Atoms`: key, rows, shape and unit, in one table.

Data files, graphs and losses read it: a new label is one entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["CONVERTED", "LABELS", "Label"]

_TENSOR = (3, 3)


@dataclass(frozen=True)
class Label:
    """One quantity that a frame may carry.

    Attributes:
        name: its name in the package, of the key in `DataKeys`, and of the tensor in `Graph.labels`.
        rows: one row per `system`, per `atom` (a column of the file), or per `point` of a grid that the frame
            brings along.
        unit: unit of the numbers.
        shape: of one row of the tensor; None is any square number of columns.
        in_files: shapes of one row in files; None is the shape, tensors flat too.
        default: key by default; None is `REF_<name>`.
        note: explanation of the key.
    """

    name: str
    rows: Literal["system", "atom", "point"]
    unit: str
    shape: tuple[int, ...] | None = ()
    in_files: tuple[tuple[int, ...], ...] | None = None
    default: str | None = None
    note: str = ""

    @property
    def key(self) -> str:
        """Key by default, in `atoms.info` or `atoms.arrays`."""
        return f"REF_{self.name}" if self.default is None else self.default

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of one row in files; () for any."""
        if self.in_files is not None:
            return self.in_files
        usual: dict[tuple[int, ...] | None, tuple[tuple[int, ...], ...]] = {
            None: (),
            (): ((), (1,)),
            _TENSOR: ((9,), _TENSOR),
        }
        return usual.get(self.shape, (self.shape or (),))

    @property
    def in_graph(self) -> bool:
        """True for labels of `Graph`: neither field and spin nor labels that are converted on reading."""
        return self.name not in CONVERTED and self.name not in ("external_field", "spin_multiplicity")

    @property
    def per_atom(self) -> bool:
        """True if the quantity is a column of the file."""
        return self.rows == "atom"


_SYMMETRIC = ((6,), (9,), _TENSOR)

LABELS: dict[str, Label] = {
    label.name: label
    for label in (
        Label("energy", "system", "eV"),
        Label("forces", "atom", "eV/Å", (3,)),
        Label(
            "grand_potential",
            "system",
            "eV",
            note="E + mu Q, converted to E with the total charge and the Fermi level of the frame.",
        ),
        Label("stress", "system", "eV/Å³", _TENSOR, _SYMMETRIC),
        Label(
            "virials",
            "system",
            "eV",
            _TENSOR,
            _SYMMETRIC,
            note="-dE/dstrain (as in MACE), converted to the stress -virials / volume.",
        ),
        Label("charges", "atom", "e"),
        Label("multipoles", "atom", "e·Å^l", None),
        Label("dipole", "system", "e·Å", (3,)),
        Label("polarizability", "system", "e·Å²/V", _TENSOR, note="Row a, column b is dD_a/dF_b."),
        Label("born_effective_charges", "atom", "e", _TENSOR, note="Row a, column b is dD_a/dR_b."),
        Label("potentials", "atom", "V"),
        Label("grid_points", "point", "Å", (3,)),
        Label("grid_potentials", "point", "V"),
        Label("total_charge", "system", "e", default="total_charge"),
        Label("external_field", "system", "V/Å", (3,), default="external_field"),
        Label("fermi_level", "system", "eV", default="fermi_level"),
        Label("spin_multiplicity", "system", "2S + 1", default="spin_multiplicity"),
    )
}
"""Every quantity by name."""

CONVERTED: Mapping[str, str] = {"grand_potential": "energy", "virials": "stress"}
"""Labels that are converted on reading, with the label that they become."""
