"""Tasks of the user's own: any environment of Gymnasium's registry, and what a function of the user's makes.

gym:LunarLander-v3          an id of Gymnasium's registry
my_package.envs:Maze-v0     the same, after that module has been imported, which registers it
make:my_package.envs:make   what that function makes (`--env.make my_package.envs:make`)
"""

from __future__ import annotations

import functools
import importlib.metadata
import re
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from evaluation.cli.errors import UserError
from evaluation.cli.user_code import accepts, call_with, import_module, load, users
from rl.tasks.task import EnvConfig, Family, ObservationSpec, Protocol, Task

if typing.TYPE_CHECKING:
    import gymnasium

    from rl.tasks.own import OwnEnvs

REGISTRY, FUNCTION = "gym:", "make:"
GYMNASIUM = Family(
    name="gymnasium",
    title="a Gymnasium environment",
    preset="gymnasium",
    protocols=(Protocol(name="gymnasium", eval_epsilon=0.0),),  # whole episodes, as the environment defines them
)


@dataclass(frozen=True, kw_only=True)
class OwnTask(Task):
    """An environment by its id, or what a function makes.

    Such a function is called in one of two ways. One that takes `num_envs` returns a `gymnasium.vector.VectorEnv` of so
    many environments, whose metadata say its `autoreset_mode`:

        def make(num_envs: int, seed: int) -> gymnasium.vector.VectorEnv

    Any other, a class too, returns a single `gymnasium.Env`, and is called once for each environment:

        def make() -> gymnasium.Env

    Either is told `seed` and `training` (False for the environments of evaluations) if it has arguments of these names.
    The first `reset` is given a seed in any case: an environment that draws from its own `np_random` alone plays the
    same from the same seed, and runs in it are resumed exactly.
    """

    family: Family = GYMNASIUM

    def observation(self, env: EnvConfig) -> ObservationSpec:
        return _looked_at(self.name, env.patience, env.processes)

    def make(self, env: EnvConfig, *, num_envs: int, seed: int, training: bool) -> OwnEnvs:
        from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

        from rl.step import environment_seeds
        from rl.tasks.own import OwnEnvs

        how: dict[str, Any] = {"name": self.name, "reward_clip": env.reward_clip, "reward_scale": env.reward_scale}
        how["patience"] = env.patience
        function = self._function()
        if accepts(function, "num_envs"):
            with users(f"{self.name}: making {num_envs} environments"):
                pool = call_with(function, num_envs=num_envs, seed=seed, training=training)
            return OwnEnvs(_of_kind(pool, self.name, vector=True), num_envs, seed=seed, **how)
        seeds = environment_seeds(seed, num_envs).tolist()
        single = [functools.partial(_single, self.name, function, seed=one, training=training) for one in seeds]
        kind = AsyncVectorEnv if env.processes else SyncVectorEnv
        with users(f"{self.name}: making {num_envs} environments"):
            pool = kind(single, autoreset_mode=AutoresetMode.NEXT_STEP)
        return OwnEnvs(pool, num_envs, seed=seeds, **how)

    def check(self, env: EnvConfig) -> None:
        self.observation(env)

    def source(self, env: EnvConfig) -> dict[str, Any]:
        return {"gymnasium": importlib.metadata.version("gymnasium")}

    def _function(self) -> Callable[..., Any]:
        """What makes the environments; UserError: there is no such thing."""
        if self.name.startswith(FUNCTION):
            function = load(self.name.removeprefix(FUNCTION), "--env.make")
            if not callable(function):
                raise UserError(f"--env.make {self.name.removeprefix(FUNCTION)}: is no function")
            return typing.cast(Callable[..., Any], function)
        return _Registered(_registered(self.name))


@dataclass(frozen=True)
class _Registered:
    """Makes an environment of the registry. (`gymnasium.make` itself hands on every argument, `training` too.)"""

    env_id: str

    def __call__(self) -> gymnasium.Env[Any, Any]:
        import gymnasium

        return gymnasium.make(self.env_id)


def find_own(name: str) -> OwnTask:
    """The task of a name with a colon.

    Raises:
        UserError: no such id, module or function.
    """
    task = OwnTask(name=name.strip())
    task._function()
    return task


def _single(name: str, function: Callable[..., Any], *, seed: int, training: bool) -> gymnasium.Env[Any, Any]:
    made = call_with(function, seed=seed, training=training)
    return typing.cast("gymnasium.Env[Any, Any]", _of_kind(made, name, vector=False))


def _of_kind(made: Any, name: str, *, vector: bool) -> Any:
    import gymnasium

    wanted = gymnasium.vector.VectorEnv if vector else gymnasium.Env
    if isinstance(made, wanted):
        return made
    what = f"{name}: it made a {type(made).__name__}"
    if isinstance(made, gymnasium.vector.VectorEnv):
        raise UserError(f"{what}: a function that makes a VectorEnv takes num_envs, the number of its environments")
    if vector and isinstance(made, gymnasium.Env):
        raise UserError(f"{what}: a function that takes num_envs makes a gymnasium.vector.VectorEnv of so many")
    raise UserError(f"{what}, where a gymnasium.{'vector.VectorEnv' if vector else 'Env'} was expected")


@functools.cache
def _registered(name: str) -> str:
    """The id behind a name, as `gymnasium.make` takes it, once it is in the registry."""
    import gymnasium

    module, _, env_id = name.partition(":")
    if f"{module}:" != REGISTRY:
        import_module(module, f"--game {name}")
    try:
        gymnasium.spec(env_id)
    except gymnasium.error.Error as error:
        text = re.sub(r"\s+", " ", str(error))
        where = "" if f"{module}:" == REGISTRY else f" (after importing {module}; a function: --env.make {name})"
        raise UserError(f"--game {name}: {text}{where}") from error
    return env_id


@functools.cache
def _looked_at(name: str, patience: float, processes: bool) -> ObservationSpec:
    """What is observed: one environment is made for that, in the way in which those of the run are."""
    task, env = OwnTask(name=name), EnvConfig(protocol="gymnasium", patience=patience, processes=processes)
    envs = task.make(env, num_envs=1, seed=0, training=True)
    spec = envs.spec
    envs.close()
    return spec
