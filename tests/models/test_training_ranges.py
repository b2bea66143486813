"""Ranges of charge, Fermi level and field that a model file carries, and what is found outside of them."""

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("mace")
from ase import Atoms

from electret.graph import Graph
from electret.models import read_header
from electret.models.start.ranges import outside, training_ranges
from electret.training import TrainingConfig, train
from training_frames import clusters, run_options, write_frames


def graph(**info: object) -> Graph:
    atoms = Atoms("OH", positions=[[0, 0, 0], [0, 0, 1.0]])
    atoms.info.update(info)
    return Graph.from_atoms(atoms, 3.0)


def test_ranges_are_the_extremes() -> None:
    graphs = [
        graph(total_charge=-1.0, fermi_level=-4.5),
        graph(total_charge=2.0, external_field=[0.0, 0.3, 0.4]),
        graph(fermi_level=-6.0, external_field=[0.1, 0.0, 0.0]),
    ]
    ranges = training_ranges(graphs)
    assert ranges["total_charge"] == [-1.0, 2.0]
    assert ranges["fermi_level"] == [-6.0, -4.5]
    assert ranges["external_field"] == pytest.approx(0.5)
    assert "fermi_level" not in training_ranges([graph()])
    assert training_ranges([]) == {}


def test_what_is_outside_is_named() -> None:
    ranges = {"total_charge": [-1.0, 1.0], "external_field": 0.2}
    assert outside(ranges, {"total_charge": 1.0, "external_field": np.array([0.0, 0.2, 0.0])}) == {}
    assert outside(ranges, {"fermi_level": 100.0}) == {}  # nothing is known of it
    found = outside(ranges, {"total_charge": 2.0, "external_field": np.array([0.3, 0.0, 0.0])})
    assert set(found) == {"total_charge", "external_field"}
    assert "2 e" in found["total_charge"]
    assert "-1 to 1 e" in found["total_charge"]
    assert "0 to 0.2 V/Å" in found["external_field"]


def test_a_run_writes_them(tmp_path) -> None:
    frames = clusters(6)
    frames[0].info["total_charge"] = 1.0
    frames[1].info["external_field"] = np.array([0.0, 0.0, 0.1])
    frames[2].info["fermi_level"] = -5.0
    valid = clusters(2, seed=5)
    valid[0].info["total_charge"] = 3.0  # of no influence
    data = write_frames(tmp_path / "train.xyz", frames)
    options = run_options(data, tmp_path / "run")
    options["data"] = {"train": str(data), "valid": str(write_frames(tmp_path / "valid.xyz", valid))}
    options["stages"][0]["epochs"] = 1
    result = train(TrainingConfig.from_dict(options))
    ranges = read_header(result.model_file)["metadata"]["training_ranges"]
    assert ranges == {
        "total_charge": [0.0, 1.0],
        "external_field": pytest.approx(0.1),
        "fermi_level": [-5.0, -5.0],
    }
