"""State, request and record of a self-consistent calculation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from electret.errors import InputError

__all__ = ["MODES", "Record", "ScfRequest", "State"]

MODES = ("implicit", "unrolled", "direct")


@dataclass(frozen=True)
class State:
    """Unknowns of the self-consistent equations: multipoles p and Fermi levels mu."""

    multipoles: torch.Tensor  # [n_atoms, n_lm] e Å^l
    fermi_level: torch.Tensor  # [n_systems] eV

    def detach(self) -> State:
        """State without a graph."""
        if not (self.multipoles.requires_grad or self.fermi_level.requires_grad):
            return self
        return State(self.multipoles.detach(), self.fermi_level.detach())


@dataclass(frozen=True)
class ScfRequest:
    """Method and tolerances of one self-consistent calculation. None takes the value of the model's
    `config.scf`.

    Args:
        mode: `implicit` converges without a graph and differentiates at the solution; `unrolled` keeps
            `unrolled_steps` mixing steps in the graph; `direct` evaluates the model once at the labelled
            density and Fermi level (training).
        unrolled_steps: number of steps of `unrolled`.
        start: first state, such as that of the previous step of a trajectory; on any device.
        tolerance: mean absolute residual per multipole component at which a system counts as converged, e.
        max_iterations: most updates of the density.
        solver: `newton`, `newton_cg`, `anderson` or `mixing`.
    """

    mode: Literal["implicit", "unrolled", "direct"] = "implicit"
    unrolled_steps: int = 10
    start: State | None = None
    tolerance: float | None = None
    max_iterations: int | None = None
    solver: str | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InputError(f"mode = {self.mode!r} of the self-consistency; use one of {', '.join(MODES)}")
        if self.unrolled_steps < 1:
            raise InputError(f"unrolled_steps = {self.unrolled_steps}; give at least 1")
        if self.tolerance is not None and not self.tolerance > 0:
            raise InputError(f"tolerance = {self.tolerance} of the self-consistency; give a positive number")
        if self.max_iterations is not None and self.max_iterations < 1:
            raise InputError(f"max_iterations = {self.max_iterations}; give at least 1")


@dataclass(frozen=True)
class Record:
    """Convergence of each system of a batch."""

    converged: torch.Tensor  # [n_systems] bool
    iterations: torch.Tensor  # [n_systems] int64, updates of the density
    residual: torch.Tensor  # [n_systems] mean |local step| at the end, e
    history: torch.Tensor  # [n_systems, n_iterations + 1] residual before each update, then nan
