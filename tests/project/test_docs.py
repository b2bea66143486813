"""The Python and YAML examples of README and guide run as they stand, each page from top to bottom."""

import re
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("mace")
from ase.io import read, write

import electret.demo
from electret.analysis.comparison_file import read_comparison
from electret.models import ModelConfig, Statistics, build, save
from electret.training import TrainingConfig
from hosts import require_torch_sim
from places import ROOT

PAGES = [
    "README.md",
    "docs/index.md",
    "docs/guide/kernels.md",
    "docs/guide/calculator.md",
    "docs/guide/constant_potential.md",
    "docs/guide/training.md",
    "docs/guide/gpu.md",
    "docs/guide/coming_from.md",
    "docs/guide/models_that_exist.md",
    "docs/guide/i_pi.md",
    "docs/guide/torch_sim.md",
    "docs/guide/lammps.md",
    "docs/guide/openmm.md",
]
HOSTS = {"lammps": "lammps", "openmm": "openmmml", "i_pi": "ipi"}
SMALL_BACKBONE = {"r_max": 3.5, "hidden_irreps": "4x0e + 4x1o", "max_ell": 1, "correlation": 1}


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.M | re.S)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the examples name: a model, data files, a training file."""
    folder = tmp_path_factory.mktemp("docs")
    statistics = Statistics(elements=(1, 8), e0s={1: -13.0, 8: -430.0}, avg_num_neighbors=4.0)
    config = ModelConfig.parse({"family": "local_charges", "backbone": SMALL_BACKBONE})
    save(build(config, statistics, seed=0), folder / "model.electret")
    config = ModelConfig.parse({"family": "qeq", "backbone": SMALL_BACKBONE})
    save(build(config, statistics, seed=0), folder / "electrode.electret")
    config = ModelConfig.parse({"family": "polar", "backbone": SMALL_BACKBONE})
    save(build(config, statistics, seed=0), folder / "polar.electret")
    data = Path(electret.demo.__file__).parent / "data"
    water = [
        atoms
        for atoms in read(data / "silver_water_field_train.xyz", ":")
        if atoms.info["config_type"] == "water_cluster"
    ]
    write(folder / "train.xyz", water[:6], format="extxyz")
    write(folder / "valid.xyz", water[6:8], format="extxyz")
    text, self_consistent = blocks("docs/guide/training.md", "yaml")
    (folder / "config.yaml").write_text(text.replace("32x0e + 32x1o", "4x0e + 4x1o"), encoding="utf-8")
    (folder / "self_consistent.yaml").write_text(self_consistent, encoding="utf-8")
    return folder


@pytest.mark.parametrize("page", PAGES)
def test_examples_run(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = Path(page).stem
    if name in HOSTS:
        pytest.importorskip(HOSTS[name], reason=f"{HOSTS[name]} is not installed: make test installs it")
    if name == "torch_sim":
        require_torch_sim()
    monkeypatch.chdir(folder)
    examples = blocks(page, "python")
    assert examples
    namespace: dict[str, object] = {}
    for number, example in enumerate(examples, 1):
        exec(compile(example, f"{page}, example {number}", "exec"), namespace)


def test_configurations_are_valid(folder: Path) -> None:
    files = [
        folder / "config.yaml",
        folder / "self_consistent.yaml",
        Path(electret.demo.__file__).parent / "train.yaml",
    ]
    files += sorted((ROOT / "examples/train").rglob("*.yaml"))
    assert len(files) > 2
    for file in files:
        assert TrainingConfig.from_yaml(file).n_epochs > 0


def test_comparison_file_is_valid(folder: Path) -> None:
    text = "".join(blocks("docs/guide/cli.md", "yaml"))  # models and data, then the probes
    (folder / "compare.yaml").write_text(text, encoding="utf-8")
    comparison = read_comparison(folder / "compare.yaml")
    assert [entry.name for entry in comparison.entries] == ["mace", "local charges", "qeq"]
    assert len(comparison.data["slabs"]) == 2
    assert list(comparison.probes) == ["field_scan", "nve of a slab"]


def test_links_lead_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    links = [
        (page, target.split("#")[0])
        for page in pages
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
        if not target.startswith(("http", "#"))
    ]
    assert len(links) > 5
    for page, target in links:
        assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"
