"""Reference scores: published numbers, spellings, the two ends."""

from __future__ import annotations

import pytest

from evaluation.analysis.data.normalization import ATARI_SOURCE, REFERENCES, normalize, reference


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
