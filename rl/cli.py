"""`asgc-rl`: train a DQN agent on Atari or a control task, evaluate it, measure its speed."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from evaluation.errors import EXIT_INTERRUPTED, UserError, main_guard
from evaluation.values import did_you_mean
from rl import config_io
from rl.config import PRESETS, TrainConfig, flag, leaves

USAGE = """\
asgc-rl: DQN on Atari and control tasks with Adaptive Stochastic Gradient Clipping

  asgc-rl train --game Pong     train an agent (`asgc-rl train --help`)
  asgc-rl eval RUN              evaluate the agent of a run folder
  asgc-rl bench --against sb3   measure throughput beside Stable-Baselines3
  asgc-rl games                 list the games and control tasks

  asgc-rl COMMAND --help        options of a command
  asgc-rl --version             version
"""

# What `train --help` shows, by heading; `train --help-all` shows every option.
COMMON = {
    "run": ("game", "total_steps", "run_dir", "seed", "device", "precision", "checkpoint_interval"),
    "optimizer": (
        *("optimizer.name", "optimizer.lr", "optimizer.mode", "optimizer.clip_factor", "optimizer.noise_scale"),
        *("optimizer.max_norm",),
    ),
    "DQN": (
        *(
            "replay_size",
            "batch_size",
            "train_every",
            "gradient_steps",
            "learning_starts",
            "n_step",
            "gamma",
            "target_interval",
        ),
        *("exploration.steps", "exploration.end", "env.protocol", "env.num_envs"),
    ),
    "evaluation": ("evaluation.interval", "evaluation.episodes", "evaluation.final_episodes"),
}
HEADINGS = {"": "DQN", "env": "environments"}  # of the other groups their own names
ALIASES = {"--optimizer": "--optimizer.name"}


@main_guard
def main(argv: Sequence[str] | None = None) -> int:
    """Run `asgc-rl` with these arguments; returns the exit code (0 done, 2 the user can mend it, 130 interrupted)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands: dict[str, Callable[[list[str]], int]] = {
        "train": train_command,
        "eval": eval_command,
        "bench": bench_command,
        "games": games_command,
    }
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0
    if arguments[0] in ("--version", "-V"):
        print(f"asgc {importlib.metadata.version('asgc')}")
        return 0
    name, *rest = arguments
    if name not in commands:
        hint = did_you_mean(name, tuple(commands)) or f"; there are {', '.join(commands)}"
        raise UserError(f"unknown command {name!r}{hint}")
    return commands[name](rest)


# train ------------------------------------------------------------------------------------------------------------


def train_command(argv: list[str]) -> int:
    """`asgc-rl train`: put the layers of the configuration together and train."""
    flags = train_flags(TrainConfig())
    namespace, typed = flags.read(argv)
    config = layers(namespace, typed.get("game"))
    config_io.update(config, nested({path: typed[path] for path, _, _ in leaves(config) if path in typed}), "flags")
    if namespace.help or namespace.help_all:
        train_flags(config, everything=namespace.help_all).print_help()
        return 0
    if namespace.print_config:
        print(config_io.dump(config, comments=True), end="")
        return 0
    if namespace.resume is not None and config.run_dir is None:
        raise UserError("--resume: say which run: --resume RUN")
    config.validate()

    from rl.display import make_display
    from rl.trainer import Interrupted, train

    try:
        train(config, resume=namespace.resume is not None, display=make_display())
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def layers(namespace: Any, game: str | None = None) -> TrainConfig:
    """The configuration below the flags: the run's own with --resume, else the preset with --config on top.

    Args:
        game: what `--game` said, if it was typed: it decides which preset is meant where none is named.
    """
    run = namespace.resume if namespace.resume != "" else namespace.run_dir
    if run is not None and namespace.resume is not None and namespace.preset is None and namespace.config is None:
        config = TrainConfig()
        path = Path(run) / "config.yaml"
        if path.is_file():
            config_io.load_file(config, path)
        elif namespace.resume:
            raise UserError(f"--resume {run}: not a run folder (no config.yaml in it)")
        else:  # perhaps killed before it was written: the flags say what it was
            config = config_io.load_preset(config_io.default_preset(game))
    else:
        file = config_io.Group() if namespace.config is None else config_io.read_file(Path(namespace.config))
        game = next((entry.value for entry in file if entry.key == "game"), None) if game is None else game
        config = config_io.load_preset(namespace.preset or config_io.default_preset(game))
        config_io.apply(config, file)
    if namespace.resume:
        config.run_dir = namespace.resume
    return config


def nested(values: dict[str, Any]) -> dict[str, Any]:
    """{"optimizer.lr": 1} -> {"optimizer": {"lr": 1}}."""
    result: dict[str, Any] = {}
    for path, value in values.items():
        group, _, name = path.rpartition(".")
        (result.setdefault(group, {}) if group else result)[name] = value
    return result


def train_flags(config: TrainConfig, everything: bool = False) -> Any:
    """The flags of `train`, with the values of `config` as the defaults shown."""
    from evaluation.flags import Flags

    flags = Flags(
        "asgc-rl train",
        f"[--game GAME] [--preset {'|'.join(PRESETS)}] [options]",
        "Train DQN on an Atari game or a control task and write a run folder.",
        epilog="Dashes and underscores are the same. Later layers win: preset, --config, flags. "
        + ("" if everything else "`asgc-rl train --help-all` lists every option."),
        aliases=ALIASES,
        add_help=False,
    )
    run = flags.section("run")
    for name, help in (("--help", "show the common options"), ("--help-all", "show all options")):
        run.add_argument(*(["-h"] if name == "--help" else []), name, action="store_true", help=help)
    flags.option("run", "--preset", str | None, None, "configuration to start from [quick; control for its tasks]")
    flags.option("run", "--config", str | None, None, "YAML file on top of the preset")
    run.add_argument("--print-config", action="store_true", help="print the whole configuration as YAML and stop")
    run.add_argument("--resume", nargs="?", const="", metavar="RUN", help="go on with an interrupted run")
    common = {path: section for section, paths in COMMON.items() for path in paths}
    options = {path: (item, value) for path, item, value in leaves(config)}
    for path in (*common, *(path for path in options if path not in common)):
        item, value = options[path]
        group, _, name = path.rpartition(".")
        flags.option(
            common.get(path) or HEADINGS.get(group, group),
            flag(path),
            config_io.field_types(type(getattr(config, group) if group else config))[name],
            value,
            item.metadata["help"] + config_io.choices(path),
            allowed=item.metadata["allowed"],
            hidden=not everything and path not in common,
        )
    return flags


# eval, bench, games ------------------------------------------------------------------------------------------------


def eval_command(argv: list[str]) -> int:
    """`asgc-rl eval RUN`: play games with a trained agent and print the mean score and how it was made."""
    from evaluation.flags import Flags

    flags = Flags("asgc-rl eval", "RUN [options]", "Play whole games with the agent of a run folder.")
    flags.section("general").add_argument("run", metavar="RUN", nargs="?", help="run folder of `asgc-rl train`")
    flags.option("general", "--episodes", int, 30, "games (100 for a published figure)", allowed="[1, 10000]")
    flags.option("general", "--epsilon", float | None, None, "share of random actions", allowed="[0, 1]")
    flags.option("general", "--mode", int | None, None, "game mode other than the trained one", allowed="[0, 255]")
    flags.option("general", "--difficulty", int | None, None, "difficulty other than the trained one", allowed="[0, 3]")
    flags.option("general", "--seed", int, 1, "seed of the environments and random actions", allowed="[0, 2147483647]")
    flags.option("general", "--device", str, "auto", "auto, cpu, cuda or cuda:N")
    namespace, _ = flags.read(argv)
    if namespace.run is None:
        raise UserError("say which run: asgc-rl eval RUN")

    from rl import games
    from rl.agent import load_agent
    from rl.evaluate import evaluate, signature

    agent = load_agent(namespace.run, namespace.device)
    game, env = agent.config.game, agent.config.env
    for name in ("mode", "difficulty"):
        if getattr(namespace, name) is not None and games.is_control(game):
            raise UserError(f"--{name}: {game} is a control task and has none")
    env = dataclasses.replace(
        env,
        mode=env.mode if namespace.mode is None else namespace.mode,
        difficulty=env.difficulty if namespace.difficulty is None else namespace.difficulty,
    )
    how = {"episodes": namespace.episodes, "seed": namespace.seed, "epsilon": namespace.epsilon}
    scores = evaluate(agent.act, game, env, **how)
    signed = signature(game, env, **how)
    print(f"score={scores.mean():.2f} std={scores.std():.2f} min={scores.min():g} max={scores.max():g}")
    print(" ".join(f"{key}={value}" for key, value in signed.items()))
    return 0


def bench_command(argv: list[str]) -> int:
    """`asgc-rl bench`: throughput of training beside another library's."""
    from rl import bench

    return bench.main(argv)


def games_command(argv: list[str]) -> int:
    """`asgc-rl games`: the names of all games, then those of the control tasks."""
    from evaluation.flags import Flags

    Flags("asgc-rl games", "", "List the Atari games and, below, the control tasks.").read(argv)
    from rl import games

    print("\n".join((*games.names(), "", *games.CONTROL)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
