"""OpenMM with the forces of a model: the potential `electret` of OpenMM-ML, found by its entry point."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from electret.conditions import CONDITIONS
from electret.errors import InputError

__all__ = ["Factory", "Potential"]

CHARGED = ("AmoebaMultipoleForce", "CustomGBForce", "DrudeForce", "GBSAOBCForce", "HippoNonbondedForce")
"""Forces with charges of their own, beside those of a NonbondedForce."""

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

    In a mixed system with `embedding="electrostatic"` the charges of the classical atoms act on the density
    of the model and it acts on them, exactly in the boundary of the system; `width` (Å) is that of their
    Gaussians (`Calculator.embed`). With `"mechanical"`, OpenMM-ML's default, the model sees its own atoms
    alone.

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
        """Embeddings of its own."""
        return ["electrostatic"]

    def getMLLongRange(self) -> bool:
        """True for a model with electrostatics, whose atoms interact with all images."""
        return self.calculator.model.family != "mace"

    def createMixedSystem(
        self,
        topology: Any,
        system: Any,
        atoms: Iterable[int],
        forceGroup: int,
        interpolate: bool,
        embedding: str,
        returnInfo: bool = False,
        **options: Any,
    ) -> Any:
        """A classical system with the model on some atoms, whose density the charges of the others act on;
        called by OpenMM-ML.

        The classical charges of these atoms are set to zero: what is left of the classical force field is all
        between the other atoms, and Lennard-Jones between both.

        Raises:
            InputError: electrostatics of the classical system that the model cannot continue, bonds between
                both parts, arguments as `addForces`.
        """
        import openmm
        from openmmml.embeddings import utilities

        self.calculator.model.check_external_charges()
        atoms = list(atoms)
        charges, periodic = _classical_charges(topology, system, set(atoms))
        pbc = np.broadcast_to(options.pop("pbc", periodic), 3)
        if (pbc != periodic).any():
            raise InputError(
                f"pbc = {pbc.tolist()}, but the NonbondedForce of the system is "
                f"{'' if periodic else 'not '}periodic along all axes; leave pbc out"
            )
        mixed = utilities.removeBonds(system, topology, atoms, True)
        for force in mixed.getForces():
            if isinstance(force, openmm.NonbondedForce):
                for index, atom in enumerate(atoms):
                    force.setParticleParameters(atom, 0.0, *force.getParticleParameters(atom)[1:])
                    for other in atoms[:index]:
                        force.addException(atom, other, 0.0, 1.0, 0.0, True)
            elif isinstance(force, openmm.CustomNonbondedForce):
                utilities.addCustomNonbondedExclusions(force, atoms)
        options |= {"pbc": periodic, "charges": charges}
        if interpolate:
            helper = utilities.InterpolationHelper()
            helper.addMLPotentialTerms(self, topology, atoms, forceGroup, **options)
            helper.addMMBondedTerms(system, topology, atoms)
            helper.setupNonbonded(mixed, system)
            helper.setupInterpolation(mixed)
        else:
            self.addForces(topology, mixed, atoms, forceGroup, **options)
        return mixed

    def addForces(
        self,
        topology: Any,
        system: Any,
        atoms: Iterable[int] | None,
        forceGroup: int,
        pbc: Sequence[bool] | bool | None = None,
        charges: dict[int, float] | None = None,
        width: float | None = None,
        **conditions: Any,
    ) -> None:
        """Add the force of the model to a system; called by OpenMM-ML. `charges` (e) of other particles and
        their `width` are those of electrostatic embedding.

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
        calculator, embedded = self.calculator, None
        if charges is not None:
            calculator = copy.deepcopy(calculator)  # with charges of its own around the same model
            given = {} if width is None else {"width": width}
            embedded = calculator.embed(list(charges.values()), **given)
        elif width is not None:
            raise InputError(f"width = {width!r} belongs to embedding='electrostatic'; leave it out")
        force = openmm.PythonForce(_Computation(calculator, frame, embedded), _parameters(conditions))
        force.setForceGroup(forceGroup)
        force.setUsesPeriodicBoundaryConditions(bool(frame.pbc.any()))
        if atoms is not None:
            force.setParticles([*atoms, *(charges or ())])
        system.addForce(force)


class _Computation:
    """Energy (kJ/mol) and forces (kJ/mol/nm) of a state of OpenMM."""

    def __init__(self, calculator: Any, atoms: Any, embedded: Any = None) -> None:
        self.calculator, self.atoms, self.embedded = calculator, atoms, embedded

    def __call__(self, state: Any) -> tuple[float, np.ndarray]:
        from ase import units
        from openmm import unit

        atoms = self.atoms
        positions = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
        atoms.positions = positions[: len(atoms)]
        if self.embedded is not None:
            self.embedded.set_positions(positions[len(atoms) :])
        if atoms.pbc.any():
            atoms.cell = state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.angstrom)
        given = state.getParameters()
        field = [given[f"external_field_{axis}"] for axis in AXES if f"external_field_{axis}" in given]
        atoms.info = {name: given[name] for name in CONDITIONS if name in given}
        if field:
            atoms.info["external_field"] = field
        forces = self.calculator.get_property("forces", atoms)
        if self.embedded is not None:
            forces = np.concatenate([forces, self.embedded.get_forces(self.calculator)])
        kilojoules = units.mol / units.kJ
        return self.calculator.results["energy"] * kilojoules, forces * (kilojoules * units.nm)


def _classical_charges(topology: Any, system: Any, modelled: set[int]) -> tuple[dict[int, float], bool]:
    """Charges in e of the classical particles that have one, by index, and whether the system is periodic.

    Raises:
        InputError: see `Potential.createMixedSystem`.
    """
    import openmm
    from openmm import unit
    from openmmml.embeddings import utilities

    found = [force for force in system.getForces() if isinstance(force, openmm.NonbondedForce)]
    others = [force.getName() for force in system.getForces() if type(force).__name__ in CHARGED]
    if len(found) != 1 or others:
        raise InputError(
            f"the system has {len(found)} NonbondedForce and {', '.join(others) or 'no other charges'}; "
            "electrostatic embedding takes the charges of one NonbondedForce, without others"
        )
    force = found[0]
    method = force.getNonbondedMethod()
    if method in (force.CutoffNonPeriodic, force.CutoffPeriodic):
        raise InputError(
            "the NonbondedForce cuts the Coulomb interaction off, as no model does; use PME, Ewald or LJPME, "
            "and NoCutoff in open systems"
        )
    if force.getNumParticleParameterOffsets() or force.getNumExceptionParameterOffsets():
        raise InputError(
            "the NonbondedForce has parameter offsets; electrostatic embedding takes charges that stay: "
            "remove the offsets"
        )
    pairs = [force.getExceptionParameters(index)[:2] for index in range(force.getNumExceptions())]
    pairs += utilities.findLinkBonds(topology, list(modelled))
    across = [pair for pair in pairs if len(modelled.intersection(pair)) == 1]
    if across:
        raise InputError(
            f"particles {across[0][0]} and {across[0][1]} are bonded (or have an exception), but only one of "
            "them is of the model; give the model whole molecules"
        )
    charges = {
        index: force.getParticleParameters(index)[0].value_in_unit(unit.elementary_charge)
        for index in range(force.getNumParticles())
        if index not in modelled
    }
    charged = {index: charge for index, charge in charges.items() if charge != 0.0}
    return charged, method != force.NoCutoff


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
