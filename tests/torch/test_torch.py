"""The torch operators: same values as numpy, derivatives of both orders, fake tensors, compilation."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import devices
import electret
from random_systems import BOUNDARIES, random_system, relative

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
from electret.kernels.arguments import Options, Receivers, Sources, Systems  # noqa: E402
from electret.torch import coulomb_energy, dipole, features, neighbor_list, potential  # noqa: E402
from electret.torch import operators as torch_operators  # noqa: E402

TIGHT = 1e-12
DEVICE = torch.device("cpu")


@pytest.fixture(params=devices.DEVICES)
def device(request, monkeypatch):
    """Device of `tensors`: the CPU, the emulated device, a GPU."""
    with devices.on_device(request.param):
        monkeypatch.setattr(sys.modules[__name__], "DEVICE", devices.torch_device(request.param))
        yield request.param


def check_gradients(function, inputs, device: str) -> None:
    """First and second derivatives, entry by entry; on the slow emulated device along random directions."""
    fast = device == "emulated"
    assert torch.autograd.gradcheck(function, inputs, fast_mode=fast)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=fast)


def moved(array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(DEVICE)


def tensors(system: dict, grad: bool = True) -> dict:
    out = {}
    for key, value in system.items():
        tensor = moved(value)
        out[key] = tensor.requires_grad_(grad and key in ("positions", "multipoles", "cell"))
    return out


def batched(seed: int, max_l: int = 1) -> dict:
    """A slab, a molecule and a crystal in one batch, full cells for periodic rows only."""
    systems = [
        random_system(seed + i, axes, n=2, max_l=max_l, full_cell=False)
        for i, axes in enumerate(("xy", "", "xyz"))
    ]
    joined = {key: np.concatenate([s[key] for s in systems]) for key in ("positions", "multipoles", "sigma")}
    joined |= {key: np.stack([s[key] for s in systems]) for key in ("cell", "pbc")}
    return {**joined, "batch": np.array([0, 0, 1, 1, 2, 2])}


@pytest.mark.parametrize("method", ["auto", "mesh"])
@pytest.mark.parametrize("axes", BOUNDARIES)
def test_values_and_first_derivatives_are_those_of_numpy(axes, method, device):
    system = random_system(61, axes, max_l=2)
    field = np.array([0.1, -0.2, 0.3])
    t = tensors(system)
    expected = electret.coulomb(**system, external_field=field, method=method, accuracy=TIGHT)
    energy = coulomb_energy(**t, external_field=moved(field), method=method, accuracy=TIGHT)
    exact = 1e-13 if device == "cpu" else 1e-10
    assert relative(energy, expected.energy) < exact
    gradient, potential, cell_gradient = torch.autograd.grad(
        energy.sum(), (t["positions"], t["multipoles"], t["cell"])
    )
    assert relative(-gradient, expected.forces) < 10 * exact
    assert relative(potential, expected.potential) < 10 * exact
    strain = t["positions"].detach().T @ gradient + t["cell"].detach().T @ cell_gradient
    assert relative(-(strain + strain.T) / 2, expected.virial[0]) < 10 * exact
    values = features(**t, features_max_l=2, external_field=moved(field), method=method, accuracy=TIGHT)
    wanted = electret.features(
        **system, features_max_l=2, external_field=field, method=method, accuracy=TIGHT
    )
    assert relative(values, wanted) < exact


@pytest.mark.parametrize(
    ("axes", "boundary", "method"),
    [
        *((axes, None, "auto") for axes in BOUNDARIES),
        ("xy", "slab_dipole_correction", "auto"),
        ("", "molecule_in_box", "auto"),
        *((axes, None, "mesh") for axes in ("xyz", "xy", "x", "")),
        ("xy", "slab_dipole_correction", "mesh"),
        ("", "molecule_in_box", "mesh"),
    ],
)
def test_gradcheck_of_the_energy(axes, boundary, method, device):
    accuracy = 1e-8 if method == "mesh" else TIGHT  # gradients of a mesh are exact at any
    t = tensors(random_system(62, axes, n=3, max_l=1, full_cell=boundary is not None))
    inputs = (t["positions"], t["multipoles"], t["cell"])

    def function(x, p, h):
        h = torch.where(t["pbc"][:, None] | (boundary is not None), h, 0.0)
        return coulomb_energy(
            x, p, t["sigma"], h, t["pbc"], boundary=boundary, method=method, accuracy=accuracy
        )

    assert function(*inputs).abs().max() > 0.1
    check_gradients(function, inputs, device)


@pytest.mark.parametrize(
    ("axes", "self_interaction", "method"),
    [
        *((axes, own, "auto") for axes in BOUNDARIES for own in (False, True)),
        *((axes, False, "mesh") for axes in ("xyz", "xy", "x", "")),
    ],
)
def test_gradcheck_of_the_features(axes, self_interaction, method, device):
    accuracy = 1e-8 if method == "mesh" else TIGHT
    t = tensors(random_system(63, axes, n=2, max_l=1, full_cell=False))
    inputs = (t["positions"], t["multipoles"], t["cell"])

    def function(x, p, h):
        h = torch.where(t["pbc"][:, None], h, 0.0)
        settings = {"self_interaction": self_interaction, "method": method, "accuracy": accuracy}
        return features(x, p, t["sigma"], [0.9], 1, cell=h, pbc=t["pbc"], **settings)

    assert function(*inputs).abs().max() > 0.1
    check_gradients(function, inputs, device)


def test_gradcheck_of_a_batch_and_of_the_field(device):
    t = tensors(batched(64))
    field = moved(np.array([[0.1, 0.2, -0.3]] * 3)).requires_grad_()

    def energy(x, p, h, f):
        h = torch.where(t["pbc"][:, :, None], h, 0.0)
        return coulomb_energy(x, p, t["sigma"], h, t["pbc"], t["batch"], f, accuracy=TIGHT)

    inputs = (t["positions"], t["multipoles"], t["cell"], field)
    check_gradients(energy, inputs, device)
    (slope,) = torch.autograd.grad(energy(*inputs).sum(), field)
    assert torch.allclose(slope, -dipole(t["positions"], t["multipoles"], t["batch"]))


@pytest.mark.parametrize("axes", ["", "xy", "xyz"])
def test_potential_at_points_is_that_of_numpy_and_is_differentiable(axes, device):
    """Points are narrow receivers: their width and the other points must not matter, nor coincidence with an
    atom or another point."""
    system = random_system(77, axes, max_l=1)
    rng = np.random.default_rng(3)
    points = rng.uniform(-2.0, 4.0, (6, 3))
    points[0], points[1] = system["positions"][0], points[2]
    field = np.array([0.1, -0.2, 0.3])
    t = tensors(system)
    values = potential(moved(points), **t, external_field=moved(field), accuracy=TIGHT)
    wanted = electret.potential(points, **system, external_field=field, accuracy=TIGHT)
    assert np.abs(wanted).min() > 1e-3
    assert np.abs(values.detach().cpu().numpy() - wanted).max() < 1e-6
    plain = potential(moved(points), **t, external_field=moved(field), accuracy=TIGHT, differentiable=False)
    assert relative(plain, wanted) < 1e-9
    assert not plain.requires_grad
    # the potential of unit multipoles is its derivative in the multipoles, since it is linear
    (gradient,) = torch.autograd.grad(values[3], t["multipoles"], retain_graph=True)
    unit = np.zeros_like(system["multipoles"])
    unit[1, 2] = 1.0
    column = electret.potential(points[3:4], **{**system, "multipoles": unit}, accuracy=TIGHT)
    assert gradient[1, 2].item() == pytest.approx(column[0], abs=1e-6)
    step = 1e-4
    shifted = [points + sign * step * np.eye(1, 3, 1) for sign in (1, -1)]
    up, down = (electret.potential(p, **system, external_field=field, accuracy=TIGHT) for p in shifted)
    at = moved(points).requires_grad_()
    values = potential(at, **tensors(system), external_field=moved(field), accuracy=TIGHT)
    (slope,) = torch.autograd.grad(values.sum(), at)
    np.testing.assert_allclose(slope[:, 1].cpu().numpy(), (up - down) / (2 * step), atol=1e-5)


def test_potential_at_points_of_a_batch(device):
    system = batched(41)
    points = moved(np.array([[0.3, 0.2, 1.0], [1.0, 0.4, 0.2], [0.1, 0.8, 0.7]]))
    belongs = moved(np.array([2, 0, 2]))
    together = potential(points, **tensors(system), points_batch=belongs)
    for number in range(3):
        atoms = system["batch"] == number
        own = {key: system[key][atoms] for key in ("positions", "multipoles", "sigma")}
        own |= {key: system[key][number] for key in ("cell", "pbc")}
        alone = electret.potential(points[belongs == number].cpu().numpy(), **own)
        np.testing.assert_allclose(together[belongs == number].detach().cpu().numpy(), alone, atol=1e-6)
    with pytest.raises(electret.InputError, match="points_batch has shape"):
        potential(points, **tensors(system), points_batch=belongs[:2])
    with pytest.raises(electret.InputError, match="points has shape"):
        potential(points[0], **tensors(system))


@pytest.mark.parametrize("axes", ["", "xyz"])
def test_features_at_receivers_are_those_of_numpy_and_differentiable_twice(axes, device):
    system = random_system(78, axes, n=3, max_l=1)
    t = tensors(system)
    points = moved(np.array([[0.3, 0.2, 1.0], [1.0, 0.4, 0.2]]))
    # no density of its own there, so that it has the whole potential of the atom
    points[1] = t["positions"][0].detach()
    options = {"widths": [0.8, 1.5], "features_max_l": 1, "accuracy": TIGHT}
    found = features(**t, receivers=points, external_field=moved(np.array([0.1, -0.2, 0.3])), **options)
    wanted = electret.features(
        **system, receivers=points.detach().cpu().numpy(), external_field=[0.1, -0.2, 0.3], **options
    )
    assert np.abs(wanted).max() > 1.0
    np.testing.assert_allclose(found.detach().cpu().numpy(), wanted, atol=1e-7)
    rest = {name: t[name] for name in t if name not in ("positions", "multipoles", "cell")}
    variables = [points.detach().requires_grad_(), *(t[name] for name in ("positions", "multipoles", "cell"))]

    def values(r, x, p, h):
        v = features(positions=x, multipoles=p, cell=h, receivers=r, **rest, widths=[0.8], accuracy=TIGHT)
        return v[:1]  # away from the atom, where it can be moved

    assert torch.autograd.gradcheck(values, variables)
    assert torch.autograd.gradgradcheck(lambda *moved: values(*moved).square().sum(), variables)
    with pytest.raises(electret.InputError, match="receivers has shape"):
        features(**t, receivers=points[0])
    with pytest.raises(electret.InputError, match="receivers_batch is given without"):
        features(**t, receivers_batch=torch.zeros(2, dtype=torch.int64))


def test_force_training_differentiates_through_the_charges(device):
    """A loss on forces of charges that depend on positions and a parameter, against central differences."""
    system = tensors(random_system(65, "xyz", n=3, max_l=0))
    weight = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)

    def loss(w):
        x = system["positions"]
        charges = torch.sin(w * x.sum(dim=1, keepdim=True))
        energy = coulomb_energy(x, charges, system["sigma"], system["cell"], system["pbc"], accuracy=TIGHT)
        v = features(x, charges, system["sigma"], cell=system["cell"], pbc=system["pbc"], accuracy=TIGHT)
        total = energy.sum() + (w * v**2).sum()
        (gradient,) = torch.autograd.grad(total, x, create_graph=True)
        return (gradient**2).sum()

    (slope,) = torch.autograd.grad(loss(weight), weight)
    step = 1e-4
    with torch.no_grad():
        shifted = [weight + k * step for k in (1, -1, 2, -2)]
    a, b, c, d = (float(loss(w).detach()) for w in shifted)
    expected = (8 * (a - b) - (c - d)) / (12 * step)
    assert abs(expected) > 1.0
    assert float(slope) == pytest.approx(expected, rel=1e-7)


def test_hessian_is_symmetric_and_complete(device):
    t = tensors(random_system(66, "xyz", n=3, max_l=1), grad=False)

    def function(x):
        return coulomb_energy(x, t["multipoles"], t["sigma"], t["cell"], t["pbc"], accuracy=TIGHT).sum()

    hessian = torch.autograd.functional.hessian(function, t["positions"]).reshape(9, 9)
    assert hessian.abs().max() > 1.0
    assert torch.allclose(hessian, hessian.T, rtol=0, atol=1e-9)
    assert hessian.reshape(9, 3, 3).sum(dim=1).abs().max() < 1e-9  # translations cost nothing


def op_arguments(grad: bool):
    t = tensors(batched(67), grad)
    systems = Systems(t["positions"], t["cell"], t["pbc"], t["batch"])
    return systems, Sources(t["multipoles"], t["sigma"])


@pytest.mark.parametrize("gradients", [True, False])
def test_opcheck_coulomb(gradients, device):
    systems, sources = op_arguments(gradients)
    arguments = (*systems, *sources, *Options(), gradients)
    torch.library.opcheck(torch.ops.electret.coulomb.default, arguments)


def test_opcheck_other_operators(device):
    systems, sources = op_arguments(True)
    receivers = Receivers(moved(np.array([0.9, 1.5])), 1)
    arguments = (*systems, *sources, *receivers, *Options(self_interaction=False))
    torch.library.opcheck(torch.ops.electret.features.default, arguments)
    cotangent = moved(np.ones((6, 2, 4))).requires_grad_()
    torch.library.opcheck(torch.ops.electret.features_gradient.default, (*arguments, cotangent))
    arguments = [value.detach() if isinstance(value, torch.Tensor) else value for value in arguments]
    cotangent = cotangent.detach()
    tangents = [torch.ones_like(t) for t in (systems.positions, sources.multipoles, systems.cell, cotangent)]
    torch.library.opcheck(torch.ops.electret.features_tangent.default, (*arguments, cotangent, *tangents))
    arguments = [*arguments[:6], *Options(), *tangents[:3], None]
    torch.library.opcheck(torch.ops.electret.coulomb_tangent.default, tuple(arguments))


@pytest.mark.parametrize("dynamic", [None, True])
def test_compiles_as_one_graph(dynamic, device):
    t = tensors(batched(68))

    def function(x, p, h):
        energy = coulomb_energy(x, p, t["sigma"], h, t["pbc"], t["batch"])
        v = features(x, p, t["sigma"], cell=h, pbc=t["pbc"], batch=t["batch"])
        return energy.sum() + (v**2).sum()

    inputs = (t["positions"], t["multipoles"], t["cell"])
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    expected, value = function(*inputs), compiled(*inputs)
    assert float(value) == pytest.approx(float(expected), rel=1e-13)
    for ours, wanted in zip(
        torch.autograd.grad(value, inputs), torch.autograd.grad(expected, inputs), strict=True
    ):
        assert relative(ours, wanted) < 1e-12


def test_float32_in_and_out(device):
    system = random_system(69, "xyz", max_l=1)
    exact = coulomb_energy(**tensors(system))
    single = {k: v.float() if v.dtype == torch.float64 else v for k, v in tensors(system, grad=False).items()}
    single["positions"].requires_grad_()
    energy = coulomb_energy(**{**single, "positions": single["positions"]})
    assert energy.dtype == torch.float32
    assert float(energy) == pytest.approx(float(exact), rel=1e-5)
    (gradient,) = torch.autograd.grad(energy.sum(), single["positions"])
    assert gradient.dtype == torch.float32
    assert features(**single).dtype == torch.float32


def test_cpu_tensors_are_read_in_place():
    array = torch_operators.array(tensor := torch.arange(12.0, dtype=torch.float64).reshape(4, 3))
    assert array.ctypes.data == tensor.data_ptr()


def test_no_gradient_no_graph():
    t = tensors(random_system(70, ""), grad=False)
    assert not coulomb_energy(**t).requires_grad
    with torch.no_grad():
        assert not coulomb_energy(**tensors(random_system(70, ""))).requires_grad


def test_third_derivatives_are_refused():
    t = tensors(random_system(71, "", n=2, max_l=0))
    x = t["positions"]
    energy = coulomb_energy(x, t["multipoles"], t["sigma"])
    (first,) = torch.autograd.grad(energy.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad((first**2).sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="third derivative"):
        torch.autograd.grad(second.sum(), x)


def functions_of(system: dict):
    """Energy, features and potential at points as functions of positions and multipoles."""
    t = tensors(system, grad=False)
    fixed = {key: t.get(key) for key in ("sigma", "cell", "pbc", "batch")}
    points = moved(np.array([[0.3, 0.2, 1.0], [1.0, 0.4, 0.2]]))
    belongs = None if t.get("batch") is None else moved(np.array([0, 2]))
    functions = [
        lambda x, p: coulomb_energy(x, p, **fixed, accuracy=TIGHT),
        lambda x, p: features(x, p, **fixed, widths=[0.9], accuracy=TIGHT),
        lambda x, p: potential(points, x, p, **fixed, points_batch=belongs, accuracy=TIGHT),
    ]
    return functions, (t["positions"], t["multipoles"])


@pytest.mark.parametrize("axes", ["xyz", "", "batch"])
def test_function_transforms_are_right(axes):
    functions, (x, p) = functions_of(
        batched(72) if axes == "batch" else random_system(72, axes, n=2, max_l=1)
    )
    func, classic = torch.func, torch.autograd.functional
    many = (torch.stack([x, x + 0.1 * x.roll(1, 0)]), torch.stack([p, 2.0 * p.roll(1, 0)]))
    for function in functions:
        jacobians = classic.jacobian(function, (x, p))
        assert jacobians[0].abs().max() > 1e-2
        for transform in (func.jacrev, func.jacfwd):
            for found, expected in zip(transform(function, argnums=(0, 1))(x, p), jacobians, strict=True):
                assert relative(found, expected) < 1e-10
        expected = torch.stack([function(*one) for one in zip(*many, strict=True)])
        assert relative(expected[0], expected[1]) > 1e-3
        assert relative(func.vmap(function)(*many), expected) < 1e-10
        assert relative(func.vmap(function, in_dims=(0, None))(many[0], p)[0], function(x, p)) < 1e-10

        def total(x, p, function=function):
            return function(x, p).square().sum()

        hessian = classic.hessian(lambda x, total=total: total(x, p), x)
        assert relative(func.hessian(total)(x, p), hessian) < 1e-9
        assert relative(func.jacrev(func.grad(total))(x, p), hessian) < 1e-9
        slopes = torch.stack(
            [torch.autograd.functional.jacobian(total, one)[0] for one in zip(*many, strict=True)]
        )
        assert relative(func.vmap(func.grad(total))(*many), slopes) < 1e-10
        assert (
            relative(func.grad(lambda x, total=total: func.vmap(total)(x, many[1]).sum())(many[0]), slopes)
            < 1e-10
        )
        hessians = func.vmap(func.hessian(total))(*many)
        assert relative(hessians[0], hessian) < 1e-9


@pytest.mark.parametrize("axes", ["xyz", "batch"])
def test_forward_mode_is_that_of_differences(axes):
    functions, (x, p) = functions_of(
        batched(79) if axes == "batch" else random_system(79, axes, n=2, max_l=1)
    )
    arguments = (x.requires_grad_(), p.requires_grad_())
    for function in functions:
        assert torch.autograd.gradcheck(function, arguments, check_forward_ad=True, check_batched_grad=True)
        assert torch.autograd.gradgradcheck(function, arguments, check_fwd_over_rev=True)


def test_strain_in_forward_mode_is_that_of_reverse_mode(device):
    """And that of many strains at once."""
    t = tensors(random_system(80, "xyz", n=2, max_l=1), grad=False)

    def energy(strain):
        stretch = torch.eye(3, dtype=torch.float64, device=strain.device) + strain
        x, h = t["positions"] @ stretch, t["cell"] @ stretch
        return coulomb_energy(x, t["multipoles"], t["sigma"], h, t["pbc"], accuracy=TIGHT)[0]

    none = moved(np.zeros((3, 3)))
    reverse = torch.func.grad(energy)(none)
    assert reverse.abs().max() > 0.1
    assert relative(torch.func.jacfwd(energy)(none), reverse) < 1e-10
    both = torch.func.vmap(torch.func.grad(energy))(torch.stack([none, none + 0.01]))
    assert relative(both[0], reverse) < 1e-10
    assert relative(both[0], both[1]) > 1e-3


def test_transforms_without_a_derivative_are_refused_by_name():
    t = tensors(random_system(81, "", n=2, max_l=0), grad=False)

    def energy(x):
        return coulomb_energy(x, t["multipoles"]).sum()

    with pytest.raises(NotImplementedError, match="third derivative of the energy"):
        torch.func.grad(lambda x: torch.func.hessian(energy)(x).sum())(t["positions"])
    widths = moved(np.array([[0.9], [1.2]]))
    with pytest.raises(electret.InputError, match="widths cannot be mapped by vmap"):
        torch.func.vmap(lambda w: features(t["positions"], t["multipoles"], widths=w))(widths)


@pytest.mark.parametrize(
    ("changes", "fragments"),
    [
        ({"positions": np.zeros((4, 3))}, ["positions", "ndarray"]),
        ({"positions": torch.zeros(4, 3, dtype=torch.float16)}, ["positions", "float16"]),
        ({"positions": torch.zeros(4, 2)}, ["positions", "[4, 2]"]),
        ({"positions": torch.full((4, 3), float("nan"))}, ["positions", "finite"]),
        ({"multipoles": torch.zeros(4)}, ["multipoles", "[4]", "charges[:, None]"]),
        ({"multipoles": torch.zeros(4, 2)}, ["2 coefficients"]),
        ({"positions": torch.zeros(4, 3, dtype=torch.bfloat16)}, ["positions", "bfloat16", "float64"]),
        ({"multipoles": np.ones((4, 1))}, ["multipoles", "ndarray", "torch.Tensor"]),
        ({"multipoles": torch.ones(4, 1, device="meta")}, ["multipoles is on meta", ".to(positions.device)"]),
        ({"sigma": torch.ones(4, device="meta")}, ["sigma is on meta"]),
        ({"sigma": "wide"}, ["sigma", "dtype"]),
        ({"accuracy": None}, ["accuracy = None", "1e-8"]),
        ({"accuracy": "high"}, ["accuracy = 'high'", "1e-8"]),
        ({"accuracy": 2.0}, ["accuracy = 2.0"]),
        ({"boundary": 3}, ["boundary = 3", "None"]),
        ({"boundary": "slab"}, ["boundary", "slab"]),
        ({"method": None}, ["method = None", "'auto'"]),
        ({"precision": 64}, ["precision = 64"]),
        ({"pbc": 2}, ["pbc = 2"]),
        ({"pbc": "yes"}, ["pbc = 'yes'"]),
        ({"cell": "cubic"}, ["cell", "dtype"]),
        ({"cell": [1.0, 2.0]}, ["cell", "[2]"]),
        ({"cell": [1.0, 2.0, float("nan")]}, ["cell[2] is nan"]),
        ({"external_field": "up"}, ["external_field", "dtype"]),
        ({"batch": [0, 0, 1]}, ["batch", "[3]", "[4]"]),
        ({"batch": [0.0, 0.0, 1.0, 1.0]}, ["batch", "float64", "integers"]),
        ({"batch": [0, 0, 1, 2**31]}, ["2147483648", "n_systems, 3, 3"]),
        ({"batch": torch.tensor([0, 0, 1, 2**31])}, ["2147483648", "n_systems, 3, 3"]),
        ({"batch": [0, 0, 1, 2], "cell": torch.eye(3).expand(2, 3, 3)}, ["batch[3] = 2"]),
        ({"batch": -torch.ones(4, dtype=torch.int64)}, ["batch[0] = -1"]),
        ({"cell": torch.eye(3).expand(2, 3, 3), "pbc": [[True] * 3] * 3}, ["cell: 2", "pbc: 3"]),
        ({"sigma": torch.ones(4, requires_grad=True)}, ["sigma", "grad", "detach"]),
        ({"sigma": torch.ones(3)}, ["sigma", "[3]", "n_atoms = 4"]),
        ({"sigma": -1.0}, ["sigma", "-1"]),
        ({"pbc": 0.5}, ["pbc"]),
        ({"pbc": [True, False]}, ["pbc", "[2]"]),
        ({"cell": torch.zeros(2, 2)}, ["cell", "[2, 2]"]),
        ({"cell": torch.eye(3).expand(2, 3, 3)}, ["batch", "2 systems"]),
        ({"batch": torch.zeros(4)}, ["batch", "float32"]),
        ({"batch": torch.zeros(3, dtype=torch.int64)}, ["batch", "[3]"]),
        ({"batch": torch.tensor([0, 0, 1, -1])}, ["batch", "-1"]),
        ({"external_field": torch.zeros(2)}, ["external_field", "[2]"]),
        ({"method": "magic"}, ["method", "magic"]),
    ],
)
def test_bad_input_is_named(changes, fragments):
    base = {"positions": torch.rand(4, 3, dtype=torch.float64), "multipoles": torch.ones(4, 1)}
    with pytest.raises(electret.InputError) as error:
        coulomb_energy(**{**base, **changes})
    for fragment in fragments:
        assert fragment in str(error.value), str(error.value)


@pytest.mark.parametrize(
    ("changes", "fragments"),
    [
        ({"max_l": -1}, ["max_l = -1"]),
        ({"max_l": 1.5}, ["max_l = 1.5"]),
        ({"max_l": None}, ["max_l = None"]),
        ({"normalization": None}, ["normalization = None", "receiver"]),
        ({"widths": []}, ["widths", "[0]"]),
        ({"widths": "narrow"}, ["widths", "dtype"]),
        ({"widths": [[1.0]]}, ["widths", "[1, 1]"]),
    ],
)
def test_bad_features_are_named(changes, fragments):
    with pytest.raises(electret.InputError) as error:
        features(torch.rand(4, 3, dtype=torch.float64), torch.ones(4, 1), **changes)
    for fragment in fragments:
        assert fragment in str(error.value), str(error.value)


def test_meta_tensors_give_shapes_or_a_named_error():
    x, q = torch.zeros(4, 3, device="meta"), torch.zeros(4, 1, device="meta")
    assert coulomb_energy(x, q).shape == (1,)
    batch = torch.zeros(4, dtype=torch.int64, device="meta")
    with pytest.raises(electret.InputError, match=r"batch is on meta.*n_systems, 3, 3"):
        coulomb_energy(x, q, batch=batch)
    with pytest.raises(electret.InputError, match="positions is on meta"):
        neighbor_list("ij", x, cutoff=2.0)
    for function in (dipole, lambda x, q: potential(x, x, q)):
        with pytest.raises(electret.InputError, match="positions is a ndarray"):
            function(np.zeros((4, 3)), torch.ones(4, 1))


def test_lists_and_arrays_serve_beside_tensors(device):
    """All but positions and multipoles may be numbers, lists or arrays, as in the numpy layer."""
    system = batched(82)
    t = tensors(system, grad=False)
    expected = coulomb_energy(**t, external_field=moved(np.array([0.0, 0.1, 0.0])))
    loose = {key: system[key].tolist() for key in ("sigma", "cell", "pbc", "batch")} | {
        "cell": system["cell"]
    }
    found = coulomb_energy(t["positions"], t["multipoles"], **loose, external_field=[0.0, 0.1, 0.0])
    assert torch.equal(found, expected)
    assert torch.equal(
        dipole(t["positions"], t["multipoles"], loose["batch"]),
        dipole(t["positions"], t["multipoles"], t["batch"]),
    )
    box = coulomb_energy(
        t["positions"], t["multipoles"], cell=[6.0, 7.0, 8.0], pbc=[[True] * 3], batch=loose["batch"]
    )
    assert box.shape == (3,)
    wanted = electret.coulomb(
        system["positions"],
        system["multipoles"],
        cell=[6.0, 7.0, 8.0],
        pbc=[[True] * 3],
        batch=system["batch"],
    )
    assert relative(box, wanted.energy) < 1e-10


def test_widths_have_no_gradient():
    t = tensors(random_system(73, ""), grad=False)
    with pytest.raises(electret.InputError, match="widths requires grad"):
        features(**t, widths=torch.ones(2, requires_grad=True))
