"""Training configurations: options replaced, renamed, moved and removed, and damaged text; a configuration
that is accepted has to be written and read back unchanged."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fuzz.calls import pick

EXAMPLES = sorted((Path(__file__).parents[2] / "examples" / "train").glob("*.yaml"))

HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 10**6, 2**31, 2**63, 2**64, 10**30, 0.0, -1.5, 1e-320, 1e-300, 1e30, 1e300,
    float("nan"),
    float("inf"), -float("inf"), "", "text", "nan", "1:30", "1e3", "0x10", "\x00", "a\x00b", "../..", "~",
    "[/x]", "run[test]",
    [], {}, [[]], [None], [1, 2, 3], {"a": 1}, {1: 2}, {"H": "x"}, {"h": 1.0, "H": 2.0}, {"Xx": 1.0},
    [1e300], "1000000x0e",
    "banana", "8x0e", "8x0e + 8x1o", [-8], [10**6, 10**6], "-", "/dev/null", "/dev/full", "/", ".",
    "é" * 300, [["a"] * 3] * 3,
)  # fmt: skip

SNIPPETS = (
    "\t", "&a ", "*a", "<<: *a", "!!python/object:os.system ", "!!binary ", "? ", "- ", ": ", "{", "}", "[",
    "]", "\n", "#", "'", '"',
    "|", ">", "%", "@", "`", "\ufeff", "\x07", "1:30", "yes", "0o7", ".inf", "2026-11-30", "\N{SNOWMAN}",
)  # fmt: skip


def prepare() -> None:
    """Imports before the memory is limited."""
    from electret.training import TrainingConfig

    TrainingConfig.from_yaml(EXAMPLES[0])


def paths(options: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Key paths of all options, lists included."""
    items = (
        options.items()
        if isinstance(options, dict)
        else enumerate(options)
        if isinstance(options, list)
        else ()
    )
    return [found for key, value in items for found in [(*prefix, key), *paths(value, (*prefix, key))]]


def mutate(generator: np.random.Generator, options: dict[str, Any]) -> None:
    """Changes one option in place."""
    path = pick(generator, paths(options))
    parent: Any = options
    for key in path[:-1]:
        parent = parent[key]
    key = path[-1]
    kind = generator.integers(6)
    if kind < 3 or isinstance(parent, list):
        parent[key] = copy.deepcopy(pick(generator, HOSTILE))
    elif kind == 3:
        del parent[key]
    elif kind == 4:  # another name
        name = str(key)
        cut = int(generator.integers(len(name) + 1))
        parent[pick(generator, (name[:cut] + name[cut + 1 :], name + "s", name.upper(), 7, None, True))] = (
            parent[key]
        )
    else:  # another place
        other = pick(generator, [found for found in paths(options) if found])
        target: Any = options
        for step in other[:-1]:
            target = target[step]
        if isinstance(target, dict):
            target[key] = copy.deepcopy(parent[key])


def case(generator: np.random.Generator) -> tuple[str, Callable[[], Any]]:
    """One configuration file."""
    text = pick(generator, EXAMPLES).read_text(encoding="utf-8")
    if generator.random() < 0.7:
        options = yaml.safe_load(text)
        for _ in range(int(generator.integers(1, 4))):
            if paths(options):
                mutate(generator, options)
        text = yaml.safe_dump(options, allow_unicode=True)
    else:
        for _ in range(int(generator.integers(1, 4))):
            at = int(generator.integers(len(text)))
            text = text[:at] + pick(generator, SNIPPETS) + text[at + int(generator.integers(0, 4)) :]
    overrides = []
    if generator.random() < 0.2:
        option = ".".join(
            map(str, pick(generator, paths(yaml.safe_load(EXAMPLES[0].read_text(encoding="utf-8")))))
        )
        value = pick(generator, (*SNIPPETS, *map(str, HOSTILE)))
        overrides.append(pick(generator, (f"{option}={value}", option, f"={value}", f"{option}.x={value}")))
    return f"overrides {overrides!r} of\n{text}", lambda: call(text, overrides)


def call(text: str, overrides: list[str]) -> Any:
    """Reads the configuration; writes it and reads it back."""
    from electret.training import TrainingConfig
    from electret.training.config_file import write_config

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        config = TrainingConfig.from_yaml(path, overrides)
        again = Path(folder) / "again.yaml"
        write_config(config, again)
        if TrainingConfig.from_yaml(again) != config:
            raise AssertionError("the configuration changes when it is written and read")
