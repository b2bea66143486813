"""The energy of a fixed-point density beside its electrostatics."""

from __future__ import annotations

import pytest
import torch

from electret.models.backbone import construction_dtype
from electret.models.families.density_energies import QuadraticEnergy
from electret.models.families.updates import channel_irreps
from electret.models.readouts import electret_to_e3nn
from electret.testing import assert_close


@pytest.mark.parametrize(("max_l", "features_max_l"), [(0, 0), (0, 1), (1, 0), (1, 1), (2, 1), (1, 2)])
def test_quadratic_energy_is_the_product_of_its_modules(max_l, features_max_l):
    """One matrix of all weights against the e3nn modules one after another."""
    layers = [channel_irreps(6, 2), channel_irreps(6, 0)]
    with construction_dtype(torch.float64):
        energy = QuadraticEnergy(layers, 5, max_l, features_max_l, n_widths=2)
    generator = torch.Generator().manual_seed(3)

    def numbers(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    h = numbers(7, energy.weights.irreps_out.dim)
    change, v = numbers(7, (max_l + 1) ** 2), numbers(7, 2, (features_max_l + 1) ** 2)
    theirs = electret_to_e3nn(v, features_max_l)
    blocks = [theirs[:, :, l * l : (l + 1) ** 2].flatten(start_dim=1) for l in range(features_max_l + 1)]
    a = energy.density(electret_to_e3nn(change, max_l))
    b = energy.potential(torch.cat(blocks, dim=1))
    expected = energy.scale * (h * energy.product(a, b)).sum(dim=1)
    found = energy({"energy_weights": h}, change, v)
    assert float(expected.abs().max()) > 1e-2
    assert_close("energy", [found.detach()], [expected.detach()], 1e-13)
