"""Values that a person typed, in a file or on a command line: their types, their ranges, the nearest known name."""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from asgc.option import describe_range, in_range
from evaluation.files import LONGEST_NAME

PathText = Annotated[str, "path"]  # text that names a file or folder: see `path`

_NUMBER = re.compile(r"[+-]?(\d[\d_]*\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_VARIABLE = re.compile(r"\$(\w+|\{[^}]*\})", re.ASCII)  # as os.path.expandvars has them
# What CleanRL, Stable-Baselines3 and PyTorch's own examples call it.
_ELSEWHERE = {
    **dict.fromkeys(("env", "env_id", "env_name", "environment"), "game"),
    **dict.fromkeys(("learning_rate", "step_size"), "lr"),
    **dict.fromkeys(("steps", "timesteps", "total_timesteps", "max_steps", "num_steps"), "total_steps"),
    **dict.fromkeys(("buffer_size", "memory_size", "replay_capacity", "replay_buffer_size"), "replay_size"),
    **dict.fromkeys(("train_freq", "train_frequency", "update_frequency"), "train_every"),
    **dict.fromkeys(("target_network_frequency", "target_update_interval", "target_update_freq"), "target_interval"),
    **dict.fromkeys(("start_e", "epsilon_start", "eps_start", "exploration_initial_eps"), "exploration.start"),
    **dict.fromkeys(("end_e", "epsilon_end", "eps_end", "exploration_final_eps"), "exploration.end"),
    **dict.fromkeys(("exploration_fraction", "eps_decay", "epsilon_decay"), "exploration.steps"),
    **dict.fromkeys(("max_grad_norm", "clip_grad_norm", "grad_clip"), "max_norm"),
    **dict.fromkeys(("eval_freq", "eval_interval"), "evaluation.interval"),
    **dict.fromkeys(("out", "output", "output_dir", "logdir", "log_dir", "save_dir"), "run_dir"),
    **dict.fromkeys(("num_minibatches", "n_minibatches"), "minibatches"),
    **dict.fromkeys(("update_epochs", "num_epochs", "n_epochs"), "epochs"),
    **dict.fromkeys(("q_lambda", "lambda", "gae_lambda"), "td_lambda"),
    "discount": "gamma",
    "cuda": "device",
    "gpu": "device",
    "wandb": "track",
    "mlflow": "track",
    "n_steps": "n_step",
    "learning_start": "learning_starts",
    "opt": "optimizer",
    "optim": "optimizer",
    "net_arch": "units",
}


def flags(options: Mapping[str, Any]) -> list[str]:
    """Options as command-line arguments of a trainer: {"env.num_envs": 8} -> ["--env.num-envs=8"]."""
    return [f"--{key.replace('_', '-')}={show(value)}" for key, value in options.items()]


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """ "; did you mean 'x'?" with the known name that is meant or nearest; "" if none is near.

    Dotted names go by their last part, too, and what other toolkits call it counts. Dashes are underscores.
    """
    whole = {_spelling(path): path for path in reversed(known)}
    last = {path.rpartition(".")[2]: whole[path] for path in whole}
    name = _spelling(name)
    own = name.rpartition(".")[2]
    meant = _ELSEWHERE.get(name) or _ELSEWHERE.get(own, own)
    near = next((names[meant] for names in (whole, last) if meant in names), None)
    for text, names in () if near else ((name, whole), (own, last)):
        for match in difflib.get_close_matches(text, names, n=1, cutoff=0.7):
            near = near or names[match]
    return f"; did you mean {near!r}?" if near else ""


def _spelling(name: str) -> str:
    """One spelling for a flag and a key: "--optimizer.clip-factor" -> "optimizer.clip_factor"."""
    return name.lstrip("-").replace("-", "_")


def suggestion(name: str, known: Sequence[str]) -> str:
    """`did_you_mean`, or where nothing is near "; there are a, b, c"."""
    return did_you_mean(name, known) or f"; there are {', '.join(known)}"


def read(value: Any, hint: Any, allowed: str = "", optional: bool = False) -> Any:
    """`value` or what its text means ("1e6" is a whole number), as the type `hint` and within the interval `allowed`
    ("" allows all; of a list each number): the one way in which flags, files and Python give values to options. A hint
    with None in it is `optional`.

    Raises:
        ValueError: what was expected.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint == PathText:
        return path(value)
    if origin in (types.UnionType, typing.Union):
        if value is None or (isinstance(value, str) and value.lower() in ("null", "none", "~")):
            return None
        return read(value, next(arg for arg in args if arg is not types.NoneType), allowed, optional=True)
    if origin is Literal:
        if value in args:
            return value
        *others, last = map(str, (*args, "null") if optional and len(args) == 1 else args)
        raise ValueError(f"must be {', '.join(others)} or {last}" if others else f"must be {last}")
    if origin in (list, tuple):
        if isinstance(value, str):
            value = words(value.strip("[]() "))
        if not isinstance(value, list | tuple) or not value or (origin is tuple and len(value) != len(args)):
            count = f"{len(args)} " if origin is tuple else ""
            kind = "whole numbers such as 32,64" if args[0] is int else "numbers such as 0.9,0.999"
            kind = "names with commas between them" if args[0] is str else kind
            raise ValueError(f"must be {count}{kind}")
        return origin(read(item, args[0], allowed) for item in value)
    if hint is bool:
        text = str(value).lower()
        if text not in ("true", "yes", "on", "1", "false", "no", "off", "0"):
            raise ValueError("must be true or false")
        return text in ("true", "yes", "on", "1")
    if hint is str:
        if isinstance(value, str) and value:
            return value
        raise ValueError("must be text")
    found = _as_number(value, whole=hint is int)
    if allowed and not in_range(found, allowed):
        raise ValueError(f"must be {describe_range(allowed)}")
    return found


def _as_number(value: Any, whole: bool) -> int | float:
    found = None
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        if whole and not isinstance(value, float):
            with contextlib.suppress(ValueError):
                return int(value)  # exact, also beyond 2^53
        with contextlib.suppress(ValueError, OverflowError):
            found = float(value)
    if found is None or (whole and not found.is_integer()):
        raise ValueError(f"must be {'a whole number' if whole else 'a number'}")
    return int(found) if whole else found


def path(value: Any) -> str:
    """Where a file or folder is: `~`, `~user` and `$VAR` or `${VAR}` are what they are in a shell, also in a file and
    behind "--run-dir=". A folder that is there and really has a `$` in its name stands for itself.

    Raises:
        ValueError: no path, a variable that is not set, a home folder that is not known, a name that is too long.
    """
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str) or not text or "\0" in text:
        raise ValueError("must be the name of a file or folder")
    parts = os.path.expanduser(text).split("/")  # noqa: PTH111  (a Path drops "./", which a program may need)
    if parts[0] == "~":
        raise ValueError("there is no home folder: HOME is not set")
    for index, part in enumerate(parts):
        if "$" in part and not os.path.lexists("/".join(parts[: index + 1])):
            parts[index] = os.path.expandvars(part)
            if unset := _VARIABLE.search(parts[index]):
                raise ValueError(f"the environment variable {unset[0]} is not set")
    expanded = "/".join(parts)
    for part in expanded.split("/"):
        if len(os.fsencode(part)) > LONGEST_NAME:
            length = f"{len(os.fsencode(part))} bytes, at most {LONGEST_NAME} are possible"
            raise ValueError(f"{part[:20]}... is too long for a name: {length}")
    return expanded


def show(value: Any) -> str:
    """A value as the user would have typed it."""
    if isinstance(value, list | tuple):
        return ",".join(map(show, value))
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value) if str(value) else "''"


def number(value: Any) -> Any:
    """Text that is a number as that number (YAML reads 40_000 as text); everything else as it is."""
    if not isinstance(value, str) or not _NUMBER.fullmatch(value):
        return value
    text = value.replace("_", "")
    return int(text) if text.lstrip("+-").isdigit() else float(text)


def words(text: str | None) -> list[str]:
    """ "a, b" -> ["a", "b"]."""
    return [word.strip() for word in (text or "").split(",") if word.strip()]
