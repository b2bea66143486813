"""The command line: every command, its errors as one message and an exit code."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("typer")
pytest.importorskip("mace")

import yaml
from ase.db import connect
from ase.io import read, write
from typer.testing import CliRunner, Result

import electret
import electret.training
from electret import Calculator
from electret.cli.main import application
from electret.models import load, save
from electret.training.plots import plot_parity
from electret.training.run_log import read_history
from training_frames import clusters, crystal, run_options, write_frames


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


def test_check_before_training(folder: Path) -> None:
    """It reports beside a run that exists, and leaves everything as it was."""
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    result = call("train", folder / "config.yaml", "--check")
    assert result.exit_code == 0, everything(result)
    for expected in ("First step of stage 'first'", "forces", "estimate for the run", "GB"):
        assert expected in everything(result)
    refused = call("train", folder / "config.yaml", "--check", "--resume")
    assert refused.exit_code == 1
    assert "call it without --resume" in everything(refused)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


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


def test_prepared_data_stands_for_its_files(folder: Path, tmp_path: Path) -> None:
    result = call("data", "prepare", folder / "data.xyz", "-o", tmp_path / "set", "--shard-size", 4)
    assert result.exit_code == 0, everything(result)
    assert "9 frames, 36 atoms, 3 shards" in everything(call("data", "info", tmp_path / "set"))
    model, errors = folder / "run" / "model.electret", []
    for data in (folder / "data.xyz", tmp_path / "set"):
        files = ["--json", tmp_path / f"{data.stem}.json", "--output", tmp_path / f"{data.stem}.xyz"]
        assert call("eval", model, data, *files).exit_code == 0
        errors.append(json.loads((tmp_path / f"{data.stem}.json").read_text())["errors"])
    assert errors[0] == errors[1]
    forces = [read(tmp_path / f"{name}.xyz", 8).get_forces() for name in ("data", "set")]
    np.testing.assert_array_equal(*forces)


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
    from electret.support.console import standard_console
    console = standard_console()
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


def test_predictions_are_results_of_ase(folder: Path, tmp_path: Path) -> None:
    frames = [clusters(1)[0], crystal(np.random.default_rng(0))]
    del frames[1].info["REF_stress"]  # computed all the same
    frames[1].set_array("layer", np.array([3, 4]))
    content = write_frames(tmp_path / "d.xyz", frames).read_bytes()
    (tmp_path / "bom.xyz").write_bytes(b"\xef\xbb\xbf" + content)  # as some editors begin a file
    model = folder / "run" / "model.electret"
    for ending in ("xyz", "traj", "db"):
        output = tmp_path / f"out.{ending}"
        result = call("eval", model, tmp_path / "bom.xyz", "--output", output)
        assert result.exit_code == 0, everything(result)
        open_frame, crystal_frame = read(output, index=":")
        for atoms in (open_frame, crystal_frame):
            atoms_again = atoms.copy()
            atoms_again.info = {}
            atoms_again.calc = Calculator(model)
            assert atoms.get_potential_energy() == pytest.approx(atoms_again.get_potential_energy(), abs=1e-6)
            assert np.allclose(atoms.get_forces(), atoms_again.get_forces(), atol=1e-6)
        assert np.allclose(crystal_frame.get_stress(), atoms_again.get_stress(), atol=1e-7)
        assert np.abs(crystal_frame.get_stress()).max() > 1e-5
        assert "dipole" in open_frame.calc.results
        assert "dipole" not in crystal_frame.calc.results
        if ending == "db":
            with connect(output) as database:
                entries = [row.data for row in database.select()]
        else:
            entries = [{**atoms.info, **atoms.arrays} for atoms in (open_frame, crystal_frame)]
        assert "electret_dipole" not in entries[1]
        assert np.array_equal(entries[1]["layer"], [3, 4])
        assert np.allclose(entries[0]["REF_forces"], frames[0].arrays["REF_forces"])
        assert np.shape(entries[0]["electret_multipoles"]) == (4, 4)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("eval", "{model}", "{data}", "--output", "out.foo"), "'out.foo' names no format"),
        (("eval", "{model}", "{data}", "--device", "cuda:77"), "torch finds"),
        (("eval", "{model}", "{data}", "--device", "banana"), "device = 'banana'"),
        (("plot", "scf", "{model}", "{data}", "--output", "x.foo"), "'x.foo' names no format"),
        (("train", "{folder}/config.yaml", "--set", "seed=[1"), "override 'seed=[1': not valid YAML"),
        (("train", "{folder}/config.yaml", "--set", "seed=100000000000000000000"), "does not fit 64 bits"),
        (
            ("train", "{folder}/config.yaml", "--set", "output=run[/x]", "--set", "sed=1"),
            "did you mean 'seed'",
        ),
        (("info", "[/red].electret"), "[/red].electret: no such file"),
    ],
)
def test_errors_before_the_work(folder: Path, arguments: tuple[str, ...], expected: str) -> None:
    places = {"folder": folder, "model": folder / "run" / "model.electret", "data": folder / "data.xyz"}
    result = call(*(argument.format(**places) for argument in arguments))
    assert result.exit_code == 1
    assert expected in everything(result)
    assert "internal" not in everything(result)


def test_a_diverged_model_is_not_blamed_on_a_frame(folder: Path, tmp_path: Path) -> None:
    model = load(folder / "run" / "model.electret")
    with torch.no_grad():
        name, parameter = next(iter(model.named_parameters()))
        parameter.fill_(torch.nan)
    save(model, tmp_path / "nan.electret")
    result = call("eval", tmp_path / "nan.electret", folder / "data.xyz")
    assert result.exit_code == 1
    assert f"the model's parameter {name} holds nan" in everything(result)
    assert "frame" not in result.stderr


def test_names_with_markup_are_shown_as_they_are(folder: Path, tmp_path: Path) -> None:
    options = run_options(folder / "data.xyz", tmp_path / "run[test]", name="[/x]")
    options["stages"][0] |= {"epochs": 1, "name": "[bold]"}
    options["data"]["test"] = {":smile: [/b]": [str(folder / "data.xyz")]}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(options), encoding="utf-8")
    result = call("train", tmp_path / "c.yaml")
    assert result.exit_code == 0, everything(result)
    assert f"model saved to {tmp_path / 'run[test]' / 'model.electret'}" in result.output
    assert "│ :smile: [/b] │" in result.output
    assert "[bold] |" in result.output or "[bold]" in result.output


def test_a_cut_last_row_is_left_out(folder: Path, tmp_path: Path) -> None:
    rows = (folder / "run" / "metrics.csv").read_text(encoding="utf-8")
    (tmp_path / "metrics.csv").write_text(rows + rows.splitlines()[-1][:7], encoding="utf-8")
    assert read_history(tmp_path) == read_history(folder / "run")
    (tmp_path / "metrics.csv").write_text(rows + "1,oops\n", encoding="utf-8")
    with pytest.raises(electret.InputError, match="is no row of numbers"):
        read_history(tmp_path)


def test_plot_of_a_folder_named_as_a_command(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("run", "scf"):
        (tmp_path / name).mkdir()
        shutil.copy(folder / "run" / "metrics.csv", tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for name in ("run", "scf"):
        assert call("plot", name).exit_code == 0
        assert (tmp_path / name / "plots" / "learning_curve.png").is_file()


def electret_process(*arguments: object, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", "import sys; from electret.cli import app; app()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, timeout=300, env=dict(os.environ) | environment)


def test_processes_share_the_frames(folder: Path, tmp_path: Path) -> None:
    model, data = folder / "run" / "model.electret", folder / "data.xyz"
    run = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "electret"]
    files = ["--output", tmp_path / "two.xyz", "--json", tmp_path / "two.json"]
    command = [sys.executable, *run, "eval", model, data, "--batch-size", "4", *files]
    environment = dict(os.environ) | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, timeout=300, env=environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count(b"predictions written to") == 1
    alone = call(
        *("eval", model, data, "--batch-size", "4"),
        *("--output", tmp_path / "one.xyz", "--json", tmp_path / "one.json"),
    )
    assert alone.exit_code == 0, everything(alone)
    assert (tmp_path / "two.xyz").read_bytes() == (tmp_path / "one.xyz").read_bytes()
    found, expected = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("two", "one"))
    del found["seconds"], expected["seconds"]
    assert found == expected


def test_help_version_and_headers_need_no_torch(folder: Path) -> None:
    code = (
        "import sys; from electret.cli.main import application\n"
        "application(sys.argv[1:], standalone_mode=False)\n"
        "print([name for name in ('torch', 'mace') if name in sys.modules],"
        " 'numpy' in sys.modules and sys.argv[1] != 'info')"
    )
    model = folder / "run" / "model.electret"
    for arguments, expected in (
        (["--help"], "Usage"),
        (["--version"], f"electret {electret.__version__}"),
        (["info", str(model)], "sigma=1.5"),
    ):
        result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        assert expected in result.stdout
        assert result.stderr == ""
        if arguments != ["--help"]:
            assert result.stdout.strip().endswith("[] False")


def test_any_encoding_of_the_output(folder: Path) -> None:
    result = electret_process("info", folder / "run" / "model.electret", PYTHONIOENCODING="ascii")
    assert result.returncode == 0, result.stderr
    assert b"3.5 \\xc5" in result.stdout


def test_results_and_calculators_have_short_names(folder: Path) -> None:
    calculator = Calculator(folder / "run" / "model.electret", ignore="fermi_level")
    assert repr(calculator) == "Calculator(local_charges model, H O, cutoff 3.5 Å, float64)"
    assert calculator.ignore == {"fermi_level"}
    with pytest.raises(electret.InputError, match="ignore = 3"):
        Calculator(calculator.model, ignore=3)
    with pytest.raises(electret.InputError, match="device = 'None'"):
        Calculator(calculator.model, device=None)
    metrics = electret.training.evaluate(calculator.model, folder / "data.xyz", parity=True)
    assert repr(metrics).startswith("Metrics(9 frames: energy MAE ")
    assert len(repr(metrics)) < 300
    figures = plot_parity({"data": metrics})
    assert figures["energy"].axes[0].get_xlabel() == "reference energy (eV/atom)"
