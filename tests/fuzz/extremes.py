"""Calls of the numpy layer beyond its bounds: at most 20 atoms with tiny and huge lengths, needle-like,
sheared and nearly singular cells, fine accuracies, methods by name, high orders, batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fuzz.calls import Generator, magnitude, pick, prepare, shown

__all__ = ["case", "prepare"]

METHODS = (*("auto",) * 4, "direct", *("reciprocal", "ewald", "mesh") * 2, "mesh-8", "mesh-16")
BOUNDARIES = (*(None,) * 6, "slab_dipole_correction", "molecule_in_box")
ORDERS = (0, 0, 0, 1, 1, 2, 3, 4, 6)
LENGTHS = (1e-12, 1e-6, 1e-6, *(1.0,) * 10, *(1e3,) * 4, *(1e9,) * 3, 1e100, 1e300)


def cell(generator: Generator) -> np.ndarray:
    """An ordinary, needle-like, flat, sheared or nearly singular cell of any size."""
    matrix = np.diag(generator.uniform(3.0, 12.0, 3)) + generator.uniform(-1.0, 1.0, (3, 3))
    kind = generator.integers(6)
    if kind == 1:
        matrix *= 10.0 ** generator.uniform(-4, 4, (3, 1))
    elif kind == 2:
        shears = 10.0 ** generator.uniform(-1, 5, (3, 3)) * generator.choice([-1, 1], (3, 3))
        matrix = 4.0 * (np.eye(3) + np.triu(shears, 1))[generator.permutation(3)]
    elif kind == 3:
        matrix[2] = generator.normal(size=2) @ matrix[:2] + magnitude(generator, 1e-12, 1.0)
    elif kind == 4:
        matrix *= magnitude(generator, 1e-3, 1e6)
    elif kind == 5:
        matrix *= np.array([[pick(generator, LENGTHS)] for _ in range(3)])
    return matrix


def systems(generator: Generator) -> dict[str, Any]:
    """Positions, cell, pbc and batch."""
    n = int(generator.integers(1, 21))
    n_systems = pick(generator, (1, 1, 1, 2, 5, n))
    cells = np.stack([cell(generator) for _ in range(n_systems)])
    batch = generator.integers(0, n_systems, n)
    positions = np.einsum("ni,nij->nj", generator.uniform(-0.2, 1.2, (n, 3)), cells[batch])
    kind = generator.integers(6)
    if kind == 0:
        positions = generator.uniform(0.0, 5.0, (n, 3))
    elif kind == 1:
        positions[0] *= pick(generator, (1e3, 1e8, 1e14, 1e100, 1e300))
    pbc = generator.random((n_systems, 3)) < pick(generator, (0.0, 0.5, 1.0, 1.0))
    return {"positions": positions, "cell": cells, "pbc": pbc, "batch": batch}


def case(generator: Generator) -> tuple[str, Callable[[], Any]]:
    """One call."""
    function = pick(
        generator, ("neighbor_list", "NeighborList", "coulomb", "features", "potential", "Geometry")
    )
    values = systems(generator)
    n = len(values["positions"])
    if function in ("neighbor_list", "NeighborList"):
        values["cutoff"] = pick(
            generator, (*(magnitude(generator, 0.5, 10.0),) * 3, magnitude(generator, 1e-3, 1e4), 1e18, 1e308)
        )
    else:
        max_l = pick(generator, ORDERS)
        narrow = magnitude(generator, 1e-12, 1e5)
        values |= {
            "sigma": pick(generator, (narrow, 0.5, 10.0 ** generator.uniform(-0.5, 0.5, n))),
            "boundary": pick(generator, BOUNDARIES),
            "method": pick(generator, METHODS),
            "accuracy": pick(generator, (1e-2, 1e-4, 1e-8, 1e-12, 1e-15)),
        }
        if function in ("features", "Geometry"):
            order = "max_l" if function == "Geometry" else "features_max_l"
            values |= {"widths": pick(generator, ([0.02, 1.0], [1.0, 2.0])), order: max_l}
        values["multipoles"] = generator.normal(size=(n, (max_l + 1) ** 2))
        if function == "potential":
            values["points"] = generator.uniform(-5.0, 5.0, (10, 3))
            values["points_batch"] = generator.integers(0, len(values["cell"]), 10)
    description = f"{function}({', '.join(f'{name}={shown(value)}' for name, value in values.items())})"
    return description, lambda: call(function, values)


def call(function: str, values: dict[str, Any]) -> Any:
    """The arrays of the result."""
    import electret

    if function == "neighbor_list":
        return electret.neighbor_list("ijSdD", **values)
    if function == "NeighborList":
        pairs = electret.NeighborList(values.pop("cutoff"), skin=0.5)
        pairs.update(**values)
        return pairs.get("ijSdD")
    if function == "Geometry":
        multipoles = values.pop("multipoles")
        geometry = electret.Geometry(**values)
        found = [*geometry.energy_and_potential(multipoles), geometry.features(multipoles)]
        return [*found, geometry.coulomb_matrix(), geometry.features_matrix()]
    result = getattr(electret, function)(**values)
    if function == "coulomb":
        return [result.energy, result.potential, result.forces, result.virial, result.dipole]
    return result
