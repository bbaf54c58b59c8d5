"""How far a run is, on stderr: a bar on a terminal, a line per evaluation elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.text import Text

from clipbench.cli.area import Area, area, bar, can_be_written_anew, in_lines
from clipbench.cli.latest import Latest
from clipbench.cli.messages import console as messages_console
from clipbench.cli.messages import duration
from clipbench.record.rows import EvalRow
from clipbench.runs.events import Event, Rows, Sink
from clipbench.runs.plan import Plan

Tick = Callable[[str, int, int | None], None]

SHORTEST_BAR = 8  # letters; without so much room there is none
SHOW_EVERY = 0.1  # seconds


@contextmanager
def progress(plan: Plan) -> Iterator[Sink]:
    """The sink of a run's events."""
    console = messages_console(stderr=True)
    print(plan.label, file=sys.stderr)
    latest = Latest()
    steps = plan.settings.steps
    if not can_be_written_anew(console):

        def print_evaluations(event: Event) -> None:
            if not isinstance(event, Rows):
                return
            latest.take(event)
            if any(isinstance(row, EvalRow) for row in event.rows):
                step = [f"step {latest.step}/{steps}"] if latest.step else []
                print("  ".join([*step, *latest.words]), file=sys.stderr, flush=True)

        yield print_evaluations
        return
    with area(console) as place:
        meter = Meter(place)

        def move_bar(event: Event) -> None:
            if isinstance(event, Rows):
                latest.take(event)
                if latest.step:
                    meter.show("step", latest.step, steps, latest.words)
                else:
                    meter.show("evaluating", 0, None, latest.words)

        meter.show("loading", 0, None)
        yield move_bar


@contextmanager
def counting(label: str) -> Iterator[Tick]:
    """A function (what is being done, how much of it is done, of how much) that moves a bar on a terminal and
    says nothing elsewhere.
    """
    console = messages_console(stderr=True)
    print(label, file=sys.stderr)
    if not can_be_written_anew(console):
        yield lambda what, done, total: None
        return
    with area(console) as place:
        meter = Meter(place)
        meter.show("loading", 0, None)
        yield meter.show


class Meter:
    """A bar with what is left of the time, over lines of words."""

    def __init__(self, place: Area) -> None:
        self.place = place
        self.shown = -SHOW_EVERY
        self.what, self.first, self.since = "", 0, 0.0

    def show(self, what: str, done: int, total: int | None, words: Sequence[str] = ()) -> None:
        """How much of `what` is done; not every time, where it is told often."""
        now = time.monotonic()
        if what != self.what:
            self.what, self.first, self.since = what, done, now
        elif now - self.shown < SHOW_EVERY and done != total:
            return
        self.shown = now
        lines = [self._bar(what, done, total, now)]
        for line in in_lines(words, self.place.width):
            lines.append(Text(line))
        self.place.show(lines)

    def _bar(self, what: str, done: int, total: int | None, now: float) -> Text:
        """ "step 120/1000  ━━━━━━━━━━  3 min left"."""
        if total is None:
            return Text(what)
        before, behind = f"{what} {done}/{total}  ", ""
        if done > self.first:
            left = (now - self.since) * (total - done) / (done - self.first)
            behind = f"  {duration(left)} left"
        room = self.place.width - len(before) - len(behind)
        if room < SHORTEST_BAR:
            return Text(before + behind.lstrip())
        return Text.assemble(before, bar(done / max(1, total), room, self.place.console), behind)
