"""PolarMACE in pickles, with and without graph_longrange, in later versions and in the training of MACE."""

from __future__ import annotations

import inspect
import io
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

pytest.importorskip("mace")

import electret.polar
from electret import Calculator
from electret.errors import InputError
from electret.models import existing_mace, pickles
from electret.polar.hosted import polar_class
from electret.training import TrainingConfig, train
from places import TESTS
from polar_models import built, crystal, later_polar, mace_batch, mace_graphs, slab, under
from training_frames import clusters, run_options, write_frames


class Blocked:
    """Finds no graph_longrange."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "graph_longrange":
            raise ModuleNotFoundError(name)


def described(path, describe, *, trust, placeholders, moved):
    """`read_pickle` in this process, whose own has its tests elsewhere."""
    assert trust
    return pickles._described(str(path), describe, placeholders, moved)


CHILD = f"""import sys
{inspect.getsource(Blocked)}
sys.meta_path.insert(0, Blocked())
import electret.polar
from electret.cli.main import application
from electret.models import existing_mace, pickles
from polar_models import crystal, mace_batch, under
model = electret.polar.load("first.model", trust=True)
print(float(model(mace_batch(model, under(crystal(), 1.0, 2)))["energy"].detach()))
electret.polar.save(model, "second.model")
assert not any(name.startswith("graph_longrange") for name in sys.modules)
{inspect.getsource(described)}
existing_mace.read_pickle = described
application(["import", "second.model", "-o", "second.electret", "--trust"], standalone_mode=False)
"""
"""Work where the package is absent."""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A model with parts of graph_longrange, `first.model` that was written when it was accelerated, and an
    energy."""
    pytest.importorskip(
        "graph_longrange", reason="graph-longrange is not installed: pip install electret[peers]"
    )
    model = built(polar_class(), num_recursion_steps=1, correlation=1)
    path = tmp_path_factory.mktemp("polar") / "first.model"
    torch.save(electret.polar.accelerate(model), path)
    batch = mace_batch(model, under(crystal(), 1.0, 2))
    energy = float(model(batch, compute_force=False)["energy"].detach())
    return SimpleNamespace(model=electret.polar.restore(model), path=path, energy=energy)


def test_files_without_and_with_graph_longrange(written: SimpleNamespace) -> None:
    """Made with graph-longrange, read, written and imported where it is absent, and read with it again."""
    folder, model = written.path.parent, written.model
    child = subprocess.run(
        [sys.executable, "-c", CHILD],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])},
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr
    assert float(child.stdout.split()[0]) == pytest.approx(written.energy, abs=1e-12)
    atoms = crystal()
    atoms.info.update(total_charge=1, spin_multiplicity=2)
    atoms.calc = Calculator(folder / "second.electret")
    assert atoms.get_potential_energy() == pytest.approx(
        written.energy, abs=1e-6
    )  # at the accuracy of models
    assert atoms.calc.model.family == "polar"
    other = torch.load(folder / "second.model", weights_only=False)
    assert vars(other).keys() == vars(model).keys()
    for part in electret.polar.hosted.PARTS:
        assert type(getattr(other, part)) is type(getattr(model, part))
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name
    # the parts of the package that is installed, without ours
    source = torch.randn(5, 4, dtype=torch.float64)
    assert torch.equal(
        other.coulomb_energy.self_interaction_terms(source),
        model.coulomb_energy.self_interaction_terms(source),
    )


def test_a_run_starts_from_a_pickle(
    written: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(existing_mace, "read_pickle", described)
    monkeypatch.setattr("mace.modules.models.MACELES", None, raising=False)  # else it stays there
    stage = {"epochs": 1, "lr": 1e-12, "loss": {"forces": 1.0}}
    options = run_options(write_frames(tmp_path / "data.xyz", clusters(4)), tmp_path / "run", stages=[stage])
    options["model"] = {"family": "polar", "start": str(written.path), "trust": True}
    model = train(TrainingConfig.from_dict(options), console=Console(file=io.StringIO())).model
    assert model.config.polar.self_interaction
    assert model.config.polar.feature_norms == (20.0, 20.0, 0.5, 0.5)
    atoms = crystal()
    atoms.info.update(total_charge=1, spin_multiplicity=2)
    assert Calculator(model).get_potential_energy(atoms) == pytest.approx(written.energy, abs=1e-6)


def test_interface_of_later_versions_of_mace(
    written: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file in mace 0.3.17, which checks it and chooses the handling of boundaries, with graph_longrange
    and without; and a model of this package with PolarMACE of that version."""
    later, former = later_polar(), polar_class()
    monkeypatch.setattr(sys.modules[former.__module__], "PolarMACE", later)
    polar_class.cache_clear()
    try:
        model = torch.load(written.path, weights_only=False)
        assert (type(model), model.pbc_handling) == (later, "auto")
        batch = mace_batch(model, under(crystal(), 1.0, 2))
        theirs = model(dict(batch))
        result = electret.polar.accelerate(model, "as_trained")(dict(batch), compute_stress=True)
        for key in ("forces", "density_coefficients", "spin_density", "electrostatic_energy", "dipole"):
            assert torch.allclose(
                result[key], theirs[key], rtol=0, atol=1e-12 * float(theirs[key].detach().abs().max())
            ), key
        for name in [name for name in sys.modules if name.partition(".")[0] == "graph_longrange"]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setattr(sys, "meta_path", [Blocked(), *sys.meta_path])
        alone = electret.polar.load(written.path, trust=True, mode="as_trained")
        assert isinstance(alone, later)
        found = alone(dict(batch), compute_stress=True)
        for key in ("energy", "forces", "stress", "spin_density"):
            assert torch.equal(found[key], result[key]), key
        assert isinstance(electret.polar.from_mace(alone).backbone.mace, later)
    finally:
        polar_class.cache_clear()


def test_pickles_are_read_on_a_word_of_trust_only(tmp_path: Path) -> None:
    path = tmp_path / "other.model"
    torch.save(torch.nn.Linear(1, 1), path)
    with pytest.raises(InputError, match="trust"):
        electret.polar.from_mace(path)
    with pytest.raises(InputError, match="trust=True"):
        electret.polar.load(path, trust=False)
    with pytest.raises(InputError, match="no such file"):
        electret.polar.load(tmp_path / "absent.model", trust=True)
    with pytest.raises(InputError, match="is a Linear"):
        electret.polar.load(path, trust=True)


def test_steps_of_the_training_of_mace_take_the_kernels() -> None:
    """A model that MACE makes inside of the context, by the optimisation step of its command."""
    pytest.importorskip(
        "graph_longrange", reason="graph-longrange is not installed: pip install electret[peers]"
    )
    from mace.modules import WeightedEnergyForcesStressLoss
    from mace.tools.train import take_step

    make = polar_class().__init__
    with electret.polar.accelerated(mode="as_trained"):
        model = built(polar_class(), num_recursion_steps=1)
    assert electret.polar.is_accelerated(model)
    assert polar_class().__init__ is make  # models made outside are plain ones
    loss = WeightedEnergyForcesStressLoss(energy_weight=1.0, forces_weight=10.0, stress_weight=1.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    batch = mace_graphs(model, under(crystal(), 1.0, 2), under(slab()))
    wanted: dict[str, Any] = {"forces": True, "virials": False, "stress": True}
    values = [
        float(take_step(model, loss, batch, optimizer, None, wanted, 10.0, torch.device("cpu"))[0].detach())
        for _ in range(4)
    ]
    assert values[-1] < 0.999 * values[0]
    unused = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert not any(name.startswith(("lr_source_maps", "fukui", "field_dependent")) for name in unused)
