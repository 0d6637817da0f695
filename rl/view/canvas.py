"""One frame of a video: the screen, the agent's action values, what its network sees."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from rl.view.film import Moment
from rl.view.screens import fitted

WIDTH, HEIGHT = 800, 480  # even, as H.264 wants it
MARGIN = 16
SCREEN = (HEIGHT - 2 * MARGIN, 360)  # height, width of the screen's place
BACKGROUND, TEXT, DIM, BAR, CHOSEN, RANDOM = (
    *((24, 26, 30), (235, 235, 235), (150, 152, 158)),
    *((74, 96, 140), (240, 160, 60), (220, 90, 90)),
)
TALLEST_BAR, BARS_HEIGHT = 24, 200
NAME_WIDTH, NUMBER_WIDTH = 150, 70


class Canvas:
    """Draws the frames of a film.

    Args:
        lines: of the heading: what is played, by whom.
        actions: their names (A,).
    """

    size = WIDTH, HEIGHT

    def __init__(self, lines: tuple[str, ...], actions: tuple[str, ...]) -> None:
        self._lines, self._actions = lines, actions
        self._low, self._high = float("inf"), -float("inf")  # values so far: bars of one film have one scale
        self._height = min(TALLEST_BAR, BARS_HEIGHT // len(actions))
        self._font, self._small = ImageFont.load_default(15), ImageFont.load_default(max(8, min(13, self._height - 2)))

    def draw(self, moment: Moment) -> NDArray[np.uint8]:
        """The frame (HEIGHT, WIDTH, 3) of a moment."""
        image = Image.new("RGB", (WIDTH, HEIGHT), BACKGROUND)
        draw = ImageDraw.Draw(image)
        screen = fitted(moment.picture, *SCREEN)
        image.paste(Image.fromarray(screen), (MARGIN, (HEIGHT - screen.shape[0]) // 2))
        left = MARGIN + SCREEN[1] + MARGIN
        y = MARGIN
        for number, line in enumerate(self._lines):
            draw.text((left, y), line, TEXT if number == 0 else DIM, self._font)
            y += 20
        state = f"game {moment.game}   step {moment.step:,}   score {moment.score:g}"
        over = "   game over" if moment.action is None else ""
        draw.text((left, y + 6), state + over, TEXT, self._font)
        self._bars(draw, moment, left, y + 36)
        self._seen(image, draw, moment, left)
        return np.asarray(image)

    def _bars(self, draw: ImageDraw.ImageDraw, moment: Moment, left: int, top: int) -> None:
        self._low, self._high = min(self._low, moment.values.min()), max(self._high, moment.values.max())
        length, scale = WIDTH - MARGIN - left - NAME_WIDTH - NUMBER_WIDTH, max(self._high - self._low, 1e-6)
        for number, (name, value) in enumerate(zip(self._actions, moment.values, strict=True)):
            y, chosen = top + number * self._height, number == moment.action
            colour = (RANDOM if moment.is_random else CHOSEN) if chosen else BAR
            words = f"{name} (random)" if chosen and moment.is_random else name
            draw.text((left, y), words, colour if chosen else TEXT, self._small)
            start, end = left + NAME_WIDTH, round(2 + (length - 2) * (value - self._low) / scale)
            draw.rectangle((start, y + 2, start + end, y + self._height - 3), fill=colour)
            draw.text((start + length + 8, y), f"{value:.3f}", TEXT if chosen else DIM, self._small)

    def _seen(self, image: Image.Image, draw: ImageDraw.ImageDraw, moment: Moment, left: int) -> None:
        """The frames of the stack, newest last; of a vector its numbers."""
        stack, bottom = moment.observation, HEIGHT - MARGIN
        if stack.ndim != 3:
            numbers = "  ".join(f"{number:.2f}" for number in stack[-1])
            draw.text((left, bottom - 40), "what the network sees", DIM, self._small)
            draw.text((left, bottom - 20), numbers, TEXT, self._small)
            return
        width = min(100, (WIDTH - MARGIN - left) // len(stack) - 6)
        pictures = [fitted(frame, 100, width) for frame in stack]
        height, shown = pictures[0].shape
        shape = "x".join(map(str, (*stack.shape[1:], len(stack))))
        draw.text((left, bottom - height - 20), f"what the network sees ({shape}, newest last)", DIM, self._small)
        for number, picture in enumerate(pictures):
            image.paste(Image.fromarray(picture), (left + number * (shown + 6), bottom - height))
