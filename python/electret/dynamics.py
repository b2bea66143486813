"""Molecular dynamics of an electrode: the total charge moves under the Fermi level of the other electrode.

The atoms exchange charge with a reservoir at the Fermi level mu. The charge Q is a dynamical variable with a
fictitious mass M (eV·time²/e²), beside positions r and momenta p of the atoms,

    H = sum_i p_i²/2m_i + M (dQ/dt)²/2 + E(r, Q) + mu Q,        M d²Q/dt² = -(dE/dQ + mu),

where dE/dQ = -mu_system is the exact derivative of the energy at self-consistency (of a variational model,
minus its Fermi level): the charge is driven until the Fermi level of the system is mu on average. At fixed
atoms it oscillates with the frequency (k/M)^(1/2), k = d²E/dQ²; with k < 0 it runs away. With a thermostat on
Q the ensemble is the grand-canonical one of E + mu Q. Source: Bonnet, Morishita, Sugino, Otani, Phys. Rev.
Lett. 109, 266101 (2012); for the grand-canonical ensemble of charge see Melander, Kuisma, Christensen,
Honkala, J. Chem. Phys. 150, 041706 (2019).

The alternative without a fictitious variable is any dynamics of ASE with `atoms.info["fermi_level"]`: the
charge then follows the atoms at once, and E + mu Q, the calculator's `energy`, plus kinetic energy is
conserved. It has no fluctuations of the charge.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from ase import Atoms, units
from ase.md.md import MolecularDynamics

from electret.errors import ChargeRangeError, InputError
from electret.support.outputs import atomic_write

__all__ = ["ChargeRangeError", "ConstantFermiLevel"]

LEVELS_AGREE = 1e-3
"""Difference in eV between the Fermi level of a model and -dE/dQ from which on a run warns."""

LEAST_MARGIN = 0.5
"""Charge in e by which a run may leave the range of the training data, where half its width is less."""


class _ChargeCalculator(Protocol):
    """Interface of a calculator for the dynamics; `electret.Calculator` of a self-consistent model has it."""

    def charge_derivative(self, atoms: Atoms | None = None) -> float:
        """dE/dQ in eV/e."""
        ...

    def response(self, atoms: Atoms | None, properties: Sequence[str]) -> Mapping[str, Any]:
        """`energy_charge_curvature`: d²E/dQ² in eV/e²."""
        ...

    @property
    def state(self) -> Mapping[str, Any]:
        """`fermi_level` in eV and `total_charge` in e of the last calculation."""
        ...

    @property
    def training_ranges(self) -> Mapping[str, Any]:
        """`total_charge` [lowest, highest] in e, where known."""
        ...


class ConstantFermiLevel(MolecularDynamics):
    """Dynamics of atoms and total charge at constant Fermi level.

    Velocity Verlet, between two half-steps of a Langevin thermostat where there is one (Bussi and Parrinello,
    Phys. Rev. E 75, 056707 (2007)); one evaluation of the model per step. The charge is in
    `atoms.info["total_charge"]`, so that trajectories hold it.

    Args:
        atoms: with an `electret.Calculator` of a self-consistent model. The run starts at the charge in
            `info` (`total_charge` or `charge`), or at that of the model at this Fermi level where there is
            none.
        timestep: in ASE's unit of time.
        fermi_level: of the reservoir, eV.
        charge_mass: M in eV·fs²/e². None takes that of a charge oscillating with `charge_period`.
        charge_period: in ASE's unit of time, of the charge at fixed atoms: M = (period/2 pi)² d²E/dQ² of the
            first structure. It should be many time steps, and apart from the periods of the atoms unless a
            thermostat brings both to equilibrium. None: 100 fs.
        charge_range: lowest and highest charge, e; outside of it the run stops. None: the range of the
            training data and half its width, at least 0.5 e, on either side; no bounds where that range is
            not known.
        temperature_K: of the thermostats, K.
        friction: of the Langevin thermostat on the atoms, 1/(ASE's unit of time); 0: none.
        charge_friction: of that on the charge.
        seed: of the thermostat's random numbers.
        charge_log: CSV file with time (ps), charge (e), Fermi level of the system (eV), potential, kinetic,
            fictitious kinetic and conserved energy (eV), every `loginterval` steps.
        restart: file that is written every `loginterval` steps, for `read_restart`.
        **options: `trajectory`, `logfile`, `loginterval`, ... of ASE's `MolecularDynamics`. The total energy
            in ASE's own log leaves out the charge; `charge_log` has the conserved one.

    Raises:
        InputError: a calculator without dE/dQ, options that cannot be used, a charge and a Fermi level, a
            first structure with d²E/dQ² < 0.
        ChargeRangeError: in a step, from a charge outside of `charge_range`; the restart file has the state.

    Warns:
        UserWarning: the Fermi level of the model and -dE/dQ of the first structure differ, as those of a
            fixed point may; the latter drives the charge.

    Example:
        >>> from ase import units
        >>> from electret.dynamics import ConstantFermiLevel
        >>> dynamics = ConstantFermiLevel(atoms, 1.0 * units.fs, fermi_level=-4.5)  # doctest: +SKIP
        >>> dynamics.run(1000)  # doctest: +SKIP
    """

    def __init__(
        self,
        atoms: Atoms,
        timestep: float,
        fermi_level: float,
        *,
        charge_mass: float | None = None,
        charge_period: float | None = None,
        charge_range: tuple[float, float] | None = None,
        temperature_K: float | None = None,
        friction: float = 0.0,
        charge_friction: float = 0.0,
        seed: int = 0,
        charge_log: str | os.PathLike[str] | None = None,
        restart: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> None:
        self.calculator = _calculator(atoms)
        self.fermi_level = _finite("fermi_level", fermi_level)
        for name, value in (("friction", friction), ("charge_friction", charge_friction)):
            if not value >= 0.0:
                raise InputError(f"{name} = {value}; give a number that is not negative")
        if (friction or charge_friction) and not (temperature_K is not None and temperature_K > 0):
            raise InputError(f"temperature_K = {temperature_K}; a thermostat needs a positive temperature")
        if charge_mass is not None and charge_period is not None:
            raise InputError("charge_mass and charge_period both set the mass of the charge; give one")
        self.temperature = 0.0 if temperature_K is None else units.kB * temperature_K  # eV
        self.friction, self.charge_friction = friction, charge_friction
        self.rng = np.random.default_rng(seed)
        atoms.info["total_charge"] = _first_charge(atoms, self.fermi_level)
        self.charge_range = _range(charge_range, self.calculator)  # e
        self.charge_mass = self._mass(atoms, charge_mass, charge_period)  # eV·(ASE's time)²/e²
        self._compare_levels(atoms)
        self.charge_momentum = 0.0  # M dQ/dt
        self.heat = 0.0  # eV, from the thermostats
        super().__init__(atoms, timestep, **options)
        interval = options.get("loginterval", 1)
        if charge_log is not None:
            self._charge_log = Path(charge_log)
            self.attach(self._write_log, interval)
        self._restart = restart
        if restart is not None:
            self.attach(lambda: self.write_restart(restart), interval)

    @property
    def charge(self) -> float:
        """Total charge, e."""
        return float(self.atoms.info["total_charge"])

    @property
    def system_fermi_level(self) -> float:
        """-dE/dQ of the system at its charge, eV; the run brings its mean to `fermi_level`."""
        return -self.calculator.charge_derivative(self.atoms)

    @property
    def charge_kinetic_energy(self) -> float:
        """M (dQ/dt)²/2, eV."""
        return self.charge_momentum**2 / (2.0 * self.charge_mass)

    @property
    def conserved_energy(self) -> float:
        """H less the heat from the thermostats, eV: constant up to the error of the integrator."""
        atoms = self.atoms
        potential = atoms.get_potential_energy() + self.fermi_level * self.charge
        return potential + atoms.get_kinetic_energy() + self.charge_kinetic_energy - self.heat

    def step(self, forces: np.ndarray | None = None) -> np.ndarray:
        """One time step; returns the forces at its end [n_atoms, 3]."""
        self._check_charge()
        atoms, dt = self.atoms, self.dt
        self._thermostat(0.5 * dt)
        if forces is None:
            forces = atoms.get_forces(md=True)
        masses = atoms.get_masses()[:, None]
        momenta = atoms.get_momenta() + 0.5 * dt * forces
        self.charge_momentum += 0.5 * dt * self._charge_force()
        positions = atoms.get_positions()
        atoms.set_positions(positions + dt * momenta / masses)
        if atoms.constraints:  # what the constraints made of the step (RATTLE)
            momenta = (atoms.get_positions() - positions) * masses / dt
        atoms.set_momenta(momenta, apply_constraint=False)
        atoms.info["total_charge"] = self.charge + dt * self.charge_momentum / self.charge_mass
        forces = atoms.get_forces(md=True)
        atoms.set_momenta(atoms.get_momenta() + 0.5 * dt * forces)
        self.charge_momentum += 0.5 * dt * self._charge_force()
        self._thermostat(0.5 * dt)
        return forces

    def todict(self) -> dict[str, Any]:
        """Settings, for the header of a trajectory."""
        return {
            **super().todict(),
            "fermi_level": self.fermi_level,
            "charge_mass": self.charge_mass,
            "temperature_K": self.temperature / units.kB,
            "friction": self.friction,
            "charge_friction": self.charge_friction,
        }

    def write_restart(self, path: str | os.PathLike[str]) -> None:
        """Write the state of the run as JSON; the file appears complete or not at all.

        Raises:
            OutputError: the file cannot be written.
        """
        atoms = self.atoms
        values = {
            "steps": self.nsteps,
            "numbers": atoms.numbers.tolist(),
            "positions": atoms.get_positions().tolist(),
            "momenta": atoms.get_momenta().tolist(),
            "cell": atoms.cell.array.tolist(),
            "charge": self.charge,
            "charge_momentum": self.charge_momentum,
            "charge_mass": self.charge_mass,
            "heat": self.heat,
            "rng": self.rng.bit_generator.state,
        }
        atomic_write(Path(path), json.dumps(values).encode())

    def read_restart(self, path: str | os.PathLike[str]) -> None:
        """Continue from a file of `write_restart`: atoms, charge, its mass, thermostat, number of steps.

        The continued run is that without interruption, up to the tolerance of the SCF.

        Raises:
            InputError: no such file, not a restart file, or one of other atoms.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
            numbers = values["numbers"]
        except FileNotFoundError:
            raise InputError(f"restart file '{path}' does not exist") from None
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"'{path}' is no restart file: {error}") from error
        atoms = self.atoms
        if numbers != atoms.numbers.tolist():
            raise InputError(f"'{path}' is of other atoms ({len(numbers)}; here {len(atoms)})")
        atoms.set_cell(values["cell"])
        atoms.set_positions(values["positions"], apply_constraint=False)
        atoms.set_momenta(values["momenta"], apply_constraint=False)
        atoms.info["total_charge"] = values["charge"]
        self.charge_momentum, self.charge_mass = values["charge_momentum"], values["charge_mass"]
        self.heat, self.nsteps = values["heat"], values["steps"]
        self.rng.bit_generator.state = values["rng"]

    def _mass(self, atoms: Atoms, mass: float | None, period: float | None) -> float:
        if mass is not None and not mass > 0.0:
            raise InputError(f"charge_mass = {mass} eV·fs²/e²; give a positive number")
        duration = 100.0 * units.fs if period is None else period
        if not duration > 0.0:
            raise InputError(f"charge_period = {duration}; give a positive time")
        curvature = float(
            self.calculator.response(atoms, ["energy_charge_curvature"])["energy_charge_curvature"]
        )
        if not curvature > 0.0:
            raise InputError(
                f"d²E/dQ² of the first structure is {curvature:.3g} eV/e² at a charge of "
                f"{atoms.info['total_charge']:.3g} e. It has to be positive: without a minimum of E + mu Q "
                "the charge runs away, with any mass. Train on more charges, or use 'qeq' or "
                "'energy_functional', whose local energies are convex; a slab with two periodic axes needs "
                "its counter charge in the cell"
            )
        if mass is not None:
            return mass * units.fs**2
        return (duration / (2.0 * math.pi)) ** 2 * curvature

    def _compare_levels(self, atoms: Atoms) -> None:
        """Warn where the Fermi level in the equations of the model is not the one that drives the charge."""
        drive = -self.calculator.charge_derivative(atoms)
        level = self.calculator.state["fermi_level"]
        if abs(level - drive) > LEVELS_AGREE:
            warnings.warn(
                f"at the first charge, {atoms.info['total_charge']:.4g} e, the Fermi level of the model is "
                f"{level:.4f} eV, but -dE/dQ, which drives the charge towards fermi_level = "
                f"{self.fermi_level:.4f} eV, is {drive:.4f} eV. Choose fermi_level by -dE/dQ "
                "(calc.charge_derivative), or use 'qeq' or 'energy_functional', where both are the same",
                stacklevel=3,
            )

    def _check_charge(self) -> None:
        low, high = self.charge_range
        if low <= self.charge <= high:
            return
        kept = ""
        if self._restart is not None:
            self.write_restart(self._restart)
            kept = f"; its state is in '{os.fspath(self._restart)}'"
        raise ChargeRangeError(
            f"the run stops after {self.nsteps} steps at a total charge of {self.charge:.4g} e, outside of "
            f"{low:.4g} to {high:.4g} e{kept}. The model is not trained there; look at -dE/dQ against the "
            "charge and at fermi_level, or give another charge_range",
            self.charge,
            self.charge_range,
        )

    def _charge_force(self) -> float:
        """-(dE/dQ + mu), V."""
        return -(self.calculator.charge_derivative(self.atoms) + self.fermi_level)

    def _thermostat(self, duration: float) -> None:
        """Friction and noise on the momenta for a time, exactly; counts the heat."""
        if self.friction:
            atoms = self.atoms
            before = atoms.get_kinetic_energy()
            keep = math.exp(-self.friction * duration)
            width = np.sqrt((1.0 - keep**2) * self.temperature * atoms.get_masses())[:, None]
            kicks = width * self.rng.standard_normal((len(atoms), 3))
            atoms.set_momenta(keep * atoms.get_momenta() + kicks)
            self.heat += atoms.get_kinetic_energy() - before
        if self.charge_friction:
            before = self.charge_kinetic_energy
            keep = math.exp(-self.charge_friction * duration)
            kick = math.sqrt((1.0 - keep**2) * self.temperature * self.charge_mass)
            self.charge_momentum = keep * self.charge_momentum + kick * float(self.rng.standard_normal())
            self.heat += self.charge_kinetic_energy - before

    def _write_log(self) -> None:
        row = (
            self.get_time() / (1000.0 * units.fs),
            self.charge,
            self.system_fermi_level,
            self.atoms.get_potential_energy(),
            self.atoms.get_kinetic_energy(),
            self.charge_kinetic_energy,
            self.conserved_energy,
        )
        fresh = self.nsteps == 0 or not self._charge_log.exists()  # a continued run goes on in its file
        with open(self._charge_log, "w" if fresh else "a", encoding="utf-8") as file:
            if fresh:
                file.write(",".join(_COLUMNS) + "\n")
            file.write(",".join(f"{value:.10g}" for value in row) + "\n")


_COLUMNS = (
    "time_ps",
    "charge_e",
    "fermi_level_eV",
    "potential_eV",
    "kinetic_eV",
    "charge_kinetic_eV",
    "conserved_eV",
)


def _calculator(atoms: Atoms) -> _ChargeCalculator:
    calculator = atoms.calc
    if not hasattr(calculator, "charge_derivative"):
        raise InputError(
            f"the calculator of the atoms is {type(calculator).__name__}, which has no dE/dQ; use "
            "electret.Calculator with a self-consistent model"
        )
    model = getattr(calculator, "model", None)
    if model is not None and "fermi_level" not in model.honours:
        raise InputError(
            f"the charges of this {model.family!r} model do not respond to a Fermi level; use 'qeq', "
            "'energy_functional' or 'fixed_point' with responding charges"
        )
    return calculator


def _first_charge(atoms: Atoms, fermi_level: float) -> float:
    """The charge in `info`, which is then under its own name alone, or that of the Fermi level."""
    given = [atoms.info.pop(name) for name in ("total_charge", "charge") if name in atoms.info]
    if "fermi_level" in atoms.info:
        raise InputError(
            "atoms.info has a fermi_level, which would fix the charge that is to move; give it to "
            "ConstantFermiLevel alone and remove it from atoms.info"
        )
    if given:
        return _finite("total_charge", given[0])
    at_level = atoms.copy()
    at_level.info["fermi_level"] = fermi_level
    at_level.calc = atoms.calc
    at_level.get_potential_energy()
    return float(at_level.calc.state["total_charge"])


def _range(given: tuple[float, float] | None, calculator: _ChargeCalculator) -> tuple[float, float]:
    """Lowest and highest charge of a run, e."""
    if given is not None:
        low, high = given
        if not low < high:
            raise InputError(f"charge_range = {given}; give the lowest and the highest charge in e")
        return float(low), float(high)
    if "total_charge" not in calculator.training_ranges:
        return -math.inf, math.inf
    low, high = calculator.training_ranges["total_charge"]
    margin = max(0.5 * (high - low), LEAST_MARGIN)
    return low - margin, high + margin


def _finite(name: str, value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise InputError(f"{name} is {number}; give a finite number")
    return number
