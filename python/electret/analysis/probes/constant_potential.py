"""Dynamics of a slab at constant Fermi level: mean and fluctuation of its charge."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from ase import Atoms, units
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
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
from electret.analysis.probes.dynamics import conditions_only
from electret.dynamics import ChargeRangeError, ConstantFermiLevel
from electret.errors import ConvergenceError, InputError
from electret.models import Model

__all__ = ["ConstantPotential"]

_FEWEST = 20
"""Steps below which no mean is given."""


class ConstantPotential(Trajectory):
    """`electret.dynamics.ConstantFermiLevel` with thermostats on atoms and charge."""

    asks_for: ClassVar[Capability] = "fermi_level"
    title: ClassVar[str] = "Dynamics at constant Fermi level"
    note: ClassVar[str] = (
        "Mean and standard deviation of the charge after the first fifth of the run. `sqrt(C kT)` is the "
        "deviation to expect with the atoms fixed, C = 1/(d²E/dQ²) of the first structure."
    )

    fermi_level: float | None = Field(default=None, allow_inf_nan=False)
    """eV; None takes -dE/dQ of the model at the charge of the structure."""
    picoseconds: float = Field(default=2.0, gt=0)

    def measure(self, model: Model, frames: Sequence[Atoms], advance: Advance) -> dict[str, Any]:
        """Charge and Fermi level along the run."""
        atoms = conditions_only(frames[0])
        atoms.calc = calc = calculator(model)
        start = float(atoms.info.setdefault("total_charge", 0.0))
        level = -calc.charge_derivative(atoms) if self.fermi_level is None else self.fermi_level
        curvature = calc.response(atoms, ["energy_charge_curvature"])["energy_charge_curvature"]
        capacitance = 1.0 / float(curvature)
        rng = np.random.default_rng(self.seed)
        MaxwellBoltzmannDistribution(atoms, temperature_K=self.temperature, rng=rng)
        n_steps = round(1000 * self.picoseconds / self.timestep)
        failure = None
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "charge.csv"
            try:
                dynamics = ConstantFermiLevel(
                    atoms,
                    self.timestep * units.fs,
                    level,
                    temperature_K=self.temperature,
                    friction=0.01 / units.fs,
                    charge_friction=0.01 / units.fs,
                    seed=self.seed,
                    charge_log=log,
                )
                dynamics.attach(lambda: advance(f"{dynamics.nsteps} steps"), interval=max(1, n_steps // 100))
                dynamics.run(n_steps)
            except (ChargeRangeError, ConvergenceError, InputError) as error:
                failure = str(error)[:160]
            rows = _read(log)
        found: dict[str, Any] = {
            "failure": failure,
            "target": level,
            "start": start,
            "capacitance": capacitance,
            "steps": len(rows["time_ps"]),
        }
        if found["steps"] > _FEWEST:
            kept = {name: values[found["steps"] // 5 :] for name, values in rows.items()}
            stride = max(1, found["steps"] // 500)
            found |= {
                "charge_mean": float(kept["charge_e"].mean()),
                "charge_deviation": float(kept["charge_e"].std()),
                "level_mean": float(kept["fermi_level_eV"].mean()),
                "level_deviation": float(kept["fermi_level_eV"].std()),
                "expected_deviation": float(np.sqrt(max(capacitance, 0.0) * units.kB * self.temperature)),
                "conserved_drift": 1e3
                * float(np.polyfit(rows["time_ps"], rows["conserved_eV"], 1)[0])
                / len(atoms),
                "time": rows["time_ps"][::stride].tolist(),
                "charge": rows["charge_e"][::stride].tolist(),
            }
        return found

    def tables(self, results: Results, frames: Sequence[Atoms]) -> list[ProbeTable]:
        """One row per model."""

        def mean(name: str, sign: str = "") -> Callable[[Any], str]:
            mean, deviation = f"{name}_mean", f"{name}_deviation"
            return lambda entry: f"{entry[mean]:{sign}.3f} ± {entry[deviation]:.3f}" if mean in entry else "—"

        columns: dict[str, Callable[[Any], str]] = {
            "target Fermi level / eV": lambda entry: f"{entry['target']:.3f}",
            "C / e/V": lambda entry: number(entry["capacitance"]),
            "charge / e": mean("charge", "+"),
            "sqrt(C kT) / e": lambda entry: (
                f"{entry['expected_deviation']:.3f}" if "expected_deviation" in entry else "—"
            ),
            "Fermi level / eV": mean("level"),
            "drift of the conserved energy / meV/atom/ps": lambda entry: number(entry.get("conserved_drift")),
            "run": lambda entry: entry["failure"] or f"{entry['steps'] * self.timestep / 1000:.1f} ps",
        }
        return model_table(results, columns)

    def figure(self, results: Results, frames: Sequence[Atoms], colours: Colours) -> Figure | None:
        """Charge against time."""
        return curves_in_time(results, "charge", "charge of the slab / e", colours, height=3.4)


def _read(log: Path) -> dict[str, np.ndarray]:
    """Columns of the log of charges; empty ones without a log."""
    if not log.exists():
        return {"time_ps": np.empty(0)}
    names = log.read_text(encoding="utf-8").partition("\n")[0].split(",")
    table = np.loadtxt(log, delimiter=",", skiprows=1, ndmin=2)
    return dict(zip(names, table.T, strict=True))
