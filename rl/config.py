"""Every setting of a DQN run, with its help text and its allowed range.

The dataclasses are the single source: the flags of `asgc-rl`, the keys of the YAML files, `--help` and the checks are
all made from their fields. One *environment step* is one action of one environment (4 Atari frames); all intervals are
counted in environment steps summed over the environments.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from evaluation.runs.recorder import OFFSETS
from rl import tasks

PRESETS = ("quick", "dqn", "atari-small", "control")


def option(default: Any, help: str, allowed: str = "", only: str = "") -> Any:
    """A dataclass field with its metadata.

    Args:
        help: what it is, on the help page and in commented dumps.
        allowed: for numbers, an interval such as "[0, 1)".
        only: "atari" or "control" if only these games have such a thing.
    """
    metadata = {"help": help, "allowed": allowed, "only": only}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class EnvConfig:
    """Environments (EnvPool), and how the frames of Atari games are preprocessed."""

    protocol: Literal["nature", "classic", "sticky", "control"] = option(
        "classic", "evaluation protocol; scores of two protocols are never compared. Control tasks have their own"
    )
    num_envs: int = option(16, "environments stepped together", "[1, 4096]")
    threads: int = option(0, "EnvPool threads; 0: EnvPool chooses", "[0, 1024]")
    height: int = option(84, "frame height in pixels", "[8, 210]", only="atari")
    width: int = option(84, "frame width in pixels", "[8, 210]", only="atari")
    stack: int = option(4, "frames in one observation", "[1, 16]", only="atari")
    reward_clip: bool = option(True, "learn from the reward's sign (scores are always the true rewards)")
    reward_scale: float = option(1.0, "factor on the reward to learn from, after the clip", "(0, 1e6]")
    mode: int | None = option(None, "game mode (ALE flavour); null: the game's default", "[0, 255]", only="atari")
    difficulty: int | None = option(
        None, "game difficulty (ALE flavour); null: the game's default", "[0, 3]", only="atari"
    )


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
    steps: int = option(1_000_000, "environment steps from start to end", "[1, 1e12]")


@dataclass
class OptimizerConfig:
    """Optimizer by its registry name. Options left at null take that optimizer's own default."""

    name: str = option("asgc", "registry name: asgc, asgc-clip, adam, sgd, adam+clip, agc, zclip, adam-rel, ...")
    lr: float = option(1e-4, "learning rate", "(0, 1000]")
    max_norm: float | None = option(
        None, "NAME+clip, zclip, adagc (warm-up): bound on the global gradient norm", "(0, inf]"
    )
    rule: Literal["sgd", "adam", "adamw", "rmsprop", "adagrad"] | None = option(
        None, "ASGC, agc, autoclip, zclip, adagc, spamp, gradient-noise: base rule"
    )
    # ASGC
    mode: Literal["value", "norm"] | None = option(None, "ASGC: clip elements or a layer's norm")
    clip_factor: float | None = option(None, "ASGC: threshold in standard deviations (norm mode: RMS)", "(0, inf]")
    clip_sharpness: float | None = option(None, "ASGC: p of the smooth clip; inf: hard", "(0, inf]")
    threshold: float | None = option(None, "ASGC: fixed threshold instead of the adaptive one", "(0, inf]")
    granularity: Literal["layer", "unit"] | None = option(None, "ASGC: statistics per layer or per output unit")
    noise_scale: float | None = option(None, "ASGC: noise in standard deviations of the gradient", "[0, 1000]")
    noise_decay: float | None = option(
        None, "ASGC, gradient-noise: the noise falls with (1+t)^(-noise_decay/2)", "[0, 100]"
    )
    noise_at: Literal["gradient", "update"] | None = option(None, "ASGC: noise before or after the base rule")
    noise_zeros: bool | None = option(None, "ASGC: noise on gradients that are exactly 0, too")
    stats_decay: float | None = option(None, "ASGC: decay of the running statistics", "(0, 1)")
    outlier_share: float | None = option(None, "ASGC: share of outlier steps that is ignored", "(0, 1)")
    on_shift: Literal["none", "rewarm", "adam-rel", "reset"] | None = option(
        None, "ASGC: what a target-network update does to its state"
    )
    adapt: Literal["hypergradient"] | None = option(
        None, "ASGC: clip_factor and clip_sharpness of each layer follow the online hypergradient"
    )
    adapt_lr: float | None = option(None, "ASGC: step of their logarithms", "[0, inf)")
    adapt_every: int | None = option(None, "ASGC: updates from one measurement to the next", "[1, 1e9]")
    nonfinite: Literal["contain", "skip", "raise"] | None = option(None, "ASGC: treatment of inf and NaN gradients")
    seed: int | None = option(None, "ASGC, gradient-noise: its seed; null: made from --seed", "[0, 2147483647]")
    implementation: Literal["auto", "reference", "foreach", "cpu", "triton"] | None = option(None, "ASGC: code path")
    # the clipping rules of papers (asgc.peers)
    clip_value: float | None = option(None, "NAME+clip-value: bound on every element of the gradient", "(0, inf]")
    clip_ratio: float | None = option(None, "agc: bound on a unit's gradient norm over its weights' norm", "(0, inf]")
    weight_floor: float | None = option(None, "agc: least norm of weights that is reckoned with", "(0, inf)")
    exclude_head: bool | None = option(None, "agc: leave the last layer as it is")
    percentile: float | None = option(None, "autoclip: of all norms so far that is the bound", "[0, 100]")
    z_threshold: float | None = option(None, "zclip: z-score of the norm from which it is clipped", "(0, inf]")
    relative_threshold: float | None = option(None, "adagc: bound in running mean norms of the tensor", "(0, inf]")
    ema_decay: float | None = option(None, "zclip, adagc, spamp: decay of the running norms", "[0, 1)")
    warmup_steps: int | None = option(None, "zclip, adagc: steps that set the running norms", "[0, 1e9]")
    min_power: float | None = option(None, "spamp: power on the elements of the largest gradients", "(0, 1]")
    eta: float | None = option(None, "gradient-noise: variance of the noise at the first step", "[0, inf)")
    # torch.optim's arguments of the base rules
    betas: tuple[float, float] | None = option(None, "Adam, AdamW: decays of the two moments", "[0, 1)")
    eps: float | None = option(None, "all but SGD: added to the denominator", "[0, 1000]")
    weight_decay: float | None = option(None, "weight decay", "[0, 1000]")
    amsgrad: bool | None = option(None, "Adam, AdamW: AMSGrad")
    decoupled_weight_decay: bool | None = option(None, "Adam: weight decay as in AdamW")
    momentum: float | None = option(None, "SGD, RMSprop: momentum", "[0, 1)")
    dampening: float | None = option(None, "SGD: dampening of the momentum", "[0, 1]")
    nesterov: bool | None = option(None, "SGD: Nesterov momentum")
    alpha: float | None = option(None, "RMSprop: decay of the squared average", "[0, 1)")
    centered: bool | None = option(None, "RMSprop: divide by the standard deviation")
    lr_decay: float | None = option(None, "Adagrad: learning rate decay", "[0, 1000]")
    initial_accumulator_value: float | None = option(None, "Adagrad: accumulator at the start", "[0, inf)")
    maximize: bool | None = option(None, "ascend instead of descend")

    def options(self) -> dict[str, Any]:
        """The optimizer's keyword arguments that were set: everything but `name` and `lr` that is not None."""
        return {
            item.name: getattr(self, item.name)
            for item in dataclasses.fields(self)
            if item.name not in ("name", "lr") and getattr(self, item.name) is not None
        }


@dataclass
class EvaluationConfig:
    """Scheduled evaluations: full games in environments of their own."""

    interval: int = option(250_000, "environment steps between two evaluations", "[1, 1e12]")
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
class TrainConfig:
    """One DQN run. These defaults are close to Nature's DQN; the CLI starts from a preset."""

    game: str = option("Pong", "ALE game or control task in any spelling: Pong, space_invaders, cartpole")
    algorithm: Literal["dqn"] = option("dqn", "what learns")
    seed: int = option(1, "seed of everything random", "[0, 2147483647]")
    device: str = option("auto", "auto, cpu, cuda or cuda:N")
    total_steps: int = option(10_000_000, "environment steps of the run", "[1, 1e12]")
    run_dir: str | None = option(None, "run folder; null: runs/DATE/GAME-OPTIMIZER-SEED")
    replay_size: int = option(1_000_000, "transitions in the replay", "[1, 1e10]")
    batch_size: int = option(32, "transitions per update", "[1, 65536]")
    train_every: int = option(4, "environment steps from update to update", "[1, 1e6]")
    gradient_steps: int = option(1, "updates each time: replay ratio gradient_steps / train_every", "[1, 1000]")
    learning_starts: int = option(80_000, "environment steps before the first update", "[0, 1e12]")
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
    checkpoint_interval: int = option(250_000, "environment steps between checkpoints", "[1, 1e12]")
    checkpoint_minutes: float = option(5.0, "minutes between checkpoints, too; inf: only by steps", "(0, inf]")
    segment_steps: int = option(
        500_000,
        "environment steps after which environments are made anew and their games cut; a resume plays them again",
        "[1, 1e12]",
    )
    log_interval: int = option(10_000, "environment steps between logged metrics", "[1, 1e12]")
    tensorboard: bool = option(True, "write TensorBoard events beside metrics.jsonl")
    track: Literal["none", "wandb", "mlflow"] = option("none", "show the metrics in W&B or MLflow; offline by default")
    env: EnvConfig = field(default_factory=EnvConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    exploration: ExplorationConfig = field(default_factory=ExplorationConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    gradients: GradientsConfig = field(default_factory=GradientsConfig)

    @classmethod
    def preset(cls, name: str | None = None, **options: Any) -> TrainConfig:
        """A preset of `configs/rl/` with options on top; groups are given as mappings.

        Without a name it is `control` where `game` is a control task, else `quick`.

        `TrainConfig.preset("dqn", game="Breakout", optimizer={"name": "adam", "lr": 1e-4})`

        Raises:
            UserError: an unknown preset or option, or a value of the wrong type.
        """
        from rl import config_io

        config = config_io.load_preset(name or config_io.default_preset(options.get("game")))
        config_io.update(config, options, source="TrainConfig.preset")
        return config

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """The inverse of `to_dict`; what is missing keeps its default.

        Raises:
            UserError: an unknown option, or a value of the wrong type.
        """
        from rl import config_io

        config = cls()
        config_io.update(config, values, source="TrainConfig.from_dict")
        return config

    def to_dict(self) -> dict[str, Any]:
        """Nested dict of plain lists, numbers and strings in field order, ready for YAML and JSON.

        Of a control task, what only Atari games have is left out.
        """
        values: dict[str, Any] = {}
        family = tasks.family(self.game).name
        for path, item, value in leaves(self):
            if family != "atari" and item.metadata["only"] not in ("", family):
                continue
            group, _, name = path.rpartition(".")
            (values.setdefault(group, {}) if group else values)[name] = copy.copy(
                list(value) if isinstance(value, tuple) else value
            )
        return values

    def validate(self) -> None:
        """Check every option alone, then together, and write the game's canonical name into `game`.

        Raises:
            UserError: one line that names the flag, its value and what is allowed.
        """
        from rl import config_check

        config_check.check(self)


def flag(path: str) -> str:
    """The command line's spelling of an option: "optimizer.clip_factor" -> "--optimizer.clip-factor"."""
    return "--" + path.replace("_", "-")


def leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field[Any], Any]]:
    """All options of a config, depth first: (dotted path, dataclass field, value)."""
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{prefix}{item.name}.")
        else:
            yield prefix + item.name, item, value
