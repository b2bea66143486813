"""Wrong units and signs are detected from the numbers of a data set."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from ase import Atoms
from rich.console import Console

from electret.data import GraphDataset, magnitudes, wrap_atoms

E0S = {1: -13.0, 8: -430.0}
HARTREE, BOHR = 27.211386, 0.529177


def vibrating_water(n: int = 30, periodic: bool = False) -> list[Atoms]:
    """Molecules with harmonic bonds of 0.96 Å and 40 eV/Å², bound by 3 eV per atom; wrapped into a cell."""
    rng = np.random.default_rng(4)
    frames = []
    for _ in range(n):
        positions = np.array([[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]) + rng.normal(0, 0.03, (3, 3))
        bonds = positions[1:] - positions[0]
        lengths = np.linalg.norm(bonds, axis=1)
        pulls = -40.0 * (lengths - 0.96)[:, None] * bonds / lengths[:, None]
        atoms = Atoms("OHH", positions, cell=[6.0, 7.0, 8.0] if periodic else None, pbc=periodic)
        atoms.info["REF_energy"] = 20.0 * float(np.sum((lengths - 0.96) ** 2)) + E0S[8] + 2 * E0S[1] - 9.0
        atoms.arrays["REF_forces"] = np.vstack([-pulls.sum(axis=0), pulls])
        if periodic:
            atoms.wrap()
        frames.append(atoms)
    return frames


def warnings_of(frames: list[Atoms], e0s: dict[int, float] = E0S) -> list[str]:
    sets = {"train": GraphDataset(wrap_atoms(frames), 4.0, torch.float64)}
    return magnitudes(sets, e0s)[1]


@pytest.mark.parametrize("periodic", [False, True])
def test_right_units_are_silent(periodic: bool) -> None:
    assert warnings_of(vibrating_water(periodic=periodic)) == []


@pytest.mark.parametrize(
    ("positions", "energy", "forces", "expected"),
    [
        (
            1,
            1,
            -1,
            [
                "repel each other less the closer",
                "times the work of the forces (the forces have the wrong sign",
            ],
        ),
        (1, 1 / HARTREE, 1, ["times the work of the forces (energies in Hartree);"]),
        (
            1,
            1 / HARTREE,
            BOHR / HARTREE,
            ["times the work of the forces (forces in eV/bohr, or in Hartree/bohr"],
        ),
        (1 / BOHR, 1, 1, ["are the positions in bohr?", "times the work of the forces (positions in bohr);"]),
        (0.1, 1, 1, ["closer than in any system"]),
        (1, 1, 1000, ["the RMS force is"]),
    ],
)
def test_other_units_and_signs_are_named(
    positions: float, energy: float, forces: float, expected: list[str]
) -> None:
    frames = vibrating_water()
    for atoms in frames:
        atoms.positions *= positions
        atoms.info["REF_energy"] *= energy
        atoms.arrays["REF_forces"] *= forces
    found = " ".join(warnings_of(frames, {z: energy * e0 for z, e0 in E0S.items()}))
    for text in expected:
        assert text in found


def test_energies_of_another_zero_are_named() -> None:
    assert "the energy without E0s is -15" in " ".join(warnings_of(vibrating_water(), {1: 0.0, 8: 0.0}))


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    frames = vibrating_water()
    bare = Atoms("O", info={"config_type": "alone"})
    sets = {
        name: GraphDataset(wrap_atoms(entry), 4.0, torch.float64)
        for name, entry in {"train": frames, "lone": [bare]}.items()
    }
    Console(width=120).print(magnitudes(sets, E0S)[0])
    shown = " ".join(capsys.readouterr().out.split())
    assert "train" in shown
    assert "-2.9" in shown
    assert shown.count("—") == 4
