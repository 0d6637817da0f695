"""config.yaml of a run: writing it, reading it, and naming the keys in which two configurations differ."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from evaluation.cli.errors import UserError, reason
from evaluation.files import atomic_write

ABSENT = "(absent)"
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where it is


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


class UniqueKeys(yaml.SafeLoader):
    """YAML in which a key that is given twice is an error instead of silently the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        for index, key in enumerate(keys):
            if key in keys[:index]:
                mark = node.value[index][0].start_mark
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", mark)
        return super().construct_mapping(node, deep)


def write_config(path: Path, config: Any) -> None:
    """Write the whole of `config` to `path` as YAML, atomically, in its own order."""
    atomic_write(path, yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True))


def read_config(path: Path) -> dict[str, Any]:
    """Read what `write_config` wrote. `UserError` when the file cannot be read or is not a mapping."""
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), _LOADER)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot read {path}: {reason(error)}") from error
    if not isinstance(config, dict):
        raise UserError(f"cannot read {path}: not a mapping of keys and values")
    return config


def differences(old: Any, new: Any, ignore: Iterable[str] = ()) -> dict[str, tuple[Any, Any]]:
    """The keys in which two configurations differ, dotted (``optimizer.lr``) -> (old value, new value).

    A key of `ignore` stands for itself and everything below it. A key on one side only has the other value `ABSENT`,
    and is no difference while it is None: an option of a later version that is left to its own default.
    """
    ignored = tuple(ignore)
    flat_old, flat_new = flatten(plain(old)), flatten(plain(new))
    found = {}
    for key in dict.fromkeys([*flat_old, *flat_new]):
        before, after = flat_old.get(key, ABSENT), flat_new.get(key, ABSENT)
        unset = key not in flat_old or key not in flat_new
        if any(key == name or key.startswith(f"{name}.") for name in ignored) or _same(before, after):
            continue
        if unset and (before is None or after is None):
            continue
        found[key] = (before, after)
    return found


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """A nested mapping by dotted keys: {"optimizer": {"lr": 1}} -> {"optimizer.lr": 1}."""
    if not isinstance(value, dict) or (not value and prefix):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= flatten(item, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, bool) != isinstance(other, bool):
        return False  # Python takes True for 1
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one) and math.isnan(other):
        return True
    return bool(one == other)
