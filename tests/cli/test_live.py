"""What stands on a terminal while something is made: no number is cut, whatever the width."""

import io
import re

import pytest
from rich.console import Console
from rich.text import Text

from clipbench.cli.area import area, in_lines
from clipbench.cli.latest import Latest
from clipbench.cli.live import HEADINGS, aligned, shortened, table
from clipbench.cli.overview import Overview
from clipbench.cli.progress import Meter
from clipbench.record.rows import EvalRow, StepRow
from clipbench.runs.events import Ended, MadeElsewhere, Progress, Refused, Resumed, Rows

ROWS = [
    HEADINGS,
    ["cpu #1", "norm clipping_level=1 · seed 0", "350/500", "0.3765", "18.3", "84%", "0.807", "mse 0.440"],
    ["", "auto p_autoclip=0.75 window=10000 · seed 10", "loading", "", "", "", "", ""],
]
NUMBERS = ("350/500", "0.3765", "18.3", "84%", "0.807", "mse 0.440")


@pytest.mark.parametrize(("width", "numbers"), [(32, 2), (45, 2), (59, 4), (79, 6), (99, 6), (200, 6)])
def test_the_table_of_a_sweep_leaves_columns_out_and_cuts_none(width, numbers):
    lines = [line.plain for line in aligned(ROWS, width)]
    assert max(map(len, lines)) <= width
    for number in NUMBERS[:numbers]:
        assert number in lines[1]
    assert not any(number in lines[1] for number in NUMBERS[numbers:])
    assert "0 " in lines[1]  # its seed
    assert "loading" in lines[2]


def test_a_label_keeps_both_its_ends():
    assert shortened("norm clipping_level=1 · seed 0", 15) == "norm cl… seed 0"
    assert shortened("short", 15) == "short"


def terminal(width):
    return Console(file=io.StringIO(), force_terminal=True, width=width, height=20, legacy_windows=False)


@pytest.mark.parametrize("width", [25, 40, 60, 80, 100])
def test_the_bar_of_a_run_fits_and_its_numbers_are_whole(width):
    console = terminal(width)
    words = ["loss 0.1234", "norm 1.23", "clipped 100%", "val mcc 0.712", "accuracy 0.833"]
    with area(console) as place:
        Meter(place).show("step", 120, 1000, words)
        written = console.file.getvalue()
    lines = [re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", line).strip("\r") for line in written.splitlines()]
    assert max(map(len, lines)) < width
    for word in ["120/1000", *words]:
        assert any(word in line for line in lines)
    if width >= 40:
        assert "━━━━━━━━" in written


def test_what_a_narrower_terminal_has_broken_is_taken_away():
    console = terminal(80)
    with area(console) as place:
        place.show([Text("x" * 70), Text("y" * 30)])
        console.file.truncate(0)
        console.size = (30, 20)  # 70 letters take three lines now
        place.show([Text("z")])
        ups = console.file.getvalue().count("\x1b[1A")
    assert ups == 3  # two that were added, and one between the two lines


def test_words_are_broken_between_them():
    assert in_lines(["aa", "bb", "cc"], 6) == ["aa  bb", "cc"]
    assert in_lines(["longer than it", "b"], 5) == ["longer than it", "b"]
    assert in_lines([], 5) == [""]


def step(number, factor):
    return StepRow(number, 0.0, 0.0, 0.5, 2.0, 2.0 * factor, factor, 0.1)


def test_the_latest_of_a_run_is_of_its_last_step_and_its_last_validation():
    latest = Latest()
    evals = [EvalRow(2, 0.0, "val", "mcc", 0.25), EvalRow(2, 0.0, "val", "f1", 0.5)]
    latest.take(Rows("r", (step(1, 0.5), step(2, 1.0), *evals), 0.5))
    latest.take(Rows("r", (step(3, 0.5), step(4, 0.5)), 0.75))
    assert latest.words == ["loss 0.5", "norm 2", "clipped 75%", "val mcc 0.250 f1 0.500"]
    latest.take(Rows("r", (EvalRow(4, 0.0, "val", "loss", 9.0), EvalRow(4, 0.0, "test", "mcc", 0.9)), 0.75))
    assert latest.validation == "mcc 0.250 f1 0.500"


class Planned:
    """As much of a plan as is shown."""

    last_step = 100

    def __init__(self, run):
        self.run, self.label = run, f"run {run}"


def test_what_is_known_of_a_sweep_follows_from_its_events():
    sweep = Overview([Planned(run) for run in "abcdef"])
    at_work = {"cpu #1": ("b", "c"), "cpu #2": ("d",)}
    sweep.take(Progress({"a": "done"}, at_work, waiting=1, elsewhere=frozenset("f")))
    assert sweep.counts == "1 of 6 runs done · 3 running · 1 waiting · 1 made by another process"
    sweep.take(Rows("b", (step(7, 0.5),), 0.5))
    said = [line.plain for line in table(sweep, 200, 20)]
    assert re.fullmatch(r"cpu #1 +run b +7/100 +0.5 +0 +50% +2", said[1])
    assert re.fullmatch(r" +run c +loading", said[2])
    ended = {"status": "diverged", "headline": "mcc", "steps": 9, "seconds": 2.0, "final_test": None}
    assert (
        sweep.take(Ended("b", ended))
        == "2/6  run b  mcc no value on test, diverged after 9 steps, 2 s of training"
    )
    assert sweep.take(Refused("c", "There are no data.")) == ""
    assert sweep.take(MadeElsewhere("e", "process 1 on here")) == ""
    assert sweep.take(MadeElsewhere("f", "", "done")) == "3/6  run f  done, by another process"
    statuses = {"a": "done", "b": "diverged", "c": "not made", "f": "done"}
    sweep.take(Progress(statuses, {"cpu #2": ("d",)}, stopping=True))
    assert sweep.counts == (
        "3 of 6 runs done, 1 of them diverged · 1 not possible · 1 running · finishing the steps at hand"
    )


def test_a_run_that_is_tried_again_is_loading_until_it_has_rows_again():
    sweep = Overview([Planned("a")])
    at_work = Progress(making={"cpu": ("a",)})
    for event in (at_work, Rows("a", (step(7, 0.5),), 0.5), Progress(waiting=1), at_work, Resumed("a", 5)):
        sweep.take(event)
    assert "loading" in table(sweep, 80, 20)[1].plain
    sweep.take(Rows("a", (step(5, 0.5),), 0.5))
    assert " 5/100 " in table(sweep, 80, 20)[1].plain
