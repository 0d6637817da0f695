"""What the actions of a task are called."""

from __future__ import annotations

from rl.tasks.task import Task

# The Arcade Learning Environment's, in its order (`Action` in its `Constants.hpp`).
ATARI = (
    *("NOOP", "FIRE", "UP", "RIGHT", "LEFT", "DOWN", "UPRIGHT", "UPLEFT", "DOWNRIGHT", "DOWNLEFT"),
    *("UPFIRE", "RIGHTFIRE", "LEFTFIRE", "DOWNFIRE", "UPRIGHTFIRE", "UPLEFTFIRE", "DOWNRIGHTFIRE", "DOWNLEFTFIRE"),
)
# The minimal action sets of the games that have no use for all 18, as ale-py 0.12.1's `getMinimalActionSet` gives them
# for EnvPool's ROMs (the same in every mode). EnvPool tells their size only.
MINIMAL = {
    (0, 1, 3, 4, 11, 12): "AirRaid Carnival DemonAttack Galaxian NameThisGame Pong SirLancelot SpaceInvaders",
    (0, 2, 3, 4, 5, 6, 7, 8, 9): "Asterix CrazyClimber Koolaid LostLuggage MsPacman",
    (0, 1, 2, 3, 4, 5, 10, 11, 12, 13): "Amidar MrDo TimePilot WizardOfWor",
    (0, 1, 2, 3, 4, 5): "BasicMath KingKong Qbert",
    (0, 1, 2, 5, 10, 13): "Bowling Pooyan UpNDown",
    (0, 2, 3, 4, 5): "Frogger Pacman Surround",
    (0, 1, 2, 3, 4, 5, 6, 7, 8, 9): "Othello TicTacToe3d VideoChess",
    (0, 1, 11, 12): "Atlantis Atlantis2",
    (0, 1, 2, 5): "Blackjack Casino",
    (0, 1, 3, 4): "Breakout Kaboom",
    (0, 1, 2, 3, 4, 11, 12): "Assault",
    (0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12, 13, 14, 15): "Asteroids",
    (1, 3, 4): "Backgammon",
    (0, 1, 2, 3, 4, 6, 7, 11, 12): "BeamRider",
    (0, 1, 3, 4, 5, 8, 9, 11, 12): "Enduro",
    (0, 2, 5): "Freeway",
    (0, 1, 2, 3, 4, 10, 11, 12): "Gopher",
    (0, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17): "JourneyEscape",
    (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13): "KeystoneKapers",
    (0, 2, 3, 4, 5, 8, 9, 11, 12, 13, 14, 15, 16, 17): "KungFuMaster",
    (0, 1, 3, 4, 5, 11, 12, 13): "Phoenix",
    (0, 3, 4): "Skiing",
    (0, 1, 3, 4, 5): "Tetris",
    (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12): "Turmoil",
    (0, 2, 3, 4, 5, 10, 11, 12): "Tutankham",
    (1, 6, 7, 8, 9): "VideoCheckers",
    (0, 1, 2, 3, 4, 5, 10, 11, 12): "VideoPinball",
}
# Gymnasium's classic_control and box2d sources.
CONTROL = {
    "Acrobot": ("TORQUE -1", "TORQUE 0", "TORQUE +1"),
    "CartPole": ("LEFT", "RIGHT"),
    "LunarLander": ("NOTHING", "LEFT ENGINE", "MAIN ENGINE", "RIGHT ENGINE"),
    "MountainCar": ("LEFT", "NOTHING", "RIGHT"),
}


def action_names(task: Task, num_actions: int) -> tuple[str, ...]:
    """Names (A,) of a task's actions; numbers where they are not known."""
    names: tuple[str, ...] = CONTROL.get(task.name, ())
    if task.family.name == "atari":
        own = (actions for actions, games in MINIMAL.items() if task.name in games.split())
        names = ATARI if num_actions == len(ATARI) else tuple(ATARI[action] for action in next(own, ()))
    return names if len(names) == num_actions else tuple(f"ACTION {number}" for number in range(num_actions))
