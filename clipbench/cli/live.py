"""What a person sees of a sweep while it is made: one live table on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from clipbench.cli.messages import console as messages_console
from clipbench.cli.messages import duration
from clipbench.cli.result import outcome
from clipbench.runs.plan import Plan
from clipbench.sweeps.state import Listener, SweepState

LINE_EVERY = 60.0  # seconds between lines on how far the sweep is, in a log
KNOWN_AFTER = 3.0  # seconds until the speed says something about the rest
AROUND_THE_TABLE = 5  # lines of the terminal that are not a run's


@contextmanager
def live_table() -> Iterator[Listener]:
    """A function to be told the state now and then, and each run that ends with its row."""
    console = messages_console(stderr=True)
    pace = Pace()
    if not console.is_terminal:
        yield _Lines(pace)
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:

        def show(state: SweepState, ended: Plan | None, row: dict[str, Any] | None) -> None:
            pace.take(state)
            if ended:
                live.console.print(ended_line(state, ended, row), soft_wrap=True)
            live.update(table(state, pace, console.height), refresh=True)

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
        for run, (step, _) in state.at.items():
            if run not in self.first:
                self.first[run], self.seen[run] = step, self.now
            self.steps[run] = step
        for run in state.status:
            if run in self.first:
                self.steps[run] = max(self.steps[run], state.plans[run].settings.steps)

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
                rest += plan.settings.steps - self.steps.get(run, 0)
        return rest * (self.now - min(self.seen.values())) / steps


def counts(state: SweepState, pace: Pace) -> str:
    """ "7 of 18 runs done, 1 of them diverged · 4 running · 7 waiting · about 3 min left"."""
    status = Counter(state.status.values())
    done = f"{status['done'] + status['diverged']} of {len(state.plans)} runs done"
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
    return " · ".join(parts)


def ended_line(state: SweepState, plan: Plan, row: Mapping[str, Any] | None) -> str:
    """A line for a run that ended."""
    ended = sum(status != "not made" for status in state.status.values())
    what = outcome(row) if row else f"{state.status[plan.run]}, by another process"
    return f"{ended}/{len(state.plans)}  {plan.label}  {what}"


def table(state: SweepState, pace: Pace, height: int) -> Group:
    """A line for each run at work under the worker that has it; the last ones are counted where the terminal
    is too low.
    """
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    grid.add_column("worker", no_wrap=True, overflow="ellipsis")
    grid.add_column("run", no_wrap=True, overflow="ellipsis", ratio=1)
    for name in ("step", "loss", "steps/s"):
        grid.add_column(name, justify="right", no_wrap=True, overflow="ellipsis")
    lines = _lines(state, pace)
    room = max(1, height - AROUND_THE_TABLE)
    for line in lines[:room]:
        grid.add_row(*line)
    more = Text(f"and {len(lines) - room} more", style="dim") if len(lines) > room else Text("")
    return Group(grid, more, Text(counts(state, pace), style="bold"))


def _lines(state: SweepState, pace: Pace) -> list[list[str]]:
    lines = []
    for slot, group in state.making.items():
        name = slot  # stands at the first of its runs
        for plan in group:
            if plan.run in state.status or plan.run in state.elsewhere:
                continue
            step, loss = state.at.get(plan.run, (0, 0.0))
            known = ["loading", "", ""]
            if step:
                speed = pace.speed(plan.run)
                known = [f"{step}/{plan.settings.steps}", f"{loss:.4g}", f"{speed:.3g}"]
            lines.append([name, plan.label, *known])
            name = ""
    return lines
