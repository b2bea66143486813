"""How the package shows text: users' words as they are, tables whole, in any encoding of the output."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

__all__ = ["PlainTable", "heading", "progress_bar", "say", "standard_console"]

_WIDE = 160
"""Columns where the output is a file or a pipe and has no width of its own."""


class _Console(Console):
    """Leaves a broken pipe to the caller, where rich would end the process."""

    def on_broken_pipe(self) -> None:
        raise


def standard_console(stderr: bool = False, quiet: bool = False) -> Console:
    """Standard output or error, or neither. Letters that its encoding lacks are written as escapes."""
    stream = sys.stderr if stderr else sys.stdout
    if getattr(stream, "errors", None) == "strict":
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    console = _Console(stderr=stderr, quiet=quiet)
    return console if console.is_terminal else _Console(stderr=stderr, width=_WIDE, quiet=quiet)


def say(console: Console, text: str, style: str = "") -> None:
    """Shows a line of text as it is: without markup, emoji codes or line breaks of its own."""
    console.print(Text(text, style), soft_wrap=True)


def heading(console: Console, text: str) -> None:
    """Shows a heading across the console."""
    console.print(Rule(Text(text)))


class PlainTable(Table):
    """A table whose title, headings and cells are shown as they are, and never cut.

    Args:
        title: above the table.
        headings: of its columns; None for a table of names and values.
        right: headings of columns of numbers.
    """

    def __init__(self, title: str, headings: Iterable[str] | None, right: Iterable[str] = ()) -> None:
        super().__init__(
            title=Text(title),
            title_justify="left",
            caption_justify="left",
            show_header=headings is not None,
        )
        numbers = set(right)
        for entry in ("", "") if headings is None else headings:
            self.add_column(Text(entry), justify="right" if entry in numbers else "left", overflow="fold")
        if headings is None:
            self.columns[0].style = "bold"

    def add_row(self, *cells: Any, **options: Any) -> None:
        """Adds a row of strings."""
        super().add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells), **options)

    def show(self, console: Console) -> None:
        """Prints the table, wider than the output if that is no terminal."""
        width = console.width
        if not console.is_terminal:
            natural = console.measure(self, options=console.options.update(width=100_000)).maximum
            console.width = max(natural, width)
        console.print(self)
        if not console.is_terminal:
            console.width = width


def progress_bar(console: Console, *columns: ProgressColumn) -> Progress:
    """Progress of tasks on a console, erased at the end."""
    shown = columns or (BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    return Progress(TextColumn("{task.description}", markup=False), *shown, console=console, transient=True)
