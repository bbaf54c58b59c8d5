"""A folder at rest: what status says of it, what rm takes out of it, and what a dry run says."""

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from clipbench.cli.main import main
from clipbench.record import tables
from clipbench.record.lease import Lease
from clipbench.runs.ending import record_failure
from clipbench.runs.lockstep import train_group
from clipbench.sweeps.grid import make_plans

TRACEBACK = """Traceback (most recent call last):
  File "loop.py", line 9, in work
    go()
  File "a.py", line 1, in go
    burn(disk)
    ^^^^^^^^^^
RuntimeError: the disk is on fire
"""
WORDS = ["task=line", "steps=20", "eval_every=10"]
SLOW = """
import time
from own_line import Line

class Slow(Line):
    def train_batches(self, rng):
        for batch in super().train_batches(rng):
            time.sleep(0.02)
            yield batch

    def eval_batches(self, split):
        time.sleep(0.2)
        yield from super().eval_batches(split)
"""


def make(*words, stopped=lambda: False):
    plans = make_plans([*WORDS, *words], Path("."))
    for plan in plans:
        for _ in train_group([plan], stopped):
            pass
    return [plan.run for plan in plans]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """results/ with six done runs, a diverged, a failed and an unfinished one; ids by how they ended."""
    folder, here = tmp_path_factory.mktemp("made"), os.getcwd()
    (folder / "task").mkdir()
    (folder / "task" / "line.yaml").write_text(
        "name: line\n_target_: own_line.Line\nbatch_size: ${batch_size}\nexplode_at: -1\nfail_at: -1\n"
    )
    (folder / "own_line.py").write_text(Path(__file__).parents[1].joinpath("tiny.py").read_text())
    os.chdir(folder)
    path = list(sys.path)
    try:
        runs = {"done": make("optim.clipping_type=none,norm,auto", "seed=0,1")}
        runs["diverged"] = make("task.explode_at=7", "optim.clipping_type=norm", "seed=2")
        with pytest.raises(RuntimeError, match="on fire"):
            make("task.fail_at=5", "optim.clipping_type=norm", "seed=3")
        (failed,) = make_plans([*WORDS, "task.fail_at=5", "optim.clipping_type=norm", "seed=3"], Path("."))
        record_failure(failed, TRACEBACK)
        runs["failed"] = [failed.run]
        ticks = iter([False] * 5 + [True] * 1000)
        runs["unfinished"] = make(
            "optim.clipping_type=norm", "seed=4", "steps=2000", stopped=lambda: next(ticks)
        )
        yield folder, runs
    finally:
        os.chdir(here)
        sys.path[:] = path
        sys.modules.pop("own_line", None)


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
    shutil.copytree(made[0], tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return made[1]


def left(place=Path("results")):
    return {path.stem for name in ("runs", "evals", "steps", ".work") for path in (place / name).glob("r*")}


def test_status_counts_what_ended_how_and_shows_what_is_to_do(folder, capsys):
    assert main(["status"]) == 0
    shown = capsys.readouterr().out
    assert "9 runs: 6 done, 1 diverged, 1 failed, 1 unfinished\n" in shown
    assert re.search(r"^line \(mini\) +6 +1 +· +· +1 +1 +·$", shown, re.MULTILINE)
    checkpoint = next(Path("results/.work", folder["unfinished"][0]).glob("checkpoint-*.pt"))
    step = int(checkpoint.stem.split("-")[1])
    assert 0 < step < 2000
    assert re.search(
        rf"{folder['unfinished'][0]} +{step}/2000 +line \(mini\) · adamw · norm clipping_level=1 · seed 4",
        shown,
    )
    words = "--config-dir . threads=1 task=line steps=20 eval_every=10 task.fail_at=5"
    words += " optim.clipping_type=norm seed=3"
    assert f"clipbench run {words}\n" in shown
    assert "    burn(disk)\n      RuntimeError: the disk is on fire\n" in shown
    assert "^" not in shown
    assert "loop.py" not in shown


def test_status_names_who_is_at_work(folder, capsys):
    lease = Lease(Path("results/.work", folder["unfinished"][0]))
    assert lease.acquire() is None
    assert main(["status", "results/"]) == 0
    shown = capsys.readouterr().out
    assert "1 unfinished; 1 being made now" in shown
    assert f"Being made by process {os.getpid()} on " in shown
    lease.release()
    assert main(["status", "results/"]) == 0
    assert "nobody at work" in capsys.readouterr().out


def test_a_failed_run_that_is_tried_again_is_shown_as_being_made(folder, capsys):
    lease = Lease(Path("results/.work", folder["failed"][0]))
    assert lease.acquire() is None
    assert main(["status"]) == 0
    shown = capsys.readouterr().out
    assert "1 failed, 1 unfinished; 1 being made now" in shown
    assert "Failed." not in shown


def test_a_dead_workers_report_is_shown_from_its_start():
    from clipbench.cli.describe import last_lines

    report = (
        "The worker process on cpu #1 was killed by SIGSEGV.\n"
        "Fatal Python error: Segmentation fault\n\nCurrent thread:\n" + "  File\n" * 50
    )
    assert last_lines(report).splitlines()[0] == "The worker process on cpu #1 was killed by SIGSEGV."


@pytest.mark.parametrize(
    ("place", "message"), [("nowhere", "There is no folder nowhere"), ("task", "task holds no runs")]
)
def test_a_folder_without_results_is_a_mistake(folder, capsys, place, message):
    for command in (["status", place], ["rm", place, "seed=1"]):
        assert main(command) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", [["status"], ["rm", "results", "seed=0", "--yes"]])
def test_neither_torch_nor_hydra_is_imported(folder, command):
    script = f"import sys\nfrom clipbench.cli.main import main\nassert main({command}) == 0\n"
    script += "print(' '.join(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not set(answer.stdout.splitlines()[-1].split()) & {"torch", "hydra", "matplotlib"}


@pytest.mark.parametrize(
    ("words", "taken"),
    [
        (["status=failed"], {"failed": 1}),
        (["status=failed,diverged"], {"failed": 1, "diverged": 1}),
        (["clipping_type=norm", "seed=0"], {"done": 1}),
        (["clipping_type!=norm"], {"done": 4}),
        (["seed>=1", "seed<3"], {"done": 3, "diverged": 1}),
        (["seed>1", "status!=diverged"], {"failed": 1}),
        (["clipping_level=1.0"], {"done": 2, "diverged": 1, "failed": 1}),
        (["clipping_level=null"], {"done": 4}),
        (["clipping_level=inf"], {}),
        (["final_test<=1e9"], {"done": 6}),
        (["task=line", "higher_is_better=false", "status=done"], {"done": 6}),
        (["status=unfinished"], {"unfinished": 1}),
        (["status=unfinished", "seed=4", "clipping_type=norm"], {"unfinished": 1}),
        (["status=unfinished", "clipping_type!=norm"], {}),
        (["status=unfinished", "final!=3"], {}),
        (["seed=4"], {}),  # an unfinished run that is not named as one
        (
            ["status=done,diverged,failed,timeout,unfinished"],
            {"done": 6, "diverged": 1, "failed": 1, "unfinished": 1},
        ),
    ],
)
def test_a_filter_takes_the_runs_for_which_all_its_words_hold(folder, capsys, words, taken):
    before = left()
    assert main(["rm", "results/", *words, "--yes"]) == 0
    gone = before - left()
    assert {how: len(gone & set(runs)) for how, runs in folder.items() if gone & set(runs)} == taken
    shown = capsys.readouterr().out
    assert ("Nothing to remove" in shown) == (not taken)
    assert not any(Path("results/.work", run).exists() for run in gone)


def test_ids_name_runs_and_several_of_them_name_them_all(folder):
    chosen = {folder["done"][0], folder["done"][3], folder["unfinished"][0]}
    before = left()
    assert main(["rm", "results/", "--yes", *chosen]) == 0
    assert before - left() == chosen


def test_a_run_that_is_removed_is_made_again(folder):
    run = folder["done"][0]
    assert main(["rm", "results", run, "-y"]) == 0
    assert run not in tables.statuses(Path("results"))
    assert run in make("optim.clipping_type=none,norm,auto", "seed=0,1")
    assert tables.statuses(Path("results"))[run] == "done"


def test_what_a_living_process_holds_is_left_alone(folder, capsys):
    lease = Lease(Path("results/.work", folder["failed"][0]))
    assert lease.acquire() is None
    before = left()
    assert main(["rm", "results", "status=failed,diverged", "--yes"]) == 0
    assert before - left() == set(folder["diverged"])
    assert (
        f"Left alone: {folder['failed'][0]} is being made by process {os.getpid()}" in capsys.readouterr().out
    )


def test_rows_without_their_end_are_removed_as_unfinished(folder):
    """As after a removal that was killed between the tables."""
    run = folder["done"][0]
    Path("results/runs", f"{run}.parquet").unlink()
    assert main(["rm", "results", run, "--yes"]) == 0
    assert run not in left()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "All of them: clipbench rm results status=done,diverged,failed,timeout,unfinished"),
        (["clipping_typ=norm"], "Unknown column 'clipping_typ'. Did you mean 'clipping_type'?"),
        (["optim.clipping_type=norm"], "Did you mean 'clipping_type'?"),
        (["seed"], "In a shell < and > need quotes"),
        (["seed=two"], "seed is a number (inf and null are allowed), got 'two'"),
        (["seed<1,2"], "'seed<1,2': < takes one value"),
        (["higher_is_better=1"], "is true or false, got '1'"),
        (["r0123456789ab"], "neither the id of a run there nor KEY=VALUE"),
        (["status=done"], "where nobody can be asked, add --yes"),
        (["status=done", "--force"], "nrecognized arguments: --force"),
    ],
)
def test_a_filter_that_means_nothing_removes_nothing(folder, capsys, words, message):
    before = left()
    assert main(["rm", "results", *words]) == 2
    assert message in capsys.readouterr().err
    assert left() == before


def test_where_the_folder_is_forgotten_the_message_says_so(folder, capsys):
    assert main(["rm", "status=failed"]) == 2
    assert "The folder comes first" in capsys.readouterr().err


def on_a_terminal(*words, reply):
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "clipbench", *words]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown, until = "", time.monotonic() + 60
    while time.monotonic() < until and "[y/N]" not in shown and process.poll() is None:
        if select.select([ours], [], [], 0.2)[0]:
            shown += os.read(ours, 4096).decode()
    os.write(ours, reply)
    code = process.wait(60)
    os.close(ours)
    return code, shown


def test_on_a_terminal_it_lists_and_asks(folder):
    before = left()
    code, shown = on_a_terminal("rm", "results", "clipping_type=norm", "seed=0", reply=b"n\n")
    assert code == 0
    assert "1 run of 9 in results:" in shown
    assert "line (mini) · adamw · norm clipping_level=1 · seed 0" in shown
    assert left() == before
    assert on_a_terminal("rm", "results", "clipping_type=norm", "seed=0", reply=b"\x04")[0] == 0  # Ctrl-D
    assert left() == before
    assert on_a_terminal("rm", "results", "clipping_type=norm", "seed=0", reply=b"y\n")[0] == 0
    assert len(before - left()) == 1


def tree(place):
    return {path: path.stat().st_mtime_ns for path in Path(place).rglob("*")}


def dry(capsys, *words):
    assert main(["sweep", "--config-dir", ".", "--dry-run", *WORDS, *words]) == 0
    return capsys.readouterr().out


def test_a_dry_run_says_what_there_is_to_do_and_writes_nothing(folder, capsys):
    before = tree(".")
    shown = dry(capsys, "optim.clipping_type=none,norm,auto", "seed=range(4)", "sweep.workers_per_device=2")
    assert "12 runs into results: 6 finished, 6 to do" in shown
    assert "6 new, 0 unfinished that resume from a checkpoint, 0 failed that are tried again" in shown
    assert "side by side: 2 groups of 3 runs; on 2 slots: cpu #1, cpu #2" in shown  # seeds 2 and 3
    assert "Nothing was started." in shown
    assert "1 unfinished that resume" in dry(capsys, "optim.clipping_type=norm,none", "seed=4", "steps=2000")
    assert "1 failed that are tried again" in dry(
        capsys, "task.fail_at=5", "optim.clipping_type=norm", "seed=3,4"
    )
    assert "1 finished (1 diverged), 0 to do" in dry(
        capsys, "task.explode_at=7", "optim.clipping_type=norm", "seed=2"
    )
    assert tree(".") == before


UNITS = {"s": 1, "min": 60, "h": 3600, "days": 86400}


def test_a_dry_run_into_a_folder_that_is_not_there_times_some_steps(folder, capsys):
    """A batch takes 20 ms and a validation 200: 100 000 steps with 10 000 validations are then at least 4000
    s.
    """
    Path("own_slow.py").write_text(SLOW)
    Path("task/slow.yaml").write_text(
        Path("task/line.yaml").read_text().replace("own_line.Line", "own_slow.Slow").replace("line", "slow")
    )
    threads = torch.get_num_threads()
    shown = dry(
        capsys,
        "task=slow",
        "results=other",
        "steps=100000",
        "eval_every=10",
        "optim.clipping_type=norm",
        "seed=0",
    )
    assert torch.get_num_threads() == threads
    step, validation, steps = re.search(
        r"(\S+) s a step and (\S+) s a validation, timed over (\d+) steps just now", shown
    ).groups()
    assert float(step) >= 0.02
    assert float(validation) >= 0.2
    assert 1 < int(steps) <= 20
    told, unit = re.search(r"About (\S+) (\w+): steps and", shown).groups()
    assert float(told) * UNITS[unit] == pytest.approx(1e5 * float(step) + 1e4 * float(validation), rel=0.05)
    assert not Path("other").exists()


def test_the_estimate_is_the_median_of_runs_of_its_kind(folder, capsys):
    """20 steps in 20, 40 and 400 s are 2 s a step in the middle; 4 runs of 30 steps are then 240 s on one
    slot, 120 s on two.
    """
    for path, seconds in zip(sorted(Path("results/runs").iterdir()), [20.0, 40.0, 400.0], strict=False):
        (row,) = pq.read_table(path).to_pylist()
        row |= {"seconds": seconds, "steps": 20, "status": "done", "headline": "loss"}
        tables.write_rows(Path("known"), "runs", path.stem, [row | {"higher_is_better": False}])
    words = ("results=known", "optim.clipping_type=norm,none", "seed=7,8", "steps=30")
    shown = dry(capsys, *words, "sweep.workers_per_device=1")
    assert "2 s a step, the median of 3 runs" in shown
    assert "120 steps left" in shown
    assert "About 4 min: " in shown
    assert "About 2 min: " in dry(capsys, *words, "sweep.workers_per_device=2")
    shown = dry(capsys, *words, "sweep.workers_per_device=1", "optim=adamw,sgd")
    assert re.search(r"line \(mini\) · sgd .* s a step and .* timed over 20 steps just now", shown)
    assert "About 4 min: " in shown  # the others are done within a second
    assert "timed over" in dry(capsys, *words, "batch_size=8")
    shown = dry(capsys, *words, "sweep.workers_per_device=1", "optim=adamw,sgd", "task.fail_at=3")
    assert "no estimate: RuntimeError: the disk is on fire" in shown
    assert "About 4 min for 4 of the 8 runs: " in shown


def test_a_dry_run_with_a_launcher_speaks_of_jobs(folder, capsys):
    shown = dry(capsys, "optim.clipping_type=norm", "seed=0,7", "hydra/launcher=joblib")
    assert "a job each for hydra/launcher=joblib" in shown
    assert "side by side" not in shown
