"""Configurations of training from YAML: MACE's names, overrides, and errors that name file, key path and
nearest name."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import AliasChoices, BaseModel, ValidationError

from electret.errors import InputError
from electret.models.config import problems
from electret.support.outputs import atomic_write
from electret.support.yaml_files import check_values, parse_yaml, read_yaml
from electret.training.aliases import STAGE_ALIASES, TOP_LEVEL_ALIASES, WITHOUT_COUNTERPART, convert

__all__ = ["parse_config", "read_config", "write_config"]

Config = TypeVar("Config", bound=BaseModel)

# Options that the config class of the backbone accepts before validation, besides its fields.
_CHANNEL_OPTIONS = ("num_channels", "max_L")


def read_config(kind: type[Config], path: Path, overrides: Sequence[str] = ()) -> Config:
    """See `TrainingConfig.from_yaml`."""
    raw = read_yaml(path, "config file")
    return parse_config(kind, raw, path.parent, str(path), overrides)


def write_config(config: BaseModel, path: Path) -> None:
    """Write the complete config, defaults included, as YAML that `read_config` takes."""
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    atomic_write(path, text.encode())


def parse_config(
    kind: type[Config], raw: dict[str, Any], base: Path, source: str, overrides: Sequence[str] = ()
) -> Config:
    """Checked config of a dictionary; `source` names it in errors, `base` is the folder of relative data
    files."""
    try:
        check_values(raw)
        options = _expand_aliases(copy.deepcopy(raw))
        for override in overrides:
            _apply_override(options, override)
        _refuse_unknown(options, kind, "", kind)
        _make_absolute(options, base)
        return kind.model_validate(options)
    except ValidationError as error:
        raise InputError(f"{source}: {problems(error)}") from None
    except InputError as error:
        raise InputError(f"{source}: {error}") from None


def _expand_aliases(raw: dict[str, Any]) -> dict[str, Any]:
    """Options under our own names only."""
    options: dict[str, Any] = {}
    for_every_stage: dict[str, Any] = {}
    ema_decay = raw.get("ema_decay")
    if "ema" in raw and ema_decay is not None:
        # MACE switches the average on with one option and sets its decay with another.
        raw.pop("ema_decay" if raw["ema"] is False else "ema")
    for key, value in raw.items():
        name = str(key)
        if name == "model" and isinstance(value, str):
            _put(options, "model.family", convert("model.family", value), name)
        elif name in TOP_LEVEL_ALIASES:
            path = TOP_LEVEL_ALIASES[name]
            _put(options, path, convert(path, value), name)
        elif name in STAGE_ALIASES or name in ("optimizer", "scheduler", "loss"):
            _put_stage_option(for_every_stage, name, value)
        else:
            _put(options, name, value, name)
    if isinstance(options.get("data"), dict) and "e0s" in options["data"]:
        options["data"]["e0s"] = convert("data.e0s", options["data"]["e0s"])
    stages = _stages(options.get("stages"), for_every_stage)
    if stages or "stages" in options:
        options["stages"] = stages
    return options


def _stages(stages: Any, for_every_stage: dict[str, Any]) -> Any:
    if stages is None:
        return [{"name": "main", **for_every_stage}] if for_every_stage else []
    if not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
        raise InputError("stages: expected a list of mappings, one per stage")
    expanded = []
    for index, stage in enumerate(stages):
        own: dict[str, Any] = {}
        for name, value in stage.items():
            _put_stage_option(own, str(name), value)
        own.setdefault("name", "main" if len(stages) == 1 else f"stage_{index}")
        expanded.append(_merge(for_every_stage, own))
    return expanded


def _put_stage_option(stage: dict[str, Any], name: str, value: Any) -> None:
    path = STAGE_ALIASES.get(name, name)
    if name in ("optimizer", "scheduler", "loss") and isinstance(value, dict):
        path = name
    _put(stage, path, convert(path, value), name)


def _merge(defaults: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    merged = copy.deepcopy(defaults)
    for key, value in own.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _put(options: dict[str, Any], path: str, value: Any, name: str) -> None:
    """Set a key path; a value given under two names must be given once."""
    *parents, leaf = path.split(".")
    for parent in parents:
        options = options.setdefault(parent, {})
        if not isinstance(options, dict):
            raise InputError(f"{name}: it sets {path}, but {parent} is given as {options!r}; use one form")
    if isinstance(options.get(leaf), dict) and isinstance(value, dict):
        for key, item in value.items():
            _put(options[leaf], str(key), item, f"{name}.{key}")
    elif leaf in options and options[leaf] != value:
        raise InputError(f"{name}: {path} is given twice, as {options[leaf]!r} and as {value!r}; remove one")
    else:
        options[leaf] = value


def _apply_override(options: dict[str, Any], override: str) -> None:
    path, separator, text = override.partition("=")
    if not separator or not path.strip():
        raise InputError(f"override '{override}' must have the form key.path=value")
    value = parse_yaml(text, f"override '{override}'") if text.strip() else None
    path = path.strip()
    if path in STAGE_ALIASES:
        for index in range(len(options.get("stages", ()))):
            relative = STAGE_ALIASES[path]
            _set_path(options, f"stages.{index}.{relative}", convert(relative, value))
        return
    path = TOP_LEVEL_ALIASES.get(path, "model.family" if path == "model" and isinstance(value, str) else path)
    _set_path(options, path, convert(path, value))


def _set_path(options: Any, path: str, value: Any) -> None:
    *parents, leaf = path.split(".")
    for parent in parents:
        if isinstance(options, list):
            options = options[_index(options, parent, path)]
        else:
            options = options.setdefault(parent, {})
        if not isinstance(options, (dict, list)):
            raise InputError(f"override '{path}': '{parent}' is a single value and has no options")
    if isinstance(options, list):
        options[_index(options, leaf, path)] = value
    else:
        options[leaf] = value


def _index(items: list[Any], text: str, path: str) -> int:
    if not text.isdigit() or int(text) >= len(items):
        raise InputError(f"override '{path}': '{text}' is not an index of a list of {len(items)} entries")
    return int(text)


def _refuse_unknown(options: Any, model: type[BaseModel], path: str, whole: type[BaseModel]) -> None:
    """Raise for the first key that `model`, a part of `whole`, does not define, at any depth."""
    if not isinstance(options, dict):
        return
    names = _option_names(model)
    for key, value in options.items():
        place = f"{path}{key}"
        if key not in names:
            valid = {*names, *getattr(model, "other_names", ())}
            raise InputError(f"unknown option '{place}'; {_suggestion(str(key), path, valid, whole)}")
        for nested in _nested_models(names[key]):
            if isinstance(value, list):
                for index, item in enumerate(value):
                    _refuse_unknown(item, nested, f"{place}.{index}.", whole)
            else:
                _refuse_unknown(value, nested, f"{place}.", whole)


def _option_names(model: type[BaseModel]) -> dict[str, Any]:
    names: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        names[name] = field.annotation
        if isinstance(field.validation_alias, AliasChoices):
            names |= {str(choice): field.annotation for choice in field.validation_alias.choices}
    if "hidden_irreps" in names:
        names |= dict.fromkeys(_CHANNEL_OPTIONS)
    return names


def _nested_models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _nested_models(argument)


def _suggestion(key: str, path: str, valid: set[str], whole: type[BaseModel]) -> str:
    if key in WITHOUT_COUNTERPART:
        return f"instead of MACE's option, {WITHOUT_COUNTERPART[key]}"
    elsewhere = [place for place in _all_paths(whole, "") if place.rsplit(".", 1)[-1] == key]
    if elsewhere:
        return f"'{key}' belongs at '{elsewhere[0]}'"
    by_lower = {name.lower(): name for name in sorted(valid)}
    near = difflib.get_close_matches(key.lower(), by_lower, n=1, cutoff=0.0)
    return f"did you mean '{path}{by_lower[near[0]]}'?"


def _all_paths(model: type[BaseModel], path: str) -> Iterator[str]:
    for name, annotation in _option_names(model).items():
        yield f"{path}{name}"
        for nested in _nested_models(annotation):
            is_list = str(annotation).startswith("list")
            yield from _all_paths(nested, f"{path}{name}.{'0.' if is_list else ''}")


def _make_absolute(options: dict[str, Any], base: Path) -> None:
    """Data files relative to the folder of the config."""
    data, model = options.get("data"), options.get("model")

    def absolute(value: Any) -> Any:
        if str(value) == "-":
            return value
        if isinstance(value, (str, Path)):
            return str((base / Path(value).expanduser()).resolve())
        if isinstance(value, list):
            return [absolute(item) for item in value]
        if isinstance(value, dict):
            return {name: absolute(item) for name, item in value.items()}
        return value

    replay = data.get("replay") if isinstance(data, dict) else None
    for place, names in ((data, ("train", "valid", "test")), (replay, ("files",)), (model, ("start",))):
        if isinstance(place, dict):
            place.update({name: absolute(place[name]) for name in names if place.get(name) is not None})
