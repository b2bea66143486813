"""`electret eval`: errors of a model on a file, and the frames with predictions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast, get_args

import numpy as np
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io import write
from ase.outputs import all_outputs
from rich.console import Console

from electret.analysis.assessment import Assessment, assess
from electret.analysis.scf_statistics import converged
from electret.calculator.properties import of_system, per_atom, results, undefined_by_boundary
from electret.data import DataKeys, Frame, GraphDataset, print_report, read_frames, wrap_atoms
from electret.data.frames import as_frames
from electret.data.keys import DipoleOrigin
from electret.data.reading import read_structures
from electret.errors import InputError
from electret.graph import Graph
from electret.models import Model, load
from electret.support.console import say
from electret.support.outputs import writing
from electret.training.summary import print_summary

__all__ = ["PREFIX", "parse_keys", "parse_origin", "run_evaluation"]

PREFIX = "electret_"
"""Before the names of predictions in the output, so that they stand beside the labels."""

_NOT_STORED = ("scf_history", "grid_potentials", "stationarity")
"""Results that belong to no atom and no frame, or to another density than the rest."""


def run_evaluation(
    model_file: Path,
    data_file: Path,
    output: Path | None,
    batch_size: int,
    device: str,
    dtype: str | None,
    keys: list[str],
    console: Console,
    dipole_origin: str | None = None,
) -> Assessment | None:
    """Evaluate, print the key report, the errors and how the SCF fared, write predictions to `output` if
    given. Frames whose SCF did not converge are named, and are in no error and no prediction. Under
    `torchrun` this is the work of the first process; the others evaluate their share and return None."""
    names = parse_keys(keys)
    model = load(model_file, device=device, dtype=dtype)
    origin = parse_origin(dipole_origin)
    structures = None
    if output is None:
        frames = read_frames(data_file, names, origin)
    elif data_file.is_dir():
        frames = as_frames(list(read_frames(data_file, names, origin)))  # which take up the predictions
    else:
        structures = read_structures(data_file)
        frames = as_frames(wrap_atoms(structures, names, str(data_file), origin or "origin"))
    print_report(console, {data_file.stem: frames}, names, origin)

    def store(indices: list[int], graph: Graph, predicted: dict[str, torch.Tensor]) -> None:
        if output is not None:
            _store(model, [frames[index] for index in indices], graph, predicted)

    dataset = GraphDataset(frames, model.cutoff, model.dtype)
    assessment = assess(model, dataset, batch_size, store, every_stress=output is not None)
    if console.quiet:
        return None
    if assessment.metrics.overall:
        print_summary({data_file.stem: assessment.metrics}, console)
    else:
        say(console, "no frame carries a label that the model predicts; see --key for other names")
    if assessment.scf is not None and assessment.scf.unconverged:
        for line in assessment.scf.lines():
            say(console, line)
    if output is not None:
        if structures is not None:
            _restore_other_entries(frames, structures)
        with writing(output):
            _write(output, [frame.atoms for frame in frames])
        say(console, f"predictions written to {output}")
    return assessment


def parse_keys(assignments: list[str]) -> DataKeys:
    """Key map from `name=key` words."""
    chosen = {}
    for assignment in assignments:
        name, separator, key = assignment.partition("=")
        if not separator or not key or name not in DataKeys.model_fields:
            raise InputError(
                f"--key {assignment}: expected name=key with a name of {', '.join(DataKeys.model_fields)}"
            )
        chosen[name] = key
    return DataKeys(**chosen)


def parse_origin(word: str | None) -> DipoleOrigin | None:
    """Origin of dipole labels from `--dipole-origin`."""
    for choice in get_args(DipoleOrigin):
        if word == choice:
            return cast(DipoleOrigin, choice)
    if word is not None:
        raise InputError(f"--dipole-origin {word}: expected {', '.join(get_args(DipoleOrigin))}")
    return None


def _restore_other_entries(frames: Sequence[Frame], structures: Sequence[Atoms]) -> None:
    """Put back what a file holds besides labels (`distance`, tags, ...): it identifies the frames."""
    for frame, original in zip(frames, structures, strict=True):
        for name in frame.other_keys:
            if name in original.info:
                frame.atoms.info.setdefault(name, original.info[name])
            elif name in original.arrays and not frame.atoms.has(name):
                frame.atoms.set_array(name, original.arrays[name])


def _store(model: Model, frames: list[Frame], graph: Graph, predicted: dict[str, torch.Tensor]) -> None:
    """Put the predictions of a batch into its frames; of an unconverged one, only that it did not."""
    good = converged(graph, predicted).tolist()
    for position, frame in enumerate(frames):
        own = of_system(predicted, graph, position)
        for name, value in own.items():
            unusable = not good[position] and not name.startswith("scf_")
            if name in _NOT_STORED or unusable or undefined_by_boundary(name, frame.atoms, model):
                continue
            entry = value.cpu().numpy()
            if per_atom(name, model):
                # Columns of extended XYZ have one index: a tensor per atom is written row by row.
                frame.atoms.set_array(
                    PREFIX + name, entry.reshape(len(entry), -1) if entry.ndim > 2 else entry
                )
            else:
                frame.atoms.info[PREFIX + name] = entry[0] if entry.ndim > 1 else entry.item()
        frame.atoms.calc = None
        if good[position]:
            found = results(own, frame.atoms, model).items()
            known = {name: value for name, value in found if name in all_outputs}
            frame.atoms.calc = SinglePointCalculator(frame.atoms, **known)


def _write(output: Path, frames: list[Atoms]) -> None:
    """Frames in the format of the file's ending; columns that it lacks go where it keeps other entries."""
    output.parent.mkdir(parents=True, exist_ok=True)
    kind = output.suffix.lower()
    if kind in (".xyz", ".extxyz"):
        write(output, frames, format="extxyz")
        return
    columns = [_other_columns(atoms) for atoms in frames]
    if kind == ".traj":
        for atoms, entries in zip(frames, columns, strict=True):
            atoms.info.update(entries)
        write(output, frames, format="traj")
        return
    output.unlink(missing_ok=True)  # a database would be appended to
    with connect(output) as database:
        for atoms, entries in zip(frames, columns, strict=True):
            database.write(atoms, data={**atoms.info, **entries})


def _other_columns(atoms: Atoms) -> dict[str, np.ndarray]:
    """Columns that ASE's own formats do not keep, taken out of the atoms."""
    own = ("numbers", "positions", "tags", "momenta", "masses", "initial_magmoms", "initial_charges")
    return {name: atoms.arrays.pop(name) for name in list(atoms.arrays) if name not in own}
