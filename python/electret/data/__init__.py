"""Training data: reading and checking frames, sets on disk, key report, validation split, atomic energies,
cached graphs."""

from electret.data.dataset import GraphDataset
from electret.data.frames import Frames
from electret.data.keys import DataKeys
from electret.data.magnitudes import magnitudes
from electret.data.prepare import prepare, prepare_frames
from electret.data.reading import Frame, wrap_atoms
from electret.data.reference import atomic_energies
from electret.data.report import check_targets, key_counts, key_table, print_report
from electret.data.sources import read_frames
from electret.data.split import random_split

__all__ = [
    "DataKeys",
    "Frame",
    "Frames",
    "GraphDataset",
    "atomic_energies",
    "check_targets",
    "key_counts",
    "key_table",
    "magnitudes",
    "prepare",
    "prepare_frames",
    "print_report",
    "random_split",
    "read_frames",
    "wrap_atoms",
]
