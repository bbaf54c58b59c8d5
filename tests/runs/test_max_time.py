"""A run whose time is over keeps a checkpoint, counts as unfinished, and goes on when it gets more."""

from pathlib import Path

import pandas as pd
import pytest

from clipbench.api import make_run
from clipbench.cli.main import main
from clipbench.interrupt import never
from clipbench.record import tables
from clipbench.runs.plan import is_finished, make_plan
from clipbench.sweeps.grid import make_plans
from clipbench.sweeps.scheduler import make_runs

OWN = Path(__file__).parents[1].joinpath("tiny.py")
RUN = ["task=line", "steps=60", "eval_every=7", "threads=1"]


@pytest.fixture(autouse=True)
def _slow(line, monkeypatch):
    monkeypatch.setenv("LINE_SECONDS", "0.05")


def plan(*overrides):
    return make_plan([*RUN, "results=there", *overrides], Path())


def rows(table, folder, run):
    return tables.read(Path(folder), table, runs=[run]).drop(columns="seconds", errors="ignore")


def test_it_ends_soon_after_its_time_and_goes_on_bit_for_bit(monkeypatch):
    limited = plan("max_time=0.6s")
    row = make_run(limited, never)
    assert row["status"] == "timeout"
    assert 0.6 <= row["seconds"] < 2.0
    assert 0 < row["steps"] < 60
    assert limited.run_folder.checkpoint_step() == row["steps"]
    assert row["final_test"] is None
    assert is_finished(limited)  # as far as this command goes
    further = plan("max_time=1h")
    assert further.run == limited.run
    assert not is_finished(further)
    monkeypatch.setenv("LINE_SECONDS", "0")
    again = make_run(further, never)
    assert (again["status"], again["steps"]) == ("done", 60)
    assert again["started"] == row["started"]
    assert not further.run_folder.exists
    make_run(plan("results=elsewhere"), never)
    for table in ("steps", "evals"):
        broken, unbroken = rows(table, "there", again["run"]), rows(table, "elsewhere", again["run"])
        pd.testing.assert_frame_equal(broken, unbroken, check_exact=True)


def test_the_same_command_says_what_to_do(capsys):
    command = ["run", "--config-dir", ".", *RUN, "results=there", "max_time=0.3s"]
    assert main(command) == 1
    assert "a larger max_time" in capsys.readouterr().err
    row = runs().iloc[0]
    assert main(command) == 1
    assert "a larger max_time" in capsys.readouterr().err
    assert runs().iloc[0]["ended"] == row["ended"]
    assert main(["status", "there"]) == 0
    printed = capsys.readouterr().out
    assert "1 timeout" in printed
    assert f"{row['steps']}/60" in printed
    assert "larger max_time" in printed


def runs():
    return tables.read(Path("there"), "runs")


def test_in_a_sweep(capsys):
    limit = "max_time=0.0001s"  # over at the first evaluation, however fast the workers are
    plans = make_plans([*RUN, "results=there", limit, "seed=0,1"], Path())
    outcome = make_runs(plans)
    assert len(outcome.out_of_time) == 2
    assert not outcome.is_complete
    assert not outcome.not_made
    assert main(["sweep", "--config-dir", ".", *RUN, "results=there", limit, "seed=0,1"]) == 1
    assert capsys.readouterr().err.count("out of time, to go on give a larger max_time: clipbench run") == 2
    assert main(["rm", "there", "status=timeout", "--yes"]) == 0
    assert runs().empty
    assert not list(Path("there/.work").glob("r*"))


def test_a_run_that_ends_in_time_is_done():
    assert make_run(plan("steps=6", "max_time=10min"), never)["status"] == "done"


@pytest.mark.parametrize("value", ["5", "0s", "soon", "-1h", "[1h]", "true"])
def test_what_is_no_time_is_refused(value, capsys):
    assert main(["run", "--config-dir", ".", *RUN, f"max_time={value}"]) == 2
    assert "max_time must be a time as 30s, 5min or 1h" in capsys.readouterr().err
