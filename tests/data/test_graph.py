"""Graph batches: edges, labels, conditions, collation and what they refuse."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from electret import InputError
from electret.graph import Graph
from model_cases import bulk, molecule, slab


def labelled() -> Atoms:
    atoms = molecule()
    atoms.info.update(
        REF_energy=-12345.678901,
        REF_dipole=np.array([0.1, 0.2, 0.3]),
        REF_stress=np.arange(1.0, 7.0),
        total_charge=1,
        external_field=[0.0, 0.1, 0.0],
        fermi_level=-4.2,
        config_type="cluster",
        config_weight=2.0,
        config_forces_weight=0.5,
    )
    atoms.arrays["REF_forces"] = np.arange(12.0).reshape(4, 3)
    atoms.arrays["REF_charges"] = np.array([-0.5, 0.2, 0.3, 1.0])
    atoms.arrays["REF_multipoles"] = np.arange(16.0).reshape(4, 4)
    return atoms


def test_repr_is_one_line():
    graph = Graph.collate([Graph.from_atoms(labelled(), 3.0), Graph.from_atoms(bulk(), 3.0)])
    counts = f"Graph({graph.n_atoms} atoms, 2 systems, {graph.n_edges} edges, torch.float64 on cpu, labels "
    assert repr(graph).startswith(counts)
    assert "forces" in repr(graph)
    assert len(repr(graph)) < 200


@pytest.mark.parametrize("system", [molecule, bulk, slab])
def test_edges_are_all_ordered_pairs_within_the_cutoff(system):
    atoms = system()
    cutoff = 5.2  # beyond half the cell, so that atoms neighbour their own images
    graph = Graph.from_atoms(atoms, cutoff)
    sender, receiver = graph.edge_index
    vectors = graph.positions[receiver] - graph.positions[sender] + graph.unit_shifts @ graph.cell[0]
    pairs, shifts = graph.edge_index.T.tolist(), graph.unit_shifts.tolist()
    edges = {(*pair, *shift) for pair, shift in zip(pairs, shifts, strict=True)}
    assert len(edges) == graph.n_edges > 0
    assert float(vectors.norm(dim=1).max()) < cutoff
    expected = set()
    images = [range(-3, 4) if periodic else range(1) for periodic in atoms.pbc]
    for a in images[0]:
        for b in images[1]:
            for c in images[2]:
                shift = np.array([a, b, c]) @ atoms.cell.array
                distances = np.linalg.norm(atoms.positions[None] + shift - atoms.positions[:, None], axis=2)
                for i, j in np.argwhere((distances < cutoff) & (distances > 0)):
                    expected.add((int(i), int(j), float(a), float(b), float(c)))
    assert edges == expected


def test_labels_conditions_and_weights_are_read():
    graph = Graph.from_atoms(labelled(), 3.0, dtype=torch.float32)
    assert graph.labels["energy"].dtype == torch.float64
    assert graph.labels["energy"].tolist() == [-12345.678901]
    assert graph.labels["forces"].shape == (4, 3)
    assert graph.labels["charges"].tolist() == pytest.approx([-0.5, 0.2, 0.3, 1.0])
    assert graph.labels["multipoles"].shape == (4, 4)
    # ASE's Voigt order: xx yy zz yz xz xy.
    assert graph.labels["stress"][0].tolist() == [[1, 6, 5], [6, 2, 4], [5, 4, 3]]
    assert graph.labels["total_charge"].tolist() == [1.0]
    assert graph.labels["fermi_level"].item() == pytest.approx(-4.2)
    assert graph.total_charge.tolist() == [1.0]
    assert graph.external_field[0].tolist() == pytest.approx([0.0, 0.1, 0.0])
    assert graph.weights["frame"].tolist() == [2.0]
    assert graph.weights["forces"].tolist() == [0.5]
    assert graph.config_type == ["cluster"]
    assert graph.dtype == torch.float32


def test_fermi_level_is_a_label_in_data_and_a_request_in_a_calculator():
    assert torch.isnan(Graph.from_atoms(labelled(), 3.0).fermi_level).all()
    graph = Graph.from_atoms(labelled(), 3.0, labels=False)
    assert graph.fermi_level.tolist() == [-4.2]
    assert graph.labels == {}


def test_keys_are_remapped_and_calculator_results_found():
    atoms = molecule()
    atoms.info["dft_energy"] = -1.0
    atoms.calc = SinglePointCalculator(atoms, forces=np.ones((4, 3)))
    graph = Graph.from_atoms(atoms, 3.0, keys={"energy": "dft_energy", "forces": "forces"})
    assert graph.labels["energy"].tolist() == [-1.0]
    assert graph.labels["forces"].tolist() == np.ones((4, 3)).tolist()


def test_charge_is_another_name_of_total_charge():
    atoms = molecule()
    atoms.info["charge"] = -1
    graph = Graph.from_atoms(atoms, 3.0)
    assert graph.total_charge.tolist() == graph.labels["total_charge"].tolist() == [-1.0]


def test_collate_joins_systems_and_marks_missing_labels():
    graphs = [Graph.from_atoms(atoms, 3.5) for atoms in (bulk(), labelled(), slab())]
    batch = Graph.collate(graphs)
    assert batch.n_systems == 3
    assert batch.n_atoms == 14
    assert batch.ptr.tolist() == [0, 5, 9, 14]
    assert batch.n_atoms_per_system.tolist() == [5, 4, 5]
    assert batch.batch.tolist() == [0] * 5 + [1] * 4 + [2] * 5
    assert batch.pbc.tolist() == [[True] * 3, [False] * 3, [True, True, False]]
    assert torch.equal(batch.batch[batch.edge_index[0]], batch.batch[batch.edge_index[1]])
    assert torch.isnan(batch.labels["energy"]).tolist() == [True, False, True]
    assert torch.isnan(batch.labels["forces"]).any(dim=1).tolist() == [True] * 5 + [False] * 4 + [True] * 5
    assert batch.weights["frame"].tolist() == [1.0, 2.0, 1.0]
    assert batch.config_type == ["Default", "cluster", "Default"]
    start = graphs[0].n_edges
    middle = batch.edge_index[:, start : start + graphs[1].n_edges]
    assert torch.equal(middle - 5, graphs[1].edge_index)
    nested = Graph.collate([Graph.collate(graphs[:2]), graphs[2]])
    assert torch.equal(nested.edge_index, batch.edge_index)
    assert torch.equal(nested.ptr, batch.ptr)


def test_to_converts_real_tensors_only():
    graph = Graph.from_atoms(labelled(), 3.0)
    narrow = graph.to(dtype=torch.float32)
    for converted in (narrow.total_charge, narrow.labels["forces"], narrow.weights["frame"]):
        assert converted.dtype == torch.float32
    assert narrow.labels["energy"].dtype == torch.float64
    assert narrow.edge_index.dtype == torch.int64
    assert narrow.pbc.dtype == torch.bool
    assert graph.positions.dtype == torch.float64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda atoms: atoms.positions.__setitem__((1, 2), np.nan), r"positions\[1, 2\] is nan"),
        (lambda atoms: atoms.info.update(charge=0), "two total charges"),
        (
            lambda atoms: atoms.info.update(external_field=[1.0]),
            r"external_field.*\[1.0\]; give three numbers",
        ),
        (lambda atoms: atoms.info.update(external_field="north"), "give numbers"),
        (lambda atoms: atoms.info.update(REF_energy=np.inf), "REF_energy is inf"),
        (lambda atoms: atoms.info.update(REF_stress=np.zeros(5)), "REF_stress.*shape"),
        (lambda atoms: atoms.info.update(config_weight=-1.0), "must not be negative"),
        (lambda atoms: atoms.arrays.update(REF_multipoles=np.zeros((4, 3))), "3 columns"),
        (lambda atoms: atoms.arrays.update(REF_forces=np.zeros((4, 2))), "REF_forces.*shape"),
    ],
)
def test_bad_atoms_are_refused(change, message):
    atoms = labelled()
    change(atoms)
    with pytest.raises(InputError, match=message):
        Graph.from_atoms(atoms, 3.0)


def test_bad_calls_are_refused():
    with pytest.raises(InputError, match="no atoms"):
        Graph.from_atoms(Atoms(), 3.0)
    with pytest.raises(InputError, match="did you mean 'energy'"):
        Graph.from_atoms(molecule(), 3.0, keys={"energie": "E"})
    with pytest.raises(InputError, match="float16"):
        Graph.from_atoms(molecule(), 3.0, dtype=torch.float16)
    with pytest.raises(InputError, match="at least one"):
        Graph.collate([])
    graphs = [Graph.from_atoms(molecule(), 3.0, dtype=dtype) for dtype in (torch.float64, torch.float32)]
    with pytest.raises(InputError, match=r"graphs\[1\]"):
        Graph.collate(graphs)
    wide = molecule()
    wide.arrays["REF_multipoles"] = np.zeros((4, 9))
    with pytest.raises(InputError, match="same max_l"):
        Graph.collate([Graph.from_atoms(labelled(), 3.0), Graph.from_atoms(wide, 3.0)])
