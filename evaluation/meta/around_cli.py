"""`asgc-meta around`: how much what was learned matters, by runs with one option at a time moved away from it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asgc.meta import PARAMETERS
from evaluation.cli.errors import EXIT_INTERRUPTED, UserError, tell
from evaluation.cli.parser import Flags
from evaluation.cli.progress import progress
from evaluation.files import read_json, write_json
from evaluation.meta import definition, learn_cli
from evaluation.meta.definition import DEFINITION, Definition
from evaluation.meta.learners import rate_of
from evaluation.meta.particles import JOURNAL, PARTICLES, RUN_FOLDERS, Journal, Particles
from evaluation.meta.preset_cli import preset_in
from evaluation.runs.lock import FolderLock
from evaluation.study.engines import choose
from evaluation.study.spec import LOCK, LOGS
from evaluation.study.status import duration

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
    if options.folder is None or not (folder / DEFINITION).is_file():
        raise UserError("say which folder of asgc-meta learn: runs/meta/NAME")
    found, preset = definition.load(folder / DEFINITION), preset_in(options.folder)
    if options.held_out:
        found = replace(found, tasks={**found.tasks, **found.held_out})
    chosen = list(
        points(
            preset,
            rate_of(found, preset),
            found.space.names,
            sorted({sign * far for far in options.reach for sign in (-1, 1)}),
        )
    )
    journal = Journal(folder / f"around-{_digest(found, chosen)}.jsonl")
    known = {**found.seconds, **Journal(folder / JOURNAL).seconds(), **journal.seconds()}
    tell(_cost(found, journal, len(chosen) * options.seeds, known, choose.places(options)))
    if options.dry_run:
        return 0
    (folder / LOGS).mkdir(exist_ok=True)
    lock = FolderLock(folder / LOCK)
    try:
        _run(found, folder, journal, chosen, options)
    except KeyboardInterrupt:
        tell(f"stopped; go on with: asgc-meta around {' '.join(argv)}")
        return EXIT_INTERRUPTED
    finally:
        lock.release()
    return 0


def _run(found: Definition, folder: Path, journal: Journal, chosen: Sequence[Point], options: Any) -> None:
    programs = learn_cli.programs_of(found)
    total = len(chosen) * len(found.tasks)
    by_seed: list[list[list[float]]] = []  # task, point
    with (
        choose.make(programs.values(), options) as engine,
        progress(f"around {found.name}", total, "running", "runs of a seed") as bar,
    ):
        how: dict[str, Any] = {"threads": options.threads, "retries": options.retries}
        particles = Particles(found, folder, journal, engine, programs, told=bar, **how)
        for seed in range(options.seeds):
            presets, rates = [one.preset for one in chosen], [one.lr for one in chosen]
            by_seed.append(particles.returns(SEEDS_FROM + seed, presets, rates))
    rows = []
    for number, one in enumerate(chosen):
        returns = {task: [rows_of[k][number] for rows_of in by_seed] for k, task in enumerate(found.tasks)}
        rows.append({"option": one.option, "offset": one.offset, "value": _value(one), "returns": returns})
    write_json(folder / AROUND, {"learned": _told(chosen[0]), "rows": rows})
    for name in (PARTICLES, RUN_FOLDERS):
        shutil.rmtree(folder / name, ignore_errors=True)
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
        around, rows = found["learned"], list(found["rows"])
        return rows if around[3:] == _told(Point("", 0.0, preset, 0.0))[3:] else []
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


def _told(one: Point) -> list[Any]:
    """A point in plain values."""
    return [
        one.option,
        one.offset,
        one.lr,
        *json.loads(json.dumps([one.preset.values, one.preset.late, one.preset.lr])),
    ]


def _digest(found: Definition, chosen: Sequence[Point]) -> str:
    """Of the settings and the tasks: what was run with others is not taken for theirs."""
    tasks = {name: [one.program, one.cls, dict(one.options)] for name, one in {**found.tasks, **found.held_out}.items()}
    preset = chosen[0].preset
    told = [*map(_told, chosen), tasks, found.learner.seed, preset.rule, dict(preset.options)]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]


def _cost(found: Definition, journal: Journal, each: int, known: Mapping[str, float], places: int) -> str:
    left = {task: max(0, each - sum(1 for _, _, of in journal.rows if of == task)) for task in found.tasks}
    words = f"{found.name}: {sum(left.values()):,} runs of {each * len(left):,} to do"
    if any(task not in known for task in left):
        return words
    seconds = sum(count * known[task] for task, count in left.items())
    return f"{words}: {duration(seconds)} of one core, {duration(seconds / places)} with {places} at a time"
