"""Reading frames, key report, split by chains, atomic energies."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

pytest.importorskip("mace")

import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointDFTCalculator
from rich.console import Console

from electret import InputError
from electret.data import (
    DataKeys,
    GraphDataset,
    atomic_energies,
    check_targets,
    key_counts,
    key_table,
    print_report,
    random_split,
    read_frames,
    wrap_atoms,
)
from electret.data.consistency import data_warnings
from electret.data.keys import DipoleOrigin
from electret.data.reading import origin_of_dipole
from electret.data.reference import energy_warnings
from electret.graph import Graph
from training_frames import cluster, clusters, crystal, write_frames

TWO_FRAMES = """2
Properties=species:S:1:pos:R:3:REF_forces:R:3 REF_energy=-1.5 total_charge=1 config_type=ion pbc="F F F"
O 0.0 0.0 0.0 0.1 0.0 0.0
H 0.0 0.0 1.0 -0.1 0.0 0.0
1
Properties=species:S:1:pos:R:3 REF_energy=-0.5 config_type=IsolatedAtom
H 0.0 0.0 0.0
"""


def write_text(tmp_path: Path, text: str, name: str = "data.xyz") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_frames_carry_their_labels(tmp_path: Path) -> None:
    first, second = read_frames(write_text(tmp_path, TWO_FRAMES))
    assert first.value("energy") == -1.5
    assert first.value("total_charge") == 1.0
    np.testing.assert_array_equal(first.value("forces"), [[0.1, 0, 0], [-0.1, 0, 0]])
    assert (first.config_type, second.config_type) == ("ion", "IsolatedAtom")
    assert not second.has("forces")
    assert second.where.endswith("data.xyz, frame 1")
    assert key_counts([first, second]) == {"energy": 2, "forces": 1, "total_charge": 1}


def test_keys_can_be_renamed_and_ases_own_are_found(tmp_path: Path) -> None:
    text = TWO_FRAMES.replace("REF_energy", "energy").replace("REF_forces", "dft_force")
    path = write_text(tmp_path, text)
    frame = read_frames(path, DataKeys(energy="energy", forces="dft_force"))[0]
    assert frame.value("energy") == -1.5
    assert frame.value("forces")[0, 0] == 0.1
    assert not read_frames(path)[0].has("energy")


def test_the_fermi_level_of_an_output_file_is_found() -> None:
    atoms = Atoms("H")
    atoms.calc = SinglePointDFTCalculator(atoms, efermi=-4.5, energy=-1.0)
    frame = wrap_atoms([atoms], DataKeys(fermi_level="efermi", energy="energy"))[0]
    assert (frame.value("fermi_level"), frame.value("energy")) == (-4.5, -1.0)
    assert not wrap_atoms([atoms])[0].has("fermi_level")


def test_stress_as_voigt_or_tensor() -> None:
    tensor = np.array([[1.0, 6.0, 5.0], [6.0, 2.0, 4.0], [5.0, 4.0, 3.0]])
    for given in (tensor, tensor.reshape(9), [1, 2, 3, 4, 5, 6]):
        atoms = Atoms("H", cell=[3, 3, 3], pbc=True, info={"REF_stress": np.asarray(given, dtype=float)})
        np.testing.assert_array_equal(wrap_atoms([atoms])[0].value("stress"), [1, 2, 3, 4, 5, 6])
    atoms.info["REF_stress"] = np.array([[1.0, 2.0, 0], [0, 0, 0], [0, 0, 0]])
    with pytest.raises(InputError, match="not a symmetric tensor"):
        wrap_atoms([atoms])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda t: t.replace("H 0.0 0.0 1.0 -0.1 0.0 0.0\n", "H 0.0 0.0 1.0 -0.1 0.0\n"),
            ["line 4", "frame 0", "6 columns"],
        ),
        (lambda t: t.replace("H 0.0 0.0 1.0", "H 0.0 zero 1.0"), ["line 4", "'zero' is not a number"]),
        (lambda t: t.replace("1\nProperties", "one\nProperties"), ["line 5", "frame 1", "'one'"]),
        (lambda t: t.rsplit("\n", 2)[0], ["frame 1 starts at line 5", "ends after 0"]),
        (lambda t: t.replace("1\nProperties", "0\nProperties"), ["line 5", "0 atoms"]),
        (lambda t: t.replace("pos:R:3:REF_forces:R:3", "pos:R:three"), ["line 2", "cannot be parsed"]),
        (lambda t: t.replace("H 0.0 0.0 1.0", "Qq 0.0 0.0 1.0"), ["frame 0", "Qq"]),
        (lambda t: t.replace("REF_energy=-0.5", "REF_energy=nan"), ["frame 1", "'REF_energy'", "nan"]),
        (lambda t: t.replace("REF_energy=-0.5", "REF_energy=low"), ["frame 1", "'REF_energy'", "'low'"]),
        (
            lambda t: t.replace("REF_energy=-0.5", 'REF_dipole="1 2"'),
            ["frame 1", "'REF_dipole'", "(2,)", "(3,)"],
        ),
        (lambda t: t.replace("1.0 -0.1", "1.0 inf"), ["frame 0", "'REF_forces'", "inf", "atom 1"]),
        (lambda t: t.replace("H 0.0 0.0 1.0", "H 0.0 nan 1.0"), ["frame 0", "positions", "nan", "atom 1"]),
        (lambda t: t.replace("total_charge=1", "total_charge=1 charge=2"), ["total_charge=1", "charge=2"]),
        (lambda t: t.replace("total_charge=1", "config_weight=-1"), ["config_weight", "-1"]),
    ],
)
def test_malformed_files_are_placed(
    tmp_path: Path, change: Callable[[str], str], expected: list[str]
) -> None:
    text = change(TWO_FRAMES)
    assert text != TWO_FRAMES
    with pytest.raises(InputError) as caught:
        read_frames(write_text(tmp_path, text))
    for part in (*expected, "data.xyz"):
        assert part in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_frames(tmp_path / "absent.xyz")
    with pytest.raises(InputError, match="holds no frame"):
        read_frames(write_text(tmp_path, "\n\n"))
    (tmp_path / "binary.xyz").write_bytes(bytes(range(256)))
    with pytest.raises(InputError, match="not UTF-8"):
        read_frames(tmp_path / "binary.xyz")
    with pytest.raises(InputError, match="ASE cannot read"):
        read_frames(write_text(tmp_path, "nonsense", "data.cif"))


def test_charge_is_a_second_name_of_total_charge() -> None:
    frame = wrap_atoms([Atoms("H", info={"charge": 1})])[0]
    assert frame.value("total_charge") == 1.0


def test_report_counts_keys_per_file_and_config_type(tmp_path: Path) -> None:
    frames = read_frames(write_text(tmp_path, TWO_FRAMES))
    console = Console(width=150, record=True, file=io.StringIO())
    console.print(key_table({"train": frames}, DataKeys()))
    shown = console.export_text()
    rows = [line.split() for line in shown.splitlines()]
    assert "REF_forces" in shown
    assert ["│", "train", "│", "data.xyz", "│", "2", "│", "3", "│", "2", "│", "1", "│", "1", "│"] in rows
    assert ["│", "train", "│", "ion", "│", "1", "│", "2", "│", "1", "│", "1", "│", "1", "│"] in rows
    assert "in no frame: REF_stress" in shown


def test_weight_on_an_absent_label_names_key_file_and_remedy(tmp_path: Path) -> None:
    frames = read_frames(write_text(tmp_path, TWO_FRAMES.replace("REF_energy", "ref_energy")))
    check_targets(frames, ["forces", "total_charge"], DataKeys(), "stages.0.loss")
    with pytest.raises(InputError) as caught:
        check_targets(frames, ["energy"], DataKeys(), "stages.0.loss")
    for part in (
        "'REF_energy'",
        "data.xyz",
        "the file has 'ref_energy'",
        "data.keys.energy",
        "stages.0.loss",
    ):
        assert part in str(caught.value)
    with pytest.raises(InputError, match="'REF_charges'"):
        check_targets(frames, ["charges"], DataKeys(), "stages.0.loss")


@pytest.mark.parametrize("seed", range(5))
def test_split_keeps_chains_together(seed: int) -> None:
    frames = wrap_atoms(clusters(24))
    train, valid = random_split(frames, 0.25, seed)
    assert len(train) + len(valid) == 24
    assert 3 <= len(valid) <= 9
    assert not {frame.chain for frame in train} & {frame.chain for frame in valid}
    again = random_split(frames, 0.25, seed)
    assert [frame.index for frame in again[1]] == [frame.index for frame in valid]


def test_split_differs_with_the_seed() -> None:
    frames = wrap_atoms(clusters(30))
    chosen = {tuple(frame.index for frame in random_split(frames, 0.2, seed)[1]) for seed in range(6)}
    assert len(chosen) > 1


def test_split_without_enough_chains() -> None:
    frames = wrap_atoms(clusters(3))
    with pytest.raises(InputError, match="1 chain"):
        random_split(frames, 0.3, 0)
    with pytest.raises(InputError, match="between 0 and 1"):
        random_split(frames, 1.5, 0)


def atoms_with_energy(symbols: str, energy: float, **info: object) -> Atoms:
    positions = np.arange(3 * len(Atoms(symbols)), dtype=float).reshape(-1, 3)
    return Atoms(symbols, positions=positions, info={"REF_energy": energy, **info})


def test_e0s_by_least_squares_use_neutral_frames() -> None:
    """With E0(H) = -1, E0(O) = -5 the ion's energy, 100 eV off, must not enter."""
    structures = [
        atoms_with_energy("H2O", -7.0),
        atoms_with_energy("H2", -2.0),
        atoms_with_energy("OH", 94.0, total_charge=-1),
    ]
    energies = atomic_energies(wrap_atoms(structures), "average")
    assert energies == pytest.approx({1: -1.0, 8: -5.0}, abs=1e-12)


def test_e0s_fall_back_to_charged_frames_for_their_elements() -> None:
    structures = [atoms_with_energy("H2", -2.0), atoms_with_energy("NaCl", -9.0, total_charge=1)]
    assert set(atomic_energies(wrap_atoms(structures), "auto")) == {1, 11, 17}


def test_e0s_from_isolated_atoms() -> None:
    structures = [
        atoms_with_energy("H2O", -99.0),
        atoms_with_energy("H", -1.0, config_type="IsolatedAtom"),
        atoms_with_energy("O", -5.0, config_type="IsolatedAtom"),
        atoms_with_energy("O", 8.0, config_type="IsolatedAtom", total_charge=1),
    ]
    assert atomic_energies(wrap_atoms(structures), "auto") == {1: -1.0, 8: -5.0}
    with pytest.raises(InputError, match=r"no neutral frame with config_type=IsolatedAtom.*O"):
        atomic_energies(wrap_atoms(structures[:2]), "isolated")
    pair = atoms_with_energy("H2", -1.0, config_type="IsolatedAtom")
    with pytest.raises(InputError, match="the frame has 2 atoms"):
        atomic_energies(wrap_atoms([pair]), "isolated")


def test_e0s_given() -> None:
    frames = wrap_atoms([atoms_with_energy("H2O", -7.0)])
    assert atomic_energies(frames, {"H": -1.0, "8": -5.0, "Ag": 3.0}) == {1: -1.0, 8: -5.0}
    for source, expected in (
        ({"H": -1.0}, "no energy for O"),
        ({"H": -1.0, "Xx": 1.0}, "'Xx' is no chemical element"),
        ({"H": float("nan"), "O": 1.0}, "'H' is nan"),
    ):
        with pytest.raises(InputError, match=expected):
            atomic_energies(frames, source)
    with pytest.raises(InputError, match="no training frame has an energy"):
        atomic_energies(wrap_atoms([Atoms("H")]), "average")


def test_dataset_orders_weights_and_stress() -> None:
    rng = np.random.default_rng(0)
    structures = [cluster(rng), crystal(rng), cluster(rng), crystal(rng)]
    structures[0].info["config_type"] = "special"
    structures[2].info["config_weight"] = 3.0
    dataset = GraphDataset(wrap_atoms(structures), 3.0, torch.float64, {"special": 5.0, "Default": 0.5})
    weights = [float(graph.weights["frame"]) for graph in dataset.graphs]
    assert weights == [5.0, 0.5, 1.5, 0.5]
    assert list(dataset.batches(2)) == [[0, 2], [1, 3]]
    orders = [list(dataset.shuffled_batches(3, 0, epoch)) for epoch in range(8)]
    assert all(sorted(index for batch in order for index in batch) == [0, 1, 2, 3] for order in orders)
    assert len({str(order) for order in orders}) > 1
    assert orders[3] == list(dataset.shuffled_batches(3, 0, 3))
    before = dataset.fingerprint()
    structures[3].info["REF_energy"] += 1e-9
    assert (
        GraphDataset(
            wrap_atoms(structures), 3.0, torch.float64, {"special": 5.0, "Default": 0.5}
        ).fingerprint()
        != before
    )


def test_written_frames_read_back(tmp_path: Path) -> None:
    frames = read_frames(write_frames(tmp_path / "clusters.xyz", clusters(3)))
    assert [frame.chain for frame in frames] == ["chain0"] * 3
    assert key_counts(frames)["dipole"] == 3


def response_frame(n_points: int = 9) -> Atoms:
    """A frame with every response and potential label."""
    rng = np.random.default_rng(0)
    atoms = Atoms("OH", positions=[[0, 0, 0], [0, 0, 1.0]])
    tensor = rng.normal(size=(3, 3))
    atoms.info["REF_polarizability"] = tensor + tensor.T
    atoms.arrays["REF_born_effective_charges"] = rng.normal(size=(2, 9))
    atoms.arrays["REF_potentials"] = rng.normal(size=2)
    atoms.info["REF_grid_points"] = rng.normal(size=(n_points, 3))
    atoms.info["REF_grid_potentials"] = rng.normal(size=n_points)
    return atoms


@pytest.mark.parametrize("n_points", [2, 3, 9])
def test_response_and_potential_labels_survive_a_file(tmp_path: Path, n_points: int) -> None:
    atoms = response_frame(n_points)
    path = write_frames(tmp_path / "response.xyz", [atoms])
    for frame in (read_frames(path)[0], wrap_atoms([atoms])[0]):
        for name in ("polarizability", "grid_points", "grid_potentials"):
            np.testing.assert_allclose(frame.value(name), atoms.info[f"REF_{name}"], rtol=1e-7, atol=1e-7)
        for name in ("born_effective_charges", "potentials"):
            np.testing.assert_allclose(frame.value(name), atoms.arrays[f"REF_{name}"], rtol=1e-7, atol=1e-7)
    graph = GraphDataset([frame], 2.0, torch.float64).graphs[0]
    assert graph.labels["born_effective_charges"].shape == (2, 3, 3)
    assert graph.labels["born_effective_charges"][1, 0, 2] == atoms.arrays["REF_born_effective_charges"][1, 2]
    assert graph.labels["polarizability"].shape == (1, 3, 3)


def test_nine_potentials_read_as_a_matrix_are_put_in_order() -> None:
    """Older versions of ASE make a matrix of nine numbers, column by column."""
    atoms = response_frame(9)
    flat = atoms.info["REF_grid_potentials"]
    atoms.info["REF_grid_potentials"] = flat.reshape((3, 3), order="F")
    np.testing.assert_array_equal(wrap_atoms([atoms])[0].value("grid_potentials"), flat)


def test_response_keys_can_be_renamed() -> None:
    atoms = response_frame()
    atoms.info["alpha"] = atoms.info.pop("REF_polarizability")
    assert not wrap_atoms([atoms])[0].has("polarizability")
    assert wrap_atoms([atoms], DataKeys(polarizability="alpha"))[0].has("polarizability")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda a: a.info.update(REF_polarizability=np.arange(9.0)), "not a symmetric tensor"),
        (lambda a: a.info.update(REF_polarizability=np.arange(6.0)), r"shape \(6,\), expected \(9,\)"),
        (lambda a: a.info.pop("REF_grid_points"), "'REF_grid_potentials' is given without 'REF_grid_points'"),
        (lambda a: a.info.update(REF_grid_potentials=np.ones(4)), "differ in number"),
        (lambda a: a.info.update(REF_grid_points=np.ones((9, 2))), r"expected \(n_points, 3\)"),
        (lambda a: a.info.update(REF_grid_potentials=np.full(9, np.inf)), "REF_grid_potentials.*inf"),
    ],
)
def test_bad_response_labels_are_refused(change: Callable[[Atoms], object], expected: str) -> None:
    atoms = response_frame()
    change(atoms)
    with pytest.raises(InputError, match=expected):
        wrap_atoms([atoms])


def test_grids_of_a_batch_keep_their_systems() -> None:
    """Frames without a grid have no rows, not rows of NaN."""
    frames = wrap_atoms([response_frame(2), Atoms("H"), response_frame(5)])
    graph = GraphDataset(frames, 2.0, torch.float32).batch([1, 0, 2])
    assert graph.labels["grid_batch"].tolist() == [1, 1, 2, 2, 2, 2, 2]
    assert graph.labels["grid_points"].dtype == torch.float64
    assert graph.to(dtype=torch.float64).labels["grid_batch"].dtype == torch.int64
    expected = frames[0].value("grid_potentials")
    np.testing.assert_allclose(graph.labels["grid_potentials"][:2], expected, rtol=1e-6)
    assert torch.isnan(graph.labels["potentials"][0])


def test_batches_can_be_drawn_from_some_frames() -> None:
    dataset = GraphDataset(wrap_atoms(clusters(10)), 2.0, torch.float64)
    everything = list(dataset.shuffled_batches(3, 5, 1))
    assert list(dataset.shuffled_batches(3, 5, 1, range(10))) == everything
    some = dataset.shuffled_batches(3, 5, 1, [1, 4, 7, 8])
    assert sorted(index for batch in some for index in batch) == [1, 4, 7, 8]


def report(structures: list[Atoms], **options: Any) -> str:
    """Warnings of the report on frames, in one line each."""
    console = Console(width=80, record=True, file=io.StringIO())
    print_report(console, {"train": wrap_atoms(structures)}, DataKeys(), **options)
    lines = console.export_text().splitlines()
    return "\n".join(line for line in lines if line.startswith("warning: "))


@pytest.mark.parametrize(
    ("key", "value", "condition"),
    [
        ("net_charge", 1, "total_charge"),
        ("tot_charge", -1.0, "total_charge"),
        ("REF_total_charge", [1.0], "total_charge"),
        ("total_chrage", 1, "total_charge"),
        ("electric_field", [0, 0, 0.1], "external_field"),
        ("efield", np.array([0, 0, 0.1]), "external_field"),
        ("REF_external_field", [0, 0, 0.1], "external_field"),
    ],
)
def test_conditions_under_other_names_are_refused_or_mapped(key: str, value: Any, condition: str) -> None:
    atoms = Atoms("H", info={key: value})
    with pytest.raises(InputError) as caught:
        wrap_atoms([Atoms("H"), atoms], file="ions.xyz")
    for part in ("ions.xyz, frame 1", f"'{key}'", str(np.ravel(value)[-1]), f"data.keys.{condition}: {key}"):
        assert part in str(caught.value)
    with pytest.raises(InputError, match=f"'{key}'"):
        Graph.from_atoms(atoms, 3.0)
    frame = wrap_atoms([atoms], DataKeys(**{condition: key}))[0]
    np.testing.assert_array_equal(frame.value(condition), np.squeeze(value))
    graph = Graph.from_atoms(atoms, 3.0, keys={condition: key})
    np.testing.assert_array_equal(np.ravel(getattr(graph, condition)), np.ravel(value))


def test_other_names_pass_where_nothing_is_lost() -> None:
    """Zeros, the value that is read, and entries that cannot be the condition."""
    info = {
        "net_charge": 0,
        "efield": np.zeros(3),
        "charges": [0.3, -0.3],
        "charge_a": 1,
        "field": "far",
        "qtot": np.nan,
    }
    assert key_counts(wrap_atoms([Atoms("H", info=info)])) == {}
    same = Atoms("H", info={"total_charge": 1, "net_charge": 1.0})
    assert wrap_atoms([same])[0].value("total_charge") == 1.0
    same.info["net_charge"] = 2
    with pytest.raises(InputError, match=r"'net_charge' = 2 is not read, and total_charge would be 1"):
        wrap_atoms([same])


def test_a_list_of_one_number_is_a_number() -> None:
    for info in ({"total_charge": [1]}, {"charge": [1]}, {"total_charge": [1], "charge": 1}):
        assert wrap_atoms([Atoms("H", info=info)])[0].value("total_charge") == 1.0
    with pytest.raises(InputError, match=r"'total_charge' has shape \(2,\)"):
        wrap_atoms([Atoms("H", info={"total_charge": [1, 2]})])


def test_charges_that_miss_the_total_charge_are_reported() -> None:
    structures = [Atoms("OH", positions=[[0, 0, 0], [0, 0, 1]]) for _ in range(4)]
    for atoms, charges in zip(structures, ([-0.4, 0.4], [0.1, 0.4], [0.6, 0.4], [-0.49, 0.5]), strict=True):
        atoms.arrays["REF_charges"] = np.array(charges)
    structures[2].info["total_charge"] = 1.0
    text = report(structures)
    assert "'REF_charges' of 1 frame (first: <atoms>, frame 1)" in text
    assert "0.5 e there, while 'total_charge' is 0 e (absent)" in text
    structures[1].info["total_charge"] = 0.5
    assert report(structures) == ""


def test_spins_and_fermi_levels_under_other_names_are_reported() -> None:
    structures = [Atoms("H", info={"spin": 1, "chemical_potential": -4.0}), Atoms("H", info={"spin": 3})]
    text = report(structures)
    assert "'spin' of 2 frames (first: <atoms>, frame 0) is not read: every frame is a singlet" in text
    assert "'chemical_potential' of 1 frame" in text
    assert "data.keys.fermi_level" in text


def test_virials_become_stresses() -> None:
    """MACE's convention: the virial is -dE/dstrain, the stress dE/dstrain / V."""
    virials = np.array([[1.0, 6.0, 5.0], [6.0, 2.0, 4.0], [5.0, 4.0, 3.0]])
    atoms = Atoms("H", cell=[2, 3, 4], pbc=True, info={"REF_virials": virials, "config_virials_weight": 3.0})
    expected = -np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) / 24
    for given in (virials, virials.reshape(9), -24 * expected):
        atoms.info["REF_virials"] = given
        frame = wrap_atoms([atoms])[0]
        np.testing.assert_allclose(frame.value("stress"), expected, rtol=1e-14)
    assert frame.atoms.info["config_stress_weight"] == 3.0
    atoms.info["REF_stress"] = -expected
    with pytest.raises(InputError, match=r"'REF_stress'.*'REF_virials'.*disagree"):
        wrap_atoms([atoms])
    atoms.info["REF_stress"] = expected
    assert key_counts(wrap_atoms([atoms])) == {"stress": 1, "virials": 1}
    mapped = Atoms("H", cell=[2, 3, 4], pbc=True, info={"REF_stress": virials})
    frame = wrap_atoms([mapped], DataKeys(virials="REF_stress"))[0]
    np.testing.assert_allclose(frame.value("stress"), expected, rtol=1e-14)
    with pytest.raises(InputError, match="no volume"):
        wrap_atoms([Atoms("H", info={"REF_virials": virials})])


def test_a_key_with_virials_is_not_taken_for_a_stress() -> None:
    frames = wrap_atoms([Atoms("H", info={"dft_virial": np.eye(3), "REF_omega": 1.0})])
    with pytest.raises(InputError, match=r"'dft_virial': set data\.keys\.virials to it"):
        check_targets(frames, ["stress"], DataKeys(), "stages.0.loss")


def ions(charges: Sequence[float], hardness: float = 4.0, electronegativity: float = 4.5) -> list[Atoms]:
    """One ion in several charge states, E = -7 + chi Q + eta Q²/2, mu = -dE/dQ."""
    structures = []
    for charge in charges:
        atoms = Atoms("OH", positions=[[0, 0, 0], [0, 0, 1.0]], info={"total_charge": charge})
        atoms.info["REF_energy"] = -7 + electronegativity * charge + hardness * charge**2 / 2
        atoms.info["fermi_level"] = -electronegativity - hardness * charge
        structures.append(atoms)
    return structures


def test_grand_potentials_become_energies() -> None:
    (atoms,) = ions([0.3])
    energy = atoms.info.pop("REF_energy")
    atoms.info["REF_grand_potential"] = energy + atoms.info["fermi_level"] * 0.3
    assert wrap_atoms([atoms])[0].value("energy") == pytest.approx(energy, abs=1e-12)
    atoms.info["REF_energy"] = energy
    assert wrap_atoms([atoms])[0].value("energy") == energy
    atoms.info["REF_energy"] = atoms.info["REF_grand_potential"]
    with pytest.raises(InputError, match=r"'REF_energy'.*'REF_grand_potential'.*disagree"):
        wrap_atoms([atoms])
    del atoms.info["REF_grand_potential"]
    keys = DataKeys(grand_potential="REF_energy")
    assert wrap_atoms([atoms], keys)[0].value("energy") == pytest.approx(energy, abs=1e-12)
    other = ions([-0.2])[0]
    atoms.info["energy_kind"], other.info["energy_kind"] = "grand_potential", "energy"
    for names in (DataKeys(), keys):  # both kinds in one set, whatever the key map says
        found = [frame.value("energy") for frame in wrap_atoms([atoms, other], names)]
        assert found == pytest.approx([energy, other.info["REF_energy"]], abs=1e-12)
    del atoms.info["fermi_level"]
    with pytest.raises(InputError, match=r"frame 0.*without fermi_level \(key 'fermi_level'\)"):
        wrap_atoms([atoms], keys)
    other.info["energy_kind"] = "omega"
    with pytest.raises(InputError, match=r"frame 0: energy_kind='omega'; give 'energy'"):
        wrap_atoms([other])


def test_energies_that_were_read_as_grand_potentials_are_reported() -> None:
    frames = wrap_atoms(ions([0.0, 0.4, 1.0]), DataKeys(grand_potential="REF_energy"))
    (text,) = data_warnings(frames, DataKeys())
    assert "look like energies E; if they are, remove data.keys.grand_potential" in text


@pytest.mark.parametrize(
    "charges", [[0.0, 1.0], [0.0] * 9 + [1.0], [-0.5, 0.2, 0.9], list(np.linspace(-1, 1, 12))]
)
@pytest.mark.parametrize("moved", [False, True])
def test_energies_that_contradict_the_fermi_levels_are_reported(charges: list[float], moved: bool) -> None:
    structures = ions(charges)
    if moved:  # a geometry of its own for each frame, with its noise
        rng = np.random.default_rng(0)
        for atoms in structures:
            atoms.positions += rng.normal(0, 0.05, (2, 3))
            atoms.info["REF_energy"] += rng.normal(0, 0.05)
    assert "contradict" not in report(structures)
    for atoms in structures:
        atoms.info["REF_energy"] += atoms.info["fermi_level"] * atoms.info["total_charge"]
    text = report(structures)
    if moved and len(charges) < 8:
        assert "contradict" not in text  # too few to say
        return
    assert f"'REF_energy' and 'fermi_level' of {len(charges)} frames" in text
    assert "contradict dE/dQ = -mu" in text
    assert "set data.keys.grand_potential to 'REF_energy'" in text
    turned = ions(charges)
    for atoms in turned:
        atoms.info["total_charge"] *= -1
    assert "seems to have the opposite sign" in report(turned)


def ion_with_dipole(seed: int, choice: DipoleOrigin, charges: bool) -> Atoms:
    """An ion anywhere, with the dipole of its point charges about one of the origins."""
    rng = np.random.default_rng(seed)
    atoms = Atoms("OH2", positions=rng.normal(0, 0.6, (3, 3)) + rng.uniform(-5, 5, 3))
    q = np.array([0.2, 0.5, 0.3])
    atoms.info["REF_dipole"] = q @ (atoms.positions - origin_of_dipole(atoms, choice))
    atoms.info["total_charge"] = 1.0
    if charges:
        atoms.arrays["REF_charges"] = q
    return atoms


@pytest.mark.parametrize("choice", get_args(DipoleOrigin))
@pytest.mark.parametrize("charges", [True, False])
def test_dipoles_of_ions_are_moved_to_the_origin(choice: DipoleOrigin, charges: bool) -> None:
    structures = [ion_with_dipole(seed, choice, charges) for seed in range(4)]
    given = structures[0].info["REF_dipole"].copy()
    for frame in wrap_atoms(structures, dipole_origin=choice):
        expected = np.array([0.2, 0.5, 0.3]) @ frame.atoms.positions
        np.testing.assert_allclose(frame.value("dipole"), expected, atol=1e-12)
    np.testing.assert_array_equal(structures[0].info["REF_dipole"], given)
    text = report(structures)
    if choice == "origin":
        assert "are taken about the origin of the coordinates; state their origin" in text
        assert report(structures, dipole_origin="origin") == ""
    else:
        assert "fit the centre of" in text
        assert ("data.dipole_origin: " + choice in text) or not charges
    for atoms in structures:
        atoms.info["total_charge"] = 0.0
        atoms.arrays.pop("REF_charges", None)
    np.testing.assert_array_equal(wrap_atoms(structures, dipole_origin=choice)[0].value("dipole"), given)
    assert "origin" not in report(structures)


def test_responses_of_periodic_frames_are_reported() -> None:
    atoms = response_frame()
    assert report([atoms]) == ""
    atoms.set_cell([5, 5, 5])
    atoms.pbc = [True, True, False]
    text = report([atoms])
    assert "'REF_polarizability' of 1 frame (first: <atoms>, frame 0) with periodic axes" in text
    assert "'REF_born_effective_charges' of 1 frame" in text


def test_two_energies_of_one_isolated_atom_are_refused() -> None:
    structures = [
        atoms_with_energy("H", energy, config_type=kind)
        for energy, kind in ((-1.0, "IsolatedAtom"), (-1.0, "isolated_atom"), (-1.5, "Isolated-Atom"))
    ]
    assert atomic_energies(wrap_atoms(structures[:2]), "auto") == {1: -1.0}
    with pytest.raises(InputError, match=r"atom H: -1.0 eV \(.*frame 0\) and -1.5 eV \(.*frame 2\)"):
        atomic_energies(wrap_atoms(structures), "auto")


@pytest.mark.parametrize("kind", ["isolated_atom", "isolated atom", "ISOLATEDATOM", "isolated-atoms"])
def test_spellings_of_isolated_atom(kind: str) -> None:
    frame = wrap_atoms([atoms_with_energy("H", -1.0, config_type=kind)])[0]
    assert frame.is_isolated_atom
    assert frame.config_type == "IsolatedAtom"


def test_single_atoms_of_another_config_type_are_reported() -> None:
    structures = [atoms_with_energy("H2", -5.0), atoms_with_energy("H", -1.0, config_type="atoms")]
    (text,) = energy_warnings(wrap_atoms(structures), "auto")
    assert "frame 1 holds a single atom (H, config_type=atoms)" in text
    assert energy_warnings(wrap_atoms(structures), {"H": -1.0}) == []


def test_e0s_that_the_compositions_leave_open() -> None:
    """2 H and O in every frame: one energy per atom is all that can be had."""
    structures = [atoms_with_energy("H2O", -156.0), atoms_with_energy("H4O2", -314.0)]
    energies = atomic_energies(wrap_atoms(structures), "average")
    fitted = (3 * 156.0 + 6 * 314.0) / 45  # least squares of 3 e and 6 e
    assert 2 * energies[1] + energies[8] == pytest.approx(-3 * fitted, abs=1e-9)
    assert energies[1] == pytest.approx(-fitted, abs=0.1)
    assert energies[8] == pytest.approx(-fitted, abs=0.1)
    (text,) = energy_warnings(wrap_atoms(structures), "auto")
    assert "compositions of 2 frames determine 1 of 2" in text
    assert f"H {energies[1]:.4g}, O {energies[8]:.4g} eV" in text
    structures.append(atoms_with_energy("H2", -2.0))
    assert energy_warnings(wrap_atoms(structures), "auto") == []


def test_e0s_with_two_spellings_of_one_element() -> None:
    frames = wrap_atoms([atoms_with_energy("H2", -7.0)])
    with pytest.raises(InputError, match=r"data\.e0s names H twice, the second time as '1'"):
        atomic_energies(frames, {"H": -1.0, "1": -2.0})
