"""ASE calculator of a trained model."""

from __future__ import annotations

import copy
import difflib
import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator as ASECalculator
from ase.calculators.calculator import PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from electret import InputError
from electret.graph import Graph
from electret.models import Model, build, load
from electret.models.backbone import load_tensors

__all__ = ["Calculator"]

CONDITIONS = ("total_charge", "charge", "external_field", "fermi_level")
"""Keys of `atoms.info` that change the result."""

FOREIGN_CONDITIONS: Mapping[str, str] = {
    "electric_field": "name it external_field (V/Å, energy -F·D)",
    "efield": "name it external_field (V/Å, energy -F·D)",
    "field": "name it external_field (V/Å, energy -F·D)",
    "chemical_potential": "name it fermi_level (eV)",
    "electrode_potential": "name it fermi_level (eV)",
    "mu": "name it fermi_level (eV)",
    "net_charge": "name it total_charge (e)",
    "spin": "the model has no spin",
    "total_spin": "the model has no spin",
    "multiplicity": "the model has no spin",
    "spin_multiplicity": "the model has no spin",
}
"""Keys by which other codes take conditions, and what to do about each."""

DENSITY_PROPERTIES: Mapping[str, tuple[str, ...]] = {
    "fixed_charges": ("charges", "dipole"),
    "local_charges": ("charges", "dipole"),
    "split_charges": ("charges", "dipole", "polarization"),
}
"""ASE properties of the density of each family. Latent charges are no observables: they are in `state`
alone."""


class Calculator(ASECalculator):
    """ASE calculator of a model: energy, forces, stress, and what the model's charge density gives.

    Conditions are taken from `atoms.info`: `total_charge` or `charge` (e), `external_field` (V/Å, energy
    -F·D), `fermi_level` (eV). A change of one of them makes the next request calculate anew. A condition
    that the model cannot answer, or the name of a condition in another code or with a slip in it, is an
    error.

    `results` holds ASE's properties: `energy`, `free_energy` (eV), `forces` [n_atoms, 3] (eV/Å), `stress` [6]
    (eV/Å³, ASE's sign and Voigt order; needs a periodic axis and a cell with a volume), and for models with
    a density `charges` [n_atoms] (e), `dipole` [3] (e·Å, x y z; open boundaries; of a charged system it is
    about the origin) and `polarization` [3] (e·Å; split charges). `state` holds the rest of the last
    calculation: `energy_short_range`, `energy_electrostatic`, `energy_field` (eV), `multipoles` [n_atoms,
    (max_l + 1)²] (`latent_multipoles` where they stand for no observable), `total_charge` (e, of the
    density), and for a slab `dipole_normal`, the dipole along the normal of its periodic plane (e·Å).

    Args:
        model: path of a `.electret` file, or a model (copied, so that later training does not reach the
            calculator).
        device: `"cpu"`, `"cuda"`, `"cuda:1"`, ...
        dtype: `torch.float32`, `torch.float64` or their names; the model's own where None.
        ignore: keys of `atoms.info` that are a condition, or look like one, and are not meant for this
            calculator, as the `fermi_level` of a training frame.

    Raises:
        InputError: a file or argument that cannot be used, a condition that the model does not answer, an
            element that it does not know, positions or cells that are not finite.
        PropertyNotImplementedError: a property that the family or the boundary does not define; the reason
            is given.

    Example:
        >>> from electret import Calculator
        >>> atoms.calc = Calculator("model.electret")           # doctest: +SKIP
        >>> atoms.info["external_field"] = [0.0, 0.0, 0.1]      # doctest: +SKIP
        >>> atoms.get_potential_energy()                        # doctest: +SKIP
    """

    name = "electret"
    ignored_changes = {"initial_charges", "initial_magmoms"}  # noqa: RUF012 (a class attribute in ASE)

    def __init__(
        self,
        model: str | os.PathLike[str] | Model,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | str | None = None,
        *,
        ignore: Iterable[str] = (),
    ) -> None:
        super().__init__()
        self.device = _device(device)
        wanted_dtype = _dtype(dtype)
        if isinstance(model, Model):
            self.model = _copy(model, wanted_dtype).to(self.device)
        else:
            self.model = load(model, device=self.device, dtype=wanted_dtype)
        self.model.eval().requires_grad_(False)
        self.dtype: torch.dtype = self.model.dtype
        self.ignore = frozenset(ignore)
        self.implemented_properties = [
            "energy",
            "free_energy",
            "forces",
            "stress",
            *DENSITY_PROPERTIES.get(self.model.family, ()),
        ]
        self.state: dict[str, Any] = {}
        self._with_stress = False

    def __deepcopy__(self, memo: dict[int, Any]) -> Calculator:
        """A calculator with results of its own on the same weights, which neither changes."""
        memo[id(self.model)] = self.model
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__dict__.update({name: copy.deepcopy(value, memo) for name, value in self.__dict__.items()})
        return twin

    def reset(self) -> None:
        """Forget the results, the state and the atoms that they belong to."""
        super().reset()
        self.state = {}
        self._with_stress = False

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What differs from the atoms of the last calculation, conditions in `atoms.info` included."""
        changes = super().check_state(atoms, tol=tol)
        if self.atoms is not None and not _equal(
            self._conditions(self.atoms.info), self._conditions(atoms.info)
        ):
            changes.append("info")
        return changes

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """A property of `atoms`; `PropertyNotImplementedError` gives the reason where it is not defined."""
        subject = self.atoms if atoms is None else atoms
        if subject is not None:
            self._require(name, subject)
        return super().get_property(name, atoms, allow_calculation)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Evaluate the model; called by ASE. Fills `results` and `state`."""
        super().calculate(atoms, properties, system_changes)
        system = self.atoms  # ASE's copy of what was given, or of the atoms of the last calculation
        if system is None:
            raise InputError("the calculator has no atoms yet; give atoms to calculate")
        for name in properties:
            self._require(name, system)
        # ASE's copy of the atoms shares the values of `info`, which may change in place.
        system.info = copy.deepcopy(self._conditions(system.info))
        self._check_names(system.info)
        # A cell optimiser asks for forces, then stress: from the second step on one evaluation gives both.
        self._with_stress |= "stress" in properties
        with_stress = self._with_stress and _stress_refusal(system) is None
        with_forces = with_stress or bool({"forces", "stress"}.intersection(properties))
        graph = Graph.from_atoms(system, self.model.cutoff, dtype=self.dtype, labels=False)
        graph = graph.to(device=self.device)
        output = self.model(graph, forces=with_forces, stress=with_stress)
        values = {name: value.cpu().numpy().astype(np.float64) for name, value in output.items()}

        energy = float(values["energy"][0])
        self.results = {"energy": energy, "free_energy": energy}
        if with_forces:
            self.results["forces"] = values["forces"]
        if with_stress:
            self.results["stress"] = full_3x3_to_voigt_6_stress(values["stress"][0])
        if self._refusal("charges", system) is None:
            self.results["charges"] = values["charges"]
        for name in ("dipole", "polarization"):
            if self._refusal(name, system) is None:
                self.results[name] = values[name][0]
        self.state = _state(values, system)

    def _refusal(self, name: str, atoms: Atoms) -> str | None:
        """Why `name` is not defined for `atoms`, or None where it is."""
        if name not in self.implemented_properties:
            defined = ", ".join(self.implemented_properties)
            return f"the model family {self.model.family!r} does not define it; it defines {defined}"
        if name == "stress":
            return _stress_refusal(atoms)
        if name == "dipole" and atoms.pbc.any():
            axes = ", ".join(axis for axis, periodic in zip("abc", atoms.pbc, strict=True) if periodic)
            return (
                f"the dipole is not defined along the periodic axes {axes}; of a slab, "
                "calc.state['dipole_normal'] holds the component along its normal"
            )
        return None

    def _require(self, name: str, atoms: Atoms) -> None:
        reason = self._refusal(name, atoms)
        if reason is not None:
            raise PropertyNotImplementedError(f"no {name}: {reason}")

    def _conditions(self, info: Mapping[str, Any]) -> dict[str, Any]:
        """The entries of `info` that change the result or stop it."""
        return {
            key: value
            for key, value in info.items()
            if key not in self.ignore and (key in CONDITIONS or _misnomer(key) is not None)
        }

    def _check_names(self, conditions: Mapping[str, Any]) -> None:
        """Refuse conditions that would be left without an answer because of their name."""
        for key in conditions:
            if key not in CONDITIONS:
                raise InputError(
                    f"atoms.info[{key!r}] is not a condition of this calculator: {_misnomer(key)} "
                    f"(to leave it out of account: Calculator(..., ignore=[{key!r}]))"
                )


@functools.cache
def _misnomer(key: Any) -> str | None:
    """What to do about a key of `atoms.info` that only looks like a condition; None for one that does not."""
    if not isinstance(key, str) or key in CONDITIONS or key.startswith("REF_"):
        return None
    name = key.lower()
    if name in FOREIGN_CONDITIONS:
        return FOREIGN_CONDITIONS[name]
    nearest = difflib.get_close_matches(name, CONDITIONS, n=1, cutoff=0.85)
    return f"did you mean {nearest[0]!r}?" if nearest else None


def _state(values: Mapping[str, np.ndarray], atoms: Atoms) -> dict[str, Any]:
    """What the calculator knows beyond ASE's properties."""
    state: dict[str, Any] = {
        name: float(values[name][0])
        for name in ("energy_short_range", "energy_electrostatic", "energy_field", "total_charge")
        if name in values
    }
    for name in ("multipoles", "latent_multipoles"):
        if name in values:
            state[name] = values[name]
    if "dipole" in values and atoms.pbc.sum() == 2:
        first, second = atoms.cell[atoms.pbc]
        normal = np.cross(first, second)
        state["dipole_normal"] = float(values["dipole"][0] @ normal / np.linalg.norm(normal))
    return state


def _equal(conditions: Mapping[str, Any], others: Mapping[str, Any]) -> bool:
    return conditions.keys() == others.keys() and all(
        np.array_equal(value, others[key]) for key, value in conditions.items()
    )


def _stress_refusal(atoms: Atoms) -> str | None:
    if not atoms.pbc.any():
        return "an open system has none"
    if atoms.cell.rank < 3:
        return "the cell has no volume; give the open axes a cell vector too"
    return None


def _copy(model: Model, dtype: torch.dtype | None) -> Model:
    """A model of its own memory, in `dtype`."""
    if dtype in (None, model.dtype):
        return copy.deepcopy(model)
    backbone = model.config.backbone.model_copy(update={"dtype": str(dtype).removeprefix("torch.")})
    twin = build(model.config.model_copy(update={"backbone": backbone}), model.statistics)
    load_tensors(twin, model.state_dict())  # the parts that are float64 in every dtype keep their digits
    return twin


def _device(device: str | torch.device) -> torch.device:
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device is {device!r}; use 'cpu', 'cuda' or 'cuda:N'") from error
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise InputError(
            f"device is {device!r} but torch finds no CUDA device; `electret info` says why, or use 'cpu'"
        )
    return resolved


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    known = {"float32": torch.float32, "float64": torch.float64}
    if dtype is None or dtype in known.values():
        return dtype  # type: ignore[return-value]
    if isinstance(dtype, str) and dtype in known:
        return known[dtype]
    raise InputError(f"dtype is {dtype!r}; use 'float32', 'float64' or None for the model's own")
