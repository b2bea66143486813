"""Molecular dynamics of the demo: a Langevin run to thermalise, then one at constant energy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from ase import Atoms, units
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet
from numpy.typing import NDArray

__all__ = ["Trajectory", "simulate"]


@dataclass(frozen=True)
class Trajectory:
    """A run at constant energy.

    Attributes:
        time: [n_steps + 1], ps.
        potential: [n_steps + 1], eV, the energy in the field included.
        kinetic: [n_steps + 1], eV.
        dipole_along_field: [n_steps + 1], e·Å.
        n_atoms: atoms of the system.
    """

    time: NDArray[np.float64]
    potential: NDArray[np.float64]
    kinetic: NDArray[np.float64]
    dipole_along_field: NDArray[np.float64]
    n_atoms: int

    @property
    def total(self) -> NDArray[np.float64]:
        """Conserved energy [n_steps + 1], eV."""
        return self.potential + self.kinetic

    @property
    def drift(self) -> float:
        """Slope of the conserved energy, meV/atom/ps."""
        return 1e3 * float(np.polyfit(self.time, self.total, 1)[0]) / self.n_atoms

    @property
    def fluctuation(self) -> float:
        """Standard deviation of the conserved energy about its slope, meV/atom."""
        trend = np.polyval(np.polyfit(self.time, self.total, 1), self.time)
        return 1e3 * float(np.std(self.total - trend)) / self.n_atoms

    @property
    def temperature(self) -> float:
        """Mean temperature, K."""
        return float(self.kinetic.mean() / (1.5 * self.n_atoms * units.kB))


def simulate(
    atoms: Atoms,
    thermalisation_steps: int,
    steps: int,
    timestep: float,
    temperature: float,
    seed: int,
    advance: Callable[[], None] = lambda: None,
) -> Trajectory:
    """Langevin dynamics at `temperature` (K), then velocity Verlet; both with `timestep` (fs).

    Args:
        atoms: with a calculator, and the field in `atoms.info["external_field"]` (V/Å, not zero). Moved.
        advance: called after every step.
    """
    rng = np.random.default_rng(seed)
    field = np.asarray(atoms.info["external_field"], dtype=float)
    direction = field / np.linalg.norm(field)
    MaxwellBoltzmannDistribution(atoms, temperature_K=temperature, rng=rng)
    thermostat = Langevin(
        atoms, timestep * units.fs, temperature_K=temperature, friction=0.02 / units.fs, rng=rng, fixcm=False
    )
    thermostat.attach(advance)
    thermostat.run(thermalisation_steps)

    records: list[tuple[float, float, float]] = []

    def record() -> None:
        records.append(
            (atoms.get_potential_energy(), atoms.get_kinetic_energy(), atoms.get_dipole_moment() @ direction)
        )
        advance()

    verlet = VelocityVerlet(atoms, timestep * units.fs)
    verlet.attach(record)
    verlet.run(steps)
    potential, kinetic, dipole = np.array(records).T
    time = np.arange(len(records)) * timestep / 1000
    return Trajectory(time, potential, kinetic, dipole, len(atoms))
