"""A data set as a few small files that can be committed: ``export(load("runs/control"), "results/control")``.

    study.yaml           the study's definition
    archive.json         format, name, what was left out of the data set, how far records were thinned
    runs.parquet         the table `runs`
    evaluations.parquet  the table `evaluations`: scores to the last bit, seconds to the millisecond
    records.parquet      the recorded updates' rows of `metrics` (splits gradients, diagnostics, curvature), thinned
    gradients.parquet    the table `gradients`, thinned to a size
    summaries.parquet    `Dataset.gradient_summaries` of all runs with gradients
    steps.parquet        effective step sizes of all runs with gradients (`Dataset.effective_steps`, `early_steps`)

`dataset.load` reads the folder back to the same tables, records and effective steps in 32 bits; `metrics` then has
evaluations and thinned records only.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evaluation.analysis.data.archive_reader import FILES, FORMAT
from evaluation.analysis.data.dataset import EFFECTIVE, SUMMARIES, Dataset
from evaluation.analysis.data.run_reader import ABOUT, ARCHIVE, STUDY
from evaluation.analysis.data.run_rows import GRADIENTS, names, quoted, scalar
from evaluation.cli.config_file import dump_yaml
from evaluation.cli.errors import UserError
from evaluation.files import atomic_write, write_json

if TYPE_CHECKING:
    import duckdb

SCRATCH = ".archive-"  # of the folder an archive is written into first
RECORD_SPLITS = ("gradients", "diagnostics", "curvature")
SECONDS = 3  # decimals kept of times in seconds
# (seeds of a group of runs, updates of a run recorded at intervals, target syncs with all updates recorded around
# them), tried in turn until the file is small enough
THINNING = (
    *((100, 200, 50), (10, 100, 10), (5, 50, 5), (3, 40, 3), (2, 30, 2), (1, 30, 2), (1, 16, 1)),
    *((1, 12, 1), (1, 12, 0), (1, 8, 0), (1, 6, 0), (1, 4, 0), (1, 2, 0)),
)
SAMPLE_ROWS = 3000


def export(dataset: Dataset, folder: Path | str, *, max_bytes: int = 600_000) -> Path:
    """Write the archive of a data set into `folder` (made where needed; an earlier archive in it is replaced).

    `max_bytes` bounds the files of records and of gradients, each: fewer seeds of a group of runs (equal but for the
    seed; the lowest stay) and fewer recorded updates of a run (evenly spaced) are kept until they fit, at least two
    updates of one seed; summaries stay for all seeds. Records of a search's trials are left out. Raises `UserError`:
    the folder holds something else, or the data set has no runs.
    """
    folder = Path(folder)
    if not scalar(dataset.connection, "SELECT count(*) FROM runs"):
        raise UserError(f"{dataset.name} has no finished runs to export")
    used = folder.is_file() or (folder.is_dir() and any(not file.match(f"{SCRATCH}*") for file in folder.iterdir()))
    if used and not (folder / ARCHIVE).is_file():
        raise UserError(f"{folder} exists and is not an archive: choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    # Written whole before the earlier archive is touched: a stop in between leaves that as it was.
    with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=folder) as scratch:
        _write_all(dataset, Path(scratch), max_bytes)
        for table in ("records", "gradients", "gradient_summaries"):  # not every data set has them
            (folder / FILES[table][0]).unlink(missing_ok=True)
        for file in Path(scratch).iterdir():
            file.replace(folder / file.name)
    return folder


def _write_all(dataset: Dataset, folder: Path, max_bytes: int) -> None:
    connection = dataset.connection
    times = {name: f'round("{name}", {SECONDS})' for name in ("training_s", "wall_s", "evaluation_s")}
    short = {name: f"{time}::FLOAT" for name, time in times.items()}
    for table, source, order, shown in (
        ("runs", "runs", "run", times | {"command": _portable(dataset.roots)}),
        ("evaluations", "evaluations", "run, step", short | {"std": _single("std")}),
        ("effective_steps", f"({EFFECTIVE})", "run", {name: _single(name) for name in ("step", "early")}),
    ):
        file, schema = FILES[table]
        _write(connection, f"SELECT {names(schema, shown)} FROM {source} ORDER BY {order}", folder / file)
    file, schema = FILES["gradient_summaries"]
    if scalar(connection, f"SELECT count(*) FROM ({SUMMARIES})"):
        _write(connection, f"SELECT {names(schema)} FROM ({SUMMARIES}) ORDER BY layer, phase, run", folder / file)
    kept = {}
    for table, source, shown in (
        ("records", _RECORDS, short | {"value": _single("value")}),
        ("gradients", "gradients", {name: _narrow(name, kind) for name, kind in GRADIENTS.items()}),
    ):
        file, schema = FILES[table]
        kept[file] = _write_thinned(connection, source, names(schema, shown), folder / file, max_bytes)
    if dataset.definition:
        atomic_write(folder / STUDY, dump_yaml(dataset.definition))
    problems = [[problem.below(dataset.roots), problem.reason] for problem in dataset.problems]
    write_json(folder / ABOUT, {"format": FORMAT, "name": dataset.name, "kept": kept, "problems": problems})


_RECORDS = f"(SELECT * FROM metrics WHERE split IN {RECORD_SPLITS})"


def _single(column: str) -> str:
    """SQL for a double in 32 bits; what has diverged beyond their range is infinite."""
    name = f'"{column}"'
    return f"CASE WHEN abs({name}) > 3.4e38 THEN sign({name}) * 'inf'::FLOAT ELSE {name}::FLOAT END"


def _narrow(column: str, kind: str) -> str:
    return _single(column) if kind == "DOUBLE" else f'"{column}"::{ {"BIGINT[]": "INTEGER[]"}.get(kind, kind) }'


def _portable(roots: Sequence[Path]) -> str:
    """SQL for a run's command as it can be typed elsewhere: the program by its name, folders from the study's on."""
    command = r"regexp_replace(command, '^\S*/', '')"
    for root in roots:
        command = f"replace({command}, {quoted(f'{root.resolve()}/')}, {quoted(f'{root.resolve().name}/')})"
    return command


def _write(connection: duckdb.DuckDBPyConnection, query: str, path: Path) -> None:
    import pyarrow.parquet

    table = connection.sql(query).to_arrow_table()
    pyarrow.parquet.write_table(table, path, compression="zstd", compression_level=19)


def _write_thinned(
    connection: duckdb.DuckDBPyConnection, table: str, shown: str, path: Path, max_bytes: int
) -> dict[str, int] | None:
    """Write what fits of a table of records and return how much of it that is; None: there is nothing to write."""
    sync = '"update" - since_shift' if table == "gradients" else "NULL"
    shift = "min(event) = 'shift'" if table == "gradients" else "false"
    connection.execute(_KEYS.format(table=table, sync=sync, shift=shift))
    count = "SELECT coalesce(sum(n), 0) FROM thinned WHERE " + _KEPT
    rows = {rung: scalar(connection, count.format(*rung)) for rung in THINNING}
    if not rows[THINNING[0]]:
        return None

    def write(rung: tuple[int, int, int]) -> int:
        kept = f"(SELECT run, step FROM thinned WHERE {_KEPT.format(*rung)})"
        order = "run, layer, step" if table == "gradients" else "run, split, name, step"
        _write(connection, f"SELECT {shown} FROM {table} SEMI JOIN {kept} USING (run, step) ORDER BY {order}", path)
        return path.stat().st_size

    # How many bytes a row takes is seen in a small file; a large one is only written when it is likely to fit.
    small = next((rung for rung in THINNING if rows[rung] <= SAMPLE_ROWS), THINNING[-1])
    each = write(small) / max(1, rows[small])
    for rung in THINNING:
        if (rung == THINNING[-1] or rows[rung] * each <= 1.2 * max_bytes) and write(rung) <= max_bytes:
            break
    return dict(zip(("seeds", "updates", "syncs"), rung, strict=True))


# Every recorded step of a run with its number of rows, its place among the run's others, and the run's among those that
# differ in their seed only. Updates around one target sync share a place. Runs of a search are left out: their scores
# say what the search found.
_KEYS = """
    CREATE OR REPLACE TEMP TABLE thinned AS
    WITH steps AS (
        SELECT run, step, count(*) AS n, min({sync}) AS sync, {shift} AS shift FROM {table} GROUP BY run, step
    ),
    ranked AS (
        SELECT run, row_number() OVER (
            PARTITION BY study, part, task, setting, optimizer, variant ORDER BY seed, run
        ) AS seed_rank
        FROM (SELECT DISTINCT run FROM steps) JOIN runs USING (run) WHERE kind <> 'search'
    ),
    placed AS (
        SELECT *, dense_rank() OVER (PARTITION BY run, shift ORDER BY CASE WHEN shift THEN sync ELSE step END) AS place
        FROM steps JOIN ranked USING (run)
    )
    SELECT *, max(place) OVER (PARTITION BY run, shift) AS places FROM placed"""
# The first seeds, evenly many places, always the last one; {2} of the syncs.
_KEPT = """seed_rank <= {0} AND (place * CASE WHEN shift THEN {2} ELSE {1} END) // places
    > ((place - 1) * CASE WHEN shift THEN {2} ELSE {1} END) // places"""
