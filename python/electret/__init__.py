"""electret: self-consistent electrostatic machine-learning interatomic potentials on Gaussian multipoles."""

from electret._native import ElectretError, InputError, __version__
from electret.neighbors import neighbor_list

__all__ = ["ElectretError", "InputError", "__version__", "neighbor_list"]
