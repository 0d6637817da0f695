"""Pictures and games on a terminal, over ssh as well: two pixels a letter, upper and lower half."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from typing import TextIO

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from rl.view.film import Moment
from rl.view.screens import fitted

RESET, HOME, CLEAR_LINE, CLEAR_BELOW = "\x1b[0m", "\x1b[H", "\x1b[K", "\x1b[J"
ENTER, LEAVE = "\x1b[?1049h\x1b[?25l\x1b[2J", "\x1b[0m\x1b[?25h\x1b[?1049l"  # another screen without cursor, and back
BOLD, DIM, INVERSE = "\x1b[1m", "\x1b[2m", "\x1b[7m"
SIDE = 46  # columns beside the picture
BAR = 15
LATEST_S = 1.0  # what is later than this is not made up for
CUBE = np.array([0, 95, 135, 175, 215, 255])  # levels of the 256 colours' cube


def half_blocks(picture: NDArray[np.uint8], true_colour: bool) -> list[str]:
    """Lines of letters that show a picture (height, width, 3): two rows of pixels each, upper half and lower half."""
    if len(picture) % 2:
        picture = np.concatenate([picture, np.zeros_like(picture[:1])])
    lines = []
    for upper, lower in zip(picture[::2], picture[1::2], strict=True):
        line, before = "", ""
        for above, below in zip(upper.tolist(), lower.tolist(), strict=True):
            colours = f"\x1b[{_colour(above, 38, true_colour)};{_colour(below, 48, true_colour)}m"
            line += "▀" if colours == before else colours + "▀"
            before = colours
        lines.append(line + RESET)
    return lines


def _colour(pixel: list[int], ground: int, true_colour: bool) -> str:
    if true_colour:
        return f"{ground};2;{pixel[0]};{pixel[1]};{pixel[2]}"
    red, green, blue = (int(np.abs(CUBE - level).argmin()) for level in pixel)
    return f"{ground};5;{16 + 36 * red + 6 * green + blue}"


class TerminalStage:
    """Shows a film on a terminal at its own speed.

    Args:
        console: the terminal.
        lines: of the heading.
        actions: names (A,).
        fps: steps a second.
    """

    def __init__(self, console: Console, lines: tuple[str, ...], actions: tuple[str, ...], fps: float) -> None:
        self._stream: TextIO = console.file  # type: ignore[assignment]
        self._true_colour = console.color_system == "truecolor"
        self._lines, self._actions, self._fps = lines, actions, fps
        self._low, self._high = float("inf"), -float("inf")
        self._next = 0.0  # when the next moment is to be seen

    @contextlib.contextmanager
    def open(self) -> Iterator[TerminalStage]:
        """On another screen of the terminal, which afterwards is as it was before."""
        self._write(ENTER)
        try:
            yield self
        finally:
            self._write(LEAVE)

    def show(self, moment: Moment) -> None:
        """Draw a moment when its time has come; one that comes late is left out, but a game's last."""
        now = time.monotonic()
        due = self._next if now - self._next < LATEST_S else now
        self._next = due + 1 / self._fps
        wait = due - now
        if wait < -1 / self._fps and moment.action is not None:
            return
        if wait > 0:
            time.sleep(wait)
        size = shutil.get_terminal_size()
        self._write(HOME + "\r\n".join(line + CLEAR_LINE for line in self.frame(moment, *size)) + CLEAR_BELOW)
        if moment.action is None:
            time.sleep(1.0)

    def frame(self, moment: Moment, columns: int, rows: int) -> list[str]:
        """The lines of a moment: the picture, and beside it the values and what the network sees."""
        beside = columns >= SIDE + 24
        width = columns - SIDE - 2 if beside else columns
        height = rows if beside else rows - len(self._actions) - len(self._lines) - 2
        lines = half_blocks(fitted(moment.picture, 2 * max(4, height), width), self._true_colour)
        used = min(width, fitted(moment.picture[..., 0], 2 * max(4, height), width).shape[1])
        text = self._text(moment)
        if not beside:
            return (lines + text)[:rows]
        text += self._seen(moment, rows - len(text) - 1)
        padded = lines + [" " * used] * (min(rows, len(text)) - len(lines))
        text += [""] * (len(padded) - len(text))
        return [f"{left}  {right}" for left, right in zip(padded, text, strict=False)][:rows]

    def _text(self, moment: Moment) -> list[str]:
        self._low, self._high = min(self._low, moment.values.min()), max(self._high, moment.values.max())
        scale = max(self._high - self._low, 1e-6)
        state = f"game {moment.game}  step {moment.step:,}  score {moment.score:g}"
        lines = [f"{BOLD}{self._lines[0][:SIDE]}{RESET}", *(f"{DIM}{line[:SIDE]}{RESET}" for line in self._lines[1:])]
        lines.append(state + ("  game over" if moment.action is None else ""))
        for number, (name, value) in enumerate(zip(self._actions, moment.values, strict=True)):
            bar = "█" * round(1 + (BAR - 1) * (value - self._low) / scale)
            line = f"{name[:14]:14} {value:8.3f} {bar:{BAR}}"
            mark = f"{line}{' random' if moment.is_random else ' <'}"
            lines.append(f"{BOLD}{mark}{RESET}" if number == moment.action else line)
        return lines

    def _seen(self, moment: Moment, rows: int) -> list[str]:
        """The stack's frames side by side as far as there is room, newest last; of a vector its numbers."""
        if moment.observation.ndim != 3:
            numbers = " ".join(f"{number:.2f}" for number in moment.observation[-1])
            return ["", f"{DIM}observation{RESET}", numbers[:SIDE]]
        if rows < 6:
            return []
        count = min(len(moment.observation), 2)
        side = min((SIDE - count) // count, 2 * (rows - 2))
        frames = [fitted(frame, side, side) for frame in moment.observation[-count:]]
        joined = np.concatenate([part for frame in frames for part in (frame, np.zeros_like(frame[:, :1]))], axis=1)
        title = f"{DIM}what the network sees: newest {count} of {len(moment.observation)}{RESET}"
        return ["", title, *half_blocks(np.repeat(joined[..., None], 3, axis=-1), self._true_colour)]

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
