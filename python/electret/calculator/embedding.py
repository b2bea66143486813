"""External charges of a calculator, as ASE's `EIQMMM` and other programs move them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from electret.errors import InputError
from electret.kernels import inputs
from electret.scf import ExternalCharges

__all__ = ["EmbeddedCharges"]


class EmbeddedCharges:
    """Fixed charges outside of the model of a calculator, made by `Calculator.embed`; the object that
    `ase.calculators.qmmm.EIQMMM` moves and takes forces from.

    Args:
        charges: [n_charges], e.
        width: of their Gaussians, Å.

    Raises:
        InputError: values that are no finite numbers, shapes that do not belong together.
    """

    def __init__(self, charges: ArrayLike, width: float) -> None:
        self.width = float(inputs.array("width", width, ()))
        self.moved = True
        """True if charges or positions changed since the last calculation."""
        self._positions: np.ndarray | None = None
        self.set_charges(charges)

    def __repr__(self) -> str:
        return f"EmbeddedCharges({len(self._charges)} charges of {self._charges.sum():g} e, {self.width:g} Å)"

    def set_charges(self, mmcharges: ArrayLike) -> None:
        """Change the charges [n_charges], e."""
        self._charges = inputs.numbers("charges", mmcharges).copy()
        self.moved = True

    def set_positions(self, mmpositions: ArrayLike, com_pv: Any = None) -> None:
        """Move the charges to [n_charges, 3], Å. `com_pv`, centres for a cutoff that other codes have, is
        not read: there is no cutoff."""
        positions = inputs.numbers("mmpositions", mmpositions).copy()
        if self._positions is None or not np.array_equal(positions, self._positions):
            self._positions, self.moved = positions, True

    def get_forces(self, calc: Any) -> np.ndarray:
        """Forces of the density on the charges, [n_charges, 3] eV/Å, at the atoms of the last calculation."""
        calc.get_property("forces")
        return calc.state["external_charges_forces"].copy()

    def on(self, device: torch.device) -> ExternalCharges:
        """Tensors for the model."""
        if self._positions is None:
            raise InputError("the charges of embed(...) have no positions yet; call its set_positions")
        return ExternalCharges(
            torch.tensor(self._positions, device=device),
            torch.tensor(self._charges, device=device),
            torch.zeros(len(self._charges), dtype=torch.int64, device=device),
            self.width,
        )
