"""Time of a step of molecular dynamics by part: backbone, kernels, SCF, and electret's own Python.

``python benches/md_overhead.py`` writes ``benches/results/md_overhead.md``. The models are untrained (seed 0)
with a backbone so small that the rest shows; frames are the 192-atom water box and a cluster of 24 atoms of
it. Every step is one of velocity Verlet through `electret.Calculator`. Sections exclude each other, and each
is the tenth percentile over the steps, as other load only ever adds:

- *backbone*: forward of MACE and the backward pass from the energy to the positions, without native code,
- *heads*: torch code from the features of the backbone to the density, or to the parameters of its
  equations, and the energy of the density,
- *kernels*: native code of the electrostatics, with the copies of its results and the end of what it keeps,
- *neighbours*: the neighbour list,
- *SCF*: torch code of the solver and of the step that carries the derivatives, without native code,
- *graph*: the end of autograd's graph, most of it that of the backbone and the heads,
- *integrator*: ASE's own code outside of the calculator,
- *rest*: everything else in the calculator: checks, tensors, conditions, calls of operators, results.

On a machine with other load: ``OMP_NUM_THREADS=1 RAYON_NUM_THREADS=1`` and ``--cpu-time``, which counts the
seconds of the process alone. ``--label before`` and ``--append`` put the tables of two versions of the
package into one file.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms, units
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet
from numpy.random import default_rng

import electret
import electret.kernels.neighbors
from electret import _native
from electret.models import ModelConfig, base, build
from electret.models.backbone import Backbone
from electret.models.families.energy_functional import EnergyFunctional
from electret.models.families.fixed_point import FixedPoint
from electret.models.families.local_charges import LocalCharges
from electret.models.families.qeq import Qeq
from electret.models.families.split_charges import SplitCharges
from electret.models.self_consistent import SelfConsistent
from electret.models.variational import Variational
from electret.torch import operators
from machine import machine, versions
from scf_table import ACCURACY, SIGMA, WIDTHS, water_frame
from scf_table import statistics as water_statistics

RESULTS = Path(__file__).parent / "results"
BACKBONE = {
    "r_max": 4.0,
    "num_interactions": 2,
    "hidden_irreps": "4x0e + 4x1o",
    "max_ell": 1,
    "correlation": 1,
    "MLP_irreps": "4x0e",
    "radial_MLP": [4],
    "num_radial_basis": 3,
    "dtype": "float64",
}
TIMER = time.perf_counter
MODELS: dict[str, dict[str, Any]] = {
    "local_charges": {"family": "local_charges"},
    "split_charges": {"family": "split_charges"},
    "qeq": {"family": "qeq"},
    "sqe": {"family": "sqe"},
    "energy_functional": {"family": "energy_functional"},
    "fixed_point": {"family": "fixed_point"},
    "fixed_point, flow": {"family": "fixed_point", "fixed_point": {"flow": True}},
    "fixed_point, mlp": {"family": "fixed_point", "fixed_point": {"nonlinearity": "residual_mlp"}},
}
SECTIONS = ("backbone", "heads", "kernels", "neighbours", "SCF", "graph", "integrator", "rest")


class Clock:
    """Time spent in named sections; entering one pauses the section around it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.stack = ["integrator"]
        self.last = TIMER()

    def _switch(self) -> None:
        now = TIMER()
        self.seconds[self.stack[-1]] += now - self.last
        self.last = now

    def enter(self, name: str) -> None:
        """Begins a section."""
        self._switch()
        self.stack.append(name)

    def leave(self) -> None:
        """Goes back to the section around it."""
        self._switch()
        self.stack.pop()

    def lap(self) -> dict[str, float]:
        """Seconds of each section since the last lap."""
        self._switch()
        found, self.seconds = dict(self.seconds), defaultdict(float)
        return found

    def timed(self, name: str, function: Callable) -> Callable:
        @functools.wraps(function)
        def run(*arguments: Any, **options: Any) -> Any:
            self.enter(name)
            try:
                return function(*arguments, **options)
            finally:
                self.leave()

        return run

    def timed_class(self, name: str, kind: type) -> type:
        """A stand-in for a native class: its construction, its methods and its end are timed."""
        clock = self

        class Timed:
            def __init__(self, *arguments: Any, **options: Any) -> None:
                clock.enter(name)
                try:
                    self.native = kind(*arguments, **options)
                finally:
                    clock.leave()

            def __del__(self) -> None:
                clock.enter(name)
                self.__dict__.clear()
                clock.leave()

            def __getattr__(self, attribute: str) -> Any:
                return getattr(self.native, attribute)

        for attribute, method in vars(kind).items():
            if callable(method) and not attribute.startswith("_"):
                setattr(Timed, attribute, clock.timed(name, _of_native(method)))
        return Timed


def _of_native(method: Callable) -> Callable:
    return lambda stand_in, *arguments, **options: method(stand_in.native, *arguments, **options)


def bare(geometry: Any) -> Any:
    """The native object behind a stand-in."""
    return getattr(geometry, "native", geometry)


def instrument(clock: Clock) -> None:
    """Puts the clock around the parts of the package."""
    for name in ("_native_coulomb", "_native_features"):
        setattr(operators, name, clock.timed("kernels", getattr(operators, name)))
    jacobian = _native.Jacobian
    _native.Geometry = clock.timed_class("kernels", _native.Geometry)  # type: ignore[misc]
    timed_jacobian = clock.timed_class("kernels", jacobian)
    _native.Jacobian = lambda geometry, *rest, **options: timed_jacobian(  # type: ignore[misc]
        bare(geometry), *rest, **options
    )
    _native.neighbor_list = clock.timed("neighbours", _native.neighbor_list)
    if hasattr(_native, "NeighborList"):
        _native.NeighborList = clock.timed_class("neighbours", _native.NeighborList)  # type: ignore[misc]
    Backbone.forward = clock.timed("backbone", Backbone.forward)  # type: ignore[method-assign]
    SelfConsistent._converged = clock.timed("SCF", SelfConsistent._converged)  # type: ignore[method-assign]
    for kind in (LocalCharges, SplitCharges, Qeq, EnergyFunctional, FixedPoint, Variational):
        for name in {"density", "parameters_of", "prepared", "density_energies"}.intersection(vars(kind)):
            setattr(kind, name, clock.timed("heads", getattr(kind, name)))
    base._end_graph = clock.timed("graph", base._end_graph)
    gradient = torch.autograd.grad

    def grad(*arguments: Any, **options: Any) -> Any:
        if clock.stack[-1] != "rest":
            return gradient(*arguments, **options)
        clock.enter("backbone")
        try:
            return gradient(*arguments, **options)
        finally:
            clock.leave()

    torch.autograd.grad = grad
    calculator = electret.Calculator
    calculator.calculate = clock.timed("rest", calculator.calculate)  # type: ignore[method-assign]


def frames() -> dict[str, Atoms]:
    cluster = water_frame(24)
    cluster.pbc = False
    cluster.cell = None
    return {"water box, 192 atoms": water_frame(192), "cluster, 24 atoms": cluster}


def measure(options: dict[str, Any], atoms: Atoms, steps: int, clock: Clock) -> dict[str, float]:
    """Milliseconds of a step in each section, and in all."""
    electrostatics = {"max_l": 1, "sigma": SIGMA, "widths": WIDTHS, "accuracy": ACCURACY}
    config = {"backbone": BACKBONE, "electrostatics": electrostatics, **options}
    model = build(ModelConfig.parse(config), water_statistics(), seed=0)
    atoms.calc = electret.Calculator(model)
    MaxwellBoltzmannDistribution(atoms, temperature_K=300, rng=default_rng(0))
    dynamics = VelocityVerlet(atoms, timestep=0.5 * units.fs)
    dynamics.run(30)  # TorchScript specialises in the first calls
    laps = []
    clock.lap()
    for _ in range(steps):
        dynamics.run(1)
        laps.append(clock.lap())
    times = {name: [lap.get(name, 0.0) for lap in laps] for name in SECTIONS}
    times = {"total": [sum(lap.values()) for lap in laps], **times}
    return {name: 1e3 * float(np.percentile(values, 10)) for name, values in times.items()}


def report(rows: list[dict[str, Any]], label: str) -> str:
    m = machine() | versions()
    lines = [
        f"## {label}",
        "",
        f"{m['time']}, {m['cpu']}, {m['cores']} logical cores, rayon threads: {m['rayon_threads']}, torch "
        f"threads: {m['openmp_threads']}, timer: {TIMER.__name__}, Python {m['python']}, torch {m['torch']}; "
        f"load average {m['load_before']}. `{m['command']}`.",
        "",
        f"| model | frame | total | {' | '.join(SECTIONS)} |",
        "|" + "---|" * (3 + len(SECTIONS)),
    ]
    for row in rows:
        times = " | ".join(f"{row[name]:.2f}" for name in ("total", *SECTIONS))
        lines.append(f"| {row['model']} | {row['frame']} | {times} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--label", default="this version")
    parser.add_argument("--append", action="store_true", help="keep what the file holds")
    parser.add_argument("--output", type=Path, default=RESULTS / "md_overhead.md")
    parser.add_argument("--cpu-time", action="store_true", help="process time instead of wall time")
    arguments = parser.parse_args()
    global TIMER
    if arguments.cpu_time:
        TIMER = time.process_time
    clock = Clock()
    instrument(clock)
    rows = []
    for model in arguments.models:
        for frame, atoms in frames().items():
            row = measure(MODELS[model], atoms, arguments.steps, clock)
            rows.append({"model": model, "frame": frame, **row})
            print(rows[-1], flush=True)
    head = (
        "# A step of molecular dynamics\n\nTenth percentiles over steps of velocity Verlet, milliseconds.\n\n"
    )
    path: Path = arguments.output
    before = path.read_text() + "\n" if arguments.append and path.exists() else head
    path.parent.mkdir(exist_ok=True)
    path.write_text(before + report(rows, arguments.label))
    print(path.read_text())


if __name__ == "__main__":
    main()
