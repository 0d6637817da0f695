"""Reading an archive (`archive`) back into the tables of a data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from evaluation.analysis.data.run_reader import ABOUT, ARCHIVE, Problem, Source
from evaluation.analysis.data.run_rows import (
    EFFECTIVE_STEPS,
    EVALUATION,
    EVALUATIONS,
    GRADIENTS,
    METRIC_ROW,
    RUNS,
    SCORE,
    SCORE_STD,
    names,
    quoted,
    select_gradients,
)
from evaluation.cli.errors import reason
from evaluation.files import read_json
from evaluation.runs.gradient_columns import LATER
from evaluation.runs.run_metrics import EVALUATION_SECONDS

if TYPE_CHECKING:
    import duckdb

EVALUATION_FILE, RECORD_FILE, GRADIENT_FILE = "evaluations.parquet", "records.parquet", "gradients.parquet"
STEP_FILE = "steps.parquet"
FORMAT = 1


def add(connection: duckdb.DuckDBPyConnection, source: Source, problems: list[Problem]) -> list[str]:
    """Put an archive into the tables of a connection; returns SELECTs for `run_rows.create_gradients`.

    Damaged files become problems; without its runs or evaluations nothing of the archive is taken.
    """
    import duckdb

    root = source.root
    problems.extend(_problems(root))
    connection.execute("BEGIN")
    try:
        connection.execute(f"INSERT INTO runs {_from(root / ARCHIVE, source.prefix, RUNS)}")
        connection.execute(f"INSERT INTO evaluations {_from(root / EVALUATION_FILE, source.prefix, EVALUATIONS)}")
        connection.execute(f"INSERT INTO effective_steps {_from(root / STEP_FILE, source.prefix, EFFECTIVE_STEPS)}")
    except duckdb.Error as error:
        connection.execute("ROLLBACK")
        problems.append(Problem(str(root), f"corrupt archive: {reason(error)}"))
        return []
    connection.execute("COMMIT")
    _add_metrics(connection, root, source.prefix, problems)
    return _gradients(connection, root, source.prefix, problems)


def _problems(root: Path) -> list[Problem]:
    """What had been left out of the data set before it was exported."""
    try:
        about = read_json(root / ABOUT)
        if about["format"] != FORMAT:
            return [Problem(str(root / ABOUT), f"format {about['format']}, not {FORMAT}: read with other software")]
        return [Problem(path, why) for path, why in about["problems"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [Problem(str(root / ABOUT), f"corrupt: {reason(error)}; what had been left out is not known")]


def _add_metrics(connection: duckdb.DuckDBPyConnection, root: Path, prefix: str, problems: list[Problem]) -> None:
    """The evaluations and the records as rows of metrics."""
    import duckdb

    (first,) = connection.execute("SELECT coalesce(max(number) + 1, 0) FROM run_numbers").fetchall()[0]
    connection.execute(
        f"""INSERT INTO run_numbers SELECT {first} + row_number() OVER (ORDER BY run) - 1, run
        FROM ({_from(root / ARCHIVE, prefix, {"run": "VARCHAR"})})"""
    )
    for name, column in ((SCORE, "value"), (SCORE_STD, "std"), (EVALUATION_SECONDS, "evaluation_s")):
        connection.execute(
            f"""INSERT INTO metric_rows SELECT number, step, samples, wall_s, '{EVALUATION}', '{name}', "{column}"
            FROM evaluations JOIN run_numbers USING (run) WHERE number >= {first} AND "{column}" IS NOT NULL"""
        )
    if not (root / RECORD_FILE).is_file():
        return
    try:
        connection.execute(
            f"""INSERT INTO metric_rows SELECT number, {names(METRIC_ROW)}
            FROM ({_from(root / RECORD_FILE, prefix, {"run": "VARCHAR", **METRIC_ROW})}) JOIN run_numbers USING (run)"""
        )
    except duckdb.Error as error:
        problems.append(Problem(str(root / RECORD_FILE), f"corrupt: {reason(error)}"))


def _gradients(connection: duckdb.DuckDBPyConnection, root: Path, prefix: str, problems: list[Problem]) -> list[str]:
    import duckdb

    if not (root / GRADIENT_FILE).is_file():
        return []
    file = quoted(str(root / GRADIENT_FILE))
    try:
        has = {row[0] for row in connection.execute(f"SELECT name FROM parquet_schema({file})").fetchall()}
        source = f"(SELECT run, {select_gradients(set(LATER) <= has)} FROM read_parquet({file}))"
        select = _select(source, prefix, {"run": "VARCHAR", **GRADIENTS})
        connection.execute(f"SELECT max(hash(COLUMNS(*))) FROM ({select})")  # reads all of it
    except duckdb.Error as error:
        problems.append(Problem(str(root / GRADIENT_FILE), f"corrupt: {reason(error)}"))
        return []
    return [select]


def _from(path: Path, prefix: str, schema: dict[str, str]) -> str:
    return _select(f"read_parquet({quoted(str(path))})", prefix, schema)


def _select(source: str, prefix: str, schema: dict[str, str]) -> str:
    """A SELECT of a file's columns in the order and the types of `schema`, `prefix` before the runs' names."""
    shown = [f'"{name}"::{kind} AS "{name}"' for name, kind in schema.items() if name != "run"]
    run = f"{quoted(prefix)} || run AS run"
    return f"SELECT {', '.join([run, *shown])} FROM {source}"
