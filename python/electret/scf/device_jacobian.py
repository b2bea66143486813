"""Jacobians of self-consistency on a device: dense systems by batched LU factors, large ones matrix-free."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from electret.cuda.geometry import DeviceGeometry, Layout
from electret.cuda.waves import Waves
from electret.errors import InputError
from electret.kernels.jacobian import Jacobian
from electret.scf.krylov import gmres
from electret.scf.problem import Systems

__all__ = ["DENSE_LIMIT", "DeviceJacobian"]

DENSE_LIMIT = 1000
"""Unknowns of a system up to which `auto` takes factors; that of the native layer."""

RESTART = 100
"""Vectors that Krylov iterations keep."""


class _Blocks(NamedTuple):
    """L, R, c and the conditions of some systems; None is the identity."""

    left: Tensor | None  # [n_atoms, n_lm, n_lm]
    right: Tensor | None  # [n_atoms, n_lm, n_rows]
    column: Tensor  # [n_atoms, n_lm]
    constrained: Tensor  # [n_systems] bool


class DeviceJacobian:
    """K = L + R M of every system, bordered by the charge; as `electret.scf.linear.NativeJacobian`.

    Args:
        geometry: of the batch.
        operator: `coulomb` (M = A) or `features` (M = B).
        left: L `[n_atoms, n_lm, n_lm]`, the identity where None.
        right: R `[n_atoms, n_lm, n_rows]`, the identity where None (`coulomb` only).
        column: derivative of the residual in the Fermi level, `[n_atoms, n_lm]`.
        constrained: systems at constant charge, `[n_systems]` bool.
        method: `auto`, `dense` or `krylov`.
        tolerance: relative residual at which Krylov iterations end, unless a solve asks for another.
        max_iterations: most products per Krylov solve; None chooses.

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
        tolerance: float = 1e-12,
        max_iterations: int | None = None,
    ) -> None:
        if method not in ("auto", "dense", "krylov"):
            raise InputError(f'method "{method}" is unknown; use "auto", "dense" or "krylov"')
        self.geometry, self.operator = geometry, operator
        self.tolerance, self.max_iterations = tolerance, max_iterations
        blocks = (
            None if left is None else left.detach(),
            None if right is None else right.detach(),
            column.detach(),
            constrained,
        )
        self._blocks = _Blocks(*blocks)
        self.failed = torch.zeros_like(constrained)
        limit = {"auto": DENSE_LIMIT, "dense": None, "krylov": -1}[method]
        self._dense = [limit is None or size * geometry.n_lm <= limit for size in geometry.layout.sizes]

    @property
    def methods(self) -> list[str]:
        """The solver of each system: "dense" or "krylov"."""
        return ["dense" if dense else "krylov" for dense in self._dense]

    @cached_property
    def _parts(self) -> list[_Part]:
        """The dense systems and the others, each solved together."""
        parts = []
        for wanted in (True, False):
            systems = tuple(index for index, dense in enumerate(self._dense) if dense == wanted)
            if not systems:
                continue
            if len(systems) == len(self._dense):
                parts.append(_Part(self._solver(wanted, self.geometry, self._blocks), None, None))
                continue
            geometry, atoms, index = self.geometry.subset(systems)
            left, right, column, constrained = self._blocks
            blocks = _Blocks(
                None if left is None else left[atoms],
                None if right is None else right[atoms],
                column[atoms],
                constrained[index],
            )
            parts.append(_Part(self._solver(wanted, geometry, blocks), atoms, index))
        return parts

    def _solver(self, dense: bool, geometry: DeviceGeometry, blocks: _Blocks) -> _Dense | _Krylov:
        if dense:
            return _Dense(geometry, self.operator, blocks)
        return _Krylov(geometry, self.operator, blocks, self.max_iterations)

    def solve(
        self,
        multipoles: Tensor,
        condition: Tensor,
        transpose: bool = False,
        tolerance: float | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See `electret.scf.problem.LinearSolver`."""
        b, s = multipoles.detach(), condition.detach()
        tolerance = self.tolerance if tolerance is None else tolerance
        x, y, solved = torch.zeros_like(b), torch.zeros_like(s), torch.ones_like(self.failed)
        for solver, atoms, systems in self._parts:
            if atoms is None or systems is None:
                x, y, solved = _solved(solver, b, s, transpose, tolerance)
            else:
                x[atoms], y[systems], solved[systems] = _solved(
                    solver, b[atoms], s[systems], transpose, tolerance
                )
        self.failed = self.failed | ~solved
        return x, y

    def apply(self, x: Tensor, y: Tensor, transpose: bool = False) -> tuple[Tensor, Tensor]:
        """K (x, y), or Kᵀ (x, y), as `[n_atoms, n_lm]` and `[n_systems]`."""
        column, constrained, batch = self._blocks.column, self._blocks.constrained, self.geometry.batch
        whole = _Krylov(self.geometry, self.operator, self._blocks, None)
        r, s = whole.product(x, y, transpose)
        if transpose:
            return r, torch.where(constrained, s, s + whole.systems.sum((column * x).sum(dim=1)))
        return r + column * torch.where(constrained, 0.0, y)[batch][:, None], s

    def dominant_eigenpair(self) -> tuple[Tensor, Tensor, Tensor]:
        """Eigenvalue of largest modulus of -R M per system, `[n_systems]` complex, and its right and left
        eigenvectors `[n_atoms, n_lm]` complex with u^H w = 1. They are computed on the CPU."""
        device = self.geometry.positions.device
        if not all(self._dense):
            found = self._on_host().eigenpair()
            values, right, left = (torch.from_numpy(part).to(device) for part in found)
            return values, right, left
        solver = self._parts[0].solver
        assert isinstance(solver, _Dense)
        matrices = -solver.product.cpu()
        layout, n_lm = self.geometry.layout, self.geometry.n_lm
        values = torch.zeros(layout.n_systems, dtype=torch.complex128)
        shape = (layout.n_systems, layout.largest * n_lm)
        right = torch.zeros(shape, dtype=torch.complex128)
        left = torch.zeros(shape, dtype=torch.complex128)
        for system, size in enumerate(layout.sizes):
            n = size * n_lm
            if n:
                values[system], right[system, :n], left[system, :n] = _dominant(matrices[system, :n, :n])
        blocks = (layout.n_systems, layout.largest, n_lm)
        return (
            values.to(device),
            layout.unpad(right.to(device).reshape(blocks)),
            layout.unpad(left.to(device).reshape(blocks)),
        )

    def _on_host(self) -> Jacobian:
        """The same on the CPU."""

        def array(tensor: Tensor | None):
            return None if tensor is None else tensor.cpu().numpy()

        left, right, column, constrained = self._blocks
        return Jacobian(
            self.geometry.on_host(),
            self.operator,
            left=array(left),
            right=array(right),
            column=array(column),
            constrained=constrained.cpu().numpy(),
        )


class _Part(NamedTuple):
    """A solver with its atoms and systems in the batch; None for all."""

    solver: _Dense | _Krylov
    atoms: Tensor | None
    systems: Tensor | None


def _solved(
    solver: _Dense | _Krylov, b: Tensor, s: Tensor, transpose: bool, tolerance: float
) -> tuple[Tensor, Tensor, Tensor]:
    """x, y and whether each system was solved. At constant Fermi level the last row says y = s (or,
    transposed, gives y from x), so that only the rest is solved."""
    column, constrained, batch = solver.blocks.column, solver.blocks.constrained, solver.geometry.batch
    if not transpose:
        b = b - column * torch.where(constrained, 0.0, s)[batch][:, None]
    x, level, solved = solver.solve(b, torch.where(constrained, s, 0.0), transpose, tolerance)
    y = torch.where(constrained, level, s)
    if transpose:
        y = torch.where(constrained, y, s - solver.systems.sum((column * x).sum(dim=1)))
    return x, torch.where(solved, y, 0.0), solved


def _systems(geometry: DeviceGeometry, constrained: Tensor) -> Systems:
    nothing = geometry.positions.new_zeros(geometry.n_systems)
    return Systems(geometry.batch, geometry.n_systems, constrained, nothing, nothing)


# --- dense ---


class _Dense:
    """Bordered matrices of all systems, padded to the largest with the identity, and their factors."""

    def __init__(self, geometry: DeviceGeometry, operator: str, blocks: _Blocks) -> None:
        self.geometry, self.operator, self.blocks = geometry, operator, blocks
        self.systems = _systems(geometry, blocks.constrained)

    @cached_property
    def product(self) -> Tensor:
        """R M, `[n_systems, n, n]` with n = largest * n_lm."""
        geometry, layout = self.geometry, self.geometry.layout
        matrix = geometry.coulomb_blocks if self.operator == "coulomb" else geometry.features_blocks
        if self.blocks.right is None:
            return matrix
        right = layout.pad(self.blocks.right)  # [n_systems, largest, n_lm, n_rows]
        panels = matrix.reshape(*right.shape[:2], right.shape[3], -1)
        return (right @ panels).reshape(len(matrix), -1, matrix.shape[2])

    @cached_property
    def _matrix(self) -> Tensor:
        """K `[n_systems, n + 1, n + 1]`; the last row and column are those of the identity without border."""
        geometry, layout = self.geometry, self.geometry.layout
        n_lm, size = geometry.n_lm, layout.largest * geometry.n_lm
        inner = self.product.clone()
        identity = torch.eye(n_lm, dtype=inner.dtype, device=inner.device)
        own = identity.expand(layout.n_systems, layout.largest, n_lm, n_lm)
        if self.blocks.left is not None:
            own = own.clone()
            own[geometry.batch, layout.slot] = self.blocks.left
        view = inner.view(layout.n_systems, layout.largest, n_lm, layout.largest, n_lm)
        view.diagonal(dim1=1, dim2=3).add_(own.permute(0, 2, 3, 1))
        matrix = inner.new_zeros(layout.n_systems, size + 1, size + 1)
        matrix[:, :size, :size] = inner
        constrained = self.blocks.constrained.to(inner.dtype)
        column = layout.pad(self.blocks.column).reshape(layout.n_systems, size)
        matrix[:, :size, size] = column * constrained[:, None]
        charges = torch.zeros_like(self.blocks.column)
        charges[:, 0] = 1.0
        row = layout.pad(charges).reshape(layout.n_systems, size)
        matrix[:, size, :size] = row * constrained[:, None]
        matrix[:, size, size] = 1.0 - constrained
        return matrix

    @cached_property
    def _factors(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """LU, pivots, scales of rows and columns, and which systems are regular."""
        matrix = self._matrix
        rows = _inverse_power(matrix.abs().amax(dim=2))
        scaled = matrix * rows[:, :, None]
        columns = _inverse_power(scaled.abs().amax(dim=1))
        scaled = scaled * columns[:, None, :]
        # a matrix that is not finite must not stop the others
        finite = torch.isfinite(scaled).all(dim=2).all(dim=1)
        identity = torch.eye(scaled.shape[1], dtype=scaled.dtype, device=scaled.device)
        scaled = torch.where(finite[:, None, None], scaled, identity)
        lu, pivots, _ = torch.linalg.lu_factor_ex(scaled, check_errors=False)
        sizes = torch.where(
            self.blocks.constrained,
            self.geometry.layout.counts * self.geometry.n_lm + 1,
            self.geometry.layout.counts * self.geometry.n_lm,
        )
        n = lu.shape[1] - 1
        index = torch.arange(n + 1, device=lu.device)[None]
        counts = (self.geometry.layout.counts * self.geometry.n_lm)[:, None]
        real = torch.where(index == n, self.blocks.constrained[:, None], index < counts)
        diagonal = lu.diagonal(dim1=1, dim2=2).abs()
        smallest = torch.where(real, diagonal, torch.inf).amin(dim=1)
        largest = torch.where(real, diagonal, 0.0).amax(dim=1)
        threshold = 4.0 * sizes * torch.finfo(lu.dtype).eps * largest
        regular = finite & torch.isfinite(largest) & ((smallest > threshold) | (sizes == 0))
        return lu, pivots, rows, columns, regular

    def solve(self, b: Tensor, s: Tensor, transpose: bool, tolerance: float) -> tuple[Tensor, Tensor, Tensor]:
        """x, y, solved; with one step of refinement."""
        layout, n_lm = self.geometry.layout, self.geometry.n_lm
        regular = self._factors[4]
        right = torch.cat([layout.pad(b).reshape(layout.n_systems, -1), s[:, None]], dim=1)
        x = self._substitute(right, transpose)
        matrix = self._matrix.transpose(1, 2) if transpose else self._matrix
        x = x + self._substitute(right - (matrix @ x[:, :, None])[:, :, 0], transpose)
        solved = regular & torch.isfinite(x).all(dim=1)
        x = torch.where(solved[:, None], x, 0.0)
        return layout.unpad(x[:, :-1].reshape(layout.n_systems, -1, n_lm)), x[:, -1], solved

    def _substitute(self, right: Tensor, transpose: bool) -> Tensor:
        lu, pivots, rows, columns, _ = self._factors
        before, after = (columns, rows) if transpose else (rows, columns)
        scaled = (right * before)[:, :, None]
        return torch.linalg.lu_solve(lu, pivots, scaled, adjoint=transpose)[:, :, 0] * after


def _inverse_power(values: Tensor) -> Tensor:
    """The power of two next to 1/x, so that scaling rounds nothing; 1 where x is zero or not finite."""
    usable = (values > 0) & torch.isfinite(values)
    return torch.exp2(-torch.log2(torch.where(usable, values, 1.0)).round())


def _dominant(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The eigenvalue of largest modulus (of equal ones that with the larger real, then positive imaginary
    part) of a matrix on the CPU, with its right and left eigenvectors, |w| = 1 and u^H w = 1; u is zero where
    they are orthogonal."""
    values, vectors = torch.linalg.eig(matrix)
    modulus = values.abs()
    order = modulus * (1.0 + 1e-12 * values.real.sign()) + 1e-13 * modulus * (values.imag > 0)
    k = int(order.argmax())
    w = vectors[:, k] / torch.linalg.vector_norm(vectors[:, k])
    theirs, transposed = torch.linalg.eig(matrix.T)
    conjugate = transposed[:, int((theirs - values[k]).abs().argmin())]
    overlap = conjugate @ w
    u = (conjugate / overlap).conj() if float(overlap.abs()) > 1e-14 else torch.zeros_like(w)
    return values[k], w, u.resolve_conj()


# --- matrix-free ---


class _Krylov:
    """GMRES with the inverse of [[L + R W, c], [1_q^T, 0]] as preconditioner, W the longest waves of M; where
    that does not converge, once more without them."""

    def __init__(
        self, geometry: DeviceGeometry, operator: str, blocks: _Blocks, max_iterations: int | None
    ) -> None:
        self.geometry, self.operator, self.blocks = geometry, operator, blocks
        self.max_iterations = max_iterations
        self.systems = _systems(geometry, blocks.constrained)
        self._preconditioners: dict[tuple[bool, bool], _Preconditioner] = {}

    def solve(self, b: Tensor, s: Tensor, transpose: bool, tolerance: float) -> tuple[Tensor, Tensor, Tensor]:
        """x, y, solved."""
        x, y, solved = self._iterate(b, s, transpose, tolerance, with_waves=self._waves is not None)
        if self._waves is None or bool(solved.all()):
            return x, y, solved
        others = self._iterate(b, s, transpose, tolerance, with_waves=False)
        x = torch.where(self.systems.at_atoms(solved)[:, None], x, others[0])
        return x, torch.where(solved, y, others[1]), solved | others[2]

    def _iterate(
        self, b: Tensor, s: Tensor, transpose: bool, tolerance: float, with_waves: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        key = transpose, with_waves
        if key not in self._preconditioners:
            waves = self._waves if with_waves else None
            self._preconditioners[key] = _Preconditioner(
                self.blocks, self._inverse, waves, self.systems, transpose
            )
        return gmres(
            lambda x, y: self.product(x, y, transpose),
            b,
            s,
            self.systems,
            tolerance,
            self.max_iterations,
            precondition=self._preconditioners[key],
            restart=RESTART,
        )

    @cached_property
    def _waves(self) -> _LongWaves | None:
        geometry = self.geometry
        waves = geometry.coulomb_waves if self.operator == "coulomb" else geometry.features_waves
        if waves is None:
            return None
        return _LongWaves(self.blocks.right, self._inverse, waves, geometry.layout, self.systems)

    @cached_property
    def _inverse(self) -> Tensor | None:
        """L⁻¹ `[n_atoms, n_lm, n_lm]`; None is the identity."""
        left = self.blocks.left
        if left is None:
            return None
        inverse, failed = torch.linalg.inv_ex(left)
        good = (failed == 0) & torch.isfinite(inverse).all(dim=2).all(dim=1)
        # a block that cannot be inverted is left out
        identity = torch.eye(left.shape[1], dtype=left.dtype, device=left.device)
        return torch.where(good[:, None, None], inverse, identity)

    def product(self, x: Tensor, y: Tensor, transpose: bool) -> tuple[Tensor, Tensor]:
        """K (x, y), or Kᵀ (x, y), without c where the Fermi level is constant."""
        return self._transposed_product(x, y) if transpose else self._product(x, y)

    def _product(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        left, right, column, constrained = self.blocks
        v = self._operator(x)
        out = x if left is None else _times(left, x)
        out = out + (v if right is None else _times(right, v.flatten(start_dim=1)))
        out = out + column * torch.where(constrained, y, 0.0)[self.geometry.batch][:, None]
        return out, torch.where(constrained, self.systems.sum(x[:, 0]), y)

    def _transposed_product(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        left, right, column, constrained = self.blocks
        g = x if right is None else _times(right.transpose(1, 2), x)
        out = x if left is None else _times(left.transpose(1, 2), x)
        out = out + self._operator_transpose(g)
        charge = torch.where(constrained, y, 0.0)[self.geometry.batch][:, None]
        out = torch.cat([out[:, :1] + charge, out[:, 1:]], dim=1)
        return out, torch.where(constrained, self.systems.sum((column * x).sum(dim=1)), y)

    def _operator(self, x: Tensor) -> Tensor:
        if self.operator == "coulomb":
            return self.geometry.potential(x)
        return self.geometry.features(x)

    def _operator_transpose(self, g: Tensor) -> Tensor:
        if self.operator == "coulomb":
            return self.geometry.potential(g)
        assert self.geometry.widths is not None
        return self.geometry.features_transpose(g.reshape(len(g), len(self.geometry.widths), -1))


class _LongWaves:
    """P = L + R Ψ Φᵀ of the longest waves of M, by the formula of Woodbury; as the native layer's
    `long_waves.rs`, which tells the source."""

    def __init__(
        self, right: Tensor | None, inverse: Tensor | None, waves: Waves, layout: Layout, systems: Systems
    ) -> None:
        self.systems, self.sent = systems, waves.sent  # Φ
        answers = waves.received if right is None else right @ waves.received
        # U = L⁻¹ R Ψ, [n_atoms, n_lm, n_waves]
        self.answers = answers if inverse is None else inverse @ answers
        sent, answers = (layout.pad(one).flatten(1, 2) for one in (self.sent, self.answers))
        identity = torch.eye(sent.shape[2], dtype=sent.dtype, device=sent.device)
        matrix = identity + sent.transpose(1, 2) @ answers  # [n_systems, n_waves, n_waves]
        # one that is not finite must not stop the others
        good = torch.isfinite(matrix).all(dim=2).all(dim=1)
        lu, pivots, _ = torch.linalg.lu_factor_ex(torch.where(good[:, None, None], matrix, identity))
        self._factors = lu, pivots

    def after(self, z: Tensor) -> Tensor:
        """P⁻¹ v of z = L⁻¹ v."""
        return z - self._across(self.sent, self.answers, z, False)

    def before(self, v: Tensor) -> Tensor:
        """Of which L⁻ᵀ is P⁻ᵀ v."""
        return v - self._across(self.answers, self.sent, v, True)

    def _across(self, along: Tensor, back: Tensor, x: Tensor, transpose: bool) -> Tensor:
        products = self.systems.sum(torch.einsum("alw,al->aw", along, x))  # [n_systems, n_waves]
        weights = torch.linalg.lu_solve(*self._factors, products[:, :, None], adjoint=transpose)[:, :, 0]
        return torch.einsum("alw,aw->al", back, weights[self.systems.batch])


class _Preconditioner:
    """K with the longest waves of M alone, or without any, inverted."""

    def __init__(
        self,
        blocks: _Blocks,
        inverse: Tensor | None,
        waves: _LongWaves | None,
        systems: Systems,
        transpose: bool,
    ) -> None:
        self.waves, self.systems, self.transpose = waves, systems, transpose
        self.inverse = inverse.transpose(1, 2) if inverse is not None and transpose else inverse
        column, constrained = blocks.column, blocks.constrained
        charges = torch.zeros_like(column)
        charges[:, 0] = 1.0
        border, self.row = (charges, column) if transpose else (column, charges)
        self.column = self._inner(border)
        products = self.row * self.column
        schur = systems.sum(products.sum(dim=1))
        self.usable = constrained & (schur.abs() > 1e-8 * systems.sum(products.abs().sum(dim=1)))
        self.schur = torch.where(self.usable, schur, 1.0)

    def _inner(self, x: Tensor) -> Tensor:
        """P⁻¹ x, without the border."""
        if self.waves is not None and self.transpose:
            x = self.waves.before(x)
        x = x if self.inverse is None else _times(self.inverse, x)
        return self.waves.after(x) if self.waves is not None and not self.transpose else x

    def __call__(self, b: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        x = self._inner(b)
        level = (self.systems.sum((self.row * x).sum(dim=1)) - s) / self.schur
        y = torch.where(self.usable, level, s)
        x = x - self.column * torch.where(self.usable, level, 0.0)[self.systems.batch][:, None]
        return x, y


def _times(blocks: Tensor, x: Tensor) -> Tensor:
    """The block of each atom times its vector."""
    return (blocks @ x[:, :, None])[:, :, 0]
