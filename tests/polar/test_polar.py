"""PolarMACE on the kernels of electret: agreement with graph-longrange 0.4.0, exact sums, derivatives."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms

pytest.importorskip("mace")

import electret.polar
from electret.errors import ElectretError, InputError
from electret.polar.waves import Waves
from polar_models import (
    crystal,
    mace_batch,
    molecule,
    peer,
    polar_model,
    slab,
    under,
)

CONDITIONS = [(0.0, 1, 0.0), (1.0, 2, 0.0), (0.0, 3, 0.0), (0.0, 1, 0.08)]
"""Charge, multiplicity and field along z: neutral, charged, triplet, in a field."""
KEYS = ("forces", "density_coefficients", "spin_density", "electrostatic_energy", "dipole")


def conditioned(atoms: Atoms) -> list[Atoms]:
    return [under(atoms, charge, spin, (0.0, 0.0, field)) for charge, spin, field in CONDITIONS]


@pytest.fixture(scope="module")
def small() -> Any:
    return polar_model()


@pytest.fixture
def exact(small: Any) -> Any:
    """An accelerated model."""
    return electret.polar.accelerate(small, accuracy=1e-12)


@pytest.fixture(scope="module")
def whole() -> Any:
    return peer().model()


@pytest.fixture
def upstream(whole: Any) -> Iterator[Any]:
    """A model of mace and graph-longrange 0.4.0."""
    yield whole
    electret.polar.restore(whole)


def deviation(one: torch.Tensor, other: torch.Tensor) -> float:
    """Largest difference by the largest value."""
    scale = float(other.detach().abs().max())
    assert scale > 1e-3
    return float((one - other).detach().abs().max()) / scale


@pytest.mark.parametrize(
    ("atoms", "mode", "factor", "bar"),
    [
        (crystal(), "exact", 3.0, 1e-12),
        (crystal(), "as_trained", 1.0, 1e-12),
        (crystal(), "as_trained", 1.5, 1e-12),
        (slab(), "as_trained", 1.0, 1e-12),
        (slab(), "as_trained", 1.5, 1e-12),
        (molecule(), "as_trained", 1.0, 1e-5),
    ],
)
def test_agreement_with_graph_longrange(
    upstream: Any, atoms: Atoms, mode: str, factor: float, bar: float
) -> None:
    """Exact sums against theirs with more waves, and as trained at their own cutoffs; with their
    self-interaction kept, which they integrate numerically."""
    cutoff = float(upstream.kspace_cutoff)
    upstream.kspace_cutoff.mul_(factor / upstream.kspace_cutoff_factor)
    try:
        batch = mace_batch(upstream, *conditioned(atoms))
        theirs = peer().forward(upstream, dict(batch))
        result = electret.polar.accelerate(upstream, mode, accuracy=1e-15)(batch)
    finally:
        upstream.kspace_cutoff.fill_(cutoff)
    for system in range(len(CONDITIONS)):
        for key in KEYS:
            rows = system if len(result[key]) == len(CONDITIONS) else batch["batch"] == system
            assert deviation(result[key][rows], theirs[key][rows]) < bar, key
        difference = float((result["energy"] - theirs["energy"])[system].detach())
        assert abs(difference) < bar * float(theirs["electrostatic_energy"][system].detach())


def test_agreement_of_other_orders_without_self_interaction() -> None:
    """Their self-interaction is a trapezoidal sum, good to 1e-11."""
    model = peer().model(
        atomic_multipoles_max_l=0,
        field_feature_norms=[20.0, 20.0, 0.5, 0.5],
        field_si=False,
        include_electrostatic_self_interaction=False,
    )
    for atoms, mode, bar in (
        (crystal(), "exact", 1e-9),
        (slab(), "as_trained", 1e-9),
        (molecule(), "as_trained", 1e-5),
    ):
        batch = mace_batch(model, under(atoms, 1.0, 2))
        theirs = peer().forward(electret.polar.restore(model), dict(batch))
        result = electret.polar.accelerate(model, mode, accuracy=1e-14)(batch)
        for key in ("forces", "electrostatic_energy"):
            assert deviation(result[key], theirs[key]) < bar, key


def energy(model: Any, atoms: Atoms) -> float:
    return float(model(mace_batch(model, atoms), compute_force=False)["energy"].detach())


def slope(value: Callable[[float], float], step: float) -> float:
    """Derivative at zero by four points."""
    return float(np.dot([1, -8, 8, -1], [value(factor * step) for factor in (-2, -1, 1, 2)])) / (12 * step)


@pytest.mark.parametrize("mode", ["exact", "as_trained"])
@pytest.mark.parametrize("atoms", [under(crystal(), 1.0, 2), under(slab(), 0.0, 3, (0.0, 0.0, 0.08))])
def test_forces_and_stress_are_derivatives_of_the_energy(exact: Any, atoms: Atoms, mode: str) -> None:
    model = electret.polar.accelerate(exact, mode, accuracy=1e-13)
    data = mace_batch(model, atoms)
    result = model(data, compute_stress=True)
    rng = np.random.default_rng(5)
    direction, shear = (
        torch.from_numpy(rng.normal(size=(len(atoms), 3))),
        torch.from_numpy(rng.normal(size=(3, 3))),
    )
    shear = shear + shear.T

    def changed(displacement: float, strain: float) -> float:
        x, h, s = data["positions"].detach(), data["cell"].reshape(3, 3), torch.eye(3) + strain * shear
        other = {**data, "positions": (x + displacement * direction) @ s, "cell": h @ s}
        other["shifts"] = data["unit_shifts"] @ other["cell"]
        return float(model(other, compute_force=False)["energy"].detach())

    work = -float((result["forces"] * direction).sum())
    assert slope(lambda size: changed(size, 0.0), 1e-4) == pytest.approx(work, abs=1e-8)
    volume = float(torch.linalg.det(data["cell"].reshape(3, 3)))
    work = float((result["stress"][0] * shear).sum()) * volume
    assert abs(work) > 1e-2
    assert slope(lambda size: changed(0.0, size), 1e-4) == pytest.approx(work, abs=1e-8)
    assert torch.allclose(result["virials"], -result["stress"] * volume)


@pytest.mark.parametrize("atoms", [crystal(), slab(), molecule()])
def test_rotations_and_shifts_change_nothing(exact: Any, atoms: Atoms) -> None:
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]
    turn *= np.linalg.det(turn)
    for charge, spin in ((1.0, 2), (0.0, 3)):
        here = under(atoms, charge, spin, (0.02, 0.0, 0.05))
        turned = under(atoms, charge, spin, here.info["external_field"] @ turn)
        turned.positions = here.positions @ turn
        turned.cell = here.cell.array @ turn
        assert energy(exact, turned) == pytest.approx(energy(exact, here), abs=1e-10)
        moved = under(atoms, charge, spin)
        moved.positions += [3.0, -1.0, 10.0]
        assert energy(exact, moved) == pytest.approx(energy(exact, under(atoms, charge, spin)), abs=1e-10)


@pytest.mark.parametrize("mode", ["exact", "as_trained"])
def test_systems_of_a_mixed_batch_are_those_alone(exact: Any, mode: str) -> None:
    model = electret.polar.accelerate(exact, mode, accuracy=1e-12)
    wire = slab()
    wire.pbc = [True, False, False]
    systems = [under(crystal(), 1.0, 2), under(molecule(), -1.0, 2), under(slab(), 0.0, 3), under(wire)]
    together = model(mace_batch(model, *systems), compute_stress=True)
    alone = [model(mace_batch(model, system), compute_stress=True) for system in systems]
    for key in ("energy", "forces", "stress", "spin_charge_density"):
        assert torch.allclose(
            together[key], torch.cat([result[key] for result in alone]), rtol=0, atol=1e-10
        ), key


@pytest.mark.parametrize("mode", ["exact", "as_trained"])
def test_gradient_of_a_force_loss(exact: Any, mode: str) -> None:
    """The derivative in all parameters along one direction."""
    model = electret.polar.accelerate(exact, mode, accuracy=1e-13)
    data = mace_batch(model, under(crystal(), 1.0, 2), under(molecule(), 0.0, 3, (0.0, 0.03, 0.08)))
    weights = torch.randn(9, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def loss() -> torch.Tensor:
        result = model(dict(data), training=True, compute_stress=True)
        return (
            (result["forces"] * weights).sum() + result["stress"][0].trace() + result["dipole"].square().sum()
        )

    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(loss(), parameters, allow_unused=True, materialize_grads=True)
    generator = torch.Generator().manual_seed(2)
    direction = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in parameters]
    expected = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True))

    def moved(size: float) -> float:
        with torch.no_grad():
            torch._foreach_add_(parameters, direction, alpha=size)
        value = float(loss().detach())
        with torch.no_grad():
            torch._foreach_sub_(parameters, direction, alpha=size)
        return value

    assert slope(moved, 1e-5) == pytest.approx(expected, rel=1e-7)


def test_both_spin_channels_take_one_evaluation(exact: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    first = electret.polar.electrostatics.PolarElectrostatics.features_of
    monkeypatch.setattr(
        electret.polar.electrostatics.PolarElectrostatics,
        "features_of",
        lambda self, densities: counts.append(len(densities)) or first(self, densities),
    )
    exact(mace_batch(exact, under(crystal())))
    assert counts == [2, 2]  # one for each step of the recursion


def test_restored_models_are_as_they_were(small: Any) -> None:
    model = electret.polar.restore(small)
    names, first, parts = list(model.state_dict()), type(model), type(model.coulomb_energy)
    assert electret.polar.accelerate(model, "as_trained") is model
    assert electret.polar.accelerate(model) is model
    assert type(copy.deepcopy(model.coulomb_energy)) is type(model.coulomb_energy)
    assert isinstance(model, first)
    assert type(model).__name__ == "PolarMACE"
    assert list(model.state_dict()) == names
    with pytest.raises(ElectretError, match="by itself"):
        model.coulomb_energy(source_feats=torch.zeros(1, 4))
    assert electret.polar.restore(model) is model
    assert (type(model), type(model.coulomb_energy)) == (first, parts)
    assert not electret.polar.is_accelerated(electret.polar.restore(model))


def test_what_cannot_be_accelerated_is_refused(exact: Any) -> None:
    with pytest.raises(InputError, match=r"is a Linear; electret\.polar is for mace\.modules\.PolarMACE"):
        electret.polar.accelerate(torch.nn.Linear(1, 1))
    with pytest.raises(InputError, match="mode = 'fast'; use 'exact' or 'as_trained'"):
        electret.polar.accelerate(exact, "fast")
    with pytest.raises(InputError, match=r"cell \[\[0\.0.*without volume"):
        Waves(torch.zeros(1, 3), torch.zeros(3, 3), 1.0, torch.ones(1)).energy(torch.ones(1, 1))
    with pytest.raises(InputError, match="lammps_mliap"):
        exact(mace_batch(exact, under(crystal())), lammps_mliap=True)


BOXES = [
    [[40.0, 2.0, 0.0], [0.5, 42.0, 1.5], [0.0, 0.2, 38.0]],
    [[60.0, 3.0, 0.5], [1.0, 63.0, 2.0], [0.2, 0.5, 57.0]],
    [[80.0, 4.0, 1.0], [1.5, 84.0, 2.5], [0.4, 0.8, 76.0]],
]


@pytest.mark.parametrize("box", BOXES)
def test_stress_of_the_calculator_of_mace_in_large_boxes(exact: Any, box: list[list[float]]) -> None:
    """MACE's own tests of PolarMACE against finite differences, which fail with graph-longrange 0.4.0."""
    electret.polar.accelerate(exact, accuracy=1e-9)
    from ase.calculators.fd import calculate_numerical_stress
    from mace.calculators import MACECalculator

    water = [[0.1, 0.2, 0.3], [1.0572, -0.11, 0.05], [-0.199, 0.947, 0.12]]
    atoms = under(Atoms("OHH", water, cell=box, pbc=True))
    atoms.calc = MACECalculator(models=[exact], device="cpu", default_dtype="float64", model_type="PolarMACE")
    expected = calculate_numerical_stress(atoms, eps=1e-4, force_consistent=False)
    volume = atoms.get_volume()
    assert np.abs(expected).max() * volume > 0.01
    np.testing.assert_allclose(atoms.get_stress() * volume, expected * volume, rtol=0, atol=1e-6)
