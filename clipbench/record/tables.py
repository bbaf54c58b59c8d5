"""The three tables: one Parquet file per run and table, so that any reader of Parquet can take the folder as a database.

results/steps/<run>.parquet   one row per training step
results/evals/<run>.parquet   one row per evaluation, split and metric
results/runs/<run>.parquet    one row, written last: its existence means that the run is complete

and, of `clipbench tails` alone:
results/tails/<run>.parquet   one row per batch at fixed weights
"""

from __future__ import annotations

import os
import re
import secrets
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from clipbench.errors import Unreadable, UserError
from clipbench.record.rows import TABLES, columns

RUN = re.compile(r"r[0-9a-f]{12}")  # a run's id
KINDS = {
    "text": pa.string(),
    "int": pa.int64(),
    "real": pa.float64(),
    "single": pa.float32(),
    "flag": pa.bool_(),
}


def _schema_of(table: str) -> pa.Schema:
    return pa.schema([pa.field(column.name, KINDS[column.kind]) for column in columns(table)])


SCHEMAS = {table: _schema_of(table) for table in TABLES}
"""Explicit, because a reader of the folder takes the first file's columns and would drop what only later files have."""

NEW = {column.name for table in TABLES for column in columns(table) if column.new}
"""Columns that files of earlier versions lack; they are read as null."""


def write_rows(folder: Path, table: str, run: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Put `rows` in place as `<folder>/<table>/<run>.parquet`, whole or not at all. UserError where the folder cannot be written."""
    work = folder / ".work" / run
    rows = iter(rows)
    with (
        atomic_write(folder / table / f"{run}.parquet", work) as partial,
        pq.ParquetWriter(partial, SCHEMAS[table]) as writer,
    ):
        while part := [{"run": run, **row} for row in islice(rows, 100_000)]:
            writer.write_table(pa.Table.from_pylist(part, SCHEMAS[table]))
    with suppress(OSError):  # there is more in it: a checkpoint
        work.rmdir()
        work.parent.rmdir()


@contextmanager
def atomic_write(path: Path, beside: Path | None = None) -> Iterator[Path]:
    """A path to write to, in `beside` or `path`'s own folder. Afterwards it is on the disk and in place as `path`, or nothing has changed.

    UserError where the disk refuses.
    """
    partial = (
        beside or path.parent
    ) / f".{path.name}.{secrets.token_hex(4)}.tmp"  # readers of a folder ignore a leading dot
    try:
        for folder in {path.parent, partial.parent}:
            folder.mkdir(parents=True, exist_ok=True)
        yield partial
        _to_disk(partial)
        os.replace(partial, path)
        _to_disk(path.parent)
    except OSError as error:
        raise UserError(
            f"Cannot write {path}: {error.strerror or error}. Free the disk or choose another folder with results=DIR."
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    if path.is_dir() and os.name == "nt":  # a folder cannot be opened there
        return
    file = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def check_writable(folder: Path) -> None:
    """Fail before a run, not after it, where `folder` cannot be created or written."""
    probe = folder / f".{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"Cannot write to the results folder {folder}: {error.strerror or error}. Choose another with results=DIR."
        ) from error


def read(
    folder: Path, table: str, columns: Sequence[str] | None = None, runs: Iterable[str] | None = None
) -> pd.DataFrame:
    """All rows of a table, or those of the given runs. One that is damaged or not ours is named in a warning (Unreadable) and skipped."""
    columns = list(columns or SCHEMAS[table].names)
    parts = [part for _, part in read_parts(folder, table, columns, runs, stacklevel=4)]
    return pa.concat_tables([_schema(table, columns).empty_table(), *parts]).to_pandas()


def read_parts(
    folder: Path, table: str, columns: Sequence[str], runs: Iterable[str] | None = None, stacklevel: int = 3
) -> Iterator[tuple[str, pa.Table]]:
    """(name of the file, which is the run's id; its rows) for each file that can be read; otherwise as `read`."""
    paths = (
        sorted((folder / table).glob("[!.]*.parquet"))
        if runs is None
        else [folder / table / f"{run}.parquet" for run in runs]
    )
    schema = _schema(table, columns)
    for path in paths:
        if (part := _read_file(path, schema, stacklevel + 1)) is not None:
            yield path.stem, part


def _schema(table: str, columns: Sequence[str]) -> pa.Schema:
    return pa.schema([SCHEMAS[table].field(name) for name in columns])


def _read_file(path: Path, schema: pa.Schema, stacklevel: int) -> pa.Table | None:
    try:
        table = pq.ParquetFile(path).read(
            columns=schema.names, use_threads=False
        )  # a file is small: threads would cost more than they give
        if table.schema.equals(schema):
            return table
        if missing := set(schema.names) - set(table.column_names) - NEW:
            raise ValueError(f"it has no column {sorted(missing)[0]!r}")
        for name in set(schema.names) - set(table.column_names):
            table = table.append_column(schema.field(name), pa.nulls(len(table), schema.field(name).type))
        return table.select(schema.names).cast(schema)
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        warnings.warn(
            f"Skipped {path}: not a readable clipbench table ({reason}). Delete or move it.",
            Unreadable,
            stacklevel=stacklevel,
        )
        return None


def statuses(folder: Path, runs: Iterable[str] | None = None) -> dict[str, str]:
    """{run: status} of those of `runs` that have ended, of all by default."""
    there = None if runs is None else [run for run in runs if (folder / "runs" / f"{run}.parquet").exists()]
    table = read(folder, "runs", ["run", "status"], there)
    return dict(zip(table["run"], table["status"], strict=True))


def begun(folder: Path) -> list[str]:
    """Runs that have no row yet: they are being made, or were left."""
    work = (
        path.name for path in (folder / ".work").glob("*") if RUN.fullmatch(path.name) and any(path.iterdir())
    )
    return sorted(run for run in work if not (folder / "runs" / f"{run}.parquet").exists())


def is_finished(folder: Path, run: str) -> bool:
    """Done or diverged, so not to be repeated. A failed run is."""
    return statuses(folder, [run]).get(run, "failed") != "failed"
