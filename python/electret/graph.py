"""Batches of atomic systems as torch tensors: positions, cells, edges, conditions and labels."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from electret.conditions import check_other_names
from electret.errors import InputError
from electret.kernels.neighbors import NeighborList, neighbor_list
from electret.labels import CONVERTED, LABELS

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["APPLIED", "NEAREST", "Graph", "coinciding", "edges_of", "finite"]

APPLIED = "applied_potential"
"""Key of `atoms.arrays` with the potential of each atom's electrode."""

NEAREST = 1e-6
"""Distance in Å below which atoms coincide: models and their derivatives are not finite there."""

_ALWAYS_DOUBLE = ("positions", "cell", "unit_shifts", "energy", "grid_points")
_PER_ATOM_FIELDS = ("positions", "atomic_numbers")
_PER_SYSTEM_FIELDS = ("cell", "pbc", "total_charge", "external_field", "fermi_level", "spin_multiplicity")
_CALCULATOR_RESULTS = ("energy", "forces", "stress", "dipole", "charges")


@dataclass(repr=False)
class Graph:
    """A batch of systems with their neighbour lists; one system is a batch of one.

    Edges follow MACE: row 0 of `edge_index` is the sender, row 1 the receiver, and
    `r_edge = positions[receiver] - positions[sender] + unit_shifts @ cell`.
    Positions, cells and shifts are float64 whatever the dtype of the rest, so that differences of positions
    do not depend on where the system lies; so are labelled energies. Labels hold nan where a frame lacks
    them.
    """

    positions: torch.Tensor  # [n_atoms, 3] float64 Å
    atomic_numbers: torch.Tensor  # [n_atoms] int64
    cell: torch.Tensor  # [n_systems, 3, 3] float64 Å, rows are the vectors; rows along open axes may be zero
    pbc: torch.Tensor  # [n_systems, 3] bool
    batch: torch.Tensor  # [n_atoms] int64, sorted: system of each atom
    ptr: torch.Tensor  # [n_systems + 1] int64: first atom of each system
    edge_index: torch.Tensor  # [2, n_edges] int64
    unit_shifts: torch.Tensor  # [n_edges, 3] float64, whole numbers of cell vectors
    total_charge: torch.Tensor  # [n_systems] e
    external_field: torch.Tensor  # [n_systems, 3] V/Å
    fermi_level: torch.Tensor  # [n_systems] eV, nan where none is requested
    spin_multiplicity: torch.Tensor = None  # type: ignore[assignment]  # [n_systems] 2S + 1; None is 1
    applied_potential: torch.Tensor | None = None  # [n_atoms] V, of electrodes; None is 0
    labels: dict[str, torch.Tensor] = field(default_factory=dict)
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    config_type: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.spin_multiplicity is None:
            self.spin_multiplicity = torch.ones_like(self.total_charge)

    def __repr__(self) -> str:
        counts = f"{self.n_atoms} atoms, {self.n_systems} systems, {self.n_edges} edges"
        labels = f", labels {', '.join(self.labels)}" if self.labels else ""
        return f"Graph({counts}, {self.dtype} on {self.device}{labels})"

    @property
    def n_atoms(self) -> int:
        """Number of atoms in the batch."""
        return int(self.positions.shape[0])

    @property
    def n_systems(self) -> int:
        """Number of systems in the batch."""
        return int(self.cell.shape[0])

    @property
    def n_edges(self) -> int:
        """Number of directed edges in the batch."""
        return int(self.edge_index.shape[1])

    @property
    def dtype(self) -> torch.dtype:
        """Floating point type of the conditions, labels and weights."""
        return self.total_charge.dtype

    @property
    def device(self) -> torch.device:
        """Device that holds the tensors."""
        return self.positions.device

    @property
    def n_atoms_per_system(self) -> torch.Tensor:
        """Number of atoms of each system, `[n_systems]` int64."""
        return self.ptr[1:] - self.ptr[:-1]

    @classmethod
    def from_atoms(
        cls,
        atoms: Atoms,
        cutoff: float,
        dtype: torch.dtype = torch.float64,
        keys: Mapping[str, str] | None = None,
        labels: bool = True,
        neighbors: NeighborList | None = None,
    ) -> Graph:
        """The graph of one `ase.Atoms`.

        Args:
            atoms: positions in Å, cell, pbc; conditions in `atoms.info` (`total_charge` or `charge` in e,
                `external_field` in V/Å, `fermi_level` in eV, `spin_multiplicity`) and in `atoms.arrays`
                (`applied_potential` in V); labels in `info` and `arrays`.
            cutoff: radius of the neighbour list in Å.
            dtype: `torch.float32` or `torch.float64` for conditions, labels and weights.
            keys: names in `atoms` that differ from `electret.labels.LABELS`, by the package's name.
            labels: read labels (training data). `fermi_level` is then a label and not a request, and
                `applied_potential` is not read; with `labels=False` (a calculator) both are requests and no
                labels are read.
            neighbors: a list of this cutoff that follows the atoms; None finds the neighbours anew.

        Raises:
            InputError: no atoms, atoms that coincide, entries that are not finite, wrong shapes,
                contradicting charges, unknown keys.
        """
        names = _merged_keys(keys)
        if dtype not in (torch.float32, torch.float64):
            raise InputError(f"dtype is {dtype}; use torch.float32 or torch.float64")
        n_atoms = len(atoms)
        if n_atoms == 0:
            raise InputError("atoms holds no atoms; give a system with at least one atom")
        positions = finite("positions", np.asarray(atoms.get_positions(), dtype=np.float64))
        cell = finite("cell", np.asarray(atoms.cell.array, dtype=np.float64))
        pbc = np.asarray(atoms.pbc, dtype=bool)
        numbers = np.asarray(atoms.numbers, dtype=np.int64)
        if neighbors is None:
            pairs = neighbor_list("ijSd", positions, cell, pbc, float(cutoff))
        else:
            neighbors.update(positions, cell, pbc)
            pairs = neighbors.get("ijSd")
        edge_index, unit_shifts = edges_of(pairs)

        def real(values: NDArray[np.floating] | Sequence[float]) -> torch.Tensor:
            return torch.as_tensor(np.array(values, dtype=np.float64)).to(dtype)

        fermi_level = np.nan
        found: dict[str, NDArray[np.float64]] = {}
        if labels:
            found = _read_labels(atoms, names)
        elif names["fermi_level"] in atoms.info:
            fermi_level = float(_info(atoms, names["fermi_level"], ()))
        external_field = np.zeros(3)
        if names["external_field"] in atoms.info:
            external_field = _info(atoms, names["external_field"], (3,))
        total_charge = _total_charge(atoms, names["total_charge"])
        spin_multiplicity = _multiplicity(atoms, names["spin_multiplicity"])
        applied = _as_real(f"atoms.arrays[{APPLIED!r}]", atoms.arrays.get(APPLIED, np.zeros(n_atoms)))
        if applied.shape != (n_atoms,):
            raise InputError(
                f"atoms.arrays[{APPLIED!r}] has shape {list(applied.shape)}; give one number (V) per atom"
            )
        finite(f"atoms.arrays[{APPLIED!r}]", applied)
        taken = {"total_charge": total_charge, "external_field": external_field}
        check_other_names(atoms.info, names, taken, "atoms.info", "keys={{{condition!r}: {key!r}}}")
        return cls(
            positions=torch.tensor(positions),
            atomic_numbers=torch.tensor(numbers),
            cell=torch.tensor(cell[None]),
            pbc=torch.as_tensor(pbc[None].copy()),
            batch=torch.zeros(n_atoms, dtype=torch.int64),
            ptr=torch.tensor([0, n_atoms], dtype=torch.int64),
            edge_index=edge_index,
            unit_shifts=unit_shifts,
            total_charge=real([total_charge]),
            external_field=real(external_field[None]),
            fermi_level=real([fermi_level]),
            spin_multiplicity=real([spin_multiplicity]),
            applied_potential=None if labels or not applied.any() else real(applied),
            labels=_label_tensors(found, dtype),
            weights={name: real([value]) for name, value in _weights(atoms).items()},
            config_type=[str(atoms.info.get("config_type", "Default"))],
        )

    @classmethod
    def collate(cls, graphs: Sequence[Graph]) -> Graph:
        """One batch of all systems of `graphs`, in their order; missing labels become nan, missing weights 1.

        Raises:
            InputError: no graphs, or graphs that differ in dtype or device, or labels that differ in width.
        """
        graphs = list(graphs)
        if not graphs:
            raise InputError("collate was given no graphs; give at least one")
        first = graphs[0]
        for index, graph in enumerate(graphs):
            if graph.dtype != first.dtype or graph.device != first.device:
                raise InputError(
                    f"graphs[{index}] is {graph.dtype} on {graph.device} but graphs[0] is {first.dtype} on "
                    f"{first.device}; bring them together with Graph.to"
                )
        joined: dict[str, Any] = {
            name: torch.cat([getattr(graph, name) for graph in graphs])
            for name in _PER_ATOM_FIELDS + _PER_SYSTEM_FIELDS + ("unit_shifts",)
        }
        atoms_before = np.cumsum([0] + [graph.n_atoms for graph in graphs])
        systems_before = np.cumsum([0] + [graph.n_systems for graph in graphs])
        applied = None
        if any(graph.applied_potential is not None for graph in graphs):
            none = first.total_charge.new_zeros
            found = [(graph.applied_potential, graph.n_atoms) for graph in graphs]
            applied = torch.cat([none(n_atoms) if u is None else u for u, n_atoms in found])
        return cls(
            **joined,
            applied_potential=applied,
            batch=torch.cat([graph.batch + int(n) for graph, n in zip(graphs, systems_before, strict=False)]),
            ptr=torch.cat(
                [graph.ptr[:-1] + int(n) for graph, n in zip(graphs, atoms_before, strict=False)]
                + [first.ptr.new_tensor([int(atoms_before[-1])])]
            ),
            edge_index=torch.cat(
                [graph.edge_index + int(n) for graph, n in zip(graphs, atoms_before, strict=False)], dim=1
            ),
            labels=_join_labels(graphs),
            weights={
                name: torch.cat(
                    [
                        graph.weights.get(name, graph.total_charge.new_ones(graph.n_systems))
                        for graph in graphs
                    ]
                )
                for name in sorted({name for graph in graphs for name in graph.weights})
            },
            config_type=[name for graph in graphs for name in graph.config_type],
        )

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Graph:
        """A copy on another device, or with conditions, labels and weights of another dtype (labelled
        energies, positions, cells and shifts stay float64)."""

        def move(value: torch.Tensor, name: str) -> torch.Tensor:
            converts = value.is_floating_point() and name not in _ALWAYS_DOUBLE
            return value.to(device=device, dtype=dtype if converts else None)

        moved: dict[str, Any] = {}
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, torch.Tensor):
                moved[entry.name] = move(value, entry.name)
            elif isinstance(value, dict):
                moved[entry.name] = {name: move(tensor, name) for name, tensor in value.items()}
        return replace(self, **moved)


def edges_of(pairs: tuple[NDArray[Any], ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """`edge_index` and `unit_shifts` of the pairs i, j, S, d of a neighbour list.

    Raises:
        InputError: two atoms coincide.
    """
    sender, receiver, shifts, distances = pairs
    if len(distances) and distances.min() < NEAREST:
        nearest = int(distances.argmin())
        raise coinciding(int(sender[nearest]), int(receiver[nearest]), shifts[nearest].tolist())
    edges = np.empty((2, len(sender)), dtype=np.int64)
    edges[0], edges[1] = sender, receiver
    return torch.from_numpy(edges), torch.from_numpy(shifts).to(torch.float64)


def coinciding(atom: int, other: int, shift: Sequence[float]) -> InputError:
    """The error of two atoms nearer than `NEAREST`."""
    image = f" (its image in cell {[int(n) for n in shift]})" if any(shift) else ""
    return InputError(f"atoms {atom} and {other}{image} coincide; move them apart or remove one")


def _merged_keys(keys: Mapping[str, str] | None) -> dict[str, str]:
    """The default keys with the caller's on top."""
    merged = {name: label.key for name, label in LABELS.items() if name not in CONVERTED}
    for name, key in (keys or {}).items():
        if name not in merged:
            nearest = difflib.get_close_matches(name, merged, n=1, cutoff=0.0)
            raise InputError(f"keys has the unknown quantity {name!r}; did you mean {nearest[0]!r}?")
        merged[name] = key
    return merged


def finite(name: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """`values` if every entry is finite."""
    good = np.isfinite(values)
    if not good.all():
        bad = tuple(np.argwhere(~good)[0])
        place = ", ".join(str(index) for index in bad)
        where = f"{name}[{place}]" if place else name
        raise InputError(f"{where} is {values[bad]}; every entry must be finite")
    return values


def _as_real(key: str, value: Any) -> NDArray[np.float64]:
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{key} is {value!r}; give numbers") from error


def _info(atoms: Atoms, key: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """A finite condition of `atoms.info` in the given shape."""
    values = _as_real(f"atoms.info[{key!r}]", atoms.info[key])
    if values.size != int(np.prod(shape)):
        raise InputError(
            f"atoms.info[{key!r}] is {atoms.info[key]}; give {'three numbers' if shape else 'one number'}"
        )
    return finite(f"atoms.info[{key!r}]", values.reshape(shape))


def _total_charge(atoms: Atoms, key: str) -> float:
    """The requested total charge in e, 0 where none is given."""
    given = {name: float(_info(atoms, name, ())) for name in {key, "charge"} if name in atoms.info}
    if len(set(given.values())) > 1:
        raise InputError(f"atoms.info gives two total charges, {given}; remove one of them")
    return next(iter(given.values()), 0.0)


def _multiplicity(atoms: Atoms, key: str) -> float:
    """The spin multiplicity 2S + 1, 1 where none is given."""
    value = float(_info(atoms, key, ())) if key in atoms.info else 1.0
    if value < 1 or value != round(value):
        raise InputError(f"atoms.info[{key!r}] is {value:g}; give the multiplicity 2S + 1, as 1, 2 or 3")
    return value


def _read_labels(atoms: Atoms, names: Mapping[str, str]) -> dict[str, NDArray[np.float64]]:
    """The labels that `atoms` carries, each `[1, ...]` per system or `[n_atoms, ...]` per atom."""
    n_atoms = len(atoms)
    results = getattr(atoms.calc, "results", {}) if atoms.calc is not None else {}
    found: dict[str, NDArray[np.float64]] = {}
    for name, label in LABELS.items():
        if not label.in_graph:
            continue
        key = names[name]
        source = atoms.arrays if label.per_atom else atoms.info
        if key in source:
            raw = source[key]
        elif key in _CALCULATOR_RESULTS and key in results:
            # ASE's reader moves columns with its own names into a calculator.
            raw = results[key]
        else:
            continue
        values = finite(key, _as_real(key, raw))
        if name == "stress" and values.size == 6:
            xx, yy, zz, yz, xz, xy = values.reshape(6)
            values = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
        n_rows = {"system": 1, "atom": n_atoms}.get(label.rows)
        row = label.shape
        if row is None:
            row = (values.size // n_atoms,)
        if n_rows is None:
            n_rows = values.size // math.prod(row)
        shape = (n_rows, *row)
        if values.size != int(np.prod(shape)):
            raise InputError(f"label {key!r} has shape {values.shape}; expected {shape}")
        if name == "multipoles" and round(shape[1] ** 0.5) ** 2 != shape[1]:
            raise InputError(f"label {key!r} has {shape[1]} columns; expected (max_l + 1)^2, as 1, 4, 9")
        found[name] = values.reshape(shape)
    if len(found.get("grid_points", ())) != len(found.get("grid_potentials", ())):
        raise InputError("grid_points and grid_potentials of a frame must come together, one row per point")
    if "total_charge" not in found and "charge" in atoms.info:
        found["total_charge"] = np.array([_total_charge(atoms, names["total_charge"])])
    return found


def _label_tensors(found: Mapping[str, NDArray[np.float64]], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The labels of one system as tensors."""
    tensors = {name: torch.as_tensor(np.array(values, dtype=np.float64)) for name, values in found.items()}
    # Total energies of 1e5 eV, and points far from the origin, need more than the 7 digits of float32.
    tensors = {name: value if name in _ALWAYS_DOUBLE else value.to(dtype) for name, value in tensors.items()}
    if "grid_points" in tensors:
        tensors["grid_batch"] = torch.zeros(len(tensors["grid_points"]), dtype=torch.int64)
    return tensors


def _weights(atoms: Atoms) -> dict[str, float]:
    """Weights of the frame as MACE names them: `config_weight` for the whole, `config_energy_weight`, ..."""
    found = {}
    for name in ("frame", *(name for name, label in LABELS.items() if label.in_graph)):
        key = "config_weight" if name == "frame" else f"config_{name}_weight"
        if key in atoms.info:
            value = float(_info(atoms, key, ()))
            if value < 0:
                raise InputError(f"atoms.info[{key!r}] is {value}; a weight must not be negative")
            found[name] = value
    return found


def _join_labels(graphs: Sequence[Graph]) -> dict[str, torch.Tensor]:
    """Labels of all graphs in one tensor each, nan where a graph lacks one."""
    joined = _join_points(graphs)
    for name in sorted({name for graph in graphs for name in graph.labels} - set(joined)):
        present = next(graph.labels[name] for graph in graphs if name in graph.labels)
        parts = []
        for index, graph in enumerate(graphs):
            rows = graph.n_systems if LABELS[name].rows == "system" else graph.n_atoms
            part = graph.labels.get(name)
            if part is None:
                part = present.new_full((rows, *present.shape[1:]), float("nan"))
            elif part.shape[1:] != present.shape[1:]:
                raise InputError(
                    f"label {name!r} of graphs[{index}] has shape {tuple(part.shape)}, others have rows of "
                    f"{tuple(present.shape[1:])}; give every frame the same max_l"
                )
            parts.append(part)
        joined[name] = torch.cat(parts)
    return joined


def _join_points(graphs: Sequence[Graph]) -> dict[str, torch.Tensor]:
    """The points of all systems that have a grid, one after the other, and the system of each."""
    systems_before = np.cumsum([0] + [graph.n_systems for graph in graphs])
    found = [
        (graph.labels, int(n))
        for graph, n in zip(graphs, systems_before, strict=False)
        if "grid_points" in graph.labels
    ]
    if not found:
        return {}
    return {
        "grid_points": torch.cat([labels["grid_points"] for labels, _ in found]),
        "grid_potentials": torch.cat([labels["grid_potentials"] for labels, _ in found]),
        "grid_batch": torch.cat([labels["grid_batch"] + n for labels, n in found]),
    }
