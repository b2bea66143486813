"""The electrostatic operators of fixed atoms, cached for self-consistent loops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from electret import _native
from electret.errors import InputError
from electret.kernels import inputs
from electret.kernels.inputs import FloatArray


class Geometry:
    """Operators from multipoles to energy, potential and features at fixed positions.

    Arguments are those of :func:`electret.coulomb` and :func:`electret.features`; `max_l` is the highest
    order of the sources (missing orders count as zero), `features_max_l` that of the receivers (default:
    `max_l`), `features_self_interaction` belongs to the features. `widths` may be empty where no features
    are needed. Operators and transposes agree to rounding; the matrices are sums, and agree with
    them to rounding too unless a mesh serves the operators (`methods`): then to `accuracy`.

    Raises:
        InputError: an argument cannot be used; the message names array, index, value and remedy.

    Example:
        >>> import numpy as np, electret
        >>> g = electret.Geometry([[0, 0, 0], [0, 0, 3]], sigma=1.0, widths=[1.5], max_l=0)
        >>> p = np.array([[1.0], [-1.0]])
        >>> bool(np.isclose(g.energy(p)[0], 0.5 * p.ravel() @ g.coulomb_matrix() @ p.ravel()))
        True
        >>> g.features(p).shape
        (2, 1, 1)
    """

    @inputs.refuses(**inputs.ON_THE_CPU)
    def __init__(
        self,
        positions: ArrayLike,
        sigma: ArrayLike = 1.0,
        widths: Sequence[float] | FloatArray = (1.5, 3.0),
        max_l: int = 1,
        features_max_l: int | None = None,
        cell: ArrayLike | None = None,
        pbc: ArrayLike = False,
        batch: ArrayLike | None = None,
        normalization: str = "receiver",
        self_interaction: bool = True,
        features_self_interaction: bool = False,
        boundary: str | None = None,
        method: str = "auto",
        accuracy: float = 1e-8,
    ) -> None:
        options = inputs.options(boundary, method, accuracy, self_interaction=self_interaction)
        self._systems = inputs.systems(positions, cell, pbc, batch)
        self.max_l = inputs.max_order("max_l", max_l)
        order = self.max_l if features_max_l is None else features_max_l
        self._receivers = inputs.receivers(widths, order, normalization, may_be_empty=True)
        self._native = _native.Geometry(
            self._systems,
            inputs.widths("sigma", sigma, self._systems.n_atoms),
            self.max_l,
            self._receivers,
            options,
            inputs.switch("features_self_interaction", features_self_interaction),
        )

    def energy(self, multipoles: ArrayLike) -> FloatArray:
        """Energy of each system in eV, ``[n_systems]``."""
        return self.energy_and_potential(multipoles)[0]

    def potential(self, multipoles: ArrayLike) -> FloatArray:
        """Potential dE/dp, ``[n_atoms, n_lm]``."""
        return self.energy_and_potential(multipoles)[1]

    def energy_and_potential(self, multipoles: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Energy ``[n_systems]`` in eV and potential dE/dp ``[n_atoms, n_lm]`` of one evaluation."""
        padded, n_lm = self._multipoles(multipoles)
        energy, potential = self._native.energy(padded)
        inputs.require_finite("energy", energy)
        inputs.require_finite("potential", potential)
        return energy, np.ascontiguousarray(potential[:, :n_lm])

    def features(self, multipoles: ArrayLike) -> FloatArray:
        """Features ``[n_atoms, n_widths, (features_max_l + 1)**2]``, as :func:`electret.features`."""
        values = self._native.features(self._multipoles(multipoles)[0])
        inputs.require_finite("features", values)
        return values

    def features_transpose(self, cotangent: ArrayLike) -> FloatArray:
        """Transpose of :meth:`features`: the potential ``[n_atoms, n_lm]`` at the sources, of densities with
        coefficients `cotangent` ``[n_atoms, n_widths, (features_max_l + 1)**2]`` on the receivers.

        For all p and g: ``sum(features(p) * g) == sum(p * features_transpose(g))``.
        """
        shape = (self.n_atoms, self.widths.size, self._receivers.n_lm)
        values = self._native.features_transpose(inputs.array("cotangent", cotangent, shape))
        inputs.require_finite("features_transpose", values)
        return values

    def features_matrix(self, system: int = 0) -> FloatArray:
        """Feature operator B of one system: ``features.ravel() = B @ multipoles.ravel()`` over its atoms in
        order.

        ``[n_atoms * n_widths * n_features_lm, n_atoms * n_lm]``.
        """
        values = self._native.features_matrix(self._index(system))
        inputs.require_finite("features_matrix", values)
        return values

    def coulomb_matrix(self, system: int = 0) -> FloatArray:
        """Symmetric operator A of one system: ``energy = 1/2 p A p``, ``potential = A p``.

        ``[n_atoms * n_lm, n_atoms * n_lm]``.
        """
        values = self._native.coulomb_matrix(self._index(system))
        inputs.require_finite("coulomb_matrix", values)
        return values

    @property
    def widths(self) -> FloatArray:
        """Widths of the receivers in Å, ``[n_widths]``."""
        return self._receivers.widths

    @property
    def features_max_l(self) -> int:
        """Highest order of the receivers."""
        return self._receivers.max_l

    @property
    def n_atoms(self) -> int:
        """Number of atoms of all systems together."""
        return self._systems.n_atoms

    @property
    def n_systems(self) -> int:
        """Number of systems."""
        return self._systems.n_systems

    @property
    def methods(self) -> list[tuple[str, str | None]]:
        """The methods that serve the energy and the features (None without widths) of each system."""
        return self._native.methods

    @property
    def plans(self) -> list[tuple[str, str | None]]:
        """Methods with their parameters (k-vectors, mesh, order of splines, split, cutoff) as text."""
        return self._native.plans

    def __getattr__(self, name: str) -> Any:
        renamed = "; it is called features_matrix" if name == "matrix" else ""
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}{renamed}")

    def _multipoles(self, values: ArrayLike) -> tuple[FloatArray, int]:
        """Multipoles up to the geometry's order, and the number of coefficients per atom that were given."""
        p = inputs.multipoles(values, self._systems.n_atoms)
        given, expected = p.shape[1], (self.max_l + 1) ** 2
        if given > expected:
            raise InputError(
                f"multipoles has {given} coefficients per atom; this Geometry has max_l = {self.max_l}, so "
                f"give at most {expected}, or make it with max_l={int(np.sqrt(given)) - 1}"
            )
        if given < expected:
            p = np.ascontiguousarray(np.pad(p, ((0, 0), (0, expected - given))))
        return p, given

    def _index(self, system: int) -> int:
        if not isinstance(system, (int, np.integer)) or not 0 <= system < self._systems.n_systems:
            raise InputError(f"system = {system!r}; give an index from 0 to {self._systems.n_systems - 1}")
        return int(system)
