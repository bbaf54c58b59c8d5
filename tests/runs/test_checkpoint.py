"""A checkpoint is written whole or not at all; one that is damaged costs time, never rows; a full disk is one
message.
"""

import errno
import os
import shutil
import sys
import time
import warnings
import zipfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from clipbench.cli.main import main
from clipbench.errors import Unreadable, UserError
from clipbench.record import tables
from clipbench.record.folder import RunFolder
from clipbench.record.lease import EXPIRES
from clipbench.runs.checkpoint import RecordedRows, checkpoint_rows, save_checkpoint
from clipbench.runs.events import Ended, MadeElsewhere, Refused, Rows, last_rows
from clipbench.runs.lockstep import train_group
from clipbench.sweeps.grid import make_plans

WORDS = (
    "task=line",
    "steps=120",
    "eval_every=40",
    "optim.clipping_type=linear_rand_auto",
    "threads=1",
    "device=cpu",
)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A user's folder with the task of tests/tiny.py, and the working directory in it."""
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "line.yaml").write_text(
        "name: line\n_target_: own_line.Line\nbatch_size: ${batch_size}\n"
    )
    (tmp_path / "own_line.py").write_text(Path(__file__).parents[1].joinpath("tiny.py").read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)
    sys.modules.pop("own_line", None)


def make(folder, steps=None, *more):
    """The run into `folder`, to its end or for so many steps; its plan."""
    (plan,) = make_plans(["seed=3", *WORDS, *more], Path())
    plan = replace(plan, settings=replace(plan.settings, results=str(folder)))
    calls = iter(range(10**9))
    for event in train_group([plan], lambda: steps is not None and next(calls) >= steps):
        if isinstance(event, Refused):
            raise UserError(event.mistake)
    return plan


def assert_same_rows(one, other):
    for table in ("steps", "evals"):
        left, right = (tables.read(Path(folder), table).drop(columns="seconds") for folder in (one, other))
        assert len(left)
        pd.testing.assert_frame_equal(left, right, check_exact=True)
    assert not (Path(other) / ".work").exists()


def test_a_run_that_was_stopped_goes_on_where_it_was(own):
    make("whole")
    plan = make("cut", 60)
    (path,) = plan.run_folder.checkpoints()
    assert (path.name, len(list(checkpoint_rows(plan.run_folder)))) == ("checkpoint-000000060.pt", 60)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make("cut")
    assert_same_rows("whole", "cut")


def test_a_run_of_several_batches_a_step_resumes_at_the_right_batch(own):
    make("whole", None, "accumulate=3")
    make("cut", 25, "accumulate=3")
    make("cut", None, "accumulate=3")
    assert_same_rows("whole", "cut")
    epochs = tables.read(Path("whole"), "steps")["epoch"]
    assert epochs[0] == 3 / 4  # of 128 points in batches of 32


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "of another version": lambda path: torch.save({"learner": {"model": {}}, "rows": {}}, path),
    "half of it": lambda path: torch.save({"learner": torch.load(path)["learner"]}, path),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_named_once_and_the_run_starts_afresh(own, damage):
    make("whole")
    (path,) = make("cut", 60).run_folder.checkpoints()
    damage(path)
    with pytest.warns(
        Unreadable, match=rf"{path.name} cannot be used .* starts from an earlier state"
    ) as caught:
        make("cut")
    assert len(caught) == 1
    assert_same_rows("whole", "cut")


def test_the_one_before_a_damaged_checkpoint_is_used(own):
    """A process killed between writing the new and deleting the old leaves both."""
    make("whole")
    (older,) = make("cut", 60).run_folder.checkpoints()
    kept = older.read_bytes()
    (newer,) = make("cut", 30).run_folder.checkpoints()
    assert (older.name, newer.name) == ("checkpoint-000000060.pt", "checkpoint-000000090.pt")
    older.write_bytes(kept)
    newer.write_bytes(newer.read_bytes()[:-100])
    with pytest.warns(Unreadable, match=newer.name) as caught:
        plan = make("cut", 1)
    assert len(caught) == 1
    assert [path.name for path in plan.run_folder.checkpoints()] == ["checkpoint-000000061.pt"]
    make("cut")
    assert_same_rows("whole", "cut")


@pytest.mark.parametrize("at", ["checkpoint", "end"])
@pytest.mark.parametrize("first_goes_on", ["meanwhile", "afterwards"])
def test_who_stalled_beyond_the_lease_leaves_the_run_to_its_successor(own, first_goes_on, at):
    make("whole")
    plan = make("both", 0)
    stops = []
    first = train_group([plan], lambda: bool(stops))
    advance(first, 30)
    then = time.time() - EXPIRES - 1
    os.utime(plan.run_folder.path / "lease.1", (then, then))
    second = train_group([plan])
    advance(second, 30)
    if at == "checkpoint":
        stops.append("now")
    if first_goes_on == "meanwhile":
        assert f"process {os.getpid()} on " in left_to(first)
        assert sorted(path.name for path in plan.run_folder.path.iterdir()) == ["lease.2", "plan.json"]
    assert [event.row["status"] for event in second if isinstance(event, Ended)] == ["done"]
    if first_goes_on == "afterwards":
        assert left_to(first) == "done"
    assert not Path("both/.work").exists()
    assert_same_rows("whole", "both")


def left_to(events):
    """Who makes the run that this process gave up, without a row of its own, or how it has ended there."""
    left = list(events)
    assert not [event for event in left if isinstance(event, Ended | Refused)]
    [left] = [event for event in left if isinstance(event, MadeElsewhere)]
    return left.owner or left.status


def advance(events, steps):
    for event in events:
        if isinstance(event, Rows) and last_rows(event.rows)[0].step >= steps:
            return


@pytest.mark.parametrize("command", [["run", "seed=3"], ["sweep", "seed=choice(3)"]], ids=["run", "sweep"])
def test_what_a_process_left_that_was_killed_before_clearing_is_cleared(own, command):
    plan = make("results", 60)
    shutil.copytree(plan.run_folder.path, "kept")
    make("results")
    shutil.copytree("kept", plan.run_folder.path)
    assert main([*command, "--config-dir", ".", *WORDS]) == 0
    assert not Path("results/.work").exists()


class Unpicklable:
    """A state that cannot be written."""

    step = 7

    def state_dict(self):
        return {"tensor": torch.ones(10_000), "function": lambda: None}


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    folder = RunFolder(tmp_path, "r1")
    folder.path.mkdir(parents=True)
    before = folder.checkpoint_path(3)
    before.write_bytes(b"the one before")
    with pytest.raises(AttributeError, match="lambda"):
        save_checkpoint(folder, Unpicklable(), RecordedRows())
    assert [path.read_bytes() for path in folder.path.iterdir()] == [b"the one before"]


def test_a_folder_that_takes_no_checkpoint_is_one_message(tmp_path):
    (tmp_path / ".work").write_text("a file where the folder should be")
    with pytest.raises(
        UserError, match=r"Cannot write .*checkpoint-000000007\.pt: .* Free the disk or choose another folder"
    ):
        save_checkpoint(RunFolder(tmp_path, "r1"), Unpicklable(), RecordedRows())


@contextmanager
def largest_file(size):
    """Files of this process grow no further; Python ignores the signal, so that writing raises."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_one_message_and_the_last_checkpoint_stays(own, capsys):
    """Files may not grow much beyond the last checkpoint: the next one, with more rows, is refused."""
    make("whole")
    plan = make("full", 60)
    (path,) = plan.run_folder.checkpoints()
    kept = path.read_bytes()
    command = ["run", "--config-dir", ".", "seed=3", *WORDS, "results=full"]
    with largest_file(len(kept) + 1000):
        code = main([*command, "checkpoint_every=50"])
    error = capsys.readouterr().err
    assert code == 2, error
    said = error.strip().splitlines()[-1]
    assert said.startswith("clipbench: Cannot write full/.work/")
    assert said.endswith(": File too large. Free the disk or choose another folder with results=DIR.")
    assert "Traceback" not in error
    assert plan.run_folder.checkpoints() == [path]
    assert path.read_bytes() == kept
    assert not [path for path in Path("full").rglob(".*") if path.name != ".work"]
    assert not list(Path("full").glob("*/*.parquet"))
    make("full")
    assert_same_rows("whole", "full")


def test_a_damaged_checkpoint_is_set_aside_not_deleted(own):
    """One bit of a weight: torch itself does not see that."""
    make("whole")
    (path,) = make("cut", 60).run_folder.checkpoints()
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as parts:
        part = max(parts.infolist(), key=lambda part: part.file_size)
    content[part.header_offset + 200] ^= 1
    path.write_bytes(content)
    with pytest.warns(Unreadable, match=r"cannot be used .* lies in cut/set-aside/"):
        make("cut")
    (kept,) = Path("cut/set-aside").iterdir()
    assert kept.read_bytes() == content
    assert_same_rows("whole", "cut")


PASSING = {
    "EIO": OSError(errno.EIO, "Input/output error"),
    "ESTALE": OSError(errno.ESTALE, "Stale file handle"),
    "memory": MemoryError(),
    "torch's": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"),
}


@pytest.mark.parametrize("where", ["clipbench.runs.checkpoint.read_file", "torch.load"], ids=["read", "load"])
@pytest.mark.parametrize("error", PASSING.values(), ids=PASSING)
def test_an_error_that_passes_leaves_the_checkpoint(own, monkeypatch, error, where):
    make("whole")
    (path,) = make("cut", 60).run_folder.checkpoints()
    content = path.read_bytes()

    def refuse(*_, **more):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(where, refuse)
        with pytest.raises(UserError, match=r"Cannot read .*left as it is; the same command resumes"):
            make("cut")
    assert path.read_bytes() == content
    make("cut")
    assert_same_rows("whole", "cut")
