"""The tables of a data set in DuckDB: their columns, and how metrics and gradient parts of many runs get into them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.analysis.data.run_reader import Problem, Run
from evaluation.cli.errors import UserError, reason
from evaluation.runs import gradient_columns
from evaluation.runs.metrics_file import read_rows
from evaluation.runs.run_folder import METRICS, SUMMARY
from evaluation.runs.run_metrics import EVALUATION, EVALUATION_SECONDS, SCORE, SCORE_STD

if TYPE_CHECKING:
    import duckdb

RUNS = (
    dict.fromkeys(("run", "path", "study", "part", "kind", "task", "setting", "optimizer", "variant"), "VARCHAR")
    | {"purpose": "VARCHAR", "seed": "BIGINT", "options": "VARCHAR", "lr": "DOUBLE", "total_steps": "BIGINT"}
    | {"protocol": "VARCHAR", "target": "DOUBLE", "reached": "BOOLEAN"}
    | dict.fromkeys(("final", "last", "std", "detrended_std", "ttt_steps", "ttt_seconds", "ttt_samples"), "DOUBLE")
    | {"steps": "BIGINT", "samples": "BIGINT"}
    | dict.fromkeys(("training_s", "wall_s", "mean_score", "generalization_gap"), "DOUBLE")
    | {"commit": "VARCHAR", "dirty": "BOOLEAN"}
    | dict.fromkeys(("version", "envpool", "torch", "device", "command"), "VARCHAR")
)
_PLACE = {"step": "BIGINT", "samples": "BIGINT", "wall_s": "DOUBLE"}
RUN = {"run": "VARCHAR"}
EVALUATIONS = {**RUN, **_PLACE, "evaluation_s": "DOUBLE", "value": "DOUBLE", "std": "DOUBLE"}
EFFECTIVE_STEPS = {**RUN, "step": "DOUBLE", "early": "DOUBLE"}
GRADIENT_SUMMARIES = (
    dict.fromkeys(("run", "layer", "phase"), "VARCHAR")
    | {"records": "BIGINT"}
    | dict.fromkeys(("clipped", "attenuation", "threshold", "noise_to_gradient", "update_to_weight"), "DOUBLE")
)
METRIC_ROW = {**_PLACE, "split": "VARCHAR", "name": "VARCHAR", "value": "DOUBLE"}
NUMBERS = {"number": "INTEGER", "run": "VARCHAR"}
GRADIENT_PARTS = {"part": "VARCHAR", "run": "VARCHAR"}
_GRADIENT_TYPES = (
    dict.fromkeys(gradient_columns.INTEGERS, "BIGINT")
    | dict.fromkeys(gradient_columns.TEXTS, "VARCHAR")
    | dict.fromkeys(gradient_columns.FIGURES, "DOUBLE")
    | dict.fromkeys(gradient_columns.HISTOGRAMS, "BIGINT[]")
)
GRADIENTS = {name: _GRADIENT_TYPES[name] for name in gradient_columns.COLUMNS}
NOT_YET = {name: f"'nan'::{GRADIENTS[name]}" for name in gradient_columns.LATER}  # in files that lack these columns


def columns(schema: dict[str, str]) -> str:
    """The columns of a CREATE TABLE."""
    return ", ".join(f'"{name}" {kind}' for name, kind in schema.items())


def names(schema: Iterable[str], shown: Mapping[str, str] = {}) -> str:
    """The columns of a SELECT, those in `shown` by an expression."""
    return ", ".join(f'{shown[name]} AS "{name}"' if name in shown else f'"{name}"' for name in schema)


def scalar(connection: duckdb.DuckDBPyConnection, query: str) -> Any:
    """The only value of a query."""
    return connection.execute(query).fetchall()[0][0]


def quoted(text: str) -> str:
    """Text as a literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


def create_tables(connection: duckdb.DuckDBPyConnection) -> None:
    """Empty tables. Rows of metrics hold a run's number, 4 bytes instead of its name; the view `metrics` joins them."""
    connection.execute("SET preserve_insertion_order = false")  # reads many files with all cores; nothing relies on it
    tables = {"runs": RUNS, "evaluations": EVALUATIONS, "run_numbers": NUMBERS}
    tables |= {"metric_rows": {"number": "INTEGER", **METRIC_ROW}}
    # Of archives, which have few gradients:
    tables |= {"effective_steps": EFFECTIVE_STEPS, "gradient_summaries": GRADIENT_SUMMARIES}
    for name, schema in tables.items():
        connection.execute(f"CREATE TABLE {name} ({columns(schema)})")
    connection.execute(
        f"CREATE VIEW metrics AS SELECT run, {names(METRIC_ROW)} FROM metric_rows JOIN run_numbers USING (number)"
    )


def insert(
    connection: duckdb.DuckDBPyConnection, table: str, schema: dict[str, str], rows: Sequence[Mapping[str, Any]]
) -> None:
    """Append `rows`, which have the columns of `schema`."""
    import pyarrow as pa

    kinds = {"VARCHAR": pa.string(), "BIGINT": pa.int64(), "INTEGER": pa.int32(), "DOUBLE": pa.float64()}
    kinds["BOOLEAN"] = pa.bool_()
    arrow = pa.table({name: pa.array([row[name] for row in rows], kinds[kind]) for name, kind in schema.items()})
    connection.register("incoming", arrow)
    connection.execute(f"INSERT INTO {table} SELECT * FROM incoming")
    connection.unregister("incoming")


def add_runs(connection: duckdb.DuckDBPyConnection, runs: Sequence[Run], problems: list[Problem]) -> list[str]:
    """Fill the tables with runs and everything they hold; runs with damaged metrics become problems.

    Returns the SELECTs of their gradient parts, for `create_gradients`.
    """
    if not runs:
        return []
    _read_metrics(connection, runs)
    bad = _damaged(connection, runs)
    if bad:
        connection.execute("DELETE FROM metric_rows WHERE number IN (SELECT unnest(?))", [list(bad)])
        problems.extend(Problem(str(Path(runs[number].metrics).parent), why) for number, why in sorted(bad.items()))
    whole = {number: run for number, run in enumerate(runs) if number not in bad}
    numbers = [{"number": number, "run": run.row["run"]} for number, run in whole.items()]
    insert(connection, "run_numbers", NUMBERS, numbers)
    insert(connection, "runs", RUNS, [run.row for run in whole.values()])
    connection.execute(
        f"INSERT INTO evaluations SELECT {names(EVALUATIONS)} FROM ({_EVALUATIONS_BY_NUMBER}) "
        "JOIN run_numbers USING (number) ORDER BY number, step"
    )
    return gradient_selects(connection, list(whole.values()), problems)


def create_gradients(connection: duckdb.DuckDBPyConnection, selects: Sequence[str]) -> None:
    """The view `gradients` over the files of `selects`: read when asked for, since histograms are large."""
    if selects:
        connection.execute(f"CREATE VIEW gradients AS {' UNION ALL '.join(selects)}")
    else:
        connection.execute(f"CREATE TABLE gradients (run VARCHAR, {columns(GRADIENTS)})")


_EVALUATIONS_BY_NUMBER = f"""
    SELECT number, step, any_value(samples) AS samples, any_value(wall_s) AS wall_s,
        coalesce(any_value("value") FILTER (name = '{EVALUATION_SECONDS}'), 0) AS evaluation_s,
        any_value("value") FILTER (name = '{SCORE}') AS "value",
        any_value("value") FILTER (name = '{SCORE_STD}') AS std,
        count(*) FILTER (name = '{SCORE}') AS scores
    FROM metric_rows WHERE split = '{EVALUATION}' GROUP BY number, step HAVING scores > 0"""


def _read_metrics(connection: duckdb.DuckDBPyConnection, runs: Sequence[Run]) -> None:
    """All rows of all files; a line that is no row of metrics gives one with a NULL."""
    # The number of a file is its place in an enumeration of all paths, which costs nothing a row; a join would.
    insert(connection, "run_numbers", NUMBERS, [{"number": n, "run": run.metrics} for n, run in enumerate(runs)])
    connection.execute("CREATE TYPE metrics_path AS ENUM (SELECT run FROM run_numbers ORDER BY number)")
    connection.execute("DELETE FROM run_numbers")
    kinds = ", ".join(f"{name}: '{kind}'" for name, kind in METRIC_ROW.items())
    query = f"""INSERT INTO metric_rows SELECT enum_code(filename::metrics_path), {names(METRIC_ROW)}
        FROM read_json(?, format = 'newline_delimited', columns = {{{kinds}}}, filename = true, ignore_errors = true)"""
    # A file that cannot be read at all is passed over: that its run has no evaluations is seen by `_damaged`.
    _read(connection, query, [run.metrics for run in runs])


def _read(connection: duckdb.DuckDBPyConnection, query: str, files: list[str]) -> tuple[list[Any], dict[str, str]]:
    """What a query returns of files, and those that DuckDB cannot read, with the reason: found by halving."""
    import duckdb

    try:
        return connection.execute(query, [files]).fetchall(), {}
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error as error:
        if len(files) == 1:
            return [], {files[0]: reason(error)}
    middle = len(files) // 2
    (found, bad), (more, worse) = (_read(connection, query, half) for half in (files[:middle], files[middle:]))
    return found + more, bad | worse


def _damaged(connection: duckdb.DuckDBPyConnection, runs: Sequence[Run]) -> dict[int, str]:
    """The runs whose metrics are not whole, number -> reason. Rows that were no rows are removed."""
    is_null = " OR ".join(f'"{name}" IS NULL' for name in METRIC_ROW)
    found = connection.execute(f"SELECT DISTINCT number FROM metric_rows WHERE {is_null}").fetchall()
    suspects = {number for (number,) in found}
    connection.execute(f"DELETE FROM metric_rows WHERE {is_null}")
    counted = connection.execute(
        f"""SELECT number, count(*), count(*) - count(DISTINCT step) FROM (
            SELECT number, step FROM metric_rows WHERE split = '{EVALUATION}' AND name = '{SCORE}'
        ) GROUP BY number"""
    ).fetchall()
    evaluations = {number: (count, repeated) for number, count, repeated in counted}
    bad: dict[int, str] = {}
    for number, run in enumerate(runs):
        count, repeated = evaluations.get(number, (0, 0))
        why = _damage(Path(run.metrics)) if number in suspects or not count else ""
        if why:
            bad[number] = why
        elif not count:
            bad[number] = f"corrupt: {METRICS} has no rows {EVALUATION}/{SCORE}"
        elif repeated:
            bad[number] = f"corrupt: {METRICS} has {repeated} rows {EVALUATION}/{SCORE} at a step that has one already"
        elif run.evaluations not in (None, count):
            bad[number] = f"corrupt: {METRICS} has {count} evaluations, where {SUMMARY} counts {run.evaluations}"
    return bad


def _damage(path: Path) -> str:
    """What is wrong with a metrics file; "" when it is an unfinished last line only, as a killed process leaves it."""
    try:
        for number, row in enumerate(read_rows(path), start=1):
            for count in (row.step, row.samples):
                if not isinstance(count, int | float) or not -(2**63) <= count < 2**63:
                    return f"corrupt: {path}, line {number}: not a row of metrics"
    except UserError as error:
        return f"corrupt: {error}"
    except OSError as error:
        return f"cannot read {path.name}: {reason(error)}"
    return ""


def gradient_selects(connection: duckdb.DuckDBPyConnection, runs: Sequence[Run], problems: list[Problem]) -> list[str]:
    """One SELECT over all whole gradient parts; a part that is not whole becomes a problem, its run stays."""
    parts = {part: run.row["run"] for run in runs for part in run.gradients}
    if not parts:
        return []
    query = "SELECT file_name, list(name) FROM parquet_schema(?) GROUP BY ALL"
    found, unreadable = _read(connection, query, list(parts))
    problems += [Problem(part, f"corrupt: not a parquet file ({why})") for part, why in unreadable.items()]
    complete: list[str] = []
    earlier: list[str] = []
    for part, has in found:
        lacks = [name for name in GRADIENTS if name not in has]
        if foreign := [name for name in lacks if name not in gradient_columns.LATER]:
            problems.append(Problem(part, f"foreign: a parquet file without {foreign[0]!r}"))
        else:
            (earlier if lacks else complete).append(part)
    whole = [{"part": part, "run": parts[part]} for part in complete + earlier]
    connection.execute(f"CREATE TABLE gradient_parts ({columns(GRADIENT_PARTS)})")
    insert(connection, "gradient_parts", GRADIENT_PARTS, whole)
    return [
        f"SELECT run, {names(GRADIENTS, shown)} FROM read_parquet([{', '.join(map(quoted, files))}], "
        "filename = 'part') JOIN gradient_parts USING (part)"
        for files, shown in ((complete, {}), (earlier, NOT_YET))
        if files
    ]
