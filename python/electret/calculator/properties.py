"""Properties that a model defines for a system, reasons where they are undefined, and entries of `state`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.stress import full_3x3_to_voigt_6_stress

from electret.cuda.plans import to_host
from electret.graph import Graph
from electret.models import Model

__all__ = [
    "DERIVED",
    "NORMALS",
    "RESPONSES",
    "STATE",
    "Response",
    "array",
    "implemented",
    "of_system",
    "on_host",
    "per_atom",
    "refusal",
    "responses",
    "results",
    "state",
    "stress_refusal",
    "undefined_by_boundary",
]

ALWAYS = ("energy", "free_energy", "energies", "forces", "stress")


@dataclass(frozen=True)
class Response:
    """A derivative of the density or of the energy through it, which is calculated only on request.

    Attributes:
        request: name in `properties` of `Model.forward`.
        per_atom: one row per atom, or one value per system.
        is_property: a property of ASE's interface too, one of the dipole or its derivatives.
    """

    request: str
    per_atom: bool = False
    is_property: bool = False


RESPONSES: Mapping[str, Response] = {
    "energy_charge_derivative": Response("charge_stiffness"),
    "polarizability": Response("polarizability", is_property=True),
    "energy_polarizability": Response("energy_polarizability", is_property=True),
    "born_effective_charges": Response("born_effective_charges", per_atom=True, is_property=True),
    "energy_charge_curvature": Response("energy_charge_curvature"),
    "fukui": Response("fukui", per_atom=True),
    "fukui_multipoles": Response("fukui_multipoles", per_atom=True),
    "capacitance": Response("capacitance"),
    "stability": Response("stability"),
    "dielectric_tensor": Response("dielectric_tensor", is_property=True),
}
"""Results of `Calculator.response` by name."""

DERIVED = tuple(name for name, response in RESPONSES.items() if response.is_property)
"""Responses that are properties of ASE's interface."""


def implemented(model: Model) -> list[str]:
    """ASE properties that the family defines, for some boundary at least."""
    derived = (name for name in DERIVED if RESPONSES[name].request in model.available_properties)
    return [*ALWAYS, *model.description.properties, *derived]


def per_atom(name: str, model: Model) -> bool:
    """True for a property with one row per atom."""
    if name in RESPONSES:
        return RESPONSES[name].per_atom
    return model.description.properties.get(name) == "atom" or name in _OF_ATOMS


def refusal(name: str, atoms: Atoms, model: Model, defined: Collection[str]) -> str | None:
    """Reason for which `name` is not defined for `atoms`, or None."""
    if name not in defined:
        reason = f"the model family {model.family!r} does not define it; it defines {', '.join(defined)}"
        if name == "dielectric_tensor":
            reason += (
                ". It belongs to charges that flow along edges ('sqe', or flow: true of 'fixed_point' and "
                "'energy_functional') or do not respond ('fixed_point' with responding: dipoles)"
            )
        if name == "polarization" and model.self_consistent:
            reason += (
                ". Charges of atoms do not say how they got there; 'split_charges', 'sqe' and flow: true "
                "have a polarisation"
            )
        return reason
    if name == "dielectric_tensor" and not atoms.pbc.all():
        return "it is defined for crystals; of open systems ask for the polarizability"
    if undefined_by_boundary(name, atoms, model):
        axes = ", ".join(axis for axis, periodic in zip("abc", atoms.pbc, strict=True) if periodic)
        place = "state" if name == "dipole" else "response(atoms)"
        return (
            f"the dipole is not defined along the periodic axes {axes}; of a slab, "
            f"calc.{place}['{NORMALS[name]}'] holds the component along its normal"
        )
    return None


def stress_refusal(atoms: Atoms, of_open: bool) -> str | None:
    """Reason for a system to have no stress, or None; `of_open` lets open systems in a cell have one."""
    if not (of_open or atoms.pbc.any()):
        return (
            "an open system has none (Calculator(..., open_stress='virial') for programs that insist on one)"
        )
    if atoms.cell.rank < 3:
        return "the cell has no volume; give the open axes a cell vector too"
    return None


def on_host(values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors on the CPU, by one copy, and so one wait for a device."""
    there = {name: value for name, value in values.items() if value.device.type != "cpu"}
    copies = map(torch.from_numpy, to_host(list(there.values())))
    return dict(values) | dict(zip(there, copies, strict=True))


def array(value: torch.Tensor) -> np.ndarray:
    """A float64 array of its own memory."""
    return value.cpu().numpy().astype(np.float64)


def of_system(values: Mapping[str, torch.Tensor], graph: Graph, position: int) -> dict[str, torch.Tensor]:
    """Outputs of the model for one system of a batch, as a batch of one."""
    rows = slice(int(graph.ptr[position]), int(graph.ptr[position + 1]))
    one = slice(position, position + 1)  # equal to the rows where every system is one atom
    return {name: value[rows if len(value) == graph.n_atoms else one] for name, value in values.items()}


def results(
    values: Mapping[str, torch.Tensor], atoms: Atoms, model: Model, internal: bool = False
) -> dict[str, Any]:
    """Properties of ASE's interface of the one system; at constant Fermi level `energy` is the grand
    potential, or with `internal` E."""
    energy = values["energy"].item()
    grand_potential = values["grand_potential"].item() if "grand_potential" in values else energy
    found: dict[str, Any] = {
        "energy": energy if internal else grand_potential,
        "free_energy": grand_potential,
    }
    if "energies" in values:
        found["energies"] = array(values["energies"])
        if not internal and "fermi_level" in model.honours.intersection(atoms.info):
            # whose sum is mu Q
            found["energies"] += values["fermi_level"].item() * array(values["charges"])
    if "forces" in values:
        found["forces"] = array(values["forces"])
    if "stress" in values:
        found["stress"] = full_3x3_to_voigt_6_stress(array(values["stress"])[0])
    for name, rows in model.description.properties.items():
        if not undefined_by_boundary(name, atoms, model):
            value = array(values[name])
            found[name] = value if rows == "atom" else value[0]
    return found


def state(values: Mapping[str, torch.Tensor], atoms: Atoms, model: Model) -> dict[str, Any]:
    """Results beyond ASE's properties: numbers, and arrays of the one system."""
    found: dict[str, Any] = {name: values[name].item() for name in _NUMBERS if name in values}
    if "grand_potential" in values:
        found["internal_energy"] = values["energy"].item()
    if "energy_external_charges" in values:
        found["energy_external_charges"] = values["energy_external_charges"].item()
    for name in ("external_charges_forces", "spin_multipoles"):
        if name in values:
            found[name] = array(values[name])
    for name in ("multipoles", "latent_multipoles"):
        if name in values:
            found[name] = array(values[name])
            sigma = model.config.electrostatics.sigma
            found["max_l"] = model.config.electrostatics.max_l
            found["sigma"] = np.array([sigma[s] if isinstance(sigma, dict) else sigma for s in atoms.symbols])
    if "fermi_level" not in model.honours:
        found.pop("fermi_level", None)
    elif model.self_consistent and model.variational:
        found["energy_charge_derivative"] = -found["fermi_level"]
    if model.feature_widths:
        found["widths"] = np.array(model.feature_widths)
    if "scf_iterations" in values:
        history = array(values["scf_history"])[0]
        found["scf_iterations"] = values["scf_iterations"].item()
        found["scf_history"] = history[np.isfinite(history)]
    normal = slab_normal(atoms)
    if "dipole" in values and normal is not None:
        found["dipole_normal"] = float(array(values["dipole"])[0] @ normal)
    return found


def undefined_by_boundary(name: str, atoms: Atoms, model: Model) -> bool:
    """True for the dipole, and for its derivatives that the family does not define there, of atoms with a
    periodic axis."""
    undefined = name in NORMALS and name not in model.description.periodic_responses
    return undefined and bool(atoms.pbc.any())


def responses(
    values: Mapping[str, torch.Tensor], names: Collection[str], atoms: Atoms, model: Model
) -> dict[str, Any]:
    """Numbers and arrays of the one system, for its boundary; what that does not define is left out."""
    found: dict[str, Any] = {}
    normal = slab_normal(atoms)
    for name in names:
        value = array(values[name] if RESPONSES[name].per_atom else values[name][0])
        if undefined_by_boundary(name, atoms, model):
            if normal is not None and not RESPONSES[name].per_atom:
                found[NORMALS[name]] = float(normal @ value @ normal)
            elif normal is not None:
                found[NORMALS[name]] = np.einsum("a,iab->ib", normal, value)
        else:
            found[name] = value if np.ndim(value) else float(value)
    return found


def slab_normal(atoms: Atoms) -> np.ndarray | None:
    """Unit normal [3] of the periodic plane of a slab; None for other systems."""
    if atoms.pbc.sum() != 2:
        return None
    first, second = atoms.cell[atoms.pbc]
    normal = np.cross(first, second)
    return normal / np.linalg.norm(normal)


NORMALS: Mapping[str, str] = {
    "dipole": "dipole_normal",
    "polarizability": "polarizability_normal",
    "energy_polarizability": "energy_polarizability_normal",
    "born_effective_charges": "born_effective_charges_normal",
}
"""Entry in place of each dipole property of a slab."""

_NUMBERS = (
    "energy_short_range",
    "energy_electrostatic",
    "energy_field",
    "energy_density",
    "grand_potential",
    "total_charge",
    "fermi_level",
    "energy_charge_derivative",
    "scf_residual",
)

_OF_ATOMS = (
    "energies",
    "forces",
    "multipoles",
    "latent_multipoles",
    "spin_multipoles",
    "born_effective_charges_normal",
)
_OTHERS = ("internal_energy", "multipoles", "latent_multipoles", "spin_multipoles", "scf_iterations")

STATE = (*_NUMBERS, *_OTHERS, "dipole_normal")
"""Numbers and arrays of `Calculator.state` that a model may have."""
