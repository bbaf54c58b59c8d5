"""Each cell of each table, damaged in every way: the run is named and left out or, where a run may have that
value, shown; the others are shown as ever, and nothing from a file reaches the terminal unescaped.
"""

import errno
import json
import os
import re
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from madeup import STEPS, write_table

from clipbench.cli.main import main
from clipbench.errors import Unreadable, UserError
from clipbench.record import files, tables
from clipbench.record.folder import RunFolder
from clipbench.record.lease import EXPIRES, Lease, holder
from clipbench.record.rows import RUN, columns
from clipbench.record.state import read_folder

HEALTHY = [f"r{number:012x}" for number in range(6)]
ESCAPE, HTML = "\x1b[2J\x1b]0;gone\x07\n|=1+1", "<script>alert(1)</script>$\\frac$"
DAMAGES = {
    "null": None,
    "list": [1, 2],
    "mapping": {"a": 1},
    "text": "some text",
    "negative": -1,
    "nought": 0,
    "infinite": float("inf"),
    "no number": float("nan"),
    "large": 2**63,
    "empty": "",
    "escape": ESCAPE,
    "html": HTML,
    "list as text": "[[]]",
    "deep": "[" * 5000,
    "mapping as text": json.dumps({"optim": [{"a": [1]}], "b": 10**400, "c": float("nan"), "d": {"e": ""}}),
}
DAMAGED = [f"rd{number:011x}" for number in range(len(DAMAGES))]
CELLS = [(table, column.name) for table in ("runs", "evals", "steps") for column in columns(table)]


def write_run(folder, run, kind, seed, status="done"):
    value = 0.5 + 0.02 * (kind == "norm") + 0.01 * seed + 0.003 * (seed % 2) * (kind == "norm")
    norms = {"grad_norm": 2.0, "clipped_norm": 1.0, "clip_factor": 0.5, "lr": 0.1}
    at = [{"step": i, "epoch": i / 4, "seconds": i / 10, "loss": 1 / i} for i in range(1, STEPS + 1)]
    evals = []
    for step in (4, 8, 12):
        for split in ("train", "val"):
            row = {"step": step, "seconds": step / 10, "split": split, "metric": "accuracy"}
            evals.append({**row, "value": value * step / STEPS})
    config = {"optim": {"name": "sgd", "clipping_type": kind}, "seed": seed, "batch_size": 8}
    row = {"task": "toy", "scale": "mini", "optimizer": "sgd", "lr": 0.1, "clipping_type": kind}
    row |= {"seed": seed, "status": status, "headline": "accuracy", "higher_is_better": True}
    row |= {"final": value, "best": value, "final_test": value, "steps": STEPS, "seconds": 1.2, "skipped": 0}
    row |= {
        "baseline": "majority",
        "baseline_test": 0.3,
        "started": f"{seed:03}",
        "ended": "9",
        "data": "toy",
    }
    row |= {"config": json.dumps(config), "overrides": '["seed=1"]', "versions": '{"torch": "2"}'}
    row |= {"device": "cpu", "threads": 1, "lockstep": 1, "host": "a", "platform": "b", "git": "c"}
    write_table(folder, "steps", run, [step | norms for step in at])
    write_table(folder, "evals", run, evals)
    write_table(folder, "runs", run, [row])


def damage(folder, table, run, column, value):
    """One cell, the last of its column, is `value` and the column has the type for it."""
    path = folder / table / f"{run}.parquet"
    rows = pq.read_table(path)
    cells = rows[column].to_pylist()
    try:
        changed = pa.array([*cells[:-1], value])
    except (pa.ArrowException, OverflowError):  # no type holds both
        kind = pa.uint64() if value == 2**63 else None
        changed = pa.array([value] * len(cells), kind)
    rows = rows.set_column(rows.column_names.index(column), column, changed)
    pq.write_table(rows, path)


@pytest.fixture
def folder(tmp_path):
    for number, run in enumerate(HEALTHY):
        write_run(tmp_path, run, ("none", "norm")[number % 2], number // 2)
    return tmp_path


def damaged_everyway(folder, table, column):
    status = "failed" if column in ("error", "overrides") else "done"
    for number, (run, value) in enumerate(zip(DAMAGED, DAMAGES.values(), strict=True)):
        write_run(folder, run, "norm", 10 + number, status)
        damage(folder, table, run, column, value)


def assert_nothing_obeys(text):
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text)


@pytest.mark.parametrize(("table", "column"), CELLS, ids=map(".".join, CELLS))
def test_any_damaged_cell_leaves_the_others(folder, capsys, table, column):
    damaged_everyway(folder, table, column)
    for command in (["status"], ["table", "--format", "md,latex,csv"]):
        code = main([command[0], str(folder), *command[1:]])
        shown = capsys.readouterr()
        assert code == 0, shown.err
        assert_nothing_obeys(shown.out + shown.err)
        named = {run for run in DAMAGED if run in shown.err}
        if command == ["status"] and table != "runs":
            assert not named
            continue
        assert not [run for run in HEALTHY if run in shown.err]
        of_a_list = DAMAGED[list(DAMAGES).index("list")]
        assert of_a_list in named or column not in looked_at(table)
        if command == ["status"]:
            assert f"{len(HEALTHY) + len(DAMAGED) - len(named)} runs" in shown.out


def looked_at(table):
    """What the report reads of a table; the small ones are read whole."""
    if table == "steps":
        return ["step", "seconds", "loss", "grad_norm", "clipped_norm", "clip_factor"]
    return [column.name for column in columns(table)]


@pytest.mark.slow
@pytest.mark.parametrize(("table", "column"), CELLS, ids=map(".".join, CELLS))
def test_any_damaged_cell_leaves_a_page(folder, capsys, table, column):
    damaged_everyway(folder, table, column)
    assert main(["plot", str(folder), "--out", str(folder / "out")]) == 0
    assert_nothing_obeys(capsys.readouterr().err)
    assert "<script>alert" not in (folder / "out" / "report.html").read_text()


def test_rows_twice_and_files_without_rows_are_damage(folder):
    for table in ("evals", "steps", "runs"):
        path = folder / table / f"{HEALTHY[0]}.parquet"
        rows = pq.read_table(path)
        pq.write_table(pa.concat_tables([rows, rows]), path)
        with pytest.warns(Unreadable, match=HEALTHY[0]):
            assert HEALTHY[0] not in set(tables.read(folder, table)["run"])
    pq.write_table(rows[:0], folder / "runs" / f"{HEALTHY[0]}.parquet")
    with pytest.warns(Unreadable, match="it has 0 rows"):
        assert tables.statuses(folder, HEALTHY[:2]) == {HEALTHY[1]: "done"}


def test_a_damaged_file_is_set_aside_when_its_run_is_recorded_anew(folder):
    path = folder / "runs" / f"{HEALTHY[0]}.parquet"
    row = {**pq.read_table(path).to_pylist()[0]}
    path.write_bytes(b"")
    with pytest.warns(Unreadable, match=r"lies in .*set-aside"):
        tables.write_rows(folder, "runs", HEALTHY[0], [row])
    assert [kept.name for kept in (folder / "set-aside").iterdir()] == [f"runs-{HEALTHY[0]}.parquet"]
    assert tables.statuses(folder, HEALTHY[:1]) == {HEALTHY[0]: "done"}


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE], ids=["EIO", "ESTALE"])
def test_what_a_disk_refuses_is_asked_for_again_then_told_and_left(folder, monkeypatch, code):
    monkeypatch.setattr(files, "BETWEEN", 0)
    asked, real = [], Path.read_bytes

    def refuse(path):
        if path.stem == HEALTHY[0] and len(asked) < limit:
            asked.append(path)
            raise OSError(code, os.strerror(code))
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    limit = 2
    assert len(tables.read(folder, "runs")) == len(HEALTHY)
    limit = 10**9
    before = {path: real(path) for path in folder.rglob("*.parquet")}
    with pytest.raises(UserError, match=r"Cannot read .* left as it is"):
        tables.statuses(folder, HEALTHY)
    with pytest.raises(UserError, match="Cannot read"):
        tables.write_rows(folder, "runs", HEALTHY[0], [])
    with pytest.warns(Unreadable, match="cannot be read now"):
        assert len(tables.read(folder, "runs")) == len(HEALTHY) - 1
    assert {path: real(path) for path in folder.rglob("*.parquet")} == before


LEASES = ["[]", "3", "null", '{"pid": 1}', '{"pid": [], "host": "a", "machine": "a", "started": "1"}']
LEASES += ['{"pid": 1e400, "host": 1, "machine": {}, "started": 1}', "[" * 10**5]
LEASES += ['{"pid": -1, "host": "a", "machine": "a", "started": "1"}']


@pytest.mark.parametrize("content", LEASES, ids=range(len(LEASES)))
def test_a_lease_with_another_content_counts_until_it_expires(tmp_path, content):
    (tmp_path / "lease.1").write_text(content)
    assert "has not written" in str(Lease(tmp_path).acquire())
    then = time.time() - EXPIRES - 1
    os.utime(tmp_path / "lease.1", (then, then))
    assert Lease(tmp_path).acquire() is None


@pytest.mark.parametrize(
    "content", ["[]", '{"pid": 1, "host": "a", "machine": "elsewhere", "started": "1"}'], ids=["", "owner"]
)
def test_a_lease_dated_a_year_ahead_is_nobodys(tmp_path, content):
    (tmp_path / "lease.1").write_text(content)
    then = time.time() + 365 * 86400
    os.utime(tmp_path / "lease.1", (then, then))
    assert holder(tmp_path) is None
    mine = Lease(tmp_path)
    assert mine.acquire() is None
    os.utime(mine.path, (then, then))  # ours is alive, whatever its date
    assert holder(tmp_path).pid == os.getpid()


PLANS = [{"label": ["a"]}, {"label": {"a": 1}}, {"steps": "many"}, {"steps": -1}, {"started": 3}]
PLANS += [{"facts": []}, {"facts": {"task": ["a"]}}, {"facts": {"seed": {}}}, {"facts": {"seed": 2**63}}]
PLANS += [{"overrides": {}}, {"overrides": [1]}, {"label": None}]


@pytest.mark.parametrize("plan", PLANS, ids=map(str, PLANS))
def test_a_plan_of_another_shape_is_named_and_the_rest_is_shown(folder, capsys, plan):
    run = RunFolder(folder, DAMAGED[0])
    run.path.mkdir(parents=True)
    (run.path / "plan.json").write_text(json.dumps(plan))
    assert main(["status", str(folder)]) == 0
    shown = capsys.readouterr()
    assert DAMAGED[0] in shown.err
    assert "6 done" in shown.out
    with pytest.warns(Unreadable, match="is damaged"):
        _, unfinished = read_folder(folder)
    assert unfinished[DAMAGED[0]].label == "without a plan"


def test_the_name_of_the_first_column_is_the_files(folder):
    assert RUN.name == "run"
    path = folder / "runs" / f"{HEALTHY[0]}.parquet"
    path.rename(folder / "runs" / f"{DAMAGED[0]}.parquet")
    with pytest.warns(Unreadable, match=f"run is '{HEALTHY[0]}'"):
        assert len(tables.read(folder, "runs")) == len(HEALTHY) - 1


def test_a_run_whose_row_is_damaged_can_be_removed(folder, capsys):
    path = folder / "runs" / f"{HEALTHY[0]}.parquet"
    path.write_bytes(path.read_bytes()[:50])
    assert main(["rm", str(folder), "status=done", "--yes"]) == 0
    assert path.exists()  # it is meant only where it is named
    assert "Removed 5 runs" in capsys.readouterr().out
    assert main(["rm", str(folder), HEALTHY[0], "--yes"]) == 0
    assert "damaged" in capsys.readouterr().out
    assert not list(folder.rglob(f"*{HEALTHY[0]}*"))
    write_run(folder, HEALTHY[1], "norm", 1)
    damage(folder, "runs", HEALTHY[1], "status", "[[")
    assert main(["rm", str(folder), "status=damaged", "--yes"]) == 0
    assert "Removed 1 run" in capsys.readouterr().out
