"""Writes gaussian_multipoles.json: exact electrostatics of small random systems from ``tests/reference.py``.

Run from the repository root: ``python tests/kernels/generate_gaussian_multipoles.py`` (about five minutes on
one core; the open systems take most of it). The quadrature errors are below 1e-12 relative.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
import reference

# name, periodic axes, atoms, max_l, range of sigma, features max_l, normalisation, cell handedness
CASES = (
    ("periodic_l0_charged", "xyz", 3, 0, (0.9, 0.9), 0, "receiver", "right"),
    ("periodic_l1", "xyz", 5, 1, (0.5, 1.1), 1, "receiver", "right"),
    ("periodic_l2_left_handed", "xyz", 4, 2, (0.6, 0.9), 3, "multipoles", "left"),
    ("periodic_l3", "xyz", 4, 3, (0.7, 1.3), 2, "receiver", "right"),
    ("periodic_l4", "xyz", 3, 4, (0.6, 1.0), 4, "multipoles", "right"),
    ("slab_xy_l1_charged", "xy", 4, 1, (0.5, 1.0), 1, "receiver", "right"),
    ("slab_xz_l2", "xz", 4, 2, (0.7, 0.9), 2, "multipoles", "right"),
    ("slab_yz_l3_left_handed", "yz", 3, 3, (0.8, 1.2), 1, "receiver", "left"),
    ("wire_x_l1_charged", "x", 4, 1, (0.6, 1.0), 2, "receiver", "right"),
    ("wire_y_l3", "y", 3, 3, (0.8, 1.0), 1, "multipoles", "right"),
    ("wire_z_l2", "z", 4, 2, (0.7, 1.0), 2, "receiver", "left"),
    ("open_l0", "", 3, 0, (0.8, 1.2), 1, "receiver", "right"),
    ("open_l1_charged", "", 4, 1, (0.8, 1.0), 1, "multipoles", "right"),
    ("open_l4", "", 3, 4, (0.9, 1.1), 3, "receiver", "right"),
)
POINTS = 3


def random_case(seed: int, axes: str, n: int, max_l: int, sigma, handedness: str) -> dict:
    rng = np.random.default_rng(seed)
    lengths = rng.uniform(5.0, 7.5, 3)
    cell = np.diag(lengths) + rng.uniform(-1.2, 1.2, (3, 3))
    pbc = [axis in axes for axis in "xyz"]
    if len(axes) < 3:
        # without three periodic axes only the periodic rows matter; the others are left zero
        cell[~np.array(pbc)] = 0.0
    if handedness == "left" and len(axes) > 1:
        first, second = (i for i in range(3) if pbc[i]) if len(axes) == 2 else (0, 1)
        cell[[first, second]] = cell[[second, first]]
    positions = rng.uniform(0.0, 1.0, (n, 3)) * (3.5 if len(axes) < 2 else 5.0)
    multipoles = rng.normal(size=(n, (max_l + 1) ** 2))
    return {
        "pbc": pbc,
        "cell": cell.tolist(),
        "positions": positions.tolist(),
        "sigma": rng.uniform(*sigma, n).tolist() if sigma[0] != sigma[1] else sigma[0],
        "multipoles": multipoles.tolist(),
        "widths": rng.uniform(0.8, 2.0, 2).tolist(),
        "points": rng.uniform(-1.0, 5.0, (POINTS, 3)).tolist(),
    }


def main() -> None:
    cases = []
    for index, (name, axes, n, max_l, sigma, features_max_l, normalization, handedness) in enumerate(CASES):
        start = time.time()
        case = random_case(2026 + index, axes, n, max_l, sigma, handedness)
        if "charged" not in name:
            charges = np.array(case["multipoles"])
            charges[:, 0] -= charges[:, 0].mean()
            case["multipoles"] = charges.tolist()
        keys = ("positions", "multipoles", "sigma", "cell", "pbc", "widths")
        result = reference.electrostatics(
            *(case[key] for key in keys), features_max_l, normalization, points=case["points"]
        )
        cases.append(
            {
                "name": name,
                **case,
                "features_max_l": features_max_l,
                "normalization": normalization,
                "energy": result.energy,
                "self_energy": result.self_energy,
                "potential": result.potential.tolist(),
                "forces": result.forces.tolist(),
                "features": result.features.tolist(),
                "self_features": result.self_features.tolist(),
                "potential_at_points": result.at_points.tolist(),
            }
        )
        print(f"{name}: {time.time() - start:.1f} s", flush=True)
    document = {
        "provenance": "tests/kernels/generate_gaussian_multipoles.py and tests/reference.py",
        "units": "Å, e, eV; K = 14.3996454784255 eV Å/e²",
        "cases": cases,
    }
    Path(__file__).with_name("gaussian_multipoles.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
