"""Molecular dynamics at constant energy: drift of the conserved energy."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from ase import Atoms, units
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet
from matplotlib.figure import Figure
from pydantic import Field

from electret.analysis.probes.base import (
    Advance,
    Capability,
    Colours,
    ProbeTable,
    Results,
    Trajectory,
    calculator,
    curves_in_time,
    model_table,
    number,
)
from electret.errors import ConvergenceError, InputError
from electret.models import Model

__all__ = ["Dynamics"]

_SHOWN = 400
"""Points of a trajectory that are kept."""
_HOT = 20.0
"""Multiple of the requested temperature at which a trajectory counts as lost."""


class Dynamics(Trajectory):
    """One frame, thermalised with a Langevin thermostat, then velocity Verlet."""

    asks_for: ClassVar[Capability] = "self_consistency"
    title: ClassVar[str] = "Dynamics at constant energy"
    note: ClassVar[str] = (
        "`drift` is the slope of the conserved energy, its error half the difference between the slopes of "
        "the two halves of the run; `fluctuation` the standard deviation about the slope."
    )

    picoseconds: float = Field(default=10.0, gt=0)
    thermalisation: float = Field(default=0.5, ge=0)
    """Time with the thermostat, ps."""

    def measure(self, model: Model, frames: Sequence[Atoms], advance: Advance) -> dict[str, Any]:
        """Energies of the run; what stopped it in `failure`."""
        atoms = conditions_only(frames[0])
        atoms.calc = calc = calculator(model)
        rng = np.random.default_rng(self.seed)
        MaxwellBoltzmannDistribution(atoms, temperature_K=self.temperature, rng=rng)
        step = self.timestep * units.fs
        n_steps = round(1000 * self.picoseconds / self.timestep)
        stride = max(1, n_steps // _SHOWN)
        total: list[float] = []
        kinetic: list[float] = []
        iterations: list[int] = []

        def record() -> None:
            total.append(atoms.get_potential_energy() + atoms.get_kinetic_energy())
            kinetic.append(atoms.get_kinetic_energy())
            iterations.append(int(calc.state["scf_iterations"]))
            if atoms.get_temperature() > _HOT * self.temperature or not np.isfinite(total[-1]):
                raise _Lost(f"{atoms.get_temperature():.0f} K")
            if len(total) % stride == 0:
                advance(f"{len(total) * self.timestep / 1000:.2f} ps")

        failure = None
        started = time.perf_counter()
        try:
            if self.thermalisation > 0:
                thermostat = Langevin(
                    atoms,
                    step,
                    temperature_K=self.temperature,
                    friction=0.02 / units.fs,
                    rng=rng,
                    fixcm=False,
                )
                thermostat.run(round(1000 * self.thermalisation / self.timestep))
            verlet = VelocityVerlet(atoms, step)
            verlet.attach(record)
            started = time.perf_counter()
            verlet.run(n_steps)
        except (ConvergenceError, InputError, _Lost) as error:
            failure = f"stopped after {len(total) * self.timestep / 1000:.2f} ps: {str(error)[:160]}"
        seconds = time.perf_counter() - started
        return self._summary(total, kinetic, iterations, seconds, len(atoms), failure)

    def _summary(
        self,
        total: Sequence[float],
        kinetic: Sequence[float],
        iterations: Sequence[int],
        seconds: float,
        n_atoms: int,
        failure: str | None,
    ) -> dict[str, Any]:
        found: dict[str, Any] = {"failure": failure, "n_atoms": n_atoms, "steps": max(0, len(total) - 1)}
        if len(total) < 20:
            return found
        picoseconds = np.arange(len(total)) * self.timestep / 1000
        energy = 1e3 * (np.array(total) - total[0]) / n_atoms  # meV/atom
        slope, offset = np.polyfit(picoseconds, energy, 1)
        half = len(energy) // 2
        halves = [
            np.polyfit(picoseconds[part], energy[part], 1)[0] for part in (slice(half), slice(half, None))
        ]
        stride = max(1, len(energy) // _SHOWN)
        return {
            **found,
            "drift": float(slope),
            "drift_error": float(abs(halves[1] - halves[0]) / 2),
            "fluctuation": float(np.std(energy - slope * picoseconds - offset)),
            "temperature": float(np.mean(kinetic)) / (1.5 * n_atoms * units.kB),
            "iterations": float(np.mean(iterations)),
            "ms_per_step": 1e3 * seconds / len(total),
            "time": picoseconds[::stride].tolist(),
            "energy": energy[::stride].tolist(),
        }

    def tables(self, results: Results, frames: Sequence[Atoms]) -> list[ProbeTable]:
        """One row per model."""
        columns: dict[str, Callable[[Any], str]] = {
            "ps": lambda entry: f"{entry['steps'] * self.timestep / 1000:.2f}",
            "drift / meV/atom/ps": lambda entry: (
                f"{entry['drift']:+.4f} ± {entry['drift_error']:.4f}" if "drift" in entry else "—"
            ),
            "fluctuation / meV/atom": lambda entry: number(entry.get("fluctuation")),
            "mean temperature / K": lambda entry: number(entry.get("temperature")),
            "SCF iterations": lambda entry: number(entry.get("iterations")),
            "ms per step": lambda entry: number(entry.get("ms_per_step")),
            "run": lambda entry: entry["failure"] or "complete",
        }
        return model_table(results, columns)

    def figure(self, results: Results, frames: Sequence[Atoms], colours: Colours) -> Figure | None:
        """Conserved energy against time."""
        label = "change of the conserved energy / meV/atom"
        return curves_in_time(results, "energy", label, colours, height=3.6)


class _Lost(Exception):
    """A trajectory that has left all bounds."""


def conditions_only(atoms: Atoms) -> Atoms:
    """A copy without labels: positions, cell, total charge and field."""
    copy = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    copy.info = {key: atoms.info[key] for key in ("total_charge", "external_field") if key in atoms.info}
    return copy
