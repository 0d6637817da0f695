"""When DQN begins to learn: as soon as the replay can be sampled, whatever the options are to each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from evaluation.cli.errors import UserError
from rl.algorithms.algorithm import Setup
from rl.algorithms.dqn import DQN
from rl.config import TrainConfig
from rl.tasks import ObservationSpec
from rl.tasks.atari import AtariEnvs
from rl.trainer import schedule_of
from tests.rl.tasks.scripted_env import FRAME_SHAPE, ScriptedPool, game

STACK = 2


def config_of(num_envs: int, n_step: int, *, standardize: bool, **options: int) -> TrainConfig:
    """A tiny run."""
    config = TrainConfig.preset(
        "quick",
        total_steps=10_000,
        n_step=n_step,
        **options,
        precision="fp32",
        env={"num_envs": num_envs, "stack": STACK},
        network={"channels": [1], "kernels": [1], "strides": [1], "hidden": 2, "standardize": standardize},
        optimizer={"name": "sgd", "lr": 0.0},
    )
    config.validate()
    return config


@settings(max_examples=40, deadline=None)
@given(
    num_envs=st.integers(1, 5),
    n_step=st.integers(1, 7),
    learning_starts=st.integers(0, 40),
    batch_size=st.integers(1, 9),
    train_every=st.integers(1, 9),
    gradient_steps=st.integers(1, 3),
    room=st.integers(0, 50),
    standardize=st.booleans(),
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    cuts=st.sets(st.integers(1, 30), max_size=4),
)
@example(  # cut right after an automatic reset: nothing of it is left in the ring before three new steps are known
    num_envs=2,
    n_step=3,
    learning_starts=0,
    batch_size=4,
    train_every=2,
    gradient_steps=1,
    room=0,
    standardize=False,
    lengths=[9],
    cuts={10},
)
def test_it_learns_from_the_first_step_on_at_which_it_can(
    num_envs: int,
    n_step: int,
    learning_starts: int,
    batch_size: int,
    train_every: int,
    gradient_steps: int,
    room: int,
    standardize: bool,
    lengths: list[int],
    cuts: set[int],
) -> None:
    """Also from episodes of one step, and in the smallest ring right after its environments were made anew."""
    least = num_envs * (STACK + n_step + 1)
    config = config_of(
        num_envs,
        n_step,
        replay_size=least + room,
        standardize=standardize,
        learning_starts=learning_starts,
        batch_size=min(batch_size, least),
        train_every=train_every,
        gradient_steps=gradient_steps,
    )
    spec, schedule = ObservationSpec((STACK, *FRAME_SHAPE), "uint8"), schedule_of(config)
    algorithm = DQN(Setup(config, spec, 3, torch.device("cpu"), schedule, lambda updates: None))
    games = [game([1.0] * length) for length in lengths]
    rng = np.random.default_rng(0)

    def begin() -> AtariEnvs:
        envs = AtariEnvs(ScriptedPool([games] * num_envs, stack=STACK), num_envs, episodic_life=False)
        algorithm.start(envs.reset())
        return envs

    envs = begin()
    for number in range(1, 41):
        step = number * num_envs
        actions = rng.integers(3, size=num_envs)
        algorithm.advance(actions, envs.step(actions), step)
        if len(algorithm.replay):
            assert algorithm.updates == schedule.updates(step)
        if number in cuts:
            algorithm.cut()
            envs = begin()
    first = max(learning_starts, (n_step - 1) * num_envs)
    assert schedule.updates(first) == 0
    assert schedule.updates(first + train_every) == gradient_steps


def test_a_run_in_which_nothing_can_be_learned_is_refused() -> None:
    with pytest.raises(UserError, match="--total-steps 40: must be above 40 for 11-step returns of 4 environments"):
        TrainConfig.preset("control", total_steps=40, n_step=11, learning_starts=0, env={"num_envs": 4}).validate()
