"""`asgc-eval compare`: claims with their intervals, and the tables behind them, in the terminal; `asgc-eval export`."""

from __future__ import annotations

import argparse
import math
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Shown

from evaluation.analysis.comparisons.acting import Acting, acting
from evaluation.analysis.comparisons.best_of_k import BestOfRow, best_of_k, curves_by_search, shown_numbers
from evaluation.analysis.comparisons.claims import interval, number
from evaluation.analysis.comparisons.compare import BASELINES, Comparison, compare
from evaluation.analysis.comparisons.matched import matched_grid
from evaluation.analysis.comparisons.retention import retention
from evaluation.analysis.comparisons.robustness import RobustnessRow, robustness
from evaluation.analysis.comparisons.selection import METRICS, part_kinds
from evaluation.analysis.comparisons.single_setting import SingleSetting, single_setting
from evaluation.analysis.comparisons.usable_range import UsableRange, is_grid, usable_range
from evaluation.analysis.data.archive import export
from evaluation.analysis.data.dataset import Dataset, load
from evaluation.analysis.result_table import Table
from evaluation.analysis.stats.bootstrap import Bootstrap
from evaluation.cli.errors import UserError
from evaluation.cli.parser import Flags
from evaluation.cli.values import PathText
from evaluation.study.spec import results

_WIDEST = 10_000  # columns of a screen
_GAP = 2  # columns between two of a table's
TABLES = ("cells", "aggregates", "pairs", "cell_pairs")


def main(argv: Sequence[str]) -> int:
    """Print the sentences and a table of scores; with --out write all tables as CSV."""
    description = (
        "Compare the optimizers of a study, with intervals and tests; of a search, what its best of k trials reach."
    )
    flags = Flags("asgc-eval compare", "STUDY [options]", description)
    general = flags.section("general")
    flags.path("study", "STUDY", "a study (also its name or file), folder of runs, or archive")
    flags.option("general", "--part", str | None, None, "part of the study; null: its only comparison")
    flags.option("general", "--baseline", str | None, None, "what to compare with; null: adam, or an ablation's full")
    flags.option("general", "--metric", str, "final", "final, auc, last, mean_score, std, ttt_steps, ...")
    kept_of = "also: what is kept of the score of this part's plain setting"
    flags.option("general", "--keeps-of", str | None, None, kept_of)
    general.add_argument("--by-task", action="store_true", help="a sentence for each task and setting, too")
    flags.option("general", "--out", PathText | None, None, "folder for the tables as CSV")
    flags.option("statistics", "--seed", int, 0, "seed of the bootstrap", allowed="[0, 4294967295]")
    flags.option("statistics", "--repetitions", int, 5000, "bootstrap repetitions", allowed="[100, 1000000]")
    flags.option("statistics", "--level", float, 0.95, "confidence level", allowed="(0, 1)")
    options, _ = flags.read(list(argv))
    if options.study is None:
        raise UserError("say which study: asgc-eval compare STUDY")

    how: dict[str, Any] = {"metric": options.metric}
    how["how"] = Bootstrap(options.seed, options.level, options.repetitions)
    kept = near = matched = None
    with load(results(options.study)) as dataset:
        if part_kinds(dataset).get(options.part) == "search":
            return _search(dataset, options)
        result = compare(dataset, options.part, baseline=options.baseline, **how)
        problems = dataset.left_out()
        if options.keeps_of is not None:
            kept = retention(dataset, result.part, reference_part=options.keeps_of, baseline=options.baseline, **how)
        if result.kind in ("grid", "robustness") and result.metric.kind == "score":
            near = robustness(dataset, result.part, **how)
        if near is not None and result.kind == "grid" and dataset.effective_steps():
            matched = matched_grid(dataset, result.part, baseline=options.baseline, **how)
    _print_scores(result)
    if near is not None:
        _print_near(near)
    sentences = [*result.sentences, *([pair.sentence for pair in result.cell_pairs] if options.by_task else [])]
    if kept is not None:
        sentences += [row.sentence for row in kept if not row.cell.task or options.by_task]
    if matched is not None:
        several = any(not row.cell.task for row in matched)
        said = (row.sentence for row in matched if not row.cell.task or not several or options.by_task)
        sentences += ["", *said, f"(Along the grid at the same effective step: {matched.note}.)"]
    console = Console(highlight=False)
    for line in ("", *sentences, "", result.cells.note + ".", *(f"Note: {note}." for note in result.notes)):
        console.print(line, markup=False, soft_wrap=True)
    for problem in problems:
        print(problem, file=sys.stderr)
    if options.out is not None:
        tables = {name: getattr(result, name) for name in TABLES} | {"robustness": near, "matched": matched}
        _write(Path(options.out), f"{result.part}-{result.metric.name}", tables)
    return 0


def _write(folder: Path, prefix: str, tables: Mapping[str, Table[Any] | None]) -> None:
    """Each table that there is as a CSV, and its path on the screen."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        if table is not None:
            path = folder / f"{prefix}-{name}.csv"
            table.write_csv(path)
            print(path)


def _search(dataset: Dataset, options: argparse.Namespace) -> int:
    """Of a part of kind search: what the best of k trials reach; of a grid, what learning rates are usable, too."""
    how = Bootstrap(options.seed, options.level, options.repetitions)
    part, metric = options.part, options.metric
    table = best_of_k(dataset, part, metric=metric, how=how)
    usable = single = acts = None
    if METRICS[metric].kind == "score" and is_grid(dataset, part):
        usable = usable_range(dataset, part, metric=metric, how=how)
        single = single_setting(dataset, part, metric=metric, how=how)
        beside = options.baseline or BASELINES[0]
        if options.baseline or beside in (row.optimizer.name for row in usable):
            acts = acting(dataset, part, baseline=beside, metric=metric)
    _print_trials(table)
    if usable is not None:
        _print_usable(usable)
    if single:  # has records
        _print_single(single)
    if acts is not None:
        _print_acting(acts)
    for problem in dataset.left_out():
        print(problem, file=sys.stderr)
    if options.out is not None:
        tables = {"best-of-k": table, "usable-range": usable, "single-setting": single, "acting": acts}
        _write(Path(options.out), f"{part}-{metric}", tables)
    return 0


def _print_scores(result: Comparison) -> None:
    spread = result.metric.kind == "spread"
    numbers = ("runs", "diverged", f"IQM of the {result.metric.words} [interval]", "mean", *["final score"] * spread)
    rows = (
        (
            *(row.cell.task, row.cell.group, row.method.name, str(row.n), str(row.diverged)),
            *(interval(row.iqm), f"{row.mean.value:.4g}", *[interval(row.score)] * spread),
        )
        for row in result.cells
    )
    _print_table(("task", "setting", "method"), numbers, rows)


def _print_near(table: Table[RobustnessRow]) -> None:
    """What random settings give."""
    rows = (
        (row.cell.task, row.cell.group, row.optimizer.name, str(row.settings), number(row.best), *map(interval, two))
        for row in table
        for two in [(row.near, row.area)]
    )
    title = f"\n{table.title} (near the best: share of settings within 5 %)"
    _print_table(("task", "setting", "optimizer"), ("settings", "best", "near the best", "area"), rows, title)


def _print_trials(table: Table[BestOfRow]) -> None:
    numbers = shown_numbers(table)
    rows = (
        (
            *(cell.task or "all", cell.group, method.name),
            *(interval(curve[k].shown) if k in curve else "" for k in numbers),
        )
        for (cell, method), curve in curves_by_search(table).items()
    )
    _print_table(("task", "setting", "method"), [f"best of {k}" for k in numbers], rows, table.title)
    _print_note(table)


def _print_note(table: Table[Any]) -> None:
    Console(highlight=False).print(f"\n{table.note}.", markup=False, soft_wrap=True)


def _print_usable(table: Table[UsableRange]) -> None:
    rows = (
        (
            *(row.cell.task, row.cell.group, row.optimizer.name),
            *(number(row.best), f"{row.best_rate:g}", f"{row.near:.3g}"),
            *(interval(row.retuned), f"{row.retuned_factor:.3g}", interval(row.held), f"{row.held_factor:.3g}"),
        )
        for row in table
    )
    numbers = ("best", "at", "near: within", "usable share", "factor", "as tuned: share", "factor")
    _print_table(("task", "setting", "optimizer"), numbers, rows, f"\n{table.title}")
    _print_note(table)


def _print_single(table: Table[SingleSetting]) -> None:
    rows = (
        (
            *(row.cell.group, row.optimizer.name, str(row.points)),
            *map(interval, (row.own, row.single, row.elsewhere)),
            *(row.options, f"{row.worst_task} {row.worst:.3g}", row.apart),
        )
        for row in table
    )
    numbers = ("settings", "loss tuned on each task", "with one setting", "chosen elsewhere", "that setting")
    _print_table(("setting", "optimizer"), (*numbers, "loses most", "best values apart"), rows, f"\n{table.title}")
    _print_note(table)


def _print_acting(table: Table[Acting]) -> None:
    rows = (
        (
            *(row.cell.task, row.cell.group, row.optimizer.name, str(row.near)),
            *map(_known, (row.clipped, row.attenuation, row.noise_to_gradient, row.step)),
            *(f"{row.ahead} of {row.rates}", str(row.behind)),
            "" if math.isnan(row.gain) else f"{number(row.gain)} +- {number(row.gain_error)} at {row.gain_rate:g}",
        )
        for row in table
    )
    numbers = (
        "near the best",
        "clipped",
        "attenuation",
        "noise to gradient",
        "step",
        "ahead",
        "behind",
        "largest gain",
    )
    _print_table(("task", "setting", "optimizer"), numbers, rows, f"\n{table.title}")
    _print_note(table)


def _known(value: float) -> str:
    """A number; nothing where it was not recorded."""
    return "" if math.isnan(value) else number(value)


def _print_table(words: Sequence[str], numbers: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> None:
    """A table whose cells are never broken: numbers that do not fit beside each other come in further tables below.

    Where no terminal is written to (a file, a pipe), there is no width to fit.
    """
    console = Console(highlight=False)
    limit, console.width = (console.width if console.is_terminal else _WIDEST), _WIDEST
    lines = [list(row) for row in rows]
    names = [*words, *numbers]
    cells = [[line[i] for line in lines] for i in range(len(names))]
    widths = [max(map(len, [*cells[i], *name.split()])) for i, name in enumerate(names)]
    if title:
        console.print(title, style="italic", markup=False)
    left, waiting, first = list(range(len(words))), list(range(len(words), len(names))), True
    room = limit - sum(widths[i] + _GAP for i in left)
    while waiting or first:
        fitting = [k for k in range(1, len(waiting) + 1) if sum(widths[i] + _GAP for i in waiting[:k]) <= room + _GAP]
        count = max(fitting, default=1)
        table = Shown(box=None, pad_edge=False, header_style="bold")
        for i in (*left, *waiting[:count]):
            heading = "\n".join(textwrap.wrap(names[i], widths[i]))
            table.add_column(heading, justify="left" if i in left else "right", no_wrap=True)
        for line in lines:
            table.add_row(*(escape(line[i]) for i in (*left, *waiting[:count])))
        if not first:
            console.print()
        console.print(table)
        waiting, first = waiting[count:], False


def export_main(argv: Sequence[str]) -> int:
    """`asgc-eval export STUDY FOLDER`: the results in a few small files that every command reads like the study."""
    description = "Write a study's results as a few small files, to commit or send."
    flags = Flags("asgc-eval export", "STUDY FOLDER", description)
    flags.path("study", "STUDY", "a study (also its name or file) or folder of runs")
    flags.path("folder", "FOLDER", "where to; an earlier archive there is replaced")
    bound = "bound on the file of gradients and on that of diagnostics"
    flags.option("general", "--max-bytes", int, 600_000, bound, allowed="[1, inf]")
    options, _ = flags.read(list(argv))
    if options.study is None or options.folder is None:
        raise UserError("say what and where to: asgc-eval export STUDY FOLDER")

    with load(results(options.study)) as dataset:
        folder = export(dataset, options.folder, max_bytes=options.max_bytes)
        for problem in dataset.left_out():
            print(problem, file=sys.stderr)
    size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    print(f"{folder}: {size / 1e6:.2f} MB")
    return 0
