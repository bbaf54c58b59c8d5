"""What a person sees of a sweep: one live table on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from clipbench.cli import show
from clipbench.runs.plan import Plan

if TYPE_CHECKING:
    from clipbench.sweeps.state import SweepState as State

Say = Callable[["State", Plan | None, dict[str, Any] | None], None]
LINE_EVERY = 60.0  # seconds between lines on how far the sweep is, in a log


@contextmanager
def board() -> Iterator[Say]:
    """A function to be told the state now and then, and each run that ends with its row."""
    console, pace = Console(stderr=True, highlight=False, markup=False), Pace()
    if not console.is_terminal:
        yield _Lines(pace)
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:

        def say(state: State, ended: Plan | None, row: dict[str, Any] | None) -> None:
            pace.take(state)
            if ended:
                live.console.print(ending(state, ended, row), soft_wrap=True)
            live.update(table(state, pace, console.height), refresh=True)

        yield say


class _Lines:
    def __init__(self, pace: Pace) -> None:
        self.pace, self.said = pace, time.monotonic()

    def __call__(self, state: State, ended: Plan | None, row: dict[str, Any] | None) -> None:
        self.pace.take(state)
        if ended:
            print(ending(state, ended, row), file=sys.stderr, flush=True)
        elif time.monotonic() - self.said > LINE_EVERY:
            print(counts(state, self.pace), file=sys.stderr, flush=True)
            self.said = time.monotonic()


class Pace:
    """Steps made since the first were, over all runs, and what that says about the rest."""

    def __init__(self) -> None:
        self.first: dict[str, int] = {}
        self.steps: dict[str, int] = {}
        self.seen: dict[str, float] = {}
        self.started = self.now = time.monotonic()

    def take(self, state: State) -> None:
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
        return (self.steps.get(run, 0) - self.first.get(run, 0)) / max(
            1e-9, self.now - self.seen.get(run, self.now)
        )

    def left(self, state: State) -> float | None:
        """Seconds until nothing is left, if it goes on like this."""
        made = sum(self.steps[run] - self.first[run] for run in self.first)
        if not made or self.now - self.started < 3:
            return None
        rest = sum(
            plan.settings.steps - self.steps.get(run, 0)
            for run, plan in state.plans.items()
            if run not in state.status
        )
        return rest * (self.now - min(self.seen.values())) / made


def counts(state: State, pace: Pace) -> str:
    """ "7 of 18 runs done, 1 of them diverged · 4 running · 7 waiting · about 3 min left"."""
    status = Counter(state.status.values())
    running = sum(plan.run not in state.status for group in state.making.values() for plan in group)
    parts = [f"{status['done'] + status['diverged']} of {len(state.plans)} runs done"]
    parts[0] += f", {status['diverged']} of them diverged" if status["diverged"] else ""
    parts += [f"{status['failed']} failed"] if status["failed"] else []
    parts += [f"{status['not made']} not possible"] if status["not made"] else []
    parts += [f"{running} running"]
    parts += [f"{sum(map(len, state.waiting))} waiting"] if state.waiting else []
    parts += [f"{len(state.elsewhere)} made by another process"] if state.elsewhere else []
    left = pace.left(state)
    parts += (
        ["finishing the steps at hand"]
        if state.stopping
        else [f"about {duration(left)} left"]
        if left is not None
        else []
    )
    return " · ".join(parts)


def duration(seconds: float) -> str:
    """ "40 s", "3 min", "2.5 h", "3.1 days"."""
    for unit, size, digits in (("days", 86400.0, 1), ("h", 3600.0, 1), ("min", 60.0, 0)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds:.0f} s"


def ending(state: State, plan: Plan, row: dict[str, Any] | None) -> str:
    """A line for a run that ended."""
    ended = sum(status != "not made" for status in state.status.values())
    what = show.outcome(row) if row else f"{state.status[plan.run]}, by another process"
    return f"{ended}/{len(state.plans)}  {plan.label}  {what}"


def table(state: State, pace: Pace, height: int) -> Group:
    """A line for each run at work under the worker that has it; the last ones are counted where the terminal is too low."""
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    style: Literal["left", "right"]
    for name, style in (
        ("worker", "left"),
        ("run", "left"),
        ("step", "right"),
        ("loss", "right"),
        ("steps/s", "right"),
    ):
        grid.add_column(
            name, justify=style, no_wrap=True, overflow="ellipsis", ratio=1 if name == "run" else None
        )  # type: ignore[arg-type]
    lines = []
    for slot, group in state.making.items():
        for i, plan in enumerate(
            plan for plan in group if plan.run not in state.status and plan.run not in state.elsewhere
        ):
            step, loss = state.at.get(plan.run, (None, None))
            known = (
                [f"{step}/{plan.settings.steps}", f"{loss:.4g}", f"{pace.speed(plan.run):.3g}"]
                if step
                else ["loading", "", ""]
            )
            lines.append([slot if i == 0 else "", plan.label, *known])
    room = max(1, height - 5)
    for line in lines[:room]:
        grid.add_row(*line)
    more = Text(f"and {len(lines) - room} more", style="dim") if len(lines) > room else Text("")
    return Group(grid, more, Text(counts(state, pace), style="bold"))
