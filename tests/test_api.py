"""From Python: the same runs as the commands', as DataFrames, and nothing printed."""

import multiprocessing
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pandas as pd
import pytest
import torch

import clipbench
from clipbench.cli.main import main

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "python-api.md").read_text()
LINE = "name: line\n_target_: own_line.Line\nbatch_size: ${batch_size}\nexplode_at: -1\nfail_at: -1\n"
SHORT = ["task=line", "steps=6", "eval_every=3", "sweep.workers_per_device=1"]
GRID = [*SHORT, "optim.clipping_type=none,norm", "seed=0,1", "task.fail_at=-1,4"]
STUDY = [*SHORT, "study=quick", "study.trials=2", "study.repetitions=2", "results=study"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where a user works: a task of their own in mine/."""
    folder = tmp_path_factory.mktemp("api")
    (folder / "mine" / "task").mkdir(parents=True)
    (folder / "mine" / "task" / "line.yaml").write_text(LINE)
    (folder / "mine" / "own_line.py").write_text((ROOT / "tests" / "tiny.py").read_text())
    return folder


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield folder
    sys.modules.pop("own_line", None)


@pytest.fixture(scope="module")
def grid(folder):
    """The rows of a sweep of eight runs, four of which fail."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", list(sys.path))
        yield clipbench.sweep([*GRID, "results=grid"], config_dir="mine")


@pytest.fixture(scope="module")
def studied(folder):
    """The rows of a study."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", list(sys.path))
        yield clipbench.study(STUDY, config_dir="mine")


def test_a_run_is_one_row_made_once_and_nothing_is_printed_or_left_behind(here, capfd):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), torch.get_num_threads()
    asked = [*SHORT, "optim.clipping_type=auto", "optim.p_autoclip=0.5", "threads=1"]
    rows = clipbench.run(asked, config_dir="mine")
    row = rows.iloc[0]
    assert len(rows) == 1
    assert (row["task"], row["clipping_type"], row["p_autoclip"], row["status"]) == (
        "line",
        "auto",
        0.5,
        "done",
    )
    written = Path("results/runs", f"{row['run']}.parquet").stat().st_mtime_ns
    pd.testing.assert_frame_equal(clipbench.run(asked, config_dir=Path("mine")), rows)
    assert Path("results/runs", f"{row['run']}.parquet").stat().st_mtime_ns == written
    after = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), torch.get_num_threads()
    assert after == before
    assert capfd.readouterr() == ("", "")


def test_the_command_shows_the_run_that_python_made(here, capsys):
    run = clipbench.run(SHORT, config_dir="mine")["run"].iloc[0]
    assert main(["run", "--config-dir", "mine", *SHORT]) == 0
    shown = capsys.readouterr().out
    assert "It is finished already" in shown
    assert run in shown


def test_a_run_that_fails_is_a_row_with_its_traceback(here):
    row = clipbench.run([*SHORT, "task.fail_at=2"], config_dir="mine").iloc[0]
    assert row["status"] == "failed"
    assert row["error"].endswith("RuntimeError: the disk is on fire\n")


def test_a_sweep_is_all_its_rows_in_the_grids_order(here, grid):
    asked = list(zip(grid["clipping_type"], grid["seed"], grid["status"], strict=True))
    assert asked == [
        (t, seed, end) for t in ("none", "norm") for seed in (0, 1) for end in ("done", "failed")
    ]
    done = grid[grid["status"] == "done"]
    assert set(clipbench.results("grid").evals["split"]) == {"train", "val", "test"}
    assert (done["steps"] == 6).all()


def test_what_was_made_before_comes_back_and_a_failed_run_is_tried_again(here, grid, capfd):
    finished = GRID[:-1]
    times = {path: path.stat().st_mtime_ns for path in Path("grid/runs").iterdir()}
    rows = clipbench.sweep([*finished, "results=grid"], config_dir="mine")
    done = grid[grid["status"] == "done"].reset_index(drop=True)
    pd.testing.assert_frame_equal(rows, done, check_dtype=False)  # a column without null is bool
    assert {path: path.stat().st_mtime_ns for path in Path("grid/runs").iterdir()} == times
    assert capfd.readouterr() == ("", "")


def test_a_mistake_that_some_runs_share_is_raised_after_the_others_are_recorded(here):
    (here / "mine" / "task" / "broken.yaml").write_text(
        LINE.replace("name: line", "name: broken") + "colour: red\n"
    )
    asked = [
        "task=line,broken",
        "steps=6",
        "eval_every=3",
        "optim.clipping_type=norm",
        "seed=0",
        "results=some",
    ]
    with pytest.raises(clipbench.UserError, match=r"colour.*\(1 of 2 runs were not made"):
        clipbench.sweep(asked, config_dir="mine")
    assert list(clipbench.results("some").runs["task"]) == ["line"]


def test_a_study_is_the_rows_of_both_phases(here, studied):
    roles = studied.groupby("role").size()
    methods = studied["method"].nunique()
    assert {"none", "norm"} <= set(studied["method"])
    assert dict(roles) == {"tune": 4 * methods, "final": 2 * methods, "default": 2 * methods}
    assert set(studied["role"][: 4 * methods]) == {"tune"}
    assert not Path("study/figures").exists()


def test_a_study_that_lacks_runs_warns_of_it(here):
    short = ["study=quick", "study.trials=1", "study.repetitions=1"]
    asked = [*SHORT, *short, "optim.clipping_type=norm", "task.fail_at=4"]
    with pytest.warns(UserWarning, match=r"2 of 2 tuning runs failed \(none, norm\)"):
        rows = clipbench.study([*asked, "results=lacking"], config_dir="mine")
    assert set(rows["status"]) == {"failed"}


def test_the_tables_of_a_folder(here, grid):
    found = clipbench.results("grid")
    assert repr(found) == "Results('grid'): 8 runs (4 done, 4 failed) on line (mini)"
    assert set(found.runs["run"]) == set(grid["run"])
    assert len(found.steps) == 4 * 6  # a batch that cannot be drawn ends a run before its rows are read
    assert found.steps is found.steps
    assert {"split", "metric", "value"} <= set(found.evals)


def test_an_empty_folder_has_empty_tables(tmp_path):
    found = clipbench.results(tmp_path)
    assert repr(found) == f"Results('{tmp_path}'): 0 runs"
    assert found.steps.empty


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: clipbench.run("task=line seed=1"), "a list of strings, one for each key"),
        (lambda: clipbench.sweep("task=line"), "got 'task=line'"),
        (lambda: clipbench.run([("task", "line")]), "An override is a string KEY=VALUE"),
        (lambda: clipbench.run(["--config-dir", "mine"]), 'config_dir="DIR"'),
        (lambda: clipbench.run(["task=lien"], "mine"), "Unknown task 'lien'. Did you mean 'line'?"),
        (lambda: clipbench.run(["seed=0,1"]), "has several values"),
        (lambda: clipbench.run(["hydra/launcher=joblib"]), "a launcher makes a sweep"),
        (lambda: clipbench.run(SHORT, config_dir="nowhere"), "nowhere is not a folder"),
        (lambda: clipbench.sweep(["optim.clpping_type=norm"]), "Did you mean 'optim.clipping_type'"),
        (lambda: clipbench.study(["study=qick"]), "Unknown study 'qick'. Did you mean 'quick'?"),
        (lambda: clipbench.results("nowhere"), "There is no folder nowhere"),
    ],
)
def test_a_mistake_is_a_user_error(here, call, message):
    with pytest.raises(clipbench.UserError, match=re.escape(message)):
        call()


def test_in_a_thread_as_under_a_notebooks_server(here):
    found = []
    thread = threading.Thread(
        target=lambda: found.append(clipbench.run([*SHORT, "seed=7"], config_dir="mine"))
    )
    thread.start()
    thread.join()
    assert found[0]["status"].iloc[0] == "done"


def test_an_interrupt_writes_checkpoints_and_the_same_call_resumes(here, monkeypatch):
    """Ctrl-C comes as the third batch is drawn."""
    from own_line import Line

    batches = Line.train_batches

    def interrupted(self, rng):
        for i, batch in enumerate(batches(self, rng)):
            if i == 2:
                signal.raise_signal(signal.SIGINT)
            yield batch

    asked = [*SHORT, "seed=8", "results=cut"]
    with monkeypatch.context() as patch:
        patch.setattr(Line, "train_batches", interrupted)
        with pytest.raises(KeyboardInterrupt):
            clipbench.run(asked, config_dir="mine")
    assert repr(clipbench.results("cut")) == "Results('cut'): 0 runs; 1 unfinished"
    clipbench.run(asked, config_dir="mine")
    whole = clipbench.run([*asked[:-1], "results=whole"], config_dir="mine")
    cut, steps = (clipbench.results(name).steps.drop(columns="seconds") for name in ("cut", "whole"))
    pd.testing.assert_frame_equal(cut, steps)
    assert whole["status"].iloc[0] == "done"


@pytest.mark.parametrize("command", [["unguarded.py"], ["-"]], ids=["a file", "from a pipe"])
def test_a_script_needs_no_main_guard(here, command):
    """Worker processes leave the main program out: it is run once."""
    asked = [*SHORT, "optim.clipping_type=none,norm", "seed=0", "results=unguarded"]
    script = f"import clipbench\nclipbench.sweep({asked}, config_dir='mine')\nprint('once')\n"
    Path("unguarded.py").write_text(script)
    answer = subprocess.run([sys.executable, *command], input=script, capture_output=True, text=True)
    assert (answer.returncode, answer.stdout) == (0, "once\n"), answer.stderr
    assert list(clipbench.results("unguarded").runs["status"]) == ["done", "done"]


def test_in_a_process_of_somebody_elses_pool_it_is_one_clear_error(monkeypatch):
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(clipbench.UserError, match="Put what it does under `if __name__ =="):
        clipbench.sweep(["task=cola", "steps=1"])


def test_the_module_is_a_command():
    answer = subprocess.run([sys.executable, "-m", "clipbench", "--version"], capture_output=True, text=True)
    assert answer.stdout == f"clipbench {clipbench.__version__}\n"


def test_names_are_offered_and_others_refused():
    assert {"run", "sweep", "study", "results", "UserError"} <= set(dir(clipbench))
    with pytest.raises(AttributeError, match="no attribute 'rnu'"):
        _ = clipbench.rnu


EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
DOCSTRINGS = [clipbench.run, clipbench.sweep, clipbench.study, clipbench.results]


def shortened(code):
    """The same example on a task of a few milliseconds; a sweep's and a study's runs are made already."""
    code = code.replace(
        '"task=cola"', '"task=line", "steps=6", "eval_every=3", "sweep.workers_per_device=1"'
    ).replace(', "steps=20"', "")
    code = re.sub(r'"study=quick"(, "study.trials=2")?', str(STUDY[4:])[1:-1], code)
    code = re.sub(
        r'"optim.clipping_type=none,norm.*?", "seed=.*?"', str([*GRID[4:6], "results=grid"])[1:-1], code
    )
    return re.sub(r"(clipbench\.(run|sweep|study)\(.*?\])\)", r'\1, config_dir="mine")', code)


def test_the_pages_examples_run(here, grid, studied, capsys):
    """As one notebook would, one after the other."""
    assert len(EXAMPLES) == 4
    for example in EXAMPLES:
        exec(compile(shortened(example), "python-api.md", "exec"), {"__name__": "__main__"})
    shown = capsys.readouterr().out
    assert "done mse" in shown
    assert "Results('results')" in shown


@pytest.mark.parametrize("function", DOCSTRINGS, ids=lambda function: function.__name__)
def test_the_docstrings_examples_run(here, grid, studied, function):
    lines = re.findall(r"^ *>>> (.*)$", function.__doc__, re.MULTILINE)
    names = {}
    exec(compile(shortened("\n".join(lines)), function.__name__, "exec"), names)
    assert "clipbench" in names
