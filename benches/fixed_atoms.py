"""Features at fixed atoms, as in a self-consistent loop, against graph-longrange.

Periodic water; *mixed* is 50 times p <- p - 0.25 (p - F(v)) with a trivial F from the geometry on, the loop
of the reference scheme. Errors are relative L2 against accuracy 1e-12.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import numpy as np
import torch

import electret
from water import unit_of, water_of

WIDTHS, SIGMA, ACCURACY = (1.5, 3.0), 1.0, 1e-6
FACTORS = (1.0, 1.25)
"""Cutoffs of the peer: its default, less accurate than electret here, and as accurate as it gets."""

Timer = Callable[[Callable[[], object]], float]
"""Gives the time of a function in ms."""


def fixed_atoms(n_atoms: int, timer: Timer) -> list[dict[str, object]]:
    """Geometry, one evaluation and 50 mixed iterations of electret and, where it is installed, the peer."""
    rows = [of_electret(n_atoms, timer)]
    with suppress(ImportError):
        rows += [of_graph_longrange(n_atoms, timer, factor) for factor in FACTORS]
    return rows


def of_electret(
    n_atoms: int, timer: Timer, accuracy: float = ACCURACY, method: str = "auto", mixing: bool = True
) -> dict[str, object]:
    system = water_of(n_atoms)
    p = system.pop("multipoles")

    def geometry() -> electret.Geometry:
        return electret.Geometry(
            **system, sigma=SIGMA, widths=WIDTHS, max_l=1, pbc=True, accuracy=accuracy, method=method
        )

    def mixed() -> np.ndarray:
        own, density = geometry(), p
        for _ in range(50):
            v = own.features(density)
            density = density - 0.25 * (density - p + 1e-3 * v[:, 0])
        return density

    ready = geometry()
    row = {
        "code": f"electret.Geometry, accuracy {accuracy:g}",
        "atoms": n_atoms,
        "method": ready.methods[0][1],
        "error": features_error(ready.features(p), n_atoms),
        "geometry_ms": timer(geometry),
        "evaluation_ms": timer(lambda: ready.features(p)),
    }
    return row | ({"mixed_ms": timer(mixed)} if mixing else {})


def of_graph_longrange(n_atoms: int, timer: Timer, factor: float, mixing: bool = True) -> dict[str, object]:
    """Raises ImportError where the peer is not installed."""
    from graph_longrange_peer import Peer

    peer = Peer(SIGMA, factor=factor, widths=WIDTHS, self_interaction=False)
    system = water_of(n_atoms)
    x, p = (torch.from_numpy(system[key]) for key in ("positions", "multipoles"))

    def precompute():
        arguments = peer.geometry(x, p, system["cell"])
        source = arguments.pop("source_feats")
        with torch.no_grad():
            return peer.features_module.precompute_geometry(**arguments), source

    def evaluate(cache, density: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            out = peer.features_module.forward_dynamic(cache, density)
        return out[0] if isinstance(out, tuple) else out

    def mixed() -> torch.Tensor:
        cache, source = precompute()
        density = source
        for _ in range(50):
            v = evaluate(cache, density)
            density = density - 0.25 * (density - source + 1e-3 * v[:, :4])
        return density

    cache, source = precompute()
    values = peer.arranged(evaluate(cache, source).numpy())
    row = {
        "code": f"graph-longrange 0.4.4, cutoff factor {factor:g}",
        "atoms": n_atoms,
        "error": features_error(values, n_atoms),
        "geometry_ms": timer(precompute),
        "evaluation_ms": timer(lambda: evaluate(cache, source)),
    }
    return row | ({"mixed_ms": timer(mixed)} if mixing else {})


def features_error(values: np.ndarray, n_atoms: int) -> float:
    unit, tiles = unit_of(n_atoms)
    exact = electret.features(**unit, sigma=SIGMA, widths=WIDTHS, features_max_l=1, pbc=True, accuracy=1e-12)
    exact = np.tile(exact, (tiles, 1, 1))
    return float(np.linalg.norm(values - exact) / np.linalg.norm(exact))
