"""The hosted MACE: agreement with MACE itself, existing model objects, precision, refusals."""

import numpy as np
import pytest
import torch
from ase import Atoms

from electret import InputError
from electret.data import wrap_atoms
from electret.data.frames import as_frames
from electret.graph import Graph
from electret.models import BackboneConfig, ModelConfig, Statistics, build, from_mace, load, save
from electret.models.backbone import construction_dtype
from electret.models.readouts import e3nn_to_electret
from electret.testing import check_rotation, real_harmonics
from model_cases import BACKBONE, STATISTICS, bulk, model_config, molecule, small_model


def mace_object(dtype=torch.float64, heads=("Default",), **options):
    """An ordinary MACE model as a user of mace-torch has it."""
    from e3nn import o3
    from mace import modules

    settings = {
        "r_max": 3.5,
        "num_bessel": 6,
        "num_polynomial_cutoff": 6,
        "max_ell": 2,
        "interaction_cls": modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        "interaction_cls_first": modules.interaction_classes["RealAgnosticInteractionBlock"],
        "num_interactions": 2,
        "num_elements": 3,
        "hidden_irreps": o3.Irreps("6x0e + 6x1o"),
        "MLP_irreps": o3.Irreps("5x0e"),
        "atomic_energies": np.tile([-13.6, -430.0, -5.0], (len(heads), 1)) - np.arange(len(heads))[:, None],
        "avg_num_neighbors": 7.5,
        "atomic_numbers": [1, 8, 11],
        "correlation": 2,
        "gate": torch.nn.functional.silu,
        "radial_MLP": [12, 12],
        "heads": list(heads),
        "atomic_inter_scale": [1.1, 0.7][: len(heads)] if len(heads) > 1 else 1.1,
        "atomic_inter_shift": [0.2, -0.4][: len(heads)] if len(heads) > 1 else 0.2,
        **options,
    }
    with torch.random.fork_rng(), construction_dtype(dtype):
        torch.manual_seed(4)
        return modules.ScaleShiftMACE(**settings)


def mace_results(mace, atoms, head=0):
    """Energy, forces and stress by MACE's own forward."""
    dtype = next(mace.parameters()).dtype
    graph = Graph.from_atoms(atoms, 3.5, dtype)
    elements = mace.atomic_numbers.tolist()
    index = torch.tensor([elements.index(number) for number in atoms.numbers])
    output = mace(
        {
            "positions": graph.positions.clone(),
            "node_attrs": torch.nn.functional.one_hot(index, len(elements)).to(dtype),
            "edge_index": graph.edge_index,
            "shifts": graph.unit_shifts @ graph.cell[0],
            "unit_shifts": graph.unit_shifts,
            "cell": graph.cell[0],
            "batch": graph.batch,
            "ptr": graph.ptr,
            "head": torch.tensor([head]),
            "total_charge": graph.total_charge,
            "total_spin": graph.spin_multiplicity,
        },
        compute_stress=True,
        compute_displacement=True,
    )
    return {name: output[name].detach() for name in ("energy", "forces", "stress")}


def config_around(family="mace", **options):
    return ModelConfig.parse({"family": family, **options})


def test_hosted_model_gives_what_mace_gives():
    mace = mace_object()
    model = from_mace(mace, config_around())
    expected = mace_results(mace, bulk())
    found = model(Graph.from_atoms(bulk(), model.cutoff), stress=True)
    assert float(expected["stress"].abs().max()) > 1e-4
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=0, atol=1e-10)


def test_several_heads_need_a_choice_and_give_their_own_energy():
    mace = mace_object(heads=("pbe", "scan"))
    with pytest.raises(InputError, match=r"several heads; set backbone.head to one of \['pbe', 'scan'\]"):
        from_mace(mace, config_around())
    energies = []
    for index, head in enumerate(("pbe", "scan")):
        model = from_mace(mace, config_around(backbone={"head": head}))
        expected = mace_results(mace, molecule(), index)["energy"]
        found = model(Graph.from_atoms(molecule(), model.cutoff))["energy"]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
        energies.append(float(found))
    assert abs(energies[0] - energies[1]) > 1


def test_scalar_last_layer_gives_dipoles_from_the_first():
    mace = mace_object()
    assert str(mace.products[-1].linear.irreps_out) == "6x0e"
    model = from_mace(mace, config_around("local_charges", electrostatics={"accuracy": 1e-10}), seed=3)
    check_rotation(model, molecule())


def test_foundation_style_interactions_round_trip_through_a_file(tmp_path):
    from mace import modules

    mace = mace_object(
        interaction_cls=modules.interaction_classes["RealAgnosticDensityResidualInteractionBlock"],
        interaction_cls_first=modules.interaction_classes["RealAgnosticDensityInteractionBlock"],
        heads=("a", "b"),
        pair_repulsion=True,
        distance_transform="Agnesi",
        keep_last_layer_irreps=True,
    )
    model = from_mace(mace, config_around("split_charges", backbone={"heads": ["a", "b"], "head": "b"}))
    save(model, tmp_path / "hosted.electret")
    loaded = load(tmp_path / "hosted.electret")
    graph = Graph.from_atoms(molecule(), model.cutoff)
    before, after = model(graph), loaded(graph)
    for name, values in before.items():
        assert torch.equal(values, after[name]), name
    expected = mace_results(mace, molecule(), 1)["energy"]
    torch.testing.assert_close(before["energy_short_range"], expected, rtol=0, atol=1e-10)


def test_float32_object_widened_to_float64_keeps_exact_symmetry():
    mace = mace_object(dtype=torch.float32)
    assert from_mace(mace, config_around()).dtype == torch.float32
    model = from_mace(mace, config_around(backbone={"dtype": "float64"}))
    assert model.dtype == torch.float64
    check_rotation(model, molecule(), tolerance=1e-10)


def test_objects_that_cannot_be_hosted_are_refused():
    with pytest.raises(InputError, match=r"only mace.modules.ScaleShiftMACE"):
        from_mace(torch.nn.Linear(1, 1), config_around())
    mace = mace_object()
    with pytest.raises(InputError, match=r"backbone.r_max = 6.0 contradicts"):
        from_mace(mace, config_around(backbone={"r_max": 6.0}))
    with pytest.raises(InputError, match="irrep 2e"):
        from_mace(mace, config_around("local_charges", electrostatics={"max_l": 2}))


def test_altered_object_is_noticed():
    mace = mace_object()
    mace.radial_embedding.cutoff_fn.forward = lambda x: torch.ones_like(x)
    with pytest.raises(InputError, match="probe cluster"):
        from_mace(mace, config_around())
    renamed = mace_object()
    renamed.products[0].extra = torch.nn.Linear(2, 2)
    with pytest.raises(InputError, match="cannot be rebuilt"):
        from_mace(renamed, config_around())


@pytest.mark.parametrize("l", range(5))
def test_component_order_of_e3nn_becomes_that_of_real_harmonics(l):
    from e3nn import o3

    directions = np.random.default_rng(l).normal(size=(20, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    theirs = o3.spherical_harmonics(list(range(l + 1)), torch.tensor(directions), True, normalization="norm")
    found = e3nn_to_electret(theirs, l).numpy()
    np.testing.assert_allclose(found, real_harmonics(directions, l), atol=1e-12)


def test_building_leaves_global_state_alone():
    before, state = torch.get_default_dtype(), torch.get_rng_state()
    first, second = (build(model_config("mace"), STATISTICS, seed=7) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(InputError):
        build(model_config("mace", backbone={"interaction": "Unknown"}), STATISTICS)
    assert torch.get_default_dtype() == before


def test_isolated_atom_has_its_atomic_energy_and_no_force():
    model = small_model("mace")
    graph = Graph.from_atoms(Atoms("O", positions=[[0.1, 0.2, 0.3]]), model.cutoff)
    assert graph.n_edges == 0
    result = model(graph)
    assert float(result["energy"]) == pytest.approx(-430.0, abs=30.0)
    assert result["forces"].abs().max() == 0


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ({"interaction": "RealAgnosticResidualBlock"}, "did you mean 'RealAgnosticResidualInteractionBlock'"),
        ({"hidden_irreps": "eight"}, "are no irreps"),
        ({"hidden_irreps": "8x1o"}, "no scalars"),
        ({"hidden_irreps": "8x0e + 4x1o"}, "unequal channels"),
    ],
)
def test_options_that_mace_cannot_use_are_refused(backbone, message):
    with pytest.raises(InputError, match=message):
        build(model_config("mace", backbone=backbone), STATISTICS)


def test_names_of_mace_are_accepted_and_unknown_ones_refused():
    names = {"num_bessel": 7, "num_polynomial_cutoff": 6, "num_channels": 4, "max_L": 2}
    config = BackboneConfig.parse(names)
    assert (config.num_radial_basis, config.num_cutoff_basis) == (7, 6)
    assert config.hidden_irreps == "4x0e + 4x1o + 4x2e"
    with pytest.raises(InputError, match="did you mean 'r_max'"):
        ModelConfig.parse({"family": "mace", "backbone": {"rmax": 4.0}})
    with pytest.raises(InputError, match=r"backbone.r_max = -1"):
        ModelConfig.parse({"family": "mace", "backbone": {"r_max": -1}})
    with pytest.raises(InputError, match="not both"):
        BackboneConfig.parse({**BACKBONE, "num_channels": 4})
    with pytest.raises(InputError, match="several heads"):
        BackboneConfig.parse({"heads": ["a", "b"]})
    with pytest.raises(InputError, match="'b' is not among"):
        build(model_config("mace", backbone={"head": "b"}), STATISTICS)
    with pytest.raises(InputError, match="2 entries for 3 interactions"):
        BackboneConfig.parse({"correlation": [2, 3], "num_interactions": 3})


def test_statistics_of_a_training_set():
    structures = []
    for atoms, energy in ((molecule(), -460.0), (bulk(), -470.0), (Atoms("O"), -430.0)):
        atoms.info["REF_energy"] = energy
        atoms.arrays["REF_forces"] = np.full((len(atoms), 3), 2.0)
        atoms.arrays["REF_charges"] = np.where(atoms.numbers == 8, -1.0, 0.25)
        structures.append(atoms)
    frames, n_edges = as_frames(wrap_atoms(structures)), np.array([20, 52, 0])
    found = Statistics.from_frames(frames, n_edges)
    assert found.elements == (1, 8, 11)
    assert found.e0s == pytest.approx({1: -10.0, 8: -430.0, 11: -10.0})
    assert found.scale == pytest.approx(2.0)
    assert found.mean == pytest.approx(0.0, abs=1e-9)
    assert found.charges == pytest.approx({1: 0.25, 8: -1.0, 11: 0.25})
    assert found.avg_num_neighbors == pytest.approx(7.2)
    given = Statistics.from_frames(frames, n_edges, e0s={1: -11.0, 8: -430.0, 11: -10.0})
    assert given.e0s[1] == -11.0
    assert given.mean > 0.1
    with pytest.raises(InputError, match="at least one"):
        Statistics.from_frames(as_frames([]), np.empty(0, dtype=int))
    for atoms in structures:
        del atoms.info["REF_energy"]
    with pytest.raises(InputError, match="no e0s are given for H, O, Na"):
        Statistics.from_frames(as_frames(wrap_atoms(structures)), n_edges)
    with pytest.raises(InputError, match="no energy for Na"):
        Statistics.parse({"elements": (1, 11), "e0s": {1: 0.0}})


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"max_ell": 0}, "greater than or equal to 1"),
        ({"correlation": 0}, "greater than or equal to 1"),
        ({"correlation": 30}, "less than or equal to 8"),
        ({"correlation": 8, "max_ell": 3}, "GiB of coupling coefficients"),
        ({"radial_MLP": [-8]}, "greater than or equal to 1"),
        ({"radial_MLP": [1_000_000, 1_000_000]}, "GiB of parameters"),
        ({"radial_MLP": [10**30]}, "GiB of parameters"),
        ({"edge_irreps": "banana"}, "are no irreps"),
        ({"hidden_irreps": "100000x0e"}, "100000 channels"),
        ({"hidden_irreps": "8x0e + 8x20e"}, "above l = 11"),
        ({"num_radial_basis": 10**12}, "less than or equal to 1000"),
        ({"readout": "GeneralNonLinearBiasReadoutBlock"}, "MACE cannot be built with backbone options"),
    ],
)
def test_options_that_make_no_model(options, expected):
    with pytest.raises(InputError, match=expected):
        build(model_config("local_charges", backbone=options), STATISTICS)
