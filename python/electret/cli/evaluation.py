"""`electret eval`: errors of a model on a file, and the frames with predictions."""

from __future__ import annotations

from pathlib import Path
from typing import cast, get_args

import torch
from ase.io import read, write
from rich.console import Console

from electret import InputError
from electret.analysis.assessment import Assessment, assess
from electret.analysis.scf_statistics import converged
from electret.data import DataKeys, Frame, GraphDataset, print_report, read_frames
from electret.data.keys import DipoleOrigin
from electret.graph import Graph
from electret.models import load
from electret.training.summary import print_summary

__all__ = ["PREFIX", "parse_keys", "parse_origin", "run_evaluation"]

PREFIX = "electret_"
"""Before the names of predictions in the output, so that they stand beside the labels."""

_PER_ATOM = (
    "forces",
    "charges",
    "multipoles",
    "latent_multipoles",
    "potentials",
    "born_effective_charges",
)
_NOT_STORED = ("scf_history", "grid_potentials", "stationarity")
"""What is neither of an atom nor of a frame, or belongs to another density than the rest."""


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
) -> Assessment:
    """Evaluate, print the key report, the errors and how the SCF fared, write predictions to `output` if
    given. Frames whose SCF did not converge are named, and are in no error and no prediction."""
    if dtype not in (None, "float32", "float64"):
        raise InputError(f"dtype is '{dtype}', expected float32 or float64")
    names = parse_keys(keys)
    model = load(model_file, device=device, dtype=None if dtype is None else getattr(torch, dtype))
    origin = parse_origin(dipole_origin)
    frames = read_frames(data_file, names, origin or "origin")
    print_report(console, {data_file.stem: frames}, names, origin)

    def store(indices: list[int], graph: Graph, predicted: dict[str, torch.Tensor]) -> None:
        _store([frames[index] for index in indices], graph, predicted)

    assessment = assess(model, GraphDataset(frames, model.cutoff, model.dtype), batch_size, store)
    if assessment.metrics.overall:
        print_summary({data_file.stem: assessment.metrics}, console)
    else:
        console.print(
            "no frame carries a label that the model predicts; see --key for other names", highlight=False
        )
    if assessment.scf is not None and assessment.scf.unconverged:
        for line in assessment.scf.lines():
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    if output is not None:
        _restore_other_entries(frames, data_file)
        write(output, [frame.atoms for frame in frames], format="extxyz")
        console.print(f"predictions written to {output}", highlight=False, soft_wrap=True)
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


def _restore_other_entries(frames: list[Frame], data_file: Path) -> None:
    """Put back what a file holds besides labels (`distance`, tags, ...): it identifies the frames."""
    for frame, original in zip(frames, read(data_file, index=":"), strict=True):
        for name in frame.other_keys:
            if name in original.info:
                frame.atoms.info.setdefault(name, original.info[name])
            elif name in original.arrays and not frame.atoms.has(name):
                frame.atoms.set_array(name, original.arrays[name])


def _store(frames: list[Frame], graph: Graph, predicted: dict[str, torch.Tensor]) -> None:
    """Put the predictions of a batch into its frames; of an unconverged one, only that it did not."""
    good = converged(graph, predicted).tolist()
    for position, frame in enumerate(frames):
        rows = slice(int(graph.ptr[position]), int(graph.ptr[position + 1]))
        for name, value in predicted.items():
            if name in _NOT_STORED or (not good[position] and not name.startswith("scf_")):
                continue
            if name == "grid_potentials":
                own = graph.labels["grid_batch"] == position
                if bool(own.any()):
                    frame.atoms.info[PREFIX + name] = value[own].cpu().numpy()
            elif name in _PER_ATOM:
                entry = value[rows].cpu().numpy()
                # Columns of extended XYZ have one index: a tensor per atom is written row by row.
                frame.atoms.set_array(
                    PREFIX + name, entry.reshape(len(entry), -1) if entry.ndim > 2 else entry
                )
            else:
                entry = value[position].cpu().numpy()
                frame.atoms.info[PREFIX + name] = entry if entry.ndim else entry.item()
