"""electret: self-consistent electrostatic machine-learning interatomic potentials on Gaussian multipoles."""

from electret._native import ElectretError, InputError, __version__
from electret.electrostatics import CoulombResult, coulomb, features, potential
from electret.geometry import Geometry
from electret.neighbors import neighbor_list

__all__ = [
    "CoulombResult",
    "ElectretError",
    "Geometry",
    "InputError",
    "__version__",
    "coulomb",
    "features",
    "neighbor_list",
    "potential",
]
