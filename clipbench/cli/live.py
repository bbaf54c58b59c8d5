"""What a person sees of a sweep while it is made: one live table on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.text import Text

from clipbench.cli.area import GAP, area, can_be_written_anew, in_lines
from clipbench.cli.messages import console as messages_console
from clipbench.cli.overview import PART, Overview
from clipbench.runs.events import Event, Progress, Sink
from clipbench.runs.plan import Plan

LINE_EVERY = 60.0  # seconds between lines on how far the sweep is, in a log
AROUND_THE_TABLE = 4  # lines of the terminal that are neither a run's nor the summary's


@contextmanager
def live_table(plans: Sequence[Plan]) -> Iterator[Sink]:
    """The sink of a sweep's events."""
    console = messages_console(stderr=True)
    sweep = Overview(plans)
    if not can_be_written_anew(console):
        yield _Lines(sweep)
        return
    with area(console) as place:

        def show(event: Event) -> None:
            line = sweep.take(event)
            if line:
                console.print(line, soft_wrap=True)
            if line or isinstance(event, Progress):
                place.show(table(sweep, place.width, console.height))

        yield show


class _Lines:
    """Into a log: each run that ends, and once a minute how far the sweep is."""

    def __init__(self, sweep: Overview) -> None:
        self.sweep, self.last_line = sweep, time.monotonic()

    def __call__(self, event: Event) -> None:
        line = self.sweep.take(event)
        if isinstance(event, Progress) and time.monotonic() - self.last_line > LINE_EVERY:
            line, self.last_line = self.sweep.counts, time.monotonic()
        if line:
            print(line, file=sys.stderr, flush=True)


def table(sweep: Overview, width: int, height: int) -> list[Text]:
    """A line for each run at work under the worker that has it, in `width` letters; the last ones are counted
    where the terminal is too low.
    """
    rows = _rows(sweep)
    summary = [Text(line, style="bold") for line in in_lines(sweep.counts.split(PART), width, PART)]
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


def _rows(sweep: Overview) -> list[list[str]]:
    rows = []
    for slot, group in sweep.at_work:
        name = slot  # stands at the first of its runs
        for plan in group:
            known = ["loading", "", "", "", "", ""]
            latest = sweep.at.get(plan.run)
            if latest and latest.step:
                known = [
                    f"{latest.step}/{plan.last_step}",
                    f"{latest.loss:.4g}",
                    f"{sweep.pace.speed(plan.run):.3g}",
                    f"{latest.clipped:.0%}",
                    f"{latest.norm:.3g}",
                    latest.validation,
                ]
            rows.append([name, plan.label, *known])
            name = ""
    return rows
