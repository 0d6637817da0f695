"""`asgc-meta show` and `asgc-meta apply`: what a preset says, and training with it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evaluation.cli.errors import UserError, tell
from evaluation.cli.parser import Flags
from evaluation.cli.values import PathText, words
from evaluation.meta import definition
from evaluation.meta.definition import DEFINITION
from evaluation.meta.preset_words import fixed, option_names, shown
from evaluation.study import program

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from asgc.meta import Preset


def show_command(argv: Sequence[str]) -> int:
    """`asgc-meta show`."""
    flags = Flags("asgc-meta show", "PRESET [options]", "What a preset says and how it came about.")
    flags.path("preset", "PRESET", "a file, the name of one that comes with asgc, or the folder it was learned in")
    flags.option(
        "general", "--beside", PathText | None, None, "other presets to be shown beside it, separated by commas"
    )
    options = flags.read(argv)[0]
    preset = preset_in(options.preset)
    others = [preset_in(name) for name in words(options.beside)]

    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    if others:
        table = _side_by_side([preset, *others])
        wide = console.measure(table, options=console.options.update(width=10_000)).maximum
        console.width = max(console.width, wide)  # numbers cut short would be wrong ones
        console.print(table)
    else:
        _show(preset, console)
    return 0


def _show(preset: Preset, console: Console) -> None:
    from rich.table import Table

    rest = fixed(preset)
    rate = f", learning rate {preset.lr:.4g}" if preset.lr is not None else ""
    console.print(f"{preset.name}: asgc with rule {preset.rule}{rate}{f'; {rest}' if rest else ''}")
    table = Table("option", *preset.values)
    for name in option_names(preset):
        table.add_row(name, *(shown(preset, kind, name) for kind in preset.values))
    console.print(table)
    for key, value in preset.provenance.items():
        if key != "definition" and value != "":
            console.print(f"{key}: {value}", markup=False)


def _side_by_side(presets: Sequence[Preset]) -> Table:
    """A row an option and kind of layer (one for all kinds where no preset tells them apart), a column a preset."""
    from rich.table import Table

    table = Table("option", "layers", *(one.name for one in presets))
    rates = [f"{one.lr:.4g}" if one.lr is not None else "" for one in presets]
    if any(rates):
        table.add_row("lr", "all", *rates)
    for name in ("rule", *dict.fromkeys(name for one in presets for name in one.options)):
        chosen = [one.rule if name == "rule" else str(one.options.get(name, "")) for one in presets]
        table.add_row(name, "all", *chosen)
    for name in option_names(*presets):
        cells = {kind: tuple(shown(one, kind, name) for one in presets) for kind in presets[0].values}
        if len(set(cells.values())) == 1:
            cells = {"all": next(iter(cells.values()))}
        for kind, values in cells.items():
            table.add_row(name, kind, *values)
    return table


def apply_command(argv: Sequence[str]) -> int:
    """`asgc-meta apply`: a trainer's command with the preset, in place of this process."""
    usage = "asgc-meta apply PRESET PROGRAM train OPTIONS: train with a preset"
    if not argv or argv[0] in ("--help", "-h"):
        print(f"{usage}\n\n  asgc-meta apply learned.json asgc-rl train --game Pong")
        return 0 if argv else 2
    preset_in(argv[0])
    if len(argv) < 3 or argv[2] != "train":
        raise UserError(f"{usage}; for example: asgc-meta apply {argv[0]} asgc-rl train --game Pong")
    given = [f"--optimizer.preset={_file(argv[0])}", "--optimizer.name=asgc"]  # the user's words come after
    words = [*program.resolve((argv[1],)), "train", *given, *argv[3:]]
    tell(" ".join([argv[1], *words[1:]]))
    return _become(words)


def _become(words: Sequence[str]) -> int:
    sys.stdout.flush()
    os.execv(words[0], list(words))


def _file(name: str | None) -> str:
    """A preset's file or name."""
    if name is None:
        raise UserError("say which preset: a file, a shipped name, or the folder it was learned in")
    folder = Path(name)
    if (folder / DEFINITION).is_file():
        found = folder / f"{definition.load(folder / DEFINITION).name}.json"
        if not found.is_file():
            raise UserError(f"{folder}: not learned to the end yet; go on with: asgc-meta learn {folder}")
        return str(found)
    return name


def preset_in(name: str | None) -> Preset:
    """The preset in a file, of a shipped name, or learned in a folder. `UserError`: there is none."""
    from asgc.meta import Preset

    file = _file(name)
    try:
        return Preset.load(file)
    except ValueError as error:
        raise UserError(str(error)) from error
