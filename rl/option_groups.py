"""The groups of a run's settings: network, head, exploration, replay, evaluation, records.

Marks of an option: `only`, the family of tasks that has it, `algorithm`, the algorithm that has it, `needs`, another
option and its values without which it does nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from evaluation.cli.settings import option
from evaluation.runs.recorder import OFFSETS

PICTURES, VECTORS = ("atari", "gymnasium"), ("control", "gymnasium")  # families that may observe them
NATURE, IMPALA = ("network.kind", "nature"), ("network.kind", "impala")
C51, QR = ("head.name", "c51"), ("head.name", "qr")
PRIORITIZED = ("prioritized.enabled", True)


@dataclass
class NetworkConfig:
    """Q-network: convolutions and one hidden layer (pictures) or an MLP (vectors), and an output per action."""

    cls: str | None = option(
        None, "package.module:Class of a network of your own, in the place of these: see `rl.own_network`"
    )

    kind: Literal["nature", "impala"] = option(
        "nature", "convolutions: those below, or the residual ones of IMPALA (Espeholt et al., 2018)", only=PICTURES
    )
    channels: list[int] = option(
        [32, 64, 64], "nature: output channels of the convolutions", "[1, 4096]", only=PICTURES, needs=NATURE
    )
    kernels: list[int] = option(
        [8, 4, 3], "nature: kernel sizes of the convolutions", "[1, 64]", only=PICTURES, needs=NATURE
    )
    strides: list[int] = option(
        [4, 2, 1], "nature: strides of the convolutions", "[1, 64]", only=PICTURES, needs=NATURE
    )
    width: int = option(
        1, "impala: factor on the channels 16, 32, 32 of its sections", "[1, 64]", only=PICTURES, needs=IMPALA
    )
    hidden: int = option(512, "units of the hidden layer behind the convolutions", "[1, 65536]", only=PICTURES)
    units: list[int] = option([64, 64], "units of the MLP's hidden layers", "[1, 65536]", only=VECTORS)
    layer_norm: bool = option(False, "LayerNorm after every layer but the last, as in PQN")
    standardize: bool = option(
        False, "standardize pixels (mean image of the random phase): small objects stand out", only=PICTURES
    )
    dueling: bool = option(False, "value and advantages in streams of their own (Wang et al., 2016)")
    noisy: bool = option(
        False,
        "noisy fully connected layers (Fortunato et al., 2018): they explore, with --exploration.start and .end 0",
        algorithm="dqn",
    )
    noisy_sigma: float = option(
        0.5,
        "noisy: initial standard deviation of the noise times sqrt(inputs)",
        "[0, 100]",
        algorithm="dqn",
        needs=("network.noisy", True),
    )
    spectral_norm: list[int] | None = option(
        None,
        "layers whose weights are divided by their largest singular value, counted from the end: 1 the output, 2 the "
        "hidden layer before it (the one of Gogianu et al., 2021); null: none",
        "[1, 1000]",
    )


@dataclass
class HeadConfig:
    """What the network says of an action's return: its expectation, or its distribution."""

    name: Literal["expected", "c51", "qr"] = option(
        "expected",
        "of the return: its expectation, C51's distribution, or QR-DQN's quantiles",
        algorithm="dqn",
    )
    atoms: int = option(51, "c51: values of the return", "[2, 10000]", algorithm="dqn", needs=C51)
    v_min: float = option(-10.0, "c51: the least of them", "(-inf, inf)", algorithm="dqn", needs=C51)
    v_max: float = option(10.0, "c51: the greatest of them", "(-inf, inf)", algorithm="dqn", needs=C51)
    quantiles: int = option(200, "qr: quantiles of the return", "[1, 10000]", algorithm="dqn", needs=QR)

    @property
    def per_action(self) -> tuple[int, ...]:
        """Shape of a network's outputs of one action."""
        return {"expected": (), "c51": (self.atoms,), "qr": (self.quantiles,)}[self.name]


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
    alpha: float = option(
        0.5, "exponent of the priorities; 0 draws uniformly", "[0, 2]", algorithm="dqn", needs=PRIORITIZED
    )
    beta: float = option(
        0.4,
        "exponent of the importance weights at the first update, 1 at the last",
        "[0, 1]",
        algorithm="dqn",
        needs=PRIORITIZED,
    )
    updates_per_draw: int = option(
        4,
        "batches drawn together at most: the last of n is drawn by priorities that are n - 1 updates old",
        "[1, 1000]",
        algorithm="dqn",
        needs=PRIORITIZED,
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
        "recorded too, once an interval: updates after a target update (PQN: a rollout), -1: before it; null: none",
        "[-1, 1e9]",
    )


@dataclass
class PQNConfig:
    """What PQN learns from: whole rollouts, each a few times, in the place of a replay."""

    rollout_steps: int = option(32, "steps of each environment from rollout to rollout", "[2, 1e6]", algorithm="pqn")
    epochs: int = option(2, "passes over a rollout", "[1, 1000]", algorithm="pqn")
    minibatches: int = option(32, "updates of a pass, on equal shares of the rollout", "[1, 1e6]", algorithm="pqn")
    td_lambda: float = option(
        0.65, "lambda of the returns; 0: one step, 1: up to the rollout's end", "[0, 1]", algorithm="pqn"
    )
    shift_every: int = option(
        1, "rollouts between two calls of the optimizer's shift(); 0: none", "[0, 1e9]", algorithm="pqn"
    )
