"""Tables as Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

__all__ = ["csv_table", "markdown_table"]


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table and an empty line after it; bars in cells are escaped."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (headings, *rows)]
    return [lines[0], "|" + "---|" * len(headings), *lines[1:], ""]


def csv_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """Content of a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows((headings, *rows))
    return text.getvalue().encode()
