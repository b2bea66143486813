"""Training configuration: what a YAML file may say, with defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    create_model,
    field_validator,
    model_validator,
)

from electret.data.dataset import Limits
from electret.data.keys import DataKeys, DipoleOrigin
from electret.data.reference import FROM_START, E0Source
from electret.models.config import ElectrostaticsConfig, ModelConfig, ScfConfig, StrictConfig
from electret.models.header import read_header
from electret.support.outputs import check_file_name
from electret.training.aliases import STAGE_ALIASES, TOP_LEVEL_ALIASES
from electret.training.config_file import parse_config, read_config
from electret.training.targets import TARGETS, check_family, resolved_mode

__all__ = [
    "DataConfig",
    "LearningRates",
    "LoraConfig",
    "LossConfig",
    "OptimizerConfig",
    "ReplayConfig",
    "SchedulerConfig",
    "StageConfig",
    "TrainedModelConfig",
    "TrainingConfig",
]


def _zero_or(least: float, value: float) -> float:
    if 0 < value < least:
        raise ValueError(f"a number this small has no effect; give 0, or {least:g} or more")
    return value


Weight = Annotated[
    float, Field(ge=0, le=1e12, allow_inf_nan=False), AfterValidator(lambda value: _zero_or(1e-12, value))
]
Rate = Annotated[
    float, Field(ge=0, le=10, allow_inf_nan=False), AfterValidator(lambda value: _zero_or(1e-12, value))
]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, (str, Path)) else value


Files = Annotated[list[Path], BeforeValidator(_as_list)]


class LoraConfig(StrictConfig):
    """Low-rank changes of the linear maps of the backbone (`mace.modules.lora`), trained in place of them."""

    rank: int = Field(default=4, ge=1, le=4096)
    alpha: float = Field(default=1.0, gt=0, le=1e6)
    """The product of the two factors enters with alpha / rank."""


class TrainedModelConfig(ModelConfig):
    """Options of the model, and a model file to start from, whose own options hold then."""

    start: Path | None = None
    """Model of mace-torch (`.model`, with `trust`) or of electret, of the same family, or a MACE model to
    which the family adds its density. Other options may be left out, or must agree with the file."""
    trust: bool = False
    """The start is a pickle from a trusted source; reading it runs whatever code it holds."""
    lora: LoraConfig | None = None
    """Train low-rank changes of the backbone alone, which are merged into the saved model."""

    @model_validator(mode="before")
    @classmethod
    def _family_of_the_start(cls, raw: Any) -> Any:
        """The family is that of an `.electret` file, `mace` for other starts, unless it is given."""
        if not isinstance(raw, dict) or raw.get("start") is None or "family" in raw:
            return raw
        start = str(raw["start"])
        own = start.endswith(".electret")
        return {**raw, "family": read_header(start)["config"]["family"] if own else "mace"}

    @property
    def plain(self) -> ModelConfig:
        """The options that a model file holds."""
        return ModelConfig.parse(self.model_dump(exclude=set(START_OPTIONS), exclude_unset=True))


START_OPTIONS = ("start", "trust", "lora")
"""Options of a run beside those of its model."""


class ReplayConfig(StrictConfig):
    """Frames of earlier training, added to the training frames so that the model stays accurate on them."""

    files: Files
    weight: Weight = 1.0
    """Factor of their weight in the loss."""
    frames: Count | None = None
    """Number of frames drawn at random; None: all."""


class DataConfig(StrictConfig):
    """Files, keys, validation split, atomic energies, batches."""

    train: Files
    valid: Files | None = None
    valid_fraction: float | None = Field(default=None, gt=0, lt=1)
    """Part of the training frames to validate on if `valid` is not given; None then means 0.1."""
    replay: ReplayConfig | None = None
    """Data of the model to start from, against forgetting."""
    test: dict[str, Files] | Files = Field(default_factory=dict)
    """Files to evaluate at the end, in one set or in named sets."""
    keys: DataKeys = DataKeys()
    dipole_origin: DipoleOrigin | None = None
    """Point about which dipole labels of charged open systems are given; they are moved to the origin of the
    coordinates on reading. None is the origin, and is mentioned where it matters."""
    e0s: E0Source = "auto"
    keep_isolated_atoms: bool = False
    scaling: Literal["rms_forces", "std", "none"] = "rms_forces"
    """Scale and shift of the readout energies, see `electret.training.statistics`."""
    config_type_weights: dict[str, Weight] = Field(default_factory=dict)
    """Loss weight of each config_type; 1 for others, or the value of `Default`."""
    batch_size: Count | None = 10
    """Frames per step; None, and the default beside `max_atoms` or `max_edges`, is no limit."""
    max_atoms: Count | None = None
    """Atoms per batch, of training and of evaluations."""
    max_edges: Count | None = None
    """Pairs within the cutoff (each in both directions) per batch, of training and of evaluations."""
    valid_batch_size: Count | None = None
    workers: Annotated[int, Field(ge=0, le=1024)] | None = None
    """Processes that make batches while the model computes. None: none for files, which are held in memory
    with their neighbour lists, and one per further core, at most four, for prepared sets."""

    @model_validator(mode="before")
    @classmethod
    def _limited_otherwise(cls, raw: Any) -> Any:
        """Without `batch_size`, `max_atoms` or `max_edges` alone limit a batch."""
        others = isinstance(raw, dict) and any(
            raw.get(name) is not None for name in ("max_atoms", "max_edges")
        )
        return {"batch_size": None, **raw} if others else raw

    @field_validator("train", "valid")
    @classmethod
    def _some_file(cls, files: list[Path] | None) -> list[Path] | None:
        if files is not None and not files:
            raise ValueError("the list of files is empty; name at least one")
        return files

    @model_validator(mode="after")
    def _one_validation_set(self) -> DataConfig:
        if self.valid is not None and self.valid_fraction is not None:
            raise ValueError("valid and valid_fraction exclude each other; remove one")
        return self

    @model_validator(mode="after")
    def _some_limit(self) -> DataConfig:
        if self.batch_size is None and self.max_atoms is None and self.max_edges is None:
            raise ValueError("batch_size, max_atoms and max_edges are all null; give one of them")
        return self

    @property
    def limits(self) -> Limits:
        """Largest batch of training."""
        return Limits(self.batch_size, self.max_atoms, self.max_edges)

    @property
    def valid_limits(self) -> Limits:
        """Largest batch of evaluations."""
        return Limits(self.valid_batch_size or self.batch_size, self.max_atoms, self.max_edges)

    @property
    def test_sets(self) -> dict[str, list[Path]]:
        """Test files by the name of their set."""
        if isinstance(self.test, dict):
            return self.test
        return {"test": self.test} if self.test else {}


class LearningRates(StrictConfig):
    """Learning rate of each parameter group; 0 freezes the group."""

    backbone: Rate = 0.01
    readouts: Rate = 0.01
    electrostatics: Rate = 0.01


_Weights: Any = create_model(  # type: ignore[call-overload]
    "_Weights",
    __base__=StrictConfig,
    **{name: (Weight, Field(default=0.0, description=target.note)) for name, target in TARGETS.items()},
)


CHARGE_RESPONSE_WEIGHT = 100.0
"""Weight of the term `charge_response` where none is given: a tenth of wrong sign counts as 1."""


class LossConfig(_Weights):
    """Weights of the loss terms, one option per name of `TARGETS` (0: not in the loss), and their form.

    Each term is the mean over the labelled components of the batch of the squared residual, or of the Huber
    function of it; residuals of energy, dipole, total charge and polarisability are per atom of their system.
    Systems whose density did not converge are left out.
    """

    scales: Literal["units", "data"] = "units"
    """Units that weights count in: squares of eV, Å, e, V, or the error of the mean of the labels."""
    stability_limit: float = Field(default=0.9, ge=0, le=100, allow_inf_nan=False)
    form: Literal["mse", "huber"] = "mse"
    huber_delta: float = Field(default=0.01, ge=1e-9, le=1e6, allow_inf_nan=False)
    """Residual in eV, Å, e, V where the Huber function turns linear."""
    dipole_components: tuple[Literal["x", "y", "z"], ...] | None = Field(default=None, min_length=1)
    """Components that enter the loss; None takes those along which a frame is not periodic."""

    @property
    def weights(self) -> dict[str, float]:
        """The targets in the loss with their weights."""
        return {name: getattr(self, name) for name in TARGETS if getattr(self, name) > 0}

    @model_validator(mode="after")
    def _some_weight(self) -> LossConfig:
        if not self.weights:
            raise ValueError(f"every loss weight is zero; give one of {', '.join(TARGETS)} a positive weight")
        return self


class OptimizerConfig(StrictConfig):
    """Optimiser of a stage; `schedulefree` is AdamW of the package of that name (it averages by itself: no
    EMA)."""

    name: Literal["adam", "adamw", "schedulefree"] = "adam"
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: Rate = 0.0
    amsgrad: bool = True
    warmup_steps: int = Field(default=0, ge=0, le=1_000_000_000)
    """Steps of linear warm-up, `schedulefree` only."""

    @field_validator("betas")
    @classmethod
    def _in_unit_interval(cls, betas: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas are {betas}, expected numbers in [0, 1)")
        return betas

    @model_validator(mode="after")
    def _all_have_effect(self) -> OptimizerConfig:
        averaging = self.name == "schedulefree"
        self.refuse_without_effect(warmup_steps=averaging, amsgrad=not averaging)
        return self


class SchedulerConfig(StrictConfig):
    """Learning rate within a stage, stepped once per epoch."""

    name: Literal["constant", "cosine", "exponential", "plateau"] = "plateau"
    gamma: float = Field(default=0.9993, ge=1e-3, le=1)
    """Factor per epoch of `exponential`."""
    factor: float = Field(default=0.8, ge=1e-3, lt=1)
    """Factor of `plateau` after `patience` epochs without a better validation loss."""
    patience: int = Field(default=50, ge=0, le=1_000_000_000)
    minimum: Rate = 0.0
    """Lowest learning rate of `cosine` (its end) and `plateau`."""

    @model_validator(mode="after")
    def _all_have_effect(self) -> SchedulerConfig:
        plateau = self.name == "plateau"
        self.refuse_without_effect(
            gamma=self.name == "exponential",
            factor=plateau,
            patience=plateau,
            minimum=plateau or self.name == "cosine",
        )
        return self


def _rates(value: Any) -> Any:
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        return dict.fromkeys(LearningRates.model_fields, value)
    return value


class StageConfig(StrictConfig):
    """A number of epochs with one loss and one optimiser."""

    other_names: ClassVar[Mapping[str, str]] = STAGE_ALIASES

    name: str = "main"
    epochs: Count
    lr: Annotated[LearningRates, BeforeValidator(_rates)] = LearningRates()
    """One number for all groups or one per group."""
    loss: LossConfig = LossConfig(energy=1.0, forces=100.0)
    mode: str | None = None
    """How a self-consistent density is found and differentiated: `implicit` (the default there) converges it
    and differentiates the converged point, `unrolled` differentiates `unrolled_steps` iterations, `direct`
    evaluates the model once at the reference density. Refused where the family's density is explicit."""
    unrolled_steps: int = Field(default=10, ge=1, le=10_000)
    optimizer: OptimizerConfig = OptimizerConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    freeze: tuple[str, ...] = ()
    """Parts of the backbone that are not trained: `embedding`, `layer N` (interaction and product),
    `readout N` (of the energy), counted from 0."""
    clip_grad: Annotated[float, Field(ge=1e-9, le=1e12, allow_inf_nan=False)] | None = 10.0
    """Largest gradient norm; None: no clipping."""
    early_stop: Count | None = None
    """End the stage after so many epochs without a better validation loss."""

    @model_validator(mode="after")
    def _all_have_effect(self) -> StageConfig:
        self.loss.refuse_without_effect(
            huber_delta=self.loss.form == "huber",
            stability_limit=self.loss.stability > 0,
            dipole_components=self.loss.dipole > 0,
        )
        rates = [rate for rate in self.lr.model_dump().values() if rate > 0]
        if rates and self.scheduler.minimum > max(rates):
            raise ValueError(
                f"scheduler.minimum = {self.scheduler.minimum:g} is above the learning rate "
                f"{max(rates):g}; lower it"
            )
        return self


class TrainingConfig(StrictConfig):
    """Everything that defines a training run. `from_yaml` also takes MACE's names
    (`electret.training.aliases`)."""

    other_names: ClassVar[Mapping[str, str]] = TOP_LEVEL_ALIASES | STAGE_ALIASES

    name: str = "electret"
    output: Path | None = None
    """Folder of the run, relative to the working directory; None: `runs/<name>`."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    device: str = "cpu"
    dtype: Literal["float32", "float64"] = "float64"
    model: TrainedModelConfig
    data: DataConfig
    stages: list[StageConfig]
    ema_decay: float | None = Field(default=0.99, gt=0, lt=1)
    """Decay of the exponential moving average of the weights, which is what is validated and saved; None:
    off."""
    tensorboard: bool = True
    plots: bool = True

    @model_validator(mode="before")
    @classmethod
    def _one_dtype(cls, raw: Any) -> Any:
        """`dtype` of the run is the dtype of the backbone; both given and different is an error."""
        model = raw.get("model") if isinstance(raw, dict) else None
        if isinstance(model, ModelConfig):
            model = model.model_dump(exclude_unset=True)
        if not isinstance(model, dict) or not isinstance(model.get("backbone", {}), dict):
            return raw
        backbone = dict(model.get("backbone", {}))
        wanted = raw.get("dtype", backbone.get("dtype", "float64"))
        if backbone.get("dtype", wanted) != wanted:
            raise ValueError(
                f"dtype is {wanted} but model.backbone.dtype is {backbone['dtype']}; remove the latter"
            )
        backbone["dtype"] = wanted
        return {**raw, "dtype": wanted, "model": {**model, "backbone": backbone}}

    @model_validator(mode="after")
    def _energies_of_the_start(self) -> TrainingConfig:
        if self.data.e0s in FROM_START and self.model.start is None:
            raise ValueError(
                f"data.e0s = {self.data.e0s!r} takes the energies of the model to start from, but there is "
                "none; set model.start, or use average"
            )
        return self

    @field_validator("stages")
    @classmethod
    def _distinct_stages(cls, stages: list[StageConfig]) -> list[StageConfig]:
        names = [stage.name for stage in stages]
        if not names:
            raise ValueError("at least one stage is needed")
        if len(set(names)) < len(names):
            raise ValueError(f"stage names must differ, found {', '.join(names)}")
        return stages

    @model_validator(mode="after")
    def _options_of_the_family(self) -> TrainingConfig:
        if self.output is None:
            check_file_name(self.name, "name")
        family, electrostatics = self.model.description, self.model.electrostatics
        idle = {"none": tuple(ElectrostaticsConfig.model_fields), "density": ElectrostaticsConfig.OF_FEATURES}
        for name in idle.get(family.electrostatics, ()):
            if getattr(electrostatics, name) != getattr(ElectrostaticsConfig(), name):
                raise ValueError(
                    f"model.electrostatics.{name} does nothing in family {family.name!r}; remove it or "
                    "choose another family"
                )
        if self.model.scf.solver != "anderson" and self.model.scf.depth != ScfConfig().depth:
            raise ValueError(f"model.scf.depth does nothing with solver {self.model.scf.solver!r}; remove it")
        return self

    @model_validator(mode="after")
    def _responses_of_the_right_sign(self) -> TrainingConfig:
        """The term `charge_response` is in the loss of every stage unless its weight is given."""
        if "charge_response" in self.model.description.targets and self.model.fixed_point.responding == "all":
            for index, stage in enumerate(self.stages):
                if "charge_response" not in stage.loss.model_fields_set:
                    loss = stage.loss.model_copy(update={"charge_response": CHARGE_RESPONSE_WEIGHT})
                    self.stages[index] = stage.model_copy(update={"loss": loss})
        return self

    @model_validator(mode="after")
    def _consistent(self) -> TrainingConfig:
        for index, stage in enumerate(self.stages):
            check_family(self.model.description, tuple(stage.loss.weights), stage.mode, f"stages.{index}")
            mode = resolved_mode(self.model.family, stage.mode)
            default_steps = StageConfig.model_fields["unrolled_steps"].default
            if mode != "unrolled" and stage.unrolled_steps != default_steps:
                raise ValueError(
                    f"stages.{index}.unrolled_steps does nothing in mode {mode!r}; remove it or set "
                    "mode: unrolled"
                )
            if (
                stage.loss.total_charge > 0
                and "conserve_charge" in self.model.description.options
                and self.model.conserve_charge
            ):
                raise ValueError(
                    f"stages.{index}.loss.total_charge: the total charge is exact with "
                    f"model.conserve_charge, so its "
                    "loss teaches nothing; remove the weight or set model.conserve_charge: false"
                )
            if stage.optimizer.name == "schedulefree" and self.ema_decay is not None:
                raise ValueError(
                    f"stages.{index}: schedulefree averages the weights itself; set ema_decay: null"
                )
        return self

    @property
    def run_folder(self) -> Path:
        """Folder that holds everything the run writes."""
        return self.output if self.output is not None else Path("runs") / self.name

    @property
    def n_epochs(self) -> int:
        """Epochs of all stages together."""
        return sum(stage.epochs for stage in self.stages)

    @classmethod
    def from_yaml(cls, path: str | Path, overrides: Sequence[str] = ()) -> TrainingConfig:
        """Read a YAML file, then apply overrides such as `stages.0.epochs=3`.

        Data files are relative to the folder of the YAML file. Raises `InputError` that names file, key path
        and, for unknown keys, the nearest valid name.
        """
        return read_config(cls, Path(path), overrides)

    @classmethod
    def from_dict(cls, raw: dict[str, Any], base: Path | None = None) -> TrainingConfig:
        """As `from_yaml` for a dictionary; `base` is the folder of relative data files (None: working
        directory)."""
        return parse_config(cls, raw, base or Path.cwd(), source="config")
