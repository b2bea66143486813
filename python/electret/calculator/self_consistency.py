"""How the calculator finds a self-consistent density: its options, the warm start, and failure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ase import Atoms

from electret.errors import ConvergenceError, InputError
from electret.graph import Graph
from electret.models import Model
from electret.scf import ScfRequest, State

__all__ = ["SelfConsistency", "identity"]

Output = dict[str, torch.Tensor]


@dataclass
class SelfConsistency:
    """Settings of the SCF, and the density of the last calculation as the start of the next.

    Attributes:
        tolerance, max_iterations, solver: None takes those of the model.
        warm_start: begin at the last density; the result depends on it within the tolerance only.
    """

    tolerance: float | None = None
    max_iterations: int | None = None
    solver: str | None = None
    warm_start: bool = True
    _density: State | None = None
    _systems: tuple[bytes, ...] | None = None

    def check(self, model: Model) -> None:
        """Refuse settings of the SCF for a model with an explicit density.

        Raises:
            InputError: names the option.
        """
        for name in ("tolerance", "max_iterations", "solver"):
            if getattr(self, name) is not None and not model.self_consistent:
                raise InputError(
                    f"scf_{name} = {getattr(self, name)!r}, but the density of family {model.family!r} is an "
                    "explicit function of the geometry; remove the option"
                )
        self.request(None)

    def drop(self) -> None:
        """Drop the density."""
        self._density = self._systems = None

    def evaluate(self, model: Model, graph: Graph, atoms: Atoms, notes: str = "", **options: Any) -> Output:
        """Output of the model at a converged density, which is kept for the next call.

        A start that leads nowhere, as after a large change, is given up for that of the model.

        Args:
            graph: of `atoms`.
            notes: added to the message of an error.
            options: of `Model.forward`.

        Raises:
            ConvergenceError: with the history of the residual and what to try.
        """
        output, converged = self.output(model, graph, identity([atoms]), **options)
        if not converged:
            raise self.failure(output, model, notes)
        return output

    def output(
        self, model: Model, graph: Graph, systems: tuple[bytes, ...], **options: Any
    ) -> tuple[Output, bool]:
        """Output of the model for a batch, begun at the densities of the last batch of the same systems, and
        True if all of it converged.

        Args:
            systems: `identity` of the systems, or any other key that their numbers and periodic axes give.
            options: of `Model.forward`.
        """
        start = self._density if self._systems == systems else None
        output = model(graph, scf=self.request(start), **options)
        converged = bool(output["scf_converged"].all())
        if not converged and start is not None:
            output = model(graph, scf=self.request(None), **options)
            converged = bool(output["scf_converged"].all())
        if not converged:
            self.drop()
        elif self.warm_start:
            self._density, self._systems = State(output["multipoles"], output["fermi_level"]), systems
        return output, converged

    def request(self, start: State | None = None) -> ScfRequest:
        """The settings, with a density to start from."""
        return ScfRequest(
            start=start,
            tolerance=self.tolerance,
            max_iterations=self.max_iterations,
            solver=self.solver,
        )

    def failure(self, output: Output, model: Model, notes: str = "", system: int = 0) -> ConvergenceError:
        """The error of a system of a batch whose SCF did not converge."""
        history = output["scf_history"][system].cpu().numpy().astype(np.float64)
        history = history[~np.isnan(history)]
        iterations = int(output["scf_iterations"][system])
        last = ", ".join(f"{residual:.1e}" for residual in history[-4:])
        others = [name for name in ("newton", "anderson", "mixing") if name != self.solver]
        if iterations < (self.max_iterations or model.config.scf.max_iterations):
            what = (
                f"the SCF diverged after {iterations} iterations" if iterations else "the SCF could not begin"
            )
            advice = (
                "The density runs away or its equations are singular, which more iterations do not cure: "
                "look at the structure, the charge and the field, try another solver "
                f"(scf_solver={others[0]!r} or {others[1]!r})"
            )
        else:
            what = f"the SCF did not converge in {iterations} iterations"
            advice = (
                f"Give more iterations (scf_max_iterations), another solver (scf_solver={others[0]!r} or "
                f"{others[1]!r}) or a looser scf_tolerance; look at the structure"
            )
        message = (
            f"{what}; the last residuals are {last}. {advice}, and at calc.response(..., ['stability']) of a "
            "neighbouring structure: a model may have no stable density here"
        )
        return ConvergenceError(message + notes, history=history.tolist(), iterations=iterations, system=0)


def identity(systems: Sequence[Atoms]) -> tuple[bytes, ...]:
    """Numbers and periodic axes, which must stay for densities to belong to the systems."""
    return tuple(part for atoms in systems for part in (atoms.numbers.tobytes(), atoms.pbc.tobytes()))
