"""The ASGC optimizer: adaptive stochastic gradient clipping in front of a base rule of torch.optim.

The reference implementation is ``functional.step``, layer by layer; ``asgc.implementations`` do the same faster, or for
DTensors. Formulas: ``asgc.smooth_clip``, ``asgc.gradient_statistics``, ``asgc.noise``, ``asgc.rules``.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any, TypeAlias, overload

import torch
from torch import Tensor
from torch.optim import Optimizer

from . import adapt as adaptation
from . import ceiling, functional, rules
from . import gradient_statistics as statistics
from .diagnostics import describe
from .implementations import REGISTRY
from .layers import check_gradients, check_parameter, first_dtensor, layer_number
from .nonfinite import Watch, found_nonfinite
from .option import nearest
from .options import (
    ASGC_DEFAULTS,
    ASGC_OPTIONS,
    RULE,
    RULE_OPTIONS,
    is_tensor_free,
    resolve,
    rule_defaults,
    signature,
    table,
)
from .preview import Preview, preview_asgc
from .saved import VERSION, checked, with_shapes

__all__ = ["ASGC"]

Group: TypeAlias = dict[str, Any]

_log = logging.getLogger("asgc")


class ASGC(Optimizer):
    """Adaptive Stochastic Gradient Clipping.

    Each layer (parameter tensor) keeps causal statistics of its gradient, fp32 mean and variance of past steps, and
    its own threshold: tau = |mean| + clip_factor std for elements (``mode="value"``) or
    tau = clip_factor sqrt(mean^2 + var) for the layer's root mean square (``mode="norm"``). The gradient gets noise of
    standard deviation noise_scale (1 + t)^(-noise_decay/2) min(std, its own root mean square), is clipped smoothly by
    phi(x) = x (1 + |x/tau|^p)^(-1/p), and the base rule takes its step. An infinite element counts as +-tau in value
    mode, a NaN as 0; in norm mode a layer with either counts as 0 in that step (nonfinite="contain"). A layer whose
    gradient was not finite in ten steps in a row is named in a warning, once.

    Args:
        params: parameters, named parameters or dicts of parameter groups; a group may override every option.
        lr: learning rate, a number or a one-element tensor.
        rule: base rule: "sgd", "adam", "adamw", "rmsprop" or "adagrad".
        **options: those of the table at the end, which is ``asgc.options.ASGC_OPTIONS``, and torch.optim's own of the
            rule (``betas``, ``momentum``, ``weight_decay``, ...). With triton every one that is a number may also be a
            one-element tensor. To capture steps in a CUDA graph (``capturable``) run at least one step before, as
            torch's recipe does; options that are tensors on the GPU follow in replays, numbers are those of the
            capture. nonfinite "skip" and "raise" read the gradients once more.

    Raises:
        TypeError: an unknown option (the nearest is named) or a value of a wrong type.
        ValueError: a value out of range, or an implementation that cannot serve these parameters (capturable=True
            without parameters on a GPU, say).

    ``state[p]``: ``step`` (the rule's), ``noise_step`` (t), ``layer`` (number), ``stats`` (see
    ``asgc.gradient_statistics``) and the rule's tensors under torch.optim's names, in fp32 for
    parameters of lower precision; with ``adapt`` also ``adapted`` and two tensors of half precision (see
    ``asgc.adapt``).
    """

    _active: str | None = None  # the implementation once it is known to serve these parameters
    _built = False
    preset: Any = None  # that it was made from, an ``asgc.meta.Preset``

    def __init__(self, params: Any, lr: float | Tensor, rule: str = RULE.default, **options: Any) -> None:
        chosen = {**ASGC_DEFAULTS, **options, "lr": lr, "rule": rule}
        resolve(chosen)
        super().__init__(params, {**rule_defaults(rule), **chosen})
        self._built, self._watch = True, Watch()
        if chosen["implementation"] != "auto" or chosen["capturable"]:
            self._choose_implementation()

    @classmethod
    def from_preset(cls, params: Any, preset: Any, lr: float | Tensor | None = None, **options: Any) -> ASGC:
        """ASGC with meta-learned options, by kind of layer.

        Args:
            params: as of the class. Embeddings are known by their names: give ``model.named_parameters()``.
            preset: the name of one that comes with the package, the path of a file, or an ``asgc.meta.Preset``.
            lr: as of the class; None: the one that was learned with the preset.
            **options: as of the class; those that the preset has fixed or learned may be overridden. A group that is
                added later has nothing of the preset but what it had fixed.

        Raises:
            ValueError: there is no such preset, it is damaged or of a later version, it has nothing for a layer, or no
                learning rate.
            TypeError: an option that is none of ASGC or of the preset's rule.
        """
        from .meta.preset import Preset

        found = Preset.load(preset)
        if lr is None and (lr := found.lr) is None:
            raise ValueError(f"preset {found.name} has no learning rate of its own: give lr")
        made = cls(found.groups(params, options), lr, **{"rule": found.rule, **found.options, **options})
        made.preset = found
        return made

    def follow_preset(self, share: float) -> None:
        """Set the options that the preset changes with the share of training that is done, from 0 to 1: before a step.
        Without a preset, or with one whose options stay, nothing happens."""
        if self.preset is not None and self.preset.late:
            self.preset.follow(self.param_groups, share)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "preset": self.preset}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._built, self._watch = True, Watch()

    def add_param_group(self, param_group: Group) -> None:
        """Add parameters, with overrides of any option. Their layer numbers continue; see the class for errors."""
        group = self._complete(param_group)
        names = set(group) | {"param_names"}
        super().add_param_group(group)
        for name in set(group) - names:  # defaults of another rule than this group's
            del group[name]
        self._active = None
        if self._built and (group["implementation"] != "auto" or group["capturable"]):
            try:
                self._choose_implementation()
            except ValueError:
                self.param_groups.pop()
                raise

    def _complete(self, param_group: Group) -> Group:
        """A checked copy of a new group with every option."""
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, got {type(param_group).__name__}")
        params = param_group["params"]
        if not isinstance(params, set):  # left to torch's own error
            params = [params] if isinstance(params, Tensor) else list(params)
        for i, item in enumerate(params):
            name, param = item if isinstance(item, tuple) else (f"parameter {i} of the new group", item)
            if isinstance(param, Tensor):
                check_parameter(param, f"{name} (shape {tuple(param.shape)})")

        rule = param_group.get("rule", self.defaults["rule"])
        own = {**ASGC_DEFAULTS, **(rule_defaults(rule) if rule in rules.RULES else {}), "lr": None}
        given = {name: value for name, value in param_group.items() if name in own}
        foreign = {"foreach", "fused", "differentiable", *(option.name for option in RULE_OPTIONS)}
        for name in set(param_group) - set(own) - {"params", "param_names", "asgc_version"}:
            # Keys of the user's own (a label, a scheduler's) may ride along; a slip of the pen may not.
            if name in foreign or nearest(name, own, 0.8):
                raise TypeError(f"a parameter group with rule {rule!r} has no option {name!r}{nearest(name, own)}")
        inherited = {
            name: value
            for name, value in self.defaults.items()
            if name in own and (name in ASGC_DEFAULTS or name == "lr" or rule == self.defaults["rule"])
        }
        options = resolve({**inherited, **given})
        if self.param_groups:
            options["implementation"] = self._agreed_implementation(given.get("implementation"))
        on_gpu = all(isinstance(p, Tensor) and p.is_cuda for p in params)
        served = options["implementation"] == "triton" or (options["implementation"] == "auto" and on_gpu)
        if not is_tensor_free(options) and not served:
            raise TypeError(
                "only lr and betas may be tensors here: implementation='triton' (on a GPU) and asgc.functional take "
                "the other options as tensors"
            )
        return {**param_group, **options, "params": params, "asgc_version": VERSION}

    def _agreed_implementation(self, wanted: str | None) -> str:
        current: str = self.param_groups[0]["implementation"]
        if wanted not in (None, "auto", current):
            raise ValueError(f"implementation={wanted!r}: all groups share one implementation, here {current!r}")
        return current

    def layer_number(self, param: Tensor) -> int:
        """Number of a layer for the noise: the one in its state; before the first step see ``asgc.number_layers``."""
        if "layer" in self.state.get(param, {}):
            return int(self.state[param]["layer"])
        params = (p for group in self.param_groups for p in group["params"])
        return layer_number(param, next(place for place, p in enumerate(params) if p is param))

    def layer_state(self, param: Tensor, group: Group) -> dict[str, Any]:
        """``state[param]``, complete: what is missing before the first step of this parameter is made here."""
        state: dict[str, Any] = self.state[param]
        adapts_newly = group["adapt"] is not None and "adapted" not in state
        if "stats" not in state or "step" not in state or adapts_newly:
            for name, value in functional.init(param, self.layer_number(param), group).items():
                state.setdefault(name, value)
        return state

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    # Compiled code calls it as it is: the fast paths are compiled already, and tracing the reference only costs time.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step for all parameters that have a gradient.

        Args:
            closure: re-evaluates the model and returns the loss; called once, first.

        Raises:
            RuntimeError: a sparse or complex gradient, or a non-finite one under nonfinite="raise" (the parameter is
                named); nothing has changed then.
            ValueError: the chosen implementation cannot serve these parameters; nothing has changed.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        check_gradients(self.param_groups)
        implementation = REGISTRY[self._choose_implementation()]
        # With DTensors the ranks decide together, in the step.
        streak: bool | None = None
        if implementation.dtensors or not found_nonfinite(self.param_groups, lambda group: group, self.layer_state):
            streak = implementation.step(self)
        if streak is not False:
            self._watch.look(self.param_groups, self.state)
        return loss

    def _choose_implementation(self) -> str:
        """Resolve "auto" before the first step; afterwards the choice stays in the groups and so in the state."""
        chosen: str = self.param_groups[0]["implementation"]
        if chosen == self._active:
            return chosen
        if any(group["capturable"] for group in self.param_groups):
            reason = self._not_capturable(chosen)
            if reason is not None:
                raise ValueError(f"capturable=True cannot be used: {reason}")
        if chosen == "auto":
            chosen = self._automatic()
        else:
            reason = REGISTRY[chosen].unsupported(self)
            if reason is not None and self.defaults["implementation"] != "auto":
                raise ValueError(f"implementation={chosen!r} cannot be used: {reason}")
            if reason is not None:
                previous, chosen = chosen, self._automatic()
                _say(f"ASGC goes on with the {chosen} implementation, no longer {previous}: {reason}")
        for group in self.param_groups:
            group["implementation"] = chosen
        self._active = chosen
        return chosen

    def _automatic(self) -> str:
        if first_dtensor(self.param_groups) is not None:  # the only one for them
            reason = REGISTRY["sharded"].unsupported(self)
            if reason is not None:
                raise ValueError(f"no implementation can serve: {reason}")
            return "sharded"
        on_gpu = any(param.is_cuda for group in self.param_groups for param in group["params"])
        best = "triton" if on_gpu else "cpu"
        reason = REGISTRY[best].unsupported(self)
        if reason is None:
            return best
        chosen = "foreach" if REGISTRY["foreach"].unsupported(self) is None else "reference"
        _say(
            f"ASGC uses its slower {chosen} implementation, because the {best} one cannot serve: {reason}. "
            "`python -m benchmarks.optimizer_step` shows what that costs."
        )
        return chosen

    def _not_capturable(self, implementation: str) -> str | None:
        if not all(param.is_cuda for group in self.param_groups for param in group["params"]):
            return "it needs parameters on a GPU"
        if implementation not in ("auto", "triton"):
            return f"it needs implementation='triton', not {implementation!r}"
        if any(group["nonfinite"] != "contain" for group in self.param_groups):
            return "nonfinite='skip' and 'raise' wait for the device at every step: use nonfinite='contain'"
        return REGISTRY["triton"].unsupported(self)

    def shift(self) -> None:
        """Tell the optimizer that the loss has changed (a target-network sync, a new level).

        By ``on_shift``: "none" nothing; "rewarm" n = min(n, 10), so the statistics follow quickly; "adam-rel" the
        rule's step count goes to 0 and its moments stay (arXiv 2412.17113; for rules without a bias correction that
        only restarts adagrad's lr_decay); "reset" the rule's moments and step count (arXiv 2306.17833). The noise's
        step count never goes back.
        """
        for group in self.param_groups:
            for param in group["params"]:
                state = self.state.get(param, {})
                if "stats" not in state or group["on_shift"] == "none":
                    continue
                if group["adapt"] is not None:
                    adaptation.forget(state)  # what was measured under the old loss says nothing about the new
                if group["on_shift"] == "rewarm":
                    state["stats"][statistics.N].clamp_(max=10)
                    continue
                state["step"].zero_()
                if group["on_shift"] == "reset":
                    ceiling.forget(state)
                    if group["rule"] == "sgd" and group["capturable"]:  # a captured graph keeps to this buffer
                        if "momentum_buffer" in state:
                            state["momentum_buffer"].zero_()
                    elif group["rule"] == "sgd":
                        state.pop("momentum_buffer", None)
                    for name, value in rules.init(param.detach(), group).items():
                        state[name].copy_(value)

    def diagnostics(self) -> list[dict[str, Any]]:
        """The present figures of every layer that has been stepped; nothing is synchronized until this is called.

        Returns:
            One dict a layer: ``name`` (or group and index), ``layer`` (number), ``units``, ``mean`` and ``std`` of the
            gradient's elements (running), ``threshold``, ``clipped`` (share of elements, or of units in norm mode) and
            ``attenuation`` |phi(h)|/|h| of the last step (what the clip left: at most 1), ``noise_scale`` c_t and
            ``noise_std``, the standard deviation of the noise in the last step, in the gradient's units;
            ``clip_factor`` and ``clip_sharpness`` in use, ``step_left``, what a ``ceiling`` left of the last step (1:
            all), and ``nonfinite``, the number of steps with a non-finite gradient. With granularity="unit" the mean
            over units (``nonfinite``: the sum).
        """
        self._watch.look(self.param_groups, self.state, now=True)
        return describe(self.param_groups, lambda group: group, self.state)

    def preview(self) -> list[Preview]:
        """What the base rule will see in the coming ``step()``; see ``asgc.preview``. Changes nothing."""
        return preview_asgc(self, ASGC)

    def state_dict(self) -> dict[str, Any]:
        """As torch.optim's; every parameter's entry has its ``shape`` too, so that no other model's state is loaded."""
        saved = super().state_dict()
        params = [param for group in self.param_groups for param in group["params"]]
        return {**saved, "state": with_shapes(saved["state"], params)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what ``state_dict()`` returned, to the last bit: fp32 statistics and moments stay fp32 for bf16
        parameters, counters keep their types, and the implementation stays the one the state was made with.

        Raises:
            ValueError: not a state of ASGC, of a later version, of another rule or of other parameters; nothing has
                changed then.
        """
        saved: dict[str, Any] = {}

        def check(_: Optimizer, loaded: dict[str, Any]) -> dict[str, Any]:
            saved.update(checked(self.param_groups, loaded))
            return saved

        def restore(_: Optimizer) -> None:
            # Optimizer.load_state_dict casts what it finds to the parameter's dtype: put the saved values back.
            params = (param for group in self.param_groups for param in group["params"])
            ids = (index for group in saved["param_groups"] for index in group["params"])
            on_host = () if self.param_groups[0]["implementation"] == "triton" else ("step", "noise_step")
            for index, param in zip(ids, params, strict=True):
                for name, value in saved["state"].get(index, {}).items():
                    if isinstance(value, Tensor):
                        device = "cpu" if name in on_host else param.device
                        self.state[param][name] = value.detach().to(device, copy=True)
            self._active = None

        before = self.register_load_state_dict_pre_hook(check)
        after = self.register_load_state_dict_post_hook(restore, prepend=True)
        try:
            super().load_state_dict(state_dict)
        finally:
            before.remove()
            after.remove()


ASGC.__init__.__signature__ = signature(ASGC.__init__, ASGC_OPTIONS)  # type: ignore[attr-defined]
ASGC.__doc__ = f"{ASGC.__doc__}\n{table(ASGC_OPTIONS)}"


@functools.cache  # once for the same reason, however many optimizers there are
def _say(message: str) -> None:
    _log.warning(message)
