"""Values that the functions of every layer pass together. Their fields are arrays in the numpy layer and the
native module, and tensors in :mod:`electret.torch` and :mod:`electret.cuda`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["Options", "Receivers", "Sources", "Systems", "Tangents"]


class Systems(NamedTuple):
    """Atoms of one or more systems with their cells."""

    positions: Any
    """``[n_atoms, 3]`` in Å."""
    cell: Any
    """``[n_systems, 3, 3]`` in Å, rows are vectors; zero where no cell was given."""
    pbc: Any
    """``[n_systems, 3]``, the periodic axes."""
    batch: Any
    """``[n_atoms]``, the system of each atom."""

    @property
    def n_atoms(self) -> int:
        """Number of atoms of all systems together."""
        return self.positions.shape[0]

    @property
    def n_systems(self) -> int:
        """Number of systems."""
        return self.cell.shape[0]


class Sources(NamedTuple):
    """Density of the atoms."""

    multipoles: Any
    """``[n_atoms, (max_l + 1)**2]`` in e·Å^l."""
    sigma: Any
    """``[n_atoms]`` in Å."""


class Receivers(NamedTuple):
    """Gaussians on which the potential is projected, at each atom."""

    widths: Any
    """``[n_widths]`` in Å."""
    max_l: int
    normalization: str = "receiver"

    @property
    def n_lm(self) -> int:
        """Coefficients of each width."""
        return (self.max_l + 1) ** 2


class Tangents(NamedTuple):
    """Directions of a derivative, in the shapes of what they belong to."""

    positions: Any
    multipoles: Any
    cell: Any
    cotangent: Any = None


class Options(NamedTuple):
    """Settings of the sums, as the arguments of :func:`electret.coulomb`."""

    boundary: str | None = None
    method: str = "auto"
    accuracy: float = 1e-8
    precision: str = "float64"
    """Precision of long sums on a GPU, one of `inputs.PRECISIONS`; the CPU sums in float64."""
    self_interaction: bool = True
