"""K = [[L + R M, c], [wᵀ, d]] on a device: batched LU factors of small systems, iterations for large ones.

Products with M, factors and vectors of iterations stay on the device; limits and the dominant eigenpair are
those of the native layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from electret import _native
from electret.cuda.geometry import DeviceGeometry, Layout
from electret.cuda.waves import Waves
from electret.errors import InputError
from electret.kernels.jacobian import Jacobian
from electret.scf.flow import Flow
from electret.scf.linear.border import Border, Inner
from electret.scf.linear.operator import OperatorJacobian, Solver, dominant_eigenpairs
from electret.scf.problem import Batch
from electret.support.locks import cached_property

__all__ = ["DeviceJacobian"]

Index = Tensor | slice
"""Atoms or systems of a part of the batch."""


@dataclass(frozen=True)
class _Blocks:
    """L and R M of some systems."""

    geometry: DeviceGeometry
    operator: str
    left: Tensor | None  # L [n_atoms, n_lm, n_lm]; None is the identity
    right: Tensor | None  # R [n_atoms, n_lm, n_rows]; None is the identity
    flow: Flow | None

    def of(self, geometry: DeviceGeometry, atoms: Tensor) -> _Blocks:
        """Blocks of some of the atoms."""
        left, right = (None if one is None else one[atoms] for one in (self.left, self.right))
        flow = None if self.flow is None else self.flow.of(atoms, Batch(geometry.batch, geometry.n_systems))
        return _Blocks(geometry, self.operator, left, right, flow)

    def product(self, x: Tensor) -> Tensor:
        """J x = L x + R M x with its flow."""
        geometry = self.geometry
        v = geometry.potential(x) if self.operator == "coulomb" else geometry.features(x)
        own = x if self.left is None else _times(self.left, x)
        product = own + (v if self.right is None else _times(self.right, v.flatten(start_dim=1)))
        return product if self.flow is None else self.flow.after(product, x)

    def transposed_product(self, x: Tensor) -> Tensor:
        """Jᵀ x."""
        if self.flow is None:
            return self._transposed_inside(x)
        product = self._transposed_inside(self.flow.before(x))
        kept = self.flow.kept(x[:, 0], transpose=True)
        return torch.cat([product[:, :1] + kept[:, None], product[:, 1:]], dim=1)

    def _transposed_inside(self, x: Tensor) -> Tensor:
        """Lᵀ x + Mᵀ Rᵀ x."""
        geometry = self.geometry
        g = x if self.right is None else _times(self.right.transpose(1, 2), x)
        own = x if self.left is None else _times(self.left.transpose(1, 2), x)
        if self.operator == "coulomb":
            return own + geometry.potential(g)
        assert geometry.widths is not None
        return own + geometry.features_transpose(g.reshape(len(g), len(geometry.widths), -1))

    @cached_property
    def matrices(self) -> Tensor:
        """R M of every system, `[n_systems, n, n]` with n = largest * n_lm."""
        geometry, layout = self.geometry, self.geometry.layout
        matrix = geometry.coulomb_blocks if self.operator == "coulomb" else geometry.features_blocks
        if self.right is None:
            return matrix
        right = layout.pad(self.right)  # [n_systems, largest, n_lm, n_rows]
        panels = matrix.reshape(*right.shape[:2], right.shape[3], -1)
        return (right @ panels).reshape(len(matrix), -1, matrix.shape[2])

    def inverses(self) -> list[tuple[Inner, Inner]]:
        """Approximate inverses of L + R M and its transpose: with the longest waves of M, and without M."""
        left = self.left
        if self.flow is not None:
            one = torch.eye(self.geometry.n_lm, dtype=torch.float64, device=self.flow.placement.device)
            left = one.repeat(len(self.flow.placement), 1, 1) if left is None else left.clone()
            left[:, 0] *= self.flow.own[:, None]
            left[:, 0, 0] += 1.0 - self.flow.placement
        inverse = None if left is None else _inverse(left)
        back = None if inverse is None else inverse.transpose(1, 2)

        def blocks(x: Tensor) -> Tensor:
            return x if inverse is None else _times(inverse, x)

        def blocks_transposed(x: Tensor) -> Tensor:
            return x if back is None else _times(back, x)

        geometry = self.geometry
        waves = geometry.coulomb_waves if self.operator == "coulomb" else geometry.features_waves
        found: list[tuple[Inner, Inner]] = [(blocks, blocks_transposed)]
        if waves is not None:
            responses = waves.receiver if self.right is None else self.right @ waves.receiver
            if self.flow is not None:
                charges = self.flow.through(responses[:, 0])
                responses = torch.cat([charges[:, None], responses[:, 1:]], dim=1)
            long = _LongWaves(responses, inverse, waves, geometry.layout)
            with_waves = (
                lambda x: long.after(blocks(x)),
                lambda x: blocks_transposed(long.before(x)),
            )
            found.insert(0, with_waves)
        return found


class DeviceJacobian(Solver):
    """K of every system on a device; as `electret.scf.linear.blocks.NativeJacobian`.

    Args:
        geometry: of the batch.
        operator: `coulomb` (M = A) or `features` (M = B).
        left: L `[n_atoms, n_lm, n_lm]`; None is the identity.
        right: R `[n_atoms, n_lm, n_rows]`; None is the identity (`coulomb` only).
        column: c, derivative of the residual in the Fermi level, `[n_atoms, n_lm]`.
        constrained: True for systems at constant charge, `[n_systems]`.
        method: `auto`, `dense` or `krylov`.
        tolerance: relative residual at which iterations end, unless overridden by a solve.
        max_iterations: most products per iterative solve; None chooses.
        flow: edges along which charge flows.

    Raises:
        InputError: an unknown method.
    """

    def __init__(
        self,
        geometry: DeviceGeometry,
        operator: str,
        left: Tensor | None,
        right: Tensor | None,
        column: Tensor,
        constrained: Tensor,
        method: str = "auto",
        tolerance: float = _native.KRYLOV_TOLERANCE,
        max_iterations: int | None = None,
        flow: Flow | None = None,
    ) -> None:
        if method not in ("auto", "dense", "krylov"):
            raise InputError(f'method "{method}" is unknown; use "auto", "dense" or "krylov"')
        super().__init__(constrained, tolerance)
        self.max_iterations = max_iterations
        left, right = (None if block is None else block.detach() for block in (left, right))
        self._blocks = _Blocks(geometry, operator, left, right, flow)
        column = column.detach()
        if flow is not None:
            column = torch.cat([flow.through(column[:, :1]), column[:, 1:]], dim=1)
        self._column, self._constrained = column, constrained
        limit = {"auto": _native.DENSE_LIMIT, "dense": None, "krylov": -1}[method]
        self._dense = [limit is None or size * geometry.n_lm <= limit for size in geometry.layout.sizes]

    @property
    def methods(self) -> list[str]:
        """Solver of each system: "dense" or "krylov"."""
        return ["dense" if dense else "krylov" for dense in self._dense]

    @cached_property
    def _parts(self) -> list[tuple[Solver, Index, Index]]:
        """Solvers of the dense systems and of the others, with their atoms and systems in the batch."""
        parts: list[tuple[Solver, Index, Index]] = []
        for dense in (True, False):
            numbers = tuple(index for index, one in enumerate(self._dense) if one == dense)
            if not numbers:
                continue
            blocks = self._blocks
            atoms: Index = slice(None)
            systems: Index = slice(None)
            if len(numbers) < len(self._dense):
                geometry, atoms, systems = self._blocks.geometry.subset(numbers)
                blocks = self._blocks.of(geometry, atoms)
            border = _border(blocks.geometry, self._column[atoms], self._constrained[systems])
            solver = _Dense(blocks, border) if dense else self._iterative(blocks, border)
            parts.append((solver, atoms, systems))
        return parts

    def _iterative(self, blocks: _Blocks, border: Border) -> OperatorJacobian:
        products = blocks.product, blocks.transposed_product
        return OperatorJacobian(border, products, blocks.inverses(), self.tolerance, self.max_iterations)

    def solved(
        self, b: Tensor, s: Tensor, transpose: bool, tolerance: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `Solver`."""
        x, y, solved = torch.zeros_like(b), torch.zeros_like(s), torch.ones_like(self.failed)
        for solver, atoms, systems in self._parts:
            x[atoms], y[systems], solved[systems] = solver.solved(b[atoms], s[systems], transpose, tolerance)
        return x, y, solved

    def apply(self, x: Tensor, y: Tensor, transpose: bool = False) -> tuple[Tensor, Tensor]:
        """K (x, y), or Kᵀ (x, y), as `[n_atoms, n_lm]` and `[n_systems]`."""
        border, blocks = _border(self._blocks.geometry, self._column, self._constrained), self._blocks
        if transpose:
            return border.transposed.product(blocks.transposed_product(x), x, y)
        return border.product(blocks.product(x), x, y)

    def dominant_eigenpair(self) -> tuple[Tensor, Tensor, Tensor]:
        """Eigenpair of largest modulus of T = -R M; see `electret.scf.linear.operator.dominant_eigenpairs`.
        Large systems are iterated on the CPU."""
        geometry = self._blocks.geometry
        if all(self._dense):
            return dominant_eigenpairs(-self._blocks.matrices, geometry.layout, geometry.n_lm)
        right = self._blocks.right
        found = Jacobian(
            geometry.on_host(), self._blocks.operator, right=None if right is None else right.cpu().numpy()
        ).eigenpair()
        values, w, u = (torch.from_numpy(part).to(geometry.positions.device) for part in found)
        return values, w, u


def _border(geometry: DeviceGeometry, column: Tensor, constrained: Tensor) -> Border:
    return Border.of(Batch(geometry.batch, geometry.n_systems), column, constrained)


class _Dense(Solver):
    """Matrices K of all systems, padded to the largest with the identity, and their LU factors."""

    def __init__(self, blocks: _Blocks, border: Border) -> None:
        super().__init__(border.corner > 0)
        self.blocks, self.border, self.layout = blocks, border, blocks.geometry.layout

    @cached_property
    def _matrix(self) -> Tensor:
        """K `[n_systems, n + 1, n + 1]`."""
        layout, n_lm = self.layout, self.blocks.geometry.n_lm
        inner = self.blocks.matrices.clone()
        own = torch.eye(n_lm, dtype=inner.dtype, device=inner.device)
        own = own.repeat(layout.n_systems, layout.largest, 1, 1)
        if self.blocks.left is not None:
            own[layout.batch, layout.slot] = self.blocks.left
        view = inner.view(layout.n_systems, layout.largest, n_lm, layout.largest, n_lm)
        view.diagonal(dim1=1, dim2=3).add_(own.permute(0, 2, 3, 1))
        if self.blocks.flow is not None:
            self._flow_in(view, self.blocks.flow)
        return self.border.matrix(inner, layout)

    def _flow_in(self, view: Tensor, flow: Flow) -> None:
        """Turn rows of charges of L + R M into those of J, in `[n_systems, largest, n_lm, largest, n_lm]`."""
        layout = self.layout
        rows = view[layout.batch, layout.slot, 0]  # [n_atoms, largest, n_lm]
        rows = flow.through(rows)
        rows[:, :, 0] -= flow.placement[:, None] * layout.pad(torch.ones_like(flow.placement))[layout.batch]
        rows[torch.arange(len(rows), device=rows.device), layout.slot, 0] += 1.0
        view[layout.batch, layout.slot, 0] = rows

    @cached_property
    def _factors(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """LU, pivots, scales of rows and columns, and True for each regular system."""
        matrix = self._matrix
        rows = _inverse_power(matrix.abs().amax(dim=2))
        scaled = matrix * rows[:, :, None]
        columns = _inverse_power(scaled.abs().amax(dim=1))
        scaled = scaled * columns[:, None, :]
        # a matrix that is not finite is replaced, so that it does not stop the others
        finite = torch.isfinite(scaled).all(dim=2).all(dim=1)
        identity = torch.eye(scaled.shape[1], dtype=scaled.dtype, device=scaled.device)
        scaled = torch.where(finite[:, None, None], scaled, identity)
        lu, pivots, _ = torch.linalg.lu_factor_ex(scaled, check_errors=False)
        sizes = self.layout.counts * self.blocks.geometry.n_lm
        index = torch.arange(lu.shape[1], device=lu.device)[None]
        real = (index < sizes[:, None]) | (index == lu.shape[1] - 1)
        diagonal = lu.diagonal(dim1=1, dim2=2).abs()
        smallest = torch.where(real, diagonal, torch.inf).amin(dim=1)
        largest = torch.where(real, diagonal, 0.0).amax(dim=1)
        threshold = 4.0 * (sizes + 1) * torch.finfo(lu.dtype).eps * largest
        regular = finite & torch.isfinite(largest) & (smallest > threshold)
        return lu, pivots, rows, columns, regular

    def solved(
        self, b: Tensor, s: Tensor, transpose: bool, tolerance: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `Solver`; with one step of refinement."""
        layout, regular = self.layout, self._factors[4]
        right = torch.cat([layout.pad(b).reshape(layout.n_systems, -1), s[:, None]], dim=1)
        x = self._substitute(right, transpose)
        matrix = self._matrix.transpose(1, 2) if transpose else self._matrix
        x = x + self._substitute(right - (matrix @ x[:, :, None])[:, :, 0], transpose)
        solved = regular & torch.isfinite(x).all(dim=1)
        x = torch.where(solved[:, None], x, 0.0)
        return layout.unpad(x[:, :-1].reshape(layout.n_systems, -1, b.shape[1])), x[:, -1], solved

    def _substitute(self, right: Tensor, transpose: bool) -> Tensor:
        lu, pivots, rows, columns, _ = self._factors
        before, after = (columns, rows) if transpose else (rows, columns)
        scaled = (right * before)[:, :, None]
        return torch.linalg.lu_solve(lu, pivots, scaled, adjoint=transpose)[:, :, 0] * after


def _inverse_power(values: Tensor) -> Tensor:
    """Power of two next to 1/x, which scales without rounding; 1 where x is zero or not finite."""
    usable = (values > 0) & torch.isfinite(values)
    return torch.exp2(-torch.log2(torch.where(usable, values, 1.0)).round())


class _LongWaves:
    """P = L + R Ψ Φᵀ with the longest waves of M, inverted by Woodbury's formula; as `long_waves.rs` of the
    native layer, which names the source."""

    def __init__(self, responses: Tensor, inverse: Tensor | None, waves: Waves, layout: Layout) -> None:
        self.systems, self.source = Batch(layout.batch, layout.n_systems), waves.source  # Φ
        # U = L⁻¹ R Ψ, [n_atoms, n_lm, n_waves]
        self.responses = responses if inverse is None else inverse @ responses
        source, responses = (layout.pad(one).flatten(1, 2) for one in (self.source, self.responses))
        identity = torch.eye(source.shape[2], dtype=source.dtype, device=source.device)
        matrix = identity + source.transpose(1, 2) @ responses  # [n_systems, n_waves, n_waves]
        # a matrix that is not finite is replaced, so that it does not stop the others
        good = torch.isfinite(matrix).all(dim=2).all(dim=1)
        lu, pivots, _ = torch.linalg.lu_factor_ex(torch.where(good[:, None, None], matrix, identity))
        self._factors = lu, pivots

    def after(self, z: Tensor) -> Tensor:
        """P⁻¹ v of z = L⁻¹ v."""
        return z - self._across(self.source, self.responses, z, False)

    def before(self, v: Tensor) -> Tensor:
        """z with P⁻ᵀ v = L⁻ᵀ z."""
        return v - self._across(self.responses, self.source, v, True)

    def _across(self, along: Tensor, back: Tensor, x: Tensor, transpose: bool) -> Tensor:
        products = self.systems.sum(torch.einsum("alw,al->aw", along, x))  # [n_systems, n_waves]
        weights = torch.linalg.lu_solve(*self._factors, products[:, :, None], adjoint=transpose)[:, :, 0]
        return torch.einsum("alw,aw->al", back, weights[self.systems.batch])


def _inverse(left: Tensor) -> Tensor:
    """L⁻¹ `[n_atoms, n_lm, n_lm]`; the identity where a block cannot be inverted."""
    inverse, failed = torch.linalg.inv_ex(left)
    good = (failed == 0) & torch.isfinite(inverse).all(dim=2).all(dim=1)
    identity = torch.eye(left.shape[1], dtype=left.dtype, device=left.device)
    return torch.where(good[:, None, None], inverse, identity)


def _times(blocks: Tensor, x: Tensor) -> Tensor:
    """Product of each atom's block with its vector."""
    return (blocks @ x[:, :, None])[:, :, 0]
