"""Evaluation protocols: named sets of environment rules. Scores of two protocols are never put side by side."""

from __future__ import annotations

from dataclasses import dataclass

FRAME_SKIP = 4  # Atari frames per environment step, in all protocols


@dataclass(frozen=True)
class Protocol:
    """The rules under which an Atari game is played.

    Attributes:
        name: key in `PROTOCOLS`.
        noop_max: a game starts with 1 to `noop_max` no-op frames (0 to `noop_max - 1` and one FIRE with `fire_reset`).
            EnvPool crashes on 0, so 1, one frame that is always the same, stands for "no no-ops".
        episodic_life: a lost life ends the learning episode. In training; evaluation always scores whole games (with
            `fire_reset` its environments end episodes at lost lives, too, so that FIRE is pressed after them).
        repeat_action_probability: probability per frame that the emulator repeats the previous action.
        full_action_space: all 18 actions instead of the game's minimal set.
        max_episode_steps: environment steps (`FRAME_SKIP` frames each) after which a game is cut.
        eval_epsilon: share of random actions in evaluation.
        fire_reset: press FIRE once when a game or, with `episodic_life`, a life starts, in games that have FIRE.
    """

    name: str
    noop_max: int
    episodic_life: bool
    repeat_action_probability: float
    full_action_space: bool
    max_episode_steps: int
    eval_epsilon: float
    fire_reset: bool


# Mnih et al. (2015), Human-level control through deep reinforcement learning: 5 minutes at 60 frames/s, no FIRE.
NATURE = Protocol(
    name="nature",
    noop_max=30,
    episodic_life=True,
    repeat_action_probability=0.0,
    full_action_space=False,
    max_episode_steps=18_000 // FRAME_SKIP,
    eval_epsilon=0.05,
    fire_reset=False,
)

# OpenAI Baselines' wrappers, as in Stable-Baselines3 and CleanRL, whose published scores are of this kind: 30 minutes;
# their FireResetEnv starts a game that waits for FIRE.
CLASSIC = Protocol(
    name="classic",
    noop_max=30,
    episodic_life=True,
    repeat_action_probability=0.0,
    full_action_space=False,
    max_episode_steps=108_000 // FRAME_SKIP,
    eval_epsilon=0.01,
    fire_reset=True,
)

# Machado et al. (2018), Revisiting the Arcade Learning Environment, with Dopamine's minimal actions and epsilon.
STICKY = Protocol(
    name="sticky",
    noop_max=1,
    episodic_life=False,
    repeat_action_probability=0.25,
    full_action_space=False,
    max_episode_steps=108_000 // FRAME_SKIP,
    eval_epsilon=0.001,
    fire_reset=False,
)

CONTROL = "control"  # of the control tasks: whole episodes as Gymnasium defines them, greedy evaluation

PROTOCOLS = {protocol.name: protocol for protocol in (NATURE, CLASSIC, STICKY)}


def eval_epsilon(protocol: str) -> float:
    """Share of random actions in evaluations under the protocol of this name."""
    return 0.0 if protocol == CONTROL else PROTOCOLS[protocol].eval_epsilon
