"""electret: self-consistent electrostatic machine-learning interatomic potentials on Gaussian multipoles."""

from electret._native import ElectretError, InputError, __version__

__all__ = ["ElectretError", "InputError", "__version__"]
