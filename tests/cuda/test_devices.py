"""Devices: plans that are reused, refusals, geometries, and the numbers of the CPU."""

from __future__ import annotations

import gc
import os
import subprocess
import sys

import numpy as np
import pytest

import devices
import electret
from electret.cuda.found_device import found_device
from numpy_on_device import numpy_layer_on
from places import ROOT, TESTS
from random_systems import BOUNDARIES, random_system, relative

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
from electret import _native  # noqa: E402
from electret.cuda import geometry as device_geometry  # noqa: E402
from electret.cuda import plans as device_plans  # noqa: E402
from electret.cuda.geometry import DeviceGeometry  # noqa: E402
from electret.cuda.plans import Recent, rounded_up  # noqa: E402
from electret.kernels.arguments import Options, Receivers, Systems  # noqa: E402
from electret.torch import Geometry, coulomb_energy, features, neighbor_list  # noqa: E402

FIELD = np.array([0.1, -0.2, 0.3])


@pytest.fixture(params=devices.NOT_CPU)
def device(request):
    """The emulated device, a GPU."""
    with devices.on_device(request.param):
        device_plans.forget_plans()
        yield request.param


@pytest.fixture
def reads(monkeypatch):
    """Counts the reads of tensors on the device."""
    counts = []
    original = device_plans.to_host

    def counted(tensors):
        if tensors:
            counts.append(len(tensors))
        return original(tensors)

    monkeypatch.setattr(device_plans, "to_host", counted)
    return counts


def placed(system: dict, place: str | torch.device) -> dict:
    return {key: torch.tensor(np.asarray(value), device=place) for key, value in system.items()}


def moved(system: dict, device: str) -> dict:
    return placed(system, devices.torch_device(device))


def test_a_training_step_reads_the_device_once(device, reads):
    """Energy and features, forward and backward twice; and the next step with moved atoms not at all."""
    t = moved(random_system(3, "xyz"), device)

    def step(x):
        x = x.clone().requires_grad_()
        energy = coulomb_energy(**{**t, "positions": x})
        v = features(**{**t, "positions": x}, widths=[0.9, 1.4])
        (gradient,) = torch.autograd.grad(energy.sum() + (v**2).sum(), x, create_graph=True)
        return torch.autograd.grad((gradient**2).sum(), x)[0]

    first = step(t["positions"])
    assert reads == [4, 1]  # cell, pbc, batch, sigma; and the widths
    second = step(1.01 * t["positions"])
    assert reads == [4, 1]
    assert relative(second, first) > 1e-3


def test_equal_numbers_in_other_tensors_have_the_same_plan(device, reads):
    system = random_system(4, "xyz")
    coulomb_energy(**moved(system, device))
    plans = len(device_plans._plans._entries)
    coulomb_energy(**moved(system, device))
    assert len(reads) == 2
    assert len(device_plans._plans._entries) == plans


def test_tensors_changed_in_place_are_read_again(device, reads):
    system = random_system(5, "xyz")
    t = moved(system, device)
    before = coulomb_energy(**t)
    t["sigma"].mul_(1.3)
    t["cell"].mul_(1.1)
    after = coulomb_energy(**t)
    expected = electret.coulomb(**{**system, "sigma": 1.3 * system["sigma"], "cell": 1.1 * system["cell"]})
    assert relative(after, expected.energy) < 1e-7
    assert relative(after, before.cpu()) > 1e-3
    assert len(reads) == 2


def test_open_axes_follow_the_extent_of_the_atoms(device):
    """Plans for sums of slabs stay while atoms move a little, and change when they go far."""
    system = random_system(6, "xy", full_cell=False)
    t = moved(system, device)
    for shift, new in ((0.0, 1), (0.01, 1), (9.0, 2)):
        positions = system["positions"].copy()
        positions[0, 2] += shift
        energy = coulomb_energy(
            **{**t, "positions": moved({"x": positions}, device)["x"]}, method="reciprocal"
        )
        expected = electret.coulomb(**{**system, "positions": positions}, method="reciprocal")
        assert relative(energy, expected.energy) < 1e-6
        assert len(device_plans._plans._entries) <= new
    t["positions"][1, 0] = torch.nan
    with pytest.raises(electret.InputError, match="positions of system 0"):
        coulomb_energy(**t, method="reciprocal")


def test_spans_are_rounded_up_by_little():
    spans = np.array([0.0, 1e-12, 0.3, 0.5, 3.0, 10.0, 77.0, 1e4])
    rounded = rounded_up(spans)
    assert (rounded >= spans).all()
    assert (rounded <= 1.05 * spans + 0.5 + 1e-9).all()
    assert (rounded_up(rounded) == rounded).all()


def test_the_recent_are_kept():
    kept: Recent[int] = Recent(2)
    for key in "ab":
        kept.put(key, ord(key))
    assert kept.get("a") == ord("a")
    kept.put("c", 3)
    assert kept.get("b") is None
    assert kept.get("a") == ord("a")


def both(device: str, function, **settings) -> list:
    """Results of a function of the numpy layer on the CPU and on a device."""
    found = []
    for place in ("cpu", device):
        with numpy_layer_on(place):
            found.append(function(**settings))
    return found


@pytest.mark.parametrize("axes", BOUNDARIES)
def test_the_numpy_layer_gives_the_numbers_of_the_cpu(device, axes):
    system = random_system(7, axes, max_l=2)
    rng = np.random.default_rng(1)
    points = rng.uniform(0, 5, (5, 3))
    settings = {**system, "external_field": FIELD, "accuracy": 1e-11}
    here, there = both(device, electret.coulomb, **settings)
    for name in ("energy", "potential", "forces", "virial", "dipole"):
        assert relative(getattr(there, name), getattr(here, name)) < 1e-9, name
    for function, extra in (
        (electret.features, {"features_max_l": 2}),
        (electret.potential, {"points": points}),
    ):
        here, there = both(device, function, **settings, **extra)
        assert relative(there, here) < 1e-9


def pair_of_systems(axes: str) -> dict:
    """Arguments of `electret.Geometry` for three and five atoms in any order, and `multipoles`."""
    systems = [random_system(8 + i, axes, n=n, max_l=1) for i, n in enumerate((3, 5))]
    order = np.array([3, 0, 5, 7, 1, 4, 2, 6])  # atoms of the systems in any order
    joined = {key: np.concatenate([s[key] for s in systems])[order] for key in ("positions", "sigma")}
    joined |= {"multipoles": np.concatenate([s["multipoles"] for s in systems])[order]}
    joined |= {key: np.stack([s[key] for s in systems]) for key in ("cell", "pbc")}
    return joined | {"batch": np.array([0] * 3 + [1] * 5)[order], "widths": [0.8, 1.5], "accuracy": 1e-11}


@pytest.mark.parametrize("axes", ["xyz", "xy", ""])
def test_a_geometry_gives_the_numbers_of_the_cpu(device, axes):
    joined = pair_of_systems(axes)
    p = joined.pop("multipoles")
    here, there = both(device, electret.Geometry, **joined, features_max_l=2)
    g = np.random.default_rng(2).normal(size=(8, 2, 9))
    for name, argument in (("energy", p), ("potential", p), ("features", p), ("features_transpose", g)):
        assert relative(getattr(there, name)(argument), getattr(here, name)(argument)) < 1e-9, name
    for system in range(2):
        assert relative(there.coulomb_matrix(system), here.coulomb_matrix(system)) < 1e-9
        assert relative(there.features_matrix(system), here.features_matrix(system)) < 1e-9
    assert len(there.methods) == len(there.plans) == 2


@pytest.mark.parametrize("place", devices.DEVICES)
@pytest.mark.parametrize("axes", ["xyz", "xy", ""])
def test_a_geometry_of_tensors_gives_the_numbers_of_numpy(axes, place):
    joined = pair_of_systems(axes)
    p, g = joined.pop("multipoles"), np.random.default_rng(2).normal(size=(8, 2, 9))
    expected = electret.Geometry(**joined, features_max_l=2)
    accuracy = joined.pop("accuracy")
    with devices.on_device(place):
        geometry = Geometry(**moved(joined, place), features_max_l=2, accuracy=accuracy)
        t = moved({"p": p, "g": g}, place)
        energy, potential = geometry.energy_and_potential(t["p"])
        assert relative(energy, expected.energy(p)) < 1e-9
        assert relative(potential, expected.potential(p)) < 1e-9
        assert relative(geometry.features(t["p"]), expected.features(p)) < 1e-9
        assert relative(geometry.features_transpose(t["g"]), expected.features_transpose(g)) < 1e-9
        assert len(geometry.methods) == 2
        with pytest.raises(electret.InputError, match="multipoles has shape"):
            geometry.features(t["p"][:3])


@pytest.mark.parametrize("operator", ["coulomb", "features"])
def test_dense_and_large_systems_of_a_batch_are_solved_together(device, operator, monkeypatch):
    monkeypatch.setattr(_native, "DENSE_LIMIT", 12)
    joined = pair_of_systems("xyz")
    rhs = joined.pop("multipoles")
    rng = np.random.default_rng(4)
    left = 12.0 * np.eye(4) + rng.normal(scale=0.1, size=(8, 4, 4))
    right = None if operator == "coulomb" else rng.normal(scale=0.02, size=(8, 4, 8))
    found = []
    for place in ("cpu", device):
        with numpy_layer_on(place):
            geometry = electret.Geometry(**joined, max_l=1, features_max_l=1)
            jacobian = electret.Jacobian(geometry, operator, left, right, constrained=np.array([True, False]))
        found.append([jacobian.solve(rhs, [0.3, -0.2], transpose) for transpose in (False, True)])
    assert jacobian.methods == ["dense", "krylov"]
    for here, there in zip(*found, strict=True):
        assert there[2].tolist() == [0, 0]
        assert relative(there[0], here[0]) < 1e-9
        assert relative(there[1], here[1]) < 1e-9


def crystal(n: int = 4, spacing: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """Positions of a shaken lattice of n³ atoms and its sheared cell, Å."""
    lattice = np.stack(np.meshgrid(*[np.arange(n)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    shaken = spacing * (lattice + np.random.default_rng(3).normal(scale=0.1, size=lattice.shape))
    return shaken, spacing * n * np.array([[1.0, 0.03, 0.0], [-0.06, 1.0, 0.02], [0.02, 0.04, 1.0]])


def test_the_longest_waves_are_all_that_wide_gaussians_have(device):
    place = devices.torch_device(device)
    positions, cell = crystal()
    two = {  # the second system is a slab, which has none
        "positions": np.concatenate([positions, positions]),
        "sigma": np.full(128, 4.5),
        "widths": np.array([3.5, 4.0]),
        "cell": np.stack([cell, cell]),
        "pbc": np.array([[True] * 3, [True, True, False]]),
        "batch": np.repeat([0, 1], 64),
    }
    tensors = {name: torch.tensor(value, device=place) for name, value in two.items()}
    systems = Systems(*(tensors[name] for name in ("positions", "cell", "pbc", "batch")))
    receivers = Receivers(tensors["widths"], 2)
    geometry = DeviceGeometry(systems, tensors["sigma"], receivers, 1, Options(), True)
    for waves, blocks in (
        (geometry.coulomb_waves, geometry.coulomb_blocks),
        (geometry.features_waves, geometry.features_blocks),
    ):
        receiver, source = (part[:64].flatten(0, 1) for part in (waves.receiver, waves.source))
        assert relative(receiver @ source.T, blocks[0]) < 1e-6
        assert waves.source[64:].abs().max() == 0.0
        assert waves.receiver[64:].abs().max() == 0.0


@pytest.mark.parametrize("operator", ["coulomb", "features"])
def test_long_waves_save_products(device, operator, monkeypatch):
    """A crystal that polarises and in which charge flows."""
    positions, cell = crystal()
    response = np.diag([0.02, 0.01, 0.01, 0.01]) if operator == "features" else np.diag([0.3, 0.1, 0.1, 0.1])
    left = np.tile(np.linalg.inv(response) if operator == "coulomb" else np.eye(4), (64, 1, 1))
    right = None if operator == "coulomb" else np.tile(np.hstack([response, 0 * response]), (64, 1, 1))
    rng = np.random.default_rng(5)
    rhs = rng.normal(size=(64, 4))

    def solutions(place: str):
        with numpy_layer_on(place):
            geometry = electret.Geometry(positions, 1.0, (1.5, 3.0), max_l=1, cell=cell, pbc=True)
            jacobian = electret.Jacobian(
                geometry, operator, left, right, constrained=True, method="krylov", tolerance=1e-10
            )
        return [jacobian.solve(rhs, [0.3], transpose)[0] for transpose in (False, True)]

    products: list[int] = []
    names = ("potential",) if operator == "coulomb" else ("features", "features_transpose")
    for name in names:
        original = getattr(DeviceGeometry, name)
        counted = lambda self, p, original=original: products.append(1) or original(self, p)  # noqa: E731
        monkeypatch.setattr(DeviceGeometry, name, counted)
    with_waves = solutions(device)
    used = len(products)
    products.clear()
    monkeypatch.setattr(device_geometry, "find_waves", lambda *arguments: None)
    without = solutions(device)
    assert used <= 0.7 * len(products)
    for one, other, here in zip(with_waves, without, solutions("cpu"), strict=True):
        assert relative(one, here) < 1e-8
        assert relative(other, here) < 1e-8


def test_waves_that_mislead_are_done_without(device, monkeypatch):
    """A preconditioner with which iterations do not converge costs time, not the solution."""
    positions, cell = crystal()
    rhs = np.random.default_rng(5).normal(size=(64, 4))
    left = np.tile(3.0 * np.eye(4), (64, 1, 1))

    def solution(place: str):
        with numpy_layer_on(place):
            geometry = electret.Geometry(positions, 1.0, max_l=1, cell=cell, pbc=True)
            jacobian = electret.Jacobian(geometry, "coulomb", left, method="krylov", tolerance=1e-10)
        return jacobian.solve(rhs, [0.0])

    def misleading(*arguments):
        found = original(*arguments)
        return found._replace(source=found.source * torch.nan)

    original = device_geometry.find_waves
    monkeypatch.setattr(device_geometry, "find_waves", misleading)
    there, here = solution(device), solution("cpu")
    assert there[2].tolist() == [0]
    assert relative(there[0], here[0]) < 1e-8


def test_no_atoms_and_no_gradients(device):
    with numpy_layer_on(device):
        empty = electret.coulomb(np.zeros((0, 3)), np.zeros((0, 1)))
    assert empty.energy.tolist() == [0.0]
    t = moved(random_system(9, "xyz"), device)
    assert not coulomb_energy(**t).requires_grad
    cell = torch.zeros(2, 3, 3, dtype=torch.float64, device=t["positions"].device)
    batch = torch.zeros(4, dtype=torch.int64, device=cell.device)
    energy = coulomb_energy(t["positions"], t["multipoles"], 0.9, cell=cell, batch=batch)
    assert energy[0] != 0.0
    assert energy[1] == 0.0  # a system without atoms


@pytest.mark.parametrize(
    ("changes", "fragments"),
    [
        ({"sigma": -1.0}, ["sigma", "-1"]),
        ({"batch": [0, 0, 1, -1]}, ["batch", "-1"]),
        ({"method": "magic"}, ["method", "magic"]),
        ({"normalization": "magic"}, ["normalization", "magic"]),
    ],
)
def test_bad_input_is_named(device, changes, fragments):
    t = moved(random_system(10, "xyz", n=4), device)
    if "batch" in changes:
        t["cell"] = t["cell"].expand(2, 3, 3)
        changes = {"batch": torch.tensor(changes["batch"], device=t["cell"].device)}
    with pytest.raises(electret.InputError) as error:
        features(**{**t, **changes})
    for fragment in fragments:
        assert fragment in str(error.value), str(error.value)


def test_pytest_sends_the_numpy_layer_to_a_device():
    """`--device`; that kernels are reached shows in an order that they refuse, with which tests skip."""
    devices.require("emulated")
    command = [sys.executable, "-m", "pytest", "--device", "emulated", TESTS / "kernels" / "test_response.py"]
    run = subprocess.run(
        [*command, "-k", "transposed_features and pbc0"],
        env={**os.environ, "ELECTRET_EMULATED_ORDER": "sideways"},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert 'ELECTRET_EMULATED_ORDER is "sideways"' in run.stdout, run.stdout
    assert "passed" not in run.stdout


@pytest.mark.parametrize("name", ["gpu", "mps", "cuda:99", "xpu"])
def test_devices_that_are_not_there_are_named(name):
    with pytest.raises(electret.InputError, match=f"device = '{name}'"):
        found_device(name)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
class TestOnAGpu:
    """Behaviour that only a GPU shows."""

    def test_mixed_devices_are_refused_with_a_remedy(self):
        t = moved(random_system(11, "xyz"), "cuda")
        for name in ("multipoles", "sigma", "cell", "pbc"):
            mixed = {**t, name: t[name].cpu()}
            with pytest.raises(electret.InputError, match=rf"{name} is on cpu.*cuda:0.*\.to\("):
                coulomb_energy(**mixed)

    def test_repeated_calls_do_not_wait(self):
        t = moved(random_system(12, "xyz"), "cuda")
        t["positions"].requires_grad_()

        def step():
            energy = coulomb_energy(**t)
            v = features(**t, widths=[0.9])
            return torch.autograd.grad(energy.sum() + v.square().sum(), t["positions"], create_graph=True)[0]

        torch.autograd.grad(step().square().sum(), t["positions"])
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            torch.autograd.grad(step().square().sum(), t["positions"])
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def test_other_streams_and_graphs(self):
        t = moved(random_system(13, "xyz"), "cuda")
        expected = coulomb_energy(**t)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            assert relative(coulomb_energy(**t), expected) < 1e-12
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = coulomb_energy(**t)
        moved_positions = t["positions"] + torch.tensor([[0.1, 0.0, 0.0]] + [[0.0] * 3] * 3, device="cuda")
        wanted = coulomb_energy(**{**t, "positions": moved_positions})
        t["positions"].copy_(moved_positions)
        graph.replay()
        assert relative(captured, wanted) < 1e-12
        assert relative(captured, expected) > 1e-4

    def test_capturing_unknown_tensors_is_refused(self):
        t = moved(random_system(14, "xyz"), "cuda")
        graph = torch.cuda.CUDAGraph()
        with pytest.raises(electret.InputError, match="run the same call"), torch.cuda.graph(graph):
            coulomb_energy(**t)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="no second CUDA device")
class TestOnTwoGpus:
    """Work on a device that is not the current one, which stays the current one."""

    def test_sums_go_where_their_tensors_are(self):
        expected = None
        for place in ("cuda:0", "cuda:1", "cuda:0"):
            t = placed(random_system(15, "xyz"), place)
            t["positions"].requires_grad_()
            energy = coulomb_energy(**t)
            v = features(**t, widths=[0.9])
            gradient = torch.autograd.grad(
                energy.sum() + v.square().sum(), t["positions"], create_graph=True
            )[0]
            second = torch.autograd.grad(gradient.square().sum(), t["positions"])[0]
            found = [x.detach().cpu() for x in (energy, v, gradient, second)]
            assert second.device == torch.device(place)
            assert torch.cuda.current_device() == 0
            expected = expected or found
            for one, other in zip(found, expected, strict=True):
                assert relative(one, other) < 1e-12

    def test_plans_of_the_other_device_are_freed_without_a_trace(self):
        t = placed(random_system(16, "xyz"), "cuda:1")
        coulomb_energy(**t)
        device_plans.forget_plans()
        gc.collect()
        assert torch.cuda.current_device() == 0
        assert torch.zeros(1, device="cuda").device.index == 0

    def test_numpy_layer(self):
        s = random_system(17, "xyz")
        one, other = (both(place, electret.coulomb, **s)[1] for place in ("cuda:0", "cuda:1"))
        assert relative(one.forces, other.forces) < 1e-12
        i = neighbor_list("i", torch.tensor(s["positions"], device="cuda:1"), s["cell"], True, 4.0)
        assert i.tolist() == electret.neighbor_list("i", s["positions"], s["cell"], True, 4.0).tolist()
        assert torch.cuda.current_device() == 0
