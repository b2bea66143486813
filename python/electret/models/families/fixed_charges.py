"""Family `fixed_charges`: one charge per element, E = E_SR + 1/2 q^T A q - F.D."""

from __future__ import annotations

import torch
from ase.data import chemical_symbols

from electret.errors import InputError
from electret.models.base import Density, Structure, per_element
from electret.models.config import ModelConfig
from electret.models.families.charge_conservation import ShiftedCharges
from electret.models.start.statistics import Statistics

__all__ = ["FixedCharges"]


class FixedCharges(ShiftedCharges):
    """Charges from `config.charges` or, without it, the mean labelled charge of each element.

    With `conserve_charge` a system whose charges do not add up to its total charge is shifted uniformly.

    Raises:
        InputError: an element without a charge, or a configuration with dipoles.
    """

    family = "fixed_charges"
    element_charges: torch.Tensor

    def __init__(self, config: ModelConfig, statistics: Statistics) -> None:
        super().__init__(config, statistics)
        if config.electrostatics.max_l > 1:  # 1 is the default of all families
            raise InputError(
                f"electrostatics.max_l = {config.electrostatics.max_l}, but family 'fixed_charges' has "
                "charges only; set max_l to 0 or use 'local_charges'"
            )
        charges = config.charges
        if charges is None:
            charges = {chemical_symbols[number]: q for number, q in (statistics.charges or {}).items()}
        values = per_element(charges, statistics, "charges")
        self.register_buffer("element_charges", torch.tensor(values, dtype=self.dtype))

    def density(self, structure: Structure, features: list[torch.Tensor]) -> Density:
        """Charges of the elements, `[n_atoms, 1]`."""
        charges = self.conserved(self.element_charges[structure.elements], structure.graph)
        return Density(charges[:, None], local_charges=charges)
