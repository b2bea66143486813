"""electret: self-consistent electrostatic machine-learning interatomic potentials on Gaussian multipoles."""

from typing import TYPE_CHECKING, Any

import electret.support.moved  # noqa: F401 (names the places of modules of earlier versions)
from electret._native import DeviceError, ElectretError, InputError, __version__
from electret.support.deferred import names_from

if TYPE_CHECKING:
    from electret.calculator import Calculator, evaluate
    from electret.errors import ConvergenceError, OutputError
    from electret.kernels.electrostatics import CoulombResult, coulomb, features, potential
    from electret.kernels.equilibration import ChargeEquilibration, charge_equilibration
    from electret.kernels.geometry import Geometry
    from electret.kernels.jacobian import ChargeFlow, Jacobian
    from electret.kernels.neighbors import NeighborList, neighbor_list

__all__ = [
    "Calculator",
    "ChargeEquilibration",
    "ChargeFlow",
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
    "evaluate",
    "features",
    "neighbor_list",
    "potential",
]

# The command line needs none of these to show its help, and the numpy layer needs numpy alone.
_read = names_from(
    __name__,
    (
        "errors",
        *(
            f"kernels.{part}"
            for part in ("electrostatics", "equilibration", "geometry", "jacobian", "neighbors")
        ),
        "calculator",
    ),
)


def __getattr__(name: str) -> Any:
    try:
        return _read(name)
    except ModuleNotFoundError as error:
        if name not in ("Calculator", "evaluate"):
            raise
        raise ImportError(
            f"electret.{name} needs {error.name}; pip install 'electret[mace]' brings it"
        ) from error


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
