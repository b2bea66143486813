"""Jacobians of self-consistency as linear solvers: factored for block-diagonal updates, else matrix-free."""

from __future__ import annotations

from collections.abc import Callable

import torch

from electret.cuda.geometry import DeviceGeometry
from electret.kernels.geometry import Geometry
from electret.kernels.jacobian import Jacobian
from electret.scf.device_jacobian import DeviceJacobian
from electret.scf.electrostatics import Electrostatics
from electret.scf.krylov import gmres
from electret.scf.problem import Systems

__all__ = ["BlockJacobian", "NativeJacobian", "OperatorJacobian", "block_jacobian"]


class NativeJacobian:
    """K = L + R M of every system, bordered by the charge, factored or applied by the native layer.

    Args:
        geometry: of the batch.
        operator: `coulomb` (M = A) or `features` (M = B).
        left: L `[n_atoms, n_lm, n_lm]`, the identity where None.
        right: R `[n_atoms, n_lm, n_rows]`, the identity where None.
        column: derivative of the residual in the Fermi level, `[n_atoms, n_lm]`.
        constrained: systems at constant charge, `[n_systems]` bool.
        method: `auto`, `dense` or `krylov`.
    """

    def __init__(
        self,
        geometry: Geometry,
        operator: str,
        left: torch.Tensor | None,
        right: torch.Tensor | None,
        column: torch.Tensor,
        constrained: torch.Tensor,
        method: str = "auto",
    ) -> None:
        def array(values: torch.Tensor | None):
            return None if values is None else values.detach().contiguous().numpy()

        self.native = Jacobian(
            geometry,
            operator,
            left=array(left),
            right=array(right),
            column=array(column),
            constrained=constrained.numpy(),
            method=method,
        )
        self.failed = torch.zeros_like(constrained)

    def solve(
        self,
        multipoles: torch.Tensor,
        condition: torch.Tensor,
        transpose: bool = False,
        tolerance: float | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `electret.scf.problem.LinearSolver`."""
        x, y, status = self.native.solve(
            multipoles.detach().contiguous().numpy(),
            condition.detach().contiguous().numpy(),
            transpose,
            tolerance,
        )
        self.failed = self.failed | (torch.from_numpy(status) != 0)
        return torch.from_numpy(x), torch.from_numpy(y)

    def dominant_eigenpair(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Eigenvalue of largest modulus of -R M per system, `[n_systems]` complex, and its right and left
        eigenvectors `[n_atoms, n_lm]` complex with u^H w = 1."""
        values, right, left = self.native.eigenpair()
        return torch.from_numpy(values), torch.from_numpy(right), torch.from_numpy(left)


BlockJacobian = NativeJacobian | DeviceJacobian
"""K = L + R M with block-diagonal L and R, on the CPU or on a device."""


def block_jacobian(
    electrostatics: Electrostatics,
    operator: str,
    left: torch.Tensor | None,
    right: torch.Tensor | None,
    column: torch.Tensor,
    constrained: torch.Tensor,
    method: str = "auto",
) -> BlockJacobian:
    """The Jacobian where the tensors are. Arguments are those of `NativeJacobian`."""
    operators = electrostatics.operators
    if isinstance(operators, DeviceGeometry):
        return DeviceJacobian(operators, operator, left, right, column, constrained, method)
    return NativeJacobian(electrostatics.geometry, operator, left, right, column, constrained, method)


class OperatorJacobian:
    """K known through its products alone, solved by GMRES.

    Args:
        systems: of the batch.
        apply: (x, y) to K (x, y).
        apply_transpose: (x, y) to K^T (x, y).
        tolerance: residual of a solve relative to its right-hand side.
    """

    def __init__(
        self,
        systems: Systems,
        apply: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
        apply_transpose: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
        tolerance: float = 1e-12,
    ) -> None:
        self.systems = systems
        self._apply = (apply, apply_transpose)
        self.tolerance = tolerance
        self.failed = torch.zeros_like(systems.constrained)

    def solve(
        self,
        multipoles: torch.Tensor,
        condition: torch.Tensor,
        transpose: bool = False,
        tolerance: float | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `electret.scf.problem.LinearSolver`."""
        x, y, converged = gmres(
            self._apply[transpose],
            multipoles.detach(),
            condition.detach(),
            self.systems,
            self.tolerance if tolerance is None else tolerance,
        )
        self.failed = self.failed | ~converged
        return x, y
