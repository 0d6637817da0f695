"""A data set as a few small files that can be committed: ``export(load("runs/control"), "results/control")``.

    study.yaml           the study's definition
    archive.json         format, name, what was left out of the data set, how far records were thinned
    runs.parquet         the table `runs`
    evaluations.parquet  the table `evaluations`: scores to the last bit, seconds to the millisecond
    records.parquet      the recorded updates' rows of `metrics` (splits gradients and diagnostics), thinned to a size
    gradients.parquet    the table `gradients`, thinned to a size

`dataset.load` reads the folder back to the same tables; `metrics` then has evaluations and thinned records only.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from evaluation.dataset_folders import ABOUT, ARCHIVE, STUDY, Problem, Source
from evaluation.dataset_tables import (
    EVALUATION,
    EVALUATIONS,
    GRADIENTS,
    METRIC_ROW,
    RUNS,
    SCORE,
    SCORE_STD,
    names,
)
from evaluation.errors import UserError, reason
from evaluation.files import atomic_path, atomic_write, read_json, write_json
from evaluation.metrics import EVALUATION_SECONDS

if TYPE_CHECKING:
    import duckdb

    from evaluation.dataset import Dataset

EVALUATION_FILE, RECORD_FILE, GRADIENT_FILE = "evaluations.parquet", "records.parquet", "gradients.parquet"
FORMAT = 1
RECORD_SPLITS = ("gradients", "diagnostics")
SECONDS = 3  # decimals kept of times in seconds
# (seeds of a group of runs, recorded updates of a run), tried in turn until the file is small enough
THINNING = ((100, 200), (10, 100), (5, 50), (3, 40), (2, 30), (1, 30), (1, 16), (1, 8), (1, 4), (1, 2))


def export(dataset: Dataset, folder: Path | str, *, max_bytes: int = 600_000) -> Path:
    """Write the archive of a data set into `folder` (made where needed; an earlier archive in it is replaced).

    `max_bytes` bounds the files of records and of gradients, each: fewer seeds of a group of runs (equal but for the
    seed; the lowest stay) and fewer recorded updates of a run (evenly spaced) are kept until they fit. Raises
    `UserError`: the folder holds something else, or the data set has no runs.
    """
    folder = Path(folder)
    if not dataset.connection.execute("SELECT count(*) FROM runs").fetchall()[0][0]:
        raise UserError(f"{dataset.name} has no finished runs to export")
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / ARCHIVE).is_file())):
        raise UserError(f"{folder} exists and is not an archive: choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    runs = ", ".join(f'round("{name}", {SECONDS}) AS "{name}"' if name in _TIMES else f'"{name}"' for name in RUNS)
    _write(dataset.connection, f"SELECT {runs} FROM runs ORDER BY run", folder / ARCHIVE)
    _write(
        dataset.connection,
        f"""SELECT run, step, samples, round(wall_s, {SECONDS})::FLOAT AS wall_s,
        round(evaluation_s, {SECONDS})::FLOAT AS evaluation_s, "value", std::FLOAT AS std
        FROM evaluations ORDER BY run, step""",
        folder / EVALUATION_FILE,
    )
    kept = {
        file: _write_thinned(dataset.connection, table, shown, folder / file, max_bytes)
        for file, table, shown in (
            (
                RECORD_FILE,
                _RECORDS,
                f"run, step, samples, round(wall_s, {SECONDS})::FLOAT AS wall_s, split, name, "
                '"value"::FLOAT AS "value"',
            ),
            (GRADIENT_FILE, "gradients", f"run, {_NARROW}"),
        )
    }
    if dataset.definition:
        atomic_write(folder / STUDY, yaml.safe_dump(dataset.definition, sort_keys=False, allow_unicode=True))
    problems = [[problem.path, problem.reason] for problem in dataset.problems]
    write_json(folder / ABOUT, {"format": FORMAT, "name": dataset.name, "kept": kept, "problems": problems})
    return folder


_TIMES = ("training_s", "wall_s")
_RECORDS = f"(SELECT * FROM metrics WHERE split IN {RECORD_SPLITS})"
_NARROW = ", ".join(
    f'"{name}"::{ {"DOUBLE": "FLOAT", "BIGINT[]": "INTEGER[]"}.get(kind, kind) } AS "{name}"'
    for name, kind in GRADIENTS.items()
)


def _write(connection: duckdb.DuckDBPyConnection, query: str, path: Path) -> None:
    import pyarrow.parquet

    table = connection.sql(query).to_arrow_table()
    with atomic_path(path) as temporary:
        pyarrow.parquet.write_table(table, temporary, compression="zstd", compression_level=19)


def _write_thinned(
    connection: duckdb.DuckDBPyConnection, table: str, shown: str, path: Path, max_bytes: int
) -> dict[str, int] | None:
    """Write what fits of a table of records and return how much of it that is; None: the table is empty."""
    path.unlink(missing_ok=True)
    if not connection.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0]:
        return None
    for seeds, updates in THINNING:
        _write(connection, _THIN.format(shown=shown, table=table, seeds=seeds, updates=updates), path)
        if path.stat().st_size <= max_bytes:
            break
    return {"seeds": seeds, "updates": updates}


# Of every group of runs that differ in their seed only, the first seeds; of a run's recorded steps, evenly many, and
# always the last.
_THIN = """
    WITH kept_runs AS (
        SELECT run FROM (SELECT DISTINCT run FROM {table}) JOIN runs USING (run)
        QUALIFY row_number() OVER (PARTITION BY study, part, task, setting, optimizer, variant ORDER BY seed) <= {seeds}
    ),
    steps AS (
        SELECT run, step, row_number() OVER (PARTITION BY run ORDER BY step) AS place,
            count(*) OVER (PARTITION BY run) AS n
        FROM (SELECT DISTINCT run, step FROM {table} SEMI JOIN kept_runs USING (run))
    )
    SELECT {shown} FROM {table} SEMI JOIN (
        SELECT run, step FROM steps WHERE (place * {updates}) // n > ((place - 1) * {updates}) // n OR n <= {updates}
    ) USING (run, step) ORDER BY ALL"""


def add(connection: duckdb.DuckDBPyConnection, source: Source, problems: list[Problem]) -> list[str]:
    """Put an archive into the tables of a connection; returns SELECTs for `dataset_tables.create_gradients`.

    Damaged files become problems; without its runs or evaluations nothing of the archive is taken.
    """
    import duckdb

    root = source.root
    problems.extend(_problems(root))
    connection.execute("BEGIN")
    try:
        connection.execute(f"INSERT INTO runs {_from(root / ARCHIVE, source.prefix, RUNS)}")
        connection.execute(f"INSERT INTO evaluations {_from(root / EVALUATION_FILE, source.prefix, EVALUATIONS)}")
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
    select = _from(root / GRADIENT_FILE, prefix, {"run": "VARCHAR", **GRADIENTS})
    try:
        connection.execute(f"SELECT max(hash(COLUMNS(*))) FROM ({select})")  # reads all of it
    except duckdb.Error as error:
        problems.append(Problem(str(root / GRADIENT_FILE), f"corrupt: {reason(error)}"))
        return []
    return [select]


def _from(path: Path, prefix: str, schema: dict[str, str]) -> str:
    """A SELECT of a file's columns in the order and the types of `schema`, `prefix` before the runs' names."""
    shown = [f'"{name}"::{kind} AS "{name}"' for name, kind in schema.items() if name != "run"]
    run = f"{_text(prefix)} || run AS run"
    return f"SELECT {', '.join([run, *shown])} FROM read_parquet({_text(str(path))})"


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
