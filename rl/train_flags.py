"""The command line of `asgc-rl train`: its flags, and the layers of the configuration below them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evaluation.cli.errors import UserError
from evaluation.cli.parser import Flags
from rl import config_io
from rl.config import PRESETS, TrainConfig, flag, leaves

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


def layers(namespace: Any, game: str | None = None, faults: list[str] | None = None) -> TrainConfig:
    """The configuration below the flags: the run's own with --resume, else the preset with --config on top.

    Args:
        namespace: with the values of --preset, --config, --resume and --run-dir.
        game: what `--game` said, if it was typed: it decides which preset is meant where none is named.
        faults: takes a line for each wrong option in the file of --config; without it the first is raised.
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
        config_io.apply(config, file, faults=faults)
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


def train_flags(config: TrainConfig, everything: bool = False) -> Flags:
    """The flags of `train`, with the values of `config` as the defaults shown."""
    flags = Flags(
        "asgc-rl train",
        "[--game GAME] [--preset PRESET] [options]",
        "Train DQN on an Atari game or a control task and write a run folder.",
        epilog="Dashes and underscores are the same. Later layers win: preset, --config, flags. "
        + ("" if everything else "`asgc-rl train --help-all` lists every option."),
        aliases=ALIASES,
        add_help=False,
    )
    run = flags.section("run")
    for name, help in (("--help", "show the common options"), ("--help-all", "show all options")):
        run.add_argument(*(["-h"] if name == "--help" else []), name, action="store_true", help=help)
    flags.option(
        "run", "--preset", str | None, None, f"configuration to start from: {', '.join(PRESETS)} [quick, or control]"
    )
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
