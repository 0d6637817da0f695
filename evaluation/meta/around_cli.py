"""`asgc-meta around`: how much what was learned matters, by runs with one option at a time moved away from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asgc.meta import PARAMETERS
from evaluation.cli.errors import UserError, tell
from evaluation.cli.parser import Flags
from evaluation.files import read_json, write_json
from evaluation.meta import definition, learn_cli
from evaluation.meta.definition import DEFINITION, Definition
from evaluation.meta.learners import rate_of
from evaluation.meta.particles import JOURNAL, Journal
from evaluation.meta.preset_cli import preset_in
from evaluation.study.engines import choose

if TYPE_CHECKING:
    from asgc.meta import Preset

AROUND = "around.json"  # what it found, in the folder
SEEDS_FROM = 1 << 20  # steps, whose seeds no step of a learning has


@dataclass(frozen=True)
class Point:
    """One setting: `option` moved by `offset` in units of z (`asgc.meta.space`), in layers of all kinds and at all
    times; "": as it was learned."""

    option: str
    offset: float
    preset: Preset
    lr: float


def points(preset: Preset, lr: float, names: Sequence[str], offsets: Sequence[float]) -> Iterator[Point]:
    """The learned setting, then each option by each offset."""
    yield Point("", 0.0, preset, lr)
    for name in names:
        for offset in offsets:
            if name == "lr":
                yield Point(name, offset, preset, moved(name, lr, offset))
                continue

            def all_moved(
                values: Mapping[str, Mapping[str, float]], name: str = name, offset: float = offset
            ) -> dict[str, dict[str, float]]:
                return {kind: {**own, name: moved(name, own[name], offset)} for kind, own in values.items()}

            changed = replace(preset, values=all_moved(preset.values), late=all_moved(preset.late))
            yield Point(name, offset, changed, lr)


def moved(name: str, value: float, offset: float) -> float:
    """A value of an option, moved by an offset of z."""
    import torch

    one = PARAMETERS[name]
    return float(one.value(torch.tensor(one.z(value) + offset, dtype=torch.float64)))


def around_command(argv: Sequence[str]) -> int:
    """`asgc-meta around`."""
    flags = Flags("asgc-meta around", "FOLDER [options]", "What moving each learned option does; stop and go on.")
    flags.path("folder", "FOLDER", "that a preset was learned in")
    general = flags.section("general")
    general.add_argument("--dry-run", action="store_true", help="print the cost, and run nothing")
    general.add_argument("--held-out", action="store_true", help="on the tasks that were not learned from, too")
    how_far = "how far, to both sides, in units of the learned vector"
    flags.option("general", "--reach", list[float], [1.0, 2.0], how_far, allowed="(0, 20]")
    flags.option("general", "--seeds", int, 3, "runs of each setting and task", allowed="[1, 1000]")
    flags.option("general", "--retries", int, 1, "new attempts at a run that was killed or crashed", allowed="[0, 100]")
    choose.add_flags(flags)
    options = flags.read(argv)[0]
    folder = Path(options.folder or "")
    if options.folder is None:
        raise UserError("say which folder of asgc-meta learn: runs/meta/NAME")
    if not (folder / DEFINITION).is_file():
        raise UserError(f"{folder}: nothing was learned there (no {DEFINITION}); asgc-meta learn makes runs/meta/NAME")
    found, preset = definition.load(folder / DEFINITION), preset_in(options.folder)
    if options.held_out:
        found = replace(found, tasks={**found.tasks, **found.held_out})
    offsets = sorted({sign * far for far in options.reach for sign in (-1, 1)})
    chosen = list(points(preset, rate_of(found, preset), found.space.names, offsets))
    journal = Journal(folder / f"around-{_digest(found, chosen)}.jsonl")
    known = {**found.seconds, **Journal(folder / JOURNAL).seconds(), **journal.seconds()}
    keys = learn_cli.wanted(found, options.seeds, len(chosen), SEEDS_FROM)
    tell(learn_cli.cost(found, keys, journal, known, choose.places(options)))
    if options.dry_run:
        return 0
    again = f"asgc-meta around {' '.join(argv)}"

    def run() -> None:
        _run(found, folder, Journal(journal.path), chosen, options)  # as it is now that nobody else writes it

    return learn_cli.in_folder(folder, run, again)


def _run(found: Definition, folder: Path, journal: Journal, chosen: Sequence[Point], options: Any) -> None:
    programs = learn_cli.programs_of(found)
    bar = f"around {found.name}", len(chosen) * len(found.tasks), "running", "runs of a seed"
    presets, rates = [one.preset for one in chosen], [one.lr for one in chosen]
    with learn_cli.workers(found, folder, journal, programs, options, bar) as particles:
        # By seed, task and point.
        by_seed = [particles.returns(SEEDS_FROM + seed, presets, rates) for seed in range(options.seeds)]
    rows = []
    for number, one in enumerate(chosen):
        returns = {task: [rows_of[k][number] for rows_of in by_seed] for k, task in enumerate(found.tasks)}
        rows.append({"option": one.option, "offset": one.offset, "value": _value(one), "returns": returns})
    write_json(folder / AROUND, {"learned": _plain(chosen[0].preset), "rows": rows})
    _show(found, rows)
    print(f"written: {folder / AROUND}; drawn by: asgc-eval plot {folder} --only sensitivity")


def read_around(folder: Path, preset: Preset | None) -> list[dict[str, Any]]:
    """What was found in a folder around a preset, the learned setting first; [] where nothing was, or around another.

    Raises:
        UserError: it is damaged.
    """
    file = folder / AROUND
    if preset is None or not file.is_file():
        return []
    try:
        found = read_json(file)
        return list(found["rows"]) if found["learned"] == _plain(preset) else []
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{file} is damaged: remove it, asgc-meta around makes it anew") from error


def _value(point: Point) -> dict[str, float]:
    """By kind of layer; of the rate, which is the same for all, "all"."""
    if point.option in ("", "lr"):
        return {"all": point.lr} if point.option else {}
    return {kind: own[point.option] for kind, own in point.preset.values.items()}


def _show(found: Definition, rows: Sequence[Mapping[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("option", "moved by", *found.tasks, title="mean return; in brackets less the learned setting's")
    learned = {task: _mean(rows[0]["returns"][task]) for task in found.tasks}
    for row in rows:
        cells = []
        for task, middle in learned.items():
            value = _mean(row["returns"][task])
            cells.append(f"{value:.4g}" + (f" ({value - middle:+.2g})" if row["option"] else ""))
        table.add_row(row["option"] or "as learned", f"{row['offset']:+g}" if row["option"] else "", *cells)
    Console(highlight=False, soft_wrap=True).print(table)


def _mean(values: Sequence[float]) -> float:
    """NaN where one has diverged: a mean of the others would hide it."""
    return sum(values) / len(values)


def _plain(preset: Preset) -> list[Any]:
    """What was learned, as a file holds it."""
    return list(json.loads(json.dumps([preset.values, preset.late, preset.lr])))


def _digest(found: Definition, chosen: Sequence[Point]) -> str:
    """Of the settings and the tasks: what was run with others is not taken for theirs."""
    tasks = {name: [one.program, one.cls, dict(one.options)] for name, one in {**found.tasks, **found.held_out}.items()}
    preset = chosen[0].preset
    points_of = [[one.option, one.offset, one.lr, _plain(one.preset)] for one in chosen]
    told = [points_of, tasks, found.learner.seed, preset.rule, dict(preset.options)]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]
