"""Graphs of a set of frames, with their neighbour lists, and the batches of an epoch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from numpy.typing import NDArray

from electret.data.edges import count_edges
from electret.data.frames import Frames, as_frames
from electret.data.loading import default_workers, loaded
from electret.data.reading import Frame
from electret.errors import InputError
from electret.graph import Graph

__all__ = ["Batches", "GraphDataset", "Limits"]


class Limits(NamedTuple):
    """Largest batch, None for no limit."""

    frames: int | None = None
    atoms: int | None = None
    edges: int | None = None


class Batches(Sequence[list[int]]):
    """Batches of an order of frames, which begin at its positions `starts` (its end included)."""

    def __init__(self, order: NDArray[np.int64], starts: Sequence[int]) -> None:
        self.order, self.starts = order, starts

    def __len__(self) -> int:
        return len(self.starts) - 1

    @overload
    def __getitem__(self, index: int) -> list[int]: ...

    @overload
    def __getitem__(self, index: slice) -> Batches: ...

    def __getitem__(self, index: int | slice) -> list[int] | Batches:
        if isinstance(index, slice):
            start, stop, _ = index.indices(len(self))  # of neighbours
            return Batches(self.order, self.starts[start : max(start, stop) + 1])
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        return self.order[self.starts[index] : self.starts[index + 1]].tolist()


class GraphDataset:
    """Frames as graphs. Those of frames in memory are kept with their neighbour lists; those of prepared sets
    are made whenever they are asked for.

    Args:
        frames: normalised frames, see `read_frames`.
        cutoff: radius of the neighbour lists in Å.
        dtype: type of all real tensors but the energies.
        config_type_weights: loss weight of each config_type; `Default` is that of config_types not named.
        workers: processes that make batches ahead; None: none for frames in memory, else `default_workers()`.
    """

    def __init__(
        self,
        frames: Sequence[Frame],
        cutoff: float,
        dtype: torch.dtype,
        config_type_weights: Mapping[str, float] | None = None,
        workers: int | None = None,
    ) -> None:
        self.frames: Frames = as_frames(frames)
        self.cutoff = cutoff
        self.dtype = dtype
        self.config_type_weights = dict(config_type_weights or {})
        made = _Graphs(self.frames, cutoff, dtype, self.config_type_weights)
        self.graphs: Sequence[Graph] = list(made) if self.frames.in_memory else made
        if workers is None:
            workers = 0 if self.frames.in_memory else default_workers()
        self.workers = workers
        self._n_edges: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.frames)

    def batch(self, indices: Sequence[int]) -> Graph:
        """The frames with these indices as one graph."""
        return _Batch(self.graphs)(indices)

    def load(self, batches: Sequence[Sequence[int]]) -> Iterator[Graph]:
        """The graph of each batch, in their order, made ahead by `workers`."""
        return loaded(_Batch(self.graphs), batches, self.workers)

    @property
    def n_edges(self) -> NDArray[np.int64]:
        """Number of directed edges of each graph, see `count_edges`."""
        return self.count_edges()

    def count_edges(self, advance: Callable[[int], object] = lambda _: None) -> NDArray[np.int64]:
        """Number of directed edges of each graph; `advance` is called with numbers of frames that are
        counted. Raises `InputError` for atoms that coincide."""
        if self._n_edges is None:
            if self.frames.in_memory:
                counts = np.array([graph.n_edges for graph in self.graphs], dtype=np.int64)
            else:
                counts = count_edges(self.frames, self.cutoff, advance)
                for index in np.flatnonzero(counts < 0).tolist():
                    self.graphs[index]  # raises the error that names the atoms
            self._n_edges = counts
        return self._n_edges

    def weights(self, label: str | None = None) -> NDArray[np.float64]:
        """Weight of each frame in the loss, or that of a label in it."""
        codes, kinds = self.frames.codes("config_type")
        rest = self.config_type_weights.get("Default", 1.0)
        factors = np.array([self.config_type_weights.get(kind, rest) for kind in kinds])
        own = factors[codes] * self.frames.weights("frame")
        return own if label is None else own * self.frames.weights(label)

    def conditions(self) -> Graph:
        """Cells, conditions and labelled Fermi levels of all frames, in a graph without atoms."""
        column, n = self.frames.column, len(self.frames)

        def real(name: str, absent: float, *shape: int) -> torch.Tensor:
            values = np.broadcast_to(np.nan_to_num(column(name), nan=absent).T, (*shape, n)).T
            return torch.tensor(values, dtype=torch.float64).to(self.dtype)

        return Graph(
            positions=torch.empty(0, 3, dtype=torch.float64),
            atomic_numbers=torch.empty(0, dtype=torch.int64),
            cell=torch.from_numpy(column("cell").reshape(n, 3, 3)),
            pbc=torch.from_numpy(column("pbc", False).reshape(n, 3)),
            batch=torch.empty(0, dtype=torch.int64),
            ptr=torch.zeros(n + 1, dtype=torch.int64),
            edge_index=torch.empty(2, 0, dtype=torch.int64),
            unit_shifts=torch.empty(0, 3, dtype=torch.float64),
            total_charge=real("total_charge", 0.0),
            external_field=real("external_field", 0.0, 3),
            fermi_level=torch.full((n,), torch.nan, dtype=self.dtype),
            spin_multiplicity=real("spin_multiplicity", 1.0),
            labels={"fermi_level": torch.from_numpy(column("fermi_level")).to(self.dtype)},
        )

    def wants_stress(self, every_stress: bool = False) -> NDArray[np.bool_]:
        """True for each frame whose stress an evaluation needs: it is labelled, or, with `every_stress`,
        defined."""
        wanted = self.frames.has("stress")
        if every_stress:
            cells: NDArray[np.float64] = self.frames.column("cell").reshape(-1, 3, 3)
            solid = np.all(np.any(cells, axis=2), axis=1)
            wanted |= self.frames.column("pbc", False).reshape(-1, 3).any(axis=1) & solid
        return wanted

    def check_limits(self, limits: Limits) -> None:
        """Raise `InputError` for a frame that alone exceeds a limit of the batches."""
        for name, limit, sizes in self._sizes(limits):
            if name != "frames" and len(self) and sizes.max() > limit:
                frame = self.frames[int((sizes > limit).argmax())]
                raise InputError(
                    f"{frame.where} has {sizes.max()} {name}, above data.max_{name} = {limit}; raise it or "
                    "remove the frame"
                )

    def _sizes(self, limits: Limits) -> Iterator[tuple[str, int, NDArray[np.int64]]]:
        """Name and value of each limit, and the size of each frame."""
        if limits.frames is not None:
            yield "frames", limits.frames, np.ones(len(self), dtype=np.int64)
        if limits.atoms is not None:
            yield "atoms", limits.atoms, self.frames.column("atoms", 0)
        if limits.edges is not None:
            yield "edges", limits.edges, self.n_edges

    def _filled(self, order: NDArray[np.int64], limits: int | Limits) -> Batches:
        """Batches of the frames in this order, each as full as the limits allow."""
        limits = Limits(limits) if isinstance(limits, int) else limits
        sums = [(limit, np.cumsum(sizes[order])) for _, limit, sizes in self._sizes(limits)]
        starts = [0]
        while starts[-1] < len(order):
            start = starts[-1]
            ends = [
                np.searchsorted(total, limit + (total[start - 1] if start else 0), side="right")
                for limit, total in sums
            ]
            starts.append(max(int(min(ends, default=len(order))), start + 1))
        return Batches(order, starts)

    def batches(self, limits: int | Limits, every_stress: bool = False) -> Iterator[list[int]]:
        """Indices of the batches of an evaluation, in file order, of so many frames or of these limits.

        Frames with and without a stress are kept apart, as a model refuses the stress of open systems.
        """
        stressed = self.wants_stress(every_stress)
        for kind in (False, True):
            yield from self._filled(np.flatnonzero(stressed == kind), limits)

    def shuffled_batches(
        self, limits: int | Limits, seed: int, epoch: int, among: Sequence[int] | NDArray[Any] | None = None
    ) -> Batches:
        """Indices of the batches of a training epoch; the order depends on `seed` and `epoch` alone.

        So a resumed run draws the same batches with no sampler state to restore. Each batch takes the next
        frames of the order up to its limits. `among` are the frames to draw from; None is all.
        """
        frames = np.arange(len(self)) if among is None else np.asarray(among)
        digest = hashlib.sha256(f"{seed}/{epoch}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        return self._filled(frames[torch.randperm(len(frames), generator=generator).numpy()], limits)

    def fingerprint(self) -> str:
        """SHA-256 of structures, conditions, labels and weights, which changes with the data."""
        digest = hashlib.sha256(np.ascontiguousarray(self.frames.column("digest", 0)).tobytes())
        digest.update(self.weights().tobytes())
        return digest.hexdigest()


class _Batch:
    """Makes batches of some graphs, here or in another process."""

    def __init__(self, graphs: Sequence[Graph]) -> None:
        self.graphs = graphs

    def __call__(self, indices: Sequence[int]) -> Graph:
        return Graph.collate([self.graphs[index] for index in indices])


class _Graphs(Sequence[Graph]):
    """Graphs that are made when they are asked for."""

    def __init__(
        self, frames: Frames, cutoff: float, dtype: torch.dtype, weights: Mapping[str, float]
    ) -> None:
        self.frames, self.cutoff, self.dtype, self.weights = frames, cutoff, dtype, weights

    def __len__(self) -> int:
        return len(self.frames)

    @overload
    def __getitem__(self, index: int) -> Graph: ...

    @overload
    def __getitem__(self, index: slice) -> _Graphs: ...

    def __getitem__(self, index: int | slice) -> Graph | _Graphs:
        if isinstance(index, slice):
            return _Graphs(self.frames[index], self.cutoff, self.dtype, self.weights)
        frame = self.frames[index]
        try:
            graph = Graph.from_atoms(frame.atoms, self.cutoff, self.dtype)
        except InputError as error:
            raise InputError(f"{frame.where}: {error}") from error
        factor = self.weights.get(frame.config_type, self.weights.get("Default", 1.0))
        own = graph.weights.get("frame", torch.ones_like(graph.total_charge))
        graph.weights["frame"] = own * factor
        return graph
