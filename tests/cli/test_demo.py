"""The demo and the generator of its data: labels are derivatives of the energy, a short demo runs through."""

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("mace")
from ase.io import read

import electret.demo
from places import ROOT

DATA = Path(electret.demo.__file__).parent / "data"


@pytest.fixture
def labels(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("tblite", reason="tblite is not installed")
    monkeypatch.syspath_prepend(ROOT / "examples" / "demo_data")
    import labels

    yield labels
    sys.modules.pop("labels")


def test_labels_are_derivatives_of_the_energy(labels) -> None:
    atoms = next(
        frame
        for frame in read(DATA / "silver_water_field_valid.xyz", ":")
        if frame.info["config_type"] == "water_cluster" and np.any(frame.info["external_field"])
    )
    field = atoms.info["external_field"].copy()

    def energy(field: np.ndarray, shift: float = 0.0) -> float:
        moved = atoms.copy()
        moved.positions[0, 2] += shift
        return labels.XTB(0.0, field).get_property("energy", moved)

    frame = labels.labelled(atoms, labels.XTB(0.0, field), "water_cluster", 0)
    step = 1e-3
    for axis in range(3):
        change = np.eye(3)[axis] * step
        slope = (energy(field + change) - energy(field - change)) / (2 * step)
        assert frame.info["REF_dipole"][axis] == pytest.approx(-slope, abs=1e-3)
    assert np.abs(frame.info["REF_dipole"]).max() > 0.1
    slope = (energy(field, step) - energy(field, -step)) / (2 * step)
    assert abs(slope) > 1e-2
    assert frame.arrays["REF_forces"][0, 2] == pytest.approx(-slope, abs=1e-4)


def test_labels_of_the_data_are_reproduced(labels) -> None:
    for name in ("silver_water_field_valid.xyz", "silver_water_slab_valid.xyz"):
        atoms = read(DATA / name, 0)
        calculator = labels.XTB(atoms.info["total_charge"], atoms.info.get("external_field", np.zeros(3)))
        frame = labels.labelled(atoms, calculator, atoms.info["config_type"], 0)
        assert frame.info["REF_energy"] == pytest.approx(atoms.info["REF_energy"], abs=1e-5)
        assert frame.info["fermi_level"] == pytest.approx(atoms.info["fermi_level"], abs=1e-4)
        for key in ("REF_forces", "REF_charges"):
            np.testing.assert_allclose(frame.arrays[key], atoms.arrays[key], rtol=0, atol=1e-4)
        for key in {"REF_dipole", "REF_stress"} & set(atoms.info):
            np.testing.assert_allclose(frame.info[key], atoms.info[key], rtol=0, atol=1e-4)


def test_no_trajectory_is_in_both_sets() -> None:
    for kind in ("field", "slab"):
        chains = [
            {frame.info["chain"] for frame in read(DATA / f"silver_water_{kind}_{name}.xyz", ":")}
            for name in ("train", "valid")
        ]
        assert all(chains)
        assert not chains[0] & chains[1]


@pytest.mark.slow
def test_quick_demo(tmp_path: Path) -> None:
    result = electret.demo.run(tmp_path, epochs=1, quick=True)
    assert result.model_file.exists()
    assert result.trajectory.time[-1] == pytest.approx(0.025)
    assert np.abs(result.trajectory.potential - result.trajectory.potential[0]).max() > 1e-3
    assert abs(result.trajectory.total - result.trajectory.total[0]).max() < 0.02
    text = result.report.read_text(encoding="utf-8")
    for name in ("parity.png", "dipole_field.png", "field_scan.png", "dynamics.png"):
        assert name in text
        assert (tmp_path / name).stat().st_size > 0
