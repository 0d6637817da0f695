"""What comes before a run: its folder's name, what is left to the machine, and the checks after which nothing is
written for a run that cannot start."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import os
import re
from collections.abc import Iterator
from pathlib import Path

import torch

from evaluation.cli.errors import UserError
from evaluation.cli.user_code import users
from evaluation.cores import cpu_quota
from evaluation.runs import resources
from evaluation.runs.checkpoint import CheckpointStore
from evaluation.runs.choosing import free_folder, take_over
from evaluation.runs.hardware import (
    has_bf16,
    select_channels_last,
    select_precision,
    select_threads,
)
from evaluation.runs.run_folder import CHECKPOINTS
from rl import algorithms, backends, tasks
from rl.config import TrainConfig
from rl.networks import build_network
from rl.own_network import own_network, try_out

CHOSEN = ("device", "precision", "channels_last", "threads")  # by the machine, where an option leaves it open
MOST_ACTIONS = 18  # of an Atari game: networks are measured before their environments are there
STATES = 7  # numbers a parameter in a checkpoint, at most: both networks, three of the optimizer, best and last model
FLOAT = 4  # bytes
GRADIENT_ROW = 600  # bytes of a layer's recorded gradient, about
ON_A_GPU = 1 << 29  # bytes there beside a memory: networks, optimizer, activations, libraries' workspaces, about
METRICS_ROWS = 4_000  # bytes of an interval's metrics, in both their files


def choose(config: TrainConfig, run: Path | None) -> tuple[TrainConfig, list[str]]:
    """A configuration with what it leaves to the machine filled in, and lines about that for the user.

    Args:
        run: to be resumed: what was chosen at its start is kept, however this machine would choose.

    Raises:
        UserError: the device is not here.
    """
    found = take_over(config, run, CHOSEN)
    full, device, lines = found.config, found.device, found.lines
    if device.type == "cpu" and found.before.get("cuda_graphs", config.cuda_graphs) != config.cuda_graphs:
        lines.append("--cuda-graphs computes otherwise: from here on not with the numbers of the uninterrupted run")
    full.threads = full.threads or _learning_threads(full)
    if full.backend != backends.NATIVE:
        full.precision, full.channels_last = "fp32", False  # what the libraries compute in
    full.precision = select_precision(full.precision, device)  # type: ignore[assignment]
    full.channels_last = select_channels_last(full.channels_last, device, full.precision)
    if full.precision == "bf16" and not has_bf16(device):
        why = "the run began with it" if "precision" in found.kept else "it was asked for"
        lines.append(f"precision bf16 is slow here, for want of the hardware; {why} and stays")
    return full, lines


def playing_threads(config: TrainConfig) -> int:
    """EnvPool's threads while a configuration, from `choose`, trains; 0: EnvPool chooses."""
    cores = min(os.cpu_count() or 1, cpu_quota())
    return config.env.threads or (max(1, cores - (config.threads or 0)) if _plays_beside(config) else 0)


def _learning_threads(config: TrainConfig) -> int:
    """torch's threads: all free cores. Where rollouts are played while others are learned from, which takes about as
    long, half of them: on two cores a thread for each made 1.3 times the steps of two for each."""
    free = select_threads(None, most=tasks.find(config.game).family.torch_threads)
    return max(1, free - (config.env.threads or free - free // 2)) if _plays_beside(config) else free


def _plays_beside(config: TrainConfig) -> bool:
    """Whether EnvPool's threads and torch's are busy at the same time."""
    atari = tasks.find(config.game).family.name == "atari"
    return config.algorithm == "pqn" and config.overlap and config.device == "cpu" and atari


def check_resources(config: TrainConfig, device: torch.device, path: Path, *, resume: bool = False) -> int:
    """Refuse a run that memory or disk cannot hold; returns the bytes of one checkpoint, about."""
    spec = tasks.find(config.game).observation(config.env)
    native = config.backend == backends.NATIVE
    algorithm = algorithms.find(config.algorithm) if native else backends.load(config.backend)
    memory, (thing, smaller) = algorithm.memory, algorithm.remembers
    whole, filled = memory(config, spec), memory(_as_long_as_the_run(config), spec)
    sizes = spec, MOST_ACTIONS, config.network, config.head.per_action
    if config.network.cls is not None:
        network = try_out(*sizes)
        if config.ema_decay is not None:
            what = f"--ema-decay: copying the network of --network.cls {config.network.cls}"
            with torch.random.fork_rng(devices=[]), users(what):
                copy.deepcopy(own_network(*sizes))
    else:
        with torch.device("meta"):
            network = build_network(*sizes)
    layers = [parameter.numel() for parameter in network.parameters()]
    parameters = sum(layers)
    # torch, EnvPool, the networks and their activations: measured, those of frames with 32 images a batch.
    overhead = (1 << 30) if len(spec.frame) >= 2 else (600 << 20)
    remedy = "free some, or go on on a larger machine" if resume else smaller
    if device.type != "cpu" and native:
        resources.check_memory(whole + ON_A_GPU, f"{thing} and the networks", remedy, device=str(device))
    else:
        # A ring takes the pages that are written: frames as they come, and at once a byte each of what followed.
        overhead += filled + (config.replay_size if config.has("replay_size") else 0)
    resources.check_memory(overhead, "this run", remedy)
    try:
        torch.empty(whole if device.type == "cpu" else 0, dtype=torch.uint8)
    except RuntimeError as error:  # the system gives no such addresses away, although the run may not fill them
        size = resources.human_bytes(whole)
        raise UserError(f"not enough memory: the system has no {size} for {thing}; {remedy}") from error
    states = STATES + (config.ema_decay is not None)  # the average of the weights
    checkpoint = filled + states * FLOAT * parameters + min(config.total_steps, config.segment_steps) + (1 << 18)
    store = CheckpointStore(path / CHECKPOINTS)
    present = sum(file.stat().st_size for file in store.folder.rglob("*") if file.is_file())
    needed = (store.keep + 1) * checkpoint - present + 2 * FLOAT * parameters
    needed += _records(config, len(layers), FLOAT * parameters)
    if resume or filled < checkpoint / 2:
        remedy = "free some" if resume else "free some, or choose another --run-dir"
    else:
        remedy = f"{smaller} or choose another --run-dir"
    resources.check_disk(path, max(0, needed), "its checkpoints, models and records", remedy)
    return checkpoint


@contextlib.contextmanager
def memory_named(config: TrainConfig) -> Iterator[None]:
    """A GPU whose memory runs out in the block is the user's to mend: one line says what takes it.

    Raises:
        UserError: it did. Checkpoints that were written before are as they were.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        spec = tasks.find(config.game).observation(config.env)
        size = resources.human_bytes(algorithms.find(config.algorithm).memory(config, spec))
        if config.backend != backends.NATIVE:  # its replay is not on the GPU
            settings = f"--batch-size (now {config.batch_size})"
        elif config.has("replay_size"):
            settings = f"--replay-size (now {config.replay_size}, {size}), --batch-size ({config.batch_size})"
        else:
            settings = f"--pqn.rollout-steps (now {config.pqn.rollout_steps}, {size})"
        settings += f" or --env.num-envs ({config.env.num_envs})"
        raise UserError(
            f"the GPU is out of memory: lower {settings} in a new run; or free some on the GPU, and go on with "
            "--resume from the last checkpoint, which is as it was"
        ) from error


def _as_long_as_the_run(config: TrainConfig) -> TrainConfig:
    """The configuration with a replay no larger than what the run can put into it."""
    least = config.env.num_envs * (tasks.find(config.game).observation(config.env).stack + config.n_step + 1)
    steps = max(least, config.total_steps + config.env.num_envs)
    return dataclasses.replace(config, replay_size=min(config.replay_size, steps))


def _records(config: TrainConfig, layers: int, model_bytes: int) -> int:
    """Bytes of the metrics, kept models and recorded gradients of so many layers of a whole run, about."""
    steps, when = config.total_steps, algorithms.find(config.algorithm).timing(config)
    metrics = METRICS_ROWS * (steps // config.log_interval + steps // config.evaluation.interval + 2)
    updates = max(0, steps - when["learning_starts"]) // when["train_every"] * when["gradient_steps"]
    records = updates // config.gradients.interval * (1 + len(config.gradients.offsets or ()))
    models = 0 if config.keep_models is None else steps // config.keep_models
    metrics += models * model_bytes
    return metrics + (records * layers * GRADIENT_ROW if config.gradients.enabled else 0)


def default_run_dir(config: TrainConfig, which: str | None = None) -> Path:
    """runs/DATE/GAME-OPTIMIZER-sSEED, with a number behind it where that is taken; GAME-ALGORITHM-... but for DQN;
    `which` in the place of sSEED."""
    game = re.sub(r"[^A-Za-z0-9.+_]+", "-", config.game)  # "gym:ALE/Pong-v5" has what folders should not have
    played = game if config.algorithm == "dqn" else f"{game}-{config.algorithm}"
    name = f"{played}-{config.optimizer.name}-{which or f's{config.seed}'}"
    return free_folder(name)
