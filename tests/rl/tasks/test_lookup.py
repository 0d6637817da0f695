import pytest

from evaluation.cli.errors import UserError
from rl import tasks
from rl.tasks.families import ATARI


def test_names_are_those_of_the_registry_and_all_can_be_made() -> None:
    import envpool

    names = tasks.names(ATARI)
    assert len(names) > 100
    assert list(names) == sorted(set(names))
    assert {"Pong", "Breakout", "SpaceInvaders", "MontezumaRevenge", "UpNDown", "Qbert"} <= set(names)
    assert {f"{name}-v5" for name in names} <= set(envpool.list_all_envs())
    assert "CartPole" not in names, "EnvPool's other environments are no Atari games"


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("Pong", "Pong"),
        ("breakout", "Breakout"),
        ("BREAKOUT", "Breakout"),
        ("space_invaders", "SpaceInvaders"),
        ("Space Invaders", "SpaceInvaders"),
        ("spaceinvaders", "SpaceInvaders"),
        ("ALE/SpaceInvaders-v5", "SpaceInvaders"),
        ("PongNoFrameskip-v4", "Pong"),
        ("Pong-v5", "Pong"),
        ("up-n-down", "UpNDown"),
        ("Pitfall2", "Pitfall2"),
        (" pong ", "Pong"),
    ],
)
def test_any_spelling_resolves(spelling: str, name: str) -> None:
    assert tasks.find(spelling).name == name


def test_every_name_resolves_to_itself() -> None:
    for family in tasks.FAMILIES:
        names = tasks.names(family)
        assert [tasks.find(name.lower()).name for name in names] == list(names)
        assert {tasks.find(name).family for name in names} == {tasks.family(name) for name in names} == {family}


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("Pnog", "Pong"),
        ("brekout", "Breakout"),
        ("space_invader", "SpaceInvaders"),
        ("montezuma", "MontezumaRevenge"),
        ("CartPoole", "CartPole"),
    ],
)
def test_an_unknown_name_gives_the_nearest(wrong: str, nearest: str) -> None:
    with pytest.raises(UserError, match=f"unknown game '{wrong}': did you mean .*{nearest}"):
        tasks.find(wrong)


@pytest.mark.parametrize("wrong", ["", "-v5", "???", "xyzzyx"])
def test_a_name_near_to_nothing_points_to_the_list(wrong: str) -> None:
    with pytest.raises(UserError, match="asgc-rl games"):
        tasks.find(wrong)
