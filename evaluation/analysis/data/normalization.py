"""Reference scores of tasks: 0 is a random policy, 1 what a person reaches (Atari) or what counts as solved (control).

Scores of different tasks can only be put together after (score - random) / (reference - random).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Reference:
    """The two scores that become 0 and 1, and where they are from; `limits`: the lowest and the highest there is."""

    low: float
    high: float
    source: str
    limits: tuple[float, float] = (-math.inf, math.inf)

    @property
    def ends(self) -> str:
        """The two scores in words."""
        return f"0 = {self.low:g}, 1 = {self.high:g}"

    def __str__(self) -> str:
        return f"{self.ends}; {self.source}"


# Random and human scores of all 57 games, from up to 30 no-ops: Wang et al. 2016 (arXiv 1511.06581), table 2; the same
# numbers as in DeepMind's dqn_zoo, atari_data.py. For its 49 games Mnih et al. 2015 (Nature, extended data table 2)
# give other human scores for most of them; papers since then normalize with the ones here.
# fmt: off
_ATARI = {
    "Alien": (227.8, 7127.7), "Amidar": (5.8, 1719.5), "Assault": (222.4, 742.0), "Asterix": (210.0, 8503.3),
    "Asteroids": (719.1, 47388.7), "Atlantis": (12850.0, 29028.1), "BankHeist": (14.2, 753.1),
    "BattleZone": (2360.0, 37187.5), "BeamRider": (363.9, 16926.5), "Berzerk": (123.7, 2630.4),
    "Bowling": (23.1, 160.7), "Boxing": (0.1, 12.1), "Breakout": (1.7, 30.5), "Centipede": (2090.9, 12017.0),
    "ChopperCommand": (811.0, 7387.8), "CrazyClimber": (10780.5, 35829.4), "Defender": (2874.5, 18688.9),
    "DemonAttack": (152.1, 1971.0), "DoubleDunk": (-18.6, -16.4), "Enduro": (0.0, 860.5),
    "FishingDerby": (-91.7, -38.7), "Freeway": (0.0, 29.6), "Frostbite": (65.2, 4334.7), "Gopher": (257.6, 2412.5),
    "Gravitar": (173.0, 3351.4), "Hero": (1027.0, 30826.4), "IceHockey": (-11.2, 0.9), "Jamesbond": (29.0, 302.8),
    "Kangaroo": (52.0, 3035.0), "Krull": (1598.0, 2665.5), "KungFuMaster": (258.5, 22736.3),
    "MontezumaRevenge": (0.0, 4753.3), "MsPacman": (307.3, 6951.6), "NameThisGame": (2292.3, 8049.0),
    "Phoenix": (761.4, 7242.6), "Pitfall": (-229.4, 6463.7), "Pong": (-20.7, 14.6), "PrivateEye": (24.9, 69571.3),
    "Qbert": (163.9, 13455.0), "Riverraid": (1338.5, 17118.0), "RoadRunner": (11.5, 7845.0), "Robotank": (2.2, 11.9),
    "Seaquest": (68.4, 42054.7), "Skiing": (-17098.1, -4336.9), "Solaris": (1236.3, 12326.7),
    "SpaceInvaders": (148.0, 1668.7), "StarGunner": (664.0, 10250.0), "Surround": (-10.0, 6.5), "Tennis": (-23.8, -8.3),
    "TimePilot": (3568.0, 5229.2), "Tutankham": (11.4, 167.6), "UpNDown": (533.4, 11693.2), "Venture": (0.0, 1187.5),
    "VideoPinball": (16256.9, 17667.9), "WizardOfWor": (563.5, 4756.5), "YarsRevenge": (3092.9, 54576.9),
    "Zaxxon": (32.5, 9173.3),
}
# fmt: on
# Random: mean of 1,008 episodes of uniformly random actions in EnvPool 1.2.5 (standard errors 0.4, 0.3, 3.5, 0).
# Reference: Gymnasium's `reward_threshold`, and for CartPole the highest score there is.
_CONTROL = {
    "CartPole": (21.7, 500.0),
    "Acrobot": (-498.8, -100.0),
    "LunarLander": (-182.2, 200.0),
    "MountainCar": (-200.0, -110.0),
}
ATARI_SOURCE = "human-normalized: random and human scores of Wang et al. 2016 (arXiv 1511.06581)"
CONTROL_SOURCE = "random policy (1,008 episodes) and Gymnasium's reward threshold (CartPole: the highest score)"
# By the rules of the games: 21 points a side, 864 for two walls of bricks; 500 and 200 steps.
_LIMITS = {
    "Pong": (-21.0, 21.0),
    "Breakout": (0.0, 864.0),
    "SpaceInvaders": (0.0, math.inf),
    "CartPole": (0.0, 500.0),
    "Acrobot": (-500.0, 0.0),
    "MountainCar": (-200.0, 0.0),
}
REFERENCES = {
    name: Reference(*scores, source, _LIMITS.get(name, Reference.limits))
    for table, source in ((_ATARI, ATARI_SOURCE), (_CONTROL, CONTROL_SOURCE))
    for name, scores in table.items()
}
_BY_LETTERS = {name.lower(): reference for name, reference in REFERENCES.items()}


def reference(task: str) -> Reference | None:
    """The reference scores of an Atari game or a control task in any spelling ("space_invaders", "CartPole-v1"); None
    where there are none."""
    return _BY_LETTERS.get(letters(task.split("-v")[0]))


def limits_of(protocol: Mapping[str, str]) -> tuple[float, float]:
    """What no score made in this way (`Protocol.fields`) can pass, by the rules of a game or as a share."""
    if protocol.get("score", "").endswith("percent") or protocol.get("metric") in ("bleu", "accuracy"):
        return 0.0, 100.0
    if protocol.get("metric") == "likelihood":
        return -math.inf, 0.0
    of_game = reference(protocol["game"]) if "game" in protocol else None
    return of_game.limits if of_game is not None else Reference.limits


def widened(limits: tuple[float, float], scores: ArrayLike) -> tuple[float, float]:
    """Limits that no score seen is beyond: the rules of a game may have been changed."""
    return min(limits[0], float(np.min(scores))), max(limits[1], float(np.max(scores)))


def letters(name: str) -> str:
    """A name as it is compared in any spelling: its letters and digits only, in small."""
    return "".join(character for character in name.lower() if character.isalnum())


def normalize(scores: ArrayLike, to: Reference) -> NDArray[np.float64]:
    """(scores - random) / (reference - random), any shape."""
    return np.asarray((np.asarray(scores, dtype=np.float64) - to.low) / (to.high - to.low))
