"""Three tables that any reader of Parquet can take, written whole or not at all; what is not ours is named
and left alone.
"""

import csv
import io
import math
import os
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from madeup import study

from clipbench.errors import Unreadable, UserError
from clipbench.record import tables
from clipbench.record.files import check_writable
from clipbench.report.table import tables as paper_tables

REFERENCE = Path(__file__).parents[2] / "results" / "reference"

STEP = {
    "step": 1,
    "epoch": 0.1,
    "seconds": 0.2,
    "loss": 1.5,
    "grad_norm": 2.0,
    "clipped_norm": 1.0,
    "clip_factor": 0.5,
    "lr": 0.1,
}
RUN = {"task": "cola", "scale": "mini", "optimizer": "sgd", "clipping_type": "none", "seed": 0}
RUN |= {"status": "done", "final": 0.5, "headline": "mcc", "higher_is_better": True, "steps": 2}
RUN |= {"seconds": 0.2, "skipped": 0}


def write(folder, run, status="done"):
    tables.write_rows(
        folder, "steps", run, [STEP, {**STEP, "step": 2, "loss": math.inf, "grad_norm": math.nan}]
    )
    tables.write_rows(folder, "runs", run, [{**RUN, "status": status}])


def test_pandas_reads_the_folder_as_one_table(tmp_path):
    write(tmp_path, "r1")
    write(tmp_path, "r2")
    table = pd.read_parquet(tmp_path / "steps")
    assert list(table["run"]) == ["r1", "r1", "r2", "r2"]
    assert list(table.columns) == tables.SCHEMAS["steps"].names
    assert table["loss"][1] == math.inf


def test_a_column_that_only_later_files_use_is_there(tmp_path):
    """Readers take the first file's columns, so every file has them all."""
    tables.write_rows(tmp_path, "runs", "r1", [RUN])
    tables.write_rows(tmp_path, "runs", "r2", [{**RUN, "clipping_level": 2.0, "error": "x"}])
    table = pd.read_parquet(tmp_path / "runs")
    assert table["clipping_level"].tolist()[1] == 2.0
    assert table["error"].tolist()[1] == "x"


def test_finished_says_how_each_run_ended(tmp_path):
    write(tmp_path, "r1")
    write(tmp_path, "r2", "diverged")
    tables.write_rows(tmp_path, "steps", "r3", [STEP])  # no row in runs: not complete
    assert tables.statuses(tmp_path) == {"r1": "done", "r2": "diverged"}
    assert tables.statuses(tmp_path, ["r2", "r3"]) == {"r2": "diverged"}
    assert tables.statuses(tmp_path / "nowhere") == {}


@pytest.mark.parametrize("content", [b"", b"PAR1 not really", None], ids=["empty", "torn", "foreign"])
def test_a_file_that_is_not_ours_is_named_and_the_rest_is_read(tmp_path, content):
    write(tmp_path, "r1")
    foreign = tmp_path / "steps" / "other.parquet"
    if content is None:
        pq.write_table(pa.table({"a": [1]}), foreign)
    else:
        foreign.write_bytes(content)
    with pytest.warns(
        Unreadable, match=r"Skipped .*other\.parquet: not a readable clipbench table.* Delete or move it"
    ):
        table = tables.read(tmp_path, "steps")
    assert set(table["run"]) == {"r1"}


def test_only_the_columns_and_runs_asked_for_are_read(tmp_path):
    for run in ("r1", "r2", "r3"):
        write(tmp_path, run)
    table = tables.read(tmp_path, "steps", ["run", "loss"], ["r1", "r3"])
    assert list(table.columns) == ["run", "loss"]
    assert set(table["run"]) == {"r1", "r3"}


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    write(tmp_path, "r1")
    before = (tmp_path / "steps" / "r1.parquet").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match=r"No space left on device\. Free the disk or choose another folder"):
        tables.write_rows(tmp_path, "steps", "r1", [STEP])
    assert (tmp_path / "steps" / "r1.parquet").read_bytes() == before
    assert [path.name for path in (tmp_path / "steps").iterdir()] == ["r1.parquet"]


def test_a_folder_that_cannot_be_written_is_an_error_before_the_run(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"Cannot write to the results folder .*results=DIR"):
        check_writable(tmp_path / "file" / "results")


def test_results_kept_as_a_file_for_each_table_are_read_alike(tmp_path):
    study(tmp_path / "apart")
    together = tmp_path / "together"
    together.mkdir()
    for table in ("runs", "steps", "evals"):
        tables.read(tmp_path / "apart", table).to_parquet(together / f"{table}.parquet", index=False)
    found = {name: paper_tables(tmp_path / name, ["csv"])["csv"] for name in ("apart", "together")}
    assert found["together"] == found["apart"]
    rows = pd.read_parquet(together / "runs.parquet")
    rows.loc[0, "seed"] = None
    rows.to_parquet(together / "runs.parquet", index=False)
    with pytest.warns(Unreadable, match=f"Skipped run {rows.loc[0, 'run']}"):
        assert len(tables.read(together, "runs")) == len(rows) - 1


def test_the_reference_studies_can_be_drawn_again():
    rows = csv.DictReader(io.StringIO(paper_tables(REFERENCE / "study", ["csv"])["csv"]))
    compared = [row for row in rows if row["outcome"]]
    assert {row["task"] for row in compared} == {"cola", "imagenet", "reddit", "voc"}
    assert {(row["n"], row["pairs"]) for row in compared} == {("5", "5")}


@pytest.mark.parametrize("folder", sorted(path.parent for path in REFERENCE.glob("*/runs.parquet")))
def test_every_reference_result_has_what_is_drawn_and_no_place_of_a_machine(folder):
    runs = tables.read(folder, "runs")
    drawn = set(runs.loc[runs["role"] != "tune", "run"])
    for table in ("steps", "evals"):
        assert set(tables.read(folder, table, ["run"])["run"]) == drawn
    for column in ("data", "config"):
        assert not runs[column].str.contains(r"(?:^|[\s(\"])/\w|\w:\\\\", regex=True).any()
    assert runs[["overrides", "error", "host"]].isna().all(axis=None)
