"""The contract battery: symmetries, derivatives, charge, batches, files and precision of a model.

Derivative checks need float64: load a float32 model with `dtype=torch.float64`. Every check takes `ase.Atoms`
and raises `ContractError`; every comparison first makes sure that it could fail.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from electret.errors import InputError
from electret.models import Model, load, save
from electret.testing.comparison import ContractError, assert_close
from electret.testing.derivatives import (
    check_field_response,
    check_forces,
    check_stress,
    check_training_gradients,
)
from electret.testing.evaluation import MULTIPOLES, as_arrays, batch_of, evaluate, has_volume
from electret.testing.harmonics import rotation_of_multipoles
from electret.testing.self_consistency import check_self_consistency

__all__ = [
    "check_batch",
    "check_field_response",
    "check_forces",
    "check_model",
    "check_permutation",
    "check_precision",
    "check_rotation",
    "check_save_load",
    "check_stress",
    "check_total_charge",
    "check_training_gradients",
    "check_translation",
]

Array = NDArray[np.float64]


def check_model(model: Model, systems: Sequence[Atoms], tolerance: float = 1e-9) -> list[str]:
    """Runs every check that applies to the model on every system, and returns what was checked.

    Args:
        model: in float64.
        systems: with conditions in `info` if the model honours them; at least one with a cell, so that the
            stress is checked. Low symmetry and forces of about 1 eV/Å make the checks sharp.
        tolerance: for identities (eV, eV/Å, e); derivatives by finite differences get 100 times this.

    Raises:
        ContractError: the first broken promise.
    """
    if model.dtype != torch.float64:
        raise InputError(f"the model is {model.dtype}; load it with dtype=torch.float64 for the checks")
    done = []
    # The dipole of a density that minimises no energy is not the derivative of one.
    obeys_field = "external_field" in model.honours and getattr(model, "variational", True)
    for index, atoms in enumerate(systems):
        name = f"{atoms.get_chemical_formula()}[{index}]"
        check_translation(model, atoms, tolerance)
        check_rotation(model, atoms, tolerance)
        check_permutation(model, atoms, tolerance)
        check_forces(model, atoms, 100 * tolerance)
        done += [f"{check} of {name}" for check in ("translation", "rotation", "permutation", "forces")]
        if has_volume(atoms):
            check_stress(model, atoms, 100 * tolerance)
            done.append(f"stress of {name}")
        if model.description.properties and "total_charge" in model.honours - model.predicts:
            check_total_charge(model, atoms, tolerance)
            done.append(f"total charge of {name}")
        if model.self_consistent:
            done += check_self_consistency(model, atoms, name, tolerance)
        if obeys_field and (not atoms.pbc.any() or model.description.has_polarization):
            check_field_response(model, atoms, 100 * tolerance)
            done.append(f"field response of {name}")
    check_batch(model, systems, tolerance)
    check_training_gradients(model, systems[0], 1e-5)
    check_save_load(model, systems)
    check_precision(model, systems)
    return [*done, "batch", "training gradients", "save and load", "precision"]


def check_translation(model: Model, atoms: Atoms, tolerance: float = 1e-9) -> None:
    """Energy, forces and multipoles stay under a shift of all atoms; in a field F the energy of a charged
    system changes by -Q F.shift."""
    shift = np.array([0.731, -1.213, 0.457])
    moved = atoms.copy()
    moved.positions += shift
    before, after = evaluate(model, atoms), evaluate(model, moved)
    work = 0.0
    if "external_field" in model.honours:
        field = np.asarray(atoms.info.get("external_field", np.zeros(3)), dtype=np.float64)
        work = -float(before["total_charge"][0]) * float(field @ shift)
    assert_close("energy of a shifted system", after["energy"], before["energy"] + work, tolerance)
    for name in ("forces", *MULTIPOLES):
        if name in before:
            assert_close(f"{name} of a shifted system", after[name], before[name], tolerance)


def check_rotation(model: Model, atoms: Atoms, tolerance: float = 1e-9) -> None:
    """All results turn with the system (atoms, cell and field), also with an improper rotation; multipoles by
    the rotation matrices of real spherical harmonics."""
    stress = has_volume(atoms)
    before = evaluate(model, atoms, stress=stress)
    turn, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    for rotation in (turn, -turn):
        turned = atoms.copy()
        turned.positions = atoms.positions @ rotation.T
        turned.cell = atoms.cell.array @ rotation.T
        if "external_field" in atoms.info:
            turned.info["external_field"] = rotation @ np.asarray(atoms.info["external_field"], dtype=float)
        after = evaluate(model, turned, stress=stress)
        assert_close("energy of a rotated system", after["energy"], before["energy"], tolerance)
        for name in ("forces", "dipole", "polarization"):
            if name in before and (name == "forces" or not atoms.pbc.any()):
                expected = before[name] @ rotation.T
                assert_close(f"{name} of a rotated system", after[name], expected, tolerance)
        if stress:
            expected = rotation @ before["stress"] @ rotation.T
            assert_close("stress of a rotated system", after["stress"], expected, tolerance)
        for name in MULTIPOLES:
            if name in before:
                max_l = round(before[name].shape[1] ** 0.5) - 1
                expected = before[name] @ rotation_of_multipoles(rotation, max_l).T
                for l in range(max_l + 1):
                    block = slice(l * l, (l + 1) ** 2)
                    what = f"{name} of l={l} of a rotated system"
                    assert_close(what, after[name][:, block], expected[:, block], tolerance)


def check_permutation(model: Model, atoms: Atoms, tolerance: float = 1e-9) -> None:
    """Results follow the order of the atoms."""
    order = np.random.default_rng(5).permutation(len(atoms))
    before, after = evaluate(model, atoms), evaluate(model, atoms[order])
    assert_close("energy of reordered atoms", after["energy"], before["energy"], tolerance)
    for name in ("forces", *MULTIPOLES):
        if name in before:
            assert_close(f"{name} of reordered atoms", after[name], before[name][order], tolerance)


def check_total_charge(model: Model, atoms: Atoms, tolerance: float = 1e-9) -> None:
    """Charges add up to the requested total charge, for several, and the dipole is theirs."""
    whole = "total_charge" in model.config.backbone.conditions
    for charge in (1.0, -1.0) if whole else (1.0, -2.0, 0.5):
        copy = atoms.copy()
        copy.info.pop("charge", None)
        copy.info["total_charge"] = charge
        result = evaluate(model, copy)
        assert_close("sum of the charges", [result["charges"].sum()], [charge], tolerance)
        assert_close("total_charge", result["total_charge"], [charge], tolerance)
        moments = result["charges"] @ atoms.positions
        if result["multipoles"].shape[1] > 1:
            moments = moments + result["multipoles"][:, [3, 1, 2]].sum(axis=0)
        assert_close("dipole of the density", result["dipole"][0], moments, tolerance)


def check_batch(model: Model, systems: Sequence[Atoms], tolerance: float = 1e-9) -> None:
    """A batch of all systems gives what each gives alone, whatever their boundaries."""
    stress = all(has_volume(atoms) for atoms in systems)
    batch = as_arrays(model(batch_of(model, systems), stress=stress))
    single = [evaluate(model, atoms, stress=stress) for atoms in systems]
    for name, values in batch.items():
        if name.startswith("scf_"):
            continue  # how it was found, not what
        expected = np.concatenate([result[name] for result in single])
        if np.abs(expected).max(initial=0.0) > 0:
            assert_close(f"{name} of a batch", values, expected, tolerance)
        elif np.abs(values).max(initial=0.0) > 0:
            raise ContractError(f"{name} of a batch is not zero, but is for every system alone")


def check_save_load(model: Model, systems: Sequence[Atoms]) -> None:
    """A saved and loaded model gives the same bits; on a GPU, whose sums in torch have no fixed order, the
    same numbers to rounding, from the same bits of every tensor."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.electret"
        save(model, path, {"purpose": "contract"})
        loaded = load(path, device=model.sigma.device)
    kept = loaded.state_dict()
    for name, tensor in model.state_dict().items():
        if not torch.equal(tensor, kept[name]):
            raise ContractError(f"{name} differs after saving and loading")
    for atoms in systems:
        before, after = evaluate(model, atoms), evaluate(loaded, atoms)
        for name, values in before.items():
            rounding = 0.0 if model.sigma.device.type == "cpu" else 1e-9
            if not np.allclose(values, after[name], rtol=rounding, atol=rounding):
                raise ContractError(f"{name} differs after saving and loading")


def check_precision(model: Model, systems: Sequence[Atoms], relative: float = 1e-3) -> None:
    """In float32 the model gives forces and multipoles to `relative` of their largest value, interaction
    energies to `relative` of an eV per atom."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.electret"
        save(model, path)
        narrow = load(path, device=model.sigma.device, dtype=torch.float32)
    for atoms in systems:
        exact, rounded = evaluate(model, atoms), evaluate(narrow, atoms)
        for name in ("forces", *MULTIPOLES):
            if name in exact:
                tolerance = relative * float(np.abs(exact[name]).max())
                assert_close(f"{name} in float32", rounded[name], exact[name], tolerance)
        error = float(np.abs(exact["energy"] - rounded["energy"]).max())
        if error > relative * len(atoms):
            raise ContractError(f"energy in float32 differs by {error:.3e} eV for {len(atoms)} atoms")
