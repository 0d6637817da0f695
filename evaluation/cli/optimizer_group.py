"""The group `optimizer` of a configuration, made from the optimizers' own table of options (`asgc.options`).

A new optimizer or option of the registry is there by itself: as a flag, in YAML, in the Python API, in messages.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, make_dataclass
from typing import TYPE_CHECKING, Any, Optional

from asgc import optimizers
from asgc.option import Option
from asgc.options import LR, RULES
from evaluation.cli.errors import UserError
from evaluation.cli.settings import option
from evaluation.cli.values import PathText, suggestion

if TYPE_CHECKING:
    from asgc.meta import Preset


@dataclass
class OptimizerGroup:
    """Optimizer by its registry name. Options left at null take the preset's, or that optimizer's own default."""

    name: str = option("asgc", "registry name: asgc, asgc-clip, adam, sgd, adam+clip, agc, zclip, adam-rel, ...")
    lr: float = option(1e-4, LR.help, LR.allowed)
    preset: Optional[PathText] = option(None, "asgc and its kin: learned options, a shipped name or a file")  # noqa: RUF009, UP045

    def options(self) -> dict[str, Any]:
        """The arguments of `optimizers.build` that were set: everything but `name` and `lr` that is not None."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)[2:]}
        return {name: value for name, value in values.items() if value is not None}

    def effective(self) -> dict[str, Any]:
        """`options` together with what the preset says; of learned options the value of one kind of layer."""
        own = self.options()
        found = _preset(own.pop("preset", None))
        if found is None:
            return own
        learned = {name: value for values in found.values.values() for name, value in values.items()}
        return {"rule": found.rule, **found.options, **learned, **own}

    def prepare(self, layer: Mapping[str, Any]) -> None:
        """What a layer takes back of those below: with another optimizer or rule what that does not take, and with a
        preset all, as it was learned with its own options and, if it has one, rate."""
        if layer.get("preset") is not None:
            for key in self.options():
                setattr(self, key, None)
            found = _preset(layer["preset"])
            if found is not None and found.lr is not None:
                self.lr = found.lr
        before = self.name, self.options().get("rule")
        name, rule = layer.get("name", before[0]), layer.get("rule", before[1])
        try:
            taken = optimizers.options(name, rule or "adam")
        except (TypeError, ValueError):
            return  # unknown: the whole configuration's check says so
        if (name, rule) == before:
            return  # what it does not take is a fault of the layer below
        for key in self.options():
            if key not in taken and not (key == "preset" and optimizers.info(name).learnable):
                setattr(self, key, None)

    def faults(self) -> Iterator[str]:
        """What is wrong with name and options beyond each value alone, in a line."""
        if fault := _fault(self.name, tuple(self.options().items())):
            yield fault


@functools.cache
def _fault(name: str, given: tuple[tuple[str, Any], ...]) -> str:
    """Builds the optimizer for one number: it knows best which options it takes together."""
    options = dict(given)
    if name not in optimizers.names():
        return str(UserError(f"unknown optimizer {name!r}{suggestion(name, optimizers.names())}"))
    preset = options.pop("preset", None)
    fixed: Mapping[str, Any] = {}
    if preset is not None:
        if not optimizers.info(name).learnable:
            return f"--optimizer.preset: {name} takes none; asgc, asgc-clip and asgc-noise do"
        from asgc.meta.preset import Preset

        try:
            found = Preset.load(preset)
        except ValueError as error:
            return f"--optimizer.preset: {error}"
        if options.setdefault("rule", found.rule) != found.rule:
            return f"--optimizer.rule {options['rule']}: preset {found.name} was learned with rule {found.rule}"
        fixed = found.options
    rule = options.get("rule", "adam")
    taken = optimizers.options(name, rule)
    if unknown := [key for key in options if key not in taken]:
        rules = f" with rule {rule!r}" if "rule" in taken else ""
        return f"--optimizer.{unknown[0].replace('_', '-')}: {name}{rules} has no such option"
    import torch

    options = {**{key: value for key, value in fixed.items() if key in taken}, **options}
    if "implementation" in options:
        options["implementation"] = "reference"  # whether a fast path is there shows when training starts
    try:
        optimizers.build(name, [torch.zeros(1, requires_grad=True)], lr=1.0, **options)
    except (TypeError, ValueError) as error:
        return f"--optimizer {name}: {error}"
    return ""


def _preset(name: str | None) -> Preset | None:
    """None also where it cannot be read: `faults` says so."""
    if name is None:
        return None
    from asgc.meta.preset import Preset

    try:
        return Preset.load(name)
    except ValueError:
        return None


def _field(one: Option) -> tuple[str, Any, Any]:
    """A dataclass field: None, or the option's type within its range."""
    owners = "" if set(RULES) <= set(one.owners) else f"{', '.join(one.owners)}: "
    null = "; null: made from --seed" if one.name == "seed" else ""
    return one.name, Optional[one.type], option(None, f"{owners}{one.help.replace('None', 'null')}{null}", one.allowed)  # noqa: UP045


OptimizerConfig = make_dataclass(
    "OptimizerConfig",
    [_field(one) for one in optimizers.all_options()],
    bases=(OptimizerGroup,),
    namespace={"__doc__": OptimizerGroup.__doc__, "__module__": __name__},
)
