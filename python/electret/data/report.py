"""How many frames carry each key, what in them looks wrong, and refusal of loss weights on labels that no
frame has."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from electret.data.consistency import data_warnings
from electret.data.keys import DataKeys, DipoleOrigin
from electret.data.reading import Frame
from electret.errors import InputError
from electret.labels import CONVERTED, LABELS
from electret.support.console import PlainTable, say

__all__ = ["check_targets", "key_counts", "key_table", "print_report"]


def print_report(
    console: Console,
    sets: Mapping[str, Sequence[Frame]],
    keys: DataKeys,
    dipole_origin: DipoleOrigin | None = None,
    others: Sequence[str] = (),
) -> None:
    """Print the table of keys, then one warning for each kind of label or condition that looks wrong.

    Args:
        console: to print to.
        sets: frames of each set.
        keys: names in the files.
        dipole_origin: with which the frames were read; None is the default, the origin of the coordinates.
        others: further warnings.
    """
    key_table(sets, keys).show(console)
    everything = [frame for frames in sets.values() for frame in frames]
    for text in [*data_warnings(everything, keys, dipole_origin), *others]:
        say(console, f"warning: {text}", style="yellow")


def key_counts(frames: Sequence[Frame]) -> Counter[str]:
    """Number of frames that carry each quantity of `DataKeys`."""
    return Counter(name for frame in frames for name in LABELS if frame.has(name))


def key_table(sets: Mapping[str, Sequence[Frame]], keys: DataKeys) -> PlainTable:
    """One row per set and file, then per config_type of each set; the caption names absent keys."""
    counts = key_counts([frame for frames in sets.values() for frame in frames])
    present = [name for name in LABELS if counts[name]]
    absent = [str(getattr(keys, name)) for name in LABELS if not counts[name] and name not in CONVERTED]
    numbers = ["frames", "atoms", *(str(getattr(keys, name)) for name in present)]
    table = PlainTable("Frames that carry each key", ["set", "file / config_type", *numbers], right=numbers)
    table.caption = Text(f"in no frame: {', '.join(absent)}") if absent else None
    for set_name, frames in sets.items():
        for file in dict.fromkeys(frame.file for frame in frames):
            chosen = [frame for frame in frames if frame.file == file]
            _add_row(table, set_name, Path(file).name, chosen, present)
        kinds = sorted({frame.config_type for frame in frames})
        for kind in kinds if kinds != ["Default"] else ():
            chosen = [frame for frame in frames if frame.config_type == kind]
            _add_row(table, set_name, f"  {kind}", chosen, present)
        table.add_section()
    return table


def _add_row(
    table: PlainTable, set_name: str, label: str, frames: Sequence[Frame], present: Sequence[str]
) -> None:
    counts = key_counts(frames)
    n_atoms = sum(len(frame.atoms) for frame in frames)
    table.add_row(set_name, label, str(len(frames)), str(n_atoms), *(str(counts[name]) for name in present))


def check_targets(frames: Sequence[Frame], targets: Sequence[str], keys: DataKeys, where: str) -> None:
    """Raise `InputError` for a target with a loss weight that no training frame carries."""
    counts = key_counts(frames)
    for name in targets:
        if name == "total_charge" or counts[name]:  # frames without a total charge are neutral by definition
            continue
        key = getattr(keys, name)
        files = ", ".join(sorted({frame.file for frame in frames}))
        others = sorted(set().union(*(frame.other_keys for frame in frames)))
        hint = _nearest_key(name, others, keys) or f"set data.keys.{name} to its name"
        raise InputError(
            f"{where}: the loss has a weight on '{name}', but no training frame carries the key '{key}' "
            f"({files}); {hint}, add the label, or remove the weight"
        )


def _nearest_key(name: str, others: Sequence[str], keys: DataKeys) -> str | None:
    """Sentence on the key of a file that is most like that of a label, or of one that is converted to it."""
    sources = [name, *(source for source, target in CONVERTED.items() if target == name)]
    found = [
        (
            1.0 if source in other else difflib.SequenceMatcher(None, getattr(keys, source), other).ratio(),
            source,
            other,
        )
        for source in sources
        for other in others
    ]
    likeness, source, other = max(found, default=(0.0, "", ""))
    return f"the file has '{other}': set data.keys.{source} to it" if likeness >= 0.5 else None
