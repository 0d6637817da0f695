"""Options that only some algorithms, networks or observations have."""

from __future__ import annotations

from typing import Any

import pytest

from evaluation.cli.errors import UserError
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
