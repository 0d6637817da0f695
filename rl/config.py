"""Every setting of a DQN run, with its help text and its allowed range.

The dataclasses are the single source: the flags of `asgc-rl`, the keys of the YAML files, `--help` and the checks are
all made from their fields. One *environment step* is one action of one environment (4 Atari frames); all intervals are
counted in environment steps summed over the environments.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from evaluation.cli.errors import UserError
from evaluation.cli.optimizer_group import OptimizerConfig, OptimizerGroup
from evaluation.cli.settings import Config, Setting, option
from evaluation.cli.values import PathText, show
from evaluation.runs.lr_schedule import LRScheduleConfig
from evaluation.runs.recorder import OFFSETS
from rl import tasks
from rl.algorithms import ALGORITHMS
from rl.tasks import EnvConfig


@dataclass
class NetworkConfig:
    """Q-network: convolutions and one hidden layer (Atari) or an MLP (control tasks), one output per action."""

    channels: list[int] = option([32, 64, 64], "output channels of the convolutions", "[1, 4096]", only="atari")
    kernels: list[int] = option([8, 4, 3], "kernel sizes of the convolutions", "[1, 64]", only="atari")
    strides: list[int] = option([4, 2, 1], "strides of the convolutions", "[1, 64]", only="atari")
    hidden: int = option(512, "units of the hidden layer behind the convolutions", "[1, 65536]", only="atari")
    units: list[int] = option([64, 64], "units of the MLP's hidden layers", "[1, 65536]", only="control")
    layer_norm: bool = option(False, "LayerNorm after every layer but the last, as in PQN")
    standardize: bool = option(
        False, "standardize pixels (mean image of the random phase): small objects stand out", only="atari"
    )


@dataclass
class ExplorationConfig:
    """Epsilon-greedy exploration, epsilon falling linearly."""

    start: float = option(1.0, "epsilon at the first step", "[0, 1]")
    end: float = option(0.01, "epsilon from then on", "[0, 1]")
    steps: int = option(1_000_000, "environment steps from start to end", "[1, 1e12]", shrinks_to=1)


@dataclass
class PrioritizedConfig:
    """Prioritized replay (Schaul et al. 2016, arXiv 1511.05952): transitions with large errors are drawn more often."""

    enabled: bool = option(
        False, "draw in proportion to |TD error|^alpha (or to the loss of a distribution)", algorithm="dqn"
    )
    alpha: float = option(0.5, "exponent of the priorities; 0 draws uniformly", "[0, 2]", algorithm="dqn")
    beta: float = option(
        0.4, "exponent of the importance weights at the first update, 1 at the last", "[0, 1]", algorithm="dqn"
    )
    updates_per_draw: int = option(
        4,
        "batches drawn together at most: the last of n is drawn by priorities that are n - 1 updates old",
        "[1, 1000]",
        algorithm="dqn",
    )


@dataclass
class EvaluationConfig:
    """Scheduled evaluations: full games in environments of their own."""

    interval: int = option(250_000, "environment steps between two evaluations", "[1, 1e12]", shrinks_to=1)
    episodes: int = option(10, "games of a scheduled evaluation", "[1, 10000]")
    final_episodes: int = option(30, "games of the last evaluation (100 for a published figure)", "[1, 10000]")
    epsilon: float | None = option(None, "epsilon while evaluating; null: the protocol's", "[0, 1]")
    target: float | None = option(
        None, "score for time to threshold; null: the game's own, if any (Pong: 0)", "(-inf, inf)"
    )
    last_k: int = option(5, "evaluations that final score and stability are taken over", "[1, 10000]")


@dataclass
class GradientsConfig:
    """Recorded gradients: parquet files in the run folder, and diagnostics among the metrics. Learning is the same."""

    enabled: bool = option(True, "record gradients")
    interval: int = option(
        1009, "updates from record to record (a prime, so that it does not keep step with the target)", "[1, 1e9]"
    )
    offsets: list[int] | None = option(
        list(OFFSETS),
        "recorded too, once an interval: updates after a target update, -1: before it; null: none",
        "[-1, 1e9]",
    )


@dataclass
class TrainConfig(Config):
    """One DQN run. These defaults are close to Nature's DQN; the CLI starts from a preset."""

    game: str = option("Pong", "ALE game or control task in any spelling: Pong, space_invaders, cartpole")
    algorithm: Literal[tuple(ALGORITHMS)] = option("dqn", "what learns")  # type: ignore[valid-type]
    seed: int = option(1, "seed of everything random", "[0, 2147483647]")
    device: str = option("auto", "auto, cpu, cuda or cuda:N")
    threads: int | None = option(None, "torch's CPU threads; null: by free cores, one for control tasks", "[1, 1024]")
    total_steps: int = option(10_000_000, "environment steps of the run", "[1, 1e12]")
    run_dir: PathText | None = option(None, "run folder; null: runs/DATE/GAME-OPTIMIZER-SEED")
    replay_size: int = option(1_000_000, "transitions in the replay", "[1, 1e10]")
    batch_size: int = option(32, "transitions per update", "[1, 65536]")
    train_every: int = option(4, "environment steps from update to update", "[1, 1e6]")
    gradient_steps: int = option(1, "updates each time: replay ratio gradient_steps / train_every", "[1, 1000]")
    learning_starts: int = option(80_000, "environment steps before the first update", "[0, 1e12]", shrinks_to=0)
    n_step: int = option(1, "rewards summed before bootstrapping", "[1, 100]")
    gamma: float = option(0.99, "discount per environment step", "[0, 1)")
    double: bool = option(True, "Double DQN: the online network selects, the target network evaluates")
    loss: Literal["huber", "mse"] = option("huber", "loss of the TD error")
    target_interval: int = option(1_000, "environment steps between target network updates", "[1, 1e12]")
    precision: Literal["auto", "bf16", "fp32"] = option("auto", "auto: bf16 autocast where the hardware has it")
    channels_last: bool | None = option(
        None, "channels_last memory format for the convolutions; null: but with bf16 on a CPU, where it is slower"
    )
    compile: bool = option(False, "torch.compile the network")
    cuda_graphs: Literal["auto", "always", "never"] = option(
        "auto",
        "updates as CUDA graphs; auto: on a GPU, if the optimizer allows it; always: without a GPU a slow rehearsal",
        algorithm="dqn",
    )
    deterministic: bool = option(False, "the same numbers in every run on a GPU, too; slower. On a CPU they always are")
    profile: bool = option(False, "tell at the end where the time went, and write profile.json")
    checkpoint_interval: int = option(250_000, "environment steps between checkpoints", "[1, 1e12]", shrinks_to=1)
    checkpoint_minutes: float = option(5.0, "minutes between checkpoints, too; inf: only by steps", "(0, inf]")
    segment_steps: int = option(
        500_000,
        "environment steps after which environments are made anew and their games cut; a resume plays them again",
        "[1000, 1e12]",
    )
    log_interval: int = option(10_000, "environment steps between logged metrics", "[1, 1e12]", shrinks_to=1)
    tensorboard: bool = option(True, "write TensorBoard events beside metrics.jsonl")
    track: Literal["none", "wandb", "mlflow"] = option("none", "show the metrics in W&B or MLflow; offline by default")
    env: EnvConfig = field(default_factory=EnvConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    exploration: ExplorationConfig = field(default_factory=ExplorationConfig)
    prioritized: PrioritizedConfig = field(default_factory=PrioritizedConfig)
    optimizer: OptimizerGroup = field(default_factory=OptimizerConfig)
    lr_schedule: LRScheduleConfig = field(default_factory=LRScheduleConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    gradients: GradientsConfig = field(default_factory=GradientsConfig)

    FOLDER = "rl"
    PRESETS = ("quick", "dqn", "atari-small", "control")
    LENGTH = "total_steps"

    @classmethod
    def default_preset(cls, options: Mapping[str, Any]) -> str:
        """`control` where `game` is a control task, else `quick`."""
        game = options.get("game")
        return tasks.family(game).preset if isinstance(game, str) else cls.PRESETS[0]

    @classmethod
    def shipped(cls, name: str, options: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        """A preset's options and, on top, those that it has under `games` for the one that is played."""
        (shipped,) = super().shipped(name, options)
        values = dict(shipped)
        own = values.pop("games", {})
        game = options.get("game", values.get("game"))
        task = tasks.known(game) if isinstance(game, str) else None
        return [values, own.get(task.name, {}) if task else {}]

    @property
    def learns_after(self) -> int:
        """Environment steps before the first update: `learning_starts`, and until n steps of a game are known."""
        return max(self.learning_starts, (self.n_step - 1) * self.env.num_envs)

    def to_dict(self) -> dict[str, Any]:
        """Nested dict of plain lists, numbers and strings in field order, ready for YAML and JSON.

        Of a control task, what only Atari games have is left out.
        """
        values, family = super().to_dict(), tasks.family(self.game)
        if family.name != "atari":
            for one in options_of_others(family):
                group, _, name = one.path.rpartition(".")
                del (values[group] if group else values)[name]
        return values

    def faults_beside(self, together: bool) -> Iterator[str]:
        """What is wrong beside each value alone; writes the task's canonical name into `game`."""
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            together = False
            yield self.wrong("device", "must be auto, cpu, cuda or cuda:N")
        try:
            self.game = tasks.find(self.game).name
        except UserError as error:
            together = False
            yield str(error)
        if together:
            yield from self._faults_of_task()
            yield from self._faults_of_steps()
            yield from self._faults_of_network()
        yield from self.optimizer.faults()

    def _faults_of_task(self) -> Iterator[str]:
        """What only the tasks of another family have: frames in a control task, an MLP on Atari."""
        family = tasks.find(self.game).family
        a_task, own = f"{self.game} is {family.title}", [protocol.name for protocol in family.protocols]
        faults = [
            self.wrong(one.path, f"{a_task} and has no such option")
            for one in options_of_others(family)
            if one.get(self) != one.default
        ]
        if self.env.protocol not in own:
            words = f"{a_task}: its protocol is {' or '.join(own)} (--preset {family.preset})"
            faults.insert(0, self.wrong("env.protocol", words))
        return iter(faults or _faults_of_flavour(self.game, self.env.protocol, self.env.mode, self.env.difficulty))

    def _faults_of_steps(self) -> Iterator[str]:
        if self.batch_size > self.replay_size:
            yield self.wrong("batch_size", f"must be at most --replay-size {self.replay_size}")
        if self.learning_starts >= self.total_steps:
            yield self.wrong(
                "learning_starts", f"must be below --total-steps {self.total_steps}, or nothing is learned"
            )
        elif self.learns_after >= self.total_steps:
            whose = f"{self.n_step}-step returns of {self.env.num_envs} environments"
            yield self.wrong("total_steps", f"must be above {self.learns_after} for {whose}, or nothing is learned")
        if self.exploration.end > self.exploration.start:
            yield self.wrong("exploration.end", f"must be at most --exploration.start {self.exploration.start}")
        count, stack = self.env.num_envs, tasks.find(self.game).observation(self.env).stack
        needed = count * (stack + self.n_step + 1)
        if self.replay_size < needed:
            whose = f"for {count} environments, {stack} stacked frames and {self.n_step}-step returns"
            yield self.wrong("replay_size", f"must be at least {needed} {whose}")

    def _faults_of_network(self) -> Iterator[str]:
        """Whether the convolutions fit each other and the frames."""
        shape, network = tasks.find(self.game).observation(self.env).shape, self.network
        if len(shape) != 3:
            return
        for name in ("kernels", "strides"):
            if len(getattr(network, name)) != len(network.channels):
                each = f"one for each of --network.channels {show(network.channels)}"
                yield self.wrong(f"network.{name}", f"must be {len(network.channels)} numbers, {each}")
                return
        height, width = shape[1:]
        for kernel, stride in zip(network.kernels, network.strides, strict=True):
            height, width = (height - kernel) // stride + 1, (width - kernel) // stride + 1
            if min(height, width) < 1:
                yield self.wrong("network.kernels", f"too large for frames of {shape[1]}x{shape[2]} pixels")
                return


def options_of_others(family: tasks.Family) -> list[Setting]:
    """The options that only tasks of other families have."""
    every = TrainConfig.settings().values()
    return [one for one in every if one.marks.get("only", family.name) != family.name]


@functools.cache
def _faults_of_flavour(game: str, protocol: str, mode: int | None, difficulty: int | None) -> tuple[str, ...]:
    """Whether the task has this mode and difficulty: only its environments know."""
    try:
        tasks.find(game).check(EnvConfig(protocol=protocol, mode=mode, difficulty=difficulty))  # type: ignore[arg-type]
    except UserError as error:
        return (str(error),)
    return ()
