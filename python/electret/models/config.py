"""Options of a model: family, backbone and electrostatics, checked before anything is built."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from electret.errors import InputError
from electret.models.family import (
    CHARGES_AND_DIPOLE,
    LABELLED_DENSITY,
    LABELLED_FORCES,
    SOLVED_DENSITY,
    Family,
    family_named,
    flowing,
    register,
    registered,
)

__all__ = [
    "FAMILIES",
    "SELF_CONSISTENT",
    "BackboneConfig",
    "ElectrostaticsConfig",
    "FixedPointConfig",
    "FunctionalConfig",
    "LatentConfig",
    "ModelConfig",
    "PolarConfig",
    "QeqConfig",
    "ScfConfig",
    "SplitChargesConfig",
    "StrictConfig",
    "problems",
]

LEAST_SINGLE = 1e-5
"""Least accuracy for which a GPU sums in float32; as the native planner has it."""
Condition = Literal["total_charge", "external_field", "fermi_level", "spin_multiplicity"]
Positive = Annotated[float, Field(ge=1e-6, le=1e6, allow_inf_nan=False)]
Length = Annotated[float, Field(ge=0.01, le=100.0, allow_inf_nan=False)]
"""Å."""
Relative = Annotated[float, Field(ge=1e-16, le=0.1, allow_inf_nan=False)]
Charge = Annotated[float, Field(ge=-100.0, le=100.0, allow_inf_nan=False)]
"""e."""
Correlation = Annotated[int, Field(ge=1, le=8)]
Width = Annotated[int, Field(ge=1)]
Config = TypeVar("Config", bound="StrictConfig")


def _types(annotation: Any) -> Iterator[Any]:
    yield annotation
    for argument in get_args(annotation):
        yield from _types(argument)


class StrictConfig(BaseModel):
    """A frozen set of options that refuses unknown names and names the nearest valid one."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    other_names: ClassVar[Mapping[str, str]] = {}
    """Names that files may use besides those of the options, with the place of the option."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_options(cls, data: Any) -> Any:
        if isinstance(data, dict):
            valid = set(cls.model_fields)
            for entry in cls.model_fields.values():
                if isinstance(entry.validation_alias, AliasChoices):
                    valid |= {str(choice) for choice in entry.validation_alias.choices}
            for name in data:
                if name not in valid:
                    nearest = difflib.get_close_matches(str(name), sorted(valid), n=1, cutoff=0.0)[0]
                    raise ValueError(f"unknown option {name!r} in {cls.__name__}; did you mean {nearest!r}?")
        return data

    @model_validator(mode="before")
    @classmethod
    def _refuse_booleans(cls, data: Any) -> Any:
        """`true` would count as 1 where a number is meant."""
        for name, value in data.items() if isinstance(data, dict) else ():
            entries = value.values() if isinstance(value, dict) else value
            entries = entries if isinstance(value, (dict, list, tuple)) else [value]
            field = cls.model_fields.get(name)
            types = set() if field is None else set(_types(field.annotation))
            if any(isinstance(entry, bool) for entry in entries) and types & {int, float}:
                raise ValueError(f"{name} is {str(value).lower()}; give numbers")
        return data

    def refuse_without_effect(self, **has_effect: bool) -> None:
        """Raise `ValueError` for an option that was changed although it has no effect beside the others."""
        for name, used in has_effect.items():
            if not used and getattr(self, name) != type(self).model_fields[name].get_default():
                raise ValueError(
                    f"{name} = {getattr(self, name)} does nothing with the other options; remove it"
                )

    @classmethod
    def parse(cls: type[Config], data: dict[str, Any]) -> Config:
        """The checked options of a plain dictionary (from YAML or JSON).

        Raises:
            InputError: one line per option that cannot be used, with its place, value and the reason.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise InputError(problems(error, cls.__name__)) from error


def problems(error: ValidationError, whole: str = "") -> str:
    """Place, value and reason of each problem that pydantic found; `whole` is the place of the whole."""
    lines = []
    for entry in error.errors():
        place = ".".join(str(part) for part in entry["loc"] if not _is_branch(part)) or whole
        value = "" if isinstance(entry["input"], dict) else f" = {entry['input']!r}"
        reason = entry["msg"].removeprefix("Value error, ")
        lines.append(f"{place}{value}: {reason}" if place else reason)
    return "; ".join(lines)


def _is_branch(part: int | str) -> bool:
    """True if a part of pydantic's place is an alternative of a type, which no option has as its name."""
    return isinstance(part, str) and ("[" in part or part in ("int", "float", "str", "constrained-int"))


class EmbeddingConfig(StrictConfig):
    """A condition of a system that MACE embeds beside the elements, as in its `embedding_specs`."""

    name: Literal["total_charge", "total_spin"]
    """`total_spin` is the multiplicity 2S + 1."""
    type: Literal["categorical", "continuous"]
    per: Literal["graph"] = "graph"
    emb_dim: Width
    num_classes: Width | None = None
    """Values of a categorical embedding, the whole numbers from -offset to num_classes - 1 - offset."""
    offset: int = 0
    in_dim: Literal[1] = 1
    use_bias: bool = True

    @model_validator(mode="after")
    def _check_classes(self) -> EmbeddingConfig:
        if (self.type == "categorical") != (self.num_classes is not None):
            raise ValueError("num_classes belongs to type 'categorical', which needs it")
        return self


class BackboneConfig(StrictConfig):
    """Hyperparameters of the hosted `mace.modules.ScaleShiftMACE`, under the names of MACE's command line.

    The names of MACE's constructor (`num_bessel`, `num_polynomial_cutoff`, `interaction_cls`,
    `interaction_cls_first`) are accepted too.
    """

    r_max: Length = 5.0
    """Cutoff radius of the edges in Å."""
    num_radial_basis: int = Field(
        default=8, gt=0, le=1000, validation_alias=AliasChoices("num_radial_basis", "num_bessel")
    )
    num_cutoff_basis: int = Field(
        default=5, gt=0, le=1000, validation_alias=AliasChoices("num_cutoff_basis", "num_polynomial_cutoff")
    )
    max_ell: int = Field(default=3, ge=1, le=8)
    interaction: str = Field(
        default="RealAgnosticResidualInteractionBlock",
        validation_alias=AliasChoices("interaction", "interaction_cls"),
    )
    interaction_first: str = Field(
        default="RealAgnosticResidualInteractionBlock",
        validation_alias=AliasChoices("interaction_first", "interaction_cls_first"),
    )
    num_interactions: int = Field(default=2, ge=1, le=100)
    hidden_irreps: str = "128x0e + 128x1o"
    correlation: Correlation | tuple[Correlation, ...] = 3
    MLP_irreps: str = "16x0e"
    radial_MLP: tuple[Width, ...] = (64, 64, 64)
    radial_type: Literal["bessel", "gaussian", "chebyshev"] = "bessel"
    gate: Literal["silu", "tanh", "abs", "None"] = "silu"
    pair_repulsion: bool = False
    distance_transform: Literal["None", "Agnesi", "Soft"] = "None"
    apply_cutoff: bool = True
    use_reduced_cg: bool = True
    use_so3: bool = False
    use_agnostic_product: bool = False
    use_last_readout_only: bool = False
    edge_irreps: str | None = None
    use_edge_irreps_first: bool = False
    readout: str = Field(
        default="NonLinearReadoutBlock", validation_alias=AliasChoices("readout", "readout_cls")
    )
    keep_last_layer_irreps: bool = True
    """Keep all irreps in the last layer, so that multipoles read from it too."""
    embedding_specs: tuple[EmbeddingConfig, ...] = ()
    """Conditions that the energy depends on by joint embeddings (those of OMOL); in files also a mapping."""
    use_embedding_readout: bool = False
    """Adds an energy that is linear in the embedded elements and conditions."""
    avg_num_neighbors: Positive | None = None
    """Normalises the messages; None takes the mean over the training data."""
    heads: tuple[str, ...] = ("Default",)
    """Energy heads of the hosted model (a foundation model may have several)."""
    head: str | None = None
    """The head whose energy is used; needed when there are several."""
    dtype: Literal["float32", "float64"] = "float64"
    """Type of every parameter and of the arithmetic of the backbone."""

    @model_validator(mode="before")
    @classmethod
    def _irreps_from_channels(cls, data: Any) -> Any:
        """MACE's `num_channels` and `max_L` as the hidden irreps they stand for."""
        if not isinstance(data, dict) or not {"num_channels", "max_L"} & set(data):
            return data
        if "hidden_irreps" in data:
            raise ValueError("give either hidden_irreps or num_channels and max_L, not both")
        data = dict(data)
        channels, max_l = int(data.pop("num_channels", 128)), int(data.pop("max_L", 1))
        data["hidden_irreps"] = " + ".join(f"{channels}x{l}{'eo'[l % 2]}" for l in range(max_l + 1))
        return data

    @field_validator("embedding_specs", mode="before")
    @classmethod
    def _named(cls, specs: Any) -> Any:
        """MACE's mapping by name as a sequence, whose order a file keeps."""
        return [{"name": name, **spec} for name, spec in specs.items()] if isinstance(specs, dict) else specs

    @model_validator(mode="after")
    def _check_heads(self) -> BackboneConfig:
        if not self.heads:
            raise ValueError("heads is empty; name at least one")
        if self.head is None and len(self.heads) > 1:
            raise ValueError(f"the model has several heads; set head to one of {list(self.heads)}")
        if isinstance(self.correlation, tuple) and len(self.correlation) != self.num_interactions:
            raise ValueError(
                f"correlation has {len(self.correlation)} entries for {self.num_interactions} interactions"
            )
        self.refuse_without_effect(use_embedding_readout=bool(self.embedding_specs))
        return self

    @property
    def conditions(self) -> dict[str, EmbeddingConfig]:
        """The embedding of each condition that the short-range energy depends on."""
        names = {"total_spin": "spin_multiplicity"}
        return {names.get(spec.name, spec.name): spec for spec in self.embedding_specs}

    @property
    def head_index(self) -> int:
        """Index of the head whose energy is used."""
        if self.head is None:
            return 0
        # Not checked with the other options: around an existing MACE the heads are the object's.
        if self.head not in self.heads:
            raise InputError(f"backbone.head = {self.head!r} is not among the heads {list(self.heads)}")
        return self.heads.index(self.head)


class ElectrostaticsConfig(StrictConfig):
    """The density of Gaussian multipoles and how its energy is summed."""

    OF_FEATURES: ClassVar[tuple[str, ...]] = ("widths", "features_max_l")
    """Options of the potential features, without effect in families that read none."""

    max_l: int = Field(default=1, ge=0, le=4)
    """Highest multipole on an atom: 0 charges, 1 dipoles, 2 quadrupoles, ..."""
    sigma: Length | dict[str, Length] = 1.5
    """Gaussian width in Å, one for all or one per chemical symbol."""
    widths: tuple[Length, ...] = (1.5, 3.0)
    """Receiver widths of the potential features in Å (families that use features)."""
    features_max_l: int = Field(default=1, ge=0, le=4)
    method: str = "auto"
    """One of `electret.coulomb`: `auto`, `direct`, `reciprocal`, `ewald`, `mesh`, or `mesh-8` (order 8)."""
    accuracy: Relative = 1e-6
    precision: Literal["float64", "float32"] = "float64"
    """Precision of long sums on a GPU; `float32` needs an `accuracy` of 1e-5 or more. The CPU has float64."""
    boundary: str | None = None
    """None follows pbc; `slab_dipole_correction` and `molecule_in_box` are for parity with other codes."""

    @property
    def sums(self) -> dict[str, Any]:
        """Settings of the sums, as arguments of the functions of `electret.torch`."""
        return {name: getattr(self, name) for name in ("boundary", "method", "accuracy", "precision")}

    @model_validator(mode="after")
    def _check_precision(self) -> ElectrostaticsConfig:
        if self.precision == "float32" and self.accuracy < LEAST_SINGLE:
            raise ValueError(
                f"accuracy = {self.accuracy:g} with precision = 'float32', whose sums are good to "
                f"{LEAST_SINGLE:g} at best; give accuracy: {LEAST_SINGLE:g} or more, or precision: float64"
            )
        return self


class SplitChargesConfig(StrictConfig):
    """The network of the charge flux along edges: all of `split_charges`, the density without a potential of
    `sqe`, `energy_functional` and `fixed_point`, the conductances where charges flow, and `latent_charges:
    flux`."""

    channels: int = Field(default=16, gt=0, le=4096)
    """Scalars that each end of an edge gives, per l of the features."""
    hidden: int = Field(default=32, gt=0, le=4096)
    """Width of the hidden layer of the flux network."""


class LatentConfig(StrictConfig):
    """Readouts, energy and Born charges of the latent charges of `latent_ewald`."""

    readout: Literal["linear", "mace"] = "linear"
    """`linear` in the features of all layers; `mace`: as MACE reads energies, with a gated MLP for the last
    layer (charges only, with the `MLP_irreps` and the `gate` of the backbone; MACE-LES)."""
    self_interaction: bool = True
    """The energy has the interaction of each Gaussian with itself."""
    remove_mean: bool = True
    """Born charges are those of the latent charges less their mean over the system."""
    epsilon_factor: Positive = 1.0
    """Born charges are those of the latent charges times its square root (a permittivity)."""


class QeqConfig(StrictConfig):
    """Electronegativity and hardness of `qeq` and `sqe`."""

    hidden: int = Field(default=16, gt=0, le=4096)
    """Width of the hidden layer of the readouts of hardness and polarisability."""
    minimum_hardness: Positive = 0.1
    """Lower bound of the hardness in eV/e² (and of its counterparts for dipoles, in eV/(e Å)²)."""


class FunctionalConfig(StrictConfig):
    """The local energy of `energy_functional`."""

    channels: int = Field(default=16, gt=0, le=4096)
    """Vectors g_c of features whose products g_c g_c^T make the quadratic block."""
    convex: int = Field(default=16, ge=0, le=4096)
    """Convex functions of linear forms of the multipoles per atom; 0 keeps the functional quadratic."""
    hidden: int = Field(default=16, gt=0, le=4096)
    """Width of the hidden layer of the scalar readouts."""
    minimum_hardness: Positive = 0.05
    """Lower bound of the curvature in eV/(e Å^l)², which makes the functional strictly convex."""
    flow: bool = False
    """Charges change by flow along edges only, as in `sqe`."""


class FixedPointConfig(StrictConfig):
    """The update p = n0(h) + Delta(h, v) of `fixed_point`."""

    update: Literal["one_body", "many_body"] = "one_body"
    """`one_body`: the potential at an atom changes its own multipoles; `many_body`: its neighbours' too,
    through one more interaction."""
    nonlinearity: Literal["none", "mlp", "residual_mlp"] = "none"
    """Function of the scalars s = <h, u>: the identity (the update is then affine in the potential, and is
    solved without iteration), an MLP of them, or s + MLP(s)."""
    channels: int = Field(default=16, gt=0, le=4096)
    """Channels of the features and of the embedded potential."""
    hidden: int = Field(default=16, gt=0, le=4096)
    """Width of hidden layers."""
    potential_embedding: Literal["linear", "features", "species"] = "linear"
    """`linear`: u = W v; `features`: + W' h; `species`: weights W of each element."""
    responding: Literal["all", "dipoles"] = "all"
    """`all`: charges and higher multipoles respond to the potential, so that charge can flow; `dipoles`:
    only the latter, and only to the field (no Fermi level, no transfer of charge: an insulator, whose
    dielectric tensor is finite)."""
    reference: Literal["flux", "local"] = "flux"
    """n0, the density without a potential. `flux`: charges that flow along edges, so that they add up to
    those of the elements and an insulator is neutral without a response; `local`: linear in the features."""
    charge_gate: bool = True
    """Multiplies the potential at an atom and the charge of its response by a learned number between 0
    (insulating: only dipoles respond, and only to the field) and 1 (conducting)."""
    isotropic_response: bool = True
    """Adds a response of each atom along the potential itself, with a coefficient of its features."""
    flow: bool = False
    """Charges answer by flow along edges, as in `sqe`, driven by differences of the potential; the other
    multipoles as they do without. An insulator is then one at any size."""
    energy: Literal["none", "quadratic", "mlp"] = "quadratic"
    """Energy of the density beside its electrostatics: h·[A(p - n0) x B v], or an MLP of invariants."""
    self_interaction: bool = False
    """True if the potential features contain the atom's own density."""

    @model_validator(mode="after")
    def _check_flow(self) -> FixedPointConfig:
        if self.flow and self.responding != "all":
            raise ValueError("flow: true is a response of the charges; leave responding at 'all'")
        if self.flow and self.reference != "flux":
            raise ValueError("flow: true needs reference: flux, whose charges add up along the edges")
        self.refuse_without_effect(charge_gate=not self.flow)
        return self


class PolarConfig(StrictConfig):
    """MACE-POLAR-1, in terms of `mace.modules.PolarMACE`."""

    mode: Literal["exact", "as_trained"] = "exact"
    """`exact` sums every system as its periodic axes say; `as_trained` repeats the approximations of
    graph-longrange, with which published weights were fitted (`electret.polar.accelerate`)."""
    steps: int = Field(default=1, ge=1, le=100)
    """Updates of the density in its own potential (`num_recursion_steps`)."""
    features_self_interaction: bool = False
    """True if the potential features contain the atom's own density (`field_si`)."""
    self_interaction: bool = False
    """True if the energy has the interaction of each Gaussian with itself
    (`include_electrostatic_self_interaction`)."""
    local_energy: bool = True
    """Adds an energy of the density and its potential at each atom (`add_local_electron_energy`)."""
    feature_norms: tuple[Positive, ...] | None = None
    """Divisors of the potential features, by l and width (`field_feature_norms`)."""
    field_norm_factor: Positive = 0.02
    kspace_cutoff_factor: Positive = 1.5
    """Cutoff of the waves of mode `as_trained` relative to the rule of the training code; sums of mode
    `exact` take theirs from `electrostatics.accuracy`."""


class ScfConfig(StrictConfig):
    """How the density is found."""

    solver: Literal["newton", "newton_cg", "anderson", "mixing"] = "newton"
    """`newton` (which solves affine updates in one step), `newton_cg` (the same with matrix-free solves),
    `anderson`, or `mixing` (the reference scheme)."""
    tolerance: Relative = 1e-8
    """Mean absolute residual per multipole component at which a system has converged, e Å^l."""
    max_iterations: int = Field(default=100, gt=0, le=1_000_000)
    mixing: float = Field(default=0.25, gt=0, le=1)
    """Part of the update that `mixing` and `anderson` take, and each step of unrolled training."""
    depth: int = Field(default=8, gt=0, le=1000)
    """Earlier states that `anderson` keeps."""
    linear_solver: Literal["auto", "dense", "krylov"] = "auto"
    """Factor the Jacobian, or apply it matrix-free."""


class ModelConfig(StrictConfig):
    """A model: its family, backbone, electrostatics and the options of its family."""

    family: str
    backbone: BackboneConfig = BackboneConfig()
    electrostatics: ElectrostaticsConfig = ElectrostaticsConfig()
    conserve_charge: bool = True
    """Shift the charges of a system by one common amount so that they add up to the requested total
    charge (`fixed_charges`, `local_charges`; `split_charges` always does). Without it the total charge of
    `local_charges` is a prediction, trained with the total-charge loss, and a requested one has no
    effect."""
    charges: dict[str, Charge] | None = None
    """Charge per chemical symbol in e: the charges of `fixed_charges` (None takes the mean labelled
    charge of each element), and the charges before any flux of `split_charges`, `sqe`,
    `energy_functional` and `fixed_point` (None is 0 for every element)."""
    latent_charges: Literal["free", "flux"] = "free"
    """Charges of `latent_ewald`. `free`, as published: neutral fragments have latent charges that do not add
    up to zero, so that energies are not size-consistent; `flux`: charges that flow along edges, so that every
    fragment beyond the cutoff of all others is neutral."""
    latent: LatentConfig = LatentConfig()
    split: SplitChargesConfig = SplitChargesConfig()
    qeq: QeqConfig = QeqConfig()
    functional: FunctionalConfig = FunctionalConfig()
    fixed_point: FixedPointConfig = FixedPointConfig()
    polar: PolarConfig = PolarConfig()
    scf: ScfConfig = ScfConfig()
    ignored_conditions: tuple[Condition, ...] = ()
    """Conditions the family cannot honour that may be present nevertheless, as when `mace` is trained on
    data in fields for comparison. Any other request that cannot be honoured is an error."""

    @model_validator(mode="after")
    def _check_orders(self) -> ModelConfig:
        orders = (self.electrostatics.max_l, self.electrostatics.features_max_l)
        if self.fixed_point.responding == "dipoles" and min(orders) < 1:
            raise ValueError(
                "fixed_point.responding = 'dipoles' needs electrostatics.max_l and features_max_l of at "
                f"least 1 (they are {orders[0]} and {orders[1]}), so that there are dipoles and fields"
            )
        return self

    @field_validator("family")
    @classmethod
    def _known_family(cls, name: str) -> str:
        try:
            return family_named(name).name
        except InputError as error:
            raise ValueError(str(error)) from None

    @model_validator(mode="after")
    def _check_options_of_family(self) -> ModelConfig:
        families = [family_named(name) for name in registered()]
        for option in type(self).model_fields:
            owners = [family.name for family in families if option in family.options]
            changed = getattr(self, option) != type(self).model_fields[option].default
            if owners and self.family not in owners and option in self.model_fields_set and changed:
                raise ValueError(
                    f"option {option!r} does nothing in family {self.family!r} (it belongs to "
                    f"{', '.join(owners)}); remove it"
                )
        latent = self.family == "latent_ewald" and self.latent_charges == "free"
        if latent and self.split != SplitChargesConfig():
            raise ValueError(
                "option 'split' does nothing with latent_charges = 'free'; remove it or use 'flux'"
            )
        if self.latent.readout == "mace" and (self.electrostatics.max_l > 0 or not latent):
            raise ValueError(
                f"latent.readout = 'mace' gives charges only (electrostatics.max_l is "
                f"{self.electrostatics.max_l}, latent_charges {self.latent_charges!r}); set "
                "electrostatics.max_l: 0 and latent_charges: free"
            )
        return self

    @property
    def description(self) -> Family:
        """The description of the family with these options."""
        family = family_named(self.family)
        return flowing(family) if self.flows else family

    @property
    def flows(self) -> bool:
        """True if charges change by flow along edges only."""
        options = {"fixed_point": self.fixed_point.flow, "energy_functional": self.functional.flow}
        return options.get(self.family, self.family == "sqe")


_PLACE = "electret.models.families"
_SOLVED_MODES = ("implicit", "unrolled", "direct")
_FAMILIES = (
    Family(
        "mace",
        f"{_PLACE}.mace:ShortRange",
        electrostatics="none",
        properties={},
        targets=LABELLED_FORCES,
    ),
    Family(
        "fixed_charges",
        f"{_PLACE}.fixed_charges:FixedCharges",
        options=("conserve_charge", "charges"),
        targets=LABELLED_FORCES,  # charges are constants, without a gradient
        local_charges=True,
    ),
    Family(
        "local_charges",
        f"{_PLACE}.local_charges:LocalCharges",
        options=("conserve_charge",),
        targets=(*LABELLED_DENSITY, "total_charge"),
        local_charges=True,
    ),
    Family(
        "split_charges",
        f"{_PLACE}.split_charges:SplitCharges",
        options=("charges", "split"),
        properties={**CHARGES_AND_DIPOLE, "polarization": "system"},
    ),
    Family(
        "latent_ewald",
        f"{_PLACE}.latent_ewald:LatentEwald",
        options=("latent_charges", "latent", "split"),
        properties={},  # latent charges are no observables
        targets=(*LABELLED_FORCES, "born_effective_charges"),
        local_charges=True,
    ),
    Family(
        "qeq",
        f"{_PLACE}.qeq:Qeq",
        options=("qeq", "scf"),
        targets=(*SOLVED_DENSITY, "stationarity"),
        modes=_SOLVED_MODES,
    ),
    Family(
        "sqe",
        f"{_PLACE}.sqe:Sqe",
        options=("charges", "split", "qeq", "scf"),
        targets=SOLVED_DENSITY,
        modes=_SOLVED_MODES,
    ),
    Family(
        "energy_functional",
        f"{_PLACE}.energy_functional:EnergyFunctional",
        options=("charges", "split", "functional", "scf"),
        targets=(*SOLVED_DENSITY, "stationarity"),
        modes=_SOLVED_MODES,
    ),
    Family(
        "fixed_point",
        f"{_PLACE}.fixed_point:FixedPoint",
        options=("charges", "split", "fixed_point", "scf"),
        electrostatics="features",
        # The total charge of a single evaluation of the map is not exact.
        targets=(*SOLVED_DENSITY, "total_charge", "stability", "charge_response"),
        modes=_SOLVED_MODES,
    ),
    Family(
        "polar",
        "electret.polar.family:Polar",
        options=("polar",),
        electrostatics="features",
        properties={**CHARGES_AND_DIPOLE, "magmoms": "atom"},
    ),
)
FAMILIES: tuple[str, ...] = tuple(register(family).name for family in _FAMILIES)
"""Families of this package."""
SELF_CONSISTENT: tuple[str, ...] = tuple(family.name for family in _FAMILIES if family.self_consistent)
"""Families whose density solves equations, in place of an explicit function of the geometry."""
