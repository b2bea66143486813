"""Linear response of self-consistent models: solves with the Jacobian of the residual, and its stability."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from electret import _native
from electret.errors import InputError
from electret.kernels import inputs
from electret.kernels.geometry import Geometry
from electret.kernels.inputs import FloatArray

ComplexArray = NDArray[np.complex128]


class JacobianSolution(NamedTuple):
    """Result of :meth:`Jacobian.solve`. A system that failed has x = 0 and y = 0 and does not affect the
    others.
    """

    x: FloatArray
    """``[n_atoms, n_lm]``."""
    y: FloatArray
    """``[n_systems]``."""
    status: NDArray[np.int64]
    """``[n_systems]``: 0 solved, 1 singular, 2 not converged."""


class Eigenpairs(NamedTuple):
    """Result of :meth:`Jacobian.eigenpair`, of T = -R M. Then dλ = u^H dT w."""

    values: ComplexArray
    """λ ``[n_systems]``."""
    right: ComplexArray
    """w ``[n_atoms, n_lm]`` with T w = λ w and w of norm 1."""
    left: ComplexArray
    """u ``[n_atoms, n_lm]`` with u^H T = λ u^H and u^H w = 1; zero where w and u are orthogonal."""


class ChargeFlow(NamedTuple):
    """Charge that flows along edges, driven by differences of the potential (split-charge equilibration), in
    place of an answer of each atom to the potential at itself.

    Source: Nistor, Polihronov, Müser and Mosey, J. Chem. Phys. 125, 094108 (2006).
    """

    edges: ArrayLike
    """Atoms of each edge, of one system, ``[n_edges, 2]``."""
    conductance: ArrayLike
    """c ``[n_edges]`` in e/V, not negative: flow per difference of the potential."""
    placement: ArrayLike
    """w ``[n_atoms]``: share of each atom in the charge of its system, of sum one."""


class Jacobian:
    """Jacobian of a self-consistent residual in multipoles and Fermi level, one bordered matrix per system::

        K = [[L + R M, c], [1_q^T, 0]]     constant charge
        K = [[L + R M, c], [0,     1]]     constant Fermi level

    with block-diagonal L and R, a column c, and 1_q one at each atom's charge (lm = 0). M is an operator of
    `geometry`: A of ``geometry.coulomb_matrix`` or B of ``geometry.features_matrix``. Variational families
    have L the Hessian of the local energies and M = A; fixed points p = F(B p + mu m) have L = 1, R = -D,
    M = B and c = -D m with D = dF/dv.

    With a `flow` the rows of the charges become, with the Laplacian Λ of the conductances and
    T = Λ + s w w^T (s: `electret._native.FLOW_CAPACITY` e/V per atom of the system)::

        J_q = 1 - w 1^T + T (L + R M)_q,  c_q = T c_q

    Matrices are factored once, at the first solve; small systems are solved by LU, large ones by Krylov
    iterations.

    Args:
        geometry: fixed atoms; its `max_l` is that of the state, n_lm = (max_l + 1)**2.
        operator: "coulomb" (M = A, n_rows = n_lm) or "features" (M = B, n_rows = n_widths *
            (features_max_l + 1)**2).
        left: L ``[n_atoms, n_lm, n_lm]``; None is the identity.
        right: R ``[n_atoms, n_lm, n_rows]``, rows ordered as ``features[i].ravel()``; None is the identity,
            for "coulomb" only.
        column: c ``[n_atoms, n_lm]``; None is 1_q.
        constrained: True where the charge is constant, one flag or ``[n_systems]``.
        method: "auto", "dense" or "krylov".
        tolerance: relative residual at which Krylov iterations end (1e-12).
        max_iterations: most products with K per Krylov solve; None chooses. A solve that fails with the
            longest waves in its preconditioner is tried once more without.
        flow: edges along which charge flows; None without.

    Raises:
        InputError: an argument cannot be used; the message names array, index, value and remedy.

    Example:
        >>> import numpy as np, electret
        >>> g = electret.Geometry([[0, 0, 0], [0, 0, 3]], sigma=1.0, widths=[], max_l=0)
        >>> hardness = np.full((2, 1, 1), 10.0)
        >>> J = electret.Jacobian(g, "coulomb", left=hardness)
        >>> q, mu, status = J.solve([[-1.0], [1.0]], constraint=[0.0])
        >>> bool(np.isclose(q.sum(), 0.0)), int(status[0])
        (True, 0)
    """

    def __init__(
        self,
        geometry: Geometry,
        operator: str,
        left: ArrayLike | None = None,
        right: ArrayLike | None = None,
        column: ArrayLike | None = None,
        constrained: ArrayLike = True,
        method: str = "auto",
        tolerance: float = _native.KRYLOV_TOLERANCE,
        max_iterations: int | None = None,
        flow: ChargeFlow | None = None,
    ) -> None:
        if not isinstance(geometry, Geometry):
            raise InputError(f"geometry is {type(geometry).__name__}; give an electret.Geometry")
        if operator not in ("coulomb", "features"):
            raise InputError(f'operator {operator!r} is unknown; use "coulomb" or "features"')
        n_atoms, n_lm = geometry.n_atoms, (geometry.max_l + 1) ** 2
        n_rows = n_lm if operator == "coulomb" else geometry.widths.size * geometry._receivers.n_lm
        if max_iterations is not None and inputs.max_order("max_iterations", max_iterations) == 0:
            raise InputError("max_iterations = 0; give a positive integer or None")
        self._shape = (n_atoms, n_lm)
        self._n_systems = geometry.n_systems
        self._native = _native.Jacobian(
            geometry._native,
            operator,
            _optional("left", left, (n_atoms, n_lm, n_lm)),
            _optional("right", right, (n_atoms, n_lm, n_rows)),
            _optional("column", column, (n_atoms, n_lm)),
            None if flow is None else _flow(flow, n_atoms),
            _flags(constrained, geometry.n_systems),
            method,
            inputs.tolerance(tolerance, "tolerance"),
            max_iterations,
        )

    def solve(
        self,
        residual: ArrayLike,
        constraint: ArrayLike | None = None,
        transpose: bool = False,
        tolerance: float | None = None,
    ) -> JacobianSolution:
        """Solve ``K (x, y) = (residual, constraint)``, or with the transpose of K.

        Args:
            residual: ``[n_atoms, n_lm]``.
            constraint: ``[n_systems]``; None is zero.
            transpose: solve with K^T.
            tolerance: relative residual at which Krylov iterations end; None is that of the Jacobian.
        """
        s = np.zeros(self._n_systems) if constraint is None else constraint
        found = self._native.solve(
            inputs.array("residual", residual, self._shape),
            inputs.array("constraint", s, (self._n_systems,)),
            transpose=bool(transpose),
            tolerance=None if tolerance is None else inputs.tolerance(tolerance, "tolerance"),
        )
        return JacobianSolution(*found)

    def apply(self, x: ArrayLike, y: ArrayLike, transpose: bool = False) -> tuple[FloatArray, FloatArray]:
        """``K (x, y)``, or K^T (x, y), as arrays ``[n_atoms, n_lm]`` and ``[n_systems]``."""
        return self._native.apply(
            inputs.array("x", x, self._shape),
            inputs.array("y", y, (self._n_systems,)),
            transpose=bool(transpose),
        )

    def eigenpair(self) -> Eigenpairs:
        """Eigenvalue of largest modulus of T = -R M of each system, with its eigenvectors.

        For a fixed point T = D B, and J = 1 - T without the border. The eigenvalue of a complex pair is the
        one with positive imaginary part.
        """
        values, right, left = self._native.eigenpair()
        return Eigenpairs(
            _complex(values).reshape(self._n_systems),
            _complex(right).reshape(self._shape),
            _complex(left).reshape(self._shape),
        )

    def spectral_radius(self) -> FloatArray:
        """Largest modulus of the eigenvalues of T = -R M, ``[n_systems]``: simple iteration converges below
        1."""
        return self._native.spectral_radius()

    @property
    def methods(self) -> list[str]:
        """The solver of each system: "dense" or "krylov"."""
        return self._native.methods


def _optional(name: str, values: ArrayLike | None, shape: tuple[int, ...]) -> FloatArray | None:
    return None if values is None else inputs.array(name, values, shape)


def _flow(flow: ChargeFlow, n_atoms: int) -> tuple[NDArray[np.int64], FloatArray, FloatArray]:
    edges = np.ascontiguousarray(flow.edges)
    if edges.dtype.kind not in "iu" or edges.ndim != 2 or edges.shape[1] != 2:
        raise InputError(
            f"edges has dtype {edges.dtype} and shape {list(edges.shape)}; give integers [n_edges, 2]"
        )
    conductance = inputs.array("conductance", flow.conductance, (len(edges),))
    return edges.astype(np.int64), conductance, inputs.array("placement", flow.placement, (n_atoms,))


def _flags(constrained: ArrayLike, n_systems: int) -> NDArray[np.bool_]:
    flags = np.asarray(constrained)
    if flags.dtype != bool:
        raise InputError(
            f"constrained = {constrained!r} is not a flag; give True, False or [n_systems] flags"
        )
    if flags.shape not in ((), (n_systems,)):
        raise InputError(
            f"constrained has shape {list(flags.shape)}; expected one flag or [n_systems = {n_systems}]"
        )
    out = np.empty(n_systems, dtype=bool)
    out[:] = flags
    return out


def _complex(parts: FloatArray) -> ComplexArray:
    return parts[:, 0] + 1j * parts[:, 1]
