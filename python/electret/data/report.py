"""How many frames carry each key, what in them looks wrong, and refusal of loss weights on labels that no
frame has."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.text import Text

from electret.data.consistency import data_warnings
from electret.data.frames import as_frames, join
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
    found = {name: as_frames(frames) for name, frames in sets.items()}
    key_table(found, keys).show(console)
    for text in [*data_warnings(join(found.values()), keys, dipole_origin), *others]:
        say(console, f"warning: {text}", style="yellow")


def key_counts(frames: Sequence[Frame]) -> Counter[str]:
    """Number of frames that carry each quantity of `DataKeys`."""
    found = as_frames(frames)
    counts = {name: int(np.count_nonzero(found.has(name))) for name in LABELS}
    return Counter({name: count for name, count in counts.items() if count})


def key_table(sets: Mapping[str, Sequence[Frame]], keys: DataKeys) -> PlainTable:
    """One row per set and file, then per config_type of each set; the caption names absent keys."""
    counts = sum((key_counts(frames) for frames in sets.values()), Counter[str]())
    present = [name for name in LABELS if counts[name]]
    absent = [str(getattr(keys, name)) for name in LABELS if not counts[name] and name not in CONVERTED]
    numbers = ["frames", "atoms", *(str(getattr(keys, name)) for name in present)]
    table = PlainTable("Frames that carry each key", ["set", "file / config_type", *numbers], right=numbers)
    table.caption = Text(f"in no frame: {', '.join(absent)}") if absent else None
    for set_name, frames in sets.items():
        found = as_frames(frames)
        has = np.stack([np.ones(len(found)), found.column("atoms", 0), *map(found.has, present)])
        for kind in ("file", "config_type"):
            codes, names = found.codes(kind)
            shown = {code: names[code] for code in dict.fromkeys(codes.tolist())}
            if kind == "config_type":
                if list(shown.values()) == ["Default"]:
                    continue
                shown = dict(sorted(shown.items(), key=lambda entry: str(entry[1])))
            for code, name in shown.items():
                label = Path(name).name if kind == "file" else f"  {name}"
                numbers = has[:, codes == code].sum(axis=1).astype(int)
                table.add_row(set_name, label, *map(str, numbers))
        table.add_section()
    return table


def check_targets(frames: Sequence[Frame], targets: Sequence[str], keys: DataKeys, where: str) -> None:
    """Raise `InputError` for a target with a loss weight that no training frame carries."""
    counts = key_counts(frames)
    for name in targets:
        if name == "total_charge" or counts[name]:  # frames without a total charge are neutral by definition
            continue
        key = getattr(keys, name)
        found = as_frames(frames)
        files = ", ".join(sorted(found.names("file")))
        others = sorted(set().union(*found.names("other_keys")))
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
