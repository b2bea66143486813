"""Codes for the energy and forces of charges, all pairs, neighbour list excluded for the peers.

Each gives `evaluate()`, which is timed, and `forces(result)` in eV/Å.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

import electret
from electret.units import COULOMB_CONSTANT
from target_tables.multipole_codes import Evaluator, System
from water import CELL_LENGTH

OPENMM_COULOMB = 138.93545764438198
"""kJ nm / (mol e²), ONE_4PI_EPS0 of OpenMM."""


@dataclass(frozen=True)
class Settings:
    """Parameters of a particle-mesh Ewald sum: alpha = `decay` / `cutoff`, so that erfc(decay) is left out of
    real space."""

    cutoff: float  # Å
    decay: float
    mesh: int  # points per 13.73 Å
    order: int

    @property
    def alpha(self) -> float:
        """1/Å."""
        return self.decay / self.cutoff

    def __str__(self) -> str:
        return (
            f"cutoff {self.cutoff:g} Å, alpha {self.alpha:.3f}/Å, spacing {CELL_LENGTH / self.mesh:.2f} Å, "
            f"order {self.order}"
        )


def candidates(code: str, length: float) -> Iterator[Settings]:
    """Parameters tried for a code in a cube of this length; OpenMM has order 5 and needs cutoffs of at most
    half the box, torch-pme has powers of 2 and orders up to 5."""
    cutoffs = [c for c in (5.0, 6.0, 7.0, 8.0, 10.0) if code != "OpenMM" or c <= 0.5 * length]
    if code == "OpenMM" and length < 14.0:
        cutoffs.append(6.8)
    meshes = (16, 32, 64) if code == "torch-pme P3M" else (12, 15, 18, 21, 24, 30, 36, 48)
    orders = {"OpenMM": (5,), "torch-pme P3M": (4, 5), "nvalchemi PME": (4, 5, 6)}[code]
    finest = 18.0 if code == "torch-pme P3M" else 9.0
    for cutoff, decay, mesh, order in product(cutoffs, (2.3, 2.7, 3.3, 3.7), meshes, orders):
        # k / 2 alpha at the mesh's limit: outside this range the mesh is far too coarse or too fine.
        if 1.5 <= (math.pi * mesh / CELL_LENGTH) / (2 * decay / cutoff) <= finest:
            yield Settings(cutoff, decay, mesh, order)


def make(code: str, system: System, settings: Settings, threads: int) -> Evaluator:
    return {"OpenMM": openmm_at, "torch-pme P3M": torch_pme_at, "nvalchemi PME": nvalchemi_at}[code](
        system, settings, threads
    )


def electret_at(system: System, sigma: float, accuracy: float, method: str) -> Evaluator:
    return Evaluator(
        f"accuracy {accuracy:g}",
        lambda: electret.coulomb(**system, sigma=sigma, pbc=True, accuracy=accuracy, method=method),
        lambda result: result.forces,
    )


def points_per_axis(system: System, settings: Settings) -> list[int]:
    return [round(settings.mesh * length / CELL_LENGTH) for length in np.diag(system["cell"])]


def openmm_at(system: System, settings: Settings, threads: int) -> Evaluator:
    """CPU platform (single precision); its list stays, because the atoms do not move."""
    import openmm

    force = openmm.NonbondedForce()
    force.setNonbondedMethod(openmm.NonbondedForce.PME)
    force.setUseDispersionCorrection(False)
    force.setCutoffDistance(0.1 * settings.cutoff)
    force.setPMEParameters(10 * settings.alpha, *points_per_axis(system, settings))
    whole = openmm.System()
    for charge in system["multipoles"][:, 0]:
        whole.addParticle(1.0)
        force.addParticle(charge, 0.1, 0.0)
    whole.setDefaultPeriodicBoxVectors(*(0.1 * system["cell"]))
    whole.addForce(force)
    platform = openmm.Platform.getPlatform("CPU")
    context = openmm.Context(whole, openmm.VerletIntegrator(0.001), platform, {"Threads": str(threads)})
    context.setPositions(0.1 * system["positions"])

    def forces(state) -> np.ndarray:
        values = state.getForces(asNumpy=True)._value  # kJ/mol/nm
        return values * (COULOMB_CONSTANT / (100 * OPENMM_COULOMB))

    return Evaluator(
        f"single precision, {settings}", lambda: context.getState(getEnergy=True, getForces=True), forces
    )


def torch_pme_at(system: System, settings: Settings, threads: int) -> Evaluator:
    """Distances and their derivatives are part of its time, as its interface has them."""
    import torch
    from torchpme import P3MCalculator
    from torchpme.potentials import CoulombPotential

    torch.set_num_threads(threads)
    i, j, shifts = electret.neighbor_list(
        "ijS", system["positions"], system["cell"], True, settings.cutoff, half=True
    )
    pairs = torch.from_numpy(np.stack([i, j], axis=1).astype(np.int64))
    offsets = torch.from_numpy(shifts @ system["cell"])
    cell = torch.from_numpy(system["cell"])
    charges = torch.from_numpy(np.ascontiguousarray(system["multipoles"]))
    x = torch.from_numpy(system["positions"]).clone().requires_grad_()
    # Its mesh has the power of 2 above 2 L / spacing + 1 points.
    points = settings.mesh * round(system["cell"][0, 0] / CELL_LENGTH)
    calculator = P3MCalculator(
        CoulombPotential(smearing=1 / (math.sqrt(2) * settings.alpha), prefactor=COULOMB_CONSTANT),
        mesh_spacing=2 * system["cell"][0, 0] / (points - 1),
        interpolation_nodes=settings.order,
    ).to(torch.float64)

    def evaluate():
        vectors = x[pairs[:, 1]] - x[pairs[:, 0]] + offsets
        potential = calculator(charges, cell, x, pairs, vectors.norm(dim=1))
        energy = (potential * charges).sum()
        return energy.detach(), torch.autograd.grad(energy, x)[0]

    return Evaluator(str(settings), evaluate, lambda result: -result[1].numpy())


def nvalchemi_at(system: System, settings: Settings, threads: int) -> Evaluator:
    """One thread on a CPU."""
    import torch
    from nvalchemiops.torch.interactions.electrostatics import particle_mesh_ewald

    positions = system["positions"]
    i, j, shifts = electret.neighbor_list("ijS", positions, system["cell"], True, settings.cutoff)
    order = np.argsort(i, kind="stable")
    i, j, shifts = i[order], j[order], shifts[order]
    starts = torch.from_numpy(np.searchsorted(i, np.arange(len(positions) + 1)).astype(np.int32))
    pairs = torch.from_numpy(np.stack([i, j]).astype(np.int32))
    offsets = torch.from_numpy(np.ascontiguousarray(shifts, dtype=np.int32))
    cell = torch.from_numpy(system["cell"])
    charges = torch.from_numpy(np.ascontiguousarray(system["multipoles"][:, 0]))
    x = torch.from_numpy(positions).clone().requires_grad_()
    mesh = tuple(points_per_axis(system, settings))

    def evaluate():
        energy = particle_mesh_ewald(
            x,
            charges,
            cell,
            alpha=settings.alpha,
            mesh_dimensions=mesh,
            spline_order=settings.order,
            neighbor_list=pairs,
            neighbor_ptr=starts,
            neighbor_shifts=offsets,
        ).sum()
        return energy.detach(), torch.autograd.grad(energy, x)[0]

    return Evaluator(str(settings), evaluate, lambda result: -COULOMB_CONSTANT * result[1].numpy())
