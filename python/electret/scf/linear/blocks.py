"""K = [[L + R M, c], [wᵀ, d]] with block-diagonal L and R, on the CPU or on a device."""

from __future__ import annotations

import torch
from torch import Tensor

from electret.cuda.geometry import DeviceGeometry
from electret.kernels.geometry import Geometry
from electret.kernels.jacobian import ChargeFlow, Jacobian
from electret.scf.electrostatics import Electrostatics
from electret.scf.flow import Flow
from electret.scf.linear.device import DeviceJacobian
from electret.scf.linear.operator import Solver
from electret.torch.operators import array

__all__ = ["BlockJacobian", "NativeJacobian", "block_jacobian"]


class NativeJacobian(Solver):
    """K of every system on the CPU, factored or applied by :class:`electret.Jacobian`.

    Args:
        geometry: of the batch.
        operator: `coulomb` (M = A) or `features` (M = B).
        left: L `[n_atoms, n_lm, n_lm]`; None is the identity.
        right: R `[n_atoms, n_lm, n_rows]`; None is the identity.
        column: c, derivative of the residual in the Fermi level, `[n_atoms, n_lm]`.
        constrained: True for systems at constant charge, `[n_systems]`.
        method: `auto`, `dense` or `krylov`.
        flow: edges along which charge flows; L, R and c are then those of the drive at the charges.
    """

    def __init__(
        self,
        geometry: Geometry,
        operator: str,
        left: Tensor | None,
        right: Tensor | None,
        column: Tensor,
        constrained: Tensor,
        method: str = "auto",
        flow: Flow | None = None,
    ) -> None:
        super().__init__(constrained)
        self.native = Jacobian(
            geometry,
            operator,
            left=None if left is None else array(left),
            right=None if right is None else array(right),
            column=array(column),
            constrained=constrained.numpy(),
            method=method,
            flow=None if flow is None else _arrays(flow),
        )

    def solved(
        self, b: Tensor, s: Tensor, transpose: bool, tolerance: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `Solver`."""
        x, y, status = self.native.solve(array(b), array(s), transpose, tolerance)
        return torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(status) == 0

    def dominant_eigenpair(self) -> tuple[Tensor, Tensor, Tensor]:
        """Eigenpair of largest modulus of T = -R M; see `dominant_eigenpairs` in `operator`."""
        values, right, left = self.native.eigenpair()
        return torch.from_numpy(values), torch.from_numpy(right), torch.from_numpy(left)


BlockJacobian = NativeJacobian | DeviceJacobian


def block_jacobian(
    electrostatics: Electrostatics,
    operator: str,
    left: Tensor | None,
    right: Tensor | None,
    column: Tensor,
    constrained: Tensor,
    method: str = "auto",
    flow: Flow | None = None,
) -> BlockJacobian:
    """Jacobian on the device of the tensors. Arguments are those of `NativeJacobian`."""
    operators = electrostatics.operators
    if isinstance(operators, DeviceGeometry):
        return DeviceJacobian(operators, operator, left, right, column, constrained, method, flow=flow)
    return NativeJacobian(operators.geometry, operator, left, right, column, constrained, method, flow)


def _arrays(flow: Flow) -> ChargeFlow:
    return ChargeFlow(array(flow.edges.T), array(flow.conductance), array(flow.placement))
