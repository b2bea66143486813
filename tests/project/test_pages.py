"""Pages that name code: every equation has a function, every file and name exists; prose is wrapped."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import electret
from places import ROOT

DOCS = ROOT / "docs"
BASES = [
    ROOT,
    ROOT / "python/electret",
    ROOT / "rust/core/src",
    ROOT / "rust/core",
    ROOT / "rust/py/src",
    ROOT / "tests",
]
PAGES_OF_CODE = [
    "equations.md",
    "life_of_a_call.md",
    "how_to_add.md",
    "caches.md",
    "architecture.md",
    "decisions.md",
]
REFERENCE = re.compile(r"`([\w/]+\.(?:py|pyi|rs|cu|cuh|md|yaml|toml|sh|csv|txt))(?::([\w.]+))?`")
DEFINITION = (
    r"(?:\b(?:fn|struct|enum|trait|type|const|static|class|def|macro_rules!|__global__ void)\s+{0}\b"
    r"|^\s*(?:self\.)?{0}\b[^=\n(]*=[^=])"
)
WIDTH = 120


def located(file: str) -> list[Path]:
    """Files that a page means by a path relative to the root or to a folder of code."""
    return [path for base in BASES if (path := base / file).is_file()]


def missing(file: str, name: str | None) -> str | None:
    """Fault of a reference, or None."""
    found = located(file)
    if not found:
        return f"{file} does not exist"
    for part in name.split(".") if name else []:
        pattern = re.compile(DEFINITION.format(re.escape(part)), re.M)
        if not any(pattern.search(path.read_text(encoding="utf-8")) for path in found):
            return f"{file} defines no {part}"
    return None


@pytest.mark.parametrize("page", PAGES_OF_CODE)
def test_named_files_and_names_exist(page: str) -> None:
    references = REFERENCE.findall((DOCS / page).read_text(encoding="utf-8"))
    references = [(file, name) for file, name in references if "NAME" not in file]  # of what is to be added
    wrong = [found for file, name in references if (found := missing(file, name or None))]
    assert not wrong, f"docs/{page}: " + "; ".join(wrong)


def test_a_wrong_reference_is_seen() -> None:
    assert missing("kernels/electrostatics.py", "coulomb") is None
    assert missing("kernels/electrostatics.py", "coulombs") == "kernels/electrostatics.py defines no coulombs"
    assert missing("kernels/no_such.py", None) == "kernels/no_such.py does not exist"


def test_every_numbered_equation_has_its_function() -> None:
    numbers: list[str] = []
    for page in sorted((DOCS / "theory").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        numbers += re.findall(r"\\tag\{(\w+)\}", text) + re.findall(r"\| \((\w\d+)\) \|", text)
        blocks = len(re.findall(r"^\$\$$", text, re.M)) // 2
        assert blocks == len(re.findall(r"\\tag\{", text)), f"{page.name} has an equation without a number"
    assert len(numbers) > 40
    assert len(set(numbers)) == len(numbers)
    rows = re.findall(
        r"^\| (\w\d+) \|.*?\| (.*?) \| (.*?) \|$", (DOCS / "equations.md").read_text(encoding="utf-8"), re.M
    )
    assert {number for number, _, _ in rows} == set(numbers)
    for number, code, check in rows:
        assert REFERENCE.search(code), f"{number} names no function"
        assert REFERENCE.search(check), f"{number} names no test"


def test_the_reference_has_every_public_name() -> None:
    pages = [DOCS / "api.md", *(DOCS / "reference").glob("*.md")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    tree = ast.parse((ROOT / "python/electret/torch/__init__.py").read_text(encoding="utf-8"))
    (torch_names,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    names = [name for name in (*electret.__all__, *torch_names) if not name.startswith("_")]
    assert len(names) > 15
    absent = [name for name in names if not re.search(rf"[.: ,]{name}\b", text)]
    assert not absent, f"docs/api.md and docs/reference lack {', '.join(absent)}"


def prose(text: str) -> list[tuple[int, str]]:
    """Lines outside code, equations, tables, pictures and headings, with their numbers."""
    out, fence = [], ""
    for number, line in enumerate(text.splitlines(), 1):
        start = line.strip()[:3]
        if fence:
            fence = "" if line.strip().startswith(fence) else fence
        elif start in ("```", ":::") or line.strip() == "$$":
            fence = start[:3]
        elif not line.lstrip().startswith(("|", "!", "#", "<")):
            out.append((number, line))
    return out


def test_pages_are_wrapped() -> None:
    pages = [
        *ROOT.glob("*.md"),
        *DOCS.rglob("*.md"),
        *(ROOT / "examples").rglob("*.md"),
        ROOT / "benches/README.md",
    ]
    assert len(pages) > 30
    wide = [
        f"{page.relative_to(ROOT)}:{number}"
        for page in pages
        for number, line in prose(page.read_text(encoding="utf-8"))
        if len(line) > WIDTH and " " in line.strip()[: WIDTH - 20]
    ]
    assert not wide, f"wider than {WIDTH} columns: " + ", ".join(wide)
