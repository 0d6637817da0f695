"""Options that only some algorithms, networks or observations have."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from evaluation.cli.errors import UserError
from rl import tasks
from rl.cli import main
from rl.config import TrainConfig
from tests.rl.test_config import invalid


def test_an_algorithm_has_presets_of_its_own() -> None:
    for options, expected in (
        ({}, "quick"),
        ({"algorithm": "pqn"}, "pqn-quick"),
        ({"algorithm": "pqn", "game": "Breakout"}, "pqn-quick"),
        ({"algorithm": "pqn", "game": "cartpole"}, "pqn-control"),
        ({"algorithm": "dqn", "game": "cartpole"}, "control"),
        ({"algorithm": "sarsa"}, "quick"),
    ):
        assert TrainConfig.default_preset(options) == expected
    for name in TrainConfig.PRESETS:
        assert TrainConfig.preset(name).algorithm == ("pqn" if name.startswith("pqn") else "dqn")
    paper = TrainConfig.preset("pqn")
    assert (paper.rollout, paper.pqn.epochs, paper.pqn.minibatches, paper.pqn.td_lambda) == (4_096, 2, 32, 0.65)
    assert (paper.env.height, paper.network.channels, paper.network.layer_norm) == (84, [32, 64, 64], True)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"algorithm": "pqn", "replay_size": 5_000}, "--replay-size 5000: only dqn has this option"),
        ({"algorithm": "pqn", "n_step": 1}, "--n-step 1: only dqn has this option"),  # the default, but given
        ({"algorithm": "pqn", "learning_starts": 80_000, "game": "cartpole"}, "--learning-starts 80000: only dqn has"),
        ({"pqn": {"epochs": 3}}, "--pqn.epochs 3: only pqn has this option: --algorithm pqn, or leave it out"),
        ({"pqn": {"minibatches": 32}}, "--pqn.minibatches 32: only pqn has this option"),
        ({"algorithm": "pqn", "pqn": {"minibatches": 7}}, "--pqn.minibatches 7: must divide the 2048 transitions"),
        ({"algorithm": "pqn", "pqn": {"rollout_steps": 1}}, "pqn.rollout_steps 1: must be at least 2"),
        (
            {"algorithm": "pqn", "env": {"protocol": "control"}, "game": "cartpole", "double": False},
            "--double false: only",
        ),
    ],
)
def test_an_algorithms_options_are_refused_for_another(options: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as caught:
        TrainConfig.preset(**options).validate()
    assert str(caught.value).removeprefix("TrainConfig.preset: ").startswith(line)
    assert "\n" not in str(caught.value)


def test_another_algorithms_preset_is_refused_by_name() -> None:
    line = invalid(algorithm="pqn")
    assert line.endswith("--algorithm dqn, or leave it out (--preset pqn-quick is pqn's)")
    with pytest.raises(UserError, match=r"--env.protocol classic: .* protocol is control \(--preset pqn-control\)"):
        TrainConfig.preset("pqn-quick", game="cartpole").validate()


@pytest.mark.parametrize("flag", ["--head.name c51", "--network.noisy true"])
def test_what_only_dqn_learns_is_refused_elsewhere(flag: str) -> None:
    path, _, value = flag.removeprefix("--").partition(" ")
    group, _, name = path.partition(".")
    config = TrainConfig.preset("pqn-quick", **{group: {name: value == "true" or value}})
    with pytest.raises(UserError, match=f"{flag}: only dqn has this option"):
        config.validate()


def test_pqn_has_a_start_for_every_family() -> None:
    for options in ({"game": "Pong"}, {"game": "CartPole"}, {"game": "gym:CartPole-v1"}):
        config = TrainConfig.preset(algorithm="pqn", **options)  # type: ignore[arg-type]
        config.validate()
        assert config.algorithm == "pqn"


@pytest.mark.parametrize("flag", ["--network.standardize true", "--network.kind impala"])
def test_vectors_have_no_options_of_pictures(flag: str) -> None:
    path, _, value = flag.removeprefix("--network.").partition(" ")
    config = TrainConfig.preset(game="gym:CartPole-v1", network={path: value == "true" or value})
    with pytest.raises(UserError, match=f"{flag}: gym:CartPole-v1 shows vectors"):
        config.validate()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"prioritized": {"alpha": 0.7}},
            "--prioritized.alpha 0.7: has no effect without --prioritized.enabled true: give that too, or",
        ),
        ({"prioritized.beta": 0.6}, "--prioritized.beta 0.6: has no effect without --prioritized.enabled true"),
        ({"prioritized": {"updates_per_draw": 1}}, "--prioritized.updates-per-draw 1: has no effect without"),
        ({"network": {"noisy_sigma": 0.1}}, "--network.noisy-sigma 0.1: has no effect without --network.noisy true"),
        ({"network": {"width": 2}}, "--network.width 2: has no effect without --network.kind impala"),
        (
            {"network": {"kind": "impala", "channels": [8, 8, 8]}},
            "--network.channels 8,8,8: has no effect without --network.kind nature",
        ),
        ({"network": {"kind": "impala", "kernels": [8, 4, 2]}}, "--network.kernels 8,4,2: has no effect without"),
        ({"network": {"kind": "impala", "strides": [4, 2, 2]}}, "--network.strides 4,2,2: has no effect without"),
        ({"head": {"atoms": 21}}, "--head.atoms 21: has no effect without --head.name c51"),
        ({"head": {"name": "qr", "v_min": -1}}, "--head.v-min -1.0: has no effect without --head.name c51"),
        ({"head": {"v_max": 1}}, "--head.v-max 1.0: has no effect without --head.name c51"),
        ({"head": {"name": "c51", "quantiles": 50}}, "--head.quantiles 50: has no effect without --head.name qr"),
        (
            {"lr_schedule": {"end_factor": 0.1}},
            "--lr-schedule.end-factor 0.1: has no effect without --lr-schedule.name linear or cosine or exponential",
        ),
        ({"lr_schedule": {"name": "linear", "decay": 0.5}}, "--lr-schedule.decay 0.5: has no effect without --lr-sch"),
        ({"lr_schedule": {"milestones": [0.9]}}, "--lr-schedule.milestones 0.9: has no effect without"),
        ({"game": "gym:CartPole-v1", "env": {"threads": 2}}, "--env.threads 2: has no effect as gym:CartPole-v1 is"),
        (
            {"game": "gym:CartPole-v1", "network": {"width": 2}},
            "--network.width 2: has no effect as gym:CartPole",
        ),
        ({"game": "gym:CartPole-v1", "network": {"hidden": 7}}, "--network.hidden 7: has no effect as gym:CartPole-v1"),
    ],
)
def test_what_nothing_reads_is_refused(options: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as caught:
        TrainConfig.preset(**options).validate()
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_a_flag_that_nothing_reads_ends_with_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--game", "Pong", "--prioritized.alpha", "0.7"]) == 2
    assert capsys.readouterr().err.strip().splitlines() == [
        "error: --prioritized.alpha 0.7: has no effect without --prioritized.enabled true: give that too, or leave "
        "this out"
    ]


def test_with_its_switch_it_is_taken() -> None:
    for options in (
        {"prioritized": {"enabled": True, "alpha": 0.7, "beta": 0.6}},
        {"network": {"noisy": True, "noisy_sigma": 0.1}},
        {"network": {"kind": "impala", "width": 2}},
        {"head": {"name": "c51", "atoms": 21, "v_min": -1.0}},
        {"head": {"name": "qr", "quantiles": 50}},
        {"lr_schedule": {"name": "cosine", "end_factor": 0.1}},
        {"gradients": {"enabled": False, "interval": 7}},  # switched off for one run among others
        {"network": {"cls": "tests.rl.test_own_runs:Net", "width": 2}},  # it may read the group
    ):
        assert not [fault for fault in TrainConfig.preset(**options).faults() if "no effect" in fault]


@pytest.mark.parametrize("name", TrainConfig.PRESETS)
def test_whole_files_are_taken_whatever_is_switched_off(name: str) -> None:
    """As `--print-config` writes them: with what is a default or a preset's own."""
    game = TrainConfig.preset(name).game
    off: list[dict[str, Any]] = [{"gradients": {"enabled": False}}, {"lr_schedule": "constant"}]
    if TrainConfig.preset(name).algorithm == "dqn":
        off += [{"prioritized": {"enabled": False}}, {"network": {"noisy": False}}, {"head": "expected"}]
    if tasks.family(game).name == "atari":
        off.append({"network": {"kind": "impala"}})
    for options in off:
        made = TrainConfig.preset(name, **options)
        made.validate()
        again = TrainConfig.layered(None, (yaml.safe_load(made.dump()), "file"))
        again.validate()
        assert again == made
