"""Every optimizer of `asgc.optimizers` under fairseq's `--optimizer`, its options as flags `--asgc-OPTION`.

Names are the registry's; torch.optim's own become `torch-adam`, `torch-sgd`, ...: fairseq has an `adam` and a `sgd` of
its own, which are others.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
from typing import Any, ClassVar, List, Optional  # noqa: UP035 - what fairseq's and omegaconf's parsers know

from fairseq.dataclass import FairseqDataclass
from fairseq.dataclass.utils import eval_str_list
from fairseq.optim import FairseqOptimizer, register_optimizer
from omegaconf import II

from asgc import optimizers
from asgc.integrations import clips
from asgc.option import Option
from asgc.options import RULES
from supervised.fairseq_names import TORCH
from supervised.fairseq_names import fairseq_name as fairseq_name

PREFIX = "asgc_"  # of all options: fairseq keeps those of everything in one namespace (`seed`, `momentum`, ...)
_log = logging.getLogger(__name__)
_TYPES: dict[str, Any] = {"number": float, "integer": int, "flag": bool, "choice": str, "pair": List[float]}  # noqa: UP006


def _options(name: str) -> list[Option]:
    """All options of a registered optimizer, whatever its rule."""
    rules = RULES if optimizers.info(name).rule is None else ("adam",)
    return list({key: one for rule in rules for key, one in optimizers.options(name, rule).items()}.values())


def _help(name: str, one: Option) -> str:
    owners = set(one.owners) & set(RULES)
    whose = "" if optimizers.info(name).rule or owners in (set(), set(RULES)) else f"{', '.join(sorted(owners))}: "
    words = f"; {one.words}" if one.kind in ("number", "integer", "pair") and one.words else ""
    default = "that of --seed" if one.name == "seed" else one.default
    told = "" if default is None else f" [{default}]"
    return f"{whose}{one.help.replace('None', 'unset')}{words}{told}".replace("%", "%%")


class RegistryOptimizer(FairseqOptimizer):  # type: ignore[misc]
    """An optimizer of the registry, made from fairseq's configuration; subclasses name which one."""

    name: ClassVar[str]

    def __init__(self, cfg: Any, params: Any) -> None:
        super().__init__(cfg)
        self._optimizer = optimizers.build(self.name, list(params), **self.optimizer_config)
        if cfg.clip_norm > 0 and clips(self._optimizer):
            raise ValueError(
                f"--clip-norm {cfg.clip_norm:g} clips the gradients before --optimizer {fairseq_name(self.name)}, "
                "whose thresholds would then be learned from clipped gradients. It clips itself: give --clip-norm 0"
            )
        if cfg.amp:
            _log.warning(
                "fairseq's --amp divides gradients by the loss scale twice, whatever the optimizer: steps that follow "
                "the gradient's size (sgd) and every eps are off by it. --fp16 --fp16-no-flatten-grads does not"
            )

    @classmethod
    def add_args(cls, parser: argparse.ArgumentParser) -> None:
        """The flags. Options that are not given keep the optimizer's own default."""
        for one in _options(cls.name):
            how: dict[str, Any] = {"default": None, "help": _help(cls.name, one)}
            if one.kind == "flag":
                how["action"] = argparse.BooleanOptionalAction
            elif one.kind == "pair":
                how |= {"type": eval_str_list, "metavar": "A,B"}
            elif one.kind == "choice":
                how["choices"] = one.choices
            else:
                how |= {"type": _TYPES[one.kind], "metavar": "N"}
            parser.add_argument("--" + (PREFIX + one.name).replace("_", "-"), **how)

    @property
    def optimizer_config(self) -> dict[str, Any]:
        """lr and the options that were given, as keyword arguments of `asgc.optimizers.build`."""
        lr = self.cfg.lr
        given: dict[str, Any] = {"lr": float(lr if isinstance(lr, float | int) else lr[0])}
        for one in _options(self.name):
            value = getattr(self.cfg, PREFIX + one.name)
            if value is not None:
                given[one.name] = tuple(value) if one.kind == "pair" else value
            elif one.name == "seed":
                given["seed"] = self.cfg.seed
        return given

    @property
    def supports_flat_params(self) -> bool:
        """Only of torch.optim's own: ASGC and most clips reckon tensor by tensor, so parameters must not become one."""
        return fairseq_name(self.name).startswith(TORCH)

    @property
    def supports_memory_efficient_fp16(self) -> bool:
        """No: moments have the parameters' type, as in torch.optim."""
        return False

    @property
    def supports_step_with_scale(self) -> bool:
        return False


def _config(name: str) -> type:
    """The dataclass of an optimizer's options, all of them unset."""
    inherited = [
        ("lr", List[float], II("optimization.lr")),  # noqa: UP006
        ("clip_norm", float, II("optimization.clip_norm")),
        ("seed", int, II("common.seed")),
        ("amp", bool, II("common.amp")),
    ]
    own = [
        (
            PREFIX + one.name,
            Optional[_TYPES[one.kind]],  # noqa: UP045
            dataclasses.field(default=None, metadata={"help": _help(name, one)}),
        )
        for one in _options(name)
    ]
    title = _title(name) + "Config"
    return dataclasses.make_dataclass(
        title, [*own, *inherited], bases=(FairseqDataclass,), namespace={"__module__": __name__}
    )


def _title(name: str) -> str:
    """A class name: fairseq checks by it that a checkpoint is of the same optimizer."""
    return "".join(part.capitalize() for part in fairseq_name(name).replace("+", "-plus-").split("-"))


def _register(name: str) -> None:
    members = {"name": name, "__module__": __name__, "__doc__": optimizers.info(name).description}
    cls = type(_title(name), (RegistryOptimizer,), members)
    register_optimizer(fairseq_name(name), dataclass=_config(name))(cls)


for _name in optimizers.names():
    _register(_name)
