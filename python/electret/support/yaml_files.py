"""YAML as the package reads it: strict where YAML 1.1 guesses, with errors that name the place."""

from __future__ import annotations

import re
import sys
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from electret.errors import InputError

__all__ = ["check_values", "parse_yaml", "read_yaml"]

_MOST_ENTRIES = 100_000
_DEEPEST = 50
_MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice, reads 1e-3 as a number, and neither 1:30 nor 010 as one."""


def _mapping_without_duplicates(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key_node, _ in node.value:
        key = "<<" if key_node.tag == _MERGE else loader.construct_object(key_node, deep=True)
        problem = None
        if not isinstance(key, Hashable) or key is None or isinstance(key, (bool, tuple)):
            problem = f"a key is {key!r}; keys are words or numbers, and words such as 'no' need quotes"
        elif key in seen:
            problem = f"key '{key}' is given twice"
        if problem:
            raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
        seen.add(key)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_duplicates)
_Loader.yaml_implicit_resolvers = {
    first: [entry for entry in entries if entry[0].rsplit(":", 1)[-1] not in ("int", "float", "timestamp")]
    for first, entries in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"^[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F]+)$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(([0-9][0-9_]*\.[0-9_]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(inf|Inf|INF))$"
        r"|^\.(nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)


def read_yaml(path: Path, kind: str) -> dict[str, Any]:
    """Options of a file; `-` is standard input.

    Raises:
        InputError: no such file, not YAML, or no mapping; names the file and, where there is one, the line.
    """
    try:
        if str(path) == "-":
            content = sys.stdin.buffer.read()
        elif path.is_dir():
            raise InputError(f"{kind} '{path}' is a folder; give a YAML file")
        else:
            content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{kind} '{path}' does not exist") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{kind} '{path}' cannot be read: {error}") from error
    raw = parse_yaml(content, str(path))
    if not isinstance(raw, dict):
        raise InputError(f"{path}: the file must be a mapping of options, found {type(raw).__name__}")
    return raw


def parse_yaml(content: str | bytes, where: str) -> Any:
    """Value of a text in YAML.

    Raises:
        InputError: not YAML, or values that options cannot hold; begins with `where`.
    """
    try:
        value = yaml.load(content, Loader=_Loader)
        check_values(value)
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        reason = "" if isinstance(error, InputError) else "not valid YAML: "
        raise InputError(f"{where}: {reason}{' '.join(str(error).split())}") from error
    except RecursionError:
        raise InputError(f"{where}: entries are nested too deeply") from None
    return value


def check_values(value: Any) -> None:
    """Raises `InputError` with the place of what no option can hold: huge integers, characters of code 0."""
    _check(value, "", [0], 0)


def _check(value: Any, place: str, count: list[int], depth: int) -> None:
    count[0] += 1
    if count[0] > _MOST_ENTRIES:
        raise InputError(f"more than {_MOST_ENTRIES} entries")
    if depth > _DEEPEST:
        raise InputError(f"entries are nested more than {_DEEPEST} deep")
    if isinstance(value, dict):
        for key, entry in value.items():
            _check(key, place, count, depth)
            _check(entry, f"{place}.{key}" if place else str(key), count, depth + 1)
    elif isinstance(value, (list, set)):
        for index, entry in enumerate(value):
            _check(entry, f"{place}.{index}" if place else str(index), count, depth + 1)
    elif isinstance(value, str) and "\0" in value:
        raise InputError(f"{place}: {value!r} holds a character of code 0; remove it")
    elif isinstance(value, int) and abs(value) >= 2**63:
        raise InputError(f"{place}: an integer that does not fit 64 bits")
