"""Configurations: dataclasses whose fields are made with `option`, in groups that are dataclasses themselves.

The fields are the single source: flags, keys of YAML files, keyword arguments, help pages, commented dumps and checks
are made from them. Whichever way a value comes, `Setting.read` takes or refuses it. A trainer's configuration is its
dataclasses (all with defaults) below `Config`.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Literal, Self

import yaml

from evaluation.cli.config_file import Document, parse_yaml, plain
from evaluation.cli.errors import UserError
from evaluation.cli.values import check_range, coerce, did_you_mean, show


def option(default: Any, help: str, allowed: str = "", **marks: Any) -> Any:
    """A dataclass field that is an option.

    Args:
        help: what it is, on the help page and in commented dumps.
        allowed: for numbers, an interval such as "[0, 1)".
        marks: more metadata, for the trainer's own checks.
    """
    metadata = {"help": help, "allowed": allowed, **marks}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Setting:
    """One option of a configuration.

    Attributes:
        path: dotted, "optimizer.lr".
        hint: type of the value, as `evaluation.cli.values.coerce` understands it.
        default: of the dataclass.
        marks: the field's metadata.
    """

    path: str
    hint: Any
    default: Any
    marks: Mapping[str, Any]

    @property
    def flag(self) -> str:
        """The command line's spelling: "optimizer.clip_factor" -> "--optimizer.clip-factor"."""
        return flag(self.path)

    @property
    def about(self) -> str:
        """Its help text, with the words to choose from."""
        parts = (self.hint, *typing.get_args(self.hint))
        words = next((typing.get_args(part) for part in parts if typing.get_origin(part) is Literal), ())
        return self.marks["help"] + (f" ({', '.join(words)})" if words else "")

    def read(self, value: Any) -> Any:
        """`value`, or what its text means, as the option's type; ValueError: what is allowed."""
        result = coerce(value, self.hint)
        check_range(result, self.marks["allowed"])
        return result

    def get(self, config: Any) -> Any:
        """The value in a configuration."""
        group, name = self._place(config)
        return getattr(group, name)

    def put(self, config: Any, value: Any) -> None:
        """Set the value in a configuration, as it is."""
        group, name = self._place(config)
        setattr(group, name, value)

    def _place(self, config: Any) -> tuple[Any, str]:
        group, _, name = self.path.rpartition(".")
        return (getattr(config, group) if group else config), name


def flag(path: str) -> str:
    """The command line's spelling of a dotted path."""
    return "--" + path.replace("_", "-")


@functools.cache
def settings(cls: type) -> dict[str, Setting]:
    """All options of a configuration class by their dotted paths, in the order of their fields."""
    found: dict[str, Setting] = {}
    config, hints = cls(), typing.get_type_hints(cls)
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            for one in settings(type(value)).values():
                found[f"{item.name}.{one.path}"] = dataclasses.replace(one, path=f"{item.name}.{one.path}")
        else:
            found[item.name] = Setting(item.name, hints[item.name], value, item.metadata)
    return found


class Config:
    """Base class of a trainer's configuration.

    A group may have a method `prepare(values)`: it is called with what a layer says of the group, before that is set.
    A group with an option `name` may be given by it alone (`optimizer: adam`).
    """

    def update(self, values: Mapping[str, Any], source: str, faults: list[str] | None = None) -> None:
        """Put a layer on top: nested mappings of options, or dotted paths.

        Args:
            values: keys that a `Document` holds are named in errors with their file and line.
            source: named in the errors of all others.
            faults: takes a line for each unknown option and each wrong value; without it the first is raised.

        Raises:
            UserError: says where it stands and what was expected.
        """
        known = settings(type(self))
        groups = dict.fromkeys(path.rpartition(".")[0] for path in known if "." in path)
        entries = list(_flat(values, {*known, *groups}, groups, source))
        for group in groups:
            layer = {path.rpartition(".")[2]: value for path, value, _ in entries if path.startswith(f"{group}.")}
            if layer and hasattr(getattr(self, group), "prepare"):
                getattr(self, group).prepare(layer)
        for path, value, where in entries:
            try:
                if path in groups:
                    raise UserError(f"{where}: {path} is a group of options, got {value!r}")
                if path not in known:
                    raise UserError(f"{where}: unknown option {path!r}{did_you_mean(path, (*groups, *known))}")
                if isinstance(value, Mapping):
                    raise UserError(f"{where}: {path} is a single option, not a group")
                try:
                    known[path].put(self, known[path].read(value))
                except ValueError as error:
                    raise UserError(f"{where}: {path} {show(value)}: {error}") from error
            except UserError as error:
                if faults is None:
                    raise
                faults.append(str(error))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; what is missing keeps its default.

        Raises:
            UserError: an unknown option, or a wrong value.
        """
        config = cls()
        config.update(values, f"{cls.__name__}.from_dict")
        return config

    def to_dict(self) -> dict[str, Any]:
        """Nested dict of plain lists, numbers and strings in field order, ready for YAML and JSON."""
        values: dict[str, Any] = plain(self)
        return values

    def dump(self, comments: bool = False) -> str:
        """The complete configuration as YAML that reads back; with `comments`, each option's help beside it."""
        known, lines = settings(type(self)), []
        for key, value in self.to_dict().items():
            if isinstance(value, dict):
                lines.append(f"{key}:")
                lines += [_line(name, item, known[f"{key}.{name}"], comments, "  ") for name, item in value.items()]
            else:
                lines.append(_line(key, value, known[key], comments))
        return "\n".join(lines) + "\n"

    def validate(self) -> None:
        """Check every option alone, then together, and write canonical values back.

        Raises:
            UserError: one line that names the flag, its value and what is allowed.
        """
        for fault in self.faults():
            raise UserError(fault)

    def faults(self, together: bool = True) -> Iterator[str]:
        """Everything wrong, a line each that names the flag; writes canonical values (whole floats) back.

        What options must be to each other is looked at only with `together`, and where each alone is right.
        """
        for one in settings(type(self)).values():
            value = one.get(self)
            try:
                one.put(self, one.read(value))
            except ValueError as error:
                together = False
                yield f"{one.flag} {show(value)}: {error}"
        yield from self.faults_of_groups(together)

    def faults_of_groups(self, together: bool) -> Iterator[str]:
        """What the trainer checks beyond each value alone; `together`: see `faults`."""
        yield from ()


def _flat(
    values: Mapping[Any, Any], known: Iterable[str], groups: Iterable[str], source: str, prefix: str = ""
) -> Iterator[tuple[str, Any, str]]:
    """(dotted path, value, where it stands) of everything in nested mappings."""
    for key, value in values.items():
        path = f"{prefix}{key}"
        where = values.where[key] if isinstance(values, Document) else source
        if path in groups and isinstance(value, Mapping):
            yield from _flat(value, known, groups, where, f"{path}.")
        elif path in groups and isinstance(value, str) and f"{path}.name" in known:
            yield f"{path}.name", value, where
        else:
            yield path, value, where


def _line(key: str, value: Any, setting: Setting, comments: bool, indent: str = "") -> str:
    text = f"{indent}{key}: {yaml.safe_dump(value, default_flow_style=True, width=1000).splitlines()[0]}"
    return f"{text:<32}  # {setting.about}" if comments else text


@functools.cache
def preset(folder: str, name: str, names: Sequence[str]) -> Document:
    """What the preset `name` in `configs/FOLDER/` says; UserError: it is not one of `names`."""
    if name not in names:
        raise UserError(f"unknown preset {name!r}; there are {', '.join(names)}")
    text = resources.files("configs").joinpath(folder, f"{name}.yaml").read_text(encoding="utf-8")
    return parse_yaml(text, f"configs/{folder}/{name}.yaml")
