"""The three tables: one Parquet file per run and table, so that any reader of Parquet can take the folder as a database.

results/steps/<run>.parquet   one row per training step
results/evals/<run>.parquet   one row per evaluation, split and metric
results/runs/<run>.parquet    one row, written last: its existence means that the run is complete
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from clipbench.errors import Unreadable, UserError

TEXT, INT, REAL, SINGLE, FLAG = pa.string(), pa.int64(), pa.float64(), pa.float32(), pa.bool_()

SCHEMAS = {
    "steps": pa.schema(
        {
            "run": TEXT,
            "step": INT,
            "epoch": REAL,
            "seconds": REAL,
            "loss": SINGLE,
            "grad_norm": SINGLE,
            "clipped_norm": SINGLE,
            "clip_factor": SINGLE,
            "lr": REAL,
        }
    ),
    "evals": pa.schema({"run": TEXT, "step": INT, "seconds": REAL, "split": TEXT, "metric": TEXT, "value": REAL}),
    "runs": pa.schema(
        {
            "run": TEXT,
            "task": TEXT,
            "scale": TEXT,
            "optimizer": TEXT,
            "lr": REAL,
            "clipping_type": TEXT,
            "clipping_level": REAL,
            "p_autoclip": REAL,
            "beta": REAL,
            "seed": INT,
            "status": TEXT,
            "headline": TEXT,
            "higher_is_better": FLAG,
            "final": REAL,
            "best": REAL,
            "final_test": REAL,
            "baseline": TEXT,
            "baseline_test": REAL,
            "steps": INT,
            "seconds": REAL,
            "skipped": INT,
            "started": TEXT,
            "ended": TEXT,
            "data": TEXT,
            "config": TEXT,
            "overrides": TEXT,
            "error": TEXT,
            "device": TEXT,
            "host": TEXT,
            "platform": TEXT,
            "threads": INT,
            "versions": TEXT,
            "git": TEXT,
        }
    ),
}
"""Explicit, because a reader of the folder takes the first file's columns and would drop what only later files have."""


def write_rows(folder: Path, table: str, run: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Put `rows` in place as `<folder>/<table>/<run>.parquet`, whole or not at all. UserError where the folder cannot be written."""
    path = folder / table / f"{run}.parquet"
    partial = path.with_name(f".{run}.{os.getpid()}.tmp")  # readers of a folder ignore names with a leading dot
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist([{"run": run, **row} for row in rows], SCHEMAS[table]), partial)
        os.replace(partial, path)
    except OSError as error:
        raise UserError(
            f"Cannot write {path}: {error.strerror or error}. Free the disk or choose another folder with results=DIR."
        ) from error
    finally:
        partial.unlink(missing_ok=True)


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


def read(folder: Path, table: str, columns: Sequence[str] | None = None, runs: Iterable[str] | None = None) -> pd.DataFrame:
    """All rows of a table, or those of the given runs. One that is damaged or not ours is named in a warning (Unreadable) and skipped."""
    schema = SCHEMAS[table]
    columns = list(columns or schema.names)
    paths = sorted((folder / table).glob("[!.]*.parquet")) if runs is None else [folder / table / f"{run}.parquet" for run in runs]
    tables = [part for path in paths if (part := _read_file(path, schema, columns)) is not None]
    empty = pa.schema([schema.field(name) for name in columns]).empty_table()
    return pa.concat_tables([empty, *tables]).to_pandas()


def _read_file(path: Path, schema: pa.Schema, columns: list[str]) -> pa.Table | None:
    try:
        table = pq.ParquetFile(path).read(columns=columns)
        if missing := set(columns) - set(table.column_names):
            raise ValueError(f"it has no column {sorted(missing)[0]!r}")
        return table.select(columns).cast(pa.schema([schema.field(name) for name in columns]))
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        warnings.warn(f"Skipped {path}: not a readable clipbench table ({reason}). Delete or move it.", Unreadable, stacklevel=3)
        return None


def finished(folder: Path) -> dict[str, str]:
    """{run: status} of every complete run. A failed one is among them; whether to repeat it is the caller's decision."""
    table = read(folder, "runs", ["run", "status"])
    return dict(zip(table["run"], table["status"], strict=True))
