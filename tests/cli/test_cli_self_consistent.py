"""Commands on self-consistent models: eval names what did not converge, plot scf, info, compare."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("typer")
pytest.importorskip("mace")

from ase.io import read
from typer.testing import CliRunner, Result

from electret import Calculator
from electret.cli.main import application
from electret.models import ModelConfig, Statistics, build, save
from training_frames import clusters, write_frames

BACKBONE = {"r_max": 3.5, "hidden_irreps": "4x0e + 4x1o", "max_ell": 1, "correlation": 1, "radial_MLP": [8]}
STATISTICS = Statistics(elements=(1, 8), e0s={1: -3.0, 8: -3.0}, avg_num_neighbors=3.0)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(application, [str(argument) for argument in arguments])


def everything(result: Result) -> str:
    return " ".join((result.output + result.stderr).split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data in fields, a model that converges and one whose iterations suffice for some frames only."""
    folder = tmp_path_factory.mktemp("cli_scf")
    frames = clusters(6)
    rng = np.random.default_rng(0)
    for index, atoms in enumerate(frames):
        atoms.info["external_field"] = rng.normal(size=3) * 0.1 * (index > 0)
    write_frames(folder / "data.xyz", frames)
    for name, options in {
        "good": {"family": "energy_functional"},
        "local": {"family": "local_charges"},
    }.items():
        model = build(ModelConfig.parse({**options, "backbone": BACKBONE}), STATISTICS, seed=2)
        save(model, folder / f"{name}.electret")
    # Mixing is slow: between the frames' numbers of iterations there is one that some of them exceed.
    needed = []
    for atoms in frames:
        calculator = Calculator(folder / "good.electret", scf_solver="mixing", scf_max_iterations=1000)
        calculator.get_property("energy", atoms)
        needed.append(calculator.state["scf_iterations"])
    assert min(needed) < max(needed)
    scf = {"solver": "mixing", "max_iterations": max(needed) - 1}
    config = ModelConfig.parse({"family": "energy_functional", "backbone": BACKBONE, "scf": scf})
    save(build(config, STATISTICS, seed=2), folder / "short.electret")
    (folder / "lost").write_text(json.dumps([count == max(needed) for count in needed]), encoding="utf-8")
    return folder


def test_eval_names_unconverged_frames_and_uses_none(folder: Path, tmp_path: Path) -> None:
    lost = json.loads((folder / "lost").read_text(encoding="utf-8"))
    assert 0 < sum(lost) < len(lost)
    result = call(
        "eval",
        folder / "short.electret",
        folder / "data.xyz",
        "--output",
        tmp_path / "out.xyz",
        "--json",
        tmp_path / "e.json",
    )
    assert result.exit_code == 0, everything(result)
    assert f"{sum(lost)} NOT CONVERGED" in everything(result)
    assert f"frame {lost.index(True)}: residual" in everything(result)
    numbers = json.loads((tmp_path / "e.json").read_text(encoding="utf-8"))
    assert len(numbers["scf"]["unconverged"]) == sum(lost)
    assert numbers["errors"]["all"]["energy"]["count"] == len(lost) - sum(lost)
    for atoms, gone in zip(read(tmp_path / "out.xyz", ":"), lost, strict=True):
        assert atoms.info["electret_scf_converged"] == (not gone)
        assert ("electret_energy" in atoms.info) == (not gone)
        assert ("electret_forces" in atoms.arrays) == (not gone)
        assert atoms.info["electret_scf_iterations"] > 1
        assert "REF_energy" in atoms.info


def test_eval_of_a_converging_model(folder: Path) -> None:
    result = call("eval", folder / "good.electret", folder / "data.xyz")
    assert result.exit_code == 0, everything(result)
    assert "Self-consistency" in everything(result)
    assert "NOT CONVERGED" not in everything(result)


def test_plot_scf_compares_solvers(folder: Path, tmp_path: Path) -> None:
    words = ["plot", "scf", folder / "good.electret", folder / "data.xyz", "--frames", 3]
    result = call(*words, "--output", tmp_path / "scf.png", "--max-iterations", 300)
    assert result.exit_code == 0, everything(result)
    assert (tmp_path / "scf.png").stat().st_size > 5000
    text = everything(result)
    for solver in ("newton", "anderson", "mixing"):
        assert solver in text
    assert text.count("3 of 3") == 3
    refused = call("plot", "scf", folder / "local.electret", folder / "data.xyz")
    assert refused.exit_code == 1
    assert "no SCF" in everything(refused)
    unknown = call("plot", "scf", folder / "good.electret", folder / "data.xyz", "--solver", "newtn")
    assert unknown.exit_code == 1
    assert "newtn" in everything(unknown)


def test_info_shows_the_scf(folder: Path) -> None:
    text = everything(call("info", folder / "short.electret"))
    assert "solver=mixing" in text
    assert "solver" not in everything(call("info", folder / "local.electret"))


def test_compare_has_scf_and_field_response(folder: Path, tmp_path: Path) -> None:
    result = call(
        "compare",
        folder / "local.electret",
        folder / "short.electret",
        "--data",
        folder / "data.xyz",
        "--output",
        tmp_path,
    )
    assert result.exit_code == 0, everything(result)
    assert "NOT CONVERGED" in everything(result)
    text = (tmp_path / "comparison.md").read_text(encoding="utf-8")
    assert "field response" in text
    assert "### SCF" in text
    assert "Dipole along the field" in text
    assert (tmp_path / "plots" / "dipole_field_data.png").stat().st_size > 5000
