"""Record of every epoch of a run: progress bar or plain lines, CSV, TensorBoard."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn

from electret.errors import InputError
from electret.support import ranks
from electret.support.console import progress_bar, say
from electret.support.outputs import CSV_FILE, atomic_write, writing
from electret.training.targets import TARGETS

__all__ = ["RunLog", "read_history"]


class RunLog:
    """Shows epochs on `console` and records them in `folder`."""

    def __init__(self, folder: Path, console: Console, n_epochs: int, tensorboard: bool = True) -> None:
        self._folder = folder
        self.console = console
        self._n_epochs = n_epochs
        self._tensorboard = tensorboard
        self._writer: Any = None
        self._columns: list[str] = []
        self._history: list[dict[str, Any]] = []

    def start(self, history: Sequence[dict[str, Any]]) -> None:
        """Bring the records to the state of `history`: rows that a resumed run will repeat are dropped."""
        if not ranks.is_first():
            return
        self._history = list(history)
        self._columns = []
        self._write_csv()
        if self._tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            with writing(self._folder / "tensorboard"):
                self._writer = SummaryWriter(
                    str(self._folder / "tensorboard"), purge_step=len(self._history) + 1
                )

    def message(self, text: str) -> None:
        """Show a line."""
        say(self.console, text)

    @contextmanager
    def epoch_bar(self, epoch: int, n_epochs: int, n_batches: int, done: int) -> Iterator[Callable[[], None]]:
        """A progress bar over the batches of an epoch on terminals; gives the function that advances it."""
        if not self.console.is_terminal:
            yield lambda: None
            return
        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with progress_bar(self.console, *columns) as bar:
            task = bar.add_task(f"epoch {epoch}/{n_epochs}", total=n_batches, completed=done)
            yield lambda: bar.advance(task)

    def epoch(self, row: dict[str, Any], best: bool) -> None:
        """Show and record a finished epoch, in the first rank."""
        if not ranks.is_first():
            return
        self._history.append(row)
        if set(row) <= set(self._columns):
            path = self._folder / CSV_FILE
            with writing(path), open(path, "a", encoding="utf-8", newline="") as file:
                csv.DictWriter(file, self._columns, restval="", lineterminator="\n").writerow(row)
        else:
            self._write_csv()
        if self._writer is not None:
            with writing(self._folder / "tensorboard"):
                for name, value in row.items():
                    if isinstance(value, (int, float)) and name != "epoch":
                        self._writer.add_scalar(_tag(name), value, row["epoch"])
                self._writer.flush()
        self.message(_line(row, self._n_epochs, best))

    def close(self) -> None:
        """Flush and release the files."""
        if self._writer is not None:
            self._writer.close()

    def _write_csv(self) -> None:
        self._columns = list(dict.fromkeys(name for row in self._history for name in row))
        text = io.StringIO()
        if self._columns:
            writer = csv.DictWriter(text, self._columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(self._history)
        atomic_write(self._folder / CSV_FILE, text.getvalue().encode())


def _tag(name: str) -> str:
    """TensorBoard groups `valid_forces_mae` under `valid`."""
    return name.replace("_", "/", 1)


def _line(row: dict[str, Any], n_epochs: int, best: bool) -> str:
    parts = [f"epoch {row['epoch']:>4}/{n_epochs} {row['stage']}", f"loss {row['train_loss']:.4g}"]
    parts.append(f"valid {row['valid_loss']:.4g}{'*' if best else ' '}")
    for name, target in TARGETS.items():
        value = row.get(f"valid_{name}_mae")
        if value is not None and value > 1e-9:  # exact quantities, as a conserved charge, are no news
            parts.append(f"{name} {value * target.scale:.2f} {target.unit}")
    if row.get("valid_scf_iterations"):
        parts.append(f"SCF {row['valid_scf_iterations']:.1f} iterations")
    unconverged = {kind: int(row.get(f"{kind}_unconverged", 0)) for kind in ("train", "valid")}
    if any(unconverged.values()):
        parts.append("unconverged " + ", ".join(f"{kind} {n}" for kind, n in unconverged.items() if n))
    parts.append(f"{row['seconds']:.1f} s")
    return " | ".join(parts)


def read_history(folder: Path) -> list[dict[str, Any]]:
    """Rows of the CSV of a run, numbers as floats, empty cells left out; a last row that was cut is left out.

    Raises:
        InputError: another row that holds no numbers; names file and line.
    """
    file = folder / CSV_FILE
    text = file.read_text(encoding="utf-8")
    rows = []
    lines = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline=""))
    for row in lines:
        try:
            rows.append(
                {
                    name: value if name == "stage" else float(value)
                    for name, value in row.items()
                    if value != ""
                }
            )
        except (TypeError, ValueError):
            raise InputError(f"{file}: line {lines.line_num} is no row of numbers; remove it") from None
    return rows
