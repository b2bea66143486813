"""OpenMM with the forces of a model: the potential `electret` of OpenMM-ML, found by its entry point."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from electret.conditions import CONDITIONS
from electret.errors import InputError

__all__ = ["Factory", "Potential"]

AXES = ("x", "y", "z")


class Factory:
    """Makes the potential of `openmmml.MLPotential("electret", model_path=...)`."""

    def createImpl(self, name: str, model_path: Any = None, **options: Any) -> Potential:
        """Called by `MLPotential`.

        Raises:
            InputError: no model.
        """
        if model_path is None:
            raise InputError(f"MLPotential({name!r}) has no model; give model_path='model.electret'")
        return Potential(model_path, options)


class Potential:
    """A model as a potential of OpenMM-ML.

    Its energy is that of `electret.Calculator`; at constant Fermi level E + mu Q, of which the forces are the
    derivative. Conditions are arguments of `createSystem` and `createMixedSystem`, in electret's units, and
    with that parameters of the context, which may change in a run: `total_charge` (e), `fermi_level` (eV),
    `spin_multiplicity`, `external_field` (V/Å, three numbers; parameters `external_field_x`, `_y`, `_z`).
    `pbc` lists the box vectors that are periods, all of them where the topology has a box; a slab is
    `[True, True, False]`.

    In a mixed system the model sees its own atoms alone (mechanical embedding).

    Args:
        model_path: as the model of `Calculator`.
        options: of `Calculator`: `device`, `dtype`, `scf_tolerance`, ...

    Example:
        >>> from openmmml import MLPotential                                            # doctest: +SKIP
        >>> potential = MLPotential("electret", model_path="model.electret")            # doctest: +SKIP
        >>> system = potential.createSystem(topology, total_charge=1.0)                 # doctest: +SKIP
    """

    def __init__(self, model_path: str | os.PathLike[str] | Any, options: dict[str, Any]) -> None:
        from electret.calculator import Calculator  # takes seconds, which every user of OpenMM-ML would wait

        self.calculator = Calculator(model_path, **options)

    def getSupportedEmbeddings(self) -> list[str]:
        """Embeddings of its own: none."""
        return []

    def getMLLongRange(self) -> bool:
        """True for a model with electrostatics, whose atoms interact with all images."""
        return self.calculator.model.family != "mace"

    def addForces(
        self,
        topology: Any,
        system: Any,
        atoms: Iterable[int] | None,
        forceGroup: int,
        pbc: Sequence[bool] | bool | None = None,
        **conditions: Any,
    ) -> None:
        """Add the force of the model to a system; called by OpenMM-ML.

        Raises:
            InputError: an argument that is no condition, atoms without an element.
        """
        import openmm
        from ase import Atoms

        chosen = list(topology.atoms())
        if atoms is not None:
            atoms = list(atoms)
            chosen = [chosen[index] for index in atoms]
        if any(atom.element is None for atom in chosen):
            raise InputError(
                "the topology has atoms without an element (virtual sites?), which no model takes"
            )
        periodic = topology.getPeriodicBoxVectors() is not None
        frame = Atoms([atom.element.atomic_number for atom in chosen], pbc=periodic if pbc is None else pbc)
        if frame.pbc.any() and not periodic:
            raise InputError(f"pbc = {pbc!r}, but the topology has no periodic box vectors")
        force = openmm.PythonForce(_Computation(self.calculator, frame), _parameters(conditions))
        force.setForceGroup(forceGroup)
        force.setUsesPeriodicBoundaryConditions(bool(frame.pbc.any()))
        if atoms is not None:
            force.setParticles(atoms)
        system.addForce(force)


class _Computation:
    """Energy (kJ/mol) and forces (kJ/mol/nm) of a state of OpenMM."""

    def __init__(self, calculator: Any, atoms: Any) -> None:
        self.calculator, self.atoms = calculator, atoms

    def __call__(self, state: Any) -> tuple[float, np.ndarray]:
        from ase import units
        from openmm import unit

        atoms = self.atoms
        atoms.positions = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
        if atoms.pbc.any():
            atoms.cell = state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.angstrom)
        given = state.getParameters()
        field = [given[f"external_field_{axis}"] for axis in AXES if f"external_field_{axis}" in given]
        atoms.info = {name: given[name] for name in CONDITIONS if name in given}
        if field:
            atoms.info["external_field"] = field
        forces = self.calculator.get_property("forces", atoms)
        kilojoules = units.mol / units.kJ
        return self.calculator.results["energy"] * kilojoules, forces * (kilojoules * units.nm)


def _parameters(conditions: dict[str, Any]) -> dict[str, float]:
    """Parameters of the context for the conditions."""
    found = {}
    for name, value in conditions.items():
        if name not in CONDITIONS:
            raise InputError(
                f"{name} = {value!r} is no condition of a model; there are {', '.join(CONDITIONS)}"
            )
        values = np.ravel(value).astype(float)
        if len(values) != (3 if name == "external_field" else 1):
            raise InputError(
                f"{name} = {value!r}; give {'three numbers' if name == 'external_field' else 'one number'}"
            )
        if name == "external_field":
            found.update({f"{name}_{axis}": number for axis, number in zip(AXES, values, strict=True)})
        else:
            found[name] = values.item()
    return found
