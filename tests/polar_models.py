"""Small PolarMACE models with random weights and their batches, and graph-longrange 0.4.0 beside the version
that is installed."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms

from electret.models.backbone import construction_dtype
from electret.models.hosted import mace_blocks, o3
from electret.polar.hosted import make_polar, polar_class, with_names
from model_cases import bulk as crystal
from model_cases import molecule as molecule

OPTIONS: dict[str, Any] = {
    "r_max": 3.5,
    "num_bessel": 4,
    "num_polynomial_cutoff": 3,
    "max_ell": 2,
    "interaction_cls": mace_blocks.RealAgnosticResidualNonLinearInteractionBlock,
    "interaction_cls_first": mace_blocks.RealAgnosticResidualNonLinearInteractionBlock,
    "num_interactions": 2,
    "num_elements": 3,
    "hidden_irreps": o3.Irreps("4x0e+4x1o"),
    "MLP_irreps": o3.Irreps("4x0e"),
    "atomic_energies": np.array([-1.0, -2.0, -3.0]),
    "avg_num_neighbors": 6.0,
    "atomic_numbers": [1, 8, 11],
    "correlation": 2,
    "gate": torch.nn.functional.silu,
    "radial_MLP": [8],
    "radial_type": "bessel",
    "atomic_multipoles_max_l": 1,
    "atomic_multipoles_smearing_width": 1.5,
    "field_feature_max_l": 1,
    "field_feature_widths": [1.5, 3.0],
    "field_feature_norms": [20.0, 20.0, 0.5, 0.5],
    "num_recursion_steps": 2,
    "field_si": True,
    "include_electrostatic_self_interaction": True,
    "add_local_electron_energy": True,
    "field_norm_factor": 1.0,
    "kspace_cutoff_factor": 3.0,
    "fixedpoint_update_config": {
        "potential_embedding_cls": "AgnosticChargeBiasedLinearPotentialEmbedding",
        "nonlinearity_cls": "MLPNonLinearity",
    },
    "apply_cutoff": False,
}
"""Options of the published models, small; with the cutoff, energies would jump where a pair crosses it."""


def polar_model(**changes: Any) -> Any:
    """A PolarMACE in float64 without graph_longrange, always the same."""
    return built(make_polar, **changes)


def built(make: Any, **changes: Any) -> Any:
    """The model that `make` gives for the options, with changes."""
    with construction_dtype(torch.float64), torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return make(**{**OPTIONS, **changes}).double().eval()


@functools.cache
def peer() -> SimpleNamespace:
    """graph-longrange 0.4.0, which mace 0.3.16 runs with: `model(**options)` makes a PolarMACE with it,
    `forward(model, data, ...)` evaluates one."""
    given = os.environ.get("GRAPH_LONGRANGE_0_4_0", Path(sys.prefix) / "graph-longrange-0.4.0")
    place = Path(given) / "graph_longrange"
    if not place.is_dir():
        pytest.skip(f"graph-longrange 0.4.0 is not in {given}: make test-python installs it there")
    name = "graph_longrange_0_4_0"
    spec = importlib.util.spec_from_file_location(
        name, place / "__init__.py", submodule_search_locations=[str(place)]
    )
    assert spec is not None
    sys.modules[name] = importlib.util.module_from_spec(spec)
    parts = {
        part: importlib.import_module(f"{name}.{part}")
        for part in ("energy", "features", "gto_utils", "kspace")
    }
    names = {
        "GRAPH_LONGRANGE_AVAILABLE": True,
        "GTOElectrostaticFeatures": parts["features"].GTOElectrostaticFeatures,
        "GTOElectrostaticEnergy": parts["energy"].GTOElectrostaticEnergy,
        "DisplacedGTOExternalFieldBlock": parts["gto_utils"].DisplacedGTOExternalFieldBlock,
        "gto_basis_kspace_cutoff": parts["gto_utils"].gto_basis_kspace_cutoff,
        "compute_k_vectors_flat": parts["kspace"].compute_k_vectors_flat,
    }
    polar = polar_class()

    def make(**options: Any) -> Any:
        model = polar.__new__(polar)
        with_names(polar.__init__, **names)(model, **options)
        return model

    return SimpleNamespace(
        model=functools.partial(built, make), forward=with_names(polar.forward, **names), parts=parts
    )


LATER = (
    (r"(kspace_cutoff_factor: float = 1.5,)", r'\1 pbc_handling: str = "auto",'),
    (r'(integral_normalization="receiver",)', r"\1 pbc_handling=pbc_handling,"),
    (
        r"( *)(self\.coulomb_energy = GTOElectrostaticEnergy\(.*?include_self_interaction=\w+,)(\s*\))",
        r"\1\2 pbc_handling=pbc_handling,\3\n\1self.set_electrostatic_pbcs(pbc_handling)",
    ),
    (r"use_pbc_evaluator: bool = False,", ""),
    (r"force_pbc_evaluator=use_pbc_evaluator,", ""),
    (r'\.unsqueeze\(-2\),\s*pbc=data\["pbc"\]\.view\(-1, 3\),(?=\s*\)\s*field_f)', ","),
)
"""Changes from PolarMACE of mace 0.3.16 to the interface of 0.3.17."""


class Later:
    """Methods of PolarMACE that came with mace 0.3.17, as far as other code sees them."""

    def set_electrostatic_pbcs(self: Any, handling: str) -> None:
        self.electric_potential_descriptor.set_pbc_handling(handling)
        self.coulomb_energy.set_pbc_handling(handling)
        self.electric_potential_descriptor.static_quantities = None
        self.pbc_handling = handling

    def __setstate__(self: Any, state: dict[str, Any]) -> None:
        torch.nn.Module.__setstate__(self, state)
        features, energy = (
            importlib.import_module(f"graph_longrange.{name}") for name in ("features", "energy")
        )
        descriptor = self.electric_potential_descriptor
        assert isinstance(descriptor, features.GTOElectrostaticFeatures)
        assert isinstance(self.coulomb_energy, energy.GTOElectrostaticEnergy)
        order = descriptor._build_output_permutation(self.field_feature_max_l, len(self.field_feature_widths))
        assert descriptor.output_permutation.equal(order)
        self.set_electrostatic_pbcs(getattr(self, "pbc_handling", "auto"))


def later_polar() -> Any:
    """PolarMACE with the interface of mace 0.3.17: that of the version installed, or made from 0.3.16."""
    polar = polar_class()
    if hasattr(polar, "set_electrostatic_pbcs"):
        return polar
    source = inspect.getsource(polar)
    for old, new in LATER:
        source, count = re.subn(old, new, source, flags=re.DOTALL)
        assert count, f"PolarMACE of this version of mace has no {old}"
    names = dict(vars(sys.modules[polar.__module__]))
    exec(source, names)
    for name in ("set_electrostatic_pbcs", "__setstate__"):
        setattr(names["PolarMACE"], name, vars(Later)[name])
    return names["PolarMACE"]


def slab() -> Atoms:
    """The atoms of the crystal, open along z, in a cell with vacuum."""
    atoms = crystal()
    atoms.set_cell(np.diag([4.1, 3.9, 16.0]), scale_atoms=False)
    atoms.pbc = [True, True, False]
    return atoms


def under(atoms: Atoms, charge: float = 0.0, spin: int = 1, field: Any = (0.0, 0.0, 0.0)) -> Atoms:
    """The atoms under conditions in MACE's names; its energy in a field is +F·D."""
    atoms = atoms.copy()
    atoms.info.update(charge=charge, spin=spin, external_field=np.array(field))
    return atoms


def mace_batch(model: Any, *systems: Atoms) -> dict[str, torch.Tensor]:
    """MACE's dictionary of a batch, float64."""
    return mace_graphs(model, *systems).to_dict()


def mace_graphs(model: Any, *systems: Atoms) -> Any:
    """MACE's batch, float64."""
    from mace import data
    from mace.tools import AtomicNumberTable, torch_geometric

    names = {"total_spin": "spin", "total_charge": "charge", "external_field": "external_field"}
    keys = data.KeySpecification(info_keys=names, arrays_keys={})
    table = AtomicNumberTable([int(number) for number in model.atomic_numbers])
    with construction_dtype(torch.float64):
        entries = [
            data.AtomicData.from_config(
                data.config_from_atoms(atoms, key_specification=keys, head_name="Default"),
                z_table=table,
                cutoff=float(model.r_max),
                heads=["Default"],
            )
            for atoms in systems
        ]
    return torch_geometric.Batch.from_data_list(entries)
