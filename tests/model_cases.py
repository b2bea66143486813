"""Small models and systems that the model tests share."""

import functools

import e3nn
import numpy as np
from ase import Atoms

from electret.models import Model, ModelConfig, Statistics, build

# Scripting makes the many small models of the tests three times slower to build and changes no result.
e3nn.set_optimization_defaults(jit_script_fx=False)

STATISTICS = Statistics(
    elements=(1, 8, 11),
    e0s={1: -13.6, 8: -430.0, 11: -5.0},
    mean=0.1,
    scale=1.3,
    avg_num_neighbors=6.0,
    charges={1: 0.35, 8: -0.7, 11: 0.9},
)

BACKBONE = {
    "r_max": 3.5,
    "num_radial_basis": 5,
    "max_ell": 2,
    "correlation": 2,
    "hidden_irreps": "8x0e + 8x1o",
    "MLP_irreps": "8x0e",
    "radial_MLP": [16],
    "dtype": "float64",
}

FAMILY_OPTIONS = {
    "mace": {},
    "fixed_charges": {},
    "local_charges": {},
    "split_charges": {"charges": {"H": 0.3, "O": -0.6, "Na": 1.0}},
    "latent_ewald": {},
    "qeq": {"scf": {"tolerance": 1e-11}},
    "sqe": {"scf": {"tolerance": 1e-11}, "charges": {"H": 0.3, "O": -0.6, "Na": 1.0}},
    "energy_functional": {"scf": {"tolerance": 1e-11}},
    "fixed_point": {"scf": {"tolerance": 1e-11}},
    "polar": {
        "backbone": {**BACKBONE, "hidden_irreps": "4x0e + 4x1o", "correlation": 1},
        "electrostatics": {"sigma": 1.5, "accuracy": 1e-10},
        "polar": {"steps": 1, "feature_norms": [100.0, 100.0, 5.0, 5.0]},
    },
}


def model_config(family: str, backbone: dict | None = None, **options) -> ModelConfig:
    """The small model of a family, with changes."""
    merged = {
        "family": family,
        "backbone": {**BACKBONE, **(backbone or {})},
        "electrostatics": {"max_l": 1, "sigma": {"H": 0.8, "O": 1.0, "Na": 1.2}, "accuracy": 1e-10},
        **FAMILY_OPTIONS[family],
        **options,
    }
    return ModelConfig.parse(merged)


@functools.cache
def small_model(family: str) -> Model:
    """The small model of a family, built once per session; treat it as read-only."""
    return build(model_config(family), STATISTICS, seed=1)


def molecule() -> Atoms:
    """A strained water with a sodium ion: no symmetry, open."""
    positions = np.array([[0.0, 0.1, 0.2], [0.9, 0.2, -0.3], [-0.4, 0.8, -0.3], [0.3, -1.7, 0.9]])
    return Atoms("OHHNa", positions)


def bulk() -> Atoms:
    """A dense sheared triclinic cell of five atoms."""
    cell = np.array([[4.1, 0.3, -0.2], [0.9, 3.9, 0.4], [-0.6, 0.7, 4.3]])
    scaled = np.array(
        [[0.02, 0.05, 0.1], [0.24, 0.1, 0.07], [0.9, 0.28, 0.05], [0.5, 0.55, 0.6], [0.3, 0.6, 0.35]]
    )
    return Atoms("OHHNaH", scaled_positions=scaled, cell=cell, pbc=True)


def slab() -> Atoms:
    """The bulk cell open along its third axis, with vacuum."""
    atoms = bulk()
    cell = atoms.cell.array.copy()
    cell[2] *= 3.0
    atoms.set_cell(cell, scale_atoms=False)
    atoms.pbc = [True, True, False]
    return atoms


def in_field(atoms: Atoms, charge: float = 0.0) -> Atoms:
    """The system in a field of low symmetry, charged."""
    atoms.info["external_field"] = np.array([0.05, -0.11, 0.08])
    atoms.info["total_charge"] = charge
    return atoms
