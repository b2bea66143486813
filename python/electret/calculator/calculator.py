"""ASE calculator of a trained model."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator as ASECalculator
from ase.calculators.calculator import PropertyNotImplementedError, all_changes
from ase.data import chemical_symbols
from ase.outputs import Properties, all_outputs
from numpy.typing import ArrayLike

from electret.calculator import conditions
from electret.calculator.conditions import ExtrapolationWarning
from electret.calculator.embedding import EmbeddedCharges
from electret.calculator.model import frozen_model
from electret.calculator.properties import (
    DERIVED,
    RESPONSES,
    implemented,
    on_host,
    refusal,
    responses,
    results,
    state,
    stress_refusal,
)
from electret.calculator.self_consistency import SelfConsistency
from electret.calculator.trajectory import TrajectoryGraph
from electret.errors import InputError
from electret.models.start.ranges import outside
from electret.scf.electrostatics import POINT_LIKE
from electret.support.locks import Lock

__all__ = ["Calculator"]


class Calculator(ASECalculator):
    """ASE calculator of a model: energy, forces, stress, and what the model's charge density gives.

    Conditions are taken from `atoms.info`: `total_charge` or `charge` (e), `external_field` (V/Å, energy
    -F·D), and for self-consistent families `fermi_level` (eV) in place of the charge, which then follows.
    `atoms.arrays["applied_potential"]` [n_atoms] (V) is the potential U_i of each atom's electrode, with the
    energy -sum_i U_i q_i. A change of one of them makes the next request calculate anew. A condition that the
    energy does not depend on, or the name of a condition in another code or with a slip in it, is an error.

    At constant Fermi level forces and stress are derivatives of the grand potential E + mu Q, and `energy`
    is that grand potential, so that whatever reads `energy` with the forces (optimisers, NEB, dynamics, host
    programs) is consistent. E is in `state["internal_energy"]`.

    One evaluation gives all of `results`: ASE's properties `energy`, `free_energy` (eV), `energies` [n_atoms]
    (eV, a share for each atom that adds up to `energy`), `forces` [n_atoms, 3] (eV/Å), `stress` [6] (eV/Å³,
    ASE's sign and Voigt order; needs a periodic axis and a cell with a volume), and for models with
    a density `charges` [n_atoms] (e), `dipole` [3] (e·Å, x y z; open boundaries; of a charged system it is
    about the origin) and `polarization` [3] (e·Å; split charges). Only on request: `polarizability`
    [3, 3] (e·Å²/V), `born_effective_charges` [n_atoms, 3, 3] (e), `dielectric_tensor` [3, 3].

    `state` holds the rest of the last calculation: `energy_short_range`, `energy_electrostatic`,
    `energy_field` (eV), `multipoles` [n_atoms, (max_l + 1)²] (`latent_multipoles` where they stand for no
    observable) with `max_l` and the `sigma` [n_atoms] (Å) of their Gaussians, the `widths` (Å) of the
    potential features of `fixed_point`, `total_charge` (e, of the density), for a slab `dipole_normal`, the
    dipole along the normal of its periodic plane (e·Å); with `embed` `energy_external_charges` (eV) and
    `external_charges_forces` [n_charges, 3] (eV/Å); of self-consistent families also `energy_density`,
    `internal_energy` (E), `grand_potential` (E + mu Q at constant Fermi level, else E), `fermi_level` (eV),
    `scf_iterations`, `scf_residual`, `scf_history`; and `extrapolating`, the conditions outside of the
    training data with a sentence on each.

    Threads may share a calculator: they take turns, each with the results of its own atoms. `results` and
    `state` are those of whichever came last.

    Args:
        model: path of a `.electret` file, or a model (copied, so that later training does not reach the
            calculator); an object of mace-torch, or with `trust` the path of a pickle of one, is converted
            (`electret.models.from_mace`).
        device: `"cpu"`, `"cuda"`, `"cuda:1"`, ...
        dtype: `torch.float32`, `torch.float64` or their names; the model's own where None.
        precision: of the electrostatic sums on a GPU, `"float64"` or `"float32"`; the latter has an accuracy
            of 1e-5 at best and takes that where the accuracy of the model is higher. The model's own where
            None.
        trust: the path is a pickle from a trusted source, and may be read.
        energy: the result `energy` at constant Fermi level, `"grand_potential"` (E + mu Q) or `"internal"`
            (E, of which the forces are not the derivative). `free_energy` is the grand potential always.
        open_stress: the stress of systems without a periodic axis: `"refuse"`, as they have none, or
            `"virial"`, dE/dstrain over the volume of their cell, for host programs that insist on one.
        periodic_field: a field along a periodic axis: `"refuse"` for families without a polarisation, or
            `"unwrapped"`, the energy -F·D with D = sum_i (q_i r_i + d_i) of the positions as given (finite
            fields, Dufils et al., Phys. Rev. Lett. 123, 195501 (2019)). Shifting a charge q by a cell vector
            a changes the energy by -q F·a, so positions are not to be wrapped between steps. Stress is that
            at constant field.
        ignore: keys of `atoms.info`, or `applied_potential`, that are a condition, or look like one, and are
            not meant for this calculator, as the `fermi_level` of a training frame.
        derivatives: evaluate forces, stress and energies of atoms with every energy. False leaves them out
            until they are requested, for the sampling of energies alone.
        warm_start: start the SCF at the density of the previous calculation of the same atoms (by number
            and periodic axes). Results depend on it within the tolerance only.
        scf_tolerance, scf_max_iterations, scf_solver: of the SCF (`newton`, `newton_cg`, `anderson`,
            `mixing`); those of the model where None.

    Raises:
        InputError: a file or argument that cannot be used, a condition that the energy does not
            depend on, an element that is not in the model, positions or cells that are not finite.
        ConvergenceError: the SCF did not converge; `history` has the residuals.
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
        model: str | os.PathLike[str] | torch.nn.Module,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | str | None = None,
        precision: str | None = None,
        *,
        trust: bool = False,
        energy: Literal["grand_potential", "internal"] = "grand_potential",
        open_stress: Literal["refuse", "virial"] = "refuse",
        periodic_field: Literal["refuse", "unwrapped"] = "refuse",
        ignore: Iterable[str] = (),
        derivatives: bool = True,
        warm_start: bool = True,
        scf_tolerance: float | None = None,
        scf_max_iterations: int | None = None,
        scf_solver: str | None = None,
    ) -> None:
        super().__init__()
        if energy not in ("grand_potential", "internal"):
            raise InputError(f"energy = {energy!r}; use 'grand_potential' (E + mu Q) or 'internal' (E)")
        if open_stress not in ("refuse", "virial"):
            raise InputError(f"open_stress = {open_stress!r}; use 'refuse' or 'virial'")
        if periodic_field not in ("refuse", "unwrapped"):
            raise InputError(f"periodic_field = {periodic_field!r}; use 'refuse' or 'unwrapped'")
        self._internal = energy == "internal"
        self._open_stress = open_stress == "virial"
        self.model, self._ranges = frozen_model(model, device, dtype, precision, trust)
        self.model.unwrapped_field = periodic_field == "unwrapped"
        self.device = torch.device(device)
        self.dtype: torch.dtype = self.model.dtype
        self.ignore = _names(ignore)
        self.derivatives = derivatives
        self.implemented_properties = implemented(self.model)
        self._scf = SelfConsistency(scf_tolerance, scf_max_iterations, scf_solver, warm_start)
        self._scf.check(self.model)
        self._trajectory = TrajectoryGraph(self.model.cutoff, self.dtype, self.device)
        self.state: dict[str, Any] = {}
        self._embedded: EmbeddedCharges | None = None
        self._every_time: tuple[str, ...] = ()
        self._lock = Lock()
        self._warned: set[str] = set()

    def __repr__(self) -> str:
        place = "" if self.device.type == "cpu" else f", {self.device}"
        elements = " ".join(chemical_symbols[number] for number in self.model.statistics.elements)
        return (
            f"Calculator({self.model.family} model, {elements}, cutoff {self.model.cutoff:g} Å, "
            f"{str(self.dtype).removeprefix('torch.')}{place})"
        )

    @property
    def training_ranges(self) -> dict[str, Any]:
        """Conditions in the training data of the model's file (`electret.models.start.ranges`); empty if
        unknown."""
        return self._ranges

    def __deepcopy__(self, memo: dict[int, Any]) -> Calculator:
        """A calculator with results of its own on the same weights, which neither changes."""
        memo[id(self.model)] = self.model
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        with self._lock:
            twin.__dict__.update({name: copy.deepcopy(value, memo) for name, value in self.__dict__.items()})
        return twin

    def set(self, **parameters: Any) -> dict[str, Any]:
        """ASE's way to change parameters; there are none, so that any is an `InputError`."""
        conditions.refuse_parameters(parameters)
        return super().set()

    def embed(
        self, charges: ArrayLike, positions: ArrayLike | None = None, width: float = POINT_LIKE
    ) -> EmbeddedCharges:
        """Put fixed charges around the atoms, whose potential acts on the density from now on (electrostatic
        embedding), exactly in every boundary. ASE's `EIQMMM` calls this.

        The energy then includes that of the density and the charges (`state["energy_external_charges"]`), not
        that of the charges with each other. The result moves them and gives the forces on them. Stress is the
        derivative in a strain of atoms and charges together.

        Args:
            charges: [n_charges], e; replace those of an earlier call, and none removes them.
            positions: [n_charges, 3], Å; None leaves them to `set_positions` of the result.
            width: of their Gaussians, Å. The default is that of a point charge to 1e-6 beyond 1.5 Å.

        Raises:
            InputError: a family whose density does not take them, a width that is not positive.
        """
        self.model.check_external_charges()
        embedded = EmbeddedCharges(charges, width)
        if positions is not None:
            embedded.set_positions(positions)
        with self._lock:
            self._embedded = embedded
        return embedded

    def reset(self) -> None:
        """Drop the results, the state, the atoms that they belong to, and the start of the next SCF."""
        with self._lock:
            super().reset()
            self.state = {}
            self._scf.drop()

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """Differences from the atoms of the last calculation, conditions in `atoms.info` included."""
        # ASE's tolerance is that of rounding: to compare the very numbers takes a tenth of the time.
        if self.atoms is not None and tol <= 1e-15:
            changes = _changes(self.atoms, atoms)
        else:
            changes = super().check_state(atoms, tol=tol)
        if self.atoms is not None:
            changes += conditions.changed(self.atoms, atoms, self.ignore)
        if self._embedded is not None and self._embedded.moved:
            changes.append("external_charges")
        return changes

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """A property of `atoms`; `PropertyNotImplementedError` gives the reason where it is not defined."""
        with self._lock:
            subject = self.atoms if atoms is None else atoms
            if subject is not None:
                self._require(name, subject)
            return super().get_property(name, subject, allow_calculation)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Evaluate the model; called by ASE. Fills `results` and `state`."""
        with self._lock:
            self._calculate(atoms, properties, system_changes)

    def _calculate(
        self, atoms: Atoms | None, properties: Sequence[str], system_changes: Sequence[str]
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        system = self.atoms  # ASE's copy of what was given, or of the atoms of the last calculation
        if system is None:
            raise InputError("the calculator has no atoms yet; give atoms to calculate")
        for name in properties:
            self._require(name, system)
        # ASE's copy of the atoms shares the values of `info`, which may change in place.
        conditions.keep(system, self.ignore)
        conditions.check(system.info, self.model.honours)
        derived = [name for name in properties if name in DERIVED]
        if system_changes or not self.results or len(derived) < len(properties):
            self._evaluate(system, properties)
        if derived:
            values = self._respond(derived)
            self.results.update({name: values[name] for name in derived})

    def _evaluate(self, system: Atoms, properties: Sequence[str]) -> None:
        """Energy, derivatives and density of the system."""
        refused = self._refusal("stress", system) is not None
        with_stress = (self.derivatives or "stress" in properties) and not refused
        with_forces = self.derivatives or bool({"forces", "stress"}.intersection(properties))
        with_energies = self.derivatives or "energies" in properties
        requests = (*self._every_time, "energies") if with_energies else self._every_time
        output = self._output(system, forces=with_forces, stress=with_stress, properties=requests)
        values = on_host(output)
        self.results = results(values, system, self.model, self._internal)
        self.state = state(values, system, self.model)
        if self._embedded is not None:
            self._embedded.moved = False
        self.state["extrapolating"] = self._extrapolations(system, self.state.get("total_charge"))

    def _output(self, system: Atoms, **options: Any) -> dict[str, torch.Tensor]:
        """Output of the model for the system."""
        graph = self._trajectory.of(system)
        if self._embedded is not None:
            options["external_charges"] = self._embedded.on(self.device)
        if self.model.self_consistent:
            return self._scf.evaluate(self.model, graph, system, self._notes(system), **options)
        return self.model(graph, **options)

    def response(
        self, atoms: Atoms | None = None, properties: Iterable[str] | None = None
    ) -> dict[str, float | np.ndarray]:
        """Derivatives of the density and what follows from them, exact and without finite differences.

        - `polarizability` [3, 3]: dD_a/dF_b, e·Å²/V
        - `born_effective_charges` [n_atoms, 3, 3]: dD_a/dR_ib, e
        - `fukui` [n_atoms]: dq_i/dQ; `fukui_multipoles` [n_atoms, (max_l + 1)²]: dp_i/dQ, Å^l
        - `capacitance`: -dQ/dmu, e/V
        - `energy_charge_derivative`: dE/dQ, eV/e; `energy_charge_curvature`: d²E/dQ², eV/e²
        - `stability`: spectral radius of the map of the density onto itself

        at the charge control of the calculation (constant charge or constant Fermi level). For a slab, in
        place of the first two, `polarizability_normal` and `born_effective_charges_normal` [n_atoms, 3] hold
        the component of the dipole along the normal of its plane.

        Args:
            atoms: None takes those of the last calculation.
            properties: some of the names above; None takes all that the model and the boundary define.

        Raises:
            PropertyNotImplementedError: a property by name that is not defined; the reason is given.
        """
        with self._lock:
            return self._response(atoms, properties)

    def _response(
        self, atoms: Atoms | None, properties: Iterable[str] | None
    ) -> dict[str, float | np.ndarray]:
        self.get_property("energy", atoms)
        assert self.atoms is not None
        available = [
            name
            for name, response in RESPONSES.items()
            if response.request in self.model.available_properties
        ]
        if properties is None:
            wanted = [name for name in available if not self._undefined(name)]
        else:
            wanted = list(properties)
        for name in wanted:
            if name not in available:
                raise PropertyNotImplementedError(
                    f"no {name}: the model family {self.model.family!r} does not define it; it defines "
                    f"{', '.join(available) or 'none'}"
                )
            if self._undefined(name):
                raise PropertyNotImplementedError(f"no {name}: {self._refusal(name, self.atoms)}")
        values = self._respond(wanted)
        self.state.update({name: value for name, value in values.items() if name not in DERIVED})
        return values

    def charge_derivative(self, atoms: Atoms | None = None) -> float:
        """dE/dQ at the charge of `atoms`, eV/e, exact; forces are from the same evaluation.

        Raises:
            PropertyNotImplementedError: a density that is no function of the charge by self-consistency.
        """
        if "charge_stiffness" not in self.model.available_properties:
            raise PropertyNotImplementedError(
                f"no dE/dQ: the density of the {self.model.family!r} model does not respond to a change of "
                "charge"
            )
        with self._lock:
            if not self.model.variational:
                self._every_time = ("charge_stiffness",)
            self.get_property("forces", atoms)
            if "energy_charge_derivative" not in self.state:
                self.response(atoms, ["energy_charge_derivative"])
            return self.state["energy_charge_derivative"]

    def _respond(self, names: Sequence[str]) -> dict[str, Any]:
        """Derivatives of the density at the last calculation, those that its boundary defines."""
        assert self.atoms is not None
        requests = tuple(RESPONSES[name].request for name in names)
        values = self._output(self.atoms, forces=False, properties=requests)
        return responses(values, names, self.atoms, self.model)

    def export_properties(self) -> Any:
        """Results that ASE has a definition of; it has none of the polarisability."""
        return Properties({name: value for name, value in self.results.items() if name in all_outputs})

    def _undefined(self, name: str) -> bool:
        """True if the boundary of the last calculation leaves no component of a response."""
        assert self.atoms is not None
        has_normal = self.atoms.pbc.sum() == 2 and name != "dielectric_tensor"
        return name in DERIVED and not has_normal and self._refusal(name, self.atoms) is not None

    def _refusal(self, name: str, atoms: Atoms) -> str | None:
        if name == "stress":
            return stress_refusal(atoms, self._open_stress)
        return refusal(name, atoms, self.model, self.implemented_properties)

    def _require(self, name: str, atoms: Atoms) -> None:
        reason = self._refusal(name, atoms)
        if reason is not None:
            raise PropertyNotImplementedError(f"no {name}: {reason}")

    def _outside(self, system: Atoms, charge: float | None = None) -> dict[str, str]:
        """Conditions outside of the training data; `charge` is that of the density."""
        requested = conditions.requested(system.info)
        if charge is not None:
            requested.setdefault("total_charge", charge)
        return outside(
            self._ranges, {name: requested[name] for name in requested if name in self.model.honours}
        )

    def _notes(self, system: Atoms) -> str:
        """Additions to the message of an SCF that did not converge."""
        return "".join(f". {text}" for text in self._outside(system).values())

    def _extrapolations(self, system: Atoms, charge: float | None) -> dict[str, str]:
        """Conditions outside of the training data; a warning for each, and for initial charges that are not
        read, once."""
        found = self._outside(system, charge)
        texts = {
            name: f"{text}: the model extrapolates (calc.state['extrapolating']; warned once)"
            for name, text in found.items()
        }
        unread = conditions.initial_charges_unread(system, self.model.honours)
        if unread is not None:
            texts["initial_charges"] = f"{unread} (warned once)"
        for name in texts.keys() - self._warned:
            self._warned.add(name)
            kind = ExtrapolationWarning if name in found else UserWarning
            warnings.warn(texts[name], kind, stacklevel=2)
        return found


def _names(ignore: Iterable[str]) -> frozenset[str]:
    """Keys to ignore; one string is one key."""
    try:
        names = frozenset((ignore,) if isinstance(ignore, str) else ignore)
    except TypeError:
        names = frozenset((ignore,))  # type: ignore[arg-type]
    if not all(isinstance(name, str) for name in names):
        raise InputError(f"ignore = {ignore!r}; give keys of atoms.info, as ignore=['fermi_level']")
    return names


def _changes(atoms: Atoms, others: Atoms) -> list[str]:
    """Positions, numbers, cell and periodic axes that differ, in the last bit too."""
    pairs = {
        "positions": (atoms.positions, others.positions),
        "numbers": (atoms.numbers, others.numbers),
        "cell": (atoms.cell.array, others.cell.array),
        "pbc": (atoms.pbc, others.pbc),
    }
    return [name for name, (one, other) in pairs.items() if not np.array_equal(one, other)]
