"""Imports of loading a model and of reading its header; TorchScript compiles no part of it."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("mace")

from electret.graph import Graph
from electret.models import build, load, save
from electret.models.hosted import o3
from electret.models.readouts import basis_change
from model_cases import STATISTICS, model_config, molecule, small_model


def run(code: str, *arguments: object) -> str:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("loading") / "model.electret"
    save(small_model("fixed_point"), path)
    return path


def test_a_model_is_loaded_without_messages_and_without_what_it_has_no_use_for(file: Path) -> None:
    unused = (
        "pandas",
        "matplotlib",
        "torchmetrics",
        "mace.data",
        "mace.tools.train",
        "scipy.signal._signaltools",
    )
    code = (
        "import sys, torch\n"
        "from electret.models import load\n"
        "model = load(sys.argv[1])\n"
        "scripted = sum(isinstance(m, torch.jit.ScriptModule) for m in model.modules())\n"
        f"print(scripted, [name for name in {unused} if name in sys.modules])"
    )
    assert run(code, file).strip() == "0 []"


def test_what_was_put_off_is_there_when_it_is_used(file: Path) -> None:
    code = (
        "import sys\n"
        "from electret.models import load\n"
        "load(sys.argv[1])\n"
        "import sympy, scipy.constants, torch._dynamo, e3nn.o3, e3nn.nn, e3nn.io, mace.modules, mace.tools\n"
        "from mace.modules import PolarMACE, interaction_classes\n"
        "from e3nn.o3._spherical_harmonics import pycode\n"
        "print(sympy.sqrt(4), scipy.constants.c == 299792458.0, scipy.constants.e == 1.602176634e-19,\n"
        "      torch._dynamo.is_compiling(), e3nn.o3.Legendre.__name__, e3nn.nn.BatchNorm.__name__,\n"
        "      e3nn.io.SphericalTensor.__name__, mace.tools.to_numpy is mace.tools.torch_tools.to_numpy,\n"
        "      mace.modules.MACE is mace.modules.models.MACE, len(interaction_classes) > 3,\n"
        "      pycode(sympy.sqrt(sympy.Symbol('x'))))"
    )
    expected = ["2", "True", "True", "False", "Legendre", "BatchNorm", "SphericalTensor", *3 * ["True"]]
    words = run(code, file).split()
    assert words == [*expected, "math.sqrt(x)"]


@pytest.mark.parametrize("family", ["local_charges", "fixed_point"])
def test_copies_and_pickles_are_the_model(family: str) -> None:
    model = build(model_config(family), STATISTICS, seed=3)
    next(model.parameters()).requires_grad_(False)
    graph = Graph.from_atoms(molecule(), model.cutoff, model.dtype)
    expected = model(graph)
    assert float(expected["forces"].abs().max()) > 1e-3
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        output = twin(graph)
        for name in ("energy", "forces"):
            assert torch.equal(output[name], expected[name])
        assert not any(isinstance(module, torch.jit.ScriptModule) for module in twin.modules())
        assert [p.requires_grad for p in twin.parameters()] == [p.requires_grad for p in model.parameters()]
        with torch.no_grad():
            next(twin.parameters()).add_(1.0)
    assert torch.equal(model(graph)["energy"], expected["energy"])


def test_scripting_of_other_modules_is_as_it_was(file: Path) -> None:
    import e3nn

    before = e3nn.get_optimization_defaults()
    load(file)
    assert e3nn.get_optimization_defaults() == before


@pytest.mark.parametrize("l", range(5))
def test_change_of_basis_permutes_the_axes_of_the_harmonics(l: int) -> None:
    points = torch.randn(20, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ours = o3.spherical_harmonics(l, points[:, [1, 2, 0]], normalize=True)
    theirs = o3.spherical_harmonics(l, points, normalize=True)
    assert torch.allclose(theirs @ basis_change(l).T, ours, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    "lines",
    [
        "from torch._dynamo.utils import counters; assert torch._dynamo.disable",
        "import sympy.core; from sympy import Symbol, sin; assert str(sin(Symbol('x')).diff()) == 'cos(x)'",
        "assert torch.compile(lambda x: 2 * x, backend='eager')(torch.ones(2)).sum() == 4",
        "import mace.tools.utils; from mace import modules; from e3nn import nn; modules.MACE, nn.Gate",
    ],
)
def test_packages_that_are_put_off_work_when_they_are_used(lines: str) -> None:
    script = f"import torch, electret.models; electret.models.build; {lines}"
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True)
