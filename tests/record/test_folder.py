"""What lies under .work, and that removing a run leaves nothing of it."""

import json
import os

import pytest

from clipbench.errors import Unreadable, UserError
from clipbench.record import tables
from clipbench.record.folder import LaunchFolder, RunFolder, run_folders, unfinished_runs
from clipbench.record.state import read_folder

RUN, OTHER = "r" + "0" * 12, "r" + "1" * 12
PLAN = {
    "label": "toy (mini) · sgd · none · seed 0",
    "steps": 100,
    "facts": {"task": "toy", "scale": "mini", "seed": 0},
}


def unfinished(results, run=RUN, step=40):
    folder = RunFolder(results, run)
    folder.write_plan(PLAN)
    folder.checkpoint_path(step).touch()
    return folder


def test_a_plan_is_written_once(tmp_path):
    folder = unfinished(tmp_path)
    assert folder.write_plan({"label": "another"}) == PLAN
    assert folder.plan() == PLAN


@pytest.mark.parametrize("text", ["", "[1, 2]", "{", "null", "\x00"])
def test_a_plan_that_is_damaged_is_named_set_aside_and_written_anew(tmp_path, text):
    folder = unfinished(tmp_path)
    (folder.path / "plan.json").write_text(text)
    with pytest.warns(Unreadable, match=r"plan\.json is damaged"):
        _, found = read_folder(tmp_path)
    assert found[RUN].label == "without a plan"
    with pytest.warns(Unreadable, match=r"lies in .*set-aside"):
        assert folder.write_plan(PLAN) == PLAN
    assert [path.read_text() for path in (tmp_path / "set-aside").iterdir()] == [text]


def test_the_step_of_a_checkpoint_is_in_its_name(tmp_path):
    folder = unfinished(tmp_path, step=1_234_567_890)
    (folder.path / "checkpoint-of-mine.pt").touch()
    (folder.path / ".checkpoint-000000099.pt.abcd.tmp").touch()
    assert folder.checkpoint_step() == 1_234_567_890
    assert RunFolder(tmp_path, OTHER).checkpoint_step() == 0


def test_what_is_unfinished_is_known_by_the_columns_of_runs(tmp_path):
    unfinished(tmp_path)
    rows, found = read_folder(tmp_path)
    assert rows == {}
    assert found[RUN].facts == {"run": RUN, "status": "unfinished", "task": "toy", "scale": "mini", "seed": 0}
    assert (found[RUN].progress, found[RUN].task, found[RUN].owner) == ("40/100", "toy (mini)", None)


def test_a_plan_of_an_earlier_version_has_no_task(tmp_path):
    RunFolder(tmp_path, RUN).write_plan({"label": "toy (mini) · sgd · none · seed 0", "steps": 100})
    _, found = read_folder(tmp_path)
    assert found[RUN].task == "?"


def test_an_owner_is_named(tmp_path):
    folder = unfinished(tmp_path)
    assert folder.lease.acquire() is None
    _, found = read_folder(tmp_path)
    assert found[RUN].owner.name.startswith(f"process {os.getpid()} on ")
    folder.clear_if_abandoned()
    assert folder.exists
    folder.lease.release()
    folder.clear_if_abandoned()
    assert not (tmp_path / ".work").exists()


def test_a_folder_without_files_and_folders_of_others_are_no_runs(tmp_path):
    RunFolder(tmp_path, RUN).path.mkdir(parents=True)
    (tmp_path / ".work" / "notes").mkdir()
    assert list(run_folders(tmp_path)) == [RUN]
    assert unfinished_runs(tmp_path) == []
    with pytest.raises(UserError, match="holds no runs"):
        read_folder(tmp_path)


def write_tables(results, run):
    for table in ("steps", "evals"):
        tables.write_rows(results, table, run, [])
    row = {"task": "toy", "scale": "mini", "optimizer": "sgd", "clipping_type": "none", "seed": 0}
    row |= {"status": "done", "headline": "accuracy", "higher_is_better": True}
    tables.write_rows(results, "runs", run, [{**row, "steps": 0, "seconds": 0.0, "skipped": 0}])


def test_removing_leaves_nothing_of_the_run_and_everything_of_the_others(tmp_path):
    for run in (RUN, OTHER):
        write_tables(tmp_path, run)
        unfinished(tmp_path, run)
        (tmp_path / "steps" / f".{run}.parquet.1a2b3c4d.tmp").touch()
    RunFolder(tmp_path, RUN).remove()
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in left if RUN in str(path)]
    assert len([path for path in left if OTHER in str(path)]) == 6


def test_clearing_takes_half_written_tables_along(tmp_path):
    folder = unfinished(tmp_path)
    (tmp_path / "runs").mkdir()
    partial = tmp_path / "runs" / f".{RUN}.parquet.1a2b3c4d.tmp"
    partial.touch()
    folder.clear()
    assert not partial.exists()


def test_tables_may_lie_behind_a_link_to_another_file_system(tmp_path):
    """A file is written beside its place: it could not be moved there from another file system."""
    other = "/dev/shm"
    if not os.path.isdir(other) or os.stat(other).st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system")
    elsewhere = os.path.join(other, f"clipbench-{os.getpid()}")
    os.mkdir(elsewhere)
    try:
        (tmp_path / "runs").symlink_to(elsewhere)
        write_tables(tmp_path, RUN)
        assert tables.statuses(tmp_path) == {RUN: "done"}
    finally:
        for name in os.listdir(elsewhere):
            os.unlink(os.path.join(elsewhere, name))
        os.rmdir(elsewhere)


def test_launches_have_a_folder_each(tmp_path):
    one, other = LaunchFolder.new(tmp_path), LaunchFolder.new(tmp_path)
    assert one.path != other.path
    one.path.mkdir(parents=True)
    assert list(run_folders(tmp_path)) == []
    one.clear()
    assert not (tmp_path / ".work").exists()


def test_the_plan_is_json_with_infinite_levels(tmp_path):
    facts = {"facts": {"clipping_level": float("inf")}}
    RunFolder(tmp_path, RUN).write_plan(facts)
    assert json.loads((tmp_path / ".work" / RUN / "plan.json").read_text()) == facts
