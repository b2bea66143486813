"""A model attached to LAMMPS: gathers atoms and conditions, evaluates, hands the results back."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from ase import Atoms
from ase.calculators.lammps import convert
from ase.data import atomic_masses, atomic_numbers

from electret.calculator import Calculator
from electret.errors import ElectretError, InputError

__all__ = ["VECTOR", "Attachment", "attach"]

UNITS = ("metal", "real", "electron", "si", "cgs", "micro", "nano")
"""Systems of units of LAMMPS that have lengths and energies."""

VECTOR = ("total_charge", "fermi_level", "dipole_x", "dipole_y", "dipole_z", "scf_iterations")
"""Entries of the fix's global vector, in e, eV, e·Å."""

Condition = float | str | None


class _Local(NamedTuple):
    """Atoms of one rank, and what all ranks share."""

    tags: np.ndarray
    types: np.ndarray
    positions: np.ndarray
    conditions: dict[str, Any]


class _Answer(NamedTuple):
    """Results for the atoms of one rank, in units of LAMMPS; `vector` in those of `VECTOR`."""

    energy: float
    virial: np.ndarray
    vector: np.ndarray
    energies: np.ndarray
    forces: np.ndarray
    charges: np.ndarray
    dipoles: np.ndarray


def attach(
    lmp: Any,
    model: str | os.PathLike[str] | torch.nn.Module,
    elements: Sequence[str],
    *,
    total_charge: Condition = None,
    fermi_level: Condition = None,
    external_field: Sequence[float | str] | None = None,
    spin_multiplicity: Condition = None,
    fix_id: str = "electret",
    **options: Any,
) -> Attachment:
    """Let a model give the energy, forces and virial of all atoms of a LAMMPS instance.

    Makes `fix ID all external pf/callback 1 1`, in the place of the one of that name. It adds the forces to
    those of pair styles and other fixes, the energy to `pe` and the virial to `press`. `f_ID[1]` to `f_ID[6]`
    are the total charge (e), the Fermi level (eV), the dipole x y z (e·Å; open axes), iterations of the SCF,
    `d_ID_charge` and `d2_ID_dipole[1]` to `[3]` charge and dipole of each atom (the charge, and charge times
    distance, of the script's `units`); nan where the model or the boundary defines none.

    Conditions are numbers, or names of variables `"v_NAME"` of equal or internal style, which are read at
    each step and may be defined later. Their units are electret's, whatever `units` says: e, eV, V/Å.

    An error ends the run with its message: the call of `lmp.command`, `lmp.file`, ... raises it.

    On several ranks the atoms are gathered on rank 0, which alone evaluates the model, while the others wait.

    Args:
        lmp: an instance of `lammps.lammps` with a simulation box.
        model: as for `Calculator`.
        elements: symbol of each atom type, in the order of the types.
        total_charge: e.
        fermi_level: eV.
        external_field: three numbers or variables, V/Å, along LAMMPS's own x, y, z.
        spin_multiplicity: 2S + 1.
        fix_id: name of the fix.
        options: of `Calculator`: `device`, `dtype`, `scf_tolerance`, ...

    Returns:
        The attachment; `calculator` (rank 0) has the results of the last step.

    Raises:
        InputError: no box, `units lj`, other numbers of elements than of types, a model that cannot be used,
            several ranks without mpi4py.

    Warns:
        UserWarning: a mass that is not that of its element.

    Example:
        >>> from lammps import lammps                                       # doctest: +SKIP
        >>> from electret.interfaces.lammps import attach
        >>> lmp = lammps()                                                  # doctest: +SKIP
        >>> lmp.file("in.box")                                              # doctest: +SKIP
        >>> attach(lmp, "model.electret", ["O", "H"], total_charge="v_Q")   # doctest: +SKIP
        >>> lmp.command("run 100")                                          # doctest: +SKIP
    """
    given = {
        "total_charge": total_charge,
        "fermi_level": fermi_level,
        "spin_multiplicity": spin_multiplicity,
        "external_field": external_field,
    }
    conditions = {name: value for name, value in given.items() if value is not None}
    if external_field is not None and (isinstance(external_field, str) or len(external_field) != 3):
        raise InputError(f"external_field = {external_field!r}; give three numbers or names of variables")
    return Attachment(lmp, model, elements, conditions, fix_id, options)


class Attachment:
    """A model attached to a LAMMPS instance, made by `attach`.

    Attributes:
        calculator: the calculator with the results of the last step; None on ranks other than 0.
        error: the error that ended the last run, or None.
        message: name of the variable of LAMMPS that is no number after an error.
    """

    def __init__(
        self,
        lmp: Any,
        model: str | os.PathLike[str] | torch.nn.Module,
        elements: Sequence[str],
        conditions: dict[str, Any],
        fix_id: str,
        options: dict[str, Any],
    ) -> None:
        self._lmp, self._id, self._conditions = lmp, fix_id, conditions
        self.error: BaseException | None = None
        self._units = _units(lmp)
        self._numbers = _numbers(lmp, elements)
        self._ranks = _communicator(lmp)
        self.calculator = self._shared_calculator(model, options)
        self._guard, self.message = f"{fix_id}_error", f"{fix_id}_message"
        lmp.__class__ = _raising(type(lmp))
        lmp.electret_attachments = {**lmp.electret_attachments, fix_id: self}
        # Replaces one of that name, which may act on a group, or not at every step.
        lmp.command(f"fix {fix_id} all external pf/callback 1 1")
        # LAMMPS runs on after an error in a callback: a variable that is then no number stops it.
        lmp.commands_list(
            [
                f"fix_modify {fix_id} energy yes virial yes",
                f"fix {fix_id}_atoms all property/atom d_{fix_id}_charge d2_{fix_id}_dipole 3",
                f"variable {self._guard}_energy atom 0.0",  # without one, minimisers refuse the fix
                f"fix {self._guard} all addforce v_{self._guard} 0.0 0.0 energy v_{self._guard}_energy",
            ]
        )
        self.renew_guard()
        lmp.fix_external_set_vector_length(fix_id, len(VECTOR))
        lmp.set_fix_external_callback(fix_id, self._callback, None)

    def renew_guard(self) -> None:
        """Make the variable that ends runs; one that has met an error cannot be evaluated again."""
        lmp = self._lmp
        if lmp.has_id("variable", self._guard):
            lmp.command(f"variable {self._guard} delete")
        lmp.commands_list(
            [f"variable {self.message} string 0", f"variable {self._guard} equal v_{self.message}"]
        )

    def _shared_calculator(self, model: Any, options: dict[str, Any]) -> Calculator | None:
        """The calculator on rank 0; its failure is that of all ranks."""
        calculator, text = None, ""
        if self._ranks is None or self._ranks.rank == 0:
            try:
                calculator = Calculator(model, **{"open_stress": "virial", **options, "derivatives": True})
                found = calculator.model.statistics.elements
                missing = [number for number in self._numbers if number not in found]
                if missing:
                    symbols = Atoms(missing).symbols
                    raise InputError(f"elements has {symbols}, not among those of {calculator!r}")
            except Exception as error:
                if self._ranks is None or self._ranks.size == 1:
                    raise
                text = str(error)
        if self._ranks is not None:
            text = self._ranks.bcast(text)
        if text:
            raise InputError(text)
        return calculator

    def _callback(self, _: Any, step: int, n_local: int, tags: Any, positions: Any, forces: Any) -> None:
        """Called by LAMMPS on all ranks. An exception cannot pass through its C++ code."""
        try:
            self.error = None
            self._store(self._answer(step, n_local, tags, positions), n_local, forces)
        except BaseException as error:
            self.error = error
            if self._ranks is None or self._ranks.rank == 0:
                self._lmp.error(0, f"electret ends the run: {error}")
            self._lmp.set_string_variable(self.message, "failed")

    def _answer(self, step: int, n_local: int, tags: Any, positions: Any) -> _Answer:
        """Results for the atoms of this rank."""
        local: _Local | Exception
        try:
            local = self._local(step, n_local, tags, positions)
        except Exception as error:
            local = error
        if self._ranks is None:
            if isinstance(local, Exception):
                raise local
            return self._evaluated([local])[0]
        parts = self._ranks.gather(local if isinstance(local, _Local) else str(local))
        answers: list[Any] | None = None
        failure: BaseException | None = None
        if parts is not None:
            texts = [part for part in parts if isinstance(part, str)]
            try:
                if texts:
                    raise InputError(texts[0])
                answers = self._evaluated(parts)
            except BaseException as error:
                failure, answers = error, [str(error)] * len(parts)
        answer = self._ranks.scatter(answers)
        if failure is not None:
            raise failure
        if isinstance(answer, str):
            raise ElectretError(answer)
        return answer

    def _local(self, step: int, n_local: int, tags: Any, positions: Any) -> _Local:
        """Atoms of this rank in Å, unwrapped, so that they move without jumps, and the conditions."""
        if self._lmp.extract_global("respa_levels"):
            raise InputError("run_style respa evaluates no fix external; use run_style verlet")
        if n_local == 0:
            none = np.zeros(0, dtype=np.int64)
            return _Local(none, none, np.zeros((0, 3)), self._values(step))
        if tags is None:
            raise InputError("atoms have no ids; use atom_modify id yes")
        arrays = self._lmp.numpy
        image = _image_flags(arrays.extract_atom("image")[:n_local], self._lmp.extract_setting("imageint"))
        unwrapped = self._to_ase(positions, "distance") + image @ self._cell()
        types = arrays.extract_atom("type")[:n_local].copy()
        return _Local(tags.astype(np.int64), types, unwrapped, self._values(step))

    def _values(self, step: int) -> dict[str, Any]:
        """Conditions at this step."""
        lmp = self._lmp
        lmp.clearstep_compute()
        found = {
            name: [self._value(name, part) for part in value]
            if name == "external_field"
            else self._value(name, value)
            for name, value in self._conditions.items()
        }
        lmp.addstep_compute(step + 1)
        return found

    def _value(self, name: str, value: Any) -> float:
        if not isinstance(value, str):
            return float(value)
        if not value.startswith("v_"):
            raise InputError(f"{name} = {value!r}; give a number, or a variable of LAMMPS as 'v_NAME'")
        found = None
        if self._lmp.has_id("variable", value[2:]):
            found = self._lmp.extract_variable(value[2:])
        if not isinstance(found, float):
            raise InputError(f"{name}: LAMMPS has no variable {value[2:]!r} of equal or internal style")
        return found

    def _cell(self) -> np.ndarray:
        """Cell vectors as rows, Å."""
        low, high, xy, yz, xz, *_ = self._lmp.extract_box()
        a, b, c = np.subtract(high, low)
        return self._to_ase(np.array([[a, 0.0, 0.0], [xy, b, 0.0], [xz, yz, c]]), "distance")

    def _evaluated(self, parts: Sequence[_Local]) -> list[_Answer]:
        """Results for the atoms of each rank, by one evaluation in the order of the atom ids."""
        assert self.calculator is not None
        calculator = self.calculator
        tags = np.concatenate([part.tags for part in parts])
        order = np.argsort(tags)
        types = np.concatenate([part.types for part in parts])[order]
        atoms = Atoms(
            self._numbers[types - 1],
            np.concatenate([part.positions for part in parts])[order],
            cell=self._cell(),
            pbc=self._lmp.extract_box()[5],
            info=parts[0].conditions,
        )
        forces = calculator.get_property("forces", atoms)
        results, state = calculator.results, calculator.state
        nowhere = np.full((len(atoms), 3), np.nan)
        dipoles = nowhere
        if state.get("max_l", 0) > 0 and "multipoles" in state:
            dipoles = state["multipoles"][:, [3, 1, 2]]
        virial = -atoms.get_volume() * results["stress"][[0, 1, 2, 5, 4, 3]]
        e, angstrom = self._from_ase(1.0, "charge"), self._from_ase(1.0, "distance")
        back = np.argsort(order)
        splits = np.cumsum([len(part.tags) for part in parts])[:-1]
        of_atoms = (
            self._from_ase(results["energies"], "energy"),
            self._from_ase(forces, "force"),
            e * results.get("charges", nowhere[:, 0]),
            e * angstrom * dipoles,
        )
        energy, virial = (self._from_ase(value, "energy") for value in (results["energy"], virial))
        vector = _vector(calculator, atoms)
        rows = zip(*(np.split(value[back], splits) for value in of_atoms), strict=True)
        return [_Answer(energy, virial, vector, *row) for row in rows]

    def _store(self, answer: _Answer, n_local: int, forces: Any) -> None:
        """Hand the results to LAMMPS."""
        lmp = self._lmp
        lmp.fix_external_set_energy_global(self._id, answer.energy)
        lmp.fix_external_set_virial_global(self._id, answer.virial)
        for index, value in enumerate(answer.vector, 1):
            lmp.fix_external_set_vector(self._id, index, value)
        if n_local == 0:
            return
        forces[:] = answer.forces
        lmp.numpy.fix_external_set_energy_peratom(self._id, answer.energies)
        lmp.numpy.extract_atom(f"d_{self._id}_charge")[:n_local] = answer.charges
        lmp.numpy.extract_atom(f"d2_{self._id}_dipole")[:n_local] = answer.dipoles

    def _to_ase(self, value: Any, quantity: str) -> Any:
        return convert(value, quantity, self._units, "ASE")

    def _from_ase(self, value: Any, quantity: str) -> Any:
        return convert(value, quantity, "ASE", self._units)


def _raising(base: type) -> type:
    """The class of LAMMPS instances whose commands raise the error of an attached model."""
    if hasattr(base, "electret_attachments"):
        return base

    class Raising(base):  # type: ignore[misc, valid-type]
        electret_attachments: Mapping[str, Attachment] = MappingProxyType({})

        @property
        def _lammps_exception(self) -> BaseException:
            own = super()._lammps_exception  # to read it clears LAMMPS's flag
            for attachment in self.electret_attachments.values():
                if attachment.error is not None and attachment.message in str(own):
                    attachment.renew_guard()
                    return attachment.error
            return own

    return Raising


def _units(lmp: Any) -> str:
    units = lmp.extract_global("units")
    if units not in UNITS:
        raise InputError(f"units {units} has no lengths and energies; use one of: units {', '.join(UNITS)}")
    return units


def _numbers(lmp: Any, elements: Sequence[str]) -> np.ndarray:
    """Atomic number of each type."""
    if not lmp.extract_setting("box_exist"):
        raise InputError("LAMMPS has no simulation box yet; attach after read_data or create_box")
    elements = [elements] if isinstance(elements, str) else list(elements)
    n_types = lmp.extract_setting("ntypes")
    if len(elements) != n_types:
        raise InputError(
            f"elements = {elements!r}, but LAMMPS has {n_types} atom types; give a symbol for each"
        )
    unknown = [symbol for symbol in elements if symbol not in atomic_numbers]
    if unknown:
        raise InputError(f"elements has {unknown[0]!r}, which is no symbol of an element")
    numbers = np.array([atomic_numbers[symbol] for symbol in elements])
    masses = lmp.numpy.extract_atom("mass")
    if masses is not None and lmp.extract_global("units") in UNITS:
        for index, (mass, number) in enumerate(zip(masses[1:], numbers, strict=False), 1):
            found, of_element = convert(mass, "mass", _units(lmp), "ASE"), atomic_masses[number]
            # Deuterium and shifted masses of hydrogen are meant.
            if number > 1 and mass > 0.0 and abs(found - of_element) > 0.25 * of_element:
                warnings.warn(
                    f"type {index} is {elements[index - 1]} of mass {of_element:.4g}, but has the mass "
                    f"{found:.4g}: are the elements in the order of the types?",
                    stacklevel=5,
                )
    return numbers


def _communicator(lmp: Any) -> Any:
    """Communicator of mpi4py where LAMMPS runs on several ranks, else None."""
    size = lmp.extract_setting("world_size")
    if size == 1:
        return None
    if lmp.get_mpi_comm() is None:
        raise InputError(f"LAMMPS runs on {size} ranks, which needs mpi4py; pip install 'electret[lammps]'")
    return lmp.get_mpi_comm()


def _image_flags(packed: np.ndarray, size: int) -> np.ndarray:
    """Image flags [n_atoms, 3] of the packed ones; LAMMPS has 10 bits for each in 4 bytes, 21 in 8."""
    bits = 10 if size == 4 else 21
    mask = (1 << bits) - 1
    wide = packed.astype(np.int64)
    parts = [wide & mask, (wide >> bits) & mask, (wide >> (2 * bits)) & mask]
    return np.stack(parts, axis=1) - (1 << (bits - 1))


def _vector(calculator: Calculator, atoms: Atoms) -> np.ndarray:
    """Values of `VECTOR`; nan where there is none."""
    state = calculator.state
    dipole = calculator.results.get("dipole", np.full(3, np.nan))
    if "dipole_normal" in state and not atoms.pbc[2]:  # z is the normal of a plane along x and y
        dipole = np.array([np.nan, np.nan, state["dipole_normal"]])
    numbers = [state.get(name, np.nan) for name in ("total_charge", "fermi_level", "scf_iterations")]
    return np.array([*numbers[:2], *dipole, numbers[2]], dtype=np.float64)
