"""Training configuration: YAML, MACE's names, overrides, errors that name file, key path and nearest name."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("mace")

from electret import InputError
from electret.models.config import FAMILIES
from electret.training import TrainingConfig
from electret.training.aliases import STAGE_ALIASES, TOP_LEVEL_ALIASES
from electret.training.config_file import write_config
from places import ROOT

EXAMPLES = sorted((ROOT / "examples" / "train").glob("*.yaml"))

MINIMAL: dict[str, Any] = {"model": "mace", "train_file": "a.xyz", "max_num_epochs": 3}


def from_text(tmp_path: Path, text: str, overrides: tuple[str, ...] = ()) -> TrainingConfig:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return TrainingConfig.from_yaml(path, overrides)


def from_options(tmp_path: Path, overrides: tuple[str, ...] = (), **changes: Any) -> TrainingConfig:
    return from_text(tmp_path, yaml.safe_dump({**MINIMAL, **changes}), overrides)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_valid(path: Path) -> None:
    config = TrainingConfig.from_yaml(path)
    assert config.stages[-1].loss.weights["energy"] > 0


def test_examples_cover_every_family_that_is_trained_on_a_density() -> None:
    families = {TrainingConfig.from_yaml(path).model.family for path in EXAMPLES}
    assert families == set(FAMILIES) - {"fixed_charges"}


def test_examples_show_every_mode_but_the_expensive_one() -> None:
    stages = [stage for path in EXAMPLES for stage in TrainingConfig.from_yaml(path).stages]
    assert {stage.mode for stage in stages} == {None, "direct", "implicit"}


def test_mace_names(tmp_path: Path) -> None:
    config = from_text(
        tmp_path,
        """
model: MACE
train_file: train.xyz
valid_fraction: 0.05
test_file: [one.xyz, two.xyz]
E0s: "{1: -13.6, 8: -2041.3}"
r_max: 4.5
num_channels: 16
max_L: 1
num_interactions: 2
correlation: 2
max_ell: 2
radial_MLP: "[16, 16]"
scaling: std_scaling
energy_key: dft_energy
forces_key: dft_forces
stress_key: dft_stress
dipole_key: dft_dipole
charges_key: dft_charges
default_dtype: float32
device: cpu
seed: 7
batch_size: 4
valid_batch_size: 8
max_num_epochs: 30
lr: 5e-3
energy_weight: 2
forces_weight: 50
loss: huber
huber_delta: 0.02
optimizer: adamw
amsgrad: false
weight_decay: 1e-6
scheduler: ReduceLROnPlateau
scheduler_patience: 5
lr_factor: 0.5
clip_grad: 5
patience: 9
ema: true
ema_decay: 0.995
config_type_weights: '{"Default": 1.0, "bulk": 2.0}'
""",
    )
    backbone, data, stage = config.model.backbone, config.data, config.stages[0]
    assert config.model.family == "mace"
    assert (backbone.r_max, backbone.hidden_irreps, backbone.radial_MLP) == (4.5, "16x0e + 16x1o", (16, 16))
    assert (backbone.correlation, backbone.max_ell, backbone.dtype) == (2, 2, "float32")
    assert config.dtype == "float32"
    assert data.train == [(tmp_path / "train.xyz").resolve()]
    assert data.test_sets == {"test": [(tmp_path / name).resolve() for name in ("one.xyz", "two.xyz")]}
    assert data.e0s == {"1": -13.6, "8": -2041.3}
    assert (data.scaling, data.valid_fraction, data.batch_size, data.valid_batch_size) == ("std", 0.05, 4, 8)
    assert (data.keys.energy, data.keys.stress, data.keys.dipole) == (
        "dft_energy",
        "dft_stress",
        "dft_dipole",
    )
    assert data.config_type_weights == {"Default": 1.0, "bulk": 2.0}
    assert (stage.name, stage.epochs, stage.lr.readouts) == ("main", 30, 0.005)
    assert stage.loss.weights == {"energy": 2.0, "forces": 50.0}
    assert (stage.loss.form, stage.loss.huber_delta) == ("huber", 0.02)
    assert (stage.optimizer.name, stage.optimizer.amsgrad, stage.optimizer.weight_decay) == (
        "adamw",
        False,
        1e-6,
    )
    assert (stage.scheduler.name, stage.scheduler.patience, stage.scheduler.factor) == ("plateau", 5, 0.5)
    assert (stage.clip_grad, stage.early_stop, config.ema_decay) == (5.0, 9, 0.995)


def test_every_alias_leads_to_an_option(tmp_path: Path) -> None:
    """An alias whose target was renamed would only be found by the user who needs it."""
    from electret.training.config import StageConfig
    from electret.training.config_file import _all_paths

    paths = set(_all_paths(TrainingConfig, ""))
    assert set(TOP_LEVEL_ALIASES.values()) <= paths
    assert set(STAGE_ALIASES.values()) <= set(_all_paths(StageConfig, ""))


def test_the_guide_lists_every_option_and_alias() -> None:
    from electret.training.config import DataConfig, LossConfig, OptimizerConfig, SchedulerConfig, StageConfig

    guide = (ROOT / "docs" / "guide" / "training_options.md").read_text(encoding="utf-8")
    sections = (TrainingConfig, DataConfig, StageConfig, LossConfig, OptimizerConfig, SchedulerConfig)
    names = {name for section in sections for name in section.model_fields} | {
        *TOP_LEVEL_ALIASES,
        *STAGE_ALIASES,
    }
    missing = {name for name in names if f"`{name}`" not in guide and f".{name}`" not in guide}
    assert not missing


def test_responses_keep_their_sign_unless_the_weight_is_given(tmp_path: Path) -> None:
    """The term is in every stage of fixed points whose charges respond, and a written config keeps it."""
    weights = {"energy": 1.0}
    stages = [{"name": name, "epochs": 1, "loss": weights} for name in ("first", "second")]
    stages[1]["loss"] = {**weights, "charge_response": 0.0}
    raw = {"data": {"train": "train.xyz"}, "stages": stages}
    found = TrainingConfig.from_dict({**raw, "model": "fixed_point"})
    assert [stage.loss.charge_response for stage in found.stages] == [100.0, 0.0]
    assert TrainingConfig.from_dict(found.model_dump(mode="json")) == found
    insulator = {"family": "fixed_point", "fixed_point": {"responding": "dipoles"}}
    for model in (insulator, "qeq"):
        stages[1]["loss"] = weights
        assert not any(
            stage.loss.charge_response for stage in TrainingConfig.from_dict({**raw, "model": model}).stages
        )


def test_ema_off(tmp_path: Path) -> None:
    assert from_options(tmp_path).ema_decay == 0.99
    assert from_options(tmp_path, ema=False).ema_decay is None
    assert from_options(tmp_path, ema=False, ema_decay=0.9).ema_decay is None


def test_stages_inherit_top_level_names(tmp_path: Path) -> None:
    stages = [
        {"name": "a", "epochs": 1},
        {"name": "b", "epochs": 2, "lr": {"readouts": 0.0}, "forces_weight": 3},
    ]
    changes = {"stages": stages, "lr": 0.02, "forces_weight": 7, "energy_weight": 1}
    options = {**MINIMAL, **changes}
    del options["max_num_epochs"]
    first, second = from_text(tmp_path, yaml.safe_dump(options)).stages
    assert (first.lr.backbone, first.loss.forces, first.loss.energy) == (0.02, 7.0, 1.0)
    assert (second.lr.readouts, second.loss.forces, second.loss.energy) == (0.0, 3.0, 1.0)


def test_overrides(tmp_path: Path) -> None:
    config = from_options(
        tmp_path, ("stages.0.epochs=9", "r_max=3.5", "lr=1e-4", "data.batch_size=2", "model=local_charges")
    )
    assert (config.stages[0].epochs, config.model.backbone.r_max, config.data.batch_size) == (9, 3.5, 2)
    assert (config.stages[0].lr.backbone, config.model.family) == (1e-4, "local_charges")


def test_written_config_reads_back(tmp_path: Path) -> None:
    config = from_options(tmp_path, E0s={"H": -13.6}, num_channels=8, max_L=1)
    write_config(config, tmp_path / "out.yaml")
    assert TrainingConfig.from_yaml(tmp_path / "out.yaml") == config


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"r_maks": 5}, ["'r_maks'", "'r_max'"]),
        ({"Max_num_epoch": 5}, ["'Max_num_epoch'", "'max_num_epochs'"]),
        ({"start_swa": 5}, ["'start_swa'", "second entry in 'stages'"]),
        ({"data": {"batchsize": 5}}, ["'data.batchsize'", "'data.batch_size'"]),
        ({"data": {"keys": {"energie": "E"}}}, ["'data.keys.energie'", "'data.keys.energy'"]),
        (
            {"model": {"family": "mace", "backbone": {"max_el": 2}}},
            ["'model.backbone.max_el'", "'model.backbone.max_ell'"],
        ),
        ({"model": {"family": "mace", "electrostatics": {"sigmas": 2}}}, ["'model.electrostatics.sigma'"]),
        ({"model": {"family": "mace", "sigma": 2}}, ["'sigma' belongs at 'model.electrostatics.sigma'"]),
        ({"stages": [{"epochs": 1, "los": {}}]}, ["'stages.0.los'", "'stages.0.loss'"]),
        (
            {"stages": [{"epochs": 1, "loss": {"force": 1}}]},
            ["'stages.0.loss.force'", "'stages.0.loss.forces'"],
        ),
        ({"stages": [{"epochs": 1, "scheduler": {"gama": 1}}]}, ["'stages.0.scheduler.gamma'"]),
    ],
)
def test_unknown_names_suggest_the_nearest(
    tmp_path: Path, changes: dict[str, Any], expected: list[str]
) -> None:
    options = {**MINIMAL, **changes}
    if "stages" in changes:
        del options["max_num_epochs"]
    with pytest.raises(InputError) as caught:
        from_text(tmp_path, yaml.safe_dump(options))
    for text in (*expected, "config.yaml"):
        assert text in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"max_num_epochs": 0}, ["stages.0.epochs", "greater than or equal to 1"]),
        ({"lr": -0.1}, ["stages.0.lr"]),
        ({"lr": "fast"}, ["stages.0.lr", "'fast'"]),
        ({"lr": 1e300}, ["stages.0.lr", "less than or equal to 10", "1e+300"]),
        ({"lr": 1e-300}, ["stages.0.lr", "give 0, or 1e-12 or more"]),
        ({"clip_grad": 1e-300}, ["stages.0.clip_grad", "greater than or equal to 0.000000001", "1e-300"]),
        ({"energy_weight": 1e300}, ["stages.0.loss.energy", "1e+300"]),
        ({"atomic_multipoles_smearing_width": 1e300}, ["model.electrostatics.sigma", "to 100", "1e+300"]),
        ({"model": {"family": "qeq", "scf": {"tolerance": 1e300}}}, ["model.scf.tolerance", "to 0.1"]),
        ({"r_max": 1e300}, ["model.backbone.r_max", "to 100"]),
        ({"seed": 2**70}, ["seed"]),
        ({"name": "../elsewhere"}, ["name '../elsewhere' becomes the name of a file"]),
        ({"batch_size": True}, ["data", "batch_size is true; give numbers"]),
        (
            {"model": {"family": "mace", "backbone": {"radial_MLP": [True]}}},
            ["radial_MLP is [true]; give numbers"],
        ),
        ({"huber_delta": 0.1, "energy_weight": 1}, ["stages.0: huber_delta = 0.1 does nothing"]),
        (
            {"stages": [{"loss": {"energy": 1, "stability_limit": 0.5}}]},
            ["stability_limit = 0.5 does nothing"],
        ),
        (
            {"stages": [{"loss": {"dipole": 1, "dipole_components": []}}]},
            ["dipole_components", "at least 1 item"],
        ),
        (
            {"stages": [{"loss": {"energy": 1, "dipole_components": ["z"]}}]},
            ["dipole_components", "does nothing"],
        ),
        (
            {"optimizer": {"name": "adamw", "warmup_steps": 5}},
            ["stages.0.optimizer", "warmup_steps = 5 does nothing"],
        ),
        (
            {"scheduler": {"name": "cosine", "factor": 0.5}},
            ["stages.0.scheduler", "factor = 0.5 does nothing"],
        ),
        (
            {"scheduler": {"name": "cosine", "minimum": 0.1}},
            ["scheduler.minimum = 0.1 is above the learning rate"],
        ),
        (
            {"atomic_multipoles_smearing_width": 1.2},
            ["model.electrostatics.sigma does nothing in family 'mace'"],
        ),
        (
            {"model": {"family": "qeq", "electrostatics": {"widths": [1.0]}}},
            ["model.electrostatics.widths does nothing in family 'qeq'"],
        ),
        (
            {"model": {"family": "qeq", "scf": {"depth": 3}}},
            ["model.scf.depth does nothing with solver 'newton'"],
        ),
        ({"energy_weight": -1}, ["stages.0.loss.energy"]),
        ({"energy_weight": 0, "forces_weight": 0}, ["every loss weight is zero"]),
        ({"loss": "hubert"}, ["stages.0.loss.form", "'hubert'"]),
        ({"optimizer": "sgd"}, ["stages.0.optimizer.name", "'sgd'"]),
        ({"train_file": None}, ["data.train"]),
        ({"valid_file": "v.xyz", "valid_fraction": 0.1}, ["exclude each other"]),
        ({"r_max": -1}, ["model.backbone.r_max"]),
        ({"model": "gap"}, ["model.family", "'gap'"]),
        ({"default_dtype": "float16"}, ["dtype", "'float16'"]),
        ({"data": {"dipole_origin": "nucleus"}}, ["data.dipole_origin", "center_of_mass"]),
        ({"E0s": "{1: "}, ["E0s"]),
        ({"data": {"batch_size": 3}, "batch_size": 4}, ["data.batch_size", "given twice, as 4 and as 3"]),
        ({"charges_weight": 1}, ["stages.0.loss.charges", "family 'mace' cannot be trained on 'charges'"]),
        (
            {"model": "fixed_charges", "dipole_weight": 1},
            ["family 'fixed_charges' cannot be trained on 'dipole'"],
        ),
        (
            {"model": "split_charges", "total_charge_weight": 1},
            ["'split_charges' cannot be trained on 'total_charge'"],
        ),
        ({"model": "local_charges", "total_charge_weight": 1}, ["conserve_charge"]),
        (
            {"stages": [{"mode": "implicit", "epochs": 1}], "max_num_epochs": 1},
            ["stages.0.mode", "does not define mode"],
        ),
        (
            {"stages": [{"mode": "direkt", "epochs": 1}], "model": "qeq", "max_num_epochs": 1},
            ["stages.0.mode", "its modes are implicit, unrolled, direct"],
        ),
        (
            {"stages": [{"unrolled_steps": 5, "epochs": 1}], "model": "qeq", "max_num_epochs": 1},
            ["stages.0.unrolled_steps does nothing in mode 'implicit'"],
        ),
        (
            {"stages": [{"loss": {"stationarity": 1}, "epochs": 1}], "model": "qeq", "max_num_epochs": 1},
            ["stages.0.loss.stationarity", "no loss in mode 'implicit'", "mode: direct"],
        ),
        (
            {"stages": [{"loss": {"stability": 1}, "epochs": 1}], "model": "qeq", "max_num_epochs": 1},
            ["stages.0.loss.stability", "'qeq' cannot be trained on 'stability'"],
        ),
        (
            {
                "stages": [{"loss": {"total_charge": 1}, "epochs": 1}],
                "model": "fixed_point",
                "max_num_epochs": 1,
            },
            ["stages.0.loss.total_charge", "exact at self-consistency"],
        ),
        *(
            (
                {
                    "stages": [{"mode": "direct", "loss": {name: 1}, "epochs": 1}],
                    "model": "fixed_point",
                    "max_num_epochs": 1,
                },
                [f"stages.0.loss.{name}", "no loss in mode 'direct'"],
            )
            for name in ("fermi_level", "polarizability", "born_effective_charges")
        ),
        (
            {
                "stages": [{"mode": "direct", "loss": {"charges": 1}, "epochs": 1}],
                "model": "qeq",
                "max_num_epochs": 1,
            },
            ["stages.0.loss.charges", "weight the stationarity instead"],
        ),
        ({"model": "local_charges", "polarizability_weight": 1}, ["cannot be trained on 'polarizability'"]),
        ({"stages": "all"}, ["stages: expected a list"]),
        ({"stages": []}, ["at least one stage"]),
        ({"stages": [{"name": "a", "epochs": 1}, {"name": "a", "epochs": 1}]}, ["stage names must differ"]),
        ({"optimizer": "schedulefree"}, ["ema_decay: null"]),
        (
            {"default_dtype": "float32", "model": {"family": "mace", "backbone": {"dtype": "float64"}}},
            ["backbone.dtype"],
        ),
    ],
)
def test_bad_values_are_named(tmp_path: Path, changes: dict[str, Any], expected: list[str]) -> None:
    options = {**MINIMAL, **changes}
    if options["train_file"] is None:
        del options["train_file"]
        options["data"] = {}
    if options.get("stages") == []:
        del options["max_num_epochs"]
    with pytest.raises(InputError) as caught:
        from_text(tmp_path, yaml.safe_dump(options))
    for text in (*expected, "config.yaml"):
        assert text in str(caught.value)


def test_file_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        TrainingConfig.from_yaml(tmp_path / "absent.yaml")
    with pytest.raises(InputError, match="not valid YAML"):
        from_text(tmp_path, "a: [1, 2")
    with pytest.raises(InputError, match=r"'seed' is given twice.*line 2"):
        from_text(tmp_path, "seed: 1\nseed: 2\n")
    with pytest.raises(InputError, match="must be a mapping"):
        from_text(tmp_path, "- a\n- b\n")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("stages.0.epochs", "form key.path=value"),
        ("stages.4.epochs=1", "not an index of a list of 1"),
        ("seed.x=1", "single value"),
        ("stages.0.epoch=1", "did you mean 'stages.0.epochs'"),
    ],
)
def test_bad_overrides(tmp_path: Path, override: str, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        from_options(tmp_path, (override,), seed=1)


@pytest.mark.parametrize("value", ["1:30", "1:30.5", "yes"])
def test_numbers_of_old_yaml_are_refused(tmp_path: Path, value: str) -> None:
    """YAML 1.1 reads 1:30 as 90 and yes as true."""
    text = yaml.safe_dump({**MINIMAL, "batch_size": "HERE"}).replace("HERE", value)
    with pytest.raises(InputError, match="batch_size"):
        from_text(tmp_path, text)


def test_numbers_of_yaml(tmp_path: Path) -> None:
    """Digits are decimal, with a leading zero too, and an exponent needs no point."""
    for text, expected in (("010", 10), ("7", 7), ("0", None), ("1e1", 10)):
        config = yaml.safe_dump({**MINIMAL, "batch_size": "HERE", "lr": "RATE"})
        config = config.replace("HERE", text).replace("RATE", ".5e-2")
        if expected is None:
            with pytest.raises(InputError, match=r"data.batch_size = 0: "):
                from_text(tmp_path, config)
        else:
            found = from_text(tmp_path, config)
            assert found.data.batch_size == expected
            assert found.stages[0].lr.backbone == 0.005


def test_merge_keys_and_byte_order_mark(tmp_path: Path) -> None:
    text = """
model: mace
train_file: a.xyz
stages:
  - &first {name: first, epochs: 3, lr: 0.01}
  - {<<: *first, name: second, lr: 0.001}
"""
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbf" + text.encode())
    first, second = TrainingConfig.from_yaml(tmp_path / "bom.yaml").stages
    assert (first.epochs, second.epochs) == (3, 3)
    assert (first.lr.readouts, second.lr.readouts) == (0.01, 0.001)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{[a, b]: 1}", "a key is"),
        ("{no: 1}", "need quotes"),
        ("{model: mace, model: qeq}", "key 'model' is given twice"),
        ('{train_file: "a\\0b.xyz"}', "character of code 0"),
        ("{seed: 18446744073709551616}", "seed: an integer that does not fit 64 bits"),
        ("[" * 5000, "nested too deeply"),
        ("[" * 60 + "]" * 60, "nested more than"),
        ("&a [*a]", "nested more than"),
        ("{a: !!python/object/apply:os.getcwd []}", "not valid YAML"),
        ("3", "must be a mapping"),
        ("{data: {train: a.xyz, valid: []}, model: mace, max_num_epochs: 1}", "list of files is empty"),
    ],
)
def test_hostile_yaml(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=expected):
        TrainingConfig.from_yaml(tmp_path / "c.yaml")


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    text = yaml.safe_dump(MINIMAL).encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))
    assert TrainingConfig.from_yaml("-").data.train == [Path("a.xyz").resolve()]
