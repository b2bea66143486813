"""Codes for the energy of Gaussian multipoles with gradients in positions and multipoles.

Each gives `evaluate()`, which is timed, and `forces(result)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

import electret
from water import CELL_LENGTH

System = dict[str, np.ndarray]


@dataclass(frozen=True)
class Evaluator:
    """One code with its settings on one system."""

    settings: str
    evaluate: Callable[[], Any]
    forces: Callable[[Any], np.ndarray]


def electret_at(system: System, sigma: float, accuracy: float, method: str) -> Evaluator:
    return Evaluator(
        f"accuracy {accuracy:g}",
        lambda: electret.coulomb(**system, sigma=sigma, pbc=True, accuracy=accuracy, method=method),
        lambda result: result.forces,
    )


def graph_longrange_at(system: System, sigma: float, factor: float) -> Evaluator:
    from graph_longrange_peer import Peer

    peer = Peer(sigma, factor=factor)
    return Evaluator(
        f"cutoff factor {factor:g}",
        lambda: peer.energy_and_gradients(**system),
        lambda result: -result[1],
    )


@dataclass(frozen=True)
class PmeSettings:
    """Parameters of nvalchemi's particle-mesh sum of Gaussians, with a real-space part or (`alpha` = 1e4 / Å)
    without."""

    mesh: int  # points per 13.73 Å
    order: int
    alpha: float = 1e4
    cutoff: float = 1.0

    def __str__(self) -> str:
        real = "" if self.alpha > 100 else f", alpha {self.alpha:g}/Å, cutoff {self.cutoff:g} Å"
        return f"spacing {CELL_LENGTH / self.mesh:.2f} Å, order {self.order}{real}"


def pme_candidates(sigma: float) -> Iterator[PmeSettings]:
    """From coarse to fine."""
    for mesh in (16, 20, 24, 30, 36, 40, 48):
        for order in (4, 5, 6):
            yield PmeSettings(mesh, order)
    for cutoff in (8.0, 10.0, 12.0):
        width = cutoff / 6.5  # of the split: erfc(cutoff / 2 width) = 4e-6
        if width > sigma:
            alpha = 0.5 / np.sqrt(width**2 - sigma**2)
            yield from (PmeSettings(mesh, 5, float(alpha), cutoff) for mesh in (16, 20, 24))


def nvalchemi_at(system: System, sigma: float, settings: PmeSettings, device: str = "cpu") -> Evaluator:
    import torch
    from nvalchemiops.torch.interactions.electrostatics import multipole_particle_mesh_ewald

    positions, batch = system["positions"], system.get("batch")
    # The list is not part of its time.
    i, j, shifts = electret.neighbor_list("ijS", positions, system["cell"], True, settings.cutoff, batch)
    if len(i) == 0:
        raise ValueError("no pair in the real-space cutoff, which nvalchemi refuses")
    order = np.argsort(i, kind="stable")
    starts = np.searchsorted(i[order], np.arange(len(positions) + 1)).astype(np.int32)

    def there(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(device)

    first, shift = (there(a[order].astype(np.int32)) for a in (j, shifts))
    cell, starts = there(system["cell"]), there(starts)
    x = there(positions).clone().requires_grad_()
    p = there(system["multipoles"]).clone().requires_grad_()
    lengths = np.linalg.norm(system["cell"].reshape(-1, 3, 3)[0], axis=1)
    mesh = tuple(round(settings.mesh * length / CELL_LENGTH) for length in lengths)
    index = None if batch is None else there(batch.astype(np.int32))

    def evaluate():
        energy = multipole_particle_mesh_ewald(
            x,
            p,
            cell,
            first,
            starts,
            shift,
            sigma=sigma,
            alpha=settings.alpha,
            mesh_dimensions=mesh,
            spline_order=settings.order,
            batch_idx=index,
        )
        return torch.autograd.grad(energy.sum(), (x, p))

    return Evaluator(str(settings), evaluate, lambda result: -result[0].cpu().numpy())
