"""The electrostatics of graph-longrange 0.4.4 (MIT), called with electret's conventions, for tests and
benchmarks.

Same multipole order (l = 1 is y, z, x) and unit-moment normalisation; k-space only, l <= 1, one width for all
atoms. Its constant is 1 / (4 pi 5.526349406e-3), which agrees with ours to 1e-10.
"""

from __future__ import annotations

from unittest import mock

import numpy as np
import torch

# the e3nn 0.4.4 that the peer pins unpickles a slice on import, which torch >= 2.6 refuses by default
torch.serialization.add_safe_globals([slice])

from graph_longrange.energy import GTOElectrostaticEnergy  # noqa: E402
from graph_longrange.features import GTOElectrostaticFeatures  # noqa: E402
from graph_longrange.gto_utils import gto_basis_kspace_cutoff  # noqa: E402
from graph_longrange.kspace import compute_k_vectors_flat  # noqa: E402


def float64_buffers():
    """The peer takes its buffers' dtype from torch's global default, which tests must leave alone."""
    return mock.patch("torch.get_default_dtype", return_value=torch.float64)


class Peer:
    """Energy and features of a batch of periodic cells.

    Args:
        sigma: width of all densities in Å.
        max_l: 0 or 1.
        handling: the peer's boundary, "pbc", "slab" or "molecule_in_box".
        factor: multiplies the peer's own cutoff rule; 1.0 is its default, 1.5 gives about 1e-7, 2.2 rounding.
        widths: receiver widths of the features.
    """

    def __init__(self, sigma, max_l=1, handling="pbc", factor=2.2, widths=(1.5, 3.0), self_interaction=True):
        self.widths = list(widths)
        self.cutoff = factor * gto_basis_kspace_cutoff([sigma], max_l)
        with float64_buffers():
            self.energy_module = GTOElectrostaticEnergy(
                max_l, sigma, self.cutoff, include_self_interaction=self_interaction, pbc_handling=handling
            )
            self.features_module = GTOElectrostaticFeatures(
                max_l,
                sigma,
                1,
                self.widths,
                include_self_interaction=self_interaction,
                kspace_cutoff=self.cutoff,
                pbc_handling=handling,
            )
        self.energy_module.double()
        self.features_module.double()

    def geometry(self, positions, multipoles, cell, batch=None, pbc=True):
        """Arguments of both modules; the k-vectors are part of the peer's cost."""
        cells = torch.as_tensor(np.asarray(cell, dtype=float)).reshape(-1, 3, 3)
        reciprocal = 2 * torch.pi * torch.linalg.inv(cells).transpose(1, 2)
        k, k2, k_batch, zero = compute_k_vectors_flat(self.cutoff, cells, reciprocal)
        n_systems = cells.shape[0]
        index = torch.zeros(len(positions), dtype=torch.int64) if batch is None else torch.as_tensor(batch)
        return {
            "k_vectors": k,
            "k_norm2": k2,
            "k_vector_batch": k_batch,
            "k0_mask": zero,
            "source_feats": multipoles,
            "node_positions": positions,
            "batch": index,
            "volume": torch.linalg.det(cells).abs(),
            "pbc": torch.as_tensor(pbc).expand(n_systems, 3),
        }

    def energy_and_gradients(self, positions, multipoles, cell, batch=None):
        """Energy [n_systems], dE/dpositions, dE/dmultipoles as numpy arrays."""
        x = torch.as_tensor(positions).clone().requires_grad_()
        p = torch.as_tensor(multipoles).clone().requires_grad_()
        energy = self.energy_module(**self.geometry(x, p, cell, batch))
        gradient, potential = torch.autograd.grad(energy.sum(), (x, p))
        return energy.detach().numpy(), gradient.numpy(), potential.numpy()

    def features(self, positions, multipoles, cell, batch=None):
        """Features [n_atoms, n_widths, 4] in electret's layout: the peer's is by order, width, component."""
        arguments = self.geometry(torch.as_tensor(positions), torch.as_tensor(multipoles), cell, batch)
        out = self.features_module(**arguments)
        return self.arranged((out[0] if isinstance(out, tuple) else out).detach().numpy())

    def arranged(self, flat):
        """Features of the peer's module [n_atoms, n_widths * 4] in electret's layout."""
        n, w = len(flat), len(self.widths)
        return np.concatenate([flat[:, :w].reshape(n, w, 1), flat[:, w:].reshape(n, w, 3)], axis=2)
