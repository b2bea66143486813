"""`electret compare`: models side by side, training of what is missing, reports."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

pytest.importorskip("typer")
pytest.importorskip("mace")

import numpy as np
import yaml
from rich.console import Console
from typer.testing import CliRunner, Result

from electret import InputError
from electret.analysis.comparison_file import read_comparison
from electret.analysis.entries import Entry, is_trained
from electret.analysis.training_time import training_time
from electret.cli.main import application
from electret.models import load, save
from electret.training import TrainingConfig, evaluate
from electret.training.errors import TrainingInterrupted
from training_frames import clusters, run_options, write_frames


def call(*arguments: object) -> Result:
    return CliRunner().invoke(application, [str(argument) for argument in arguments])


def everything(result: Result) -> str:
    return " ".join((result.output + result.stderr).split())


def write_config(folder: Path, name: str, **model: object) -> Path:
    options = run_options(folder / "data.xyz", folder / "runs" / name, name=name)
    options["model"].update(model)
    options["stages"][0]["epochs"] = 1
    if model.get("family") == "mace":
        options["stages"][0]["loss"] = {"energy": 1.0, "forces": 10.0}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(options), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, two configurations and the comparison file that names them; compared once."""
    folder = tmp_path_factory.mktemp("compare")
    frames = clusters(8)
    for index, atoms in enumerate(frames):
        atoms.info["total_charge"] = float(index % 2)
    write_frames(folder / "data.xyz", clusters(8))
    write_frames(folder / "charged.xyz", frames)
    write_config(folder, "short_range", family="mace")
    write_config(folder, "local")
    comparison = {
        "models": {"short range": "short_range.yaml", "local": {"path": "local.yaml", "set": ["seed=4"]}},
        "data": {"all": "data.xyz", "charged": ["charged.xyz"]},
        "batch_size": 4,
    }
    (folder / "compare.yaml").write_text(yaml.safe_dump(comparison), encoding="utf-8")
    result = call("compare", folder / "compare.yaml", "--output", folder / "report")
    assert result.exit_code == 0, everything(result)
    assert "training short range" in everything(result)
    return folder


def test_report_has_the_errors_of_evaluate(folder: Path) -> None:
    numbers = json.loads((folder / "report" / "comparison.json").read_text(encoding="utf-8"))
    assert numbers["models"]["short range"]["family"] == "mace"
    model = load(folder / "runs" / "local" / "model.electret")
    expected = evaluate(model, folder / "data.xyz").overall["forces"].mae
    assert expected > 1e-3
    assert numbers["sets"]["all"]["local"]["errors"]["all"]["forces"]["mae"] == pytest.approx(
        expected, rel=1e-6
    )
    with open(folder / "report" / "comparison.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    chosen = [
        row
        for row in rows
        if (row["set"], row["model"], row["group"], row["target"]) == ("all", "local", "all", "forces")
    ]
    assert [float(row["mae"]) for row in chosen] == pytest.approx([expected], rel=1e-6)
    assert chosen[0]["unit"] == "eV/Å"
    groups = {row["group"] for row in rows if row["set"] == "charged"}
    assert {"first", "second", "charge 0", "charge +1"} <= groups


def test_a_set_that_a_family_refuses_is_reported(folder: Path) -> None:
    numbers = json.loads((folder / "report" / "comparison.json").read_text(encoding="utf-8"))
    assert "short range" not in numbers["sets"]["charged"]
    reason = numbers["refused"]["charged"]["short range"]
    assert "total_charge" in reason
    assert "frame 1" in reason
    text = (folder / "report" / "comparison.md").read_text(encoding="utf-8")
    assert "`short range` was not evaluated" in text
    assert "| short range | mace |" in text
    assert "Per config_type" in text
    assert "Per charge state" in text
    for name in ("errors_all.png", "parity_all.png", "errors_charged.png"):
        assert f"plots/{name}" in text
        assert (folder / "report" / "plots" / name).stat().st_size > 1000


def test_what_is_trained_is_not_trained_again(folder: Path) -> None:
    before = (folder / "runs" / "local" / "model.electret").stat().st_mtime_ns
    result = call("compare", folder / "compare.yaml", "--output", folder / "again", "--no-plots")
    assert result.exit_code == 0, everything(result)
    assert "local: trained already" in everything(result)
    assert (folder / "runs" / "local" / "model.electret").stat().st_mtime_ns == before
    first = json.loads((folder / "report" / "comparison.json").read_text(encoding="utf-8"))
    second = json.loads((folder / "again" / "comparison.json").read_text(encoding="utf-8"))
    assert first["sets"]["all"]["local"]["errors"] == second["sets"]["all"]["local"]["errors"]
    config = TrainingConfig.from_yaml(folder / "local.yaml", ["seed=4"])
    assert is_trained(config)
    assert not is_trained(config.model_copy(update={"seed": 5}))
    written = config.run_folder / "config.yaml"
    stored = yaml.safe_load(written.read_text(encoding="utf-8"))
    del stored["model"]["electrostatics"]["precision"]  # as an electret before that option wrote it
    written.write_text(yaml.safe_dump(stored), encoding="utf-8")
    assert is_trained(config)


def test_models_by_folder_file_and_name(folder: Path) -> None:
    result = call(
        "compare",
        folder / "runs" / "local",
        f"twin={folder / 'runs' / 'local' / 'model.electret'}",
        "--data",
        f"valid={folder / 'data.xyz'}",
        "--output",
        folder / "files",
        "--no-plots",
    )
    assert result.exit_code == 0, everything(result)
    numbers = json.loads((folder / "files" / "comparison.json").read_text(encoding="utf-8"))
    assert set(numbers["models"]) == {"local", "twin"}
    entries = numbers["sets"]["valid"]
    assert entries["local"]["errors"] == entries["twin"]["errors"]
    assert Entry.parse(str(folder / "runs" / "local" / "model.electret")).name == "local"
    assert Entry.parse("fancy.electret").name == "fancy"


def test_interrupted_training_is_resumed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_config(folder, "interrupted")
    comparison = {"models": {"it": path.name}, "data": {"all": "data.xyz"}}
    file = folder / "interrupted_comparison.yaml"
    file.write_text(yaml.safe_dump(comparison), encoding="utf-8")
    from electret.training.loop import Trainer

    run = Trainer.run

    def stopped(trainer: Trainer) -> None:
        run(trainer)
        raise TrainingInterrupted("stopped by the test; --resume goes on")

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run", stopped)
        assert call("compare", file, "--output", folder / "never").exit_code == 130
    assert not (folder / "never").exists()
    result = call("compare", file, "--output", folder / "resumed", "--no-plots")
    assert result.exit_code == 0, everything(result)
    assert "resuming after epoch 1" in everything(result)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("{folder}/runs/local",), "give --data FILE"),
        (("{folder}/runs/local", "{folder}/runs/local", "--data", "{folder}/data.xyz"), "name=path"),
        (("{folder}/runs", "--data", "{folder}/data.xyz"), "holds no model.electret"),
        (("{folder}/absent.electret", "--data", "{folder}/data.xyz"), "no such file"),
        (("{folder}/runs/local", "--data", "{folder}/absent.xyz"), "does not exist"),
        (("{folder}/runs/short_range", "--data", "{folder}/charged.xyz"), "no model could be evaluated"),
        (("{folder}/bad.yaml",), "did you mean 'models'"),
        (("{folder}/empty.yaml",), "data is empty"),
        (("{folder}/keys.yaml",), "keys.energi"),
        (("{folder}/twice.yaml",), "same folder"),
        (("{folder}/duplicate.yaml",), "key 'data' is given twice"),
    ],
)
def test_errors_are_one_message(folder: Path, arguments: tuple[str, ...], expected: str) -> None:
    model = {"a": "runs/local/model.electret"}
    data = {"all": "data.xyz"}
    for name, content in {
        "bad": {"models": model, "modells": {}, "data": data},
        "empty": {"models": model, "data": {}},
        "keys": {"models": model, "data": data, "keys": {"energi": "E"}},
        "twice": {"models": {"a": "local.yaml", "b": "local.yaml"}, "data": data},
    }.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    (folder / "duplicate.yaml").write_text("models: {a: b}\ndata: {a: b}\ndata: {c: d}\n", encoding="utf-8")
    words = [argument.format(folder=folder) for argument in arguments]
    result = call("compare", *words, "--output", folder / "never")
    assert result.exit_code == 1
    assert expected in everything(result)
    assert "Traceback" not in everything(result)


def test_comparison_file_is_relative_to_itself(folder: Path) -> None:
    wanted = read_comparison(folder / "compare.yaml")
    assert wanted.entries[0] == Entry("local", folder / "local.yaml", ("seed=4",))
    assert wanted.data["charged"] == [folder / "charged.xyz"]
    with pytest.raises(InputError, match="absent"):
        read_comparison(folder / "absent.yaml")


def test_a_model_file_is_checked_before_training(folder: Path) -> None:
    from electret.analysis import compare

    broken = folder / "broken.electret"
    broken.write_bytes(b"nothing")
    fresh = write_config(folder, "never_trained")
    with pytest.raises(InputError, match="broken"):
        compare(
            [Entry("a", fresh), Entry("b", broken)],
            {"all": [folder / "data.xyz"]},
            console=Console(quiet=True),
        )
    assert not (folder / "runs" / "never_trained").exists()
    save(load(folder / "runs" / "local" / "model.electret"), broken)  # now it is one


def test_probes_of_a_comparison_file(folder: Path) -> None:
    frames = clusters(2)
    for atoms in frames:
        atoms.info["REF_polarizability"] = np.eye(3)
    write_frames(folder / "rows.xyz", frames)
    probe = {"kind": "molecule_polarizability", "data": "rows.xyz", "atoms_per_molecule": 4}
    comparison = {
        "models": {"short range": "runs/short_range", "local": "runs/local"},
        "data": {"all": "data.xyz"},
        "probes": {"rows": probe},
    }
    file = folder / "probes.yaml"
    file.write_text(yaml.safe_dump(comparison), encoding="utf-8")
    result = call("compare", file, "--output", folder / "probes")
    assert result.exit_code == 0, everything(result)
    text = (folder / "probes" / "comparison.md").read_text(encoding="utf-8")
    assert "## Polarisability per molecule" in text
    assert "Left out: `short range`" in text
    assert (folder / "probes" / "plots" / "rows.png").is_file()
    assert (folder / "probes" / "probe_rows.csv").is_file()
    # Epochs and minutes of the training, from the logs beside the models
    found = training_time(folder / "runs" / "local" / "model.electret")
    assert found is not None
    assert found.epochs == 1
    assert found.seconds > 0
    assert f"| local | `local_charges` | 1 | {found.seconds / 60:.1f} |" in text
    for change, expected in (
        ({"models": ["lokal"]}, "probes.rows.models names lokal"),
        ({"data": "absent.xyz"}, "absent.xyz' of the probe does not exist"),
        ({"kind": "row"}, "unknown kind 'row'"),
    ):
        file.write_text(
            yaml.safe_dump({**comparison, "probes": {"rows": {**probe, **change}}}), encoding="utf-8"
        )
        result = call("compare", file, "--output", folder / "never")
        assert result.exit_code == 1
        assert expected in everything(result)
