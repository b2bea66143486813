"""Models from files of mace-torch: plain MACE as `mace_run_train` and older versions wrote it, MACE-LES."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.io import read
from test_models_backbone import config_around, mace_object, mace_results
from typer.testing import CliRunner

from electret import Calculator, InputError
from electret.cli.main import application
from electret.graph import Graph
from electret.models import Model, ModelConfig, build, from_mace, load, save
from electret.models.backbone import construction_dtype
from electret.models.existing_mace import describe
from electret.testing import check_batch, check_model
from model_cases import bulk, molecule
from places import ROOT
from training_frames import clusters, write_frames

PUBLISHED = ROOT.parent / "shared" / "data" / "maceles_dipeptides"
"""A published MACE-LES model, which may not be part of the project."""

RUN_TRAIN = """
import e3nn, torch
e3nn.set_optimization_defaults(jit_script_fx=False)
torch.serialization.add_safe_globals([slice])
from mace.cli import run_train
run_train.deepcopy = lambda thing: thing  # copies of models are compiled, which takes seconds
run_train.jit.compile = None
run_train.main()
"""
OPTIONS = {
    "name": "tiny",
    "E0s": "average",
    "hidden_irreps": "4x0e+4x1o",
    "r_max": "3.5",
    "max_ell": "1",
    "correlation": "2",
    "num_radial_basis": "4",
    "MLP_irreps": "4x0e",
    "radial_MLP": "[8]",
    "max_num_epochs": "1",
    "plot": "False",
    "batch_size": "4",
    "valid_fraction": "0.2",
    "default_dtype": "float64",
    "energy_key": "REF_energy",
    "forces_key": "REF_forces",
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model file of one epoch of `mace_run_train`."""
    folder = tmp_path_factory.mktemp("mace")
    data = write_frames(folder / "data.xyz", clusters(10))
    arguments = [f"--{name}={value}" for name, value in OPTIONS.items()]
    done = subprocess.run(
        [sys.executable, "-c", RUN_TRAIN, f"--train_file={data}", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert (folder / "tiny.model").is_file(), done.stderr[-2000:]
    return folder / "tiny.model"


def test_a_file_of_run_train_becomes_a_model_file(written: Path, tmp_path: Path) -> None:
    target = tmp_path / "tiny.electret"
    refused = CliRunner().invoke(application, ["import", str(written), "-o", str(target)])
    assert refused.exit_code == 1
    assert "--trust" in " ".join((refused.output + refused.stderr).split())
    assert not target.exists()
    done = CliRunner().invoke(application, ["import", str(written), "-o", str(target), "--trust"])
    assert done.exit_code == 0, done.output + done.stderr
    original = torch.load(written, weights_only=False)
    assert original.scale_shift.scale.shape == (1,)
    atoms = clusters(3)[2]
    expected = mace_results(original, atoms)
    model = load(target)
    assert model.family == "mace"
    found = model(Graph.from_atoms(atoms, model.cutoff))
    torch.testing.assert_close(found["energy"], expected["energy"], rtol=0, atol=1e-10)
    torch.testing.assert_close(found["forces"], expected["forces"], rtol=0, atol=1e-10)


@pytest.mark.parametrize("form", ["without buffers and heads", "pairs"])
def test_objects_of_earlier_versions(form: str) -> None:
    options = {"pair_repulsion": True} if form == "pairs" else {}
    mace = small_mace(**options, atomic_inter_scale=[1.1], atomic_inter_shift=[0.2])
    expected = mace_results(mace, molecule())
    if form == "without buffers and heads":
        removed = 0
        for module in mace.modules():
            for name in [name for name, _ in module.named_buffers(recurse=False) if name.endswith("_zeroed")]:
                del module._buffers[name]
                removed += 1
        assert removed
        energies = mace.atomic_energies_fn
        energies.atomic_energies = energies.atomic_energies[0]
    else:
        mace.pair_repulsion_fn.register_buffer("r_max", torch.tensor(3.5))
    model = from_mace(mace, config_around())
    found = model(Graph.from_atoms(molecule(), model.cutoff))
    for name in ("energy", "forces"):
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-10)


def test_models_of_other_kinds_are_refused() -> None:
    with pytest.raises(InputError, match=r"a dictionary with model, optimizer.*not a checkpoint"):
        describe({"model": {}, "optimizer": {}})
    mace = small_mace()
    with pytest.raises(InputError, match="mode = 'exact' is an option of MACE-POLAR-1"):
        from_mace(mace, mode="exact")
    mace.embedding_specs = {"temperature": {"per": "graph"}, "total_charge": {"per": "graph"}}
    with pytest.raises(InputError, match=r"embeds temperature .*Use a model without"):
        from_mace(mace, config_around())


SPECS = {
    "total_spin": {"type": "categorical", "per": "graph", "num_classes": 5, "emb_dim": 3, "key": "spin"},
    "total_charge": {"type": "categorical", "per": "graph", "num_classes": 7, "offset": 3, "emb_dim": 4},
}
"""Joint embeddings as OMOL has them."""


def charged(charge: float, multiplicity: int = 1, atoms: Atoms | None = None) -> Atoms:
    atoms = atoms or molecule()
    atoms.info.update(total_charge=charge, spin_multiplicity=multiplicity)
    return atoms


@pytest.fixture(scope="module")
def embedded() -> Any:
    """A MACE of two heads that embeds charge and spin."""
    return small_mace(heads=("pbe", "scan"), embedding_specs=SPECS, use_embedding_readout=True)


def test_joint_embeddings_of_charge_and_spin(embedded: Any, tmp_path: Path) -> None:
    described = describe(embedded)[0]
    assert json.loads(json.dumps(described)) == described  # as another process hands it back
    save(from_mace(embedded, config_around(backbone={"head": "scan"})), tmp_path / "omol.electret")
    model = load(tmp_path / "omol.electret")
    assert model.honours == {"total_charge", "spin_multiplicity"}
    states = [charged(0), charged(-1), charged(1, 2), charged(3, 4, bulk())]
    energies = set()
    for atoms in states:
        expected = mace_results(embedded, atoms, 1)
        found = model(Graph.from_atoms(atoms, model.cutoff), properties=("energies",))
        for name in ("energy", "forces"):
            torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-10)
        torch.testing.assert_close(found["energies"].sum(), found["energy"][0], rtol=0, atol=1e-10)
        energies.add(round(float(found["energy"]), 4))
    assert len(energies) == len(states)
    calculator = Calculator(model)
    for atoms in (states[1], states[2]):
        assert calculator.get_potential_energy(atoms) == pytest.approx(
            float(mace_results(embedded, atoms, 1)["energy"]), abs=1e-10
        )
    check_batch(model, states[2:])


def test_families_on_joint_embeddings(embedded: Any) -> None:
    def around(family: str, **options: Any) -> Model:
        return from_mace(embedded, config_around(family, backbone={"head": "pbe"}, **options))

    model = around("local_charges", electrostatics={"accuracy": 1e-10})
    assert model.honours == {"total_charge", "spin_multiplicity", "external_field"}
    for atoms in (charged(1, 2), charged(-2)):
        found = model(Graph.from_atoms(atoms, model.cutoff))
        assert float(found["total_charge"]) == pytest.approx(atoms.info["total_charge"], abs=1e-12)
        short = mace_results(embedded, atoms)["energy"]
        torch.testing.assert_close(found["energy_short_range"], short, rtol=0, atol=1e-10)
    for atoms, match in (
        (charged(0.5), r"total_charge = 0.5 of system 0 has no embedding.*from -3 to 3"),
        (charged(-4), "total_charge = -4 of"),
        (charged(0, 5), r"spin_multiplicity = 5 of .*from 0 to 4"),
    ):
        with pytest.raises(InputError, match=match):
            model(Graph.from_atoms(atoms, model.cutoff))
    solved = around("qeq")
    assert solved.honours == model.honours
    assert not {"charge_stiffness", "fukui"} & solved.available_properties
    calculator = Calculator(solved)
    calculator.get_potential_energy(charged(1, 2))
    assert "energy_charge_derivative" not in calculator.state
    with pytest.raises(InputError, match="fermi_level"):
        calculator.get_potential_energy(Atoms(molecule(), info={"fermi_level": -3.0}))
    with pytest.raises(InputError, match=r"embedding_specs does nothing in MACE-POLAR-1"):
        build(
            config_around("polar", backbone={"embedding_specs": {"total_charge": SPECS["total_charge"]}}),
            solved.statistics,
        )


def test_a_model_of_another_library_needs_its_package() -> None:
    mace = small_mace()
    kind = type("Linear", (torch.nn.Module,), {"__module__": "cuequivariance_torch.primitives"})
    mace.interactions[0].other = kind()
    with pytest.raises(InputError, match=r"converted to cuequivariance.*convert it where it was made"):
        from_mace(mace, config_around())


def small_mace(**options: Any) -> Any:
    """The plain MACE that is built fastest."""
    return mace_object(max_ell=1, radial_MLP=[6], **options)


def latent(mace: Any, remove_self_interaction: bool = False, size: float = 30.0) -> Any:
    """A MACE-LES object around a plain one: its class, readouts, and the attributes of `les`."""
    import mace.modules.extensions as extensions

    mace.__class__ = extensions.MACELES
    with torch.random.fork_rng(), construction_dtype(torch.float64):
        torch.manual_seed(9)
        readouts = [extensions._copy_mace_readout(readout) for readout in mace.readouts]
    mace.les_readouts = torch.nn.ModuleList(readouts)
    with torch.no_grad():
        for weight in mace.les_readouts.parameters():
            weight.mul_(size)
    mace.les = torch.nn.Module()
    mace.les.ewald, mace.les.bec = torch.nn.Module(), torch.nn.Module()
    ewald = {"sigma": 1.3, "dl": 2.0, "norm_factor": 60.0, "remove_self_interaction": remove_self_interaction}
    mace.les.ewald.__dict__.update(ewald)
    mace.les.bec.__dict__.update(remove_mean=True, epsilon_factor=1.7)
    return mace


@pytest.fixture(scope="module")
def plain() -> Model:
    """The short-range part of the MACE-LES models here."""
    return from_mace(small_mace(), config_around())


def latent_charges(plain: Model, mace: Any, atoms: Atoms) -> np.ndarray:
    """Latent charges of MACE-LES by the readouts of the object, in the units of les."""
    graph = Graph.from_atoms(atoms, plain.cutoff)
    sender, receiver = graph.edge_index
    vectors = graph.positions[receiver] - graph.positions[sender]
    features = plain.backbone(graph, vectors, plain.backbone.elements_of(graph)).features
    pairs = zip(mace.les_readouts, features, strict=True)
    return sum(readout(layer)[:, 0] for readout, layer in pairs).detach().numpy()


@pytest.mark.parametrize("removed", [False, True])
def test_energy_of_mace_les(plain: Model, removed: bool) -> None:
    """Energy of the latent charges of a molecule by the published formula:
    N/(4 pi) sum_ij q_i q_j erf(r/(sqrt(2) sigma))/r."""
    mace = latent(small_mace(), removed)
    charges, atoms = latent_charges(plain, mace, molecule()), molecule()
    distances = atoms.get_all_distances()
    own = 0.0 if removed else math.sqrt(2.0 / math.pi) / 1.3
    pairs = np.array(
        [[math.erf(r / (math.sqrt(2.0) * 1.3)) / r if r > 0 else own for r in row] for row in distances]
    )
    expected = 60.0 / (4.0 * math.pi) * charges @ pairs @ charges
    config = config_around("latent_ewald", electrostatics={"accuracy": 1e-12})
    model = from_mace(mace, config)
    found = model(Graph.from_atoms(atoms, model.cutoff))
    assert abs(expected) > 1e-3
    assert float(found["energy_electrostatic"]) == pytest.approx(expected, abs=1e-10)
    short = mace_results(plain.backbone.mace, atoms)["energy"]
    torch.testing.assert_close(found["energy_short_range"], short, rtol=0, atol=1e-10)


def test_contract_and_file_of_mace_les(tmp_path: Path) -> None:
    mace = latent(small_mace(), size=10.0)
    model = from_mace(mace, config_around("latent_ewald", electrostatics={"accuracy": 1e-10}))
    check_model(model, [molecule(), bulk()])
    save(model, tmp_path / "les.electret")
    graph = Graph.from_atoms(bulk(), model.cutoff)
    request = {"stress": True, "properties": ("born_effective_charges",)}
    before, after = model(graph, **request), load(tmp_path / "les.electret")(graph, **request)
    for name, values in before.items():
        assert torch.equal(values, after[name]), name


def test_born_charges_are_derivatives_of_the_dipole_of_latent_charges(plain: Model) -> None:
    mace = latent(small_mace())
    calculator = Calculator(from_mace(mace, config_around("latent_ewald")))
    atoms = molecule()
    found = calculator.response(atoms)["born_effective_charges"]
    step, expected = 1e-4, np.zeros((4, 3, 3))
    for atom, axis in np.ndindex(4, 3):
        dipoles = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[atom, axis] += sign * step
            charges = latent_charges(plain, mace, moved)
            dipoles.append((charges - charges.mean()) @ moved.positions)
        expected[atom, :, axis] = math.sqrt(1.7) * (dipoles[0] - dipoles[1]) / (2 * step)
    np.testing.assert_allclose(found, expected, atol=1e-7)
    # Far from its images an atom affects charges whose sines are their distances.
    for pbc in ([True, True, True], [True, False, True]):
        boxed = molecule()
        boxed.set_cell([4000.0, 4000.0, 4000.0])
        boxed.pbc = pbc
        np.testing.assert_allclose(calculator.response(boxed)["born_effective_charges"], expected, atol=1e-4)


def test_mace_les_starts_its_own_family_alone() -> None:
    mace = latent(small_mace())
    with pytest.raises(InputError, match="use family: latent_ewald"):
        from_mace(mace, config_around("local_charges"))
    with pytest.raises(InputError, match=r"electrostatics.max_l = 1 contradicts"):
        from_mace(mace, config_around("latent_ewald", electrostatics={"max_l": 1}))
    del mace.les.ewald.sigma
    with pytest.raises(InputError, match=r"lacks an attribute.*sigma"):
        from_mace(mace, config_around("latent_ewald"))
    with pytest.raises(InputError, match="charges only"):
        ModelConfig.parse({"family": "latent_ewald", "latent": {"readout": "mace"}})


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason=f"no published MACE-LES model in {PUBLISHED}")
def test_a_published_model() -> None:
    """Energies, forces and Born charges of MACE-LES itself, in float64."""
    import mace.modules as modules
    from e3nn import o3
    from safetensors.torch import load_file

    about = json.loads((PUBLISHED / "maceles_dipep_r4.json").read_text(encoding="utf-8"))
    options = {name: value for name, value in about["mace_config"].items() if value is not None}
    for name in ("interaction_cls", "interaction_cls_first"):
        options[name] = modules.interaction_classes[options[name]]
    options |= {name: o3.Irreps(options[name]) for name in ("hidden_irreps", "MLP_irreps")}
    options |= {"gate": torch.nn.functional.silu, "readout_cls": modules.NonLinearReadoutBlock}
    options["atomic_energies"] = np.array(options["atomic_energies"])
    with construction_dtype(torch.float64):
        mace = latent(modules.ScaleShiftMACE(**options))
    tensors = load_file(PUBLISHED / "maceles_dipep_r4.safetensors")
    mace.load_state_dict({**mace.state_dict(), **tensors})
    mace.les.ewald.__dict__.update(about["ewald"])
    mace.les.bec.__dict__.update(about["bec"])
    model = from_mace(mace, config_around("latent_ewald", electrostatics={"accuracy": 1e-12}))
    for atoms in read(PUBLISHED / "reference.xyz", ":"):
        found = model(Graph.from_atoms(atoms, model.cutoff), properties=("born_effective_charges",))
        assert float(found["energy"]) == pytest.approx(atoms.info["energy_maceles"], abs=1e-10 * len(atoms))
        np.testing.assert_allclose(found["forces"], atoms.arrays["forces_maceles"], atol=1e-9)
        expected = atoms.arrays["bec_maceles"].reshape(-1, 3, 3)
        np.testing.assert_allclose(found["born_effective_charges"], expected, atol=1e-9)
