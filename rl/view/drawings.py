"""Control tasks as pictures, drawn from their observations: the proportions of Gymnasium's own renderers.

Gymnasium draws its environments' inner states with pygame. EnvPool shows none, and the observations say enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

WIDTH, HEIGHT = 400, 300
WHITE, BLACK, GREY, BLUE, ORANGE, GREEN = (
    *((255, 255, 255), (20, 20, 20), (190, 190, 190)),
    *((60, 90, 200), (202, 130, 70), (60, 150, 60)),
)
Point = tuple[float, float]
Draw = Callable[[NDArray[np.floating]], NDArray[np.uint8]]


def _canvas() -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (WIDTH, HEIGHT), WHITE)
    return image, ImageDraw.Draw(image)


def cart_pole(state: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Observation: cart position (-2.4 to 2.4), its velocity, pole angle (radians, clockwise), its velocity."""
    image, draw = _canvas()
    x, angle = float(state[0]), float(state[2])
    ground, middle = 230, WIDTH / 2 + x * WIDTH / 4.8
    draw.line((0, ground, WIDTH, ground), fill=BLACK)
    draw.rectangle((middle - 20, ground - 12, middle + 20, ground + 12), fill=BLACK)
    tip = middle + 120 * math.sin(angle), ground - 12 - 120 * math.cos(angle)
    draw.line((middle, ground - 12, *tip), fill=ORANGE, width=9)
    draw.ellipse((middle - 5, ground - 17, middle + 5, ground - 7), fill=BLUE)
    return np.asarray(image)


def mountain_car(state: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Observation: position (-1.2 to 0.6) on the hills sin(3 x), velocity. The flag stands at 0.5."""
    image, draw = _canvas()

    def at(x: float) -> Point:
        return (x + 1.2) * WIDTH / 1.8, HEIGHT - 40 - (math.sin(3 * x) * 0.45 + 0.55) * 200

    draw.line([at(x) for x in np.linspace(-1.2, 0.6, 100)], fill=BLACK, width=2)
    flag = at(0.5)
    draw.line((*flag, flag[0], flag[1] - 40), fill=BLACK, width=2)
    draw.polygon(((flag[0], flag[1] - 40), (flag[0] + 20, flag[1] - 33), (flag[0], flag[1] - 26)), fill=ORANGE)
    x = float(state[0])
    slope = math.atan2(*reversed([b - a for a, b in zip(at(x - 0.01), at(x + 0.01), strict=True)]))
    body = ((-16, -6), (16, -6), (16, -18), (-16, -18))
    draw.polygon(_placed(body, at(x), slope), fill=BLUE)
    for wheel in _placed(((-9, -4), (9, -4)), at(x), slope):
        draw.ellipse((wheel[0] - 4, wheel[1] - 4, wheel[0] + 4, wheel[1] + 4), fill=BLACK)
    return np.asarray(image)


def acrobot(state: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Observation: cos and sin of both angles (0: hanging; the second relative to the first), velocities. The tip is
    to swing above the line."""
    image, draw = _canvas()
    first = math.atan2(float(state[1]), float(state[0]))
    both = first + math.atan2(float(state[3]), float(state[2]))
    link, base = 65, (WIDTH / 2, HEIGHT / 2)
    draw.line((0, base[1] - link, WIDTH, base[1] - link), fill=GREY)
    joint = base[0] + link * math.sin(first), base[1] + link * math.cos(first)
    tip = joint[0] + link * math.sin(both), joint[1] + link * math.cos(both)
    draw.line((*base, *joint), fill=BLUE, width=9)
    draw.line((*joint, *tip), fill=GREEN, width=9)
    for x, y in (base, joint):
        draw.ellipse((x - 6, y - 6, x + 6, y + 6), fill=ORANGE)
    return np.asarray(image)


def lunar_lander(state: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Observation: position (the pad is at 0, 0; 1 is half a screen to the side), velocities, angle (radians,
    counterclockwise), its velocity, contact of both legs. The terrain beside the pad is not observed."""
    image, draw = _canvas()
    ground = HEIGHT - 60
    draw.rectangle((0, ground, WIDTH, HEIGHT), fill=GREY)
    for x in (WIDTH / 2 - 40, WIDTH / 2 + 40):
        draw.line((x, ground, x, ground - 25), fill=BLACK)
        draw.polygon(((x, ground - 25), (x + 12, ground - 20), (x, ground - 15)), fill=ORANGE)
    place = WIDTH / 2 * (1 + float(state[0])), ground - float(state[1]) * WIDTH / 2 * 0.75 - 14
    angle = -float(state[4])
    draw.polygon(_placed(((-11, 6), (-13, -2), (-11, -12), (11, -12), (13, -2), (11, 6)), place, angle), fill=BLUE)
    for side, contact in ((-1, state[6]), (1, state[7])):
        leg = _placed(((side * 10, 4), (side * 16, 14)), place, angle)
        draw.line([*leg[0], *leg[1]], fill=GREEN if contact else BLACK, width=4)
    return np.asarray(image)


def bars(state: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Any vector: a bar each, from the middle, as wide as tanh of its number."""
    image, draw = _canvas()
    size = HEIGHT / len(state)
    for number, value in enumerate(state):
        edge = WIDTH / 2 * (1 + math.tanh(float(value)))
        left, right = sorted((WIDTH / 2, edge))
        draw.rectangle((left, number * size + 1, right, (number + 1) * size - 2), fill=BLUE)
    return np.asarray(image)


def _placed(shape: Sequence[Point], place: Point, angle: float) -> list[Point]:
    """Points of a shape turned by an angle (radians, clockwise on the screen) and moved to a place."""
    cos, sin = math.cos(angle), math.sin(angle)
    return [(place[0] + x * cos - y * sin, place[1] + x * sin + y * cos) for x, y in shape]


DRAWINGS: dict[str, Draw] = {
    "Acrobot": acrobot,
    "CartPole": cart_pole,
    "LunarLander": lunar_lander,
    "MountainCar": mountain_car,
}
