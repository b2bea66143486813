"""Probes of a comparison: what they measure on small models, their files, and their errors."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("mace")
from ase import Atoms
from ase.io import write
from rich.console import Console

from electret import InputError
from electret.analysis.probes import parse_probe, plot_probes, probe_sections, run_probes, write_probe_tables
from electret.analysis.probes.base import calculator
from electret.analysis.probes.charge_states import ChargeStates
from electret.analysis.probes.constant_potential import ConstantPotential
from electret.analysis.probes.dynamics import Dynamics
from electret.analysis.probes.molecule_polarizability import MoleculePolarizability
from electret.models import save
from electret.units import COULOMB_CONSTANT
from model_cases import molecule, slab, small_model


def silent(_: str) -> None:
    """Progress that is not shown."""


def store(path: Path, frames: list[Atoms]) -> Path:
    write(path, frames, format="extxyz")
    return path


def waters(count: int, **info: object) -> Atoms:
    """A row of waters along z."""
    one = Atoms("OHH", [[0, 0, 0], [0.76, 0, 0.59], [-0.76, 0, 0.59]])
    row = Atoms()
    for index in range(count):
        copy = one.copy()
        copy.positions[:, 2] += 3.0 * index
        copy.arrays["layer"] = np.full(3, index)
        row += copy
    row.info.update(info)
    return row


def in_fields(model) -> list[Atoms]:
    """Three waters in fields along z with the model's own dipoles and charges as labels."""
    frames = []
    for field in (0.1, 0.0, -0.1):
        atoms = waters(3, config_type="water", external_field=np.array([0.0, 0.0, field]))
        calc = calculator(model)
        atoms.info["REF_dipole"] = calc.get_property("dipole", atoms)
        atoms.arrays["REF_charges"] = calc.get_property("charges", atoms)
        frames.append(atoms)
    return frames


def test_field_scan_of_the_model_that_made_the_labels(tmp_path: Path) -> None:
    probe = parse_probe(
        "field_scan", {"data": store(tmp_path / "scan.xyz", in_fields(small_model("qeq")))}, tmp_path
    )
    frames = probe.structures()
    right = probe.measure(small_model("qeq"), frames, silent)["water"]
    labels = probe.reference(frames)["water"]
    assert labels["field"] == [-0.1, 0.0, 0.1]
    assert labels["dipole"][2] > 1e-2
    assert right["dipole"] == pytest.approx(labels["dipole"], abs=1e-6)
    assert np.array(right["layers"]) == pytest.approx(np.array(labels["layers"]), abs=1e-6)
    # Charge goes along the field and none is lost.
    assert labels["layers"][2][-1] > 1e-3 > -1e-3 > labels["layers"][2][0]
    assert sum(labels["layers"][2]) == pytest.approx(0.0, abs=1e-7)
    local = probe.measure(small_model("local_charges"), frames, silent)["water"]
    assert np.abs(local["dipole"]).max() < 1e-9
    (table,) = probe.tables({"qeq": {"water": right}, "local": {"water": local}}, frames)
    assert [row[4] for row in table.rows] == ["1.00", "0.00"]
    assert probe.refusal(small_model("mace"))


def test_field_scan_refuses_fields_of_several_directions(tmp_path: Path) -> None:
    frames = in_fields(small_model("local_charges"))
    frames[0].info["external_field"] = np.array([0.1, 0.0, 0.0])
    probe = parse_probe("field_scan", {"data": store(tmp_path / "scan.xyz", frames)}, tmp_path)
    with pytest.raises(InputError, match="one direction"):
        probe.measure(small_model("local_charges"), probe.structures(), silent)


def test_polarisability_grows_where_charge_flows(tmp_path: Path) -> None:
    frames = [waters(count, REF_polarizability=0.1 * count * np.eye(3)) for count in (4, 1, 2)]
    probe = parse_probe(
        "polarisability",
        {"kind": "molecule_polarizability", "data": store(tmp_path / "rows.xyz", frames)},
        tmp_path,
    )
    assert isinstance(probe, MoleculePolarizability)
    read = probe.structures()
    assert probe.reference(read) == {
        "size": [1, 2, 4],
        "along": pytest.approx([0.1] * 3),
        "mean": pytest.approx([0.1] * 3),
    }
    found = {
        name: probe.measure(small_model(name), read, silent)
        for name in ("local_charges", "split_charges", "qeq")
    }
    assert found["local_charges"]["along"] == found["split_charges"]["along"] == [0.0, 0.0, 0.0]
    assert found["qeq"]["along"][2] > 2 * found["qeq"]["along"][0] > 0
    (table,) = probe.tables(found, read)
    growth = {row[0]: row[-1] for row in table.rows}
    assert growth["labels"] == "1"
    assert growth["local_charges"] == "—"
    assert 1.5 < float(growth["qeq"]) < 3.0


def metal(layers: int = 5) -> Atoms:
    """Sodium in layers, open along z."""
    atoms = Atoms(
        "Na" * layers, [[0, 0, 3.0 * k + 10] for k in range(layers)], cell=[3, 3, 40], pbc=(True, True, False)
    )
    atoms.arrays["layer"] = np.arange(layers)
    return atoms


def test_screening_by_charges_that_answer(tmp_path: Path) -> None:
    path = store(tmp_path / "slab.xyz", [metal()])
    probe = parse_probe("screening", {"data": path, "points": 41, "grid": 2}, tmp_path)
    frames = probe.structures()
    local = probe.measure(small_model("local_charges"), frames, silent)
    assert local["inside"] == pytest.approx(1.0, abs=1e-9)
    assert local["surface_charge"] == 0.0
    qeq = probe.measure(small_model("qeq"), frames, silent)
    assert abs(qeq["inside"]) < 0.1
    assert qeq["surface_charge"] == pytest.approx(1.0, abs=0.1)
    # Far outside, on both sides, the potential is off that of the field by the dipole layer.
    area, z, potential = 9.0, np.array(qeq["z"]), np.array(qeq["potential"])
    step = (potential + 0.1 * z)[-1] - (potential + 0.1 * z)[0]
    full = 0.1 * area / (4 * np.pi * COULOMB_CONSTANT)
    expected = 4 * np.pi * COULOMB_CONSTANT * qeq["screening_thickness"] * full / area
    assert expected > 0.5
    assert step == pytest.approx(expected, rel=1e-3)


def test_screening_refuses_other_boundaries(tmp_path: Path) -> None:
    path = store(tmp_path / "open.xyz", [molecule()])
    probe = parse_probe("screening", {"data": path}, tmp_path)
    with pytest.raises(InputError, match="periodic along its first two"):
        probe.structures()


def test_capacitance_from_charges_is_that_of_the_response(tmp_path: Path) -> None:
    frames = []
    calc = calculator(small_model("qeq"))
    for charge in (0.4, -0.4, 0.0):
        atoms = molecule()
        atoms.info["total_charge"] = charge
        calc.get_property("energy", atoms)
        atoms.info["fermi_level"] = calc.state["fermi_level"]
        frames.append(atoms)
    probe = parse_probe("capacitance", {"data": store(tmp_path / "charges.xyz", frames)}, tmp_path)
    read = probe.structures()
    found = probe.measure(small_model("qeq"), read, silent)
    assert found["charge"] == pytest.approx([-0.4, 0.0, 0.4], abs=1e-5)
    assert found["exact"] > 1e-2
    (table,) = probe.tables({"qeq": found}, read)
    assert table.rows[0][1] == table.rows[1][1] == table.rows[1][2]
    with pytest.raises(InputError, match="one charge only"):
        parse_probe("capacitance", {"data": store(tmp_path / "one.xyz", frames[:1])}, tmp_path).structures()


def test_stability_counts_iterations(tmp_path: Path) -> None:
    path = store(tmp_path / "frames.xyz", [molecule(), slab(), molecule()])
    probe = parse_probe("stability", {"data": path, "frames": 2}, tmp_path)
    frames = probe.structures()
    assert [atoms.pbc.any() for atoms in frames] == [False, False]
    found = probe.measure(small_model("fixed_point"), frames, silent)
    assert len(found["radius"]) == 2
    assert min(found["radius"]) > 1e-4
    assert found["solver"] == [1, 1]
    assert all(count > 1 for count in found["mixing"])
    assert probe.measure(small_model("qeq"), frames, silent)["radius"] == []


def test_drift_is_the_slope_of_the_energy() -> None:
    probe = Dynamics(data=Path("none"), timestep=2.0)
    rng = np.random.default_rng(0)
    time = np.arange(2001) * 0.002
    total = -5.0 + 4 * 1e-3 * (0.25 * time + 0.01 * rng.normal(size=len(time)))
    found = probe._summary(total.tolist(), [0.1] * 2001, [1] * 2001, 1.0, 4, None)
    assert found["drift"] == pytest.approx(0.25, abs=1e-3)
    assert found["drift_error"] < 5e-3
    assert found["fluctuation"] == pytest.approx(0.01, rel=0.1)
    assert found["steps"] == 2000


def test_dynamics_conserves_the_energy(tmp_path: Path) -> None:
    path = store(tmp_path / "frames.xyz", [molecule()])
    options = {
        "data": path,
        "picoseconds": 0.008,
        "thermalisation": 0.002,
        "timestep": 0.1,
        "temperature": 300,
    }
    probe = parse_probe("dynamics", options, tmp_path)
    found = probe.measure(small_model("qeq"), probe.structures(), silent)
    assert found["failure"] is None
    assert found["steps"] == 80
    assert np.ptp(found["energy"]) < 1.0
    assert found["temperature"] > 1.0
    assert probe.refusal(small_model("local_charges"))
    with pytest.raises(InputError, match="frame 3 of 1"):
        parse_probe("dynamics", {**options, "frame": 3}, tmp_path).structures()


def test_charge_moves_at_constant_fermi_level(tmp_path: Path) -> None:
    path = store(tmp_path / "frames.xyz", [molecule()])
    options = {"data": path, "picoseconds": 0.03, "timestep": 0.5, "temperature": 100}
    probe = parse_probe("constant_potential", options, tmp_path)
    assert isinstance(probe, ConstantPotential)
    found = probe.measure(small_model("qeq"), probe.structures(), silent)
    assert found["failure"] is None
    assert found["steps"] == 61
    assert np.ptp(found["charge"]) > 1e-4
    assert found["expected_deviation"] > 0
    (table,) = probe.tables({"qeq": found}, probe.structures())
    assert table.rows[0][-1] == "0.0 ps"


def charged(model=None) -> list[Atoms]:
    """Two structures at charges 0 and +2; the labels put three quarters of the charge on the first atom."""
    frames = []
    for structure in range(2):
        for charge in (2.0, 0.0):
            atoms = molecule()
            atoms.positions[3, 1] -= 6.0 + structure
            atoms.info |= {"structure": structure, "total_charge": charge, "vacancy": atoms.positions[0]}
            atoms.info |= {"REF_energy": 7.0 * charge + structure, "fermi_level": -7.0 - charge}
            atoms.arrays["REF_charges"] = charge * np.array([0.75, 0.0, 0.0, 0.25])
            frames.append(atoms)
    return frames


def test_place_and_energy_of_an_added_charge(tmp_path: Path) -> None:
    probe = parse_probe("charge_states", {"data": store(tmp_path / "charges.xyz", charged())}, tmp_path)
    assert isinstance(probe, ChargeStates)
    frames = probe.structures()
    labels = probe.changes(probe.reference(frames), frames)
    assert labels[2.0]["energy"] == pytest.approx([14.0, 14.0])
    assert labels[2.0]["near"] == pytest.approx([0.75, 0.75])
    assert labels[2.0]["level"] == pytest.approx([-9.0, -9.0])
    assert labels[0.0]["energy"] == pytest.approx([0.0, 0.0])
    results = {name: probe.measure(small_model(name), frames, silent) for name in ("local_charges", "qeq")}
    # A local density spreads what is added evenly: three of four atoms are near.
    assert probe.changes(results["local_charges"], frames)[2.0]["near"] == pytest.approx([0.75, 0.75])
    assert results["local_charges"]["level"] == [None] * 4
    assert probe.changes(results["qeq"], frames)[2.0]["near"] != pytest.approx([0.75, 0.75], abs=1e-2)
    (table,) = probe.tables(results, frames)
    assert table.rows[3][:4] == ["labels", "+2", "14.00", "—"]
    with pytest.raises(InputError, match="one charge only"):
        parse_probe(
            "charge_states", {"data": store(tmp_path / "one.xyz", charged()[:1])}, tmp_path
        ).structures()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "fieldscan", "data": "x.xyz"}, "unknown kind 'fieldscan'"),
        ({"kind": "field_scan"}, "data: Field required"),
        ({"kind": "field_scan", "data": "x.xyz", "layer": 1}, "unknown option 'layer'"),
        ({"kind": "dynamics", "data": "x.xyz", "timestep": 0.0}, "timestep = 0.0"),
        ("x.xyz", "expected a mapping"),
    ],
)
def test_options_that_cannot_be_used(options: object, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"probes\.mine") as caught:
        parse_probe("mine", options, tmp_path)
    assert words in str(caught.value)


def test_structures_that_cannot_be_used(tmp_path: Path) -> None:
    probe = parse_probe("field_scan", {"data": "frames.xyz"}, tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        probe.structures()
    store(tmp_path / "frames.xyz", [molecule()])
    with pytest.raises(InputError, match=r"frame 0: no config_type, external_field, layer"):
        probe.structures()


def test_measurements_are_kept_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {}
    for name in ("local_charges", "qeq", "mace"):
        files[name] = tmp_path / f"{name}.electret"
        save(small_model(name), files[name], {})
    rows = store(tmp_path / "rows.xyz", [waters(n, REF_polarizability=0.1 * n * np.eye(3)) for n in (1, 2)])
    probes = {"rows": parse_probe("rows", {"kind": "molecule_polarizability", "data": rows}, tmp_path)}
    calls = []
    measure = MoleculePolarizability.measure

    def counted(self, model, frames, advance):
        calls.append(model.family)
        return measure(self, model, frames, advance)

    monkeypatch.setattr(MoleculePolarizability, "measure", counted)
    console = Console(file=io.StringIO())
    (first,) = run_probes(probes, files, tmp_path / "kept", console)
    assert calls == ["local_charges", "qeq"]
    assert "has no density" in first.refused["mace"]
    (again,) = run_probes(probes, files, tmp_path / "kept", console)
    assert len(calls) == 2
    assert again.results == first.results
    # Other options or half a file are measured again.
    (tmp_path / "kept" / "rows" / "qeq.json").write_text("{", encoding="utf-8")
    run_probes(probes, files, tmp_path / "kept", console)
    assert calls[2:] == ["qeq"]
    other = {"rows": probes["rows"].model_copy(update={"axis": "x", "models": ("qeq",)})}
    (third,) = run_probes(other, files, tmp_path / "kept", console)
    assert calls[3:] == ["qeq"]
    assert list(third.results) == ["qeq"]
    pictures = plot_probes([again], list(files), tmp_path / "plots")
    assert pictures["rows"].stat().st_size > 10_000
    text = "\n".join(probe_sections([again], pictures))
    assert "Polarisability per molecule" in text
    assert "](plots/rows.png)" in text
    assert "Left out: `mace`" in text
    (table,) = write_probe_tables([again], tmp_path)
    assert table.read_text(encoding="utf-8").startswith("model,n = 1,n = 2,growth")
