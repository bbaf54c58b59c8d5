"""A column is written once, in record/rows.py: a misspelt one is an error, not a column that is lost."""

import pytest
import torch

from clipbench.record import tables
from clipbench.record.outcome import outcome
from clipbench.record.rows import RunEnd
from clipbench.runs.checkpoint import RecordedRows
from clipbench.runs.plan import make_plan
from clipbench.runs.recording import record

CPU = torch.device("cpu")
KNOWN = {"headline": "mcc", "higher_is_better": True}


@pytest.fixture
def plan(tmp_path):
    return make_plan(["task=cola", f"results={tmp_path / 'results'}"])


def test_the_row_of_a_run_has_every_column(plan):
    end = RunEnd("done", 3, 1.5, 0)
    row = record(plan, RecordedRows(), {**KNOWN, **outcome(end, [], KNOWN)}, CPU)
    assert list(row) == tables.SCHEMAS["runs"].names
    assert (row["run"], row["status"], row["steps"], row["headline"]) == (plan.run, "done", 3, "mcc")
    written = tables.read(plan.results, "runs")
    assert (written["run"][0], written["seconds"][0]) == (plan.run, 1.5)


def test_a_misspelt_fact_of_a_run_is_an_error(plan):
    with pytest.raises(TypeError, match="'headlin'"):
        record(plan, RecordedRows(), {"headlin": "mcc"}, CPU)
    assert not plan.results.exists()


def test_a_column_that_the_table_has_not_is_refused(tmp_path):
    with pytest.raises(ValueError, match="The table runs has no column 'sead'"):
        tables.write_rows(tmp_path, "runs", "r1", [{"seed": 1}, {"seed": 1, "sead": 1}])
    assert not list((tmp_path / "runs").iterdir())
