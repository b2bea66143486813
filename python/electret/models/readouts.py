"""From equivariant node features to multipoles, and from e3nn's component order to electret's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch

from electret.errors import InputError
from electret.models.hosted import o3

__all__ = [
    "MultipoleReadout",
    "NodeReadout",
    "ScalarReadout",
    "basis_change",
    "block_to_electret",
    "e3nn_to_electret",
    "electret_to_e3nn",
]


@cache
def basis_change(l: int) -> torch.Tensor:
    """Matrix `[2l+1, 2l+1]` (float64) that takes e3nn components of degree l to real spherical harmonics.

    e3nn's harmonics have y as the polar axis: Y_e3nn(r) = Y(z, x, y), hence Y(r) = Y_e3nn(y, z, x)
    = M Y_e3nn(r).
    """
    turned = torch.eye(3, dtype=torch.float64)[[1, 2, 0]]
    matrix = o3.wigner_D(l, *o3.matrix_to_angles(turned))
    return torch.where(matrix.abs() < 1e-12, 0.0, matrix)


@cache
def _basis_change_like(l: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """The matrix where it is used, so that it is copied to a device once."""
    return basis_change(l).to(device=device, dtype=dtype)


def e3nn_to_electret(components: torch.Tensor, max_l: int) -> torch.Tensor:
    """Components `[n, (max_l+1)^2]` of irreps 0e + 1o + 2e + ... in e3nn's order, as electret multipoles.

    The only place where the two conventions meet: electret has real spherical harmonics with z as the polar
    axis, index l^2 + l + m, so that l=1 is (y, z, x).
    """
    blocks = [block_to_electret(components[:, l * l : (l + 1) ** 2], l) for l in range(max_l + 1)]
    return torch.cat(blocks, dim=1)


def block_to_electret(components: torch.Tensor, l: int) -> torch.Tensor:
    """Components of degree l alone, on the last dimension `2l+1`."""
    if l == 0:
        return components
    return components @ _basis_change_like(l, components.dtype, components.device).T


def electret_to_e3nn(multipoles: torch.Tensor, max_l: int) -> torch.Tensor:
    """The inverse of `e3nn_to_electret`, on the last dimension `(max_l+1)^2`."""
    blocks = []
    for l in range(max_l + 1):
        block = multipoles[..., l * l : (l + 1) ** 2]
        blocks.append(block @ _basis_change_like(l, multipoles.dtype, multipoles.device))
    return torch.cat(blocks, dim=-1)


class NodeReadout(torch.nn.Module):
    """Linear map of the features of all layers, sum_t W_t h_i^t, to the given irreps.

    Raises:
        InputError: an irrep that no layer of the backbone has.
    """

    def __init__(self, layer_irreps: Sequence[o3.Irreps], irreps_out: o3.Irreps, purpose: str) -> None:
        super().__init__()
        self.irreps_out = irreps_out
        for _, irrep in irreps_out:
            if all(irrep not in irreps for irreps in layer_irreps):
                have = "; ".join(f"layer {index}: {irreps}" for index, irreps in enumerate(layer_irreps))
                raise InputError(
                    f"{purpose} needs features of irrep {irrep}, which no layer of the backbone has "
                    f"({have}). Lower electrostatics.max_l, or give backbone.hidden_irreps this irrep with "
                    "num_interactions of at least 2"
                )
        self.linears = torch.nn.ModuleList([o3.Linear(irreps, irreps_out) for irreps in layer_irreps])

    def forward(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """`[n_atoms, irreps_out.dim]` in e3nn's order."""
        terms = [linear(layer) for linear, layer in zip(self.linears, features, strict=True)]
        return torch.stack(terms).sum(dim=0)


class ScalarReadout(torch.nn.Module):
    """Scalars of each atom: an MLP with one hidden layer of the linear readout of all layers' scalars.

    The output starts small, so that a fresh model is near the values that its family adds.
    """

    INITIAL_SCALE = 0.1

    def __init__(self, layer_irreps: Sequence[o3.Irreps], n_outputs: int, hidden: int, purpose: str) -> None:
        super().__init__()
        self.linear = NodeReadout(layer_irreps, o3.Irreps(f"{hidden}x0e"), purpose)
        self.bias = torch.nn.Parameter(torch.zeros(hidden))
        self.last = torch.nn.Linear(hidden, n_outputs, bias=False)
        with torch.no_grad():
            self.last.weight.mul_(self.INITIAL_SCALE)

    def forward(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """`[n_atoms, n_outputs]`."""
        return self.last(torch.nn.functional.silu(self.linear(features) + self.bias))


class MultipoleReadout(NodeReadout):
    """Multipoles p_i = sum_t W_t h_i^t, `[n_atoms, (max_l+1)^2]` in electret's order (e Å^l)."""

    INITIAL_SCALE = 0.1
    """Untrained charges are of this order in e, so that training starts without huge Coulomb energies."""

    def __init__(self, layer_irreps: Sequence[o3.Irreps], max_l: int) -> None:
        irreps = o3.Irreps([(1, (l, (-1) ** l)) for l in range(max_l + 1)])
        super().__init__(layer_irreps, irreps, f"multipoles up to l={max_l}")
        self.max_l = max_l
        with torch.no_grad():
            for weight in self.linears.parameters():
                weight.mul_(self.INITIAL_SCALE)

    def forward(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """`[n_atoms, (max_l+1)^2]` in electret's order."""
        return e3nn_to_electret(super().forward(features), self.max_l)
