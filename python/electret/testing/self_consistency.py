"""The part of the contract that self-consistent densities add: charge control and response."""

from __future__ import annotations

import numpy as np
import torch
from ase import Atoms

from electret.models import Model
from electret.scf import ScfRequest, State
from electret.testing.comparison import ContractError, assert_close
from electret.testing.derivatives import check_forces, check_stress
from electret.testing.evaluation import (
    STENCIL,
    as_arrays,
    batch_of,
    derivative,
    energies,
    evaluate,
    evaluate_all,
    graph_of,
    has_volume,
)

__all__ = ["check_constant_fermi_level", "check_responses", "check_self_consistency", "check_warm_start"]


def check_self_consistency(model: Model, atoms: Atoms, name: str, tolerance: float = 1e-9) -> list[str]:
    """Runs the checks below on one system, and returns what was checked."""
    found = evaluate(model, atoms)
    if not found["scf_converged"].all():
        raise ContractError(f"the density of {name} did not converge: {found['scf_history'][0].tolist()}")
    check_warm_start(model, atoms, tolerance)
    check_constant_fermi_level(model, atoms, tolerance)
    done = [f"{check} of {name}" for check in ("warm start", "constant Fermi level")]
    if not atoms.pbc.any():
        check_responses(model, atoms, 1e3 * tolerance)
        done.append(f"responses of {name}")
    return done


def at_fermi_level(atoms: Atoms, level: float) -> Atoms:
    """A copy of the atoms at a constant Fermi level in eV."""
    copy = atoms.copy()
    for key in ("total_charge", "charge"):
        copy.info.pop(key, None)
    copy.info["fermi_level"] = level
    return copy


def check_warm_start(model: Model, atoms: Atoms, tolerance: float = 1e-9) -> None:
    """The result does not depend on the density that the search starts from."""
    cold = evaluate(model, atoms)
    generator = torch.Generator().manual_seed(13)
    p = torch.as_tensor(cold["multipoles"])
    start = State(  # on the CPU, wherever the model is
        p + 0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype),
        torch.as_tensor(cold["fermi_level"]) + 0.5,
    )
    warm = as_arrays(model(graph_of(model, atoms), scf=ScfRequest(start=start)))
    for name in ("multipoles", "energy", "forces", "fermi_level"):
        assert_close(f"{name} from another start", warm[name], cold[name], tolerance)


def check_constant_fermi_level(
    model: Model, atoms: Atoms, tolerance: float = 1e-9, offset: float = 0.2, step: float = 1e-2
) -> None:
    """At constant Fermi level: the level is kept; constant charge at the charge found gives the same state;
    forces are -dOmega/dR and, for variational models, the charge is dOmega/dmu, by finite differences."""
    level = float(evaluate(model, atoms)["fermi_level"][0]) + offset
    open_system = at_fermi_level(atoms, level)
    found = evaluate(model, open_system)
    assert_close("fermi_level at constant Fermi level", found["fermi_level"], [level], tolerance)
    charge = float(found["total_charge"][0])
    assert_close("grand potential", found["grand_potential"], found["energy"] + level * charge, tolerance)
    closed = atoms.copy()
    closed.info.pop("charge", None)
    closed.info["total_charge"] = charge
    back = evaluate(model, closed)
    for name in ("energy", "multipoles", "fermi_level"):
        assert_close(f"{name} at the charge of a constant Fermi level", back[name], found[name], tolerance)
    check_forces(model, open_system, 100 * tolerance)
    if has_volume(atoms):
        check_stress(model, open_system, 100 * tolerance)
    if getattr(model, "variational", False):
        levels = [at_fermi_level(atoms, level + offset_ * step) for offset_, _ in STENCIL]
        expected = derivative(energies(model, levels), step)
        assert_close("charge against dOmega/dmu", charge, expected, 100 * tolerance)


def check_responses(model: Model, atoms: Atoms, tolerance: float = 1e-6, step: float = 1e-3) -> None:
    """Polarisability, Born effective charges, Fukui functions, capacitance, dE/dQ and d²E/dQ² against finite
    differences of dipoles, multipoles, Fermi levels, energies, dE/dQ; -mu is dE/dQ for variational models."""
    names = ["polarizability", "born_effective_charges", "fukui", "fukui_multipoles", "capacitance"]
    names += ["charge_stiffness", "energy_charge_curvature"]
    found = as_arrays(model(graph_of(model, atoms), properties=names))
    field = np.asarray(atoms.info.get("external_field", np.zeros(3)), dtype=np.float64)
    copies = []
    for axis in np.eye(3):
        for offset, _ in STENCIL:
            copy = atoms.copy()
            copy.info["external_field"] = field + offset * step * axis
            copies.append(copy)
    dipoles = evaluate_all(model, copies)["dipole"].reshape(3, -1, 3)  # [axis, point, component]
    expected = derivative(dipoles.transpose(2, 0, 1), step)
    assert_close("polarizability against dD/dF", found["polarizability"][0], expected, tolerance)
    direction = np.random.default_rng(17).normal(size=(len(atoms), 3))
    copies = []
    for offset, _ in STENCIL:
        copy = atoms.copy()
        copy.positions = atoms.positions + offset * step * direction
        copies.append(copy)
    moved = derivative(evaluate_all(model, copies)["dipole"].T, step)
    predicted = np.einsum("iab,ib->a", found["born_effective_charges"], direction)
    assert_close("Born effective charges against dD/dR", predicted, moved, tolerance)
    charge = float(evaluate(model, atoms)["total_charge"][0])
    copies = []
    for offset, _ in STENCIL:
        copy = atoms.copy()
        copy.info.pop("charge", None)
        copy.info["total_charge"] = charge + offset * step
        copies.append(copy)
    at_charges = evaluate_all(model, copies)
    fukui = derivative(np.moveaxis(at_charges["multipoles"], 0, -1), step)
    assert_close("Fukui functions against dq/dQ", found["fukui"], fukui[:, 0], tolerance)
    assert_close("Fukui functions of multipoles against dp/dQ", found["fukui_multipoles"], fukui, tolerance)
    stiffness = derivative(at_charges["fermi_level"], step)
    assert_close("capacitance against -dQ/dmu", found["capacitance"][0], -1.0 / stiffness, tolerance)
    slope = derivative(at_charges["energy"], step)
    assert_close("dE/dQ against finite differences", found["energy_charge_derivative"][0], slope, tolerance)
    at_charges = as_arrays(model(batch_of(model, copies), properties=["charge_stiffness"]))
    curvature = derivative(at_charges["energy_charge_derivative"], step)
    assert_close(
        "d²E/dQ² against differences of dE/dQ", found["energy_charge_curvature"][0], curvature, tolerance
    )
    if getattr(model, "variational", False):
        assert_close("dE/dQ against -mu", found["energy_charge_derivative"], -found["fermi_level"], tolerance)
