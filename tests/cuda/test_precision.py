"""Sums in float32 on a device, against those in float64 of the same plan."""

from __future__ import annotations

import numpy as np
import pytest

import devices
import electret
from electret import InputError
from numpy_on_device import numpy_layer_on
from random_systems import BOUNDARIES, random_system, relative

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
from electret.cuda import plans as device_plans  # noqa: E402
from electret.torch import coulomb_energy, features, potential  # noqa: E402

ACCURACY = 1e-5
"""Accuracy of the plans; the smallest that float32 accepts."""

ROUNDING = 5e-6
"""Relative error of float32, which must be far from the rounding of float64."""

SINGLE = {"accuracy": ACCURACY, "precision": "float32"}
DOUBLE = {"accuracy": ACCURACY, "precision": "float64"}


@pytest.fixture(params=devices.NOT_CPU)
def device(request):
    """The emulated device, a GPU."""
    with devices.on_device(request.param):
        device_plans.forget_plans()
        yield request.param


def close(found, exact) -> None:
    """Assert a difference of the size of rounding to float32."""
    assert 1e-10 < relative(found, exact) < ROUNDING


def tensors(system: dict, device: str) -> dict:
    place = devices.torch_device(device)
    return {key: torch.tensor(np.asarray(value), device=place) for key, value in system.items()}


def on(device: str, function, precision: str, **arguments):
    """Result of a function of the numpy layer on a device."""
    with numpy_layer_on(device, precision):
        return function(**arguments)


def derivatives(function, t: dict, **settings) -> list:
    """Value, gradient and Hessian-vector product in positions, multipoles and cell."""
    variables = [t[name].clone().requires_grad_() for name in ("positions", "multipoles", "cell")]
    x, p, h = variables
    value = function(**{**t, "positions": x, "multipoles": p, "cell": h}, **settings)
    weights = torch.linspace(0.3, 1.0, value.numel(), dtype=value.dtype, device=value.device)
    first = torch.autograd.grad((value * weights.reshape(value.shape)).sum(), variables, create_graph=True)
    along = sum(
        (g * torch.cos(torch.arange(g.numel(), device=g.device)).reshape(g.shape)).sum() for g in first
    )
    second = torch.autograd.grad(along, variables)
    return [value, *first, *second]


@pytest.mark.parametrize("axes", BOUNDARIES)
@pytest.mark.parametrize(
    ("function", "more"),
    [(coulomb_energy, {}), (features, {"widths": [0.9, 1.6]})],
    ids=["energy", "features"],
)
def test_values_and_derivatives(axes, function, more, device):
    t = tensors(random_system(11, axes, n=6), device)
    found, exact = (derivatives(function, t, **more, **settings) for settings in (SINGLE, DOUBLE))
    for a, b in zip(found, exact, strict=True):
        if b.abs().max() > 0.0:  # an open system has no derivative in its cell
            close(a, b)


@pytest.mark.parametrize("method", ["direct", "reciprocal", "ewald", "mesh"])
def test_methods_of_the_numpy_layer(method, device):
    system = random_system(12, "" if method == "direct" else "xyz", n=8)
    found, exact = (
        on(device, electret.coulomb, **system, method=method, **settings) for settings in (SINGLE, DOUBLE)
    )
    for name in ("energy", "potential", "forces", "virial"):
        close(getattr(found, name), getattr(exact, name))
    assert found.forces.dtype == np.float64


def test_batches_points_and_geometries(device):
    a, b = random_system(13, "xyz", n=5), random_system(14, "xyz", n=3)
    joined = {key: np.concatenate([a[key], b[key]]) for key in ("positions", "multipoles", "sigma")}
    joined |= {"cell": np.stack([a["cell"], b["cell"]]), "pbc": True, "batch": [0] * 5 + [1] * 3}
    together = on(device, electret.coulomb, **joined, **SINGLE)
    alone = on(device, electret.coulomb, **a, **SINGLE)
    assert relative(together.forces[:5], alone.forces) < ROUNDING

    points = np.random.default_rng(0).uniform(0.0, 4.0, (7, 3))
    close(*(on(device, electret.potential, points=points, **a, **s) for s in (SINGLE, DOUBLE)))
    atoms = {name: a[name] for name in ("positions", "sigma", "cell", "pbc")}
    g, exact = (
        on(device, electret.Geometry, **atoms, widths=[0.9, 1.7], **settings) for settings in (SINGLE, DOUBLE)
    )
    close(g.features(a["multipoles"]), exact.features(a["multipoles"]))
    close(g.potential(a["multipoles"]), exact.potential(a["multipoles"]))
    close(g.features_matrix(), exact.features_matrix())
    t = tensors(a, device)
    r = torch.tensor(points, device=t["positions"].device)
    close(*(potential(r, **t, **settings) for settings in (SINGLE, DOUBLE)))


@pytest.mark.parametrize("method", ["reciprocal", "ewald", "mesh", "direct"])
def test_where_the_atoms_are_does_not_matter(method, device):
    """Differences and fractions are formed before they are rounded: 10 km away forces are the same."""
    system = random_system(15, "" if method == "direct" else "xyz", n=8)
    near = on(device, electret.coulomb, **system, method=method, **SINGLE).forces
    away = system["cell"].sum(axis=0) * 20_000.0  # Å
    moved = {**system, "positions": system["positions"] + away}
    far = on(device, electret.coulomb, **moved, method=method, **SINGLE).forces
    assert relative(far, near) < ROUNDING


def test_float64_is_the_default(device):
    system = random_system(16, "xyz", n=6)
    t = tensors(system, device)
    default, named = (derivatives(coulomb_energy, t, **s) for s in ({"accuracy": ACCURACY}, DOUBLE))
    assert all(torch.equal(one, other) for one, other in zip(default, named, strict=True))
    halves = {key: value.float() if value.is_floating_point() else value
              for key, value in t.items()}  # fmt: skip
    energy = coulomb_energy(**halves, accuracy=ACCURACY)
    assert energy.dtype == torch.float32
    assert relative(energy, named[0]) < 1e-5


def test_more_than_float32_can_give_is_refused(device):
    system = random_system(17, "xyz")
    with pytest.raises(InputError, match=r"accuracy = 1e-8.*float32.*1e-5.*float64"):
        coulomb_energy(**tensors(system, device), precision="float32")
    with pytest.raises(InputError, match=r"accuracy = 9e-6.*float32"):
        features(**tensors(system, device), accuracy=9e-6, precision="float32")


def test_unknown_precisions_are_named():
    system = random_system(18, "xyz")
    with pytest.raises(InputError, match=r"precision = 'float16'.*'float64' or 'float32'"):
        coulomb_energy(**tensors(system, "cpu"), precision="float16")


def test_the_cpu_sums_in_float64():
    system = random_system(19, "xyz")
    found = (derivatives(coulomb_energy, tensors(system, "cpu"), **s) for s in (SINGLE, DOUBLE))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_a_calculator_sums_in_float32(device):
    """The accuracy of its model is lowered to what there is; the model itself keeps its own."""
    cases = pytest.importorskip("model_cases")
    model = cases.small_model("local_charges")
    forces = []
    for precision in ("float32", "float64"):
        atoms = cases.bulk()
        place = str(devices.torch_device(device))
        atoms.calc = electret.Calculator(model, device=place, precision=precision)
        forces.append(atoms.get_forces())
        accuracy = 1e-5 if precision == "float32" else 1e-10
        assert atoms.calc.model.config.electrostatics.accuracy == accuracy
    assert 1e-12 < relative(*forces) < 1e-5
    assert model.config.electrostatics.accuracy == 1e-10
    with pytest.raises(InputError, match="float16"):
        electret.Calculator(model, precision="float16")


def test_a_config_asks_for_what_there_is():
    config = pytest.importorskip("electret.models.config")
    options = config.ElectrostaticsConfig(precision="float32", accuracy=1e-5)
    assert options.precision == "float32"
    with pytest.raises(ValueError, match=r"accuracy = 1e-06.*float32.*1e-05"):
        config.ElectrostaticsConfig(precision="float32")
