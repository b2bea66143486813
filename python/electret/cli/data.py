"""`electret data`: sets of frames on disk."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import SpinnerColumn, TimeElapsedColumn

from electret.cli.evaluation import parse_keys, parse_origin
from electret.data import prepare, print_report
from electret.data.shards import open_set, read_index
from electret.support.console import progress_bar, say

__all__ = ["report_set", "run_preparation"]


def run_preparation(
    files: list[Path],
    output: Path,
    keys: list[str],
    dipole_origin: str | None,
    shard_size: int,
    console: Console,
) -> None:
    """Write the frames of files to a prepared set, and print the report on it."""
    with progress_bar(console, SpinnerColumn(), TimeElapsedColumn()) as progress:
        task = progress.add_task("reading", total=None)
        done = 0

        def advance(n_frames: int) -> None:
            nonlocal done
            done += n_frames
            progress.update(task, description=f"{done} frames")

        prepare(
            files,
            output,
            keys=parse_keys(keys),
            dipole_origin=parse_origin(dipole_origin),
            shard_size=shard_size,
            advance=advance,
        )
    report_set(output, console)


def report_set(folder: Path, console: Console) -> None:
    """Print what a prepared set holds, and warnings of its labels."""
    frames, index = open_set(folder), read_index(folder)
    print_report(console, {folder.name: frames}, index["keys"], index["dipole_origin"])
    size = sum(entry["bytes"] for entry in index["shards"])
    n_atoms = int(frames.column("atoms", 0).sum())
    say(
        console,
        f"{folder}: {len(frames)} frames, {n_atoms} atoms, {len(index['shards'])} shards, "
        f"{size / 2**20:.1f} MiB",
    )
