"""Modules of earlier versions: an import of one names its present place."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["MOVED", "Finder"]

_FAMILIES = ("fixed_charges", "fixed_point", "latent_ewald", "local_charges", "mace", "qeq", "split_charges")
_PARTS = ("charge_conservation", "charge_flux", "density_energies", "updates")
_DEVICES = ("functions", "geometry", "neighbors", "operators", "plans", "waves")
_SUPPORT = ("console", "deferred", "locks", "outputs", "yaml_files")

MOVED: dict[str, str] = {
    "electret.electrostatics": "electret.coulomb, electret.features and electret.potential",
    "electret.equilibration": "electret.charge_equilibration",
    "electret.external_field": "the argument external_field of electret.coulomb and electret.features",
    "electret.geometry": "electret.Geometry",
    "electret.inputs": "electret.kernels",
    "electret.neighbors": "electret.neighbor_list and electret.NeighborList",
    "electret.response": "electret.Jacobian",
    "electret.shapes": "electret.kernels",
    "electret.backends": "electret.torch",
    "electret.found_device": "electret.cuda",
    "electret.package_folders": "electret.cuda",
    "electret.per_system": "electret.torch",
    "electret.torch_operators": "electret.torch",
    "electret.analysis.candidates": "electret.analysis.Entry",
    "electret.training_ranges": "electret.models.start.ranges",
    "electret.models.functional": "electret.models.families.energy_functional",
    "electret.models.statistics": "electret.models.Statistics",
    "electret.models.density_statistics": "electret.models.start.density",
    "electret.models.element_start": "electret.models.start.elements",
    "electret.models.response_statistics": "electret.models.start.responses",
    **{f"electret.device_{name}": "electret.torch" for name in _DEVICES},
    **{f"electret.{name}": f"electret.support.{name}" for name in _SUPPORT},
    **{f"electret.models.{name}": f"electret.models.families.{name}" for name in (*_FAMILIES, *_PARTS)},
}
"""Names of modules of earlier versions, and the names to use in their place."""


class Finder:
    """Finder that comes after all others, without a cost where a module exists."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> None:
        """Raise `ModuleNotFoundError` with the present name of a module that has moved."""
        if name in MOVED:
            raise ModuleNotFoundError(f"{name} has moved; use {MOVED[name]}", name=name)


sys.meta_path.append(Finder)  # type: ignore[arg-type]
