"""Calls of the numpy layer with at most 20 atoms: extreme systems of valid types, and arguments of wrong
types, shapes and values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Generator = np.random.Generator

EXTENTS = (0.0, 1e-12, 1e-3, *(5.0,) * 20, 30.0, 30.0, 100.0, 1e4, 1e6, 1e15, 1e160, 1e300)
"""Å within which atoms are spread."""
METHODS = ("auto", "auto", "auto", "direct", "reciprocal", "ewald", "mesh")
BOUNDARIES = (*(None,) * 10, "slab_dipole_correction", "molecule_in_box")

HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 7, 2**31, 2**63, -(2**63), 10**30, 0.0, -0.0, 1e-320, 1e-300, 1e-30,
    -1.5, 1e18,
    1e154, 1e300, 1e308, np.nan, np.inf, -np.inf, 1j, "", "text", "auto", b"bytes", [], {}, set(), (), [[]],
    [None],
    [1, [2]], [[0.0, 0.0, 0.0], [1.0]], object(), len, np.array(5.0), np.array("x"), np.array([],
    dtype=object),
    np.array([None, 1], dtype=object), np.datetime64("2020-01-01"), np.zeros((2, 2)), np.zeros((0, 3)),
    np.zeros((3, 0)), np.ones((2, 3), dtype=complex), np.ones((2, 3), dtype=np.float16), np.ones(3,
    dtype=bool),
    np.full((2, 3), np.nan), np.full((2, 3), 1e308), np.zeros((1, 1, 1, 1)), np.arange(4,
    dtype=np.uint64) + 2**63,
    np.float32(1e38), np.int8(-1), range(3), "i" * 100, "ijSdD", "\x00", [True, False, True], [[1, 0, 1]] * 2,
)  # fmt: skip


def prepare() -> None:
    """Imports before the memory is limited."""
    import electret

    electret.coulomb(np.zeros((1, 3)), np.ones((1, 1)))


def pick(generator: Generator, values: Any) -> Any:
    """One of the values, as it is."""
    return values[int(generator.integers(len(values)))]


def magnitude(generator: Generator, low: float, high: float) -> float:
    """A number spread evenly over the decades between the bounds."""
    return float(10.0 ** generator.uniform(np.log10(low), np.log10(high)))


def cell(generator: Generator) -> np.ndarray:
    """Cubes, sheared, needle-like, nearly singular, huge, tiny, left-handed and degenerate cells."""
    kind = generator.integers(12)
    size = magnitude(generator, 1.0, 30.0)
    matrix = size * (np.eye(3) + generator.uniform(-0.3, 0.3, (3, 3)))
    if kind == 1:
        matrix[int(generator.integers(3))] *= magnitude(generator, 1e-4, 1e4)
    elif kind == 2:  # nearly in a plane
        a, b, c = generator.permutation(3)
        matrix[a] = matrix[b] + generator.normal() * matrix[c] + magnitude(generator, 1e-14, 1.0) * matrix[a]
    elif kind == 3:
        matrix *= magnitude(generator, 1e-9, 1e9)
    elif kind == 4:
        matrix = matrix[[1, 0, 2]]
    elif kind == 5:
        matrix[int(generator.integers(3))] = 0.0
    elif kind == 6:
        matrix *= magnitude(generator, 1e-300, 1e300)
    elif kind == 7:  # sheared by whole vectors
        matrix[0] += generator.integers(-1000, 1000) * matrix[1]
    return matrix


def system(generator: Generator) -> dict[str, Any]:
    """Positions, cell, pbc and batch."""
    n = int(generator.integers(0, 21)) if generator.random() < 0.3 else int(generator.integers(1, 6))
    n_systems = int(generator.integers(1, 4)) if generator.random() < 0.3 else 1
    spread = pick(generator, EXTENTS)
    arguments: dict[str, Any] = {
        "positions": spread * generator.uniform(-1.0, 1.0, (n, 3)),
        "cell": np.stack([cell(generator) for _ in range(n_systems)]),
        "pbc": generator.random((n_systems, 3)) < pick(generator, (0.0, 0.5, 1.0)),
    }
    if n > 1 and generator.random() < 0.1:
        arguments["positions"][1] = arguments["positions"][0]
    if n_systems > 1 or generator.random() < 0.2:
        arguments["batch"] = generator.integers(0, n_systems, n)
    else:
        arguments["cell"], arguments["pbc"] = arguments["cell"][0], arguments["pbc"][0]
    return arguments


def density(generator: Generator, n: int, max_l: int) -> dict[str, Any]:
    """Multipoles, widths of the Gaussians and options of the sums."""
    sigma: Any = magnitude(generator, 0.3, 3.0)
    if generator.random() < 0.3:
        sigma = magnitude(generator, 1e-12, 1e6)
    if generator.random() < 0.3:
        sigma = sigma * 10.0 ** generator.uniform(-1.0, 1.0, n)
    return {
        "multipoles": pick(generator, (1.0, 1.0, 1.0, 0.0, 1e-200, 1e100, 1e200))
        * generator.normal(size=(n, (max_l + 1) ** 2)),
        "sigma": sigma,
        "method": pick(generator, METHODS),
        "boundary": pick(generator, BOUNDARIES),
        "accuracy": magnitude(generator, 1e-16, 1.0) if generator.random() < 0.5 else 1e-8,
    }


def field(generator: Generator) -> Any:
    """None, or an external field."""
    return generator.normal(size=3) * magnitude(generator, 1e-3, 1e3) if generator.random() < 0.3 else None


def arguments(generator: Generator, function: str) -> dict[str, Any]:
    """Arguments of one function of the numpy layer, of valid types."""
    found = system(generator)
    n = len(found["positions"])
    max_l = int(generator.integers(0, 7)) if generator.random() < 0.3 else int(generator.integers(0, 3))
    if function == "neighbor_list":
        letters = "".join(generator.permutation(list("ijSdD"))[: generator.integers(1, 6)])
        cutoff = (
            magnitude(generator, 0.1, 20.0)
            if generator.random() < 0.7
            else magnitude(generator, 1e-300, 1e308)
        )
        flags = {name: bool(generator.integers(2)) for name in ("half", "self_interaction")}
        return {"quantities": letters, **found, "cutoff": cutoff, **flags}
    options = density(generator, n, max_l)
    if function == "charge_equilibration":
        del options["multipoles"]
        return {
            **found,
            **options,
            "electronegativity": generator.normal(size=n),
            "hardness": magnitude(generator, 1e-6, 1e3) * generator.uniform(-0.1, 1.0, n),
            "total_charge": float(generator.normal()),
            "external_field": field(generator),
        }
    if function == "Geometry":
        del options["multipoles"]
        features_max_l = pick(generator, (None, 0, 1, 2, max_l))
        return {**found, **options, **receivers(generator), "max_l": max_l, "features_max_l": features_max_l}
    found |= options
    found["external_field"] = field(generator)
    if function == "coulomb":
        found["self_interaction"] = bool(generator.integers(2))
    elif function == "features":
        found |= receivers(generator) | {"features_max_l": int(generator.integers(0, 4))}
        found["self_interaction"] = bool(generator.integers(2))
    elif function == "potential":
        points = int(generator.integers(0, 6))
        found["points"] = generator.uniform(-10.0, 10.0, (points, 3))
        if "batch" in found:
            found["points_batch"] = generator.integers(0, len(found["cell"]), points)
    return found


def receivers(generator: Generator) -> dict[str, Any]:
    """Widths and normalisation of features."""
    low, high = pick(generator, ((0.5, 4.0), (0.5, 4.0), (1e-6, 1e3)))
    widths = [magnitude(generator, low, high) for _ in range(generator.integers(0, 4))]
    return {"widths": widths, "normalization": pick(generator, ("receiver", "multipoles"))}


FUNCTIONS = (
    "coulomb", "coulomb", "features", "potential", "neighbor_list", "neighbor_list", "Geometry",
    "charge_equilibration",
)  # fmt: skip


def case(generator: Generator) -> tuple[str, Callable[[], Any]]:
    """One call: an extreme system, or an argument that is replaced by something hostile."""
    function = pick(generator, FUNCTIONS)
    values = arguments(generator, function)
    if generator.random() < 0.4:
        for _ in range(int(generator.integers(1, 3))):
            values[pick(generator, sorted(values))] = pick(generator, HOSTILE)
    description = f"{function}({', '.join(f'{name}={shown(value)}' for name, value in values.items())})"
    return description, lambda: call(function, values)


def shown(value: Any) -> str:
    """The value on one line."""
    return repr(value.tolist() if isinstance(value, np.ndarray) else value).replace("\n", " ")


def call(function: str, values: dict[str, Any]) -> Any:
    """Calls the function; returns the arrays of its result."""
    import electret

    result = getattr(electret, function)(**values)
    if function == "coulomb":
        return [result.energy, result.potential, result.forces, result.virial, result.dipole]
    if function == "charge_equilibration":
        return [result.charges, result.fermi_level, result.energy, result.forces, result.dipole]
    if function == "Geometry":
        p = np.ones((result.n_atoms, (result.max_l + 1) ** 2))
        matrix = result.features_matrix() if result.n_systems and result.n_atoms else None
        return [*result.energy_and_potential(p), result.features(p), matrix]
    return result
