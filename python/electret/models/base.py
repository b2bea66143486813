"""The skeleton of every model: short-range energy, density, electrostatics, field, forces and stress.

E = E_SR + 1/2 p^T A p - F.D (+ p.V of external charges), with forces and stress as its derivatives
by autograd. A family defines its density (`Model.density`) and the conditions that it honours.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from ase.data import atomic_numbers, chemical_symbols

from electret.errors import InputError
from electret.graph import NEAREST, Graph, coinciding
from electret.kernels.arguments import Options
from electret.models.backbone import Backbone, load_tensors
from electret.models.born_charges import local_born_charges
from electret.models.config import ModelConfig
from electret.models.family import Family
from electret.models.start.statistics import Statistics
from electret.models.unchanged import Unchanged
from electret.scf.electrostatics import Electrostatics, ExternalCharges
from electret.scf.state import ScfRequest
from electret.support.locks import cached_property
from electret.torch import features
from electret.torch.per_system import at_atoms, sum_over_atoms
from electret.units import COULOMB_CONSTANT

__all__ = [
    "DIFFERENTIATED",
    "NOT_FINITE",
    "Call",
    "Density",
    "Model",
    "Structure",
    "assemble",
    "cartesian_dipoles",
    "per_element",
]

DIFFERENTIATED = frozenset(
    {
        "polarizability",
        "energy_polarizability",
        "born_effective_charges",
        "dielectric_tensor",
        "charge_stiffness",
        "energy_charge_curvature",
    }
)
"""Properties that are derivatives of the dipole and the energy through the density."""

CONTAINED = frozenset(
    {
        "energy_short_range",
        "energy_electrostatic",
        "energy_field",
        "energy_external_charges",
        "energy_density",
        "grand_potential",
        "charges",
        "dipole",
        "total_charge",
    }
)
"""Results that are finite where energy, multipoles and Fermi level are."""

NOT_FINITE = frozenset({"scf_history", "scf_residual", "stationarity"})
"""Results that may hold NaN or infinity: after the last iteration, of diverged systems, at components
without a label."""


@dataclass
class Density:
    """The charge density of a batch as a family gives it."""

    multipoles: torch.Tensor  # [n_atoms, n_lm] e Å^l
    moments: torch.Tensor | None = None
    """Dipole of each atom `[n_atoms, 3]` e Å that couples to a field, where it is not q r + d."""
    local_energies: torch.Tensor | None = None
    """Energy of the density at each atom `[n_atoms]` eV, beside its electrostatics."""
    results: dict[str, torch.Tensor] = field(default_factory=dict)
    """Further results of the family."""
    local_charges: torch.Tensor | None = None
    """Charges `[n_atoms]` e as functions of the surroundings of each atom, which give Born charges along
    periodic axes: of the same value, but without the derivative of a shift of all of them."""


@dataclass(frozen=True)
class Call:
    """Purpose of one evaluation of a model: training, options of the SCF, further results."""

    training: bool = False
    """Keep the graph, so that losses of derivatives have gradients."""
    scf: ScfRequest | None = None
    properties: frozenset[str] = frozenset()


@dataclass
class Structure:
    """The geometry of a batch after the strain that stress is the derivative in."""

    graph: Graph
    elements: torch.Tensor  # [n_atoms] index of the element in the model
    positions: torch.Tensor  # [n_atoms, 3] float64 Å
    cell: torch.Tensor  # [n_systems, 3, 3] float64 Å
    shifts: torch.Tensor  # [n_edges, 3] float64 Å
    in_field: bool = True  # whether an external field acts, or is a variable of derivatives
    external_charges: ExternalCharges | None = None

    @cached_property
    def edge_vectors(self) -> torch.Tensor:
        """From sender to receiver, `[n_edges, 3]` float64 Å: a model rounds them after the difference."""
        sender, receiver = self.graph.edge_index
        return self.positions[receiver] - self.positions[sender] + self.shifts


def cartesian_dipoles(multipoles: torch.Tensor) -> torch.Tensor:
    """Atomic dipoles (x, y, z) `[n_atoms, 3]` e Å of multipoles `[n_atoms, n_lm]`, zero without l=1."""
    if multipoles.shape[1] < 4:
        return multipoles.new_zeros(multipoles.shape[0], 3)
    return multipoles[:, 1:4].roll(1, dims=1)  # y, z, x in the order of m


def per_element(values: dict[str, float], statistics: Statistics, option: str) -> list[float]:
    """Values by chemical symbol in the order of the model's elements.

    Raises:
        InputError: a symbol that is none, or an element without a value.
    """
    for symbol in values:
        if symbol not in atomic_numbers:
            raise InputError(f"{option} names {symbol!r}, which is no chemical symbol")
    missing = [chemical_symbols[number] for number in statistics.elements]
    missing = [symbol for symbol in missing if symbol not in values]
    if missing:
        raise InputError(f"{option} has no value for {', '.join(missing)}; give one for every element")
    return [float(values[chemical_symbols[number]]) for number in statistics.elements]


class Model(torch.nn.Module):
    """Base of all families. Positions in Å, energies in eV, charges in e.

    Subclasses set `family`, the name of their description (`electret.models.family`), say which conditions
    they honour and implement `density`.
    """

    family: ClassVar[str]
    self_consistent: ClassVar[bool] = False
    """True if the density is the solution of equations."""
    unwrapped_field = False
    """True if a field may have components along periodic axes: its work is then -F·D with D of the positions
    as given, which are to be unwrapped."""
    sigma: torch.Tensor

    def __init__(self, config: ModelConfig, statistics: Statistics) -> None:
        super().__init__()
        self.config = config
        if config.family != self.family:
            raise InputError(f"config.family is {config.family!r}; {type(self).__name__} is {self.family!r}")
        pointless = self.honours.intersection(config.ignored_conditions)
        if pointless:
            raise InputError(
                f"ignored_conditions names {sorted(pointless)}, which {config.family!r} honours; remove them"
            )
        self.statistics = statistics
        self.backbone = self.make_backbone(config, statistics)
        width = config.electrostatics.sigma
        widths = (
            per_element(width, statistics, "electrostatics.sigma")
            if isinstance(width, dict)
            else [float(width)] * len(statistics.elements)
        )
        self.register_buffer(
            "sigma", torch.tensor(widths, dtype=getattr(torch, config.backbone.dtype)), persistent=False
        )
        self._elements: Unchanged[torch.Tensor] = Unchanged()
        self._has_field: Unchanged[bool] = Unchanged()
        self._volume: Unchanged[torch.Tensor] = Unchanged()
        self._sigma_of_atoms: Unchanged[torch.Tensor] = Unchanged()

    def __reduce__(self) -> tuple[Callable[..., Model], tuple[Any, ...], dict[str, bool]]:
        """Pickles have options and tensors: e3nn generates its code anew, which cannot be pickled."""
        frozen = {name for name, parameter in self.named_parameters() if not parameter.requires_grad}
        parts = (type(self), self.config, self.statistics, self.state_dict(), frozen, self.training)
        return _unpickled, parts, {"unwrapped_field": self.unwrapped_field}

    def __deepcopy__(self, memo: dict[int, Any]) -> Model:
        """A model of its own memory, code included."""
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__dict__.update({name: copy.deepcopy(value, memo) for name, value in self.__dict__.items()})
        return twin

    @property
    def cutoff(self) -> float:
        """Radius in Å of the neighbour lists the model needs."""
        return self.config.backbone.r_max

    @property
    def dtype(self) -> torch.dtype:
        """Type of the backbone, and of the conditions and labels that the model takes."""
        return self.sigma.dtype  # that of the backbone, whose parameters take longer to reach

    @property
    def description(self) -> Family:
        """Options, targets, modes and properties of the family with the options of the model."""
        return self.config.description

    @property
    def honours(self) -> frozenset[str]:
        """Conditions that the energy depends on: `total_charge`, `external_field`, `fermi_level`,
        `spin_multiplicity`. Here those that the backbone embeds; families add theirs."""
        return frozenset(self.config.backbone.conditions)

    @property
    def feature_widths(self) -> tuple[float, ...]:
        """Widths of the receivers of the potential features, Å; empty for families without features."""
        return ()

    @property
    def takes_external_charges(self) -> bool:
        """True if external charges act on the density: families whose multipoles are observables."""
        return bool(self.description.properties)

    @property
    def predicts(self) -> frozenset[str]:
        """Conditions that the model predicts instead of obeying: accepted as labels, without effect."""
        return frozenset()

    def make_backbone(self, config: ModelConfig, statistics: Statistics) -> Backbone:
        """The hosted MACE."""
        return Backbone(config.backbone, statistics)

    def density(self, structure: Structure, features: list[torch.Tensor]) -> Density | None:
        """The charge density, or None for a family without one."""
        raise NotImplementedError

    def energies_and_density(self, structure: Structure) -> tuple[torch.Tensor, Density | None]:
        """Short-range energies `[n_atoms]` eV of the backbone, and the density."""
        energies, features = self.backbone(structure.graph, structure.edge_vectors, structure.elements)
        return energies, self.density(structure, features)

    @property
    def available_properties(self) -> frozenset[str]:
        """Names that `properties` of a call may have."""
        if not self.description.properties:
            return frozenset({"energies"})
        return frozenset({"energies", "polarizability", "born_effective_charges", "potentials"})

    def forward(
        self,
        graph: Graph,
        forces: bool = True,
        stress: bool = False,
        training: bool = False,
        scf: ScfRequest | None = None,
        properties: Collection[str] = (),
        external_charges: ExternalCharges | None = None,
    ) -> dict[str, torch.Tensor]:
        """Energy and its derivatives, and the density.

        Args:
            graph: the batch, with the model's dtype, device and cutoff.
            forces: give `forces`.
            stress: give `stress`, dE/dstrain / abs(det cell) with the sign of ASE. Slabs and wires need a
                cell of full rank for it, as ASE has them with vacuum.
            training: keep the autograd graph, so that losses of forces have parameter gradients. Systems
                without a volume then get a stress of zero, as they have no label, instead of an error.
            scf: how a self-consistent density is found; None where the density is explicit.
            properties: further results, among `available_properties`: `energies [n_atoms]` (eV, shares of
                `energy` without derivatives), `polarizability [n_systems, 3, 3]` (e Å²/V, dD_a/dF_b),
                `born_effective_charges [n_atoms, 3, 3]` (e, dD_a/dR_ib), `potentials [n_atoms]` (V, of the
                density and the field at the atoms, smeared by their widths, own density left out); and of
                self-consistent families `fukui [n_atoms]` (dq_i/dQ), `fukui_multipoles [n_atoms, n_lm]`
                (dp_i/dQ), `capacitance [n_systems]` (-dQ/dmu, e/V), `charge_stiffness` (gives
                `energy_charge_derivative [n_systems]`, dE/dQ, eV/e), `energy_charge_curvature [n_systems]`
                (d²E/dQ², eV/e²; with the former), `dielectric_tensor [n_systems, 3, 3]` (1 + 4 pi K dP/dF / V
                of crystals, where charges flow along edges or only dipoles respond) and, of fixed points,
                `stability [n_systems]` (spectral radius of D B) and `charge_response [n_systems]`
                (`electret.scf.response.wrong_response`).
                Of `polar` also `energy_polarizability [n_systems, 3, 3]` (-d²E/dF_a dF_b, e Å²/V). Dipoles,
                and so their derivatives, are meaningful along open axes.
            external_charges: fixed charges outside of the model whose potential acts on its density
                (electrostatic embedding), in the boundary of their system.

        Returns:
            `energy [n_systems]` (float64, as its parts `energy_short_range`, `energy_electrostatic` and
            `energy_field`), `forces [n_atoms, 3]`, `stress [n_systems, 3, 3]`; with external charges
            `energy_external_charges [n_systems]`, their energy with the density and a part of `energy`, and
            `external_charges_forces [n_charges, 3]` eV/Å (stress strains their positions too); with a density
            `multipoles [n_atoms, n_lm]`, `charges [n_atoms]`, `dipole [n_systems, 3]` (x, y, z; e Å),
            `total_charge [n_systems]`, and `polarization [n_systems, 3]` where the family defines it.
            `latent_ewald` gives `latent_multipoles` instead. Self-consistent families add `fermi_level`,
            `grand_potential` (E + mu Q at constant Fermi level, whose derivatives forces and stress then are;
            else E), `energy_density` (all `[n_systems]`, eV) and `scf_converged`, `scf_iterations`,
            `scf_residual` (`[n_systems]`), `scf_history [n_systems, n]` (nan after the end).

        Raises:
            InputError: unknown elements, wrong dtype or device, no atoms, conditions that the family cannot
                honour, a stress without a volume, coinciding atoms.
        """
        self._check_tensors(graph)
        in_field = self.check_conditions(graph) or graph.external_field.requires_grad
        call = Call(training, scf, frozenset(properties))
        self._check_call(call)
        if external_charges is not None:
            self.check_external_charges()
            if not bool(((external_charges.batch >= 0) & (external_charges.batch < graph.n_systems)).all()):
                raise InputError(
                    f"batch of external charges names systems from {int(external_charges.batch.min())} to "
                    f"{int(external_charges.batch.max())}, but the graph has {graph.n_systems} (from 0)"
                )
        elements = self._elements.of(lambda: self.backbone.elements_of(graph), graph.atomic_numbers)
        volume = None
        if stress:
            volume = (
                _volumes(graph, True)
                if training
                else self._volume.of(lambda: _volumes(graph, False), graph.cell)
            )
        derived = bool(DIFFERENTIATED & call.properties)
        with torch.set_grad_enabled(training or forces or stress or derived):
            wanted = forces or "born_effective_charges" in call.properties
            positions = _leaf(graph.positions, wanted)
            outside = external_charges
            if outside is not None:
                outside = replace(outside, positions=_leaf(outside.positions, forces))
            strain = graph.cell.new_zeros(graph.n_systems, 3, 3).requires_grad_() if stress else None
            if derived:
                in_field = True
                graph = replace(
                    graph,
                    external_field=graph.external_field.detach().clone().requires_grad_(),
                    total_charge=graph.total_charge.detach().clone().requires_grad_(),
                    fermi_level=graph.fermi_level.detach().clone().requires_grad_(),
                )
            structure = _strained(graph, elements, positions, outside, strain, in_field)
            result = self._energies(structure, call)
            result.update(_differentiated(result, call, positions, graph, retain=forces or stress))
            leaves = [positions] if forces else []
            if forces and outside is not None:
                leaves.append(outside.positions)
            if strain is not None:
                leaves.append(strain)
            gradients: list[torch.Tensor] = []
            if leaves:
                objective = result.get("grand_potential", result["energy"]).sum()
                gradients += torch.autograd.grad(
                    objective, leaves, create_graph=training, materialize_grads=True
                )
                del objective
        if forces:
            result["forces"] = -gradients.pop(0)
            if outside is not None:
                result["external_charges_forces"] = -gradients.pop(0)
        if volume is not None:
            result["stress"] = gradients.pop(0) / volume[:, None, None]
        if not training:
            _end_graph(result)
            _check_finite(result, structure)
        return result

    def _energies(self, structure: Structure, call: Call) -> dict[str, torch.Tensor]:
        """Short-range and electrostatic energies, and what is known of the density."""
        graph = structure.graph
        energies, density = self.energies_and_density(structure)
        short_range = sum_over_atoms(energies, graph.batch, graph.n_systems)
        result = {
            "energy": short_range,
            "energy_short_range": short_range,
            "energy_electrostatic": torch.zeros_like(short_range),
            "energy_field": torch.zeros_like(short_range),
        }
        parts = [energies]  # of each atom
        if density is not None:
            multipoles = density.multipoles.double()  # whatever the dtype of the backbone, as positions are
            electrostatics = self.electrostatics_of(structure)
            result["energy_electrostatic"], halves = electrostatics.energies(
                multipoles, "energies" in call.properties
            )
            if halves is not None:
                parts.append(halves)
            if structure.external_charges is not None:
                with_charges = electrostatics.charges_energies(multipoles)
                result["energy_external_charges"] = sum_over_atoms(with_charges, graph.batch, graph.n_systems)
                parts.append(with_charges)
            if density.local_charges is not None and "born_effective_charges" in call.properties:
                result["born_effective_charges"] = self.born_charges(
                    structure, multipoles, density.local_charges.double(), call.training
                )
        if density is not None and self.description.properties:
            charges = multipoles[:, 0]  # [n_atoms]
            moments = charges[:, None] * structure.positions + cartesian_dipoles(multipoles)
            dipole = sum_over_atoms(moments, graph.batch, graph.n_systems)
            polarization = dipole
            if density.moments is not None:
                moments = density.moments
                polarization = sum_over_atoms(moments, graph.batch, graph.n_systems)
                result["polarization"] = polarization
            if structure.in_field:
                result["energy_field"] = -(graph.external_field * polarization).sum(dim=1)
                parts.append(-(at_atoms(electrostatics.external_field, graph.batch) * moments).sum(dim=1))
            result["multipoles"] = multipoles
            result["charges"] = charges
            result["dipole"] = dipole
            result["total_charge"] = sum_over_atoms(charges, graph.batch, graph.n_systems)
            if "potentials" in call.properties:
                result["potentials"] = self._potentials(structure, multipoles)
            result.update(density.results)
        elif density is not None:
            result["latent_multipoles"] = multipoles
        result["energy"] = short_range + result["energy_electrostatic"] + result["energy_field"]
        if structure.external_charges is not None:
            result["energy"] = result["energy"] + result["energy_external_charges"]
        if density is not None and density.local_energies is not None:
            result["energy_density"] = sum_over_atoms(density.local_energies, graph.batch, graph.n_systems)
            result["energy"] = result["energy"] + result["energy_density"]
            parts.append(density.local_energies)
        if "energies" in call.properties:
            result["energies"] = torch.stack([part.detach() for part in parts]).sum(dim=0)
        return result

    def born_charges(
        self, structure: Structure, multipoles: torch.Tensor, local: torch.Tensor, training: bool
    ) -> torch.Tensor:
        """dP_a/dR_ib `[n_atoms, 3, 3]` e of local charges; they add up to the total charge where that is
        fixed."""
        graph = structure.graph
        found = local_born_charges(
            multipoles[:, 0], local, cartesian_dipoles(multipoles), structure.positions, graph, training
        )
        if "total_charge" not in self.honours:
            return found
        excess = sum_over_atoms(found, graph.batch, graph.n_systems)
        excess = excess - graph.total_charge[:, None, None] * torch.eye(3).to(found)
        return found - (excess / graph.n_atoms_per_system[:, None, None])[graph.batch]

    def electrostatics_of(self, structure: Structure) -> Electrostatics:
        """The operators between density and potential of a batch."""
        options, graph = self.config.electrostatics, structure.graph
        return Electrostatics(
            positions=structure.positions,
            cell=structure.cell,
            lattice=graph.cell,
            pbc=graph.pbc,
            batch=graph.batch,
            external_field=graph.external_field.double(),
            in_field=structure.in_field,
            external_charges=structure.external_charges,
            sigma=self._widths_of_atoms(structure.elements),
            max_l=options.max_l,
            widths=self.feature_widths,
            features_max_l=options.features_max_l,
            features_self_interaction=self.config.fixed_point.self_interaction,
            options=Options(**options.sums),
        )

    def _widths_of_atoms(self, elements: torch.Tensor) -> torch.Tensor:
        """Gaussian widths of the densities, `[n_atoms]` float64 Å."""
        return self._sigma_of_atoms.of(lambda: self.sigma.double()[elements], self.sigma, elements)

    def _potentials(self, structure: Structure, multipoles: torch.Tensor) -> torch.Tensor:
        """Potential of the density, the field and external charges at each atom, `[n_atoms]` V."""
        graph, sigma = structure.graph, self.sigma[structure.elements]
        widths, index = torch.unique(sigma, return_inverse=True)
        values = features(
            structure.positions,
            multipoles,
            sigma,
            widths,
            0,
            "multipoles",
            False,
            cell=structure.cell,
            pbc=graph.pbc,
            batch=graph.batch,
            external_field=graph.external_field,
            **self.config.electrostatics.sums,
        )
        found = values[torch.arange(len(index), device=values.device), index, 0]
        if structure.external_charges is not None:
            found = found + self.electrostatics_of(structure).charges_potential()[:, 0]
        return found

    def _check_call(self, call: Call) -> None:
        """Refuses what the family has no meaning for."""
        if call.scf is not None and not self.self_consistent:
            raise InputError(
                f"scf is given, but the density of family {self.family!r} is explicit; leave it out"
            )
        for name in sorted(call.properties - self.available_properties):
            known = ", ".join(sorted(self.available_properties)) or "none"
            raise InputError(
                f"property {name!r} is not defined by family {self.family!r} (it defines {known})"
            )

    def check_external_charges(self) -> None:
        """Refuse external charges where no density takes them."""
        if not self.takes_external_charges:
            raise InputError(
                f"external charges are given, but family {self.family!r} has no density for them; leave "
                "them out (mechanical embedding), or use 'local_charges', 'split_charges', 'qeq', 'sqe', "
                "'energy_functional' or 'fixed_point'"
            )

    def _check_tensors(self, graph: Graph) -> None:
        if graph.n_atoms == 0:
            raise InputError("the graph holds no atoms; give at least one system with atoms")
        if graph.dtype != self.dtype:
            raise InputError(
                f"the graph is {graph.dtype} and the model {self.dtype}; use graph.to(dtype={self.dtype}) or "
                "load the model with the dtype you want"
            )
        if graph.device != self.sigma.device:
            raise InputError(
                f"the graph is on {graph.device} and the model on {self.sigma.device}; move one with "
                ".to(device)"
            )

    def check_conditions(self, graph: Graph) -> bool:
        """Refuse what the family cannot honour instead of dropping it silently; True if there is a field."""
        if graph.applied_potential is not None and "fermi_level" not in self.honours:
            raise InputError(
                f"applied_potential is given for atoms, but the charges of this {self.family!r} model do not "
                "respond to it; use 'qeq', 'sqe', 'energy_functional' or 'fixed_point' with responding "
                "charges, or remove it from atoms.arrays"
            )
        given = (graph.total_charge, graph.external_field, graph.fermi_level, graph.spin_multiplicity)
        has_field = self._has_field.of(lambda: self._accepts(graph), *given)
        defined = self.unwrapped_field or self.description.has_polarization
        if not has_field or "external_field" not in self.honours or defined:
            return has_field
        # [n_systems, 3]: work of the field along each periodic cell vector
        along = torch.einsum("si,ski->sk", graph.external_field.double(), graph.cell).abs() * graph.pbc
        if bool((along > 1e-6).any()):
            system, axis = torch.nonzero(along > 1e-6)[0].tolist()
            raise InputError(
                f"external_field of system {system} has a component along its periodic axis {axis}, "
                f"where the dipole of family {self.family!r} depends on the choice of cell; apply fields "
                "along open axes, use a family with a polarisation ('split_charges', 'sqe'), or take the "
                "work of the field with unwrapped positions, Calculator(..., periodic_field='unwrapped')"
            )
        return has_field

    def _accepts(self, graph: Graph) -> bool:
        """Refuses requests for conditions that the energy does not depend on; whether there is a field."""
        accepted = self.honours | self.predicts | set(self.config.ignored_conditions)
        given: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
            "total_charge": lambda charge: charge != 0,
            "external_field": lambda field: (field != 0).any(dim=1),
            "fermi_level": lambda level: ~torch.isnan(level),
            "spin_multiplicity": lambda multiplicity: multiplicity != 1,
        }
        for name in sorted(given.keys() - accepted):
            mask = given[name](getattr(graph, name))
            if not bool(mask.any()):
                continue
            system = int(torch.nonzero(mask)[0])
            raise InputError(
                f"{name} = {getattr(graph, name)[system].tolist()} is requested for system {system}, but the "
                f"energy of family {self.family!r} does not depend on it; use another family, remove the "
                f"request, or list {name!r} in ignored_conditions of the model's configuration"
            )
        for name, spec in self.config.backbone.conditions.items():
            values = getattr(graph, name)
            low, high = -spec.offset, (spec.num_classes or 0) - 1 - spec.offset
            mask = (values != values.round()) | (values < low) | (values > high)
            if spec.type == "categorical" and bool(mask.any()):
                system = int(torch.nonzero(mask)[0])
                raise InputError(
                    f"{name} = {values[system].tolist():g} of system {system} has no embedding in the model, "
                    f"which has whole numbers from {low} to {high}; give one of these"
                )
        return bool(graph.external_field.any())


def _leaf(positions: torch.Tensor, wanted: bool) -> torch.Tensor:
    """Positions of which derivatives are taken where wanted; as they are if they have a graph."""
    return positions if positions.requires_grad else positions.detach().clone().requires_grad_(wanted)


def _strained(
    graph: Graph,
    elements: torch.Tensor,
    positions: torch.Tensor,
    outside: ExternalCharges | None,
    strain: torch.Tensor | None,
    in_field: bool,
) -> Structure:
    """The geometry under r' = r (1 + strain), symmetrised so that the stress is symmetric in a field too;
    unchanged if no stress is computed."""
    cell, sender = graph.cell, graph.edge_index[0]
    if strain is not None:
        symmetric = (strain + strain.transpose(1, 2)) / 2
        positions = positions + torch.einsum("ai,aij->aj", positions, symmetric[graph.batch])
        if outside is not None:
            moved = torch.einsum("ai,aij->aj", outside.positions, symmetric[outside.batch])
            outside = replace(outside, positions=outside.positions + moved)
        cell = cell + cell @ symmetric
    if graph.n_systems == 1:  # the same numbers without a cell per edge
        shifts = graph.unit_shifts @ cell[0]
    else:
        shifts = torch.einsum("ek,eki->ei", graph.unit_shifts, cell[graph.batch[sender]])
    return Structure(graph, elements, positions, cell, shifts, in_field, outside)


def _differentiated(
    result: dict[str, torch.Tensor], call: Call, positions: torch.Tensor, graph: Graph, retain: bool
) -> dict[str, torch.Tensor]:
    """Derivatives of dipole and energy; in the graph in training."""
    found: dict[str, torch.Tensor] = {}
    curvature = "energy_charge_curvature" in call.properties
    of_energy = "energy_polarizability" in call.properties

    def gradients(value: torch.Tensor, leaf: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(
            value.sum(),
            leaf,
            create_graph=call.training or curvature or of_energy,
            retain_graph=True,
            materialize_grads=True,
        )[0]

    def per_charge(value: torch.Tensor) -> torch.Tensor:
        """d/dQ `[n_systems]`, at constant Fermi level by way of it."""
        constrained = torch.isnan(graph.fermi_level)
        by_charge = gradients(value, graph.total_charge)
        if bool(constrained.all()):
            return by_charge
        change = torch.where(constrained, 1.0, gradients(result["total_charge"], graph.fermi_level))
        return torch.where(constrained, by_charge, gradients(value, graph.fermi_level) / change)

    sought = set(call.properties)
    if "dielectric_tensor" in sought:
        _check_crystals(graph)
        sought.add("polarizability")
    for name, leaf in (("polarizability", graph.external_field), ("born_effective_charges", positions)):
        if name in sought and name not in result:
            dipole = result.get("polarization", result["dipole"])
            if not dipole.requires_grad:
                raise AssertionError("the dipole has lost its graph")
            # [n, 3 (component of the dipole), 3 (component of field or position)]
            found[name] = torch.stack([gradients(dipole[:, axis], leaf) for axis in range(3)], dim=1)
    if "dielectric_tensor" in sought:
        # Lattice sums without k = 0 omit the macroscopic field of the density: F is the macroscopic one.
        volume = torch.linalg.det(graph.cell).abs()[:, None, None]
        susceptibility = 4 * math.pi * COULOMB_CONSTANT * found["polarizability"] / volume
        found["dielectric_tensor"] = susceptibility + torch.eye(3).to(susceptibility)
        if "polarizability" not in call.properties:
            del found["polarizability"]
    if of_energy:
        slope = -gradients(result["energy"], graph.external_field)
        rows = [gradients(slope[:, axis], graph.external_field) for axis in range(3)]
        found["energy_polarizability"] = torch.stack(rows, dim=1)
    if curvature or "charge_stiffness" in call.properties:
        found["energy_charge_derivative"] = per_charge(result["energy"])
    if curvature:
        found["energy_charge_curvature"] = per_charge(found["energy_charge_derivative"])
    return found


def _check_crystals(graph: Graph) -> None:
    """Refuses a dielectric tensor of systems that are no crystals."""
    open_systems = torch.nonzero(~graph.pbc.all(dim=1))
    if len(open_systems):
        system = int(open_systems[0])
        raise InputError(
            f"dielectric_tensor is requested, but system {system} has pbc {graph.pbc[system].tolist()}; it "
            "is defined for crystals (request 'polarizability' of other systems)"
        )


def _volumes(graph: Graph, training: bool) -> torch.Tensor:
    """Volume per system in Å³; infinite in training where there is none, so that the stress is zero."""
    volume = torch.linalg.det(graph.cell).abs()
    flat = volume < 1e-6
    if bool(flat.any()) and not training:
        system = int(torch.nonzero(flat)[0])
        raise InputError(
            f"stress is requested, but system {system} has no volume (pbc {graph.pbc[system].tolist()}, cell "
            "of rank below 3); give slabs and wires a full cell with vacuum, and no stress of molecules"
        )
    return torch.where(flat, torch.inf, volume)


def _end_graph(result: dict[str, torch.Tensor]) -> None:
    """Detach all results, so that the graph is freed."""
    for name, value in result.items():
        result[name] = value.detach()


def _check_finite(result: dict[str, torch.Tensor], structure: Structure) -> None:
    """Names the cause of a result that is not finite."""
    others = NOT_FINITE | CONTAINED if "multipoles" in result else NOT_FINITE
    entries = [
        value.reshape(-1)
        for name, value in result.items()
        if name not in others and value.is_floating_point()
    ]
    if math.isfinite(torch.cat(entries).sum(dtype=torch.float64)):  # one that is not finite spoils the sum
        return
    bad = [
        name
        for name, value in result.items()
        if name not in NOT_FINITE and not bool(torch.isfinite(value).all())
    ]
    if not bad:
        return
    lengths = torch.linalg.vector_norm(structure.edge_vectors.detach(), dim=1)
    if len(lengths) and float(lengths.min()) < NEAREST:
        nearest = int(lengths.argmin())
        sender, receiver = structure.graph.edge_index[:, nearest].tolist()
        raise coinciding(sender, receiver, structure.graph.unit_shifts[nearest].tolist())
    raise InputError(
        f"{', '.join(bad)} of the model are not finite; the parameters may hold nan from a diverged "
        "training, or atoms are too close"
    )


def assemble(kind: type[Model], config: ModelConfig, statistics: Statistics, seed: int = 0) -> Model:
    """A model of random parameters, drawn without a change of the global random state.

    `build` adds the tensors of a fresh model; files and pickles load theirs.
    """
    with torch.random.fork_rng(devices=[]):  # parameters are drawn on the CPU
        torch.default_generator.manual_seed(seed)
        model = kind(config, statistics)
    for module in model.modules():
        if "__codegen__" in vars(module):
            # e3nn scripts the modules of this list when a model is copied or pickled.
            module.__codegen__ = []  # type: ignore[assignment]
        for name, buffer in module.named_buffers(recurse=False):
            if name.startswith("U_matrix"):
                setattr(module, name, buffer.clone())  # layers may share a matrix that was computed once
    return model


def _unpickled(
    kind: type[Model],
    config: ModelConfig,
    statistics: Statistics,
    tensors: dict[str, torch.Tensor],
    frozen: Collection[str],
    training: bool,
) -> Model:
    model = assemble(kind, config, statistics).to(next(iter(tensors.values())).device)
    load_tensors(model, tensors)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    return model.train(training)
