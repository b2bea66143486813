"""Self-consistency: Newton and affine solves against Anderson and the reference scheme, per model and frame.

``python benches/scf_table.py`` writes ``benches/results/scf.md`` and ``scf.json``. The models are untrained
(seed 0) with the statistics of the water of ``benches/water.py``, or files given as ``--model NAME=PATH``.
Times are minima over repeats and leave the backbone out: *solve* is everything from the learned parameters to
the density (geometry, start, iterations), *gradients* adds the energy and its derivatives in positions and
parameters (forces; implicit differentiation), *training* a loss of forces and its derivative in the
parameters (two chord-Newton steps, second derivatives).

On a machine with other load wall times mean little: ``RAYON_NUM_THREADS=1 OMP_NUM_THREADS=1`` and
``--cpu-time`` count the seconds of the process alone, on one core.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import ase.io
import numpy as np
import torch
from ase import Atoms

import electret
from electret.graph import Graph
from electret.models import Model, ModelConfig, Statistics, build, load
from electret.models.base import Call, Structure
from electret.models.self_consistent import Parameters, SelfConsistent, _systems
from electret.scf.electrostatics import Electrostatics
from electret.scf.problem import Systems
from electret.scf.solvers import Mixing
from electret.scf.state import ScfRequest, State
from fixed_atoms import ACCURACY, SIGMA, WIDTHS, Timer, fixed_atoms
from machine import machine
from timing import fastest
from water import water_of

RESULTS = Path(__file__).parent / "results"
DEMO = Path(electret.__file__).parent / "demo" / "data"
BACKBONE = {
    "r_max": 4.0,
    "num_interactions": 2,
    "hidden_irreps": "16x0e + 16x1o",
    "max_ell": 2,
    "correlation": 2,
    "MLP_irreps": "8x0e",
    "radial_MLP": [16],
}
MODELS = {
    "qeq": {"family": "qeq"},
    "sqe": {"family": "sqe"},
    "energy_functional": {"family": "energy_functional"},
    "fixed_point, affine": {"family": "fixed_point"},
    "fixed_point, flow": {"family": "fixed_point", "fixed_point": {"flow": True}},
    "fixed_point, mlp": {"family": "fixed_point", "fixed_point": {"nonlinearity": "residual_mlp"}},
}
SOLVERS = {
    "newton, dense": ("newton", "dense", 1e-8),
    "newton, krylov": ("newton", "krylov", 1e-8),
    "anderson": ("anderson", "auto", 1e-6),
    "mixing (reference scheme)": ("mixing", "auto", 1e-6),
}


# --- frames and models ---


def water_frame(n_atoms: int) -> Atoms:
    """Periodic water, see `water_of`."""
    system = water_of(n_atoms)
    atoms = Atoms("OHH" * (n_atoms // 3), positions=system["positions"], cell=system["cell"], pbc=True)
    atoms.arrays["water_multipoles"] = system["multipoles"]
    return atoms


def silver_frames() -> dict[str, Atoms]:
    """The first cluster in a field and the first slab of the demonstration's data."""
    frames = {}
    for kind in ("field", "slab"):
        atoms = ase.io.read(DEMO / f"silver_water_{kind}_valid.xyz", index=0)
        frames[f"silver-water {kind}, {len(atoms)} atoms"] = atoms
    return frames


def statistics() -> Statistics:
    """Equations of water with the charges of `benches/water.py`; norms are the RMS of its features."""
    frame = water_frame(192)
    values = electret.features(
        frame.positions, frame.arrays["water_multipoles"], SIGMA, WIDTHS, 1, cell=frame.cell.array, pbc=True
    )
    norms = tuple(
        tuple(float(np.sqrt(np.mean(values[:, n, l * l : (l + 1) ** 2] ** 2))) for n in range(len(WIDTHS)))
        for l in range(2)
    )
    return Statistics(
        elements=(1, 8, 47),
        e0s={1: -13.6, 8: -430.0, 47: -4000.0},
        avg_num_neighbors=20.0,
        charges={1: 0.4, 8: -0.8, 47: 0.0},
        feature_norms=norms,
    )


def models(files: list[str]) -> dict[str, SelfConsistent]:
    """The untrained models, and those from files."""
    electrostatics = {"max_l": 1, "sigma": SIGMA, "widths": WIDTHS, "accuracy": ACCURACY}
    found: dict[str, Model] = {}
    for name, options in MODELS.items():
        config = {"backbone": BACKBONE, "electrostatics": electrostatics, **options}
        found[name] = build(ModelConfig.parse(config), statistics(), seed=0)
    for entry in files:
        name, path = entry.split("=", 1)
        found[name] = load(path)
    return found


# --- one model, one frame, one solver ---


@dataclass
class Case:
    """The learned parameters of a frame, and the calculation that follows from them."""

    model: SelfConsistent
    structure: Structure
    parameters: dict[str, torch.Tensor]
    request: ScfRequest
    linear_solver: str

    @classmethod
    def of(cls, model: SelfConsistent, atoms: Atoms, solver: str) -> Case:
        name, linear, tolerance = SOLVERS[solver]
        graph = Graph.from_atoms(atoms, model.cutoff, model.dtype, labels=False)
        index = torch.searchsorted(torch.tensor(model.statistics.elements), graph.atomic_numbers)
        shifts = graph.unit_shifts @ graph.cell[0]
        in_field = model.check_conditions(graph)
        structure = Structure(graph, index, graph.positions, graph.cell, shifts, in_field)
        with torch.no_grad():
            _, features = model.backbone(graph, structure.edge_vectors, index)
            parameters = model.parameters_of(structure, [layer.double() for layer in features])
        limit = 100 if name != "newton" else None
        return cls(
            model,
            structure,
            parameters,
            ScfRequest("implicit", tolerance=tolerance, solver=name, max_iterations=limit),
            linear,
        )

    def systems(self):
        return _systems(self.structure.graph)

    def loop(self, parameters: Parameters, electrostatics: Electrostatics, systems: Systems):
        """The equations of the solver, and the start."""
        fixed = {name: value.detach() for name, value in parameters.items()}
        loop = self.model.problem(fixed, electrostatics.detach(), systems, True, self.linear_solver)
        start = self.model._start(self.request, self.model.guess(fixed, self.structure.elements), systems)
        return loop, start

    def fresh(self):
        """Solution from the learned parameters, on a fresh geometry."""
        electrostatics = self.model.electrostatics_of(self.structure)
        return self.loop(self.model.prepared(self.parameters), electrostatics, self.systems())

    def solve(self):
        with torch.no_grad():
            loop, start = self.fresh()
            return self.model.solver(self.request).solve(loop, start)

    def evaluate(self, training: bool):
        """Grand potential, positions and parameters, in their graph."""
        positions = self.structure.positions.detach().clone().requires_grad_()
        leaves = {
            name: value.detach().clone().requires_grad_(value.is_floating_point())
            for name, value in self.parameters.items()
        }
        structure = replace(self.structure, positions=positions)
        systems, model = self.systems(), self.model
        electrostatics = model.electrostatics_of(structure)
        parameters = model.prepared(leaves)
        problem = model.problem(parameters, electrostatics, systems, False, self.linear_solver)
        with torch.no_grad():
            loop, start = self.loop(parameters, electrostatics, systems)
        solved = model._converged(problem, loop, start, Call(training=training), self.request)
        zero = torch.zeros(systems.n_systems, dtype=torch.float64)
        result = model._results(zero, electrostatics, systems, parameters, solved, Call())
        wanted = [value for value in leaves.values() if value.requires_grad]
        return result["grand_potential"].sum(), positions, wanted

    def gradients(self) -> None:
        energy, positions, leaves = self.evaluate(False)
        torch.autograd.grad(energy, [positions, *leaves], allow_unused=True)

    def training(self) -> None:
        energy, positions, leaves = self.evaluate(True)
        (gradient,) = torch.autograd.grad(energy, positions, create_graph=True)
        torch.autograd.grad(gradient.square().sum(), leaves, allow_unused=True)


def measure(case: Case, timer: Timer, newton: bool) -> dict[str, object]:
    record = case.solve().record
    row = {
        "iterations": int(record.iterations.max()),
        "unconverged": int((~record.converged).sum()),
        "residual": float(record.residual.max()),
        "solve_ms": timer(case.solve),
    }
    if newton and row["unconverged"] == 0:
        row["gradients_ms"] = timer(case.gradients)
        row["training_ms"] = timer(case.training)
    return row


# --- the reference scheme in a model ---


def mixed_model(model: SelfConsistent, n_atoms: int, timer: Timer) -> float:
    """50 mixed iterations of a model in its own solver, geometry included, ms."""
    case = Case.of(model, water_frame(n_atoms), "mixing (reference scheme)")

    def run() -> State:
        with torch.no_grad():
            loop, start = case.fresh()
            return Mixing(1e-300, 50, 0.25).solve(loop, start).state

    return timer(run)


# --- report ---


def report(document: dict) -> str:
    m = document["machine"]
    lines = [
        "# Self-consistency benchmark",
        "",
        f"{m['time']}, {m['cpu']}, {m['cores']} logical cores, rayon threads: {m['rayon_threads']}, torch "
        f"threads: {m['torch_threads']}, timer: {m['timer']}, Python {m['python']}, torch {m['torch']}; load "
        f"average {m['load_before']} before and {m['load_after']} after. `{m['command']}`.",
        "",
        "Multipoles l <= 1, float64, accuracy 1e-6; minima over repeats, milliseconds, without the backbone. "
        "Newton and affine solves converge to 1e-8, Anderson and mixing to 1e-6 (mean |local step|, e Å^l) "
        "in at most 100 steps, from the elements' mean charges.",
        "",
        "| model | frame | solver | iterations | unconverged | residual | solve | + gradients | training |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in document["solves"]:
        times = [f"{row[k]:.1f}" if k in row else "" for k in ("solve_ms", "gradients_ms", "training_ms")]
        lines.append(
            f"| {row['model']} | {row['frame']} | {row['solver']} | {row['iterations']} | "
            f"{row['unconverged']} | {row['residual']:.1e} | {' | '.join(times)} |"
        )
    lines += [
        "",
        "## At fixed atoms",
        "",
        "Features (l <= 1, widths 1.5 and 3.0 Å) of periodic water. *50 mixed* is geometry and 50 times "
        "p <- p - 0.25 (p - F(v)) with a trivial F, the reference scheme's loop. Error: relative L2 of the "
        "features against accuracy 1e-12. Ratios: of one evaluation and of 50 mixed.",
        "",
        "| code | atoms | error | geometry | one evaluation | 50 mixed | ratios to electret |",
        "|---|---|---|---|---|---|---|",
    ]
    ours = {row["atoms"]: row for row in document["fixed_atoms"] if "electret" in row["code"]}
    for row in document["fixed_atoms"]:
        one, fifty = (row[k] / ours[row["atoms"]][k] for k in ("evaluation_ms", "mixed_ms"))
        lines.append(
            f"| {row['code']} | {row['atoms']} | {row['error']:.1e} | {row['geometry_ms']:.2f} | "
            f"{row['evaluation_ms']:.3f} | {row['mixed_ms']:.1f} | {one:.1f}, {fifty:.1f} |"
        )
    for row in document["mixed_models"]:
        fifty = row["mixed_ms"] / ours[row["atoms"]]["mixed_ms"]
        lines.append(
            f"| {row['model']}, `Mixing` of 50 steps | {row['atoms']} | | | | {row['mixed_ms']:.1f} | "
            f"{fifty:.1f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", action="append", default=[], help="NAME=PATH of a saved model")
    parser.add_argument("--atoms", type=int, nargs="*", default=[24, 48, 96, 192, 768], help="water frames")
    parser.add_argument("--water-only", action="store_true", help="leave the silver frames out")
    parser.add_argument("--cpu-time", action="store_true", help="process time instead of wall time")
    parser.add_argument("--seconds", type=float, default=0.5, help="of repeats per entry")
    parser.add_argument("--output", type=Path, default=RESULTS / "scf.md")
    arguments = parser.parse_args()
    seconds, sizes = arguments.seconds, arguments.atoms
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    timer = partial(fastest, seconds=seconds, clock=clock)
    described = machine() | {
        "timer": clock.__name__,
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
    }
    document: dict = {"machine": described, "solves": [], "fixed_atoms": [], "mixed_models": []}
    built = models(arguments.model)
    for n_atoms in sorted({192, 768}.intersection(sizes)):
        document["fixed_atoms"] += fixed_atoms(n_atoms, timer)
        document["mixed_models"] += [
            {"model": name, "atoms": n_atoms, "mixed_ms": mixed_model(built[name], n_atoms, timer)}
            for name in ("fixed_point, affine",)
        ]
    frames = {f"water, {n} atoms": water_frame(n) for n in sizes}
    if not arguments.water_only:
        frames |= silver_frames()
    for name, model in built.items():
        for frame, atoms in frames.items():
            for solver in SOLVERS:
                case = Case.of(model, atoms, solver)
                newton = solver.startswith("newton")
                row = {"model": name, "frame": frame, "solver": solver, **measure(case, timer, newton)}
                document["solves"].append(row)
                print(row, flush=True)
    document["machine"]["load_after"] = round(os.getloadavg()[0], 1)
    arguments.output.parent.mkdir(exist_ok=True)
    arguments.output.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n")
    arguments.output.write_text(report(document))
    print(arguments.output.read_text())


if __name__ == "__main__":
    main()
