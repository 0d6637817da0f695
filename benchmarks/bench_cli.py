"""`asgc-rl bench`: its flags. What it measures is imported when it is measured."""

from __future__ import annotations

from collections.abc import Sequence

from evaluation.cli.errors import UserError
from evaluation.cli.parser import Flags
from rl.config import TrainConfig


def main(argv: Sequence[str]) -> int:
    """Measure the speed of training (`training`) or, with --gradients, what recording costs (`recording_cost`)."""
    flags = Flags(
        "asgc-rl bench",
        "[--against sb3,tianshou] [options]",
        "Environment steps per second, cores and memory of DQN training, alone or beside others in the same run.",
    )
    flags.option(
        "general",
        "--against",
        str | None,
        None,
        "others, separated by commas: sb3 (Stable-Baselines3 on its own environment wrappers), sb3-envpool, tianshou "
        "(both on the same EnvPool environments), cleanrl=PATH (cleanrl/dqn_atari.py of your clone, run by "
        "the clone's .venv if it has one: it wants Gymnasium before 1.0)",
    )
    flags.option("general", "--minutes", float | None, None, "then train each so long and score it", allowed="(0, 1e5]")
    flags.option("general", "--preset", str, "dqn", "settings of all; sb3 and cleanrl have those of dqn only")
    flags.option("general", "--game", str, "Pong", "ALE game")
    flags.option("general", "--optimizer", str, "asgc", "this toolkit's optimizer; the other side always has Adam")
    flags.option("general", "--device", str, "auto", "auto, cpu, cuda or cuda:N")
    flags.option(
        "general",
        "--threads",
        int | None,
        None,
        "torch's CPU threads in each; null: by free cores",
        allowed="[1, 1024]",
    )
    flags.option("general", "--precision", str, "auto", "precision compared last: auto, bf16 or fp32")
    flags.option("general", "--steps", int, 2_000, "environment steps in a round", allowed="[100, 1e7]")
    flags.option("general", "--rounds", int, 3, "rounds, in turns", allowed="[1, 1000]")
    flags.section("general").add_argument(
        "--overlap",
        action="store_true",
        help="this toolkit's environments step while it learns, as with `train --overlap`",
    )
    flags.section("general").add_argument(
        "--gradients", action="store_true", help="measure what recording gradients costs instead, preset by preset"
    )
    options, _ = flags.read(list(argv))
    if options.preset not in TrainConfig.PRESETS:
        raise UserError(f"--preset {options.preset}: there are {', '.join(TrainConfig.PRESETS)}")
    if options.gradients and options.overlap:
        raise UserError("--overlap: what recording gradients costs is measured without")
    if options.gradients:
        from benchmarks import recording_cost

        recording_cost.report(options.game, options.optimizer, options.device, options.rounds)
        return 0
    from benchmarks import training

    what = options.game, options.optimizer, options.device, options.precision, options.steps, options.rounds
    peers = [] if options.against is None else [peer for peer in options.against.split(",") if peer]
    training.compare(
        *what,
        against=peers,
        preset=options.preset,
        minutes=options.minutes,
        overlap=options.overlap,
        threads=options.threads,
    )
    return 0
