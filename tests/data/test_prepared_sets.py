"""Prepared sets: frames on disk are those of the files, bit for bit, and train the same model."""

from __future__ import annotations

import os
import signal
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mace")

import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io import write

from electret import InputError
from electret.data import DataKeys, GraphDataset, prepare, prepare_frames, read_frames, wrap_atoms
from electret.data.columns import columns_of
from electret.data.dataset import Limits
from electret.graph import Graph
from electret.training import TrainingConfig, TrainingInterrupted, train
from electret.training.loop import Trainer
from training_frames import clusters, crystal, run_options, write_frames


def mixed_frames() -> list[Atoms]:
    """Open and periodic systems with labels of every kind of shape, and some without any."""
    rng = np.random.default_rng(0)
    frames = [
        *clusters(7),
        crystal(rng),
        Atoms("H", info={"config_type": "IsolatedAtom", "REF_energy": -1.0}),
    ]
    frames[0].info |= {"total_charge": 1.0, "external_field": [0.0, 0.1, 0.0], "config_weight": 0.5}
    frames[1].info |= {"REF_polarizability": np.eye(3), "spin": 1, "config_energy_weight": 2.0}
    frames[2].arrays["REF_multipoles"] = rng.normal(size=(4, 4))
    frames[3].info |= {"REF_grid_points": rng.normal(size=(5, 3)), "REF_grid_potentials": rng.normal(size=5)}
    frames[4].arrays["REF_born_effective_charges"] = rng.normal(size=(4, 9))
    frames[5].arrays.pop("REF_forces")
    return frames


def test_frames_and_columns_are_those_of_the_file(tmp_path: Path) -> None:
    file = write_frames(tmp_path / "frames.xyz", mixed_frames())
    memory = read_frames(file)
    disk = prepare([file], tmp_path / "set", shard_size=4)
    assert len(disk.parts) == 3
    assert not disk.in_memory
    for expected, found in zip(memory, disk, strict=True):
        assert (found.where, found.chain, found.config_type) == (
            expected.where,
            expected.chain,
            expected.config_type,
        )
        assert found.other_keys == expected.other_keys
        assert set(found.atoms.info) == set(expected.atoms.info)
        assert set(found.atoms.arrays) == set(expected.atoms.arrays)
        for name, value in (expected.atoms.info | expected.atoms.arrays).items():
            own = found.atoms.info[name] if name in found.atoms.info else found.atoms.arrays[name]
            assert np.array_equal(own, value), name
            assert type(own) is type(value)
        assert found.atoms == expected.atoms
    expected_columns, found_columns = columns_of(list(memory)), disk.columns()
    assert found_columns.elements == expected_columns.elements
    assert set(found_columns.arrays) == set(expected_columns.arrays)
    for name, values in expected_columns.arrays.items():
        assert np.array_equal(found_columns.arrays[name], values, equal_nan=values.dtype.kind == "f"), name


def test_graphs_of_disk_and_memory_are_equal(tmp_path: Path) -> None:
    file = write_frames(tmp_path / "frames.xyz", mixed_frames())
    disk = prepare([file], tmp_path / "set", shard_size=5)
    memory, lazy = (GraphDataset(f, 3.5, torch.float32, {"first": 2.0}) for f in (read_frames(file), disk))
    assert memory.fingerprint() == lazy.fingerprint()
    assert memory.n_edges.tolist() == lazy.n_edges.tolist()
    assert memory.n_edges.max() > 0
    one, other = memory.batch([6, 0, 7, 3]), lazy.batch([6, 0, 7, 3])
    for name, value in {**vars(one), **one.labels, **one.weights}.items():
        own = {**vars(other), **other.labels, **other.weights}[name]
        if isinstance(value, torch.Tensor):
            assert torch.equal(torch.nan_to_num(own.double()), torch.nan_to_num(value.double())), name


@pytest.mark.parametrize("ending", ["traj", "db", "aselmdb"])
def test_formats_of_ase(ending: str, tmp_path: Path) -> None:
    """Results of calculators are labels under the names of ASE, entries of databases those of frames."""
    if ending == "aselmdb":
        pytest.importorskip("ase_db_backends", reason="ase-db-backends is not installed")
    frames = clusters(3)
    for atoms in frames:
        energy, forces = atoms.info["REF_energy"], atoms.arrays.pop("REF_forces")
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        atoms.info, atoms.arrays = {}, {name: atoms.arrays[name] for name in ("numbers", "positions")}
    file = tmp_path / f"frames.{ending}"
    if ending == "traj":
        write(file, frames)
    else:
        with connect(file) as database:
            for atoms in frames:
                database.write(atoms, config="ion", data={"charge": 1, "REF_charges": [0.4] * 4})
    found = prepare([file], tmp_path / "set", keys=DataKeys(energy="energy", forces="forces"))
    for atoms, frame in zip(frames, found, strict=True):
        assert frame.value("energy") == atoms.get_potential_energy()
        np.testing.assert_array_equal(frame.value("forces"), atoms.get_forces())
        if ending != "traj":
            assert (frame.value("total_charge"), frame.value("charges").tolist()) == (1.0, [0.4] * 4)
            assert "config" in frame.other_keys
    with pytest.raises(InputError, match=r"data\.keys\.energy is 'E', but .* was prepared with 'energy'"):
        read_frames(tmp_path / "set", DataKeys(energy="E"))


def test_memory_does_not_grow_with_the_frames(tmp_path: Path) -> None:
    """Memory of a preparation and of a pass over the batches; frames in memory take some 5 kB each."""

    def peak(n_frames: int) -> int:
        template = clusters(1)[0]
        structures = (template for _ in range(n_frames))
        tracemalloc.start()
        frames = prepare_frames(
            (wrap_atoms([a])[0] for a in structures), tmp_path / f"{n_frames}", shard_size=50
        )
        dataset = GraphDataset(frames, 2.0, torch.float64, workers=0)
        assert sum(graph.n_systems for graph in dataset.load(dataset.shuffled_batches(10, 0, 0))) == n_frames
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(500) - peak(100) < 1000 * 400


def test_training_from_disk_gives_the_same_bits(tmp_path: Path) -> None:
    file = write_frames(tmp_path / "frames.xyz", clusters(12))
    prepare([file], tmp_path / "set", shard_size=5)
    models = []
    for data in (file, tmp_path / "set"):
        options = run_options(data, tmp_path / f"run_{data.stem}")
        models.append(train(TrainingConfig.from_dict(options)).model)
    assert models[0].statistics == models[1].statistics
    first, second = (model.state_dict() for model in models)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_workers_make_the_batches_of_this_process(tmp_path: Path) -> None:
    file = write_frames(tmp_path / "frames.xyz", clusters(9))
    frames = prepare([file], tmp_path / "set", shard_size=4)
    dataset = GraphDataset(frames, 3.5, torch.float64, workers=2)
    batches = [*dataset.shuffled_batches(1, 0, 0)[1:], *[[0, 5]] * 10]
    state = torch.get_rng_state()
    for indices, graph in zip(batches, dataset.load(batches), strict=True):
        expected = dataset.batch(indices)
        assert torch.equal(graph.positions, expected.positions)
        assert torch.equal(graph.edge_index, expected.edge_index)
        assert torch.equal(graph.labels["energy"], expected.labels["energy"])
        assert graph.config_type == expected.config_type
    assert torch.equal(torch.get_rng_state(), state)
    file = write_frames(tmp_path / "coincide.xyz", [Atoms("H2"), *clusters(1)])
    dataset = GraphDataset(prepare([file], tmp_path / "coincide"), 3.5, torch.float64, workers=1)
    with pytest.raises(InputError, match=r"^\S*coincide.xyz, frame 0: atoms 0 and 1 coincide"):
        list(dataset.load([[1]] * 20 + [[0]]))
    with pytest.raises(InputError, match="frame 0: atoms 0 and 1 coincide"):
        dataset.count_edges()


def test_batches_are_filled_up_to_their_limits(tmp_path: Path) -> None:
    structures = [Atoms(f"H{n}", positions=np.arange(3.0 * n).reshape(n, 3)) for n in (3, 1, 4, 1, 5, 2)]
    dataset = GraphDataset(wrap_atoms(structures), 6.0, torch.float64)
    assert list(dataset.batches(Limits(atoms=6))) == [[0, 1], [2, 3], [4], [5]]
    assert list(dataset.batches(Limits(frames=1, atoms=6))) == [[index] for index in range(6)]
    assert dataset.n_edges.tolist() == [4, 0, 6, 0, 8, 2]
    assert list(dataset.batches(Limits(edges=10))) == [[0, 1, 2, 3], [4, 5]]
    shuffled = dataset.shuffled_batches(Limits(edges=10, atoms=7), 1, 2)
    order = [index for batch in shuffled for index in batch]
    assert sorted(order) == list(range(6))
    assert order == [index for batch in dataset.shuffled_batches(10, 1, 2) for index in batch]
    with pytest.raises(InputError, match=r"frame 4 has 8 edges, above data\.max_edges = 7"):
        dataset.check_limits(Limits(edges=7))


def test_a_run_with_workers_resumes_inside_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_frames(tmp_path / "frames.xyz", clusters(12))
    prepare([file], tmp_path / "set", shard_size=5)
    models, original, calls = [], Trainer._step, []

    def counted(self: Trainer, indices: list[int], graph: Graph) -> None:
        calls.append(indices)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        original(self, indices, graph)

    for name in ("whole", "interrupted"):
        options = run_options(tmp_path / "set", tmp_path / name)
        options["data"] |= {"batch_size": 1, "workers": 1}
        options["stages"][0]["epochs"] = 1
        config = TrainingConfig.from_dict(options)
        if name == "interrupted":
            monkeypatch.setattr(Trainer, "_step", counted)
            with pytest.raises(TrainingInterrupted, match="5 batches"):
                train(config)
        models.append(train(config, resume=name == "interrupted").model.state_dict())
    assert len(calls) == 9
    assert all(torch.equal(value, models[1][name]) for name, value in models[0].items())


def test_refusals(tmp_path: Path) -> None:
    file = write_frames(tmp_path / "frames.xyz", clusters(3))
    frames = prepare([file], tmp_path / "set")
    with pytest.raises(InputError, match="exists already"):
        prepare([file], tmp_path / "set")
    broken = write_frames(tmp_path / "broken.xyz", [*clusters(3), Atoms("H", info={"REF_energy": np.nan})])
    with pytest.raises(InputError, match=r"frame 3.*nan"):
        prepare([broken], tmp_path / "other", shard_size=2)
    assert not list(tmp_path.glob("other*"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no prepared set: it has no set\.json"):
        read_frames(tmp_path / "empty")
    del frames
    shard = tmp_path / "set" / "00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-8])
    with pytest.raises(InputError, match="prepare the set again"):
        read_frames(tmp_path / "set")
