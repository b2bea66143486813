"""Sum of calculators that follows conditions in `atoms.info`."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from ase import Atoms
from ase.calculators.mixing import SumCalculator as ASESumCalculator

from electret.calculator import conditions

__all__ = ["SumCalculator"]


class SumCalculator(ASESumCalculator):
    """Sum of calculators, as of a model and a dispersion correction.

    A change of a condition, in `atoms.info` or `applied_potential`, makes the next request calculate
    anew. ASE's own `SumCalculator` compares the atoms alone and would return the old energy.

    Args:
        calcs: the calculators; properties are those that all of them have.

    Example:
        >>> from electret.calculator import SumCalculator
        >>> atoms.calc = SumCalculator([model, dispersion])  # doctest: +SKIP
    """

    def calculate(self, atoms: Atoms, properties: Sequence[str], system_changes: Sequence[str]) -> None:
        """Evaluate every calculator; called by ASE."""
        super().calculate(atoms, properties, system_changes)
        kept = atoms.copy()
        kept.info = copy.deepcopy(atoms.info)  # ASE's copy shares values that may change in place
        self.atoms = kept

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """Differences from the atoms of the last calculation, conditions in `atoms.info` included."""
        changes = super().check_state(atoms, tol)
        return changes if self.atoms is None else [*changes, *conditions.changed(self.atoms, atoms)]
