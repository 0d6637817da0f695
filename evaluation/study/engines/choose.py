"""The engines by name, and their options. A new engine is a file beside this one, and its lines here."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from evaluation.cli.errors import UserError
from evaluation.cli.parser import Flags
from evaluation.cli.values import words
from evaluation.cores import usable_cores
from evaluation.study.engines.base import Engine
from evaluation.study.engines.forked import ForkedEngine, console_scripts
from evaluation.study.engines.local import LocalEngine
from evaluation.study.engines.ray import RayEngine


def add_flags(flags: Flags) -> None:
    """Which engine, and the options of all."""
    flags.option("engine", "--engine", str, "local", "local (this machine) or ray (a cluster)")
    jobs = "runs at a time; null: as many as cores (local)"
    flags.option("engine", "--jobs", int | None, None, jobs, allowed="[1, 100000]")
    flags.option("engine", "--threads", int, 1, "CPU threads of each run", allowed="[1, 1024]")
    flags.option("engine", "--gpus", str | None, None, "local: GPUs to spread the runs over, such as 0,1")
    flags.option("engine", "--runs-per-gpu", int, 1, "runs that share one GPU", allowed="[1, 1000]")
    flags.option("engine", "--gpu-share", float, 0.0, "ray: GPUs of each run, such as 0.25", allowed="[0, 64]")
    flags.option("engine", "--address", str, "auto", "ray: auto (a cluster that runs), local (a new one), or HOST:PORT")


def make(programs: Iterable[tuple[str, ...]], options: argparse.Namespace) -> Engine:
    """The engine that the options ask for, for programs as `program.resolve` gives them.

    Raises:
        UserError: there is no such engine, or it cannot start.
    """
    match options.engine:
        case "local":
            scripts, jobs, gpus = console_scripts(programs), places(options), _gpus(options)
            return ForkedEngine(scripts, options.threads, jobs, gpus) if scripts else LocalEngine(jobs, gpus)
        case "ray":
            how = {"jobs": options.jobs, "threads": options.threads, "gpus": options.gpu_share}
            return RayEngine(options.address, retries=options.retries, **how)
    raise UserError(f"--engine {options.engine}: there are local and ray")


def places(options: argparse.Namespace) -> int:
    """Runs at a time: what --jobs says, else what this machine's GPUs or cores hold."""
    runs_on_gpus = len(_gpus(options)) * options.runs_per_gpu
    return options.jobs or runs_on_gpus or max(1, usable_cores() // options.threads)


def _gpus(options: argparse.Namespace) -> list[str]:
    return words(options.gpus)
