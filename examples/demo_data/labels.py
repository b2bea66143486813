"""GFN1-xTB labels through tblite: energy, forces, charges, dipole, Fermi level, stress.

The field enters as ``-F·D`` (F in V/Å, D the total dipole in e·Å). Energies are electronic free energies at
kT = 0.004 Ha, so that the forces are their exact gradient.
"""

from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, CalculatorSetupError, SCFError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress
from ase.units import Bohr, Hartree
from tblite.exceptions import TBLiteRuntimeError
from tblite.interface import Calculator as TBLite
from tblite.interface import Result
from tblite.library import ffi

ELECTRONIC_TEMPERATURE = 0.004  # Ha


def fermi_level(levels: np.ndarray, occupations: np.ndarray) -> float:
    """Fermi level in the unit of ``levels`` (eV).

    If a level is fractionally filled, the level nearest to half filling determines it: mu = eps + kT ln(f /
    (1 - f)). In a gap it is the middle between the highest filled and the lowest empty level.

    Args:
        levels: orbital energies [n_orbitals], eV.
        occupations: electrons per orbital [n_orbitals], 0 to 2.
    """
    filling = occupations / 2
    nearest = int(np.argmin(np.abs(filling - 0.5)))
    if 1e-6 < filling[nearest] < 1 - 1e-6:
        f = filling[nearest]
        return float(levels[nearest] + ELECTRONIC_TEMPERATURE * Hartree * np.log(f / (1 - f)))
    return float((levels[filling > 0.5].max() + levels[filling <= 0.5].min()) / 2)


def gap(levels: np.ndarray, occupations: np.ndarray) -> float:
    """From the highest filled to the lowest empty level, in the unit of ``levels``; 0 where a level between
    them is partly filled.

    Args:
        levels: orbital energies [n_orbitals].
        occupations: electrons per orbital [n_orbitals], 0 to 2.
    """
    filled, empty = occupations / 2 > 0.99, occupations / 2 < 0.01
    if not (filled | empty).all():
        return 0.0
    return float(levels[empty].min() - levels[filled].max())


class XTB(Calculator):
    """ASE calculator of GFN1-xTB at a total charge in a uniform field.

    tblite's own ASE calculator has no field. The density of the last step starts the next one.

    Args:
        total_charge: e.
        external_field: V/Å, energy -F·D; open boundaries only.
    """

    implemented_properties = (
        "energy",
        "free_energy",
        "forces",
        "stress",
        "charges",
        "dipole",
        "fermi_level",
        "gap",
    )

    def __init__(self, total_charge: float = 0.0, external_field: Any = (0.0, 0.0, 0.0)) -> None:
        super().__init__()
        self.total_charge = float(total_charge)
        self.external_field = np.asarray(external_field, dtype=float)
        self._tblite: TBLite | None = None
        self._result: Result | None = None

    def _prepare(self, atoms: Atoms, changes: list[str]) -> TBLite:
        periodic = bool(atoms.pbc.any())
        lattice = atoms.cell[:] / Bohr if periodic else None
        if self._tblite is not None and not set(changes) - {"positions", "cell"}:
            self._tblite.update(atoms.positions / Bohr, lattice)
            return self._tblite
        tblite = TBLite(
            "GFN1-xTB",
            atoms.numbers,
            atoms.positions / Bohr,
            charge=self.total_charge,
            lattice=lattice,
            periodic=atoms.pbc if periodic else None,
        )
        tblite.set("verbosity", 0)
        tblite.set("temperature", ELECTRONIC_TEMPERATURE)
        if self.external_field.any():
            if periodic:
                raise CalculatorSetupError("tblite has a uniform field for open boundaries only")
            field = np.ascontiguousarray(self.external_field / Hartree * Bohr)
            tblite.add("electric-field", ffi.cast("double *", field.ctypes.data))  # copied by tblite
        self._tblite, self._result = tblite, None
        return tblite

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: tuple[str, ...] | list[str] = ("energy",),
        system_changes: list[str] = all_changes,
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        tblite = self._prepare(self.atoms, system_changes)
        try:
            self._result = tblite.singlepoint(self._result)
        except TBLiteRuntimeError as error:
            self._tblite = self._result = None
            raise SCFError(str(error)) from error
        energy = float(self._result.get("energy")) * Hartree
        levels = np.ravel(self._result.get("orbital-energies")) * Hartree
        occupations = np.ravel(self._result.get("orbital-occupations"))
        self.results = {
            "energy": energy,
            "free_energy": energy,
            "forces": -self._result.get("gradient") * (Hartree / Bohr),
            "charges": np.array(self._result.get("charges")),
            "fermi_level": fermi_level(levels, occupations),
            "gap": gap(levels, occupations),
        }
        if self.atoms.pbc.any():
            stress = self._result.get("virial") * (Hartree / self.atoms.get_volume())
            self.results["stress"] = full_3x3_to_voigt_6_stress(stress)
        else:
            self.results["dipole"] = self._result.get("dipole") * Bohr


def labelled(atoms: Atoms, calculator: XTB, config_type: str, chain: int) -> Atoms:
    """A copy of ``atoms`` that carries the calculator's results under the keys electret trains on."""
    calculator.get_property("energy", atoms)
    results = calculator.results
    frame = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    frame.info |= {
        "REF_energy": results["energy"],
        "total_charge": calculator.total_charge,
        "fermi_level": results["fermi_level"],
        "config_type": config_type,
        "chain": chain,
    }
    frame.arrays["REF_forces"] = results["forces"].copy()
    frame.arrays["REF_charges"] = results["charges"].copy()
    if "stress" in results:
        frame.info["REF_stress"] = results["stress"].copy()
    else:
        frame.info["REF_dipole"] = results["dipole"].copy()
        frame.info["external_field"] = calculator.external_field.copy()
    return frame
