"""Reading and writing configurations: presets, YAML files with exact error lines, mappings, values given as text.

Layers go on top of each other: the dataclasses' defaults, a preset or `--config FILE`, flags. Whatever the layer, an
unknown option or a value of the wrong type is a `UserError` that says where it stands and what was expected.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from evaluation.cli.errors import UserError, reason
from evaluation.cli.values import check_range, coerce, did_you_mean, show
from rl import tasks
from rl.config import PRESETS, OptimizerConfig, TrainConfig, leaves


class Entry(NamedTuple):
    """One `key: value` and where it stands ("dqn.yaml:12"); a group's value is the list of its own entries."""

    key: str
    value: Any
    where: str


class Group(list[Entry]):
    """The entries of a group of options, or of a whole file."""


def load_preset(name: str) -> TrainConfig:
    """The preset `name` of `configs/rl/` on top of the dataclasses' defaults."""
    if name not in PRESETS:
        raise UserError(f"unknown preset {name!r}; there are {', '.join(PRESETS)}")
    config = TrainConfig()
    apply(config, _preset_entries(name))
    return config


@functools.cache
def _preset_entries(name: str) -> Group:
    text = resources.files("configs").joinpath("rl", f"{name}.yaml").read_text(encoding="utf-8")
    return parse_yaml(text, f"configs/rl/{name}.yaml")


def default_preset(game: Any) -> str:
    """The preset where none is named: `control` for a control task, `quick` for all other games and None."""
    return tasks.family(game).preset if isinstance(game, str) else PRESETS[0]


def load_file(config: TrainConfig, path: Path) -> None:
    """Put a YAML file on top of `config`.

    Raises:
        UserError: the file cannot be read, is no YAML, or holds an unknown option or a wrong value; names the line.
    """
    apply(config, read_file(path))


def read_file(path: Path) -> Group:
    """The entries of a YAML file; UserError: it cannot be read or is no YAML."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read --config {path}: {reason(error)}") from error
    return parse_yaml(text, str(path))


def update(config: TrainConfig, values: Mapping[str, Any], source: str) -> None:
    """Put a nested mapping on top of `config`; `source` is named in errors."""
    apply(config, _entries(values, source))


def dump(config: TrainConfig, comments: bool = False) -> str:
    """The complete configuration as YAML that `--config` reads back; with `comments`, each option's help beside it."""
    helps = {path: _comment(path, item) if comments else "" for path, item, _ in leaves(config)}
    lines = []
    for key, value in config.to_dict().items():
        if isinstance(value, dict):
            lines.append(f"{key}:")
            lines += [_line(f"  {name}", item, helps[f"{key}.{name}"]) for name, item in value.items()]
        else:
            lines.append(_line(key, value, helps[key]))
    return "\n".join(lines) + "\n"


def parse_yaml(text: str, name: str) -> Group:
    """YAML text of nested mappings -> entries that know their line; `name` is the file's name in errors."""
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        return Group() if node is None else _mapping(loader, node, name)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{name}{line}: no valid YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{name}: no valid YAML: {reason(error)}") from error
    finally:
        loader.dispose()


def _mapping(loader: yaml.SafeLoader, node: yaml.Node, name: str) -> Group:
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{name}:{node.start_mark.line + 1}: expected `option: value` lines")
    loader.flatten_mapping(node)
    entries = Group()
    for key_node, value_node in node.value:
        where = f"{name}:{key_node.start_mark.line + 1}"
        key = str(key_node.value)
        if key in (entry.key for entry in entries):
            raise UserError(f"{where}: option {key!r} is given twice")
        if isinstance(value_node, yaml.MappingNode):
            value: Any = _mapping(loader, value_node, name)
        else:
            value = loader.construct_object(value_node, deep=True)
        entries.append(Entry(key, value, where))
    return entries


def _entries(values: Mapping[str, Any], where: str) -> Group:
    return Group(
        Entry(str(key), _entries(value, where) if isinstance(value, Mapping) else value, where)
        for key, value in values.items()
    )


def apply(config: Any, entries: Iterable[Entry], prefix: str = "", faults: list[str] | None = None) -> None:
    """Set the entries' options in a config dataclass, checking names, types and ranges.

    A line for each fault goes into the list `faults`; without one the first is raised as a `UserError`.
    """
    for entry in entries:
        try:
            _set(config, entry, prefix, faults)
        except UserError as error:
            if faults is None:
                raise
            faults.append(str(error))


def _set(config: Any, entry: Entry, prefix: str, faults: list[str] | None) -> None:
    key, value, where = entry
    if key not in field_types(type(config)):
        raise UserError(f"{where}: unknown option {prefix + key!r}{did_you_mean(prefix + key, option_paths())}")
    current = getattr(config, key)
    if dataclasses.is_dataclass(current):
        if isinstance(current, OptimizerConfig) and isinstance(value, str):
            value = Group([Entry("name", value, where)])
        if not isinstance(value, Group):
            raise UserError(f"{where}: {prefix + key} is a group of options, got {value!r}")
        if isinstance(current, OptimizerConfig):
            switch_optimizer(current, {entry.key: entry.value for entry in value})
        apply(current, value, f"{prefix}{key}.", faults)
        return
    if isinstance(value, Group):
        raise UserError(f"{where}: {prefix + key} is a single option, not a group")
    allowed = next(item.metadata["allowed"] for item in dataclasses.fields(config) if item.name == key)
    try:
        result = coerce(value, field_types(type(config))[key])
        check_range(result, allowed)
    except ValueError as error:
        raise UserError(f"{where}: {prefix + key} {show(value)}: {error}") from error
    setattr(config, key, result)


def switch_optimizer(optimizer: OptimizerConfig, layer: Mapping[str, Any]) -> None:
    """A layer names another optimizer or rule: what the layers below set and it does not take goes back to null."""
    name, rule = layer.get("name", optimizer.name), layer.get("rule", optimizer.rule)
    if not optimizer.options() or (name, rule) == (optimizer.name, optimizer.rule):
        return
    from asgc import optimizers  # imports torch: only where it is needed

    try:
        taken = optimizers.options(name, rule or "adam")
    except (TypeError, ValueError):
        return  # unknown: the whole configuration's check says so
    for option in optimizer.options():
        if option not in taken:
            setattr(optimizer, option, None)


def field_types(cls: type) -> dict[str, Any]:
    """Field name -> type of a config dataclass (its annotations are text at run time)."""
    if cls not in _FIELD_TYPES:
        _FIELD_TYPES[cls] = typing.get_type_hints(cls)
    return _FIELD_TYPES[cls]


_FIELD_TYPES: dict[type, dict[str, Any]] = {}


@functools.cache
def option_paths() -> tuple[str, ...]:
    """The dotted paths of all options, groups included."""
    config = TrainConfig()
    groups = [item.name for item in dataclasses.fields(config) if dataclasses.is_dataclass(getattr(config, item.name))]
    return (*groups, *(path for path, _, _ in leaves(config)))


def _line(key: str, value: Any, comment: str) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=1000).splitlines()[0]
    return f"{f'{key}: {text}':<32}  # {comment}" if comment else f"{key}: {text}"


def _comment(path: str, item: dataclasses.Field[Any]) -> str:
    return str(item.metadata["help"]) + choices(path)


def choices(path: str) -> str:
    """ " (a, b)" for an option that is one of some words, else ""."""
    hint = field_types(_owner(path))[path.rpartition(".")[2]]
    words = next(
        (typing.get_args(part) for part in (hint, *typing.get_args(hint)) if typing.get_origin(part) is Literal), ()
    )
    return f" ({', '.join(words)})" if words else ""


def _owner(path: str) -> type:
    group = path.rpartition(".")[0]
    return type(getattr(TrainConfig(), group)) if group else TrainConfig
