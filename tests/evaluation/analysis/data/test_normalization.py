"""Reference scores: published numbers, spellings, the two ends."""

from __future__ import annotations

import math

import pytest

from evaluation.analysis.data.normalization import ATARI_SOURCE, REFERENCES, limits_of, normalize, reference


def test_every_game_has_two_different_references():
    atari = [found for found in REFERENCES.values() if found.source == ATARI_SOURCE]
    assert len(atari) == 57
    assert all(found.high > found.low for found in REFERENCES.values())


def test_published_scores_of_dqn():
    # Wang et al. 2016, table 2: DQN's raw scores; normalized by hand.
    assert normalize(385.5, reference("Breakout")) == pytest.approx((385.5 - 1.7) / 28.8)
    assert normalize([-20.7, 14.6], reference("Pong")).tolist() == [0.0, 1.0]
    assert normalize(1668.7, reference("space_invaders")) == 1.0


@pytest.mark.parametrize("spelling", ["SpaceInvaders", "space_invaders", "space invaders", "SpaceInvaders-v5"])
def test_spellings(spelling):
    assert reference(spelling) == REFERENCES["SpaceInvaders"]


def test_control_tasks_and_unknown_ones():
    assert normalize(500, reference("CartPole-v1")) == 1.0
    assert normalize(-182.2, reference("LunarLander")) == 0.0
    assert reference("Catch") is None


def test_what_no_score_can_pass():
    images, text = {"score": "top-1 accuracy, percent", "classes": "10"}, {"task": "wmt14", "direction": "en-de"}
    assert limits_of(images) == limits_of(text | {"metric": "bleu"}) == (0, 100)
    assert limits_of(text | {"metric": "likelihood"}) == (-math.inf, 0)
    assert limits_of({"game": "CartPole-v1", "protocol": "control"}) == (0, 500)
    for other in ({"game": "Catch"}, {"score": "-log10 of the excess risk"}, {}):
        assert limits_of(other) == (-math.inf, math.inf)
