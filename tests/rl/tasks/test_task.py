"""Every task's record against its real environments."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from rl import TrainConfig, tasks
from rl.tasks import EnvConfig, Task
from rl.tasks.families import ATARI, CONTROL
from rl.tasks.own_tasks import GYMNASIUM

SOME = ("Pong", "Breakout", "MontezumaRevenge")  # of the Atari games, to be played


def env_config(task: Task, protocol: str) -> EnvConfig:
    """Frames small and not square."""
    return EnvConfig(protocol=protocol, threads=1, height=21, width=26, stack=3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "protocol"),
    [
        (name, protocol.name)
        for family, names in ((ATARI, SOME), (CONTROL, tasks.names(CONTROL)))
        for name in names
        for protocol in family.protocols
    ],
)
def test_a_record_is_what_its_environments_are(name: str, protocol: str) -> None:
    task = tasks.find(name)
    assert (task.name, task.family.protocol(protocol).name) == (name, protocol)
    env = env_config(task, protocol)
    spec = task.observation(env)
    assert spec.shape == (spec.stack, *spec.frame)
    task.check(env)
    for training in (True, False):
        envs = task.make(env, num_envs=2, seed=3, training=training)
        assert envs.num_envs == 2
        steps = [envs.reset(), envs.step([0, envs.num_actions - 1]).observation]
        assert {array.shape for array in steps} == {(2, *spec.shape)}
        assert {array.dtype for array in steps} == {np.dtype(spec.dtype)}
        with pytest.raises(ValueError, match="actions must be in"):
            envs.step([0, envs.num_actions])
        envs.close()


@pytest.mark.parametrize("name", tasks.names(CONTROL))
def test_scaled_observations_of_random_play_are_of_the_order_of_one(name: str) -> None:
    task = tasks.find(name)
    spec = task.observation(env_config(task, "control"))
    assert len(spec.center) == len(spec.scale) == spec.frame[0]
    envs = task.make(env_config(task, "control"), num_envs=16, seed=0, training=True)
    rng = np.random.default_rng(0)
    seen = [envs.reset()]
    seen += [envs.step(rng.integers(envs.num_actions, size=16)).observation for _ in range(300)]
    scaled = (np.concatenate(seen)[:, 0] - np.array(spec.center)) / np.array(spec.scale)
    assert 0.1 < np.sqrt(np.square(scaled).mean()) < 3
    assert np.abs(scaled).max() < 20


def test_every_registered_task_has_an_observation_and_a_default_configuration() -> None:
    assert len({family.name for family in tasks.FAMILIES}) == len(tasks.FAMILIES)
    only = [one.marks["only"] for one in TrainConfig.settings().values() if "only" in one.marks]
    marked = {name for each in only for name in ([each] if isinstance(each, str) else each)}
    assert marked == {family.name for family in (*tasks.FAMILIES, GYMNASIUM)}
    for family in tasks.FAMILIES:
        assert family.preset in TrainConfig.PRESETS
        name = tasks.names(family)[0]
        config = TrainConfig.preset(game=name)  # of the family's preset
        config.validate()
        assert config.env.protocol in {protocol.name for protocol in family.protocols}
        for name in tasks.names(family):
            task = tasks.find(name)
            spec = task.observation(config.env)
            assert (task.name, task.family) == (name, family)
            assert bool(spec.center) == bool(spec.scale) == (spec.dtype == "float32")


def test_protocols_and_targets() -> None:
    epsilons = {p.name: p.eval_epsilon for family in tasks.FAMILIES for p in family.protocols}
    assert epsilons == {"nature": 0.05, "classic": 0.01, "sticky": 0.001, "control": 0.0}
    lives = {p.name for family in tasks.FAMILIES for p in family.protocols if p.episodic_life}
    assert lives == {"nature", "classic"}
    targets = {name: tasks.find(name).target for family in tasks.FAMILIES for name in tasks.names(family)}
    assert {name: target for name, target in targets.items() if target is not None} == {
        "Pong": 0.0,
        "Acrobot": -100.0,
        "CartPole": 475.0,
        "LunarLander": 200.0,
        "MountainCar": -110.0,
    }
    assert [family.torch_threads for family in tasks.FAMILIES] == [None, 1]
    with pytest.raises(KeyError):
        ATARI.protocol("control")


def test_control_tasks_and_families_are_known_without_heavy_imports() -> None:
    code = (
        "import sys; from rl import tasks; assert tasks.find('cartpole').name == 'CartPole'; "
        "assert tasks.family('Pong').preset == 'quick'; assert not {'torch', 'envpool', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
