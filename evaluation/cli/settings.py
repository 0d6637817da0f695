"""Configurations: dataclasses whose fields are made with `option`, in groups that are dataclasses themselves.

The fields are the single source: flags, keys of YAML files, keyword arguments, help pages, commented dumps and checks
are made from them, and `Setting.put` takes or refuses a value whichever way it comes. A trainer's configuration is its
dataclasses (all with defaults) below `Config`; `evaluation.cli.train_command` makes its command line.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import typing
from collections.abc import Container, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from evaluation.cli.config_file import SHIPPED, Document, dump_yaml, parse_yaml, plain, read_yaml
from evaluation.cli.errors import UserError
from evaluation.cli.values import did_you_mean, read, show


def option(default: Any, help: str, allowed: str = "", **marks: Any) -> Any:
    """A dataclass field that is an option.

    Args:
        help: what it is, on the help page and in commented dumps.
        allowed: for numbers, an interval such as "[0, 1)".
        marks: more metadata, for the trainer's own checks, and for `Config.idle` ``needs=(path, *values)``: it does
            nothing unless that other option has one of these values.
    """
    metadata = {"help": help, "allowed": allowed, **marks}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Setting:
    """One option of a configuration."""

    path: str  # dotted, "optimizer.lr"
    hint: Any  # type of the value, as `evaluation.cli.values.read` understands it
    default: Any
    marks: Mapping[str, Any]  # the field's metadata

    @property
    def flag(self) -> str:
        """The command line's spelling: "optimizer.clip_factor" -> "--optimizer.clip-factor"."""
        return "--" + self.path.replace("_", "-")

    @property
    def about(self) -> str:
        """Its help text, with the words to choose from."""
        parts = (self.hint, *typing.get_args(self.hint))
        words = next((typing.get_args(part) for part in parts if typing.get_origin(part) is Literal), ())
        return self.marks["help"] + (f" ({', '.join(words)})" if words else "")

    def get(self, config: Any) -> Any:
        """The value in a configuration."""
        return functools.reduce(getattr, self.path.split("."), config)

    def put(self, config: Any, value: Any) -> None:
        """Set `value`, or what its text means, in a configuration; ValueError: what is allowed."""
        *groups, name = self.path.split(".")
        setattr(functools.reduce(getattr, groups, config), name, read(value, self.hint, self.marks["allowed"]))


class Config:
    """Base class of a trainer's configuration.

    Schedules of a preset that nobody gave (options marked with `shrinks_to`, their least value) shrink in proportion
    where a run is given less than the length that the preset was made for. They do not stretch: a longer run goes on as
    the shorter one ended, and a schedule over the whole run follows its length anyway.

    A group may have a method `prepare(values)`: it is called with what a layer says of the group, before that is set.
    A group with an option `name` may be given by it alone (`optimizer: adam`).
    """

    FOLDER: ClassVar[str] = ""  # of its presets in `configs/`
    PRESETS: ClassVar[tuple[str, ...]] = ()  # their names, the usual one first
    LENGTH: ClassVar[str] = ""  # the option that says how long a run is; "": nothing shrinks
    notes: tuple[str, ...] = ()  # lines to be said when the run starts
    given: Set[str] = frozenset()  # paths of the options that the layers on top of the preset have set

    @classmethod
    @functools.cache
    def settings(cls) -> dict[str, Setting]:
        """All options by their dotted paths, in the order of their fields."""
        return {one.path: one for one in _settings(cls())}

    def update(
        self, values: Mapping[str, Any], source: str, faults: list[str] | None = None, *, leave_unknown: bool = False
    ) -> set[str]:
        """Put a layer on top: nested mappings of options, or dotted paths; returns the paths of the options in it.

        Args:
            values: keys that a `Document` holds are named in errors with their file and line.
            source: named in the errors of all others.
            faults: takes a line for each unknown option and each wrong value; without it the first is raised.
            leave_unknown: unknown options are no fault: another version's.

        Raises:
            UserError: says where it stands and what was expected.
        """
        known = self.settings()
        groups = {path.rpartition(".")[0]: False for path in known if "." in path}
        groups |= {group: True for group in groups if f"{group}.name" in known}
        entries = list(_flat(values, groups, source))
        for group in groups:
            layer = {path.rpartition(".")[2]: value for path, value, _ in entries if path.startswith(f"{group}.")}
            if layer and hasattr(getattr(self, group), "prepare"):
                getattr(self, group).prepare(layer)
        for path, value, where in entries:
            if leave_unknown and path not in groups and path not in known:
                continue
            fault = ""
            if path in groups:
                fault = f"{path} is a group of options, got {value!r}"
            elif path not in known:
                fault = f"unknown option {path!r}{did_you_mean(path, (*groups, *known))}"
            elif isinstance(value, Mapping):
                fault = f"{path} is a single option, not a group"
            else:
                try:
                    known[path].put(self, value)
                except ValueError as error:
                    fault = f"{path} {show(value)}: {error}"
            if not fault:
                continue
            if faults is None:
                raise UserError(f"{where}: {fault}")
            faults.append(f"{where}: {fault}")
        return {path for path, *_ in entries}

    @classmethod
    def default_preset(cls, options: Mapping[str, Any]) -> str:
        """The preset where none is named, beside these options."""
        return cls.PRESETS[0]

    @classmethod
    def preset(cls, name: str | None = None, **options: Any) -> Self:
        """A preset with options on top; groups are given as mappings.

        `TrainConfig.preset("dqn", game="Breakout", optimizer={"name": "adam", "lr": 1e-4})`

        Raises:
            UserError: an unknown preset or option, or a wrong value.
        """
        return cls.layered(name, (options, f"{cls.__name__}.preset"))

    @classmethod
    def layered(cls, name: str | None, *layers: tuple[Mapping[str, Any], str], faults: list[str] | None = None) -> Self:
        """A preset (None: the default) and layers on top, each with its source; `faults`: see `update`."""
        options: dict[str, Any] = {}
        for values, _ in layers:
            options |= values
        name = name or cls.default_preset(options)
        if name not in cls.PRESETS:
            raise UserError(f"unknown preset {name!r}; there are {', '.join(cls.PRESETS)}")
        config = cls()
        for values in cls.shipped(name, options):
            config.update(values, name)
        made_for = cls.settings()[cls.LENGTH].get(config) if cls.LENGTH else 0
        config.given = set[str]().union(*[config.update(values, source, faults) for values, source in layers])
        if cls.LENGTH:
            config._shrink(made_for)
        return config

    @classmethod
    def shipped(cls, name: str, options: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        """The layers of a preset, beside these options of the layers on top."""
        return [_shipped(cls.FOLDER, name)]

    def has(self, path: str) -> bool:
        """Whether a run of this configuration has this option. What it does not have is not among the common options of
        its help page, and does not shrink."""
        return True

    def _shrink(self, made_for: int) -> None:
        """Schedules that were made for another length and were not given, for this one."""
        length, shrunk = self.settings()[self.LENGTH].get(self), []
        for path, one in self.settings().items():
            if length < made_for and "shrinks_to" in one.marks and path not in self.given and self.has(path):
                one.put(self, max(one.marks["shrinks_to"], one.get(self) * length // made_for))
                shrunk.append(f"{one.flag} {one.get(self)}")
        if shrunk:
            lengths = f"made for {made_for:,} steps, shrunk to {length:,}"
            self.notes += (f"{lengths}: {', '.join(shrunk)} (given, they stay)",)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; what is missing keeps its default. UserError: an unknown option, a wrong value."""
        config = cls()
        config.update(values, f"{cls.__name__}.from_dict")
        return config

    @classmethod
    def of_run(cls, path: Path, needed: Sequence[str] = ()) -> Self:
        """The configuration in config.yaml of a run, which may be another version's: what it lacks keeps its default,
        what is unknown here is left out (a resume says what).

        Args:
            needed: options and groups beside which others may have values that this version does not take.

        Raises:
            UserError: a value that this version does not take.
        """
        config, values = cls(), read_yaml(path)
        try:
            config.update(values, str(path), [] if needed else None, leave_unknown=True)
            config.update({key: values[key] for key in needed if key in values}, str(path), leave_unknown=True)
        except UserError as error:
            theirs = f"the version that trained it, named in {path.parent}/provenance.json, took it"
            raise UserError(f"{error}; {theirs}") from error
        return config

    def idle(self, apart: Container[str] = ()) -> Iterator[str]:
        """What was given and does nothing, as another option (its mark `needs`) has another value; a line each.

        Args:
            apart: paths of which that cannot be said.
        """
        for path, one in self.settings().items():
            if "needs" in one.marks and path not in apart and self.has(path):
                switch, *values = one.marks["needs"]
                other = self.settings()[switch]
                if other.get(self) not in values:
                    what = f"{other.flag} {' or '.join(map(show, values))}"
                    yield from self.unused(path, f"without {what}: give that too, or leave this out")

    def unused(self, path: str, why: str) -> Iterator[str]:
        """The line that an option has no effect, if it was given.

        Its default and the values of presets are nobody's fault: what `--print-config` wrote has them all.
        """
        one = self.settings()[path]
        value = one.get(self)
        known = value == one.default or path not in self.given
        if not known and all(value != one.get(self.preset(name)) for name in self.PRESETS):
            yield self.wrong(path, f"has no effect {why}")

    def to_dict(self) -> dict[str, Any]:
        """Nested dict of plain lists, numbers and strings in field order, ready for YAML and JSON."""
        values: dict[str, Any] = plain(self)
        return values

    def dump(self, comments: bool = False) -> str:
        """The complete configuration as YAML that reads back; with `comments`, each option's help beside it."""
        lines: list[str] = []
        known = self.settings()

        def write(values: Mapping[str, Any], group: str, indent: str) -> None:
            for key, value in values.items():
                if isinstance(value, dict):
                    lines.append(f"{indent}{key}:")
                    write(value, f"{group}{key}.", f"{indent}  ")
                else:
                    style = '"' if isinstance(value, str) and not value.isprintable() else None  # on one line
                    how = {"default_flow_style": True, "default_style": style, "width": math.inf}
                    text = dump_yaml(value, **how).splitlines()[0]
                    text = f"{indent}{key}: {text}"
                    lines.append(f"{text:<32}  # {known[group + key].about}" if comments else text)

        write(self.to_dict(), "", "")
        return "\n".join(lines) + "\n"

    def validate(self) -> None:
        """Raise the first of the `faults` as `UserError`."""
        for fault in self.faults():
            raise UserError(fault)

    def faults(self, together: bool = True) -> Iterator[str]:
        """Everything wrong, a line each that names the flag; writes canonical values (whole floats) back.

        What options must be to each other is looked at only with `together`, and where each alone is right.
        """
        for item in dataclasses.fields(self):  # type: ignore[arg-type]  # subclasses are dataclasses
            value, group = getattr(self, item.name), item.default_factory
            if isinstance(group, type) and dataclasses.is_dataclass(group) and not isinstance(value, group):
                yield f"{item.name}: expected a {group.__name__}, got {value!r}"
                return
        for path, one in self.settings().items():
            value = one.get(self)
            if value is one.default:
                continue  # right, and half of all
            try:
                one.put(self, value)
            except ValueError as error:
                together = False
                yield self.wrong(path, str(error))
        yield from self.faults_beside(together)

    def faults_beside(self, together: bool) -> Iterator[str]:
        """What the trainer checks beside each value alone; `together`: see `faults`."""
        yield from ()

    def wrong(self, path: str, allowed: str) -> str:
        """The line that says what the value of an option must be."""
        one = self.settings()[path]
        return f"{one.flag} {show(one.get(self))}: {allowed}"


def _settings(config: Any, prefix: str = "") -> Iterator[Setting]:
    hints = typing.get_type_hints(type(config), include_extras=True)
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            yield from _settings(value, f"{prefix}{item.name}.")
        else:
            yield Setting(prefix + item.name, hints[item.name], value, item.metadata)


def _flat(
    values: Mapping[Any, Any], groups: Mapping[str, bool], source: str, prefix: str = ""
) -> Iterator[tuple[str, Any, str]]:
    """(dotted path, value, where it stands) of everything in nested mappings; `groups`: whether they have a name."""
    for key, value in values.items():
        path = f"{prefix}{key}"
        where = values.where[key] if isinstance(values, Document) else source
        if path in groups and isinstance(value, Mapping):
            yield from _flat(value, groups, where, f"{path}.")
        else:
            yield (f"{path}.name" if groups.get(path) and isinstance(value, str) else path), value, where


@functools.cache
def _shipped(folder: str, name: str) -> Document:
    text = (SHIPPED / folder / f"{name}.yaml").read_text(encoding="utf-8")
    return parse_yaml(text, f"configs/{folder}/{name}.yaml")
