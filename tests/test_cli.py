"""The command line: every command, its errors as one message and an exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("typer")
pytest.importorskip("mace")

import yaml
from ase.io import read, write
from typer.testing import CliRunner, Result

import electret
import electret.training
from electret.cli.main import application
from training_frames import clusters, run_options, write_frames


def call(*arguments: object) -> Result:
    return CliRunner().invoke(application, [str(argument) for argument in arguments])


def everything(result: Result) -> str:
    """Output and errors on one line, as consoles may wrap them."""
    return " ".join((result.output + result.stderr).split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, a config, and the run that `electret train` made of them."""
    folder = tmp_path_factory.mktemp("cli")
    data = write_frames(folder / "data.xyz", clusters(9))
    options = run_options(data, folder / "run")
    options["data"]["train"] = "data.xyz"  # relative to the config
    (folder / "config.yaml").write_text(yaml.safe_dump(options), encoding="utf-8")
    result = call("train", folder / "config.yaml", "--set", "stages.0.epochs=1", "--set", "plots=true")
    assert result.exit_code == 0, everything(result)
    assert "model saved to" in everything(result)
    return folder


def test_resume_and_restart(folder: Path) -> None:
    refused = call("train", folder / "config.yaml")
    assert refused.exit_code == 1
    assert "--resume" in everything(refused)
    result = call("train", folder / "config.yaml", "--resume", "--set", "stages.0.epochs=2")
    assert result.exit_code == 0
    assert "resuming after epoch 1" in everything(result)


def test_eval_writes_predictions_json_and_plots(folder: Path, tmp_path: Path) -> None:
    result = call(
        "eval",
        folder / "run" / "model.electret",
        folder / "data.xyz",
        "--output",
        tmp_path / "out.xyz",
        "--plots",
        tmp_path / "plots",
        "--json",
        tmp_path / "errors.json",
        "--batch-size",
        4,
    )
    assert result.exit_code == 0, everything(result)
    frames = read(tmp_path / "out.xyz", index=":")
    errors = json.loads((tmp_path / "errors.json").read_text(encoding="utf-8"))["errors"]["all"]
    differences = [atoms.arrays["electret_forces"] - atoms.arrays["REF_forces"] for atoms in frames]
    assert np.abs(differences).mean() == pytest.approx(errors["forces"]["mae"], rel=1e-6)
    energies = [(atoms.info["electret_energy"] - atoms.info["REF_energy"]) / len(atoms) for atoms in frames]
    assert np.abs(energies).mean() == pytest.approx(errors["energy"]["mae"], rel=1e-6)
    assert {"electret_charges", "electret_multipoles"} <= set(frames[0].arrays)
    assert (tmp_path / "plots" / "parity_forces.png").stat().st_size > 1000


def test_eval_keeps_what_else_the_file_holds(folder: Path, tmp_path: Path) -> None:
    frames = read(folder / "data.xyz", index=":2")
    for number, atoms in enumerate(frames):
        atoms.info["distance"] = 3.5 + number
        atoms.set_array("monomer", np.arange(len(atoms)) % 2)
    write(tmp_path / "tagged.xyz", frames, format="extxyz")
    result = call(
        "eval", folder / "run" / "model.electret", tmp_path / "tagged.xyz", "--output", tmp_path / "out.xyz"
    )
    assert result.exit_code == 0, everything(result)
    for before, after in zip(frames, read(tmp_path / "out.xyz", index=":"), strict=True):
        assert after.info["distance"] == before.info["distance"]
        assert np.array_equal(after.arrays["monomer"], before.arrays["monomer"])
        assert "electret_energy" in after.info


def test_eval_with_other_keys(folder: Path, tmp_path: Path) -> None:
    text = (folder / "data.xyz").read_text(encoding="utf-8").replace("REF_", "dft_")
    (tmp_path / "other.xyz").write_text(text, encoding="utf-8")
    model = folder / "run" / "model.electret"
    blank = call("eval", model, tmp_path / "other.xyz")
    assert blank.exit_code == 0
    assert "no frame carries a label" in everything(blank)
    named = call("eval", model, tmp_path / "other.xyz", "--key", "energy=dft_energy", "--dtype", "float32")
    assert named.exit_code == 0
    assert "meV/atom" in everything(named)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("eval", "{model}", "{data}", "--output", "{data}"), "data.xyz' would replace"),
        (("eval", "{model}", "{data}", "--output", "{link}"), "link.xyz' would replace"),
        (("eval", "{model}", "{data}", "--json", "{model}", "--force"), "model.electret' would replace"),
        (("eval", "{model}", "{data}", "--output", "{mine}"), "mine.txt' exists already"),
        (("eval", "{model}", "{data}", "--json", "{mine}"), "mine.txt' exists already"),
        (("eval", "{model}", "{data}", "--json", "{new}", "--output", "{new}"), "given for two outputs"),
        (("eval", "{model}", "{data}", "--json", "{mine}/new"), "is no folder"),
        (("eval", "{model}", "{data}", "--plots", "{folder}/run/plots"), "exists already"),
        (("compare", "{model}", "--data", "{data}", "--output", "{folder}/run"), "run' holds a run"),
        (
            ("compare", "{model}", "--data", "{data}", "--output", "{folder}/other"),
            "comparison.md' exists already",
        ),
        (
            ("compare", "../x={model}", "--data", "{data}", "--output", "{new}"),
            "model '../x' becomes the name",
        ),
        (
            ("compare", "{model}", "--data", "../x={data}", "--output", "{new}"),
            "data set '../x' becomes the name",
        ),
        (("plot", "scf", "{model}", "{data}", "--output", "{mine}"), "mine.txt' exists already"),
        (("plot", "scf", "{model}", "{data}", "--output", "{data}", "--force"), "data.xyz' would replace"),
        (("demo", "--output", "{folder}/run"), "run' holds a run"),
        (("demo", "--output", "{folder}/other"), "report.md' exists already"),
        (("train", "{folder}/config.yaml"), "holds a run already"),
        (("train", "{folder}/config.yaml", "--set", "output={folder}"), "config.yaml' exists already"),
        (("train", "{folder}/config.yaml", "--restart", "--set", "data.train=absent.xyz"), "does not exist"),
    ],
)
def test_nothing_is_destroyed(
    folder: Path, tmp_path: Path, arguments: tuple[str, ...], expected: str
) -> None:
    """The table of the guide: every command refuses before any work, and leaves every file as it was."""
    (folder / "mine.txt").write_text("mine", encoding="utf-8")
    (folder / "other").mkdir(exist_ok=True)
    for name in ("comparison.md", "report.md"):
        (folder / "other" / name).write_text("mine", encoding="utf-8")
    (tmp_path / "link.xyz").symlink_to(folder / "data.xyz")
    (folder / "run" / "plots" / "parity_energy.png").touch()
    places = {
        "folder": folder,
        "model": folder / "run" / "model.electret",
        "data": folder / "data.xyz",
        "link": tmp_path / "link.xyz",
        "mine": folder / "mine.txt",
        "new": tmp_path / "new",
    }
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    result = call(*(argument.format(**places) for argument in arguments))
    assert result.exit_code == 1
    assert expected in everything(result)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert not (tmp_path / "new").exists()


def test_force_replaces_files(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "errors.json").write_text("old", encoding="utf-8")
    arguments = (
        "eval",
        folder / "run" / "model.electret",
        folder / "data.xyz",
        "--json",
        tmp_path / "errors.json",
    )
    assert call(*arguments).exit_code == 1
    assert call(*arguments, "--force").exit_code == 0
    assert "errors" in json.loads((tmp_path / "errors.json").read_text(encoding="utf-8"))


def test_plot(folder: Path) -> None:
    picture = folder / "run" / "plots" / "learning_curve.png"
    picture.unlink(missing_ok=True)
    assert call("plot", folder / "run").exit_code == 0
    assert picture.stat().st_size > 1000


def test_info() -> None:
    result = call("info")
    assert result.exit_code == 0
    text = everything(result)
    for part in (
        electret.__version__,
        "torch",
        "mace-torch",
        "e3nn",
        "numpy",
        "ase",
        "Rust threads",
        "CPU features",
        "instructions",
        "CUDA",
        "GPU",
        "NVRTC",
        "cuFFT",
        "kernel cache",
    ):
        assert part in text


def test_info_of_a_model(folder: Path) -> None:
    text = everything(call("info", folder / "run" / "model.electret"))
    for part in (
        "local_charges",
        "3.5 Å",
        "H (E0",
        "O (E0",
        "hidden_irreps=4x0e + 4x1o",
        "best_epoch",
        "energy MAE",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("train", "absent.yaml"), "config file 'absent.yaml' does not exist"),
        (("train", "{folder}/config.yaml", "--set", "sead=1"), "did you mean 'seed'?"),
        (("eval", "absent.electret", "{folder}/data.xyz"), "absent.electret: no such file"),
        (("eval", "{folder}/data.xyz", "{folder}/data.xyz"), "data.xyz: not a complete .electret file"),
        (("eval", "{folder}/run/model.electret", "absent.xyz"), "data file 'absent.xyz' does not exist"),
        (("eval", "{folder}/run/model.electret", "{folder}/data.xyz", "--key", "energi=E"), "--key energi=E"),
        (("eval", "{folder}/run/model.electret", "{folder}/data.xyz", "--dtype", "half"), "'half'"),
        (
            ("eval", "{folder}/run/model.electret", "{folder}/data.xyz", "--dipole-origin", "nucleus"),
            "--dipole-origin nucleus: expected origin, center_of_mass",
        ),
        (("info", "absent.electret"), "absent.electret: no such file"),
        (("plot", "{folder}"), "holds no metrics.csv"),
    ],
)
def test_errors_are_one_message(folder: Path, arguments: tuple[str, ...], expected: str) -> None:
    result = call(*(argument.format(folder=folder) for argument in arguments))
    assert result.exit_code == 1
    text = everything(result)
    assert expected in text
    assert "error: " in text
    assert "Traceback" not in text


def test_debug_gives_the_exception(folder: Path) -> None:
    result = call("--debug", "train", "absent.yaml")
    assert isinstance(result.exception, electret.InputError)
    call("info", "absent.electret")  # leaves tracebacks switched off for later tests


def test_interruption_has_its_own_exit_code(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise electret.training.TrainingInterrupted("stopped after epoch 3; --resume goes on")

    monkeypatch.setattr("electret.training.train", interrupted)
    result = call("train", folder / "config.yaml")
    assert result.exit_code == 130
    assert "stopped after epoch 3; --resume goes on" in everything(result)
    assert "error" not in everything(result)


PIPED = """
import sys
from electret.cli.main import application
import electret.cli.main, electret.training

def train(*_, **__):
    from electret.training.run_log import default_console
    console = default_console()
    while True:
        console.print("epoch")

electret.training.train = train
application(["train", sys.argv[1]])
"""


def test_a_reader_that_leaves_ends_the_command(folder: Path) -> None:
    """As `electret train config.yaml | head -1`: a word on standard error and the status of SIGPIPE."""
    command = [sys.executable, "-W", "ignore", "-c", PIPED, str(folder / "config.yaml")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        while process.stdout.readline() != "epoch\n":
            pass
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == 141
    assert "the reader of standard output is gone" in said
    assert "Traceback" not in said
    assert "Exception ignored" not in said


def test_unknown_commands_fail() -> None:
    assert call("trian").exit_code == 2


WITHOUT_PACKAGE = """
import sys
sys.modules[sys.argv[1]] = None
from electret.cli import app
sys.argv = ["electret", *sys.argv[2:]]
app()
"""


@pytest.mark.parametrize(
    ("package", "arguments", "expected"),
    [
        ("typer", ["info"], "electret's command line needs the package 'typer'"),
        ("torch", ["train", "config.yaml"], "this command needs 'torch'"),
    ],
)
def test_missing_extra_is_named(package: str, arguments: list[str], expected: str) -> None:
    command = [sys.executable, "-W", "ignore", "-c", WITHOUT_PACKAGE, package, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, env=dict(os.environ))
    assert result.returncode == 1
    assert expected in result.stderr
    assert "pip install 'electret[" in result.stderr
    assert "Traceback" not in result.stderr
