"""Evaluation of many structures in batches."""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from ase import Atoms

from electret.calculator import conditions
from electret.calculator.calculator import Calculator
from electret.calculator.properties import (
    DERIVED,
    NORMALS,
    RESPONSES,
    STATE,
    of_system,
    on_host,
    per_atom,
    responses,
    results,
    slab_normal,
    state,
)
from electret.calculator.self_consistency import identity
from electret.errors import InputError
from electret.graph import Graph

__all__ = ["Batches", "evaluate"]

EDGES = {"cpu": 40_000, "cuda": 400_000}
"""Edges of a batch of `batch_size="auto"`: more take memory and are not faster."""

FRAMES = 256
"""Structures of such a batch."""

AHEAD = 64
"""Frames whose neighbours are found while a batch is evaluated."""

Results = dict[str, Any]


@dataclass
class _Frame:
    """A frame on its way: its number, its atoms with conditions alone, its graph or the reason for none."""

    index: int
    atoms: Atoms
    graph: Graph | None = None
    failure: str = ""


def evaluate(
    model: str | os.PathLike[str] | torch.nn.Module,
    frames: Iterable[Atoms],
    properties: Sequence[str] = ("energy", "forces"),
    batch_size: int | Literal["auto"] = "auto",
    device: str | torch.device = "cpu",
    **options: Any,
) -> Results:
    """Properties of many structures, evaluated in batches: those that `Calculator` gives one by one.

    Structures may differ in all: boundaries, elements, sizes, conditions (in `atoms.info`, as for
    `Calculator`). A structure that cannot be evaluated, as for an element that is not in the model or an SCF
    that does not converge, is named in `"failed"` and by a warning; its values are nan. So are values of a
    property that its boundary does not define (the dipole of a crystal, the stress of a molecule).

    Memory holds the results and some batches, whatever the number of frames.

    Args:
        model: as for `Calculator`.
        frames: any iterable of structures; a generator is read as it goes.
        properties: names of `Calculator.results`, `Calculator.response` and numbers and arrays of
            `Calculator.state`.
        batch_size: structures evaluated at once; `"auto"` takes as many as pay on the device.
        device: `"cpu"`, `"cuda"`, `"cuda:1"`, ...
        options: of `Calculator`: `dtype`, `trust`, `ignore`, `energy`, `open_stress`, `scf_tolerance`, ...

    Returns:
        By name: of the system an array `[n_frames, ...]`, of its atoms a list of arrays `[n_atoms, ...]`, in
        the order of the frames, units and signs as in `Calculator`; `"failed"`: reasons by the number of the
        frame.

    Raises:
        InputError: an argument that cannot be used, a property that the model does not define or that no
            frame has, no frame that could be evaluated.

    Example:
        >>> from ase.io import iread
        >>> import electret
        >>> found = electret.evaluate("model.electret", iread("frames.xyz"))     # doctest: +SKIP
        >>> found["energy"], found["forces"][3]                                  # doctest: +SKIP
    """
    if batch_size != "auto" and not (isinstance(batch_size, int | np.integer) and batch_size > 0):
        raise InputError(f"batch_size = {batch_size!r}; give a number of structures, or 'auto'")
    batches = Batches(Calculator(model, device, **{"warm_start": False, **options}), properties)
    rows: dict[int, Results] = {}
    failed: dict[int, str] = {}
    sizes: list[int] = []
    waiting: dict[frozenset[str], list[_Frame]] = {}

    def store(queue: list[_Frame]) -> None:
        for frame, found in batches.evaluated(queue):
            rows[frame.index] = found
        failed.update({frame.index: frame.failure for frame in queue if frame.failure})
        queue.clear()

    with ThreadPoolExecutor(max(1, torch.get_num_threads())) as executor:
        for frame in _prepared(executor, batches, frames):
            sizes.append(len(frame.atoms))
            queue = waiting.setdefault(batches.requests(frame.atoms), [])
            queue.append(frame)
            if batches.full(queue) if batch_size == "auto" else len(queue) == batch_size:
                store(queue)
    for queue in waiting.values():
        store(queue)
    if not sizes:
        raise InputError("no frames were given; give at least one structure")
    if failed:
        first = min(failed)
        text = f"{len(failed)} of {len(sizes)} frames failed; frame {first}: {failed[first]}"
        if not rows:
            raise InputError(text)
        warnings.warn(f"{text} (all reasons: the entry 'failed')", stacklevel=2)
    found = {name: _joined(name, per_atom(name, batches.model), rows, sizes) for name in batches.names}
    return found | {"failed": dict(sorted(failed.items()))}


class Batches:
    """Batches evaluated by the model of a calculator, with its checks, its warnings and its warm start."""

    def __init__(self, calculator: Calculator, properties: Sequence[str]) -> None:
        self.calculator, self.model = calculator, calculator.model
        self.names = (properties,) if isinstance(properties, str) else tuple(properties)
        available = self.model.available_properties
        known = {*calculator.implemented_properties, *STATE}
        known.update(name for name, response in RESPONSES.items() if response.request in available)
        known.update(normal for name, normal in NORMALS.items() if name in known)
        for name in self.names:
            if name not in known:
                raise InputError(
                    f"properties has {name!r}, which the {self.model.family!r} model does not define; it "
                    f"defines {', '.join(sorted(known))}"
                )

    def frame(self, index: int, given: Atoms) -> _Frame:
        """A frame with atoms of its own: whoever gives them may change them for the next."""
        if not isinstance(given, Atoms):
            raise InputError(f"frames[{index}] is a {type(given).__name__}; give ase.Atoms")
        atoms = given.copy()
        conditions.keep(atoms, self.calculator.ignore)
        return _Frame(index, atoms)

    def prepared(self, frame: _Frame) -> _Frame:
        """The frame with its conditions checked and its neighbours found."""
        atoms = frame.atoms
        try:
            conditions.check(atoms.info, self.model.honours)
            frame.graph = Graph.from_atoms(atoms, self.model.cutoff, self.model.dtype, labels=False)
        except InputError as error:
            frame.failure = str(error)
        return frame

    def requests(self, atoms: Atoms) -> frozenset[str]:
        """Wanted results beyond energy and forces that the boundary of the atoms defines. Frames of one batch
        share them, as a model refuses the others."""
        slab = slab_normal(atoms) is not None
        found = set()
        for name in ("energies", "stress", *RESPONSES):
            normal = NORMALS.get(name) if slab else None
            if name not in self.names and (normal is None or normal not in self.names):
                continue
            if normal is None and name in ("stress", *DERIVED) and self.calculator._refusal(name, atoms):
                continue
            found.add(name)
        return frozenset(found)

    def full(self, queue: Sequence[_Frame]) -> bool:
        """True if a larger batch would not be faster."""
        edges = sum(frame.graph.n_edges for frame in queue if frame.graph is not None)
        return edges >= EDGES[self.calculator.device.type] or len(queue) >= FRAMES

    def evaluated(self, queue: Sequence[_Frame]) -> Iterator[tuple[_Frame, Results]]:
        """Frames with their results; the others are left with the reason of their failure."""
        frames = [frame for frame in queue if not frame.failure]
        if not frames:
            return
        graph = Graph.collate([frame.graph for frame in frames if frame.graph is not None])
        requests = self.requests(frames[0].atoms)
        try:
            values = self._output(graph, [frame.atoms for frame in frames], requests)
        except (InputError, MemoryError, torch.OutOfMemoryError) as error:
            if len(frames) == 1:
                frames[0].failure = str(error) or "not enough memory"
                return
            for half in (frames[: len(frames) // 2], frames[len(frames) // 2 :]):
                yield from self.evaluated(half)
            return
        for position, frame in enumerate(frames):
            if "scf_converged" in values and not values["scf_converged"][position]:
                notes = self.calculator._notes(frame.atoms)
                frame.failure = str(self.calculator._scf.failure(values, self.model, notes, position))
                continue
            own = of_system(values, graph, position)
            found = results(own, frame.atoms, self.model, self.calculator._internal)
            found |= state(own, frame.atoms, self.model)
            found |= responses(own, requests.intersection(RESPONSES), frame.atoms, self.model)
            self.calculator._extrapolations(frame.atoms, found.get("total_charge"))
            yield frame, {name: found[name] for name in self.names if name in found}

    def _output(
        self, graph: Graph, systems: Sequence[Atoms], requests: frozenset[str]
    ) -> dict[str, torch.Tensor]:
        """Output of the model for a batch, on the host."""
        asked = {RESPONSES[name].request for name in requests.intersection(RESPONSES)}
        graph = graph.to(device=self.calculator.device)
        options: dict[str, Any] = {
            "forces": "forces" in self.names,
            "stress": "stress" in requests,
            "properties": (*sorted(asked), *requests.intersection({"energies"})),
        }
        if self.model.self_consistent:
            output, _ = self.calculator._scf.output(self.model, graph, identity(systems), **options)
        else:
            output = self.model(graph, **options)
        return on_host({name: value.detach() for name, value in output.items()})


def _prepared(executor: ThreadPoolExecutor, batches: Batches, frames: Iterable[Atoms]) -> Iterator[_Frame]:
    """Prepared frames in their order, some of them ahead of the evaluation."""
    ahead: deque[Future[_Frame]] = deque()
    for index, atoms in enumerate(frames):
        ahead.append(executor.submit(batches.prepared, batches.frame(index, atoms)))
        if len(ahead) > AHEAD:
            yield ahead.popleft().result()
    while ahead:
        yield ahead.popleft().result()


def _joined(name: str, of_atoms: bool, rows: dict[int, Results], sizes: Sequence[int]) -> Any:
    """One property of all frames, nan where a frame has none."""
    values = {index: np.asarray(found[name]) for index, found in rows.items() if name in found}
    if not values:
        raise InputError(
            f"no frame has the property {name!r}: the model or the boundaries do not define it; leave it out"
        )
    first = next(iter(values.values()))
    if not of_atoms:
        missing = np.full(first.shape, np.nan)
        return np.stack([values.get(number, missing) for number in range(len(sizes))])
    return [
        values.get(number, np.full((size, *first.shape[1:]), np.nan)) for number, size in enumerate(sizes)
    ]
