"""MACE's own code of PolarMACE on the kernels of this package, with or without graph_longrange installed.

Objects change their class in place and keep their tensors. The classes derive from those of the objects,
pickle as these, and run MACE's functions with other global names, so that nothing in MACE is patched.
"""

from __future__ import annotations

import contextlib
import copy
import copyreg
import functools
import importlib
import io
import math
import types
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch

from electret.errors import ElectretError, InputError
from electret.kernels.arguments import Options
from electret.models.hosted import quiet
from electret.models.pickles import Placeholder
from electret.polar.electrostatics import PolarElectrostatics

__all__ = [
    "PARTS",
    "SETTINGS",
    "Part",
    "PolarReplaced",
    "Settings",
    "Step",
    "make_polar",
    "plain_forward",
    "polar_class",
    "polar_electrostatics",
    "running",
    "stand_in",
    "with_names",
]

SETTINGS = "_electret"
"""Attribute of an accelerated model."""


@dataclass(frozen=True)
class Settings:
    """How the electrostatics of a model are summed."""

    mode: str = "exact"
    accuracy: float = 1e-8
    method: str = "auto"
    precision: str = "float64"


@dataclass
class Step:
    """One evaluation of a PolarMACE."""

    electrostatics: PolarElectrostatics
    with_energy: bool = True
    """False leaves the electrostatic energy to the caller."""
    channels: list[torch.Tensor] = field(default_factory=list)
    """Last two densities that MACE has brought into the layout of multipoles: the spin channels."""
    next_features: tuple[torch.Tensor, torch.Tensor] | None = None
    """Density of the second channel with its features, from the evaluation of both."""
    local_energies: torch.Tensor | None = None

    def channel(self, density: torch.Tensor) -> None:
        """Keep a density of one spin."""
        self.channels = [*self.channels[-1:], density]

    def features(self, density: torch.Tensor) -> torch.Tensor:
        """Features `[n_atoms, n_features]` in the order (l, width, m), of both channels by one evaluation."""
        if self.next_features is not None and _same(self.next_features[0], density):
            (_, found), self.next_features = self.next_features, None
            return found
        pair = self.channels if len(self.channels) == 2 and _same(self.channels[0], density) else []
        densities = [density, pair[1]] if pair else [density]
        n_lm = (self.electrostatics.max_l + 1) ** 2
        values = self.electrostatics.features_of([p.reshape(-1, n_lm).double() for p in densities])
        ordered = [_in_order(value, self.electrostatics.features_max_l).to(density.dtype) for value in values]
        if pair:
            self.next_features = (pair[1], ordered[1])
        return ordered[0]


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """True for the very tensor, and views of all of it."""
    return one.data_ptr() == other.data_ptr() and one.numel() == other.numel()


def _in_order(values: torch.Tensor, max_l: int) -> torch.Tensor:
    """`[n_atoms, n_widths, n_lm]` as `[n_atoms, l, width, m]`, flat."""
    return torch.cat([values[:, :, l * l : (l + 1) ** 2].flatten(1) for l in range(max_l + 1)], dim=1)


_step: ContextVar[Step | None] = ContextVar("step", default=None)


@contextlib.contextmanager
def running(step: Step) -> Iterator[Step]:
    """The evaluation that modules of this thread belong to."""
    token = _step.set(step)
    try:
        yield step
    finally:
        _step.reset(token)


def _current() -> Step:
    step = _step.get()
    if step is None:
        raise ElectretError(
            "an accelerated part of a PolarMACE is called by itself, without positions and cell; call the "
            "model, or electret.polar.restore(model) first"
        )
    return step


class _Replaced:
    """An object whose class has changed: it pickles as one of its first class, and copies as it is."""

    first_class: type

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        state = {name: value for name, value in vars(self).items() if name != SETTINGS}
        return copyreg._reconstructor, (self.first_class, object, None), state  # type: ignore[attr-defined]

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        vars(twin).update({name: copy.deepcopy(value, memo) for name, value in vars(self).items()})
        return twin


class _Descriptor(_Replaced):
    """`electric_potential_descriptor`."""

    def precompute_geometry(self, **geometry: Any) -> dict[str, Any]:
        return {}

    def forward_dynamic(self, cache: Any = None, source_feats: Any = None, pbc: Any = None) -> torch.Tensor:
        return _current().features(source_feats)

    def forward(self, *, source_feats: torch.Tensor, **geometry: Any) -> torch.Tensor:
        return _current().features(source_feats)

    def compute_esps(self, *arguments: Any, **named: Any) -> torch.Tensor:
        raise InputError(
            "electrostatic potentials at the atoms are not part of an accelerated PolarMACE; use the "
            "property 'potentials' of electret.Calculator"
        )


class _Energy(_Replaced):
    """`coulomb_energy`."""

    def forward(self, *, source_feats: torch.Tensor, **geometry: Any) -> torch.Tensor:
        step = _current()
        n_lm = (step.electrostatics.max_l + 1) ** 2
        if not step.with_energy:
            return source_feats.new_zeros(step.electrostatics.n_systems)
        energy = step.electrostatics.energies(source_feats.reshape(-1, n_lm).double())[0]
        return energy.to(source_feats.dtype)


class _Field(_Replaced):
    """`external_field_contribution`."""

    def forward(self, batch: torch.Tensor, positions: torch.Tensor, field: torch.Tensor) -> torch.Tensor:
        electrostatics = _current().electrostatics
        values = electrostatics.features_of_field(field[:, 1:].double())
        return _in_order(values, electrostatics.features_max_l).to(field.dtype)


class _LocalEnergy(_Replaced):
    """`local_electron_energy`, whose energies of atoms MACE gives as sums only."""

    def forward(self, *arguments: Any, **named: Any) -> torch.Tensor:
        energies = super().forward(*arguments, **named)  # type: ignore[misc]
        _current().local_energies = energies
        return energies


PARTS: dict[str, Any] = {
    "electric_potential_descriptor": _Descriptor,
    "coulomb_energy": _Energy,
    "external_field_contribution": _Field,
    "local_electron_energy": _LocalEnergy,
}


class PolarReplaced(_Replaced):
    """A PolarMACE."""

    @property
    def _charges_to_mul_ir(self) -> Callable[[torch.Tensor], torch.Tensor] | None:
        """MACE's transposition of densities, which shows both spin channels before the first is used."""
        found = vars(self).get("_charges_to_mul_ir") or vars(self)["_modules"].get("_charges_to_mul_ir")
        step = _step.get()
        if step is None:
            return found

        def transposed(density: torch.Tensor) -> torch.Tensor:
            result = density if found is None else found(density)
            step.channel(result)
            return result

        return transposed

    def forward(
        self,
        data: dict[str, torch.Tensor],
        training: bool = False,
        compute_force: bool = True,
        compute_virials: bool = False,
        compute_stress: bool = False,
        compute_displacement: bool = False,
        compute_hessian: bool = False,
        compute_edge_forces: bool = False,
        compute_atomic_stresses: bool = False,
        lammps_mliap: bool = False,
        **options: Any,
    ) -> dict[str, torch.Tensor | None]:
        """MACE's forward; virials and stress are derivatives in a strain of positions and cell, so that they
        have the electrostatics and the field."""
        if lammps_mliap:
            raise InputError(
                "lammps_mliap = True gives a model the atoms near one process only, and electrostatics need "
                "all of them; use the ASE calculator, or electret.polar.restore(model)"
            )
        if compute_virials or compute_stress or compute_displacement:
            data, leaves = _strained(data)
        else:
            data, leaves = dict(data), []
        # derivatives beyond forces keep the graph for those in the strain
        further = compute_hessian or compute_edge_forces or compute_atomic_stresses
        later = bool(leaves) and not further
        with running(Step(_electrostatics(self, data, getattr(self, SETTINGS)))):
            result = plain_forward(
                self,
                data,
                training=training or (bool(leaves) and further),
                compute_force=compute_force and not later,
                compute_hessian=compute_hessian,
                compute_edge_forces=compute_edge_forces,
                compute_atomic_stresses=compute_atomic_stresses,
                **options,
            )
        if leaves:
            result["displacement"] = leaves[1]
            if compute_virials or compute_stress:
                result.update(_derivatives(result["energy"], data, leaves, training, compute_stress))
            elif later and compute_force:
                result["forces"] = _derivatives(result["energy"], data, leaves, training, False)["forces"]
        return result


def _electrostatics(model: Any, data: dict[str, torch.Tensor], settings: Settings) -> PolarElectrostatics:
    """Electrostatics of a batch in MACE's dictionary."""
    cell = data["cell"].reshape(-1, 3, 3).double()
    return polar_electrostatics(model, data["positions"].double(), cell, data["pbc"], data["batch"], settings)


def polar_electrostatics(
    model: Any,
    positions: torch.Tensor,
    cell: torch.Tensor,
    pbc: torch.Tensor,
    batch: torch.Tensor,
    settings: Settings,
    **further: Any,
) -> PolarElectrostatics:
    """Electrostatics with the widths and switches of a PolarMACE; tensors are float64."""
    own = bool(model.include_electrostatic_self_interaction)
    return PolarElectrostatics(
        positions=positions,
        cell=cell,
        pbc=pbc.reshape(-1, 3).bool(),
        batch=batch,
        sigma=positions.new_full((len(positions),), float(model.atomic_multipoles_smearing_width)),
        max_l=int(model.atomic_multipoles_max_l),
        options=Options(None, settings.method, settings.accuracy, settings.precision, own),
        widths=tuple(float(width) for width in model.field_feature_widths),
        features_max_l=int(model.field_feature_max_l),
        features_self_interaction=bool(model.field_si),
        mode=settings.mode,  # type: ignore[arg-type]
        waves_cutoff=float(model.kspace_cutoff) if settings.mode == "as_trained" else math.nan,
        **{"external_field": cell.new_zeros(len(cell), 3), **further},
    )


def _strained(data: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
    """A copy of a batch under a strain of zero, with the variables of its derivatives: positions, strain."""
    data = dict(data)
    positions = data["positions"].requires_grad_(True)
    cell = data["cell"].reshape(-1, 3, 3)
    strain = data.get("displacement")
    if strain is None:
        strain = cell.new_zeros(len(cell), 3, 3).requires_grad_()
    symmetric = (strain + strain.transpose(1, 2)) / 2
    strained = cell + cell @ symmetric
    data["positions"] = positions + torch.einsum("ai,aij->aj", positions, symmetric[data["batch"]])
    data["cell"] = strained.reshape(data["cell"].shape)
    at_edges = strained[data["batch"][data["edge_index"][0]]]
    data["shifts"] = torch.einsum("ei,eij->ej", data["unit_shifts"].to(strained.dtype), at_edges)
    return data, [positions, strain]


def _derivatives(
    energy: torch.Tensor,
    data: dict[str, torch.Tensor],
    leaves: list[torch.Tensor],
    training: bool,
    with_stress: bool,
) -> dict[str, torch.Tensor]:
    """Forces, virials and stress; zero for systems without a volume, as in MACE."""
    by_positions, by_strain = torch.autograd.grad(
        energy.sum(), leaves, retain_graph=training, create_graph=training, materialize_grads=True
    )
    found = {"forces": -by_positions, "virials": -by_strain}
    if with_stress:
        volume = torch.linalg.det(data["cell"].detach().reshape(-1, 3, 3)).abs()[:, None, None]
        stress = by_strain / torch.where(volume > 0, volume, torch.inf)
        found["stress"] = torch.where(stress.abs() < 1e10, stress, torch.zeros_like(stress))
    return found


def with_names(function: Any, **names: Any) -> Any:
    """A copy of a function for which some global names are others."""
    twin = types.FunctionType(
        function.__code__,
        {**function.__globals__, **names},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    twin.__kwdefaults__ = function.__kwdefaults__
    return twin


@functools.cache
def _forward(polar: Any) -> Any:
    """The forward of a PolarMACE without waves of graph_longrange."""
    return with_names(
        polar.forward,
        GRAPH_LONGRANGE_AVAILABLE=True,
        compute_k_vectors_flat=_no_waves,
    )


def _no_waves(cutoff: Any, cell: torch.Tensor, reciprocal: Any) -> tuple[torch.Tensor, ...]:
    none = cell.new_zeros(0)
    return cell.new_zeros(0, 3), none, none.long(), none


def plain_forward(model: Any, *arguments: Any, **options: Any) -> dict[str, Any]:
    """MACE's forward of an accelerated model, without a strain; a `Step` must run."""
    return _forward(model.first_class)(model, *arguments, **options)


@functools.cache
def stand_in(kind: Any, first: Any) -> type:
    """The class of an object of class `first` with other behaviour."""
    names = {name: getattr(first, name) for name in ("__module__", "__qualname__")}
    return type(first.__name__, (kind, first), {"first_class": first, **names})


class Part(Placeholder):
    """A part without tensors in the place of one of graph_longrange, with the methods that MACE 0.3.17 and
    later call when it is made or unpickled."""

    def set_pbc_handling(self, name: str) -> None:
        """Boundaries follow the periodic axes of each system."""

    @staticmethod
    def _build_output_permutation(max_l: int, n_widths: int) -> torch.Tensor:
        """Order (l, width, m) of features (width, l, m), which MACE compares with the file's."""
        n_lm = (max_l + 1) ** 2
        places = torch.arange(n_widths * n_lm).reshape(1, n_widths, n_lm)
        return _in_order(places, max_l)[0]


def _waves_cutoff(widths: Sequence[float], max_l: int) -> float:
    """Cutoff of waves in 1/Å, from which MACE sets its buffer `kspace_cutoff`."""
    return 2.25 / min(widths) * (max_l + 1) ** 0.3


def make_polar(**options: Any) -> Any:
    """A PolarMACE with parts of no tensors in place of those of graph_longrange; `options` are MACE's."""
    polar = polar_class()
    model = polar.__new__(polar)
    parts = ("GTOElectrostaticFeatures", "GTOElectrostaticEnergy", "DisplacedGTOExternalFieldBlock")
    make = with_names(
        polar.__init__,
        GRAPH_LONGRANGE_AVAILABLE=True,
        gto_basis_kspace_cutoff=_waves_cutoff,
        **dict.fromkeys(parts, Part),
    )
    make(model, **options)
    return model


@functools.cache
def polar_class() -> Any:
    """`mace.modules.PolarMACE`, imported without messages.

    Raises:
        InputError: mace-torch is too old.
    """
    with quiet(), contextlib.redirect_stdout(io.StringIO()):
        found = getattr(importlib.import_module("mace.modules.extensions"), "PolarMACE", None)
    if found is None:
        raise InputError("this version of mace-torch has no PolarMACE; install 0.3.16 or later")
    return found
