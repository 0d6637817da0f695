"""YAML: the one way in which files are read, config.yaml of a run, and the keys in which two configurations differ."""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import yaml

from evaluation.cli.errors import UserError, reason
from evaluation.cli.values import did_you_mean
from evaluation.files import atomic_write

ABSENT = "(absent)"
# The toolkit's own YAML, beside this package: a package `configs` of the user's may come first on the path.
SHIPPED = Path(__file__).parents[2] / "configs"


def find_definition(name: str, what: str, shipped: Path, file: str, runs: Path | None = None) -> Path:
    """The YAML file that somebody means: a path, a folder with a `file` in it, the name of one of the toolkit's own in
    the folder `shipped`, or that of a folder in `runs`.

    Raises:
        UserError: there is none; says `what` was looked for.
    """
    path = Path(name)
    if path.is_file():
        return path
    if (path / file).is_file():
        return path / file
    own = {one.stem: one for one in shipped.glob("*.yaml")}
    if name in own:
        return own[name]
    if runs is not None and (runs / name / file).is_file():
        return runs / name / file
    hint = did_you_mean(name, tuple(own)) or f"; the toolkit's own are {', '.join(sorted(own))}"
    raise UserError(f"no such {what}: {name}{hint}")


def plain(config: Any) -> Any:
    """`config` (dataclasses, mappings, sequences, paths, enums, NumPy numbers) as what YAML gives back when it is
    read."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {field.name: plain(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {str(key): plain(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [plain(value) for value in config]
    if isinstance(config, enum.Enum):
        return plain(config.value)
    if isinstance(config, Path):
        return str(config)
    return config.item() if hasattr(config, "item") else config


class Document(dict[Any, Any]):
    """A mapping of a YAML file. `where` says of each key where it stands: "dqn.yaml:12"."""

    where: dict[Any, str]


# YAML 1.2's core schema: what text without quotes means, by its tag and first letters. 010 is ten, 1:30:00 and yes are
# text, 1e-3 is a number. PyYAML's own is YAML 1.1's.
_TAG = "tag:yaml.org,2002:"
_CORE = (
    ("null", r"~|null|Null|NULL|", [*"~nN", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", [*"-+0123456789"]),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        [*"-+.0123456789"],
    ),
)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # libyaml's: eight times as fast
    """YAML 1.2 whose mappings are `Document`s. Keys are text as it was written, and none may be given twice."""

    file = ""
    texts: Collection[str] = ()
    yaml_implicit_resolvers: ClassVar[dict[Any, Any]] = {}

    def document(self, node: yaml.MappingNode) -> Iterator[Document]:
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != f"{_TAG}merge":
                key.tag = f"{_TAG}str"
            if key.value in self.texts:
                for item in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    if isinstance(item, yaml.ScalarNode) and (item is not value or item.tag != f"{_TAG}null"):
                        item.tag = f"{_TAG}str"
        keys = [key.value for key, _ in node.value if key.tag != f"{_TAG}merge"]
        for index, key in enumerate(keys):
            if key in keys[:index]:
                mark = node.value[index][0].start_mark
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", mark)
        document = Document()
        yield document
        document.update(self.construct_mapping(node))
        document.where = {self.construct_object(key): f"{self.file}:{key.start_mark.line + 1}" for key, _ in node.value}

    def number(self, node: yaml.ScalarNode) -> int | float:
        text = node.value.lower()
        if text.lstrip("-+") in (".inf", ".nan"):
            return float(text.replace(".", ""))
        if node.tag == f"{_TAG}float":
            return float(text)
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


class _Dumper(yaml.SafeDumper):
    """Quotes all text that YAML 1.1 or 1.2 would take for something else, so that every reader reads it back."""

    def text(self, text: str) -> yaml.ScalarNode:
        return self.represent_scalar(f"{_TAG}str", text, style='"' if "\x85" in text else None)  # a line's end in YAML


_Loader.add_constructor(f"{_TAG}map", _Loader.document)
_Loader.add_implicit_resolver(f"{_TAG}merge", re.compile("<<"), ["<"])
for _name, _pattern, _first in _CORE:
    for _reader in (_Loader, _Dumper):
        _reader.add_implicit_resolver(f"{_TAG}{_name}", re.compile(f"^(?:{_pattern})$"), _first)
for _name in ("int", "float"):
    _Loader.add_constructor(f"{_TAG}{_name}", _Loader.number)
_Dumper.add_representer(str, _Dumper.text)
for _writer in (yaml.SafeDumper, _Dumper):
    _writer.add_representer(Document, _writer.represent_dict)


def dump_yaml(value: Any, **how: Any) -> str:
    """`value` (`plain`) as YAML that `parse_yaml` reads back equal; `how`: of `yaml.dump`."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, **how)
    return text


def parse_yaml(text: str, name: str, texts: Collection[str] = ()) -> Document:
    """The mapping that a YAML text holds, an empty one if it holds nothing.

    Presets, `--config`, config.yaml of a run and study files are all read with this.

    Args:
        name: the file's, in errors.
        texts: keys whose values, single ones and those in lists, are text as it was written, whatever it looks like.

    Raises:
        UserError: no valid YAML, a key given twice, or no mapping; "cannot read NAME:LINE: what is wrong".
    """
    loader = _Loader(text)
    loader.file, loader.texts = name, texts
    try:
        values = loader.get_single_data()
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:  # of `!!bool maybe`
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or reason(error)
        raise UserError(f"cannot read {name}{line}: no valid YAML: {problem}") from error
    finally:
        loader.dispose()
    if not isinstance(values, Document | None):
        raise UserError(f"cannot read {name}: expected `key: value` lines")
    return values or Document()


def read_yaml(path: Path, what: str = "", texts: Collection[str] = ()) -> Document:
    """The mapping in a YAML file, as `parse_yaml`; `what` it is stands before its name in errors ("the study ")."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {what}{path}: {reason(error)}") from error
    return parse_yaml(text, str(path), texts)


def write_config(path: Path, config: Any) -> None:
    """Write the whole of `config` to `path` as YAML, atomically, in its own order."""
    atomic_write(path, dump_yaml(plain(config)))


def read_config(path: Path) -> dict[str, Any]:
    """Read what `write_config` wrote. `UserError` when the file cannot be read, or holds no mapping or nothing."""
    config: dict[str, Any] = plain(read_yaml(path))
    if not path.stat().st_size:
        raise UserError(f"cannot read {path}: it is empty")
    return config


def differences(
    old: Any, new: Any, ignore: Iterable[str] = (), defaults: Mapping[str, Any] | None = None
) -> dict[str, tuple[Any, Any]]:
    """The keys in which two configurations differ, dotted (``optimizer.lr``) -> (old value, new value).

    A key of `ignore` stands for itself and everything below it. A key on one side only has the other value `ABSENT`,
    and is no difference while it is None: an option of a later version that is left to its own default. `defaults` are
    what other options mean that `old` does not have.
    """
    names = tuple(ignore)
    flat_old, flat_new, flat_defaults = (flatten(plain(config)) for config in (old, new, defaults or {}))
    found = {}
    for key in dict.fromkeys([*flat_old, *flat_new]):
        before, after = flat_old.get(key, flat_defaults.get(key, ABSENT)), flat_new.get(key, ABSENT)
        ignored = any(key == name or key.startswith(f"{name}.") for name in names)
        unset = (key not in flat_old and after is None) or (key not in flat_new and before is None)
        if not (ignored or unset or _same(before, after)):
            found[key] = (before, after)
    return found


def leaves(
    values: Mapping[Any, Any], is_leaf: Callable[[Mapping[Any, Any]], bool] = lambda value: False, prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of all that nested mappings hold; a mapping that `is_leaf` is a value itself."""
    for key, value in values.items():
        if isinstance(value, Mapping) and not is_leaf(value):
            yield from leaves(value, is_leaf, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """A nested mapping by dotted keys: {"optimizer": {"lr": 1}} -> {"optimizer.lr": 1}. Empty ones stay."""
    return dict(leaves(values, lambda value: not value))


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, bool) != isinstance(other, bool):
        return False  # Python takes True for 1
    return bool(one == other or (one != one and other != other))  # a NaN is not itself
