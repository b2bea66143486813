"""How stable the self-consistency of a model is: spectral radius, and how plain mixing fares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from matplotlib.figure import Figure
from pydantic import Field

from electret.analysis.probes.base import (
    Advance,
    Capability,
    Colours,
    Probe,
    ProbeTable,
    Results,
    calculator,
    model_table,
    number,
)
from electret.analysis.scf_convergence import run_solvers
from electret.data.reading import wrap_atoms
from electret.models import Model

__all__ = ["Stability"]


class Stability(Probe):
    """Frames spread evenly over the file."""

    asks_for: ClassVar[Capability] = "self_consistency"
    title: ClassVar[str] = "Stability of the self-consistency"
    note: ClassVar[str] = (
        "Spectral radius of the map of the density onto itself at the solution (fixed points only; below 1 "
        "the plain iteration converges), and updates until convergence of the model's own solver and of "
        "linear mixing."
    )

    frames: int = Field(default=24, ge=1)
    """Number of frames."""
    max_iterations: int = Field(default=200, ge=1)
    """Largest number of iterations of linear mixing."""

    def structures(self) -> list[Atoms]:
        """Frames spread evenly over the file."""
        found = super().structures()
        places = np.unique(np.linspace(0, len(found) - 1, min(self.frames, len(found))).round().astype(int))
        return [found[place] for place in places]

    def measure(self, model: Model, frames: Sequence[Atoms], advance: Advance) -> dict[str, Any]:
        """`radius [n]` (empty where not defined), `solver` and `mixing`: iterations `[n]`, null where not
        converged."""
        radii: list[float] = []
        if "stability" in model.available_properties:
            calc = calculator(model)
            for index, atoms in enumerate(frames):
                radii.append(float(calc.response(atoms, ["stability"])["stability"]))
                advance(f"radius {index + 1} of {len(frames)}")
        wrapped = wrap_atoms(frames, file=str(self.data))
        own = model.config.scf.solver
        found: dict[str, Any] = {"radius": radii, "own": own}
        for name, solver in (("solver", own), ("mixing", "mixing")):
            (run,) = run_solvers(model, wrapped, (solver,), max_iterations=self.max_iterations)
            advance(name)
            found[name] = [
                len(history) - 1 if done else None
                for history, done in zip(run.histories, run.converged, strict=True)
            ]
        return found

    def tables(self, results: Results, frames: Sequence[Atoms]) -> list[ProbeTable]:
        """One row per model."""

        def of_radii(text: Callable[[np.ndarray], str]) -> Callable[[Any], str]:
            return lambda entry: text(np.array(entry["radius"])) if entry["radius"] else "—"

        columns: dict[str, Callable[[Any], str]] = {
            "radius, mean": of_radii(lambda radii: number(float(radii.mean()))),
            "largest": of_radii(lambda radii: number(float(radii.max()))),
            "below 1": of_radii(lambda radii: f"{int((radii < 1).sum())} of {len(radii)}"),
            "own solver": lambda entry: _iterations(entry["solver"]),
            "linear mixing": lambda entry: _iterations(entry["mixing"]),
        }
        return model_table(results, columns)

    def figure(self, results: Results, frames: Sequence[Atoms], colours: Colours) -> Figure | None:
        """Distribution of the radius of each fixed-point model."""
        shown = {model: entry["radius"] for model, entry in results.items() if entry["radius"]}
        if not shown:
            return None
        figure = Figure(figsize=(5.5, 3.6), layout="constrained")
        axes = figure.subplots()
        for model, radius in shown.items():
            axes.plot(
                np.sort(radius),
                np.arange(1, len(radius) + 1) / len(radius),
                "o-",
                ms=3,
                color=colours[model],
                label=model,
            )
        axes.axvline(1.0, color="0.5", linestyle=":")
        axes.set(xlabel="spectral radius", ylabel="part of the frames below", xscale="log")
        axes.legend(frameon=False, fontsize=8)
        return figure


def _iterations(counts: Sequence[int | None]) -> str:
    """Mean of the converged frames, and how many these are."""
    done = [count for count in counts if count is not None]
    mean = f"{np.mean(done):.1f}" if done else "—"
    return f"{mean} ({len(done)} of {len(counts)} converged)"
