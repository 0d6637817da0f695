"""Every setting of a run, with its help text and its allowed range.

The dataclasses are the single source: the flags of `asgc-rl`, the keys of the YAML files, `--help` and the checks are
all made from their fields. One *environment step* is one action of one environment (4 Atari frames); all intervals are
counted in environment steps summed over the environments.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from evaluation.cli.errors import UserError
from evaluation.cli.optimizer_group import OptimizerConfig, OptimizerGroup
from evaluation.cli.settings import Config, Setting, option
from evaluation.cli.user_code import load
from evaluation.cli.values import PathText, show
from evaluation.curvature.options import CurvatureConfig
from evaluation.runs.lr_schedule import LRScheduleConfig
from rl import backends, game_schedule, tasks
from rl.algorithms import ALGORITHMS
from rl.option_groups import (
    PICTURES,
    EvaluationConfig,
    ExplorationConfig,
    GradientsConfig,
    HeadConfig,
    NetworkConfig,
    PQNConfig,
    PrioritizedConfig,
)
from rl.tasks import EnvConfig


@dataclass
class TrainConfig(Config):
    """One run. These defaults are close to Nature's DQN; the CLI starts from a preset."""

    game: str = option("Pong", "ALE game or control task in any spelling (Pong, cartpole), or gym:ID of Gymnasium's")
    algorithm: Literal[tuple(ALGORITHMS)] = option("dqn", "what learns")  # type: ignore[valid-type]
    backend: Literal[backends.NAMES] = option("native", "whose DQN learns: native, or that of SB3 or Tianshou")  # type: ignore[valid-type]
    seed: int = option(1, "seed of everything random", "[0, 2147483647]")
    device: str = option("auto", "auto, cpu, cuda or cuda:N")
    threads: int | None = option(
        None,
        "torch's CPU threads; null: free cores (half of them beside PQN's --overlap on a CPU), one for control tasks",
        "[1, 1024]",
    )
    total_steps: int = option(10_000_000, "environment steps of the run", "[1, 1e12]")
    run_dir: PathText | None = option(None, "run folder; null: runs/DATE/GAME-OPTIMIZER-SEED")
    replay_size: int = option(1_000_000, "transitions in the replay", "[1, 1e10]", algorithm="dqn")
    batch_size: int = option(32, "transitions per update", "[1, 65536]", algorithm="dqn")
    train_every: int = option(4, "environment steps from update to update", "[1, 1e6]", algorithm="dqn")
    gradient_steps: int = option(
        1, "updates each time: replay ratio gradient_steps / train_every", "[1, 1000]", algorithm="dqn"
    )
    learning_starts: int = option(
        80_000, "environment steps before the first update", "[0, 1e12]", shrinks_to=0, algorithm="dqn"
    )
    n_step: int = option(1, "rewards summed before bootstrapping", "[1, 100]", algorithm="dqn")
    gamma: float = option(0.99, "discount per environment step", "[0, 1)")
    double: bool = option(True, "Double DQN: the online network selects, the target network evaluates", algorithm="dqn")
    loss: Literal["huber", "mse"] = option("huber", "loss of the TD error; of --head c51 and qr their own")
    target_interval: int = option(
        1_000, "environment steps between target network updates", "[1, 1e12]", algorithm="dqn"
    )
    ema_decay: float | None = option(
        None,
        "evaluations play, and models hold, a moving average of the weights with this decay per update, over about the "
        "last 1 / (1 - decay) of them; null: the weights themselves",
        "(0, 1)",
    )
    precision: Literal["auto", "bf16", "fp32"] = option("auto", "auto: bf16 autocast where the hardware has it")
    channels_last: bool | None = option(
        None,
        "channels_last memory format for the convolutions (strided ones have it on a GPU in any case); null: but with "
        "bf16 on a CPU, where it is slower",
    )
    compile: bool = option(False, "torch.compile the network")
    overlap: bool = option(
        False,
        "environments step while it learns: faster. DQN: actions lack the updates of the step before; PQN: a rollout "
        "is learned from during the next one, whose actions come from moving weights, and whose values are older",
    )
    cuda_graphs: Literal["auto", "always", "never"] = option(
        "auto",
        "updates as CUDA graphs; auto: on a GPU, if the optimizer allows it and the network is none of yours; always: "
        "without a GPU a slow rehearsal",
    )
    deterministic: bool = option(False, "the same numbers in every run on a GPU, too; slower. On a CPU they always are")
    profile: bool = option(False, "tell at the end where the time went, and write profile.json")
    checkpoint_interval: int = option(250_000, "environment steps between checkpoints", "[1, 1e12]", shrinks_to=1)
    checkpoint_minutes: float = option(5.0, "minutes between checkpoints, too; inf: only by steps", "(0, inf]")
    keep_models: int | None = option(
        None,
        "environment steps between models that are kept in models/ for `play --step` and `eval --step`; null: none",
        "[1, 1e12]",
    )
    game_schedule: str | None = option(
        None, "other games or modes from given steps on: Breakout@200000,Pong:mode=1:difficulty=2@400000", only="atari"
    )
    segment_steps: int = option(
        500_000,
        "environment steps after which environments are made anew and their games cut; a resume plays them again",
        "[1000, 1e12]",
    )
    log_interval: int = option(10_000, "environment steps between logged metrics", "[1, 1e12]", shrinks_to=1)
    tensorboard: bool = option(True, "write TensorBoard events beside metrics.jsonl")
    callbacks: list[str] | None = option(
        None, "package.module:Class of callbacks, several with commas between them: see `rl.Callback`"
    )
    track: Literal["none", "wandb", "mlflow"] = option("none", "show the metrics in W&B or MLflow; offline by default")
    pqn: PQNConfig = field(default_factory=PQNConfig)
    env: EnvConfig = field(default_factory=EnvConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    exploration: ExplorationConfig = field(default_factory=ExplorationConfig)
    prioritized: PrioritizedConfig = field(default_factory=PrioritizedConfig)
    optimizer: OptimizerGroup = field(default_factory=OptimizerConfig)
    lr_schedule: LRScheduleConfig = field(default_factory=LRScheduleConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    gradients: GradientsConfig = field(default_factory=GradientsConfig)
    curvature: CurvatureConfig = field(default_factory=CurvatureConfig)

    FOLDER = "rl"
    PRESETS = (
        *("quick", "dqn", "rainbow", "atari-small", "control", "gymnasium"),
        *("pqn-quick", "pqn", "pqn-small", "pqn-control", "pqn-gymnasium"),
    )
    LENGTH = "total_steps"

    @classmethod
    def default_preset(cls, options: Mapping[str, Any]) -> str:
        """That of the game's family, `quick`, `control` or `gymnasium`; that of another algorithm than DQN has its name
        in front."""
        game, algorithm = _game(options), options.get("algorithm", "dqn")
        preset = tasks.family(game).preset if isinstance(game, str) else cls.PRESETS[0]
        own = f"{algorithm}-{preset}"
        return own if own in cls.PRESETS else preset

    def has(self, path: str) -> bool:
        return bool(self.settings()[path].marks.get("algorithm", self.algorithm) == self.algorithm)

    @classmethod
    def shipped(cls, name: str, options: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        """A preset's options and, on top, those that it has under `games` for the one that is played."""
        (shipped,) = super().shipped(name, options)
        values = dict(shipped)
        own = values.pop("games", {})
        game = _game({**values, **options})
        task = tasks.known(game) if isinstance(game, str) else None
        return [values, own.get(task.name, {}) if task else {}]

    @property
    def rollout(self) -> int:
        """Environment steps of a rollout."""
        return self.pqn.rollout_steps * self.env.num_envs

    @property
    def learns_after(self) -> int:
        """Environment steps before the first update: `learning_starts`, and until n steps of a game are known."""
        return max(self.learning_starts, (self.n_step - 1) * self.env.num_envs)

    def update(self, values: Mapping[str, Any], *args: Any, **kwargs: Any) -> set[str]:
        """As `Config.update`; of --game and --env.make the later layer's counts."""
        paths = super().update(values, *args, **kwargs)
        if "env.make" in paths and self.env.make is not None:
            self.game = f"{tasks.FUNCTION}{self.env.make}"
        elif "game" in paths:
            self.env.make = None
        return paths

    def to_dict(self) -> dict[str, Any]:
        """Nested dict of plain lists, numbers and strings in field order, ready for YAML and JSON.

        What only other algorithms have is left out, and what only other families of tasks have.
        """
        values, family = super().to_dict(), tasks.family(self.game)
        others = {path for path in self.settings() if not self.has(path)}
        if family.name != "atari":
            others |= {one.path for one in options_of_others(family)}
        for path in others:
            group, _, name = path.rpartition(".")
            del (values[group] if group else values)[name]
        return {key: value for key, value in values.items() if value != {}}

    def faults_beside(self, together: bool) -> Iterator[str]:
        """What is wrong beside each value alone; writes the task's canonical name into `game`."""
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            together = False
            yield self.wrong("device", "must be auto, cpu, cuda or cuda:N")
        try:
            task = tasks.find(self.game)
            self.game = task.name
            if together:
                task.observation(self.env)
        except UserError as error:
            together = False
            yield str(error)
        if together:
            yield from self._faults_of_algorithm()
            yield from self._faults_of_task()
            yield from self._faults_of_steps()
            yield from self._faults_of_network()
            yield from self._faults_of_head()
            yield from self._without_effect()
            yield from backends.adapt(self)
        yield from self.optimizer.faults()
        yield from self.lr_schedule.faults()

    def _faults_of_algorithm(self) -> Iterator[str]:
        """What only another algorithm has."""
        start = self.default_preset({"game": self.game, "algorithm": self.algorithm})
        for path, one in self.settings().items():
            if not self.has(path) and (path in self.given or one.get(self) != one.default):
                owner = one.marks["algorithm"]
                words = f"only {owner} has this option: --algorithm {owner}, or leave it out"
                yield self.wrong(path, f"{words} (--preset {start} is {self.algorithm}'s)")

    def _faults_of_task(self) -> Iterator[str]:
        """What only the tasks of another family have: frames in a control task, an MLP on Atari."""
        family = tasks.find(self.game).family
        a_task, own = f"{self.game} is {family.title}", [protocol.name for protocol in family.protocols]
        faults = [
            self.wrong(one.path, f"{a_task} and has no such option")
            for one in options_of_others(family)
            if one.get(self) != one.default
        ]
        if self.game != f"{tasks.FUNCTION}{self.env.make}" and self.env.make is not None:
            faults.append(self.wrong("env.make", f"--game {self.game} is another environment: give one of both"))
        if self.env.protocol not in own:
            preset = self.default_preset({"game": self.game, "algorithm": self.algorithm})
            words = f"{a_task}: its protocol is {' or '.join(own)} (--preset {preset})"
            faults.insert(0, self.wrong("env.protocol", words))
        return iter(faults or self._faults_of_games())

    def _faults_of_games(self) -> Iterator[str]:
        """Whether the games that are played, one or a schedule of them, have their modes and difficulties."""
        found = list(game_schedule.faults(self)) if self.game_schedule is not None else []
        yield from found
        for stage in () if found else game_schedule.stages(self):
            yield from _faults_of_flavour(stage.game, replace(self.env, mode=stage.mode, difficulty=stage.difficulty))

    def _faults_of_steps(self) -> Iterator[str]:
        if self.exploration.end > self.exploration.start:
            yield self.wrong("exploration.end", f"must be at most --exploration.start {self.exploration.start}")
        yield from self._faults_of_rollouts() if self.algorithm == "pqn" else self._faults_of_replay()

    def _faults_of_rollouts(self) -> Iterator[str]:
        count, transitions = self.env.num_envs, self.rollout
        if transitions % self.pqn.minibatches:
            whose = f"the {transitions} transitions of {count} environments' rollouts"
            yield self.wrong("pqn.minibatches", f"must divide {whose}")
        least = transitions + (count if self.overlap else 0)  # which learns from it in the steps after it
        if self.total_steps < least:
            whose = f"for one rollout of {count} environments, or nothing is learned"
            yield self.wrong("total_steps", f"must be at least {least} {whose}")

    def _faults_of_replay(self) -> Iterator[str]:
        if self.batch_size > self.replay_size:
            yield self.wrong("batch_size", f"must be at most --replay-size {self.replay_size}")
        if self.learning_starts >= self.total_steps:
            yield self.wrong(
                "learning_starts", f"must be below --total-steps {self.total_steps}, or nothing is learned"
            )
        elif self.learns_after >= self.total_steps:
            whose = f"{self.n_step}-step returns of {self.env.num_envs} environments"
            yield self.wrong("total_steps", f"must be above {self.learns_after} for {whose}, or nothing is learned")
        elif self.overlap and self.learns_after + self.env.num_envs >= self.total_steps:
            least = self.learns_after + self.env.num_envs
            whose = "with --overlap, which learns from a step in the next one, or nothing is learned"
            yield self.wrong("total_steps", f"must be above {least} {whose}")
        count, stack = self.env.num_envs, tasks.find(self.game).observation(self.env).stack
        needed = count * (stack + self.n_step + 1)
        if self.replay_size < needed:
            whose = f"for {count} environments, {stack} stacked frames and {self.n_step}-step returns"
            yield self.wrong("replay_size", f"must be at least {needed} {whose}")

    def _faults_of_network(self) -> Iterator[str]:
        """Whether the convolutions fit each other and the frames, and layers and classes that are named are there."""
        shape, network = tasks.find(self.game).observation(self.env).shape, self.network
        if network.cls is not None:
            yield from self._faults_of_own_network()
            return
        if network.spectral_norm is not None and network.noisy:
            yield self.wrong("network.spectral_norm", "is not possible with --network.noisy")
        elif network.spectral_norm is not None:
            convolutions = 9 if network.kind == "impala" else len(network.channels)  # see rl.impala
            hidden = 1 + convolutions if len(shape) >= 3 else len(network.units)
            if max(network.spectral_norm) > hidden + 1:
                yield self.wrong("network.spectral_norm", f"the network has {hidden + 1} layers")
        if len(shape) < 3:
            yield from (
                self.wrong(f"network.{name}", f"{self.game} shows vectors, no pictures")
                for name in ("kind", "standardize")
                if getattr(network, name) != self.settings()[f"network.{name}"].default
            )
            return
        if network.kind == "impala":
            return
        for name in ("kernels", "strides"):
            if len(getattr(network, name)) != len(network.channels):
                each = f"one for each of --network.channels {show(network.channels)}"
                yield self.wrong(f"network.{name}", f"must be {len(network.channels)} numbers, {each}")
                return
        height, width = shape[-2:]
        for kernel, stride in zip(network.kernels, network.strides, strict=True):
            height, width = (height - kernel) // stride + 1, (width - kernel) // stride + 1
            if min(height, width) < 1:
                yield self.wrong("network.kernels", f"too large for frames of {shape[-2]}x{shape[-1]} pixels")
                return

    def _faults_of_own_network(self) -> Iterator[str]:
        """Whether the class is there, and what only our networks have is left alone."""
        network = self.network
        try:
            load(str(network.cls), "--network.cls")
        except UserError as error:
            yield str(error)
        for name in ("dueling", "noisy", "spectral_norm"):
            if getattr(network, name):
                yield self.wrong(f"network.{name}", "only our networks have it, not --network.cls")

    def _faults_of_head(self) -> Iterator[str]:
        """What only a head has."""
        head = self.head
        if head.name != "expected" and self.loss == "mse":
            yield self.wrong("loss", f"{head.name} has a loss of its own (leave it at huber)")
        if head.name == "c51" and head.v_min >= head.v_max:
            yield self.wrong("head.v_min", f"must be below --head.v-max {head.v_max}")

    def _without_effect(self) -> Iterator[str]:
        """What was given and nothing reads."""
        own, apart = tasks.family(self.game).name == "gymnasium", set[str]()
        if own:
            yield from self.unused("env.threads", f"as {self.game} is none of EnvPool's: leave it out")
        if self.network.cls is not None:  # it may read what it likes of the group
            apart = {path for path in self.settings() if path.startswith("network.")}
        elif own and len(tasks.find(self.game).observation(self.env).shape) < 3:
            apart = {path for path, one in self.settings().items() if one.marks.get("only") == PICTURES}
            for path in sorted(apart - {"network.kind", "network.standardize"}):  # faults of the network
                yield from self.unused(path, f"as {self.game} shows vectors, no pictures: leave it out")
        yield from self.idle(apart)


def options_of_others(family: tasks.Family) -> list[Setting]:
    """The options that only tasks of other families have. (`only` marks a family's, or those of several.)"""
    marked = [(one, one.marks.get("only", family.name)) for one in TrainConfig.settings().values()]
    return [one for one, only in marked if family.name not in ((only,) if isinstance(only, str) else only)]


def _game(options: Mapping[str, Any]) -> Any:
    """The game that options mean, in whichever form they name it."""
    env = options.get("env")
    make = options.get("env.make", env.get("make") if isinstance(env, Mapping) else None)
    return options.get("game") if make is None else f"{tasks.FUNCTION}{make}"


def _faults_of_flavour(game: str, env: EnvConfig) -> tuple[str, ...]:
    """Whether the task has this mode and difficulty: only its environments know."""
    if tasks.family(game).name != "atari":
        return ()
    return _checked(game, env.source, env.protocol, env.mode, env.difficulty)


@functools.cache
def _checked(game: str, source: Any, protocol: Any, mode: int | None, difficulty: int | None) -> tuple[str, ...]:
    try:
        tasks.find(game).check(EnvConfig(source=source, protocol=protocol, mode=mode, difficulty=difficulty))
    except UserError as error:
        return (str(error),)
    return ()
