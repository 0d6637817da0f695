"""Reading an archive (`archive`) back into the tables of a data set."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from evaluation.analysis.data import run_rows
from evaluation.analysis.data.run_reader import ABOUT, ARCHIVE, Problem, Source
from evaluation.cli.errors import reason
from evaluation.files import read_json
from evaluation.runs.gradient_columns import LATER
from evaluation.runs.run_metrics import EVALUATION, EVALUATION_SECONDS, SCORE, SCORE_STD

if TYPE_CHECKING:
    import duckdb

FILES = {  # table -> its file and its columns
    "runs": (ARCHIVE, run_rows.RUNS),
    "evaluations": ("evaluations.parquet", run_rows.EVALUATIONS),
    "effective_steps": ("steps.parquet", run_rows.EFFECTIVE_STEPS),
    "gradient_summaries": ("summaries.parquet", run_rows.GRADIENT_SUMMARIES),
    "records": ("records.parquet", run_rows.RUN | run_rows.METRIC_ROW),
    "gradients": ("gradients.parquet", run_rows.RUN | run_rows.GRADIENTS),
}
LATER_COLUMNS = {"runs": "generalization_gap", "effective_steps": "early"}  # that earlier archives do not have
FORMAT = 1


def add(connection: duckdb.DuckDBPyConnection, source: Source, problems: list[Problem]) -> list[str]:
    """Put an archive into the tables of a connection; returns SELECTs for `run_rows.create_gradients`.

    Damaged files become problems; without its runs or evaluations nothing of the archive is taken.
    """
    root = source.root
    problems.extend(_problems(root))
    known = len(problems)
    connection.execute("BEGIN")
    with _reported(root, "corrupt archive", problems):
        for table in ("runs", "evaluations", "effective_steps"):
            later = LATER_COLUMNS.get(table)
            earlier = later is not None and later not in _columns(connection, root / FILES[table][0])
            shown = {later: "NULL::DOUBLE"} if later is not None and earlier else {}
            connection.execute(f"INSERT INTO {table} {_select(source, table, shown)}")
    if len(problems) > known:
        connection.execute("ROLLBACK")
        return []
    connection.execute("COMMIT")
    summaries = root / FILES["gradient_summaries"][0]
    if summaries.is_file():  # earlier archives have none
        with _reported(summaries, "corrupt", problems):
            connection.execute(f"INSERT INTO gradient_summaries {_select(source, 'gradient_summaries')}")
    _add_metrics(connection, source, problems)
    return _gradients(connection, source, problems)


def add_to_study(
    connection: duckdb.DuckDBPyConnection, archive: Source, study: Source, problems: list[Problem]
) -> list[str]:
    """`add` for an archive in the folder of its study: that its runs have no folder there is no problem then, and
    what had been missing in the archive the study knows itself."""
    own: list[Problem] = []
    selects = add(connection, archive, own)
    problems += [problem for problem in own if Path(problem.path).is_relative_to(archive.root)]
    found = connection.execute("SELECT path FROM runs WHERE study = ?", [study.name]).fetchall()
    known = {str(study.root / path) for (path,) in found}
    problems[:] = [problem for problem in problems if problem.path not in known]
    return selects


@contextlib.contextmanager
def _reported(path: Path, what: str, problems: list[Problem]) -> Iterator[None]:
    """What DuckDB cannot read becomes a problem."""
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        problems.append(Problem(str(path), f"{what}: {reason(error)}"))


def _problems(root: Path) -> list[Problem]:
    """What had been left out of the data set before it was exported."""
    try:
        about = read_json(root / ABOUT)
        if about["format"] != FORMAT:
            return [Problem(str(root / ABOUT), f"format {about['format']}, not {FORMAT}: read with other software")]
        return [Problem(path, why) for path, why in about["problems"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [Problem(str(root / ABOUT), f"corrupt: {reason(error)}; what had been left out is not known")]


def _add_metrics(connection: duckdb.DuckDBPyConnection, source: Source, problems: list[Problem]) -> None:
    """The evaluations and the records as rows of metrics."""
    first = run_rows.scalar(connection, "SELECT coalesce(max(number) + 1, 0) FROM run_numbers")
    runs = _select(source, "runs", {LATER_COLUMNS["runs"]: "NULL::DOUBLE"})  # only the names are needed
    connection.execute(
        f"INSERT INTO run_numbers SELECT {first} + row_number() OVER (ORDER BY run) - 1, run FROM ({runs})"
    )
    split, metrics = EVALUATION, {"value": SCORE, "std": SCORE_STD}
    for column, name in (metrics | {"evaluation_s": EVALUATION_SECONDS}).items():
        connection.execute(
            f"""INSERT INTO metric_rows SELECT number, step, samples, wall_s, '{split}', '{name}', "{column}"
            FROM evaluations JOIN run_numbers USING (run) WHERE number >= {first} AND "{column}" IS NOT NULL"""
        )
    if (source.root / FILES["records"][0]).is_file():
        with _reported(source.root / FILES["records"][0], "corrupt", problems):
            connection.execute(
                f"""INSERT INTO metric_rows SELECT number, {run_rows.names(run_rows.METRIC_ROW)}
                FROM ({_select(source, "records")}) JOIN run_numbers USING (run)"""
            )


def _gradients(connection: duckdb.DuckDBPyConnection, source: Source, problems: list[Problem]) -> list[str]:
    path = source.root / FILES["gradients"][0]
    if not path.is_file():
        return []
    with _reported(path, "corrupt", problems):
        earlier = not set(LATER) <= _columns(connection, path)
        query = _select(source, "gradients", run_rows.NOT_YET if earlier else {})
        connection.execute(f"SELECT max(hash(COLUMNS(*))) FROM ({query})")  # reads all of it
        return [query]
    return []


def _columns(connection: duckdb.DuckDBPyConnection, path: Path) -> set[str]:
    """The columns of a file."""
    found = connection.execute(f"SELECT name FROM parquet_schema({run_rows.quoted(str(path))})").fetchall()
    return {name for (name,) in found}


def _select(source: Source, table: str, shown: Mapping[str, str] = {}) -> str:
    """A SELECT of a table's columns from its file, in their types; the prefix goes before the runs' names."""
    file, schema = FILES[table]
    typed = {name: f'"{name}"::{kind}' for name, kind in schema.items()}
    given = {**typed, "run": f"{run_rows.quoted(source.prefix)} || run", **shown}
    return f"SELECT {run_rows.names(schema, given)} FROM read_parquet({run_rows.quoted(str(source.root / file))})"
