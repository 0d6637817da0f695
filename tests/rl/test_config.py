"""Configurations: presets, YAML with exact error lines, layers, dumps, checks."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch.nn import Conv2d, Linear

from asgc import optimizers
from asgc.option import in_range
from evaluation.cli.config_file import differences, parse_yaml, plain, read_yaml
from evaluation.cli.errors import UserError
from evaluation.cli.settings import _shipped
from evaluation.cli.values import number
from rl import tasks
from rl.config import OptimizerConfig, TrainConfig
from rl.networks import build_network
from rl.option_groups import NetworkConfig


def error_of(text: str) -> str:
    """The one line that a YAML file "run.yaml" with this text is refused with."""
    with pytest.raises(UserError) as caught:
        TrainConfig().update(parse_yaml(text, "run.yaml"), "run.yaml")
    line = str(caught.value)
    assert "\n" not in line
    return line


def invalid(**options: Any) -> str:
    """The one line that a quick configuration with these options is refused with."""
    with pytest.raises(UserError) as caught:
        TrainConfig.preset("quick", **options).validate()
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize("name", TrainConfig.PRESETS)
def test_presets_are_valid_and_survive_a_dump(name: str, tmp_path: Path) -> None:
    config = TrainConfig.preset(name)
    config.validate()
    for comments in (False, True):
        path = tmp_path / "config.yaml"
        path.write_text(config.dump(comments))
        again = TrainConfig()
        again.update(read_yaml(path), "file")
        assert again == config


def test_the_dump_is_complete_and_plain_yaml_reads_it() -> None:
    config = TrainConfig.preset("quick", optimizer={"betas": (0.9, 0.95), "clip_factor": float("inf"), "lr": 1e-5})
    values = yaml.safe_load(config.dump())
    assert values == config.to_dict()
    own = [path for path in TrainConfig.settings() if config.has(path)]
    assert len(own) == sum(len(v) if isinstance(v, dict) else 1 for v in values.values())
    assert TrainConfig.from_dict(values) == config
    assert config.optimizer.options() == {"betas": (0.9, 0.95), "clip_factor": float("inf")}


def test_dqn_keeps_natures_replay_ratio_and_network() -> None:
    config = TrainConfig.preset("dqn")
    assert (config.batch_size, config.train_every, config.total_steps) == (32, 4, 10_000_000)
    assert (config.env.height, config.env.width, config.env.stack) == (84, 84, 4)
    assert (config.network.channels, config.network.hidden) == ([32, 64, 64], 512)


def test_rainbow_has_the_settings_of_its_papers_table() -> None:
    """Table 1 of Hessel et al. (2018), in environment steps of 4 frames."""
    config, network = TrainConfig.preset("rainbow"), TrainConfig.preset("rainbow").network
    assert (config.optimizer.lr, config.optimizer.options()) == (6.25e-5, {"eps": 1.5e-4})
    assert (config.learning_starts, config.target_interval) == (80_000 // 4, 32_000 // 4)
    assert (config.n_step, config.double, config.gamma) == (3, True, 0.99)
    assert (config.exploration.start, config.exploration.end) == (0, 0)
    assert (network.dueling, network.noisy, network.noisy_sigma) == (True, True, 0.5)
    assert (config.head.name, config.head.atoms, config.head.v_min, config.head.v_max) == ("c51", 51, -10, 10)
    assert (config.batch_size, config.train_every, config.replay_size) == (32, 4, 1_000_000)
    nature = TrainConfig.preset("dqn")
    assert (config.env, network.channels, network.hidden) == (nature.env, nature.network.channels, 512)


def test_atari_small_costs_less_than_quick_for_each_step() -> None:
    small, quick = TrainConfig.preset("atari-small"), TrainConfig.preset("quick")
    assert small.batch_size / small.train_every == 4  # samples learned from per environment step
    assert small.total_steps < quick.total_steps
    assert small.network.hidden < quick.network.hidden
    assert (small.env.height, small.env.protocol) == (quick.env.height, quick.env.protocol)


def test_quick_keeps_natures_replay_ratio() -> None:
    config = TrainConfig.preset("quick")
    assert config.batch_size / config.train_every == 32 / 4


def test_layers_go_on_top_of_each_other() -> None:
    config = TrainConfig.preset("quick", game="Breakout", optimizer={"lr": 0.5}, env={"num_envs": 2})
    assert (config.game, config.optimizer.lr, config.env.num_envs) == ("Breakout", 0.5, 2)
    assert config.env.height == TrainConfig.preset("quick").env.height  # the rest of the group stays
    config.update({"seed": 7}, "test")
    assert (config.seed, config.game) == (7, "Breakout")


@pytest.mark.parametrize("name", TrainConfig.PRESETS)
@pytest.mark.parametrize("total", [1, 7, 300, 3_000, 99_999])
def test_a_preset_is_valid_however_short_the_run(name: str, total: int) -> None:
    preset = TrainConfig.preset(name)
    config = TrainConfig.preset(name, total_steps=total, **({"n_step": 1} if preset.algorithm == "dqn" else {}))
    least = preset.rollout + preset.overlap * preset.env.num_envs  # the steps in which it is learned from
    if preset.algorithm == "pqn" and total < least:
        with pytest.raises(UserError, match=f"--total-steps {total}: must be at least {least} for one rollout"):
            config.validate()
    else:
        config.validate()
    if total < preset.total_steps:
        assert config.exploration.steps == max(1, preset.exploration.steps * total // preset.total_steps)
        shrunk = preset.learning_starts * total // preset.total_steps if config.has("learning_starts") else 80_000
        assert config.learning_starts == shrunk
        assert ("learning-starts" in config.notes[0]) == config.has("learning_starts")
        assert config.evaluation.interval == max(1, preset.evaluation.interval * total // preset.total_steps)
    same = (
        "batch_size",
        "target_interval",
        "train_every",
        "segment_steps",
        "replay_size",
        "lr_schedule",
        "gradients",
        "pqn",
    )
    assert [getattr(config, each) for each in same] == [getattr(preset, each) for each in same]


@pytest.mark.parametrize("name", TrainConfig.PRESETS)
def test_options_that_a_preset_has_for_a_game_go_below_those_that_are_given(name: str) -> None:
    games = _shipped("rl", name).get("games", {})
    assert ("LunarLander" in games) == (name == "control")
    for game in ("LunarLander", "CartPole", "Acrobot", "MountainCar", "Breakout"):
        plainly, played = TrainConfig.preset(name), TrainConfig.preset(name, game=game)
        plainly.update({**games.get(game, {}), "game": game}, "expected")
        assert played == plainly
        if game in games:
            played.validate()
    if name == "control":
        lander = TrainConfig.preset(name, game="lunar-lander", network={"units": [8]})
        assert (lander.network.units, lander.total_steps) == ([8], number(games["LunarLander"]["total_steps"]))
        half = TrainConfig.preset(name, game="LunarLander-v3", total_steps=lander.total_steps // 2)
        assert half.exploration.steps == lander.exploration.steps // 2
        assert TrainConfig.preset(name, game="no such game").total_steps == TrainConfig.preset(name).total_steps


def test_longer_runs_keep_a_presets_schedules() -> None:
    config = TrainConfig.preset("quick", total_steps=5_000_000)
    assert config == dataclasses.replace(TrainConfig.preset("quick"), total_steps=5_000_000)
    assert config.notes == ()


def test_configs_do_not_share_lists() -> None:
    TrainConfig().network.channels.append(7)
    assert TrainConfig().network.channels == [32, 64, 64]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seed: 1\ntotal_stepz: 5\n", "run.yaml:2: unknown option 'total_stepz'; did you mean 'total_steps'?"),
        (
            "env:\n  protocol: classic\n  hieght: 3\n",
            "run.yaml:3: unknown option 'env.hieght'; did you mean 'env.height'?",
        ),
        ("clip_factor: 3", "run.yaml:1: unknown option 'clip_factor'; did you mean 'optimizer.clip_factor'?"),
        ("\n\nseed: many", "run.yaml:3: seed many: must be a whole number"),
        ("seed: 1.5", "run.yaml:1: seed 1.5: must be a whole number"),
        ("seed: true", "run.yaml:1: seed true: must be a whole number"),
        ("double: 3", "run.yaml:1: double 3: must be true or false"),
        ("gamma: [1]", "run.yaml:1: gamma 1: must be a number"),
        ("gamma: .nan", "run.yaml:1: gamma nan: must be at least 0 and below 1"),
        ("loss: hubert", "run.yaml:1: loss hubert: must be huber or mse"),
        ("network:\n  kernels: [8, x]", "run.yaml:2: network.kernels 8,x: must be a whole number"),
        ("network:\n  kernels: []", "run.yaml:2: network.kernels : must be whole numbers such as 32,64"),
        ("env: 3", "run.yaml:1: env is a group of options, got 3"),
        ("seed:\n  a: 1", "run.yaml:1: seed is a single option, not a group"),
        ("seed: 1\ngamma: 0.9\nseed: 2", "cannot read run.yaml:3: no valid YAML: key 'seed' is given twice"),
        ("- a\n- b", "cannot read run.yaml: expected `key: value` lines"),
    ],
)
def test_yaml_errors_name_file_line_and_nearest_option(text: str, expected: str) -> None:
    assert error_of(text) == expected


@pytest.mark.parametrize(
    "text", ["seed: [1", "a: b: c", "seed: 1\n\tgamma: 2", "seed: *x", "seed: !!python/object:os.x 1"]
)
def test_broken_yaml_is_one_line_with_its_line_number(text: str) -> None:
    assert re.match(r"cannot read run.yaml:\d: no valid YAML: ", error_of(text))


def test_yaml_may_use_anchors_and_numbers_as_people_write_them() -> None:
    text = "total_steps: 1_000_000\nreplay_size: 2e5\noptimizer: &o {lr: 1e-3}\nenv: {}\n"
    config = TrainConfig()
    config.update(parse_yaml(text, "run.yaml"), "run.yaml")
    assert (config.total_steps, config.replay_size, config.optimizer.lr) == (1_000_000, 200_000, 1e-3)
    assert type(config.replay_size) is int
    config.update(parse_yaml("", "empty.yaml"), "empty.yaml")
    config.update(parse_yaml("optimizer: adam", "run.yaml"), "run.yaml")
    assert config.optimizer.name == "adam"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"total_steps": -5}, "total_steps -5: must be at least 1 and at most 1e12"),
        ({"gamma": 1.0}, "gamma 1.0: must be at least 0 and below 1"),
        ({"n_step": 0}, "n_step 0: must be at least 1 and at most 100"),
        ({"env": {"num_envs": 0}}, "env.num_envs 0: must be at least 1 and at most 4096"),
        ({"optimizer": {"lr": -1}}, "optimizer.lr -1: must be at least 0 and finite"),
        ({"evaluation": {"target": float("inf")}}, "evaluation.target inf: must be finite"),
        ({"batch_size": 64, "replay_size": 50}, "--batch-size 64: must be at most --replay-size 50"),
        ({"exploration": {"start": 0.1, "end": 0.5}}, "--exploration.end 0.5: must be at most --exploration.start 0.1"),
        ({"device": "tpu"}, "--device tpu: must be auto, cpu, cuda or cuda:N"),
    ],
)
def test_absurd_values_are_named_with_what_is_allowed(options: dict[str, Any], expected: str) -> None:
    assert expected in invalid(**options)


def test_values_set_from_python_are_checked_too() -> None:
    config = TrainConfig.preset("quick")
    config.gamma = 2.0
    with pytest.raises(UserError, match=r"--gamma 2.0: must be at least 0 and below 1"):
        config.validate()
    config = TrainConfig.preset("quick")
    config.seed = "x"  # type: ignore[assignment]
    with pytest.raises(UserError, match="--seed x: must be a whole number"):
        config.validate()


def test_a_group_is_no_mapping_once_the_configuration_is_made() -> None:
    for group, given in (("env", {"num_envs": 8}), ("optimizer", "adam")):
        config = TrainConfig(**{"game": "CartPole", group: given})  # type: ignore[arg-type]
        with pytest.raises(UserError, match=f"{group}: expected a .*Config, got"):
            config.validate()


def test_options_are_checked_together() -> None:
    assert "--learning-starts 9000: must be below --total-steps 8000" in invalid(total_steps=8000, learning_starts=9000)
    assert "--network.strides 2: must be 2 numbers" in invalid(network={"strides": [2]})
    assert "--network.kernels 60,4: too large for frames of 42x42" in invalid(
        env={"height": 42, "width": 42}, network={"kernels": [60, 4]}
    )
    assert "--replay-size 70: must be at least" in invalid(replay_size=70, batch_size=8, env={"num_envs": 16})


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"head": "c51", "loss": "mse"}, "--loss mse: c51 has a loss of its own (leave it at huber)"),
        ({"head": {"name": "qr"}, "loss": "mse"}, "--loss mse: qr has a loss of its own (leave it at huber)"),
        ({"head": {"name": "c51", "v_min": 3.0, "v_max": 3}}, "--head.v-min 3.0: must be below --head.v-max 3.0"),
        ({"head": {"name": "c51", "atoms": 1}}, "head.atoms 1: must be at least 2 and at most 10000"),
        (
            {"network": {"noisy": True, "spectral_norm": [2]}},
            "--network.spectral-norm 2: is not possible with --network.noisy",
        ),
        ({"network": {"spectral_norm": [5]}}, "--network.spectral-norm 5: the network has 4 layers"),
        (
            {"network": {"kind": "impala", "spectral_norm": [12]}},
            "--network.spectral-norm 12: the network has 11 layers",
        ),
        ({"lr_schedule": "exponential"}, "--lr-schedule.end-factor 0: must be above 0 for an exponential schedule"),
    ],
)
def test_heads_networks_and_schedules_that_make_no_sense(options: dict[str, Any], expected: str) -> None:
    assert expected in invalid(**options)


def test_a_control_task_has_no_convolutions_of_either_kind() -> None:
    for options in ({"kind": "impala"}, {"width": 2}):
        config = TrainConfig.preset("control", network=options)
        with pytest.raises(UserError, match=r"--network.(kind|width) .*: CartPole is a control task and has no such"):
            config.validate()


def test_the_layers_that_are_counted_are_those_of_the_network() -> None:
    for options in ({}, {"kind": "impala"}, {"channels": [4], "kernels": [4], "strides": [2]}, {"dueling": True}):
        config = TrainConfig.preset("quick", network=options | {"spectral_norm": [1]})
        config.validate()
        spec = tasks.find("Pong").observation(config.env)
        layers = build_network(spec, 3, NetworkConfig(**vars(config.network) | {"spectral_norm": None})).layers  # type: ignore[arg-type]
        count = sum(any(isinstance(one, Linear | Conv2d) for one in layer.modules()) for layer in layers)
        assert f"the network has {count} layers" in invalid(network=options | {"spectral_norm": [count + 1]})


def test_the_game_gets_its_canonical_name() -> None:
    config = TrainConfig.preset("quick", game="space_invaders")
    config.validate()
    assert config.game == "SpaceInvaders"
    assert "Breakout" in invalid(game="braekout")


def test_optimizer_options_must_be_those_of_the_optimizer() -> None:
    assert invalid(optimizer={"name": "adm"}).startswith("unknown optimizer 'adm'; did you mean 'adam'")
    line = invalid(optimizer={"name": "adam", "clip_factor": 3})
    assert line == "--optimizer.clip-factor: adam has no such option"
    line = invalid(optimizer={"name": "asgc", "nesterov": True})
    assert line == "--optimizer.nesterov: asgc with rule 'adam' has no such option"
    line = invalid(optimizer={"name": "sgd", "nesterov": True})  # its own check: nesterov needs momentum
    assert line.startswith("--optimizer sgd: ")
    TrainConfig.preset("quick", optimizer={"name": "asgc", "rule": "sgd", "momentum": 0.9}).validate()


def test_another_optimizer_drops_only_what_it_does_not_take() -> None:
    config = TrainConfig.preset("quick", optimizer={"name": "asgc", "clip_factor": 3.0, "eps": 1e-4, "lr": 0.01})
    config.update({"optimizer": {"name": "adam", "amsgrad": True}}, "test")
    assert config.optimizer == OptimizerConfig(name="adam", lr=0.01, eps=1e-4, amsgrad=True)
    config.validate()


def test_the_same_optimizer_again_hides_no_fault() -> None:
    config = TrainConfig.preset("quick", optimizer={"name": "adam", "clip_factor": 3.0})
    config.update({"optimizer": {"name": "adam", "lr": 0.1}}, "test")
    with pytest.raises(UserError, match=r"--optimizer.clip-factor: adam has no such option"):
        config.validate()


def test_another_rule_drops_only_what_it_does_not_take() -> None:
    config = TrainConfig.preset("quick", optimizer={"clip_factor": 3.0, "betas": (0.5, 0.9), "weight_decay": 0.1})
    config.update({"optimizer": {"rule": "sgd"}}, "test")
    assert config.optimizer.options() == {"rule": "sgd", "clip_factor": 3.0, "weight_decay": 0.1}


def test_unknown_preset() -> None:
    with pytest.raises(UserError, match="unknown preset 'fast'; there are quick, dqn"):
        TrainConfig.preset("fast")


def test_every_option_has_a_help_text_and_every_number_a_range() -> None:
    for path, one in TrainConfig.settings().items():
        assert one.marks["help"], path
        if isinstance(one.default, int | float) and not isinstance(one.default, bool):
            assert in_range(one.default, one.marks["allowed"]), path


def test_the_optimizers_options_are_those_of_their_table() -> None:
    known = TrainConfig.settings()
    for name in optimizers.names():
        for rule in ("adam", "sgd", "rmsprop"):
            assert {f"optimizer.{option}" for option in optimizers.options(name, rule)} <= set(known)
    for option in optimizers.all_options():
        one = known[f"optimizer.{option.name}"]
        config = TrainConfig()
        one.put(config, None)  # left to the optimizer
        assert one.get(config) is None
        if option.choices:
            assert f"({', '.join(option.choices)})" in one.about
        elif option.allowed:
            assert one.marks["allowed"] == option.allowed


def test_configurations_of_earlier_versions_are_read(tmp_path: Path) -> None:
    """Written with every option of the optimizer as a key, mostly null, and without those that came later."""
    values = TrainConfig.preset("control", optimizer={"name": "adam", "lr": 3e-4, "eps": 1e-5}).to_dict()
    del values["optimizer"]["capturable"], values["optimizer"]["seed"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(plain(values), sort_keys=False))
    config = TrainConfig()
    config.update(read_yaml(tmp_path / "config.yaml"), "file")
    config.validate()
    assert config.optimizer.options() == {"eps": 1e-5}
    assert differences(values, config.to_dict()) == {}
