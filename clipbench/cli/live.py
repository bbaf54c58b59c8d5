"""What a person sees of a sweep while it is made: one live table on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.text import Text

from clipbench.cli.area import GAP, area, can_be_written_anew, in_lines
from clipbench.cli.messages import console as messages_console
from clipbench.cli.messages import duration
from clipbench.cli.result import outcome
from clipbench.runs.plan import Plan
from clipbench.sweeps.state import Listener, SweepState

LINE_EVERY = 60.0  # seconds between lines on how far the sweep is, in a log
KNOWN_AFTER = 3.0  # seconds until the speed says something about the rest
AROUND_THE_TABLE = 4  # lines of the terminal that are neither a run's nor the summary's
PART = " · "  # between the parts of a run's label, and of the summary


@contextmanager
def live_table() -> Iterator[Listener]:
    """A function to be told the state now and then, and each run that ends with its row."""
    console = messages_console(stderr=True)
    pace = Pace()
    if not can_be_written_anew(console):
        yield _Lines(pace)
        return
    with area(console) as place:

        def show(state: SweepState, ended: Plan | None, row: dict[str, Any] | None) -> None:
            pace.take(state)
            if ended:
                console.print(ended_line(state, ended, row), soft_wrap=True)
            place.show(table(state, pace, place.width, console.height))

        yield show


class _Lines:
    """Into a log: each run that ends, and once a minute how far the sweep is."""

    def __init__(self, pace: Pace) -> None:
        self.pace, self.last_line = pace, time.monotonic()

    def __call__(self, state: SweepState, ended: Plan | None, row: dict[str, Any] | None) -> None:
        self.pace.take(state)
        if ended:
            print(ended_line(state, ended, row), file=sys.stderr, flush=True)
        elif time.monotonic() - self.last_line > LINE_EVERY:
            print(counts(state, self.pace), file=sys.stderr, flush=True)
            self.last_line = time.monotonic()


class Pace:
    """Steps made since the first were seen, over all runs, and what that says about the rest."""

    def __init__(self) -> None:
        self.first: dict[str, int] = {}
        self.steps: dict[str, int] = {}
        self.seen: dict[str, float] = {}
        self.started = self.now = time.monotonic()

    def take(self, state: SweepState) -> None:
        self.now = time.monotonic()
        for run, latest in state.at.items():
            if run not in self.first:
                self.first[run], self.seen[run] = latest.step, self.now
            self.steps[run] = latest.step
        for run in state.status:
            if run in self.first:
                self.steps[run] = max(self.steps[run], state.plans[run].last_step)

    def speed(self, run: str) -> float:
        """Steps per second of one run."""
        steps = self.steps.get(run, 0) - self.first.get(run, 0)
        return steps / max(1e-9, self.now - self.seen.get(run, self.now))

    def left(self, state: SweepState) -> float | None:
        """Seconds until nothing is left, at the speed so far; None while that is not known."""
        steps = sum(self.steps[run] - self.first[run] for run in self.first)
        if not steps or self.now - self.started < KNOWN_AFTER:
            return None
        rest = 0
        for run, plan in state.plans.items():
            if run not in state.status:
                rest += plan.last_step - self.steps.get(run, 0)
        return rest * (self.now - min(self.seen.values())) / steps


def counts(state: SweepState, pace: Pace) -> str:
    """ "7 of 18 runs done, 1 of them diverged · 4 running · 7 waiting · about 3 min left"."""
    status = Counter(state.status.values())
    ended = status["done"] + status["diverged"] + status["stopped"]
    done = f"{ended} of {len(state.plans)} runs done"
    if status["diverged"]:
        done += f", {status['diverged']} of them diverged"
    parts = [done]
    if status["failed"]:
        parts.append(f"{status['failed']} failed")
    if status["not made"]:
        parts.append(f"{status['not made']} not possible")
    running = 0
    for group in state.making.values():
        running += sum(plan.run not in state.status for plan in group)
    parts.append(f"{running} running")
    if state.waiting:
        parts.append(f"{sum(map(len, state.waiting))} waiting")
    if state.elsewhere:
        parts.append(f"{len(state.elsewhere)} made by another process")
    left = pace.left(state)
    if state.stopping:
        parts.append("finishing the steps at hand")
    elif left is not None:
        parts.append(f"about {duration(left)} left")
    return PART.join(parts)


def ended_line(state: SweepState, plan: Plan, row: Mapping[str, Any] | None) -> str:
    """A line for a run that ended."""
    ended = sum(status != "not made" for status in state.status.values())
    what = outcome(row) if row else f"{state.status[plan.run]}, by another process"
    return f"{ended}/{len(state.plans)}  {plan.label}  {what}"


def table(state: SweepState, pace: Pace, width: int, height: int) -> list[Text]:
    """A line for each run at work under the worker that has it, in `width` letters; the last ones are counted
    where the terminal is too low.
    """
    rows = _rows(state, pace)
    summary = [Text(line, style="bold") for line in in_lines(counts(state, pace).split(PART), width, PART)]
    room = max(1, height - AROUND_THE_TABLE - len(summary))
    headings = list(HEADINGS)
    if common := _take_out_common_parts(rows):
        headings[1] = f"run of {common}"
    lines = aligned([headings, *rows[:room]], width)
    lines[0].stylize("bold")
    if len(rows) > room:
        lines.append(Text(f"and {len(rows) - room} more", style="dim"))
    return [*lines, *summary]


HEADINGS = ("worker", "run", "step", "loss", "steps/s", "clipped", "norm", "validation")
TO_THE_LEFT = ("worker", "run", "validation")
OF_THE_RUN = 12  # letters that its label is left, before a column is left out
ALWAYS = 4  # columns that stay


def aligned(rows: Sequence[Sequence[str]], width: int) -> list[Text]:
    """Rows of HEADINGS in columns. Those at the right that have no room are left out whole, so that no number
    is cut; what is cut is the run's label, in its middle: its ends tell runs apart.
    """
    widths = []
    for column in range(len(HEADINGS)):
        widths.append(max(len(row[column]) for row in rows))
    shown = [0, 1]
    of_the_others = widths[0]
    for column in range(2, len(HEADINGS)):
        of_the_others += len(GAP) + widths[column]
        left = width - of_the_others - len(GAP)
        if column >= ALWAYS and left < min(widths[1], OF_THE_RUN):
            of_the_others -= len(GAP) + widths[column]
            break
        shown.append(column)
    widths[1] = max(1, min(widths[1], width - of_the_others - len(GAP)))
    return [Text(_line(row, shown, widths)[:width]) for row in rows]


def _take_out_common_parts(rows: Sequence[list[str]]) -> str:
    """What all labels say need not stand in each: it comes back."""
    labels = [row[1].split(PART) for row in rows]
    if len(labels) < 2 or len({len(parts) for parts in labels}) > 1:
        return ""
    common = []
    for same_place in zip(*labels, strict=True):
        if len(set(same_place)) == 1:
            common.append(same_place[0])
    for row, parts in zip(rows, labels, strict=True):
        row[1] = PART.join(part for part in parts if part not in common)
    return PART.join(common)


def _line(row: Sequence[str], shown: Sequence[int], widths: Sequence[int]) -> str:
    cells = []
    for column in shown:
        text = shortened(row[column], widths[column]) if column == 1 else row[column]
        left = HEADINGS[column] in TO_THE_LEFT
        cells.append(text.ljust(widths[column]) if left else text.rjust(widths[column]))
    return GAP.join(cells).rstrip()


def shortened(text: str, width: int) -> str:
    """ "cola (mini) · ad…1 · seed 3"."""
    if len(text) <= width:
        return text
    behind = (width - 1) // 2
    return f"{text[: width - 1 - behind]}…{text[len(text) - behind :]}"


def _rows(state: SweepState, pace: Pace) -> list[list[str]]:
    rows = []
    for slot, group in state.making.items():
        name = slot  # stands at the first of its runs
        for plan in group:
            if plan.run in state.status or plan.run in state.elsewhere:
                continue
            known = ["loading", "", "", "", "", ""]
            latest = state.at.get(plan.run)
            if latest and latest.step:
                known = [
                    f"{latest.step}/{plan.last_step}",
                    f"{latest.loss:.4g}",
                    f"{pace.speed(plan.run):.3g}",
                    f"{latest.share_clipped:.0%}",
                    f"{latest.norm:.3g}",
                    latest.validation,
                ]
            rows.append([name, plan.label, *known])
            name = ""
    return rows
