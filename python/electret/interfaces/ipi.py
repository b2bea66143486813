"""i-PI: a client of its socket, and evaluation of all beads in one batch.

Results are in the units of the calculator; the two ends of i-PI are in atomic units.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from ase import Atoms
from ase.calculators.socketio import IPIProtocol, SocketClient, SocketServer, actualunixsocketname
from ase.io import read
from ase.stress import voigt_6_to_full_3x3_stress
from ase.units import Bohr, Hartree

from electret.calculator import Calculator
from electret.calculator.batches import Batches
from electret.calculator.conditions import select
from electret.calculator.properties import DERIVED, NORMALS, RESPONSES, STATE, slab_normal
from electret.errors import ElectretError, InputError

__all__ = ["ATOMIC_UNITS", "Beads", "Evaluation", "serve"]

ATOMIC_UNITS: Mapping[str, float] = {
    "dipole": Bohr,
    "dipole_normal": Bohr,
    "polarization": Bohr,
    "charges": 1.0,
    "total_charge": 1.0,
    "magmoms": 1.0,
    "fermi_level": Hartree,
    "internal_energy": Hartree,
    "energy_short_range": Hartree,
    "energy_electrostatic": Hartree,
    "energy_field": Hartree,
    "energy_density": Hartree,
    "born_effective_charges": 1.0,
    "born_effective_charges_normal": 1.0,
    "polarizability": Bohr**2 / Hartree,
    "polarizability_normal": Bohr**2 / Hartree,
    "fukui": 1.0,
    "capacitance": 1.0 / Hartree,
    "dielectric_tensor": 1.0,
}
"""Results that the extras carry, and their atomic units in the units of the calculator."""


class Evaluation(NamedTuple):
    """Results of one structure: energy (eV), forces [n_atoms, 3] (eV/Å), virial -V·stress [3, 3] (eV), and
    extras as JSON in atomic units."""

    energy: float
    forces: np.ndarray
    virial: np.ndarray
    extras: str


class Beads:
    """Structures that differ in positions and cell alone, evaluated one by one or in one batch.

    Args:
        model: as for `Calculator`.
        structure: file of any format of ASE, or atoms: elements, periodic axes, conditions in `info`. i-PI
            sends none of them.
        conditions: in place of those of the structure: `total_charge`, `external_field`, `fermi_level`,
            `spin_multiplicity`; None leaves the structure's.
        extras: names of `Calculator.response` to send beside the dipole, the charges and the parts of the
            energy, as `born_effective_charges`.
        options: of `Calculator`.

    Raises:
        InputError: a file, a condition or a name that cannot be used.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | torch.nn.Module,
        structure: str | os.PathLike[str] | Atoms,
        conditions: Mapping[str, Any] | None = None,
        extras: Sequence[str] = (),
        **options: Any,
    ) -> None:
        self.atoms = structure.copy() if isinstance(structure, Atoms) else _read(structure)
        given = {name: value for name, value in (conditions or {}).items() if value is not None}
        if "total_charge" in given:
            self.atoms.info.pop("charge", None)
        self.atoms.info = select(self.atoms.info, ()) | given
        if "external_field" in self.atoms.info and np.triu(self.atoms.cell.array, 1).any():
            raise InputError(
                "the cell of the structure is not in the form that i-PI has (a along x, b in the xy plane), "
                "so that external_field would be that of other axes; rotate the structure with "
                "atoms.set_cell(atoms.cell.standard_form()[0], scale_atoms=True), and the field with it"
            )
        self.extras = tuple(extras)
        self.calculator = Calculator(model, **options)
        always = [name for name in ATOMIC_UNITS if name not in RESPONSES]
        defined = {*self.calculator.implemented_properties, *STATE}
        names = [name for name in always if name in defined]
        for name in extras:
            names += [name, NORMALS.get(name, name)]
            self._check(name)
        self._batches = Batches(self.calculator, ["energy", "forces", "stress", *names])
        self._executor = ThreadPoolExecutor(max(1, torch.get_num_threads()))
        self._said = False

    def one(self, positions: np.ndarray, cell: np.ndarray) -> Evaluation:
        """Results of one structure; neighbours and density follow from the last.

        Args:
            positions: [n_atoms, 3], Å.
            cell: [3, 3] vectors as rows, Å.

        Raises:
            ElectretError: a structure that cannot be evaluated, as for an SCF that does not converge.
        """
        atoms = self._moved(positions, cell)
        calculator = self.calculator
        calculator.get_property("energy", atoms)
        found = {**calculator.results, **calculator.state}
        if self.extras:
            found |= calculator.response(atoms, self.extras)
        return self._evaluation(found, atoms)

    def all(self, positions: Sequence[np.ndarray], cells: Sequence[np.ndarray]) -> list[Evaluation]:
        """Results of many structures in one batch; densities follow from the last batch.

        Raises:
            ElectretError: names the bead.
        """
        systems = [self._moved(*one) for one in zip(positions, cells, strict=True)]
        frames = list(
            self._executor.map(self._batches.prepared, map(self._batches.frame, range(len(systems)), systems))
        )
        found = {frame.index: results for frame, results in self._batches.evaluated(frames)}
        for frame in frames:
            if frame.failure:
                raise ElectretError(f"bead {frame.index}: {frame.failure}")
        return [self._evaluation(found[number], atoms) for number, atoms in enumerate(systems)]

    def _check(self, name: str) -> None:
        """Refuse an extra that the boundary does not define, or that has no atomic unit here."""
        if name not in ATOMIC_UNITS or name not in RESPONSES:
            known = ", ".join(name for name in ATOMIC_UNITS if name in RESPONSES)
            raise InputError(f"extras has {name!r}; use some of {known}")
        has_normal = name in NORMALS and slab_normal(self.atoms) is not None
        reason = self.calculator._refusal(name, self.atoms) if name in DERIVED and not has_normal else None
        if reason is not None:
            raise InputError(f"extras has {name!r}: {reason}")

    def _moved(self, positions: np.ndarray, cell: np.ndarray) -> Atoms:
        _check_number(len(positions), len(self.atoms))
        atoms = self.atoms.copy()
        atoms.positions[:] = positions
        atoms.cell[:] = cell
        return atoms

    def _evaluation(self, found: Mapping[str, Any], atoms: Atoms) -> Evaluation:
        virial = np.zeros((3, 3))
        if "stress" in found:
            virial = -atoms.get_volume() * voigt_6_to_full_3x3_stress(found["stress"])
        elif not self._said:
            self._said = True
            reason = self.calculator._refusal("stress", atoms)
            warnings.warn(f"i-PI is given a virial of zero: {reason} (said once)", stacklevel=3)
        extras = {
            name: (np.asarray(found[name]) / unit).tolist()
            for name, unit in ATOMIC_UNITS.items()
            if name in found
        }
        if "born_effective_charges" in extras:
            # rows of i-PI are coordinates of atoms, columns components of the dipole
            born = np.asarray(extras.pop("born_effective_charges"))
            extras["BEC"] = born.transpose(0, 2, 1).reshape(-1, 3).tolist()
        return Evaluation(found["energy"], found["forces"], virial, json.dumps(extras))


def serve(
    beads: Beads,
    unix: str | None = None,
    host: str = "localhost",
    port: int | None = None,
    wait: float = 30.0,
) -> int:
    """Evaluate what i-PI sends through its socket, until it ends.

    The structure is evaluated once before, so that a model, an element or a condition that cannot be used is
    an error before the run begins. An error during the run closes the connection; i-PI then ends with
    `<exit_on_disconnect> True </exit_on_disconnect>`, and otherwise waits for another client.

    Args:
        beads: the model and the structure.
        unix: name of i-PI's UNIX socket (`address` in its input), or None for the network.
        host, port: of i-PI in the network; None is its own port, 31415.
        wait: seconds to try to connect, as i-PI may start later.

    Returns:
        Number of structures evaluated.

    Raises:
        InputError: i-PI is not there, other atoms than those of the structure, positions that are not finite.
        ElectretError: a structure that cannot be evaluated.
    """
    beads.one(beads.atoms.positions, beads.atoms.cell.array)
    client = _connected(beads, unix, host, port, wait)
    return sum(1 for _ in client.irun(beads.atoms.copy(), use_stress=True))


class _Protocol(IPIProtocol):
    """i-PI's protocol, with extras and with errors that say what was sent."""

    extras = ""

    def __init__(self, connection: socket.socket, n_atoms: int) -> None:
        super().__init__(connection)
        self.n_atoms = n_atoms

    def recvinit(self) -> tuple[Any, Any]:
        """Number of the bead and parameters, which are not read."""
        index, parameters = super().recvinit()
        if b"batch_size" in parameters.tobytes():
            raise InputError(
                "batch_size of i-PI's ffsocket is not supported; use <ffdirect>, or several clients"
            )
        return index, parameters

    def recvposdata(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Cell, its inverse and positions."""
        try:
            cell, inverse, positions = super().recvposdata()
        except AssertionError:
            raise InputError("i-PI sent positions or a cell that are not finite") from None
        _check_number(len(positions), self.n_atoms)
        return cell, inverse, positions

    def sendforce(self, energy: float, forces: np.ndarray, virial: np.ndarray, morebytes: Any = None) -> None:
        """Results, with the extras of the last structure."""
        super().sendforce(energy, forces, virial, np.frombuffer(self.extras.encode(), dtype=np.byte))


class _Client(SocketClient):
    """ASE's client around `Beads`."""

    protocol: _Protocol

    def __init__(self, beads: Beads, **place: Any) -> None:
        super().__init__(**place)
        connection = self.protocol.socket
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # messages are short
        self.protocol = _Protocol(connection, len(beads.atoms))
        self.log = self.protocol.log
        self.state = "NEEDINIT"
        self.beads = beads

    def close(self) -> None:
        """End the connection so that i-PI reads an end, and not a reset, at which it waits for ever."""
        if not self.closed:
            connection = self.protocol.socket
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
                connection.settimeout(5.0)
                while connection.recv(4096):
                    pass
        super().close()

    def calculate(self, atoms: Atoms, use_stress: bool) -> tuple[float, np.ndarray, np.ndarray]:
        """Energy, forces and virial of the structure that was sent."""
        found = self.beads.one(atoms.positions, atoms.cell.array)
        self.protocol.extras = found.extras
        return found.energy, found.forces, found.virial


def _connected(beads: Beads, unix: str | None, host: str, port: int | None, wait: float) -> _Client:
    end = time.monotonic() + wait
    while True:
        try:
            return _Client(beads, host=host, port=port, unixsocket=unix)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            if time.monotonic() > end:
                place = f"{host}:{port or SocketServer.default_port}"
                raise InputError(
                    f"no i-PI at {place if unix is None else actualunixsocketname(unix)} ({error.strerror}) "
                    f"after {wait:g} s; start i-PI first, with the address of its <ffsocket>"
                ) from None
            time.sleep(0.1)


def _check_number(sent: int, held: int) -> None:
    if sent != held:
        raise InputError(
            f"i-PI sends {sent} atoms, but the structure has {held}; give the file that i-PI starts from"
        )


def _read(file: str | os.PathLike[str]) -> Atoms:
    try:
        (atoms,) = read(os.fspath(file), slice(-1, None))
        return atoms
    except Exception as error:
        raise InputError(f"'{file}' is no structure that ASE reads: {error}") from error
