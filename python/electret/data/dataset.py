"""Graphs of a set of frames, their neighbour lists computed once, and the batches of an epoch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import torch

from electret.data.reading import Frame
from electret.errors import InputError
from electret.graph import Graph

__all__ = ["GraphDataset"]


class GraphDataset:
    """Frames as graphs, kept in memory with their neighbour lists.

    Args:
        frames: normalised frames, see `read_frames`.
        cutoff: radius of the neighbour lists in Å.
        dtype: type of all real tensors but the energies.
        config_type_weights: loss weight of each config_type; `Default` is that of config_types not named.
    """

    def __init__(
        self,
        frames: Sequence[Frame],
        cutoff: float,
        dtype: torch.dtype,
        config_type_weights: Mapping[str, float] | None = None,
    ) -> None:
        self.frames = list(frames)
        self.graphs = [_graph(frame, cutoff, dtype, config_type_weights or {}) for frame in self.frames]

    def __len__(self) -> int:
        return len(self.frames)

    def batch(self, indices: Sequence[int]) -> Graph:
        """The frames with these indices as one graph."""
        return Graph.collate([self.graphs[index] for index in indices])

    def wants_stress(self, index: int, every_stress: bool = False) -> bool:
        """True if an evaluation needs a frame's stress: it is labelled, or, with `every_stress`, defined."""
        atoms = self.frames[index].atoms
        return "stress" in self.graphs[index].labels or (
            every_stress and bool(atoms.pbc.any()) and atoms.cell.rank == 3
        )

    def batches(self, batch_size: int, every_stress: bool = False) -> Iterator[list[int]]:
        """Indices of the batches of an evaluation, in file order.

        Frames with and without a stress are kept apart, as a model refuses the stress of open systems.
        """
        for stressed in (False, True):
            chosen = [
                index for index in range(len(self)) if self.wants_stress(index, every_stress) == stressed
            ]
            for start in range(0, len(chosen), batch_size):
                yield chosen[start : start + batch_size]

    def shuffled_batches(
        self, batch_size: int, seed: int, epoch: int, among: Sequence[int] | None = None
    ) -> list[list[int]]:
        """Indices of the batches of a training epoch; the order depends on `seed` and `epoch` alone.

        So a resumed run draws the same batches with no sampler state to restore. `among` are the frames to
        draw from; None is all.
        """
        frames = range(len(self)) if among is None else among
        digest = hashlib.sha256(f"{seed}/{epoch}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        order = [frames[index] for index in torch.randperm(len(frames), generator=generator).tolist()]
        return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]

    def fingerprint(self) -> str:
        """SHA-256 of structures, conditions and labels, which changes with the data."""
        digest = hashlib.sha256()
        for graph in self.graphs:
            tensors = {
                "positions": graph.positions,
                "atomic_numbers": graph.atomic_numbers,
                "cell": graph.cell,
                "pbc": graph.pbc,
                "total_charge": graph.total_charge,
                "external_field": graph.external_field,
                "spin_multiplicity": graph.spin_multiplicity,
                **{f"label {name}": value for name, value in sorted(graph.labels.items())},
                **{f"weight {name}": value for name, value in sorted(graph.weights.items())},
            }
            for name, tensor in tensors.items():
                digest.update(name.encode())
                digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()


def _graph(frame: Frame, cutoff: float, dtype: torch.dtype, weights: Mapping[str, float]) -> Graph:
    try:
        graph = Graph.from_atoms(frame.atoms, cutoff, dtype)
    except InputError as error:
        raise InputError(f"{frame.where}: {error}") from error
    factor = weights.get(frame.config_type, weights.get("Default", 1.0))
    own = graph.weights.get("frame", torch.ones_like(graph.total_charge))
    graph.weights["frame"] = own * factor
    return graph
