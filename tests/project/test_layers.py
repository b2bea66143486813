"""Imports point downwards through the layers of docs/architecture.md, and no modules import each other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "python" / "electret"
LAYERS = (
    *("_native", "errors", "units", "support", "kernels", "cuda", "torch", "conditions", "labels", "graph"),
    *(
        "data",
        "scf",
        "models",
        "polar",
        "training",
        "calculator",
        "dynamics",
        "interfaces",
        "analysis",
        "demo",
        "cli",
    ),
    "testing",
)
"""From the lowest to the highest."""


def imports(tree: ast.AST, at_import: bool) -> Iterator[str]:
    """Modules of the package that a file imports; with `at_import` those of its own import alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "electret":
            yield from (f"{node.module}.{entry.name}" for entry in node.names)
        elif isinstance(node, ast.Import):
            yield from (entry.name for entry in node.names if entry.name.startswith("electret."))
        elif not at_import or not isinstance(node, ast.FunctionDef | ast.If):
            yield from imports(node, at_import)


def modules() -> dict[str, ast.AST]:
    found = {}
    for file in PACKAGE.rglob("*.py"):
        parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = ast.parse(file.read_text(encoding="utf-8"))
    return found


def test_imports_point_downwards() -> None:
    seen = set()
    for name, tree in modules().items():
        if name in ("electret", "electret.__main__"):
            continue
        own = name.split(".")[1]
        for imported in imports(tree, at_import=False):
            layer = imported.split(".")[1]
            if layer in LAYERS and layer != own:
                seen.add((layer, own))
                assert LAYERS.index(layer) < LAYERS.index(own), f"{name} imports {imported}"
    assert len(seen) > 50


def test_no_modules_import_each_other() -> None:
    found = modules()
    graph: dict[str, set[str]] = {}
    for name, tree in found.items():
        for imported in imports(tree, at_import=True):
            module = imported if imported in found else imported.rpartition(".")[0]
            if module not in ("electret", name):
                graph.setdefault(name, set()).add(module)
    TopologicalSorter(graph).prepare()  # raises CycleError with the modules of a circle
    assert sum(map(len, graph.values())) > 400
