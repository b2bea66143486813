"""i-PI with electret's forces, through its socket and in its process, against dynamics of ASE."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("mace")
pytest.importorskip("ipi", reason="i-PI is not installed: pip install 'electret[ipi]'")
from ase import units  # noqa: E402
from ase.io import write  # noqa: E402
from ase.units import Bohr, Hartree  # noqa: E402
from ipi.scripting import InteractiveSimulation, simulation_xml  # noqa: E402
from ipi.utils.softexit import softexit  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

import electret.interfaces.ipi_driver as driver  # noqa: E402
from electret import Calculator, ConvergenceError, ElectretError, InputError  # noqa: E402
from electret.cli.main import application  # noqa: E402
from electret.interfaces.ipi import Beads, serve  # noqa: E402
from electret.models import save  # noqa: E402
from hosts import STEPS, start, tiny_model, trajectory  # noqa: E402
from model_cases import bulk, in_field, molecule  # noqa: E402

STEP = 20.0
"""Atomic units of time, 0.48 fs."""
ATOMIC_TIME = units._aut * units.s
ELECTRON = units._me / units._amu
MOTION = (
    "<motion mode='dynamics'> <fixcom> False </fixcom> <dynamics mode='nve'> "
    f"<timestep units='atomic_unit'> {STEP} </timestep> </dynamics> </motion>"
)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder of its own, where i-PI writes; its handlers of signals and lists of exits are put back."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    softexit.flist.clear()
    softexit.reset()


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """Files of two models: charges of the surroundings, and a self-consistent density."""
    folder = tmp_path_factory.mktemp("models")
    for family in ("local_charges", "qeq"):
        save(tiny_model(family), folder / f"{family}.electret")
    return folder


def simulation(structures, forcefield: str) -> InteractiveSimulation:
    """A simulation of i-PI that starts from the very numbers of the structures, one per bead."""
    output = "<output prefix='out'></output>"
    xml = simulation_xml(structures, f"<ff{forcefield}", MOTION, temperature=0.025, output=output)
    found = InteractiveSimulation(xml)
    beads, cell = found.syslist[0].beads, found.syslist[0].cell
    cell.h = structures[0].cell.array.T / Bohr
    beads.q = np.array([atoms.positions.ravel() / Bohr for atoms in structures])
    beads.m = structures[0].get_masses() / ELECTRON
    velocity = Bohr / ATOMIC_TIME
    beads.p = np.array([atoms.get_momenta().ravel() / (ELECTRON * velocity) for atoms in structures])
    return found


def run(found: InteractiveSimulation, steps: int = STEPS):
    """Positions [n, n_beads, n_atoms, 3], energies and virials around each step, in units of ASE."""
    system = found.syslist[0]
    rows = []
    for step in range(steps + 1):
        if step:
            found.run(1)
        rows.append(
            (
                np.array(system.beads.q).reshape(len(system.beads.q), -1, 3) * Bohr,
                np.array(system.forces.pots) * Hartree,
                np.array(system.forces.virs) * Hartree,
            )
        )
    return tuple(map(np.array, zip(*rows, strict=True)))


def direct(model: Path, structure: str = "start.xyz", batch_size: int = 1, **parameters) -> str:
    """The input of `<ffdirect>` with the driver."""
    given = {"model": model, "template": structure, **parameters}
    text = ", ".join(f"{name}: {value}" for name, value in given.items())
    return (
        f"direct name='electret'> <pes> custom </pes> <pes_path> {driver.__file__} </pes_path> "
        f"<batch_size> {batch_size} </batch_size> <parameters> {{ {text} }} </parameters> </ffdirect>"
    )


def assert_same_run(found, expected) -> None:
    positions, energies, virials = expected
    np.testing.assert_allclose(found[0][:, 0], positions, rtol=0, atol=1e-8)
    np.testing.assert_allclose(found[1][:, 0], energies, rtol=0, atol=1e-8)
    # i-PI keeps the upper triangle.
    np.testing.assert_allclose(found[2][:, 0], np.triu(virials), rtol=0, atol=1e-8)
    assert np.ptp(found[0], axis=0).max() > 0.05


def test_socket_gives_the_dynamics_of_ase_and_extras(models):
    atoms = start(bulk())
    write("start.xyz", atoms)
    address = f"electret_{uuid.uuid4().hex[:8]}"
    served: list[int] = []
    beads = Beads(models / "local_charges.electret", "start.xyz", extras=())
    client = threading.Thread(target=lambda: served.append(serve(beads, unix=address)), daemon=True)
    client.start()
    host = simulation(
        [atoms], f"socket mode='unix' name='electret'> <address> {address} </address> </ffsocket>"
    )
    found = run(host)
    extras = json.loads(host.syslist[0].forces.extras["raw"][0])
    host.stop()
    client.join(10)
    assert served == [STEPS + 1]
    assert_same_run(found, trajectory(atoms, tiny_model("local_charges"), STEP * ATOMIC_TIME))
    np.testing.assert_allclose(extras["charges"], host.syslist[0].forces.extras["charges"][0])
    atoms.positions = found[0][-1, 0]
    atoms.calc = Calculator(tiny_model("local_charges"))
    np.testing.assert_allclose(extras["charges"], atoms.get_charges(), atol=1e-8)
    atoms.get_potential_energy()
    assert abs(extras["energy_electrostatic"] * Hartree - atoms.calc.state["energy_electrostatic"]) < 1e-7


def test_direct_gives_the_dynamics_of_ase(models):
    atoms = start(bulk())
    write("start.xyz", atoms)
    found = run(simulation([atoms], direct(models / "qeq.electret", total_charge=0.1)))
    atoms.info["total_charge"] = 0.1
    assert_same_run(found, trajectory(atoms, tiny_model("qeq"), STEP * ATOMIC_TIME))


def test_eight_beads_in_one_batch(models, monkeypatch):
    """Five steps of path integrals, whose forces of every bead are those of the calculator, from one call of
    the model each."""
    structures = []
    for bead in range(8):
        atoms = start(molecule())
        atoms.set_cell(20 * np.eye(3))
        atoms.rattle(0.02, seed=bead)
        structures.append(atoms)
    write("start.xyz", in_field(structures[0].copy()))
    host = simulation(
        structures,
        direct(models / "qeq.electret", batch_size=8, total_charge=0.2, extras="born_effective_charges"),
    )
    batches = []
    forward = type(tiny_model("qeq")).forward
    monkeypatch.setattr(
        type(tiny_model("qeq")),
        "forward",
        lambda self, graph, *args, **options: (
            batches.append(graph.n_systems) or forward(self, graph, *args, **options)
        ),
    )
    calculator = Calculator(tiny_model("qeq"))
    with pytest.warns(UserWarning, match="virial of zero: an open system has none"):
        host.run(5)
    system = host.syslist[0]
    assert batches
    assert set(batches) == {8}
    assert len(batches) <= 7
    forces, becs = np.array(system.forces.f), system.forces.extras["BEC"]
    for bead in range(8):
        atoms = in_field(structures[0].copy(), charge=0.2)
        atoms.positions = np.array(system.beads.q[bead]).reshape(-1, 3) * Bohr
        expected = calculator.get_property("forces", atoms)
        np.testing.assert_allclose(forces[bead].reshape(-1, 3) * Hartree / Bohr, expected, atol=1e-8)
        assert abs(system.forces.pots[bead] * Hartree - calculator.results["energy"]) < 1e-8
        born = calculator.response(atoms, ["born_effective_charges"])["born_effective_charges"]
        np.testing.assert_allclose(np.reshape(becs[bead], (-1, 3, 3)), born.transpose(0, 2, 1), atol=1e-7)
        dipole = np.array(system.forces.extras["dipole"][bead]) * Bohr
        np.testing.assert_allclose(dipole, calculator.results["dipole"], atol=1e-8)


def test_an_error_of_the_client_ends_both_sides(models):
    """Other atoms in the file than in i-PI: exit status 1 with the reason, and i-PI ends."""
    atoms = start(bulk())
    write("start.xyz", molecule())
    address = f"electret_{uuid.uuid4().hex[:8]}"
    forcefield = (
        f"<ffsocket mode='unix' name='electret'> <address> {address} </address> "
        "<exit_on_disconnect> True </exit_on_disconnect> </ffsocket>"
    )
    Path("input.xml").write_text(simulation_xml(atoms, forcefield, MOTION, output="<output></output>"))
    command = "from ipi.engine.simulation import Simulation as S; S.load_from_xml(open('input.xml')).run()"
    with subprocess.Popen([sys.executable, "-c", command], stdout=subprocess.PIPE, text=True) as host:
        model = str(models / "local_charges.electret")
        found = CliRunner().invoke(
            application, ["serve", model, "--structure", "start.xyz", "--unix", address]
        )
        try:
            output, _ = host.communicate(timeout=60)
        finally:
            host.kill()
    assert found.exit_code == 1
    assert "i-PI sends 5 atoms, but the structure has 4" in found.stderr
    assert "Client shutdown." in output


@pytest.mark.parametrize("threaded", [False, True])
def test_an_error_of_the_driver_ends_the_run(models, threaded, capsys):
    write("start.xyz", molecule())
    text = direct(models / "local_charges.electret").replace(
        "direct name", f"direct threaded='{threaded}' name"
    )
    host = simulation([start(bulk())], text)
    reason = "i-PI sends 5 atoms, but the structure has 4"
    if not threaded:
        with pytest.raises(InputError, match=reason):
            host.run(1)
        return
    with contextlib.suppress(SystemExit):  # raised by i-PI in this thread or in another
        host.run(1)
    assert softexit.triggered
    assert f"electret: {reason}" in capsys.readouterr().out


def test_a_bead_that_fails_is_named():
    beads = Beads(tiny_model("qeq"), bulk(), scf_max_iterations=1, scf_solver="mixing")
    cells = [bulk().cell.array] * 2
    with pytest.raises(ElectretError, match="bead 0: the SCF did not converge"):
        beads.all([bulk().positions] * 2, cells)
    with pytest.raises(ConvergenceError):
        beads.one(bulk().positions, cells[0])


def test_input_that_cannot_be_used(models):
    write("field.xyz", in_field(molecule()))
    with pytest.raises(InputError, match=r"external_field = .* does not depend on it"):
        serve(Beads(tiny_model("mace"), "field.xyz"), unix="nobody")
    misnamed = molecule()
    misnamed.info["efield"] = [0.0, 0.0, 0.1]
    with pytest.raises(InputError, match="name it external_field"):
        serve(Beads(tiny_model("qeq"), misnamed), unix="nobody")
    beads = Beads(tiny_model("qeq"), "field.xyz", open_stress="virial")
    with pytest.raises(InputError, match=r"no i-PI at /tmp/ipi_nobody_there .* start i-PI first"):
        serve(beads, unix="nobody_there", wait=0)
    with pytest.raises(InputError, match="extras has 'volume'; use some of born_effective_charges"):
        Beads(tiny_model("qeq"), "field.xyz", extras=["volume"])
    with pytest.raises(InputError, match="extras has 'polarizability': the dipole is not defined along"):
        Beads(tiny_model("qeq"), bulk(), extras=["polarizability"])
    with pytest.raises(InputError, match="not in the form that i-PI has"):
        Beads(tiny_model("qeq"), in_field(bulk()))
    with pytest.raises(InputError, match=r"'absent.xyz' is no structure that ASE reads"):
        Beads(tiny_model("qeq"), "absent.xyz")
    model = str(models / "qeq.electret")
    with pytest.raises(InputError, match="parameter 'charge' of <ffdirect>"):
        driver.ElectretDriver(model, "field.xyz", charge=1.0)
    with pytest.raises(InputError, match="external_field = '0 0 up' of <ffdirect>"):
        driver.ElectretDriver(model, "field.xyz", external_field="0 0 up")
    field = driver.ElectretDriver(model, "field.xyz", external_field="0 0 0.1").beads.atoms.info[
        "external_field"
    ]
    assert field == [0.0, 0.0, 0.1]
