"""``wrap``: ASGC's gradient transform (statistics, threshold, noise, clip) in front of any optimizer."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias, overload

import torch
from torch import Tensor
from torch.optim import Optimizer

from . import functional
from . import gradient_statistics as statistics
from .diagnostics import describe
from .layers import check_gradients, check_parameter, first_dtensor, layer_name, layer_number
from .nonfinite import Watch, found_nonfinite
from .options import TRANSFORM_DEFAULTS, is_tensor_free, resolve_transform
from .placement import is_dtensor, local
from .preview import Preview, preview_sharded, preview_transform
from .proxy import OptimizerProxy, innermost
from .saved import VERSION, check_layer, check_version, counted, with_shapes

__all__ = ["Wrapped", "wrap"]

Group = dict[str, Any]
Change: TypeAlias = tuple[Tensor, dict[str, Any], functional.Transformed]  # parameter, its state, what becomes of both


class Wrapped(OptimizerProxy):
    """What ``wrap`` returns: ``inner`` with transformed gradients. ``statistics[p]`` holds a parameter's own state."""

    _earlier: Any = None  # see asgc.implementations.sharded
    _watch: Watch | None = None

    def __init__(self, inner: Optimizer, options: dict[str, Any], restore_grad: bool) -> None:
        super().__init__(inner)
        self.options = options
        self.restore_grad = restore_grad
        self.statistics: dict[Tensor, dict[str, Any]] = {}
        for gi, group in enumerate(inner.param_groups):
            for pi, param in enumerate(group["params"]):
                check_parameter(param, layer_name(inner.param_groups, gi, pi))

    def __getstate__(self) -> dict[str, Any]:
        own = {"options": self.options, "restore_grad": self.restore_grad, "statistics": self.statistics}
        return {**super().__getstate__(), **own}

    def add_param_group(self, param_group: Group) -> None:
        """Add parameters to the inner optimizer; their layer numbers continue."""
        params = param_group["params"]
        if not isinstance(params, set):  # left to torch's own error
            params = [params] if isinstance(params, Tensor) else list(params)
            param_group = {**param_group, "params": params}
        for i, item in enumerate(params):
            param = item[1] if isinstance(item, tuple) else item
            if isinstance(param, Tensor):
                check_parameter(param, f"parameter {i} of the new group")
        super().add_param_group(param_group)

    def _layer_state(self, param: Tensor, _: Group) -> dict[str, Any]:
        if param not in self.statistics:
            order = [p for group in self.param_groups for p in group["params"]]
            number = layer_number(param, next(i for i, p in enumerate(order) if p is param))
            units = functional.units(param, self.options["granularity"])
            self.statistics[param] = {
                "layer": number,
                "noise_step": torch.tensor(0, dtype=torch.int64, device="cpu"),
                "stats": statistics.init(units, param.device),
            }
        return self.statistics[param]

    @overload
    def step(self, closure: None = None, **inner_options: Any) -> None: ...

    @overload
    def step(self, closure: Callable[[], float], **inner_options: Any) -> float: ...

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def step(self, closure: Callable[[], float] | None = None, **inner_options: Any) -> float | None:
        """Evaluate the closure, transform every ``.grad`` in place, step the inner optimizer, restore every ``.grad``.

        A gradient that cannot be written (expanded, an inference tensor, the same for two parameters) is replaced
        instead. Where anything fails, the gradients are as they were, and the statistics too.

        Args:
            closure: re-evaluates the model and returns the loss; called once, first. The inner optimizer gets none.
            **inner_options: for the inner optimizer's step (a Hessian estimate, for one).

        Raises:
            RuntimeError: as ``ASGC.step``; nothing has changed then.
        """
        loss = self._evaluate(closure)
        check_gradients(self.param_groups)
        with torch.no_grad():
            changes = self._changes()
        if changes is None:
            self._look()
            return loss
        with self._transformed(changes):
            self.inner.step(**inner_options)
        self._look()
        return loss

    def _look(self, now: bool = False) -> None:
        self._watch = Watch() if self._watch is None else self._watch
        self._watch.look(self.param_groups, self.statistics, now)

    def _changes(self) -> Iterator[Change] | None:
        """What is to be done to each gradient, or None if this step must change nothing."""
        if first_dtensor(self.param_groups) is not None:
            from .implementations import sharded

            self._earlier = sharded.Earlier() if self._earlier is None else self._earlier
            shards = sharded.make_shards(self.param_groups, self._layer_state, lambda _: self.options)
            changes = sharded.transform_all(shards, self._earlier)
            return None if changes is None else ((shard.param, shard.state, new) for shard, new in changes)
        if found_nonfinite(self.param_groups, lambda _: self.options, self._layer_state):
            return None
        return self._whole_changes()

    def _whole_changes(self) -> Iterator[Change]:
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    state = self._layer_state(param, group)
                    t, number = int(state["noise_step"]), state["layer"]
                    yield param, state, functional.transform(param.grad, state["stats"], t, number, self.options)

    @contextmanager
    def _transformed(self, changes: Iterator[Change]) -> Iterator[None]:
        """All gradients are changed, or none; the statistics follow when the inner optimizer has stepped."""
        before: list[tuple[Tensor, Tensor]] = []  # gradients that were written, and what they held
        replaced: list[tuple[Tensor, Tensor]] = []  # parameters whose gradient cannot be written, and that gradient
        new_stats: list[tuple[dict[str, Any], Tensor]] = []
        try:
            with torch.no_grad():
                shared = Counter(_address(param) for group in self.param_groups for param in group["params"])
                for param, state, new in changes:
                    raw = param.grad
                    assert raw is not None
                    grad = local(raw)
                    if shared[_address(param)] > 1 or not _writable(grad):
                        replaced.append((param, raw))
                        param.grad = _like(raw, new.grad)
                    else:
                        before.append((grad, grad.clone()))
                        grad.copy_(new.grad)
                    new_stats.append((state, new.stats))
            if not self.restore_grad:
                before.clear()
                replaced.clear()
            yield
        finally:
            with torch.no_grad():
                for grad, held in before:
                    grad.copy_(held)
                for param, grad in replaced:
                    param.grad = grad
        with torch.no_grad():
            for state, stats in new_stats:
                state["stats"].copy_(stats)
                state["noise_step"] += 1

    def shift(self) -> None:
        """As ``ASGC.shift`` for on_shift "none" and "rewarm"."""
        if self.options["on_shift"] == "rewarm":
            for state in self.statistics.values():
                state["stats"][statistics.N].clamp_(max=10)

    def diagnostics(self) -> list[dict[str, Any]]:
        """As ``ASGC.diagnostics``."""
        self._look(now=True)
        return describe(self.param_groups, lambda _: self.options, self.statistics)

    def preview(self) -> list[Preview]:
        """What the inner optimizer will see in the coming ``step()``; see ``asgc.preview``. Changes nothing."""
        params = [param for group in self.param_groups for param in group["params"]]
        if first_dtensor(self.param_groups) is not None:
            states = {p: {"layer": layer_number(p, i), **self.statistics.get(p, {})} for i, p in enumerate(params)}
            return preview_sharded(self.param_groups, states, lambda _: self.options)
        new = ({"layer": layer_number(param, place)} for place, param in enumerate(params))
        return preview_transform(
            (param, self.statistics.get(param, fresh), self.options) for param, fresh in zip(params, new, strict=True)
        )

    def state_dict(self) -> dict[str, Any]:
        """The inner optimizer's state_dict with one more entry, ``"asgc"``: version, class of the inner optimizer,
        options, and statistics by index."""
        params = [p for group in self.param_groups for p in group["params"]]
        own = {i: self.statistics[p] for i, p in enumerate(params) if p in self.statistics}
        about = {"version": VERSION, "inner": type(self.inner).__name__, "options": dict(self.options)}
        return {**self.inner.state_dict(), "asgc": {**about, "state": with_shapes(own, params)}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what ``state_dict()`` returned, statistics to the last bit.

        Raises:
            ValueError: not a state of ``wrap``, of a later version, around another optimizer, or of other parameters;
                nothing has changed then.
        """
        if "asgc" not in state_dict:
            raise ValueError('this is not a state_dict of asgc.wrap: it has no "asgc" entry')
        options, loaded = self._checked(state_dict["asgc"])
        super().load_state_dict({name: value for name, value in state_dict.items() if name != "asgc"})
        self.options = options
        self.statistics = loaded

    def _checked(self, own: dict[str, Any]) -> tuple[dict[str, Any], dict[Tensor, dict[str, Any]]]:
        """Options and statistics from a saved ``"asgc"`` entry."""
        check_version(own.get("version", 1))
        if not {"options", "state"} <= own.keys():
            raise ValueError('this is not a state_dict of asgc.wrap: its "asgc" entry has no options or no state')
        inner = type(self.inner).__name__
        if own.get("inner", inner) != inner:
            raise ValueError(f"this state_dict was saved by wrap around {own['inner']}, not around {inner}")
        try:
            options = resolve_transform({**self.options, **own["options"]}, anchored=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"the options of this state_dict: {error}") from error
        layers = [
            (param, layer_name(self.param_groups, gi, pi))
            for gi, group in enumerate(self.param_groups)
            for pi, param in enumerate(group["params"])
        ]
        loaded: dict[Tensor, dict[str, Any]] = {}
        for index, state in own["state"].items():
            if index >= len(layers):
                raise ValueError(f"the saved statistics name parameter {index}, but there are only {len(layers)}")
            param, name = layers[index]
            if not {"layer", "noise_step", "stats"} <= state.keys():
                raise ValueError(f"the saved state of {name} has no layer number, noise_step or stats")
            state = counted(state, f"the saved state of {name}")
            state = {**state, "stats": statistics.with_all_rows(state["stats"])}
            check_layer(name, param, state, functional.units(param, options["granularity"]))
            loaded[param] = {
                "layer": state["layer"],
                "noise_step": state["noise_step"].to("cpu", torch.int64, copy=True),
                "stats": state["stats"].to(param.device, torch.float32, copy=True),
            }
        return options, loaded


def _address(param: Tensor) -> int | None:
    """Where a gradient lies in memory; None where there is nothing."""
    return None if param.grad is None else local(param.grad).data_ptr() or id(param)


def _writable(grad: Tensor) -> bool:
    """Not an inference tensor, and no two elements at one place in memory (as in an expanded tensor)."""
    if grad.is_inference() and not torch.is_inference_mode_enabled():
        return False
    reach = 1 + sum((size - 1) * stride for size, stride in zip(grad.shape, grad.stride(), strict=True))
    return reach >= math.prod(grad.shape)


def _like(grad: Tensor, new: Tensor) -> Tensor:
    """A transformed gradient (local) of the type and placement of the raw one."""
    new = new.to(grad.dtype)
    if not is_dtensor(grad):
        return new
    from .implementations.sharded import placed

    return placed(new, grad)


def wrap(inner: Optimizer, *, restore_grad: bool = True, **options: Any) -> Wrapped:
    """Put ASGC's gradient transform in front of another optimizer.

    Args:
        inner: any optimizer that does not evaluate the closure itself. Parameter groups are shared with it, so
            learning-rate schedulers may be made on either.
        restore_grad: put the raw gradients back after the step; False leaves the transformed ones in ``.grad``.
        **options: mode, clip_factor, clip_sharpness, threshold, granularity, noise_scale, noise_decay, noise_zeros,
            stats_decay, outlier_share (None: 0.9 in front of torch.optim.SGD, also inside another one, else 0.25),
            on_shift ("none" or "rewarm"), nonfinite and seed, as in ``ASGC``.

    Raises:
        TypeError: an unknown option (the nearest is named), or inner is not an optimizer.
        ValueError: a value out of range; noise_at="update", which needs the rule's own denominator; on_shift="adam-rel"
            or "reset", which belong to the inner optimizer's state; LBFGS, SparseAdam, SAM and its kin, and one that
            is wrapped already.
    """
    if not isinstance(restore_grad, bool):
        raise TypeError(f"restore_grad must be True or False, got {restore_grad!r}")
    if isinstance(innermost(inner), torch.optim.SparseAdam):
        raise ValueError("SparseAdam takes sparse gradients only, wrap dense ones only: use Adam and sparse=False")
    if isinstance(inner, Wrapped):
        raise ValueError("this optimizer is wrapped already: its gradients would be changed twice")
    anchored = isinstance(innermost(inner), torch.optim.SGD)
    complete = resolve_transform(options, anchored)
    if complete["noise_at"] == "update":
        raise ValueError('noise_at="update" needs the rule\'s own denominator: use ASGC(rule=...) instead of wrap')
    if complete["on_shift"] not in ("none", "rewarm"):
        raise ValueError(f"on_shift={complete['on_shift']!r} changes the inner optimizer's state: use ASGC(rule=...)")
    if not is_tensor_free(complete):
        raise TypeError(f"options of wrap must be numbers, not tensors: {', '.join(TRANSFORM_DEFAULTS)}")
    return Wrapped(inner, complete, restore_grad)
