"""Training data: reading and checking frames, key report, validation split, atomic energies, cached
graphs."""

from electret.data.dataset import GraphDataset
from electret.data.keys import DataKeys
from electret.data.magnitudes import magnitude_table, magnitude_warnings
from electret.data.reading import Frame, read_frames, wrap_atoms
from electret.data.reference import atomic_energies
from electret.data.report import check_targets, key_counts, key_table, print_report
from electret.data.split import random_split

__all__ = [
    "DataKeys",
    "Frame",
    "GraphDataset",
    "atomic_energies",
    "check_targets",
    "key_counts",
    "key_table",
    "magnitude_table",
    "magnitude_warnings",
    "print_report",
    "random_split",
    "read_frames",
    "wrap_atoms",
]
