"""Units of the package: Å, e, eV; potentials in V, fields in V/Å, stress in eV/Å³."""

from electret import _native

COULOMB_CONSTANT: float = _native.COULOMB_CONSTANT
"""Coulomb constant e²/(4 pi eps0) in eV·Å/e²."""
