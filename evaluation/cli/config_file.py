"""YAML: the one way in which files are read, config.yaml of a run, and the keys in which two configurations differ."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from evaluation.cli.errors import UserError, reason
from evaluation.files import atomic_write

ABSENT = "(absent)"


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


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # libyaml's: eight times as fast
    """YAML whose mappings are `Document`s, and in which a key that is given twice is an error."""

    file = ""

    def document(self, node: yaml.MappingNode) -> Iterator[Document]:
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        for index, key in enumerate(keys):
            if key in keys[:index]:
                mark = node.value[index][0].start_mark
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", mark)
        document = Document()
        yield document
        document.update(self.construct_mapping(node))
        document.where = {self.construct_object(key): f"{self.file}:{key.start_mark.line + 1}" for key, _ in node.value}


_Loader.add_constructor("tag:yaml.org,2002:map", _Loader.document)
yaml.SafeDumper.add_representer(Document, yaml.SafeDumper.represent_dict)


def parse_yaml(text: str, name: str) -> Document:
    """The mapping that a YAML text holds, an empty one if it holds nothing; `name` is the file's in errors.

    Presets, `--config`, config.yaml of a run and study files are all read with this.

    Raises:
        UserError: no valid YAML, a key given twice, or no mapping; "cannot read NAME:LINE: what is wrong".
    """
    loader = _Loader(text)
    loader.file = name
    try:
        values = loader.get_single_data()
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or reason(error)
        raise UserError(f"cannot read {name}{line}: no valid YAML: {problem}") from error
    finally:
        loader.dispose()
    if not isinstance(values, Document | None):
        raise UserError(f"cannot read {name}: expected `key: value` lines")
    return values or Document()


def read_yaml(path: Path, what: str = "") -> Document:
    """The mapping in a YAML file, as `parse_yaml`; `what` it is stands before its name in errors ("the study ")."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {what}{path}: {reason(error)}") from error
    return parse_yaml(text, str(path))


def write_config(path: Path, config: Any) -> None:
    """Write the whole of `config` to `path` as YAML, atomically, in its own order."""
    atomic_write(path, yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True))


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
        unset = (before is None or after is None) and (key not in flat_old or key not in flat_new)
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
