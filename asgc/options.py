"""The one table of options: those of ASGC, of ``wrap``, of the base rules and of the clips that stand before them.

A record (``asgc.option``) says everything about an option: name, kind, default, range, choices, help. The checks and
messages of the Python API, the signature of ``ASGC``, and the flags, file keys and help pages of the command lines are
made from it.
This module does not import torch, so that a command line answers at once; the defaults of torch.optim's own options are
read from the installed torch where they are needed (``rule_defaults``).
"""

from __future__ import annotations

import functools
import importlib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .option import Kind, Option, choice, flag, integer, is_tensor, nearest, number

__all__ = [
    *(
        "ASGC_DEFAULTS",
        "ASGC_OPTIONS",
        "CLIPS",
        "IMPLEMENTATIONS",
        "LIBRARY_CLASSES",
        "LR",
        "RULE",
        "PEER_RULES",
        "RULES",
        "RULE_OPTIONS",
    ),
    *("TORCH_CLASSES", "TRANSFORM_DEFAULTS", "TRANSFORM_OPTIONS", "ClipInfo", "check_names", "check_values"),
    *("is_tensor_free", "of_rule", "resolve", "resolve_clip", "resolve_transform", "rule_defaults", "signature"),
    *("rule_class", "table", "reference_and_cpu_only"),
]

POSITIVE, NOT_NEGATIVE, FRACTION = "(0, inf]", "[0, inf)", "[0, 1)"
RULES = ("sgd", "adam", "adamw", "rmsprop", "adagrad")  # base rules of ASGC
# torch.optim's class of each rule: the source of its options' defaults. RAdam is there to be compared with: ASGC has no
# such rule (`wrap` stands in front of it).
TORCH_CLASSES = dict(zip(RULES, ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad"), strict=True)) | {"radam": "RAdam"}
# Of the package pytorch_optimizer, which has to be installed for them.
LIBRARY_CLASSES = {"soap": "SOAP", "shampoo": "Shampoo", "lamb": "Lamb"}
PEER_RULES = {**TORCH_CLASSES, "adopt": "ADOPT", **LIBRARY_CLASSES}  # ADOPT is this package's
IMPLEMENTATIONS = ("reference", "foreach", "cpu", "triton", "sharded")

LR = number("lr", None, NOT_NEGATIVE, "learning rate")
RULE = choice("rule", "adam", RULES, "base rule, which is given the changed gradients")
NOISE_DECAY = number("noise_decay", 0.0, NOT_NEGATIVE, "the noise falls with (1 + t)^(-noise_decay/2)")
SEED = integer("seed", 0, "[0, 4294967295]", "seed of the noise")

WEIGHT_FLOOR = number("weight_floor", 1e-3, "(0, inf)", "least size of weights that is reckoned with")
EXCLUDE_HEAD = flag("exclude_head", True, "leave the last layer as it is")

# Options of the gradient transform (steps 1-4 and 6 of the algorithm), shared by ASGC and wrap.
TRANSFORM_OPTIONS = (
    choice("mode", "norm", ("value", "norm"), "clip element by element, or scale a whole layer"),
    number("clip_factor", None, POSITIVE, "threshold over the gradient's scale; None: 2 (norm), 3 (value)", True),
    number("clip_sharpness", 4.0, POSITIVE, "exponent p of the smooth clip; inf: the hard clip"),
    number("threshold", None, POSITIVE, "fixed threshold in place of the adaptive one", True),
    choice(
        "granularity",
        "layer",
        ("layer", "unit", "element"),
        "of the statistics: a parameter tensor or its output units; element: thresholds, from the rule's second moment",
    ),
    number("noise_scale", 0.1, NOT_NEGATIVE, "noise in standard deviations of the gradient; 0: none"),
    NOISE_DECAY,
    choice("noise_at", "gradient", ("gradient", "update"), "noise before the clip, or after the rule (Langevin form)"),
    flag("noise_zeros", False, "noise on elements whose gradient is exactly 0, too"),
    number("stats_decay", 0.99, FRACTION, "decay of the running statistics for each step"),
    number("outlier_share", None, "(0, 1)", "share of outlier steps to ignore; None: 0.9 (sgd), 0.25 (others)", True),
    choice("on_shift", "none", ("none", "rewarm", "adam-rel", "reset"), "what shift() does when the loss has changed"),
    choice("nonfinite", "contain", ("contain", "skip", "raise"), "treatment of inf and NaN gradients"),
    SEED,
)
ASGC_OPTIONS = (
    RULE,
    *TRANSFORM_OPTIONS,
    number("eps_scale", 0.0, NOT_NEGATIVE, "standard deviations of the layer's gradient that are added to eps"),
    number(
        "ceiling", None, POSITIVE, "largest step of a layer, as a share of the size of its weights; None: any", True
    ),
    choice("ceiling_norm", "rms", ("rms", "spectral"), "size of the weights: root mean square or singular value"),
    WEIGHT_FLOOR,
    EXCLUDE_HEAD,
    choice("adapt", None, ("hypergradient",), "a layer's clip_factor and clip_sharpness follow hypergradients", True),
    number("adapt_lr", 0.5, NOT_NEGATIVE, "step of their logarithms"),
    integer("adapt_every", 8, "[1, inf]", "steps from one measurement to the next"),
    choice("implementation", "auto", ("auto", *IMPLEMENTATIONS), "code path; auto chooses before the first step"),
    flag("capturable", False, "steps may be captured in a CUDA graph (triton)"),
)


def _of_torch(kind: Kind, name: str, allowed: str, help: str, *rules: str) -> Option:
    return Option(name, None, help, kind, allowed, owners=rules)


ADAPTIVE = tuple(rule for rule in PEER_RULES if rule not in ("sgd", "shampoo"))
# The rules' own options, torch.optim's mostly.
RULE_OPTIONS = (
    _of_torch(
        "pair", "betas", FRACTION, "decays of the two moments", "adam", "adamw", "radam", "adopt", "soap", "lamb"
    ),
    _of_torch("number", "eps", NOT_NEGATIVE, "added to the denominator", *ADAPTIVE),
    _of_torch("number", "weight_decay", NOT_NEGATIVE, "weight decay", *PEER_RULES),
    _of_torch("flag", "amsgrad", "", "AMSGrad", "adam", "adamw"),
    _of_torch("flag", "decoupled_weight_decay", "", "weight decay as in AdamW", "adam", "radam", "adopt"),
    _of_torch("number", "momentum", NOT_NEGATIVE, "momentum", "sgd", "rmsprop", "shampoo"),
    _of_torch("number", "dampening", "(-inf, inf)", "dampening of the momentum", "sgd"),
    _of_torch("flag", "nesterov", "", "Nesterov momentum", "sgd"),
    _of_torch("number", "alpha", NOT_NEGATIVE, "decay of the squared average", "rmsprop"),
    _of_torch("flag", "centered", "", "divide by the standard deviation", "rmsprop"),
    _of_torch("number", "lr_decay", NOT_NEGATIVE, "learning rate decay", "adagrad"),
    _of_torch("number", "initial_accumulator_value", NOT_NEGATIVE, "accumulator at the start", "adagrad"),
    _of_torch("integer", "precondition_frequency", "[1, inf]", "steps between two eigenbases", "soap"),
    _of_torch("integer", "preconditioning_compute_steps", "[1, inf]", "steps between two inverse roots", "shampoo"),
    _of_torch("flag", "maximize", "", "ascend instead of descend", *PEER_RULES),
)


def signature(function: Callable[..., Any], table: Iterable[Option]) -> inspect.Signature:
    """The signature of a function that takes ``**options`` of a table, with these written out."""
    own = list(inspect.signature(function).parameters.values())
    named = {parameter.name for parameter in own}
    options = [
        inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=option.default)
        for option in table
        if option.name not in named
    ]
    return inspect.Signature([*own[:-1], *options, own[-1]])


def table(options: Iterable[Option]) -> str:
    """The options for a docstring, a line each: name, default, what is allowed, help."""
    return "\n".join(f"    {o.name} = {o.default!r} ({o.words}): {o.help}" for o in options)


@dataclass(frozen=True)
class ClipInfo:
    """What is done to the gradients before a base rule, and its options; its class is in ``asgc.peers``."""

    description: str
    options: tuple[Option, ...]


# 10: the global norm of the usual DQN recipes.
MAX_NORM = number("max_norm", 10.0, POSITIVE, "bound on the global gradient norm (adagc: in the warm-up)")
EMA_DECAY = number("ema_decay", 0.97, FRACTION, "decay of the running norms")
WARMUP_STEPS = integer("warmup_steps", 25, "[1, inf]", "steps that set the running norms")
# "clip" and "clip-value" are registered as RULE+clip and RULE+clip-value, the others by their name with an option rule.
CLIPS: Mapping[str, ClipInfo] = {
    "clip": ClipInfo("clip_grad_norm_ (max_norm)", (MAX_NORM,)),
    "clip-value": ClipInfo(
        "clip_grad_value_", (number("clip_value", 1.0, POSITIVE, "bound on every element of the gradient"),)
    ),
    "agc": ClipInfo(
        "unit-wise adaptive gradient clipping (Brock et al. 2021)",
        (
            number("clip_ratio", 0.01, POSITIVE, "bound on a unit's gradient norm over its weights' norm"),
            WEIGHT_FLOOR,
            EXCLUDE_HEAD,
        ),
    ),
    "autoclip": ClipInfo(
        "global norm clipped to a percentile of all so far (Seetharaman et al. 2020)",
        (number("percentile", 10.0, "[0, 100]", "of all norms so far that is the bound"),),
    ),
    "zclip": ClipInfo(
        "global norm clipped by its z-score (Kumar et al. 2025)",
        (
            number("z_threshold", 2.5, POSITIVE, "z-score of the norm from which it is clipped"),
            EMA_DECAY,
            WARMUP_STEPS,
            replace(MAX_NORM, default=math.inf),
        ),
    ),
    "adagc": ClipInfo(
        "norm of each tensor clipped by its running mean (Wang et al. 2025)",
        (
            number("relative_threshold", 1.05, POSITIVE, "bound in running mean norms of the tensor"),
            replace(EMA_DECAY, default=0.98),
            replace(WARMUP_STEPS, default=100, allowed="[0, inf]"),
            replace(MAX_NORM, default=1.0),
        ),
    ),
    "spamp": ClipInfo(
        "power shaping and projection by layer (You & Liu 2025)",
        (
            replace(EMA_DECAY, default=0.99),
            number("min_power", 0.7, "(0, 1]", "power on the elements of the largest gradients"),
        ),
    ),
    "gradient-stabilizer": ClipInfo(
        "norm of each tensor replaced by a running one (Huang et al. 2025)",
        (
            number("norm_decay", 0.7, FRACTION, "decay of the running norm"),
            number("square_decay", 0.9, FRACTION, "decay of the running squared norm"),
        ),
    ),
    "divgrad": ClipInfo("divided by the spectral norms of the layers (Gogianu et al. 2021)", ()),
    "obgd": ClipInfo(
        "effective step bounded (Elsayed et al. 2024)",
        (number("kappa", 2.0, "(0, inf)", "a linear model's output changes by at most 1/kappa"),),
    ),
    "gradient-noise": ClipInfo(
        "annealed Gaussian noise on the gradients (Neelakantan et al. 2015)",
        (
            number("eta", 0.01, NOT_NEGATIVE, "variance of the noise at the first step"),
            replace(NOISE_DECAY, default=0.55),
            SEED,
        ),
    ),
}

TRANSFORM_DEFAULTS: dict[str, Any] = {option.name: option.default for option in TRANSFORM_OPTIONS}
ASGC_DEFAULTS: dict[str, Any] = {option.name: option.default for option in ASGC_OPTIONS}
_OPTIONS = {option.name: option for option in (LR, *ASGC_OPTIONS, *RULE_OPTIONS)}


def of_rule(rule: str) -> tuple[Option, ...]:
    """A rule's own options, torch.optim's mostly."""
    return tuple(option for option in RULE_OPTIONS if rule in option.owners)


def rule_class(rule: str) -> Any:
    """The optimizer class of a rule: torch.optim's, or a peer's.

    Raises:
        ValueError: the package that has it is not installed.
    """
    if rule in LIBRARY_CLASSES:
        try:
            library = importlib.import_module("pytorch_optimizer")
        except ImportError as error:
            raise ValueError(f"{rule} is pytorch_optimizer's: pip install 'asgc[peers]' brings it") from error
        return getattr(library, LIBRARY_CLASSES[rule])
    if rule in TORCH_CLASSES:
        import torch

        return getattr(torch.optim, TORCH_CLASSES[rule])
    from .adopt import ADOPT

    return ADOPT


@functools.cache
def _signature_defaults(rule: str) -> dict[str, Any]:
    parameters = inspect.signature(rule_class(rule)).parameters
    own = {option.name for option in of_rule(rule)}
    return {name: parameter.default for name, parameter in parameters.items() if name in own}


def rule_defaults(rule: str) -> dict[str, Any]:
    """Options of a rule with torch.optim's own defaults, read from the installed torch."""
    return dict(_signature_defaults(rule))


def check_names(given: Iterable[str], valid: Iterable[str], owner: str) -> None:
    """TypeError for an option that ``owner`` does not have; the nearest one and all valid ones are named."""
    valid = list(valid)
    for name in given:
        if name not in valid:
            raise TypeError(f"{owner} has no option {name!r}{nearest(name, valid)}; it has: {', '.join(valid)}")


def check_values(options: Mapping[str, Any]) -> None:
    """TypeError or ValueError for a wrong value among the options of ASGC and of a rule, all of which are given."""
    for name, value in options.items():
        _OPTIONS[name].check(value)
    if options.get("nesterov") and (options["momentum"] <= 0 or options["dampening"] != 0):
        raise ValueError("nesterov needs momentum above 0 and dampening 0")


def _fill_transform(options: dict[str, Any], anchored: bool) -> None:
    """Defaults that depend on other options: clip_factor on the mode, outlier_share on the rule."""
    if options["clip_factor"] is None:
        options["clip_factor"] = 2.0 if options["mode"] == "norm" else 3.0
    if options["outlier_share"] is None:
        options["outlier_share"] = 0.9 if anchored else 0.25


def resolve(options: Mapping[str, Any]) -> dict[str, Any]:
    """Checked and complete options of one parameter group: every ASGC option, lr, and every option of its rule.

    Raises:
        TypeError: an option that neither ASGC nor the rule has (the nearest name is given), or a value of a wrong type.
        ValueError: a value out of range; an unknown rule, mode, ...
    """
    rule = options.get("rule", RULE.default)
    RULE.check(rule)
    defaults = {**ASGC_DEFAULTS, **rule_defaults(rule)}
    check_names((name for name in options if name != "lr"), defaults, f"ASGC with rule {rule!r}")
    full = {**defaults, **options}
    check_values(full)
    _fill_transform(full, anchored=rule == "sgd")
    if (is_tensor(full["eps_scale"]) or full["eps_scale"] != 0) and "eps" not in full:
        raise ValueError(f"eps_scale={full['eps_scale']!r} needs a rule that has an eps, not {rule!r}")
    if full["granularity"] == "element":
        _check_elements(full)
    if full["ceiling"] is not None and rule == "sgd" and full["mode"] == "value":
        _check_bounded(full)
    if full["adapt"] is not None:
        if (slow := reference_and_cpu_only(full)) is not None:
            raise ValueError(f"adapt={full['adapt']!r} cannot be used together with {slow}")
        if full["threshold"] is not None:
            raise ValueError(
                f"adapt={full['adapt']!r} needs the adaptive threshold, not threshold={full['threshold']!r}"
            )
        if math.isinf(full["clip_factor"]):
            raise ValueError(f"adapt={full['adapt']!r} needs a finite clip_factor to start from, not inf")
    return full


SECOND_MOMENTS = ("adam", "adamw", "rmsprop")  # rules that keep a running one


def _check_elements(options: Mapping[str, Any]) -> None:
    if options["rule"] not in SECOND_MOMENTS:
        raise ValueError(
            f"granularity='element' needs a rule with a running second moment ({', '.join(SECOND_MOMENTS)}), not "
            f"{options['rule']!r}"
        )
    if options["mode"] != "value":
        raise ValueError(f"granularity='element' needs mode='value', not {options['mode']!r}")
    if options["on_shift"] == "adam-rel":
        raise ValueError("granularity='element' needs the count of its steps, which on_shift='adam-rel' sets to 0")
    if options["threshold"] is not None:
        raise ValueError(f"granularity='element' needs its own thresholds, not threshold={options['threshold']!r}")


def _check_bounded(options: Mapping[str, Any]) -> None:
    limit = options["clip_factor"] if options["threshold"] is None else options["threshold"]
    if not is_tensor(limit) and math.isinf(limit):
        raise ValueError("ceiling needs a bound on the gradient with rule='sgd' and mode='value': clip, or mode='norm'")


def reference_and_cpu_only(options: Mapping[str, Any]) -> str | None:
    """What of these options the reference and the CPU's kernel do, and no other implementation; None: nothing."""
    if is_tensor(options["eps_scale"]) or options["eps_scale"] != 0:
        return f"eps_scale={options['eps_scale']!r}"
    if options["ceiling"] is not None:
        return f"ceiling={options['ceiling']!r}"
    return "granularity='element'" if options["granularity"] == "element" else None


def resolve_transform(options: Mapping[str, Any], anchored: bool, owner: str = "wrap") -> dict[str, Any]:
    """The same for the transform alone, in front of another optimizer (``anchored``: outlier_share 0.9, as for sgd)."""
    full = _resolve(TRANSFORM_OPTIONS, options, owner)
    if full["granularity"] == "element":
        raise ValueError(f"granularity='element' needs the rule's second moment: use ASGC(rule=...) instead of {owner}")
    _fill_transform(full, anchored)
    return full


def resolve_clip(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The same for a clip of ``CLIPS``."""
    return _resolve(CLIPS[name].options, options, name)


def _resolve(table: tuple[Option, ...], given: Mapping[str, Any], owner: str) -> dict[str, Any]:
    check_names(given, (option.name for option in table), owner)
    full = {**{option.name: option.default for option in table}, **given}
    for option in table:
        option.check(full[option.name])
    return full


def is_tensor_free(options: Mapping[str, Any]) -> bool:
    """No option other than lr and betas is a tensor: only ``functional`` takes those."""
    return not any(is_tensor(v) for k, v in options.items() if k not in ("lr", "betas", "params"))
