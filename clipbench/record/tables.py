"""The tables: one Parquet file per run and table, so that any reader of Parquet can take the folder as a
database.

results/steps/<run>.parquet   one row per training step
results/evals/<run>.parquet   one row per evaluation, split and metric
results/runs/<run>.parquet    one row, written last: its existence means that the run is complete

and, of `clipbench tails` alone:
results/tails/<run>.parquet   one row per batch at fixed weights

Finished results may be kept as one file for each table, steps.parquet, evals.parquet and runs.parquet:
they are read alike.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipbench.errors import Unreadable, UserError
from clipbench.record.files import atomic_write, read_file, reason, set_aside, table_path
from clipbench.record.rows import TABLES, columns, fault_of_run

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

COLUMNS = {table: {column.name: column for column in columns(table)} for table in TABLES}

KEYS = {"evals": ["step", "split", "metric", "condition"], "tails": ["step", "batch"]}
"""What no two rows of a run agree in. Its steps go up, and of `runs` it has one row."""

WHOLE = ("runs", "evals")
"""Small tables: they are read and checked whole, whatever is asked for, so that a run is either there for all
who ask or for nobody.
"""

ROWS_AT_ONCE = 100_000  # of a long run, while it is written


def write_rows(folder: Path, table: str, run: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Put `rows`, dicts by column, in place as `<folder>/<table>/<run>.parquet`, whole or not at all.

    A column that a row lacks is null; ValueError for one that the table has not. A damaged file in its place
    is set aside, with a warning (Unreadable). UserError where the folder cannot be written.
    """
    _make_room(folder, table, run)
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

    A file that is damaged, not ours, or that the disk does not give is named in a warning (Unreadable) and
    skipped.
    """
    names = list(columns or SCHEMAS[table].names)
    parts = [_schema(table, names).empty_table()]
    for _, part in read_parts(folder, table, names, runs, stacklevel=4):
        parts.append(part)
    return pa.concat_tables(parts).to_pandas()


def read_parts(
    folder: Path, table: str, columns: Sequence[str], runs: Iterable[str] | None = None, stacklevel: int = 3
) -> Iterator[tuple[str, pa.Table]]:
    """(the run's id, which is the name of its file; its rows) for each file that can be read; otherwise as
    `read`.
    """
    together = folder / f"{table}.parquet"
    if together.is_file():
        yield from _parts_of(together, table, columns, runs, stacklevel + 1)
        return
    if runs is None:
        paths = sorted((folder / table).glob("[!.]*.parquet"))
    else:
        paths = [table_path(folder, table, run) for run in runs]
    for path in paths:
        try:
            yield path.stem, _read_file(path, table, columns)
        except Damaged as error:
            message = f"Skipped {path}: not a readable clipbench table ({error}). Delete or move it."
            warnings.warn(message, Unreadable, stacklevel=stacklevel)
        except (OSError, MemoryError) as error:
            message = f"Skipped {path}: it cannot be read now ({reason(error)}). It is left as it is."
            warnings.warn(message, Unreadable, stacklevel=stacklevel)


def _parts_of(
    path: Path, table: str, columns: Sequence[str], runs: Iterable[str] | None, stacklevel: int
) -> Iterator[tuple[str, pa.Table]]:
    """As `read_parts`, of results that were kept as one file for each table: nothing is made there."""
    asked = SCHEMAS[table].names if table in WHOLE else list(dict.fromkeys(["run", *columns]))
    try:
        every = _in_schema(pa.py_buffer(read_file(path)), table, asked)
    except (ValueError, KeyError, OSError, MemoryError, pa.ArrowException) as error:
        message = f"Skipped {path}: not a readable clipbench table ({reason(error)}). Delete or move it."
        warnings.warn(message, Unreadable, stacklevel=stacklevel)
        return
    wanted = None if runs is None else set(runs)
    for run in sorted(set(every["run"].to_pylist()), key=str):
        if wanted is not None and run not in wanted:
            continue
        rows = every.filter(pc.equal(every["run"], run))
        if fault := _fault_of(rows, table, run):
            warnings.warn(f"Skipped run {run} in {path}: {fault}.", Unreadable, stacklevel=stacklevel)
        else:
            yield run, rows.select(list(columns))


class Damaged(Exception):
    """The file was read, and its content is no run's; why, in words."""


def _schema(table: str, columns: Sequence[str]) -> pa.Schema:
    return pa.schema([SCHEMAS[table].field(name) for name in columns])


def _read_file(path: Path, table: str, names: Sequence[str]) -> pa.Table:
    """Its rows in the schema of `names`, columns of later versions as null.

    Damaged for what the table cannot hold. OSError or MemoryError where the file could not be read: that
    says nothing of what is in it.
    """
    content = pa.py_buffer(read_file(path))
    asked = SCHEMAS[table].names if table in WHOLE else names
    try:
        rows = _in_schema(content, table, asked)
    except (ValueError, KeyError, OSError, pa.ArrowException) as error:
        raise Damaged(reason(error)) from error
    if fault := _fault_of(rows, table, path.stem):
        raise Damaged(fault)
    return rows if asked is names else rows.select(list(names))


def _in_schema(content: pa.Buffer, table: str, names: Sequence[str]) -> pa.Table:
    schema = _schema(table, names)
    # a file is small: threads would cost more than they give
    rows = pq.ParquetFile(pa.BufferReader(content)).read(columns=list(names), use_threads=False)
    if rows.schema.equals(schema):
        return rows
    for name in names:
        if name in rows.column_names:
            continue
        if not COLUMNS[table][name].new:
            raise ValueError(f"it has no column {name!r}")
        field = schema.field(name)
        rows = rows.append_column(field, pa.nulls(len(rows), field.type))
    return rows.select(list(names)).cast(schema)


def _fault_of(rows: pa.Table, table: str, run: str) -> str:
    """What is wrong with a run's rows, in words; "" for nothing."""
    if table == "runs" and len(rows) != 1:
        return f"it has {len(rows)} rows"
    for name in rows.column_names:
        for value in _telling(rows[name]):
            if name == "run" and value != run:
                return f"run is {value!r}"
            if fault := COLUMNS[table][name].fault(value):
                return fault
    if table == "runs":
        return fault_of_run(rows.to_pylist()[0])
    if table == "steps" and "step" in rows.column_names and (np.diff(rows["step"].to_numpy()) <= 0).any():
        return "step does not go up"
    if table in KEYS and set(KEYS[table]) <= set(rows.column_names):
        keys = rows.select(KEYS[table])
        if len(keys.group_by(KEYS[table]).aggregate([])) < len(keys):
            return f"rows with one {', '.join(KEYS[table])}"
    return ""


def _telling(cells: pa.ChunkedArray) -> list[Any]:
    """The values of a column that one must look at to know that all are right."""
    if cells.null_count:
        return [None, *_telling(cells.drop_null())]
    if not len(cells):
        return []
    if not (pa.types.is_integer(cells.type) or pa.types.is_floating(cells.type)):
        return cells.unique().to_pylist()
    values = cells.to_numpy()
    odd = np.isnan(values)
    found = [float("nan")] if odd.any() else []
    values = values[~odd]
    if len(values):
        found += [values.min().item(), values.max().item()]
    return found


def _make_room(folder: Path, table: str, run: str) -> None:
    """For a file that is to be written: a damaged one is set aside. UserError where it cannot be told."""
    path = table_path(folder, table, run)
    if not path.exists():
        return
    try:
        _read_file(path, table, SCHEMAS[table].names)
    except Damaged as error:
        place = set_aside(folder, path)
        warnings.warn(f"{path} is damaged ({error}) and lies in {place} now.", Unreadable, stacklevel=3)
    except (OSError, MemoryError) as error:
        raise UserError(_not_now(path, error)) from error


def _not_now(path: Path, error: BaseException) -> str:
    return f"Cannot read {path}: {reason(error)}. It is left as it is; give the same command again."


def row_of(folder: Path, run: str) -> dict[str, Any] | None:
    """The row of `runs` of a run that has ended. None where it has not, and after a warning where the row is
    damaged: then the run may be made again.

    UserError where a row is there that cannot be read now.
    """
    path = table_path(folder, "runs", run)
    try:
        rows = _read_file(path, "runs", SCHEMAS["runs"].names)
    except FileNotFoundError:
        return None
    except Damaged as error:
        message = f"Skipped {path}: not a readable clipbench table ({error}). Delete or move it."
        warnings.warn(message, Unreadable, stacklevel=2)
        return None
    except (OSError, MemoryError) as error:
        raise UserError(_not_now(path, error)) from error
    row: dict[str, Any] = rows.to_pylist()[0]
    return row


def statuses(folder: Path, runs: Iterable[str] | None = None) -> dict[str, str]:
    """{run: status} of those of `runs` that have ended, of all by default. UserError as of `row_of`."""
    found = {}
    if runs is None:
        table = read(folder, "runs", ["run", "status"])
        return dict(zip(table["run"], table["status"], strict=True))
    for run in runs:
        row = row_of(folder, run)
        if row is not None:
            found[run] = row["status"]
    return found
