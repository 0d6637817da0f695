"""Everything a study's runs left behind, as tables to ask with SQL.

    data = dataset.load("runs/control")                       # a study, a folder of runs, or an exported archive
    data.columns("SELECT optimizer, final FROM runs WHERE task = ?", "CartPole")   # {column: array}
    for problem in data.problems: print(problem.path, problem.reason)              # what was left out

Tables (`run_rows` has the columns' types): `runs`, one row a finished run: labels, configuration in short, final
score, times, provenance; `evaluations`, one row a scheduled evaluation; `metrics`, every row of every metrics.jsonl;
`gradients`, the gradient records. Infinite times are censored: the target was not reached. NULL: not measured.
Half-written, unfinished, foreign and corrupt folders are never in a table: they are in `Dataset.problems`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.analysis.data import archive_reader, run_rows
from evaluation.analysis.data.normalization import Reference, reference
from evaluation.analysis.data.run_reader import Problem, Run, find_sources, gradient_parts, read_runs
from evaluation.cli.errors import UserError
from evaluation.runs.closing import Closing

if TYPE_CHECKING:
    import duckdb

__all__ = ["Dataset", "Problem", "load"]

EARLY = 0.25  # of a run's training steps: the records up to there tell its early step
# Of archives, whose gradients are thinned, what they say themselves.
EFFECTIVE = f"""
    SELECT run, coalesce(known.step, measured.step) AS step, coalesce(known.early, measured.early) AS early FROM (
        SELECT run, median(ratio) AS step,
            median(ratio) FILTER (made_at <= {EARLY} * total_steps AND ratio > 0) AS early
        FROM (
            SELECT run, "update", min(step) AS made_at,
                sqrt(sum(numel * update_rms ** 2) / sum(numel * weight_rms ** 2)) AS ratio
            FROM gradients WHERE event = 'interval' GROUP BY run, "update" HAVING sum(numel * weight_rms ** 2) > 0
        ) JOIN runs USING (run) GROUP BY run
    ) AS measured FULL JOIN effective_steps AS known USING (run)
    WHERE coalesce(known.step, measured.step) > 0 AND NOT isnan(coalesce(known.step, measured.step))"""
PHASES = ("early", "middle", "late")  # thirds of a run's recorded updates
WHOLE = "whole"  # the phase of a search's runs, which are many: all recorded updates
# Means over the regular records of a phase, of finite values, to three digits: a study's and its archive's are equal.
_OF_RECORDS = {
    "clipped": "clipped",
    "attenuation": "attenuation",
    "threshold": "threshold",
    "noise_to_gradient": "noise_std / grad_rms",
    "update_to_weight": "update_to_weight",
}
_DIGITS = "CASE WHEN {0} = 0 THEN 0 ELSE round({0}, 2 - floor(log10(abs({0})))::INTEGER) END AS {0}"
SUMMARIES = f"""
    WITH ends AS (
        SELECT run, kind = 'search' AS whole, max("update") + 1 AS updates FROM gradients JOIN runs USING (run)
        GROUP BY ALL
    ),
    means AS (
        SELECT run, layer, count(*) AS records,
            if(whole, '{WHOLE}', list_value{PHASES}[1 + least(2, ("update" * 3) // updates)]) AS phase,
            {", ".join(f"avg({value}) FILTER (isfinite({value})) AS {name}" for name, value in _OF_RECORDS.items())}
        FROM gradients JOIN ends USING (run)
        WHERE event = 'interval' AND run NOT IN (SELECT run FROM gradient_summaries)
        GROUP BY ALL
    )
    SELECT run, layer, phase, records, {", ".join(map(_DIGITS.format, _OF_RECORDS))}
    FROM means UNION ALL SELECT * FROM gradient_summaries"""
SHOWN_ALIKE = 3  # problems that are named of those with one reason


@dataclass
class Dataset(Closing):
    """The tables of one or several studies. A context manager that closes the connection."""

    name: str  # the study's; of several, their names joined by "+"
    connection: duckdb.DuckDBPyConnection  # in memory
    problems: list[Problem]  # what was left out, and why
    definition: dict[str, Any]  # study.yaml as a mapping ({} for plain runs and for several studies)
    roots: list[Path]  # the folders that were loaded; a problem's path begins with one of them

    def rows(self, query: str, *parameters: Any) -> list[dict[str, Any]]:
        """The result of a query as one mapping a row."""
        cursor = self.connection.execute(query, list(parameters))
        names = [column[0] for column in cursor.description or []]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def columns(self, query: str, *parameters: Any) -> dict[str, np.ndarray]:
        """The result of a query as one array a column; NULL is NaN in columns of numbers, else None."""
        result = self.connection.execute(query, list(parameters)).fetchnumpy()
        return {name: _filled(column) for name, column in result.items()}

    def part_definition(self, part: str) -> Mapping[str, Any]:
        """The part's mapping in the study's definition (the whole definition where it is of a single part); empty where
        there is none."""
        parts = self.definition.get("parts")
        found = parts.get(part) if isinstance(parts, Mapping) else self.definition
        return found if isinstance(found, Mapping) else {}

    def reference(self, task: str) -> Reference | None:
        """The reference scores of a task: what the study's definition says (its key `references`), else published ones;
        None: there are none."""
        given = (self.definition.get("references") or {}).get(task)
        return Reference(float(given[0]), float(given[1]), "the study's definition") if given else reference(task)

    def effective_steps(self) -> dict[str, float]:
        """Run -> |w' - w| / |w| of the whole network in one update, median over the updates recorded at intervals.

        Updates recorded around target syncs are left out: they are not typical. Runs without a record are absent.
        """
        return {row["run"]: row["step"] for row in self.rows(EFFECTIVE)}

    def gradient_summaries(self) -> list[dict[str, Any]]:
        """For every run with gradient records, layer and phase (`PHASES`; of a search's runs one, `WHOLE`): the number
        of regular `records`, and over them the mean clipped share, attenuation, threshold, noise relative to the
        gradient's root mean square and update relative to the weights (None: none is finite, as the threshold where
        there is none)."""
        return self.rows(f"SELECT * FROM ({SUMMARIES}) ORDER BY run, layer, list_position({list(PHASES)}, phase)")

    def early_steps(self) -> dict[str, float]:
        """The same over the updates recorded in the first quarter of a run's training steps (`EARLY`), before what
        became of the run can tell on it: weights that blew up take small steps. Runs without such a record are absent;
        of an archive of an earlier version all but those whose gradients it holds."""
        rows = self.rows(f"SELECT run, early FROM ({EFFECTIVE}) WHERE early > 0 AND NOT isnan(early)")
        return {row["run"]: row["early"] for row in rows}

    def left_out(self) -> list[str]:
        """The problems, a line each; of a reason that many share the first few, and how many more."""
        paths: dict[str, list[str]] = {}
        for problem in self.problems:
            paths.setdefault(problem.reason, []).append(problem.path)
        lines = []
        for reason, found in paths.items():
            lines += [f"left out {path}: {reason}" for path in found[:SHOWN_ALIKE]]
            if len(found) > SHOWN_ALIKE:
                lines.append(f"left out {len(found) - SHOWN_ALIKE} more: {reason}")
        return lines

    def close(self) -> None:
        """Close the connection and free its memory."""
        self.connection.close()


def load(paths: Path | str | Sequence[Path | str]) -> Dataset:
    """Read a study's folder, a folder of run folders (at any depth) or an exported archive; or several of them.

    Runs are named by their id in the study, or by their path below the folder; the names of a second study's runs are
    preceded by its name. Raises `UserError`: no such folder, nothing in it that looks like a run, two studies of one
    name, or DuckDB is not installed.
    """
    roots = [Path(paths)] if isinstance(paths, str | Path) else [Path(path) for path in paths]
    if not roots:
        raise UserError("no folder given: name a study, a folder of runs or an archive")
    problems: list[Problem] = []
    sources = [source for root in roots for source in find_sources(root, problems)]
    if len(roots) > 1:
        for source in sources:
            for one in (source, *source.elsewhere):
                one.prefix = f"{source.name}/{one.prefix}"
        prefixes = [source.prefix for source in sources]
        if repeated := next((prefix for prefix in prefixes if prefixes.count(prefix) > 1), None):
            raise UserError(f"two of the folders are named {repeated.rstrip('/')}: rename one, or load them apart")
    connection = _connect()
    run_rows.create_tables(connection)
    runs = [run for source in sources if source.kind != "archive" for run in read_runs(source, problems)]
    selects = run_rows.add_runs(connection, runs, problems)
    for source in sources:
        if source.kind == "archive":
            selects += archive_reader.add(connection, source, problems)
        for archive in source.elsewhere:
            selects += archive_reader.add_to_study(connection, archive, source, problems)
    run_rows.create_gradients(connection, selects)
    if not problems and not run_rows.scalar(connection, "SELECT count(*) FROM runs"):
        raise UserError(f"{', '.join(map(str, roots))}: no runs there; give the folder that holds the run folders")
    names = dict.fromkeys(source.name for source in sources)
    return Dataset("+".join(names), connection, problems, sources[0].definition if len(sources) == 1 else {}, roots)


def of_one_run(folder: Path, labels: Mapping[str, Any]) -> Dataset:
    """One run, finished or not, as tables: `runs` with these labels only, and `gradients`."""
    connection = _connect()
    run_rows.create_tables(connection)
    run = Run({**dict.fromkeys(run_rows.RUNS), **labels}, "", None, gradient_parts(folder))
    run_rows.insert(connection, "runs", run_rows.RUNS, [run.row])
    problems: list[Problem] = []
    run_rows.create_gradients(connection, run_rows.gradient_selects(connection, [run], problems))
    return Dataset(str(run.row["run"]), connection, problems, {}, [folder])


def _connect() -> duckdb.DuckDBPyConnection:
    try:
        import duckdb
        import pyarrow  # noqa: F401  (the tables are handed over with it)
    except ImportError as error:
        raise UserError(f"the analysis needs {error.name}: pip install 'asgc[study]'") from error
    connection = duckdb.connect()
    connection.execute("SET enable_progress_bar = false")  # it would be drawn into the output of every command
    return connection


def _filled(column: Any) -> np.ndarray:
    if not isinstance(column, np.ma.MaskedArray):
        return np.asarray(column)
    numeric = column.dtype.kind in "iuf"
    known: np.ndarray = np.asarray(column.data).astype(np.float64 if numeric else object)
    known[np.ma.getmaskarray(column)] = np.nan if numeric else None
    return known
