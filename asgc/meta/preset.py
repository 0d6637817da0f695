"""A learned setting of ASGC in a file, with what it was learned from, and the optimizer made from it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from torch import Tensor

from ..option import nearest
from ..options import LR, RULE, check_values
from .space import KINDS, PARAMETERS, Space, kinds_of

__all__ = ["FORMAT", "KIND", "Preset"]

FORMAT = 1
KIND = "asgc_kind"  # of a parameter group's layers, kept in the group
_LEARNED = "asgc_learned"  # which of its options are the preset's
_SUFFIX = ".json"


@dataclass(frozen=True)
class Preset:
    """Options of ASGC by kind of layer.

    Attributes:
        name: how it is asked for.
        rule: base rule that it was learned with.
        options: the same for all layers and fixed while it was learned (mode, momentum, betas, ...).
        values: learned ones by kind of layer, at the start of training.
        late: the same at its end, where they change with the share that is done; {}: they stay.
        lr: learning rate that was learned with them; None: none was.
        provenance: how it came about: tasks, seeds, learner, command, version.
        format: of the file.
    """

    name: str
    rule: str
    options: Mapping[str, Any]
    values: Mapping[str, Mapping[str, float]]
    late: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    lr: float | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    def __post_init__(self) -> None:
        RULE.check(self.rule)
        if self.lr is not None:
            LR.check(self.lr)
        for what in ("options", "values", "late", "provenance"):
            if not isinstance(getattr(self, what), Mapping):
                raise ValueError(f"preset {self.name}: {what} must be names with values, not {getattr(self, what)!r}")
        for kind, own in (*self.values.items(), *self.late.items()):
            if kind not in KINDS:
                raise ValueError(f"preset {self.name}: no kind of layer {kind!r}: there are {', '.join(KINDS)}")
            if not isinstance(own, Mapping):
                raise ValueError(f"preset {self.name}: {kind} must be options with values, not {own!r}")
            for name, value in own.items():
                if name not in PARAMETERS or PARAMETERS[name].everywhere:
                    raise ValueError(
                        f"preset {self.name}: no option {name!r} can be learned by layer{nearest(name, PARAMETERS)}"
                    )
                if isinstance(value, bool) or not isinstance(value, int | float):
                    raise ValueError(f"preset {self.name}: {name} of {kind} must be a number, not {value!r}")
                check_values({name: value})
        if self.late and {kind: set(own) for kind, own in self.late.items()} != {
            kind: set(own) for kind, own in self.values.items()
        }:
            raise ValueError(f"preset {self.name}: late has other layers or options than values")

    @classmethod
    def learned(
        cls,
        name: str,
        rule: str,
        options: Mapping[str, Any],
        space: Space,
        vector: Tensor,
        provenance: Mapping[str, Any] | None = None,
    ) -> Preset:
        """What a vector of a space says."""

        def plain(share: float) -> dict[str, dict[str, float]]:
            every = space.values(vector.detach(), share)
            return {
                kind: {one: float(value) for one, value in own.items() if not PARAMETERS[one].everywhere}
                for kind, own in every.items()
            }

        lr = float(space.values(vector.detach())[KINDS[0]]["lr"]) if "lr" in space.names else None
        late = plain(1.0) if space.by_share else {}
        return cls(name, rule, dict(options), plain(0.0), late, lr, dict(provenance or {}))

    def save(self, path: str | Path) -> None:
        """Write it."""
        Path(path).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, name: str | Path | Preset) -> Preset:
        """A preset that comes with the package, by its name, one in a file, or the one that is given.

        Raises:
            ValueError: there is none; it is damaged, or of a later version.
        """
        if isinstance(name, Preset):
            return name
        shipped = resources.files(__package__).joinpath("presets")
        files = shipped.iterdir() if shipped.is_dir() else ()
        known = {file.name.removesuffix(_SUFFIX): file for file in files if file.name.endswith(_SUFFIX)}
        file = known.get(str(name)) or Path(name)
        if not file.is_file():
            hint = nearest(str(name), known)
            there = f"the package's own are {', '.join(sorted(known))}; " if known and not hint else ""
            raise ValueError(f"no preset {str(name)!r}{hint}: {there}give the path of a file of asgc-meta learn")
        try:
            read = json.loads(file.read_text(encoding="utf-8"))
            version = read["format"]
            if not isinstance(version, int) or not 1 <= version <= FORMAT:
                raise ValueError(
                    f"preset {name} has format {version!r}, this asgc reads up to {FORMAT}: a later asgc is needed"
                )
            return cls(**read)
        except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"preset {name} is damaged: {error}") from error

    def at(self, share: float) -> dict[str, dict[str, float]]:
        """Options by kind of layer when a share of the training, from 0 to 1, is done."""
        if not self.late:
            return {kind: dict(values) for kind, values in self.values.items()}
        import torch

        def between(name: str, first: float, last: float) -> float:
            if first == last or share in (0, 1):  # as they are, also beyond what is learned
                return last if share == 1 else first
            one = PARAMETERS[name]
            z = (1 - share) * one.z(first) + share * one.z(last)
            return float(one.value(torch.tensor(z, dtype=torch.float64, device="cpu")))

        return {
            kind: {name: between(name, value, self.late[kind][name]) for name, value in values.items()}
            for kind, values in self.values.items()
        }

    def groups(self, params: Any, but: Collection[str] = ()) -> list[dict[str, Any]]:
        """Parameter groups for ``ASGC``, one for each kind of layer.

        Args:
            params: parameters, named parameters (by whose names embeddings are known), or parameter groups, which are
                split; what a group sets itself stays.
            but: options that are left out, as somebody sets them.

        Raises:
            ValueError: a layer of a kind that the preset has no options for.
        """
        given = list(params)
        whole = given if given and isinstance(given[0], dict) else [{"params": given}]
        members = [[_named(item) for item in _listed(group["params"])] for group in whole]
        flat = [one for some in members for one in some]
        kinds = iter(kinds_of([param for _, param in flat], [name for name, _ in flat]))
        every, result = self.at(0.0), list[dict[str, Any]]()
        values = {kind: {name: v for name, v in own.items() if name not in but} for kind, own in every.items()}
        for group, some in zip(whole, members, strict=True):
            by_kind: dict[str, list[Any]] = {}
            for name, param in some:
                kind = next(kinds)
                if kind not in values:
                    what = f"{name} ({kind})" if name else f"a parameter of shape {tuple(param.shape)} ({kind})"
                    raise ValueError(
                        f"preset {self.name} has nothing for {what}: it was learned on {', '.join(values)}"
                    )
                by_kind.setdefault(kind, []).append(param if name is None else (name, param))
            own = {key: value for key, value in group.items() if key != "params"}
            for kind, chosen in by_kind.items():
                learned = {name: value for name, value in values[kind].items() if name not in own}
                result.append({**learned, KIND: kind, _LEARNED: sorted(learned), **own, "params": chosen})
        return result

    def follow(self, groups: Iterable[dict[str, Any]], share: float) -> None:
        """Set the options of an optimizer's groups, which ``groups`` made, for a share of the training that is done;
        not those that somebody set beside the preset."""
        values = self.at(share)
        for group in groups:
            group.update({name: values[group[KIND]][name] for name in group.get(_LEARNED, ())})


def _listed(params: Any) -> list[Any]:
    return [params] if isinstance(params, Tensor) else list(params)


def _named(item: Any) -> tuple[str | None, Tensor]:
    return item if isinstance(item, tuple) else (None, item)
