"""Showing is not training: whatever becomes of the terminal, the pipe, the log or the figures, the same is
made and kept, and the exit code says so.
"""

import errno
import io
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

import clipbench.cli.result
from clipbench.api import make_run, plan_run
from clipbench.cli.main import main
from clipbench.interrupt import first_interrupt, never
from clipbench.output import LastingStream, lasting_output, listening, only_shown, shown_by
from clipbench.runs.ending import record_failure
from clipbench.sweeps.grid import make_plans
from clipbench.sweeps.scheduler import make_runs

OWN = Path(__file__).parents[1].joinpath("tiny.py")
WORDS = ["--config-dir", ".", "task=line", "steps=20", "eval_every=10"]
OVERRIDES = WORDS[2:]


def rows(folder="results"):
    return pd.read_parquet(Path(folder) / "runs")


class Refusing(io.StringIO):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, text):
        raise self.error

    def flush(self):
        raise self.error


LOST = [
    BrokenPipeError(errno.EPIPE, "Broken pipe"),
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EIO, "Input/output error"),
    ValueError("I/O operation on closed file"),
    RuntimeError("reentrant call inside <_io.BufferedWriter name='<stderr>'>"),
]


@pytest.mark.parametrize("error", LOST, ids=lambda error: type(error).__name__ + str(error)[:12])
def test_a_run_is_made_wherever_its_words_go(line, monkeypatch, error):
    monkeypatch.setattr(sys, "stdout", Refusing(error))
    monkeypatch.setattr(sys, "stderr", Refusing(error))
    assert main(["run", *WORDS]) == 0
    assert rows()["status"].tolist() == ["done"]
    assert main(["run", *WORDS, "task.fail_at=5"]) == 1
    assert isinstance(sys.stdout, Refusing)  # put back


@pytest.mark.parametrize(("error", "code"), [(LOST[0], 0), (LOST[1], 1)])
def test_a_command_that_only_prints_fails_where_its_words_are_lost_to_a_reader_who_wants_them(
    monkeypatch, capsys, error, code
):
    monkeypatch.setattr(sys, "stdout", Refusing(error))
    assert main(["list"]) == code
    assert ("No space left" in capsys.readouterr().err) == bool(code)


def test_streams_that_are_not_there(line, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["run", *WORDS]) == 0
    assert main(["list"]) == 0


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_signs_that_a_terminal_lacks_are_written_otherwise(monkeypatch, encoding):
    there = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", there)
    with lasting_output():
        print("cola · 3 × ± ∞ → \udce9 Ω")
    said = there.buffer.getvalue().decode(encoding)
    assert said.startswith("cola · 3" if encoding != "ascii" else "cola - 3 x +- inf -> ")
    assert "\\udce9" in said


def test_a_sink_that_raises_is_told_no_more_and_the_run_is_made(line, caplog):
    told = []

    def sink(event):
        told.append(event)
        raise KeyError("loss")

    row = make_run(plan_run(OVERRIDES, Path(".")), never, sink)
    assert row["status"] == "done"
    assert len(told) == 1
    assert "The display has failed and shows no more; the work goes on. KeyError" in caplog.text


@pytest.mark.slow
def test_a_sink_that_raises_costs_a_sweep_nothing(line, caplog):
    def sink(event):
        raise OSError(errno.EIO, "the terminal is gone")

    outcome = make_runs(make_plans([*OVERRIDES, "seed=0,1"], Path(".")), sink=sink)
    assert outcome.is_complete
    assert caplog.text.count("The display has failed") == 1


class BadDisplay:
    def __init__(self, fails):
        self.fails = fails

    def __enter__(self):
        if self.fails == "enter":
            raise OSError("no such terminal")
        return print

    def __exit__(self, *raised):
        if self.fails == "exit":
            raise OSError("no such terminal")


@pytest.mark.parametrize("fails", ["enter", "exit"])
def test_a_display_that_cannot_begin_or_end_is_left_out(caplog, fails):
    with shown_by(BadDisplay(fails)) as watch:
        listening(watch)("step 1")
    assert "no such terminal" in caplog.text


def test_what_is_no_matter_of_showing_is_raised(caplog):
    with pytest.raises(KeyboardInterrupt), shown_by(BadDisplay("")), only_shown("The result is not shown"):
        raise KeyboardInterrupt
    assert not caplog.text


@pytest.mark.parametrize("how", ["a file", "drawing raises"])
def test_figures_that_cannot_be_drawn_hide_no_result(line, capsys, caplog, monkeypatch, how):
    if how == "a file":
        Path("results").mkdir()
        Path("results/figures").touch()
    else:
        monkeypatch.setattr(clipbench.cli.result, "draw_run", lambda *_: 1 / 0)
    assert main(["run", *WORDS]) == 0
    assert f"{rows()['final_test'][0]:.3f} on test" in capsys.readouterr().out
    assert "The figure is not drawn" in caplog.text


def test_the_rows_of_a_finished_run_are_not_replaced_by_a_failures(line):
    plan = plan_run(OVERRIDES, Path("."))
    made = make_run(plan, never)
    before = Path(f"results/steps/{plan.run}.parquet").read_bytes()
    assert record_failure(plan, "The worker process was killed.")["status"] == "done"
    assert Path(f"results/steps/{plan.run}.parquet").read_bytes() == before
    assert rows()["ended"].tolist() == [made["ended"]]


# signals


def raise_twice(*numbers):
    """How often the work was asked to stop, and whether it was to stop at once."""
    said = []
    at_once = False
    with first_interrupt(lambda: said.append(1)) as interrupted:
        assert not interrupted()
        try:
            for number in numbers:
                os.kill(os.getpid(), number)
                time.sleep(0)
        except KeyboardInterrupt:
            at_once = True
        assert interrupted() == bool(said)
    return len(said), at_once


@pytest.mark.parametrize(
    ("numbers", "at_once"),
    [
        ([signal.SIGINT], False),
        ([signal.SIGTERM], False),
        ([signal.SIGHUP], False),
        ([signal.SIGINT, signal.SIGINT], True),
        ([signal.SIGTERM, signal.SIGTERM], True),
        ([signal.SIGTERM, signal.SIGINT], True),
        ([signal.SIGHUP, signal.SIGHUP], False),  # from the shell and from the system
        ([signal.SIGHUP, signal.SIGTERM], False),  # a session that is ended
        ([signal.SIGTERM, signal.SIGHUP], False),
    ],
)
def test_one_signal_asks_and_a_user_who_insists_is_heard(numbers, at_once):
    before = {number: signal.getsignal(number) for number in numbers}
    assert raise_twice(*numbers) == (1, at_once)
    assert {number: signal.getsignal(number) for number in numbers} == before


def test_a_hangup_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert raise_twice(signal.SIGHUP, signal.SIGHUP) == (0, False)
    finally:
        signal.signal(signal.SIGHUP, before)


def on_a_terminal(*words, prefix=()):
    """The command as the foreground of a terminal of its own: (process, our end of the terminal)."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "PYTHONUNBUFFERED": "1", "LINE_SECONDS": "0.02", "TERM": "xterm"}
    script = "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); " + (
        "os.execvp(sys.argv[1], sys.argv[1:])"
    )
    command = [sys.executable, "-c", script, *prefix, sys.executable, "-m", "clipbench", *words]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    return process, ours


def read_until(ours, text):
    said = ""
    deadline = time.monotonic() + 120
    while text not in said:
        assert time.monotonic() < deadline, said
        said += os.read(ours, 1 << 16).decode(errors="replace")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["run", "sweep"])
def test_a_terminal_that_closes_is_an_interrupt(line, command):
    more = ["seed=0,1"] if command == "sweep" else []
    process, ours = on_a_terminal(command, *WORDS, "steps=2000", "eval_every=1000", *more)
    read_until(ours, "/2000")
    time.sleep(1)
    os.close(ours)
    assert process.wait(60) == 130
    deadline = time.monotonic() + 30
    while list(Path("results/.work").glob("*/lease.*")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert len(list(Path("results/.work").glob("*/checkpoint-*.pt"))) == len(more) + 1
    assert not Path("results/runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("command", ["run", "sweep"])
def test_under_nohup_a_terminal_that_closes_changes_nothing(line, command):
    more = ["seed=0,1"] if command == "sweep" else []
    script = 'trap "" HUP; exec "$@"'  # nohup would move the output to a file
    words = [command, *WORDS, "steps=150", "eval_every=50", *more]
    process, ours = on_a_terminal(*words, prefix=("sh", "-c", script, "sh"))
    read_until(ours, "/150")
    os.close(ours)
    assert process.wait(120) == 0
    assert set(rows()["status"]) == {"done"}
    assert len(rows()) == len(more) + 1


@pytest.mark.slow
@pytest.mark.parametrize("words", [["run"], ["sweep", "seed=0,1"]], ids=["run", "sweep"])
@pytest.mark.parametrize("out", ["head", "full"])
def test_a_reader_that_leaves_and_a_full_disk_change_nothing(line, words, out):
    command = [sys.executable, "-m", "clipbench", *words, *WORDS]
    if out == "full":
        with open("/dev/full", "w") as full:
            assert subprocess.run(command, stdout=full, stderr=full).returncode == 0
    else:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        process.stdout.close()  # as a `head -0`: nothing is read
        assert process.wait(120) == 0
    assert set(rows()["status"]) == {"done"}
    assert len(rows()) == len(words)


def test_the_stream_below_is_still_there():
    there = io.StringIO()
    lasting = LastingStream(there)
    assert lasting.write("abc") == 3
    lasting.writelines(["d", "e"])
    assert lasting.getvalue() == "abcde"
    assert not lasting.isatty()
    there.close()
    lasting.write("f")
    assert lasting.lost_something
    assert not lasting.isatty()
