"""How far a run is, on stderr: a bar on a terminal, a line per evaluation elsewhere."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from clipbench.cli.messages import console as messages_console
from clipbench.record.rows import EvalRow, Row, StepRow, is_clipped
from clipbench.runs.plan import Plan

Watch = Callable[[Sequence[Row]], None]
Tick = Callable[[str, int, int | None], None]


@contextmanager
def progress(plan: Plan) -> Iterator[Watch]:
    """A function that is given each run's rows as they become readable."""
    console = messages_console(stderr=True)
    print(plan.label, file=sys.stderr)
    latest = Latest()
    steps = plan.settings.steps
    if not console.is_terminal:

        def print_evaluations(rows: Sequence[Row]) -> None:
            latest.take(rows)
            if any(isinstance(row, EvalRow) for row in rows):
                print(f"step {latest.step}/{steps}  {latest}", file=sys.stderr, flush=True)

        yield print_evaluations
        return
    columns = (
        TextColumn("step {task.completed}/{task.total}"),
        BarColumn(None),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("loading", total=steps)

        def move_bar(rows: Sequence[Row]) -> None:
            if rows:
                latest.take(rows)
                bar.update(task, completed=latest.step, description=str(latest))

        yield move_bar


@contextmanager
def counting(label: str) -> Iterator[Tick]:
    """A function (what is being done, how much of it is done, of how much) that moves a bar on a terminal and
    says nothing elsewhere.
    """
    console = messages_console(stderr=True)
    print(label, file=sys.stderr)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(None),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("loading", total=None)

        def move_bar(what: str, done: int, total: int | None) -> None:
            bar.update(task, description=what, completed=done, total=total)

        yield move_bar


class Latest:
    """The latest values of a run, and the share of its steps clipped so far, those skipped left out."""

    def __init__(self) -> None:
        self.step, self.loss, self.norm = 0, math.nan, math.nan
        self.clipped, self.not_skipped = 0, 0
        self.validation = ""

    def take(self, rows: Sequence[Row]) -> None:
        values = []
        for row in rows:
            if isinstance(row, StepRow):
                self.step, self.loss, self.norm = row.step, row.loss, row.grad_norm
                if math.isfinite(row.grad_norm):
                    self.not_skipped += 1
                    self.clipped += is_clipped(row.clip_factor)
            elif isinstance(row, EvalRow) and row.split == "val" and row.metric != "loss":
                values.append(f"{row.metric} {row.value:.3f}")
        if values:
            self.validation = "val " + " ".join(values)

    def __str__(self) -> str:
        share = self.clipped / max(1, self.not_skipped)
        text = f"loss {self.loss:.4g}  norm {self.norm:.3g}  clipped {share:.0%}  {self.validation}"
        return text.rstrip()
