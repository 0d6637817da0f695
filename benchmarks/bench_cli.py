"""`asgc-rl bench`: its flags. What it measures is imported when it is measured."""

from __future__ import annotations

from collections.abc import Sequence

from evaluation.cli.errors import UserError
from evaluation.cli.parser import Flags


def main(argv: Sequence[str]) -> int:
    """Measure the speed of training (`training`) or, with --gradients, what recording costs (`recording_cost`)."""
    flags = Flags("asgc-rl bench", "[--against sb3] [options]", "Environment steps per second of DQN training.")
    flags.option("general", "--against", str | None, None, "sb3: Stable-Baselines3's DQN in the same run")
    flags.option("general", "--game", str, "Pong", "ALE game")
    flags.option("general", "--optimizer", str, "asgc", "this toolkit's optimizer; the other side always has Adam")
    flags.option("general", "--device", str, "auto", "auto, cpu, cuda or cuda:N")
    flags.option("general", "--precision", str, "auto", "precision compared last: auto, bf16 or fp32")
    flags.option("general", "--steps", int, 2_000, "environment steps in a round", allowed="[100, 1e7]")
    flags.option("general", "--rounds", int, 3, "rounds, in turns", allowed="[1, 1000]")
    flags.section("general").add_argument(
        "--gradients", action="store_true", help="measure what recording gradients costs instead, preset by preset"
    )
    options, _ = flags.read(list(argv))
    if options.against not in (None, "sb3"):
        raise UserError(f"--against {options.against}: there is sb3")
    if options.gradients:
        from benchmarks import recording_cost

        recording_cost.report(options.game, options.optimizer, options.device, options.rounds)
        return 0
    from benchmarks import training

    what = options.game, options.optimizer, options.device, options.precision, options.steps, options.rounds
    training.compare(*what, sb3=options.against is not None)
    return 0
