"""`asgc-sup translate`: lines from standard input, their translations to standard output."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from evaluation.cli.errors import UserError
from evaluation.cli.parser import Flags
from evaluation.cli.progress import progress

LINES = 512  # that are read before they are translated, where input is no terminal
FEW = 32  # lines that are translated before somebody asks how far it is


def main(argv: Sequence[str]) -> int:
    """Translate each line; what comes out has as many lines as what went in."""
    what = "Translate standard input, text in UTF-8, line by line with the model of a run folder."
    flags = Flags("asgc-sup translate", "RUN [options] < LINES", what)
    general = flags.section("general")
    flags.path("run", "RUN", "run folder of `asgc-sup train --task wmt14`")
    best = "take the model of the best evaluation in the place of the last one"
    general.add_argument("--best", action="store_true", help=best)
    average = "average the weights of the last so many models that were kept, instead"
    flags.option("general", "--average", int | None, None, average, allowed="[2, 1000]")
    flags.option("general", "--beam", int | None, None, "width of the beam search; null: the run's", allowed="[1, 100]")
    exponent = "exponent of the length penalty; null: the run's"
    flags.option("general", "--length-penalty", float | None, None, exponent, allowed="[0, 10]")
    flags.option("general", "--device", str, "auto", "auto, cpu, cuda or cuda:N")
    options, _ = flags.read(list(argv))
    if options.run is None:
        raise UserError("say which run: asgc-sup translate RUN < LINES")

    import torch

    from supervised.model import build, load
    from supervised.text.subwords import Subwords
    from supervised.text.token_files import VOCABULARY
    from supervised.text.translate import translate_lines

    loaded = load(options.run, options.device, best=options.best, average=options.average)
    if loaded.config.task != "wmt14":
        instead = f": asgc-sup predict {options.run} IMAGE" if loaded.config.task == "imagenet" else ""
        raise UserError(f"{options.run} is a run of --task {loaded.config.task}, it does not translate{instead}")
    subwords = Subwords.load(Path(options.run, VOCABULARY))
    if subwords.digest != loaded.facts["vocabulary"]:
        raise UserError(f"{Path(options.run, VOCABULARY)} is not the vocabulary that the model was trained with")
    model, settings = build(loaded), loaded.config.evaluation
    beam = options.beam or settings.beam
    penalty = settings.length_penalty if options.length_penalty is None else options.length_penalty
    autocast = torch.autocast(loaded.device.type, torch.bfloat16, enabled=loaded.config.precision == "bf16")
    by_hand = sys.stdin.isatty()
    # Where the translations appear on the terminal themselves, they show how far it is.
    watched = sys.stderr.isatty() and not (by_hand or sys.stdout.isatty())
    with autocast, _Progress(f"{loaded.name} model of {options.run}", watched) as shown:
        for lines in _chunks(sys.stdin.buffer, 1 if by_hand else LINES):
            shown.begin(lines)
            for line in translate_lines(model, subwords, lines, beam, penalty, shown.tell):
                sys.stdout.buffer.write(f"{line}\n".encode())
            sys.stdout.buffer.flush()
            shown.end(lines)
    return 0


class _Progress(contextlib.ExitStack):
    """How many lines of standard input are translated, on stderr, if it is watched and they are more than a few.

    Args:
        what: translates them.
    """

    def __init__(self, what: str, watched: bool) -> None:
        super().__init__()
        self._what, self._watched, self._done = what, watched, 0
        self._total = _lines_ahead(sys.stdin.buffer) if watched else None
        self._show: Callable[[int, int | None], None] | None = None

    def begin(self, lines: Sequence[str]) -> None:
        """These are translated next."""
        if self._watched and self._show is None and len(lines) > FEW:
            self._show = self.enter_context(progress(self._what, self._total, "translating", "lines"))

    def tell(self, part: int, _: int) -> None:
        """So many of them are done."""
        if self._show is not None:
            self._show(self._done + part, self._total)

    def end(self, lines: Sequence[str]) -> None:
        """All of them are done."""
        self.tell(len(lines), 0)
        self._done += len(lines)


def _lines_ahead(stream: BinaryIO) -> int | None:
    """How many lines are to be read from here on; None where only reading tells, as from a pipe."""
    try:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            return None
        here, count, last = stream.tell(), 0, b"\n"
        while block := stream.read(1 << 20):
            count, last = count + block.count(b"\n"), block[-1:]
        stream.seek(here)
    except OSError:  # no file at all
        return None
    return count + (last != b"\n")


def _chunks(stream: BinaryIO, size: int) -> Iterator[list[str]]:
    """Lines, so many at a time, whatever encoding the terminal has.

    Raises:
        UserError: one is no text in UTF-8; those before it have been given.
    """
    lines: list[str] = []
    for number, line in enumerate(stream, start=1):
        try:
            lines.append(line.removesuffix(b"\n").removesuffix(b"\r").decode())
        except UnicodeDecodeError as error:
            if lines:
                yield lines
            raise UserError(f"line {number} of standard input is no text in UTF-8") from error
        if len(lines) == size:
            yield lines
            lines = []
    if lines:
        yield lines
