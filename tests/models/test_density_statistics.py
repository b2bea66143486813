"""Scales that self-consistent models take from labelled densities, against sums by hand and invariances."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mace")

import torch
from ase import Atoms

import electret
from electret.data import GraphDataset, wrap_atoms
from electret.graph import Graph
from electret.models import ModelConfig, Statistics
from electret.models.start.density import density_statistics, reference_multipoles, unit_norm

STATISTICS = Statistics(elements=(1, 8), e0s={1: 0.0, 8: 0.0})
SIGMA = {"H": 0.8, "O": 1.3}
WIDTHS = (1.2, 2.5)


def config(**changes: Any) -> ModelConfig:
    electrostatics = {"max_l": 1, "sigma": SIGMA, "widths": WIDTHS, "features_max_l": 2, "accuracy": 1e-10}
    return ModelConfig.parse({"family": "fixed_point", "electrostatics": {**electrostatics, **changes}})


def water(seed: int, charge: float = 0.0, **info: Any) -> Atoms:
    """A distorted molecule of three atoms with charges that add up to `charge`."""
    rng = np.random.default_rng(seed)
    atoms = Atoms("OH2", positions=[[0, 0, 0], [0.8, 0.6, 0], [-0.8, 0.6, 0.1]], info=info)
    atoms.positions += rng.normal(0, 0.1, (3, 3))
    charges = np.array([-0.8, 0.4, 0.4]) + rng.normal(0, 0.1, 3)
    atoms.arrays["REF_charges"] = charges + (charge - charges.sum()) / 3
    return atoms


def crystal(seed: int) -> Atoms:
    atoms = water(seed)
    atoms.set_cell([[4.0, 0, 0], [1.0, 4.2, 0], [0, 0.5, 3.9]])
    atoms.pbc = True
    return atoms


def graphs(structures: list[Atoms]) -> list[Graph]:
    return GraphDataset(wrap_atoms(structures), 2.0, torch.float64).graphs


def found(structures: list[Atoms], **changes: Any) -> Statistics:
    return density_statistics(STATISTICS, config(**changes), graphs(structures))


def norms_by_hand(structures: list[Atoms], multipoles: list[np.ndarray]) -> np.ndarray:
    """System by system, component by component."""
    squares, counts = np.zeros((3, 2)), np.zeros(3)
    for atoms, p in zip(structures, multipoles, strict=True):
        v = electret.features(
            atoms.positions,
            p,
            [SIGMA[symbol] for symbol in atoms.symbols],
            widths=WIDTHS,
            features_max_l=2,
            normalization="receiver",
            self_interaction=False,
            cell=atoms.cell.array if atoms.pbc.any() else None,
            pbc=atoms.pbc,
            external_field=atoms.info.get("external_field"),
            accuracy=1e-10,
        )
        for n in range(2):
            squares[0, n] += ((v[:, n, 0] - v[:, n, 0].mean()) ** 2).sum()
            squares[1, n] += (v[:, n, 1:4] ** 2).sum()
            squares[2, n] += (v[:, n, 4:9] ** 2).sum()
        counts += [len(atoms) - 1, 3 * len(atoms), 5 * len(atoms)]
    return np.sqrt(squares / counts[:, None])


def test_norms_are_the_rms_of_the_features_by_hand() -> None:
    """Molecules in fields and a crystal, in one batch and in several."""
    structures = [water(0, external_field=np.array([0.3, -0.2, 0.5])), crystal(1), water(2, charge=1.0)]
    charges = [atoms.arrays["REF_charges"][:, None] for atoms in structures]
    expected = norms_by_hand(structures, charges)
    assert expected.min() > 1e-2
    np.testing.assert_allclose(found(structures).feature_norms, expected, rtol=1e-9)


def test_batches_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    structures = [water(seed) for seed in range(5)]
    together = found(structures).feature_norms
    monkeypatch.setattr("electret.models.start.density._ATOMS_PER_BATCH", 4)
    np.testing.assert_allclose(found(structures).feature_norms, together, rtol=1e-12)


def test_labelled_multipoles_come_before_charges() -> None:
    structures = [water(0), water(1)]
    dipoles = [np.random.default_rng(seed).normal(0, 0.3, (3, 3)) for seed in (5, 6)]
    multipoles = []
    for atoms, dipole in zip(structures, dipoles, strict=True):
        multipoles.append(np.concatenate([atoms.arrays["REF_charges"][:, None], dipole], axis=1))
        atoms.arrays["REF_multipoles"] = multipoles[-1]
    expected = norms_by_hand(structures, multipoles)
    plain = norms_by_hand(structures, [p[:, :1] for p in multipoles])
    assert np.abs(expected - plain).max() > 1e-2
    np.testing.assert_allclose(found(structures).feature_norms, expected, rtol=1e-9)
    np.testing.assert_allclose(found(structures, max_l=0).feature_norms, plain, rtol=1e-9)
    padded = reference_multipoles(graphs(structures)[0], 9)
    np.testing.assert_array_equal(padded[:, :4], multipoles[0])
    assert not padded[:, 4:].any()


def test_the_origin_of_a_field_does_not_matter() -> None:
    """A charged cluster in a field, moved far away: the potential changes by a constant, which mu absorbs."""
    field = np.array([0.3, -0.2, 0.5])
    here, there = (water(0, charge=1.0, external_field=field) for _ in range(2))
    there.positions += 100.0
    np.testing.assert_allclose(found([there]).feature_norms, found([here]).feature_norms, rtol=1e-6)
    without = found([water(0, charge=1.0)]).feature_norms
    assert abs(without[1][0] - found([here]).feature_norms[1][0]) > 1e-2  # the field itself counts


def test_ignored_fields_are_ignored() -> None:
    structures = [water(0, external_field=np.array([0.3, -0.2, 0.5]))]
    options = config().model_dump(include={"electrostatics"})
    # Families refuse to ignore what they honour, so this is for the functions of the module alone.
    ignoring = ModelConfig.parse({"family": "qeq", "ignored_conditions": ["external_field"], **options})
    ignored = density_statistics(STATISTICS, ignoring, graphs(structures))
    np.testing.assert_allclose(ignored.feature_norms, found([water(0)]).feature_norms, rtol=1e-12)


def test_frames_without_charges_are_left_out() -> None:
    bare = water(3)
    del bare.arrays["REF_charges"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        some = found([water(0), bare])
    assert some == found([water(0)])


def test_data_without_charges_says_so() -> None:
    bare = water(3, fermi_level=-4.0)
    del bare.arrays["REF_charges"]
    with pytest.warns(UserWarning, match="no training frame has charges or multipoles"):
        statistics = found([bare])
    assert statistics.feature_norms is None
    assert statistics.charge_spread is None
    assert statistics.fermi_level == -4.0


def test_norms_that_vanish_are_replaced_and_named() -> None:
    """A lattice whose sites have no field by symmetry: no l = 1 features, but a potential."""
    salt = Atoms("OH", positions=[[0, 0, 0], [2, 2, 2]], cell=[4, 4, 4], pbc=True)
    salt.arrays["REF_charges"] = np.array([-1.0, 1.0])
    with pytest.warns(UserWarning, match=r"l=1 width=1.2 Å.*l=1 width=2.5 Å") as caught:
        norms = found([salt], features_max_l=1).feature_norms
    assert len(caught) == 1
    assert norms[1] == tuple(unit_norm(1, width) for width in WIDTHS)
    assert 0.1 < norms[0][0] != unit_norm(0, WIDTHS[0])
    alone = Atoms("H")
    alone.arrays["REF_charges"] = np.array([0.5])
    with pytest.warns(UserWarning, match="l=0 width=1.2"):
        assert found([alone], features_max_l=0).feature_norms == ((math.sqrt(4 * math.pi),) * 2,)


def test_fermi_level_and_spread_of_charges() -> None:
    first, second, third = water(0, fermi_level=-4.0), water(1, fermi_level=-5.0), water(2)
    statistics = found([first, second, third])
    assert statistics.fermi_level == pytest.approx(-4.5)
    oxygen = [atoms.arrays["REF_charges"][0] for atoms in (first, second, third)]
    hydrogen = np.concatenate([atoms.arrays["REF_charges"][1:] for atoms in (first, second, third)])
    assert statistics.charge_spread == pytest.approx({8: np.std(oxygen), 1: np.std(hydrogen)})
    assert found([third]).fermi_level == 0.0
