"""Driver for i-PI's `<ffdirect>`, which evaluates all beads in one batch.

i-PI loads it by the path of a file (`<pes> custom </pes>`, `<pes_path>`); a file of one line does:
``from electret.interfaces.ipi_driver import __DRIVER_CLASS__, __DRIVER_NAME__, ElectretDriver``.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from ase.units import Bohr, Hartree

from electret.conditions import UNITS
from electret.errors import InputError
from electret.interfaces.ipi import Beads, Evaluation

__all__ = ["__DRIVER_CLASS__", "__DRIVER_NAME__", "ElectretDriver"]

__DRIVER_NAME__ = "electret"
__DRIVER_CLASS__ = "ElectretDriver"

Atomic = tuple[float, np.ndarray, np.ndarray, str]


class ElectretDriver:
    """A model as i-PI's driver.

    Args:
        model: file of the model.
        template: file of the structure: elements, periodic axes, conditions in `info`; i-PI sends none of
            them.
        total_charge, external_field, fermi_level, spin_multiplicity: conditions in place of those of the
            file; the field as `0 0 0.1` (V/Å), because i-PI separates parameters by commas.
        extras: names of `Calculator.response` to send, separated by spaces, as `born_effective_charges`.
        device, dtype, trust, open_stress: as in `Calculator`.
        verbosity: given by i-PI, not used.

    Raises:
        InputError: names the parameter.
    """

    def __init__(
        self,
        model: str,
        template: str,
        extras: str = "",
        device: str = "cpu",
        dtype: str | None = None,
        trust: bool | str = False,
        open_stress: str = "refuse",
        verbosity: Any = None,
        **parameters: Any,
    ) -> None:
        for name in parameters:
            if name not in UNITS:
                raise InputError(
                    f"the parameter {name!r} of <ffdirect> is none of this driver; conditions are "
                    f"{', '.join(UNITS)}"
                )
        conditions = {name: _numbers(name, value) for name, value in parameters.items()}
        self.beads = Beads(
            model,
            template,
            conditions,
            extras.split(),
            device=device,
            dtype=dtype,
            trust=str(trust).lower() == "true",
            open_stress=open_stress,
        )

    def __call__(self, cell: Any, pos: Any) -> Atomic | list[Atomic]:
        """Energy, forces, virial and extras in atomic units: of one structure, or of a list of them.

        An error ends the run. i-PI would wait for ever for a force field that fails in a thread of its own
        (`threaded="True"`).
        """
        try:
            if not isinstance(cell, list):
                return _atomic(self.beads.one(pos * Bohr, np.asarray(cell).T * Bohr))
            found = self.beads.all([one * Bohr for one in pos], [np.asarray(one).T * Bohr for one in cell])
            return [_atomic(one) for one in found]
        except Exception as error:
            if threading.current_thread().name.startswith("poll_"):  # of `threaded`
                from ipi.utils.softexit import softexit

                softexit.trigger(status="bad", message=f"electret: {error}")
            raise


def _atomic(found: Evaluation) -> Atomic:
    forces = found.forces * (Bohr / Hartree)
    return found.energy / Hartree, forces, found.virial.T / Hartree, found.extras


def _numbers(name: str, value: Any) -> float | list[float]:
    try:
        numbers = [float(part) for part in str(value).split()]
    except ValueError:
        raise InputError(f"{name} = {value!r} of <ffdirect>; give numbers separated by spaces") from None
    return numbers[0] if len(numbers) == 1 else numbers
