"""The tables: one Parquet file per run and table, so that any reader of Parquet can take the folder as a
database.

results/steps/<run>.parquet   one row per training step
results/evals/<run>.parquet   one row per evaluation, split and metric
results/runs/<run>.parquet    one row, written last: its existence means that the run is complete

and, of `clipbench tails` alone:
results/tails/<run>.parquet   one row per batch at fixed weights
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from clipbench.errors import Unreadable
from clipbench.record.files import atomic_write, table_path
from clipbench.record.rows import TABLES, columns

TYPES = {
    "text": pa.string(),
    "int": pa.int64(),
    "real": pa.float64(),
    "single": pa.float32(),
    "flag": pa.bool_(),
}


def _schema_of(table: str) -> pa.Schema:
    return pa.schema([pa.field(column.name, TYPES[column.kind]) for column in columns(table)])


SCHEMAS = {table: _schema_of(table) for table in TABLES}
"""Explicit, because a reader of the folder takes the first file's columns and would drop what only later
files have.
"""

NEW = {column.name for table in TABLES for column in columns(table) if column.new}
"""Columns that files of earlier versions lack; they are read as null."""

ROWS_AT_ONCE = 100_000  # of a long run, while it is written


def write_rows(folder: Path, table: str, run: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Put `rows`, dicts by column, in place as `<folder>/<table>/<run>.parquet`, whole or not at all.

    A column that a row lacks is null; ValueError for one that the table has not. UserError where the folder
    cannot be written.
    """
    schema = SCHEMAS[table]
    known = set(schema.names)
    remaining = iter(rows)
    with atomic_write(table_path(folder, table, run)) as partial, pq.ParquetWriter(partial, schema) as writer:
        while part := list(islice(remaining, ROWS_AT_ONCE)):
            named = [{"run": run, **row} for row in part]
            for row in named:
                if unknown := sorted(row.keys() - known):
                    raise ValueError(f"The table {table} has no column '{unknown[0]}'.")
            writer.write_table(pa.Table.from_pylist(named, schema))


def read(
    folder: Path, table: str, columns: Sequence[str] | None = None, runs: Iterable[str] | None = None
) -> pd.DataFrame:
    """All rows of a table, or those of the given `runs`, with all or the given `columns`.

    A file that is damaged or not ours is named in a warning (Unreadable) and skipped.
    """
    names = list(columns or SCHEMAS[table].names)
    parts = [_schema(table, names).empty_table()]
    for _, part in read_parts(folder, table, names, runs, stacklevel=4):
        parts.append(part)
    return pa.concat_tables(parts).to_pandas()


def read_parts(
    folder: Path, table: str, columns: Sequence[str], runs: Iterable[str] | None = None, stacklevel: int = 3
) -> Iterator[tuple[str, pa.Table]]:
    """(name of the file, which is the run's id; its rows) for each file that can be read; otherwise as
    `read`.
    """
    if runs is None:
        paths = sorted((folder / table).glob("[!.]*.parquet"))
    else:
        paths = [table_path(folder, table, run) for run in runs]
    schema = _schema(table, columns)
    for path in paths:
        if (part := _read_file(path, schema, stacklevel + 1)) is not None:
            yield path.stem, part


def _schema(table: str, columns: Sequence[str]) -> pa.Schema:
    return pa.schema([SCHEMAS[table].field(name) for name in columns])


def _read_file(path: Path, schema: pa.Schema, stacklevel: int) -> pa.Table | None:
    """Its rows in the given schema, columns of later versions as null; None, after a warning, where that
    cannot be.
    """
    try:
        # a file is small: threads would cost more than they give
        table = pq.ParquetFile(path).read(columns=schema.names, use_threads=False)
        if table.schema.equals(schema):
            return table
        absent = set(schema.names) - set(table.column_names)
        if missing := sorted(absent - NEW):
            raise ValueError(f"it has no column {missing[0]!r}")
        for name in absent:
            field = schema.field(name)
            table = table.append_column(field, pa.nulls(len(table), field.type))
        return table.select(schema.names).cast(schema)
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        message = f"Skipped {path}: not a readable clipbench table ({reason}). Delete or move it."
        warnings.warn(message, Unreadable, stacklevel=stacklevel)
        return None


def statuses(folder: Path, runs: Iterable[str] | None = None) -> dict[str, str]:
    """{run: status} of those of `runs` that have ended, of all by default."""
    there = None
    if runs is not None:
        there = [run for run in runs if table_path(folder, "runs", run).exists()]
    table = read(folder, "runs", ["run", "status"], there)
    return dict(zip(table["run"], table["status"], strict=True))


def is_finished(folder: Path, run: str) -> bool:
    """Done or diverged, so not to be repeated. A failed run is."""
    return statuses(folder, [run]).get(run, "failed") != "failed"
