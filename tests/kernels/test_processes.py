"""Forked processes and threads: native work, tensors and calculators there, with the same bits.

Each case runs in a process of its own, so that one that waits for ever can be ended with its children.
"""

import copy
import os
import pickle
import signal
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

import devices
import electret
from places import TESTS

LIMIT = 180.0
"""Seconds; a case takes a few, and more on a busy machine."""

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


def box(n=300, seed=3):
    """Enough atoms for the pool of threads."""
    rng = np.random.default_rng(seed)
    positions = rng.random((n, 3)) * 15.0
    multipoles = rng.normal(size=(n, 4)) * 0.3
    multipoles[:, 0] -= multipoles[:, 0].mean()
    return {"positions": positions, "cell": 15.0 * np.eye(3), "pbc": True}, multipoles


def numbers(seed):
    """Bytes of what several native functions give."""
    system, p = box(seed=seed)
    coulomb = electret.coulomb(**system, multipoles=p, accuracy=1e-6)
    features = electret.features(**system, multipoles=p, accuracy=1e-6)
    distances = electret.neighbor_list("d", **system, cutoff=5.0)
    return [array.tobytes() for array in (coulomb.energy, coulomb.forces, features, distances)]


def inherited(geometry, neighbors):
    """Bytes from objects of the parent."""
    system, p = box()
    neighbors.update(**system)
    return geometry.features(p).tobytes(), neighbors.get("d").tobytes()


def in_child(function, *arguments):
    """Result of a function in a forked child, with the objects of its parent."""
    read, write = os.pipe()
    if os.fork() == 0:
        try:
            with open(write, "wb") as pipe:
                pickle.dump(function(*arguments), pipe)
        finally:
            os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        result = pickle.load(pipe)
    os.wait()
    return result


def forked_numpy():
    expected = [numbers(seed) for seed in range(3)]
    system, _ = box()
    geometry = electret.Geometry(**system, sigma=1.0, widths=[1.5], max_l=1, accuracy=1e-6)
    neighbors = electret.NeighborList(5.0)
    before = inherited(geometry, neighbors)
    fork = get_context("fork")
    with fork.Pool(2) as pool:
        assert pool.map(numbers, range(3)) == expected
    with ProcessPoolExecutor(2, mp_context=fork) as executor:
        assert list(executor.map(numbers, range(3))) == expected
    assert in_child(inherited, geometry, neighbors) == before
    assert in_child(in_child, numbers, 0) == expected[0]
    assert in_child(lambda: (numbers(0), in_child(numbers, 0))) == (expected[0], expected[0])
    assert [numbers(seed) for seed in range(3)] == expected  # the parent goes on


def forked_beside_a_thread_at_work():
    """Other threads are in the native module when the fork comes."""
    expected = numbers(0)
    done = threading.Event()

    def work():
        while not done.is_set():
            numbers(1)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(6):
            assert in_child(numbers, 0) == expected
    finally:
        done.set()
        for thread in threads:
            thread.join()


def energy_of(seed):
    """Energy and gradient by the torch layer, as numbers."""
    import torch

    from electret.torch import coulomb_energy

    system, p = box(seed=seed)
    r = torch.tensor(system["positions"], requires_grad=True)
    cell = torch.tensor(system["cell"])
    energy = coulomb_energy(r, torch.tensor(p), cell=cell, pbc=True, accuracy=1e-6).sum()
    (gradient,) = torch.autograd.grad(energy, r)
    return energy.item(), float(gradient.abs().sum())


class Energies:
    """A data set whose items are calculated in the workers."""

    def __len__(self):
        return 4

    def __getitem__(self, seed):
        return energy_of(seed)


def calculated(calculator, stretch):
    """Energy and forces of a molecule by a calculator that the child has from its parent."""
    from model_cases import molecule

    atoms = molecule()
    atoms.positions[:] *= stretch
    atoms.calc = calculator
    return atoms.get_potential_energy(), atoms.get_forces().tobytes()


def forked_torch_and_calculators():
    import torch
    from torch.utils.data import DataLoader

    from electret import Calculator
    from model_cases import small_model

    torch.set_num_threads(1)  # torch's own threads do not survive a fork
    expected = [energy_of(seed) for seed in range(4)]
    loader = DataLoader(Energies(), batch_size=None, num_workers=2, multiprocessing_context="fork")
    assert [tuple(item) for item in loader] == expected

    calculators = [Calculator(small_model(family), warm_start=False) for family in ("mace", "fixed_point")]
    wanted = []
    for calculator in calculators:
        calculated(calculator, 1.0)
        wanted.append(calculated(copy.deepcopy(calculator), 1.01))
        assert in_child(calculated, calculator, 1.01) == wanted[-1]
    # a thread uses the calculator whenever the fork comes, and its lock does not reach the child
    calculator, done = calculators[1], threading.Event()

    def work():
        while not done.is_set():
            calculated(calculator, 1.02)
            calculated(calculator, 1.0)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(4):
            assert in_child(calculated, calculator, 1.01) == wanted[1]
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("case", [forked_numpy, forked_beside_a_thread_at_work, forked_torch_and_calculators])
def test_forked_processes_work(case, threads):
    if case is forked_torch_and_calculators and threads == 1:
        pytest.skip("with three threads, which is more")
    folders = (Path(__file__).parent, TESTS, Path(electret.__file__).parents[1])
    path = os.pathsep.join(map(str, folders))
    with subprocess.Popen(
        [sys.executable, "-c", f"import test_processes; test_processes.{case.__name__}()"],
        env={**os.environ, "RAYON_NUM_THREADS": str(threads), "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            _, errors = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise AssertionError(f"{case.__name__} waits for ever") from None
    assert process.returncode == 0, errors


def test_neighbor_list_in_threads():
    system, _ = box(n=1000)
    neighbors = electret.NeighborList(4.0)
    expected = electret.neighbor_list("ij", **system, cutoff=4.0)

    def pairs(_):
        neighbors.update(**system)
        return neighbors.get("ij")

    with ThreadPoolExecutor(4) as executor:
        for found in executor.map(pairs, range(40)):
            np.testing.assert_array_equal(found, expected)


def test_attributes_calculated_once_hold_no_lock():
    from electret.support.locks import cached_property

    begun, go_on = threading.Event(), threading.Event()

    class Attribute:
        def __init__(self, waits):
            self.waits = waits

        @cached_property
        def value(self):
            begun.set()
            return go_on.wait(LIMIT) if self.waits else 2

    with ThreadPoolExecutor(2) as executor:
        try:
            first = executor.submit(lambda: Attribute(True).value)
            assert begun.wait(LIMIT)
            assert executor.submit(lambda: Attribute(False).value).result(timeout=20.0) == 2
        finally:
            go_on.set()
        assert first.result() is True


def refused_device():
    try:
        electret._native.device_count()
    except electret.DeviceError as error:
        return str(error)
    return ""


def forked_after_cuda():
    assert electret._native.device_count() > 0
    assert "spawn" in in_child(refused_device)


@pytest.mark.gpu
def test_cuda_in_a_fork_is_refused():
    devices.require("cuda")
    test_forked_processes_work(forked_after_cuda, 1)
