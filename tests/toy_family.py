"""A family in one file, as another package would add it: one learned charge per element.

Its density has one observable of its own, `spread` (sum of |q| r², e·Å²), which is a result of the model and
of the calculator, a label of data files and a target of training.
"""

from __future__ import annotations

import torch

from electret.labels import LABELS, Label
from electret.models.base import Call, Density, Structure
from electret.models.config import ModelConfig
from electret.models.families.charge_conservation import ShiftedCharges
from electret.models.family import CHARGES_AND_DIPOLE, LABELLED_DENSITY, Family, register
from electret.models.start.statistics import Statistics
from electret.torch.per_system import sum_over_atoms
from electret.training.targets import TARGETS, Target

LABELS["spread"] = Label("spread", "system", "e·Å²")
TARGETS["spread"] = Target("spread", "system", "me·Å²/atom", extensive=True)

register(
    Family(
        "element_charges",
        f"{__name__}:ElementCharges",
        options=("conserve_charge",),
        properties={**CHARGES_AND_DIPOLE, "spread": "system"},
        targets=(*LABELLED_DENSITY, "spread"),
    )
)


class ElementCharges(ShiftedCharges):
    """Charges of the elements that training finds."""

    family = "element_charges"

    def __init__(self, config: ModelConfig, statistics: Statistics) -> None:
        super().__init__(config, statistics)
        self.charges = torch.nn.Parameter(torch.zeros(len(statistics.elements), dtype=self.dtype))

    def density(self, structure: Structure, features: list[torch.Tensor]) -> Density:
        """Charges of the elements, `[n_atoms, 1]`."""
        return Density(self.conserved(self.charges[structure.elements], structure.graph)[:, None])

    def _energies(self, structure: Structure, call: Call) -> dict[str, torch.Tensor]:
        result = super()._energies(structure, call)
        spread = result["charges"].abs() * structure.positions.square().sum(dim=1)
        result["spread"] = sum_over_atoms(spread, structure.graph.batch, structure.graph.n_systems)
        return result
