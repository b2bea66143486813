"""Electrostatics against graph-longrange and pymatgen, all in one run.

``pytest benches/test_electrostatics.py --benchmark-only --benchmark-json=out.json`` and then
``python benches/electrostatics_table.py out.json`` for the table of ratios. Each entry carries the relative
force error against electret at accuracy 1e-12, because a time without an error says little.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import electret
from water import batch_of, water

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

REPEATS = {192: (1, 1, 1), 768: (2, 2, 1), 1536: (2, 2, 2)}
SIGMAS = (1.0, 1.5)
SYSTEMS_IN_BATCH = 16


@cache
def exact_forces(n: int, sigma: float) -> np.ndarray:
    return electret.coulomb(**water(REPEATS[n]), sigma=sigma, pbc=True, accuracy=1e-12).forces


def record(benchmark, code: str, task: str, n: int, sigma: float, forces: np.ndarray | None = None) -> None:
    benchmark.group = f"{task}, {n} atoms, sigma {sigma} Å"
    benchmark.extra_info.update(code=code, task=task, n_atoms=n, sigma=sigma)
    if forces is not None:
        exact = exact_forces(n, sigma)
        benchmark.extra_info["force_error"] = float(np.linalg.norm(forces - exact) / np.linalg.norm(exact))


def graph_longrange(factor: float, sigma: float, **settings):
    pytest.importorskip("graph_longrange", reason="graph-longrange is not installed")
    from graph_longrange_peer import Peer

    return Peer(sigma, factor=factor, **settings)


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("n", REPEATS)
@pytest.mark.parametrize("accuracy", [1e-5, 1e-7])
def test_energy_and_gradients(benchmark, n, sigma, accuracy):
    system = water(REPEATS[n])
    result = benchmark(electret.coulomb, **system, sigma=sigma, pbc=True, accuracy=accuracy)
    record(benchmark, f"electret, accuracy {accuracy:g}", "energy + gradients", n, sigma, result.forces)


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("n", REPEATS)
@pytest.mark.parametrize("accuracy", [1e-7])
def test_energy_and_gradients_in_torch(benchmark, n, sigma, accuracy):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from electret.torch import coulomb_energy

    system = {key: torch.from_numpy(value) for key, value in water(REPEATS[n]).items()}
    x, p = system["positions"].requires_grad_(), system["multipoles"].requires_grad_()

    def evaluate():
        energy = coulomb_energy(x, p, sigma, system["cell"], True, accuracy=accuracy)
        return torch.autograd.grad(energy.sum(), (x, p))

    gradient = benchmark(evaluate)[0]
    code = f"electret.torch, accuracy {accuracy:g}"
    record(benchmark, code, "energy + gradients", n, sigma, -gradient.numpy())


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("n", REPEATS)
@pytest.mark.parametrize("factor", [1.0, 1.5])
def test_energy_and_gradients_of_graph_longrange(benchmark, n, sigma, factor):
    peer = graph_longrange(factor, sigma)
    system = water(REPEATS[n])
    rounds = 10 if n == 192 else 3
    _, gradient, _ = benchmark.pedantic(
        peer.energy_and_gradients, kwargs=system, rounds=rounds, warmup_rounds=1
    )
    code = f"graph-longrange 0.4.4, cutoff factor {factor:g}"
    record(benchmark, code, "energy + gradients", n, sigma, -gradient)


def test_energy_and_forces_of_pymatgen(benchmark):
    """Point charges: no Gaussian widths, no dipoles, so no error against ours; for orientation only."""
    ewald = pytest.importorskip("pymatgen.analysis.ewald", reason="pymatgen is not installed")
    structure_module = pytest.importorskip("pymatgen.core", reason="pymatgen is not installed")
    system = water()
    structure = structure_module.Structure(
        system["cell"],
        ["O", "H", "H"] * 64,
        system["positions"],
        coords_are_cartesian=True,
        site_properties={"charge": system["multipoles"][:, 0]},
    )
    structure.add_oxidation_state_by_site(list(system["multipoles"][:, 0]))

    def evaluate():
        summation = ewald.EwaldSummation(structure, compute_forces=True)
        return summation.total_energy, summation.forces

    benchmark.pedantic(evaluate, rounds=2)
    record(benchmark, "pymatgen, point charges", "energy + gradients", 192, 1.0)


@pytest.mark.parametrize("n_systems", [1, SYSTEMS_IN_BATCH])
def test_batch(benchmark, n_systems):
    system = batch_of(n_systems)
    benchmark(electret.coulomb, **system, sigma=1.0, pbc=True, accuracy=1e-7)
    record(benchmark, "electret, accuracy 1e-07", "batch of 192-atom systems", 192 * n_systems, 1.0)


@pytest.mark.parametrize("n_systems", [1, 4])
def test_batch_of_graph_longrange(benchmark, n_systems):
    """Quadratic in the batch; 16 systems take about 4 GB, so 4 are measured."""
    peer = graph_longrange(1.5, 1.0)
    benchmark.pedantic(peer.energy_and_gradients, kwargs=batch_of(n_systems), rounds=2, warmup_rounds=1)
    code = "graph-longrange 0.4.4, cutoff factor 1.5"
    record(benchmark, code, "batch of 192-atom systems", 192 * n_systems, 1.0)


@pytest.mark.parametrize("n", REPEATS)
def test_features_at_fixed_atoms(benchmark, n):
    system = water(REPEATS[n])
    p = system.pop("multipoles")
    geometry = electret.Geometry(**system, sigma=1.0, widths=[1.5, 3.0], max_l=1, pbc=True, accuracy=1e-7)
    values = benchmark(geometry.features, p)
    assert np.isfinite(values).all()
    record(benchmark, "electret.Geometry", "features at fixed atoms", n, 1.0)


@pytest.mark.parametrize("n", REPEATS)
def test_features(benchmark, n):
    benchmark(electret.features, **water(REPEATS[n]), sigma=1.0, widths=[1.5, 3.0], pbc=True, accuracy=1e-7)
    record(benchmark, "electret.features", "features, geometry included", n, 1.0)


@pytest.mark.parametrize("n", REPEATS)
def test_features_at_fixed_atoms_of_graph_longrange(benchmark, n):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    peer = graph_longrange(1.5, 1.0, self_interaction=False)
    system = water(REPEATS[n])
    x, p = torch.from_numpy(system["positions"]), torch.from_numpy(system["multipoles"])
    geometry = peer.geometry(x, p, system["cell"])
    source = geometry.pop("source_feats")
    with torch.no_grad():
        cache = peer.features_module.precompute_geometry(**geometry)
        benchmark.pedantic(peer.features_module.forward_dynamic, (cache, source), rounds=5, warmup_rounds=1)
    record(benchmark, "graph-longrange 0.4.4, cutoff factor 1.5", "features at fixed atoms", n, 1.0)


def test_open_system(benchmark):
    """192 atoms without a cell: a pair sum, no wave vectors."""
    system = water()
    del system["cell"]
    benchmark(electret.coulomb, **system, sigma=1.0)
    record(benchmark, "electret, direct", "open system", 192, 1.0)
