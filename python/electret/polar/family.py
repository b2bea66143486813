"""Family `polar`: MACE-POLAR-1, a density that a few steps in its own potential have updated."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from electret.errors import InputError
from electret.models.backbone import Backbone, mace_input
from electret.models.base import Density, Model, Structure
from electret.models.config import ModelConfig
from electret.models.start.statistics import Statistics
from electret.polar.acceleration import accelerate
from electret.polar.electrostatics import PolarElectrostatics
from electret.polar.hosted import Settings, Step, make_polar, plain_forward, polar_electrostatics, running
from electret.scf.electrostatics import Electrostatics

__all__ = ["Polar"]


class Polar(Model):
    """Multipoles of two spins, started from the features of the atoms and updated in a fixed number of
    steps that read their potential and the field. Shares of the total charge and of the spin are assigned
    after each. The energy is a function of density and potential, not their minimum, so that -dE/dF is
    another dipole than that of the density, and there are two polarizabilities.
    """

    family = "polar"
    variational = False

    def make_backbone(self, config: ModelConfig, statistics: Statistics) -> Backbone:
        """A Backbone whose MACE is a PolarMACE."""
        options, polar = config.electrostatics, config.polar
        if isinstance(options.sigma, dict):
            raise InputError("electrostatics.sigma of family 'polar' is one number for all elements")
        if max(options.max_l, options.features_max_l) > 1:
            raise InputError(
                f"electrostatics.max_l = {options.max_l} and features_max_l = {options.features_max_l}; "
                "MACE-POLAR-1 has charges and dipoles, so give at most 1"
            )
        if config.backbone.embedding_specs:
            raise InputError(
                "backbone.embedding_specs does nothing in MACE-POLAR-1, which has charge and spin; remove it"
            )
        make = partial(
            make_polar,
            atomic_multipoles_max_l=options.max_l,
            atomic_multipoles_smearing_width=options.sigma,
            field_feature_max_l=options.features_max_l,
            field_feature_widths=list(options.widths),
            field_feature_norms=None if polar.feature_norms is None else list(polar.feature_norms),
            num_recursion_steps=polar.steps,
            field_si=polar.features_self_interaction,
            include_electrostatic_self_interaction=polar.self_interaction,
            add_local_electron_energy=polar.local_energy,
            field_norm_factor=polar.field_norm_factor,
            kspace_cutoff_factor=polar.kspace_cutoff_factor,
        )
        backbone = Backbone(config.backbone, statistics, make)
        accelerate(backbone.mace)
        return backbone

    @property
    def honours(self) -> frozenset[str]:
        return frozenset({"total_charge", "external_field", "spin_multiplicity"})

    @property
    def available_properties(self) -> frozenset[str]:
        return super().available_properties | {"energy_polarizability"}

    @property
    def takes_external_charges(self) -> bool:
        """False: MACE's own code reads no potential but that of a field."""
        return False

    def energies_and_density(self, structure: Structure) -> tuple[torch.Tensor, Density]:
        """Short-range energies and the density of both spins."""
        graph, backbone = structure.graph, self.backbone
        vectors = structure.edge_vectors.to(self.dtype)
        data = mace_input(graph, vectors, structure.elements, len(backbone.elements), backbone.head_index)
        data |= {
            "pbc": graph.pbc,
            "rcell": torch.zeros_like(data["cell"]),  # for sums over waves, which MACE leaves to the kernels
            "volume": torch.zeros_like(graph.total_charge),
            "external_field": -graph.external_field,  # the energy is +F·D in MACE
            "fermi_level": torch.zeros_like(graph.total_charge),
        }
        electrostatics = self.electrostatics_of(structure)
        assert isinstance(electrostatics, PolarElectrostatics)
        with running(Step(electrostatics, with_energy=False)) as step:
            output = plain_forward(backbone.mace, data, compute_force=False)
        spin = output["spin_density"].double()
        local = step.local_energies.double() if self.config.polar.local_energy else None  # type: ignore[union-attr]
        results = {"magmoms": spin[:, 0], "spin_multipoles": spin}
        return backbone.energies_of(data, output, structure.elements), Density(
            output["density_coefficients"], local_energies=local, results=results
        )

    def electrostatics_of(self, structure: Structure) -> Electrostatics:
        """The operators between density and potential of a batch."""
        graph, options = structure.graph, self.config.electrostatics
        settings = Settings(self.config.polar.mode, options.accuracy, options.method, options.precision)
        further: dict[str, Any] = {
            "external_field": graph.external_field.double(),
            "in_field": structure.in_field,
            "lattice": graph.cell,
        }
        return polar_electrostatics(
            self.backbone.mace,
            structure.positions,
            structure.cell,
            graph.pbc,
            graph.batch,
            settings,
            **further,
        )
