"""electret: self-consistent electrostatic machine-learning interatomic potentials on Gaussian multipoles."""

from typing import TYPE_CHECKING, Any

from electret._native import DeviceError, ElectretError, InputError, __version__
from electret.electrostatics import CoulombResult, coulomb, features, potential
from electret.equilibration import ChargeEquilibration, charge_equilibration
from electret.errors import ConvergenceError, OutputError
from electret.geometry import Geometry
from electret.neighbors import NeighborList, neighbor_list
from electret.response import Jacobian

if TYPE_CHECKING:
    from electret.calculator import Calculator

__all__ = [
    "Calculator",
    "ChargeEquilibration",
    "ConvergenceError",
    "CoulombResult",
    "DeviceError",
    "ElectretError",
    "Geometry",
    "InputError",
    "Jacobian",
    "NeighborList",
    "OutputError",
    "__version__",
    "charge_equilibration",
    "coulomb",
    "features",
    "neighbor_list",
    "potential",
]


def __getattr__(name: str) -> Any:
    # The calculator needs torch, MACE and ASE; `import electret` needs numpy alone.
    if name == "Calculator":
        try:
            from electret.calculator import Calculator
        except ModuleNotFoundError as error:
            raise ImportError(
                f"electret.Calculator needs {error.name}; pip install 'electret[mace]' brings it"
            ) from error
        return Calculator
    raise AttributeError(f"module 'electret' has no attribute {name!r}")
