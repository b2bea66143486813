"""Runs that the tests of the hosts compare with: dynamics of ASE from a start with velocities."""

from __future__ import annotations

import contextlib
import functools
from unittest import mock

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.md.verlet import VelocityVerlet

from electret import Calculator
from electret.models import Model, build
from model_cases import STATISTICS, model_config

STEPS = 50


def import_vesin() -> None:
    """vesin-torch, which may have no build for this PyTorch yet. Only models of TorchSim itself call it: its
    last build is enough to import TorchSim."""
    try:
        import vesin.torch
    except ImportError:
        with mock.patch.object(torch, "__version__", "2.14.0"), contextlib.suppress(ImportError):
            import vesin.torch  # noqa: F401


def require_torch_sim():
    """TorchSim, or a skip of the test."""
    import_vesin()
    reason = "TorchSim is not installed: pip install 'electret[torch-sim]'"
    return pytest.importorskip("torch_sim", reason=reason, exc_type=ImportError)


@functools.cache
def tiny_model(family: str) -> Model:
    """The least of a model, whose steps take milliseconds."""
    backbone = {"max_ell": 1, "correlation": 1, "hidden_irreps": "4x0e + 4x1o", "r_max": 3.0}
    options = {} if family == "mace" else {"electrostatics": {"sigma": 1.0, "max_l": 1, "accuracy": 1e-9}}
    return build(model_config(family, backbone, **options), STATISTICS, seed=1)


def start(atoms: Atoms) -> Atoms:
    """The atoms with their first cell vector along x and the second in the xy plane, and velocities."""
    atoms.set_cell(atoms.cell.standard_form()[0], scale_atoms=True)
    random = np.random.default_rng(3)
    atoms.set_momenta(random.normal(scale=0.3, size=(len(atoms), 3)) * np.sqrt(atoms.get_masses())[:, None])
    return atoms


def trajectory(atoms: Atoms, model, step: float, steps: int = STEPS, **options):
    """Positions after each step, energies and virials (-V·stress) before and after each; `step` in ASE's
    unit of time."""
    atoms = atoms.copy()
    atoms.calc = Calculator(model, **options)
    positions, energies, virials = [], [], []

    def record() -> None:
        positions.append(atoms.positions.copy())
        energies.append(atoms.get_potential_energy())
        try:
            virials.append(-atoms.get_volume() * atoms.get_stress(voigt=False))
        except PropertyNotImplementedError:
            virials.append(np.zeros((3, 3)))

    dynamics = VelocityVerlet(atoms, step)
    dynamics.attach(record)
    dynamics.run(steps)
    return np.array(positions), np.array(energies), np.array(virials)
