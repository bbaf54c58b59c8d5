"""What a person sees of a run in the terminal: the bar, the result, the table of a sweep."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from clipbench.cli.status import ending
from clipbench.record import tables
from clipbench.record.rows import EvalRow, Row, StepRow, is_clipped
from clipbench.report.draw import draw_run
from clipbench.runs.plan import Plan

Watch = Callable[[Sequence[Row]], None]


def finished_row(plan: Plan) -> dict[str, Any] | None:
    """The row of a run that need not be repeated: done or diverged, not failed."""
    if not (plan.results / "runs" / f"{plan.run}.parquet").exists():
        return None
    table = tables.read(plan.results, "runs", runs=[plan.run])
    if table.empty or table["status"][0] == "failed":
        return None
    plan.run_folder.clear_if_abandoned()
    return dict(table.iloc[0])


@contextmanager
def progress(plan: Plan) -> Iterator[Watch]:
    """A live bar on a terminal, a line per evaluation elsewhere."""
    console = Console(stderr=True)
    print(plan.label, file=sys.stderr)
    state = _State()
    if not console.is_terminal:
        yield lambda rows: _print_lines(state, rows, plan)
        return
    columns = (
        TextColumn("step {task.completed}/{task.total}"),
        BarColumn(None),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("loading", total=plan.settings.steps)

        def watch(rows: Sequence[Row]) -> None:
            if rows:
                state.take(rows)
                bar.update(task, completed=state.step, description=str(state))

        yield watch


@contextmanager
def counting(label: str) -> Iterator[Callable[[str, int, int], None]]:
    """A function (what, done, of) that moves a bar on a terminal and says nothing elsewhere."""
    console = Console(stderr=True)
    print(label, file=sys.stderr)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(None),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("loading", total=None)
        yield lambda what, done, of: bar.update(task, description=what, completed=done, total=of)


class _State:
    """The latest values, and the share of steps clipped so far, those skipped left out."""

    def __init__(self) -> None:
        self.step, self.loss, self.norm, self.clipped, self.made = 0, float("nan"), float("nan"), 0, 0
        self.val = ""

    def take(self, rows: Sequence[Row]) -> None:
        for row in rows:
            if isinstance(row, StepRow):
                self.step, self.loss, self.norm = row.step, row.loss, row.grad_norm
                self.made += math.isfinite(row.grad_norm)
                self.clipped += math.isfinite(row.grad_norm) and is_clipped(row.clip_factor)
        vals = [
            f"{row.metric} {row.value:.3f}"
            for row in rows
            if isinstance(row, EvalRow) and row.split == "val" and row.metric != "loss"
        ]
        self.val = "val " + " ".join(vals) if vals else self.val

    def __str__(self) -> str:
        share = self.clipped / max(1, self.made)
        return f"loss {self.loss:.4g}  norm {self.norm:.3g}  clipped {share:.0%}  {self.val}".rstrip()


def _print_lines(state: _State, rows: Sequence[Row], plan: Plan) -> None:
    state.take(rows)
    if any(isinstance(row, EvalRow) for row in rows):
        print(f"step {state.step}/{plan.settings.steps}  {state}", file=sys.stderr, flush=True)


def outcome(row: dict[str, Any]) -> str:
    """ "mcc 0.71 on test, done after 1500 steps, 28 s of training", on validation in tuning; of a failed run, the end of its traceback."""
    if row["status"] == "failed":
        return f"failed: {ending(row['error'], 1)}"
    column, split = ("final", "validation") if tunes(row) else ("final_test", "test")
    value = "no value" if pd.isna(row.get(column)) else f"{row[column]:.3f}"
    return f"{row['headline']} {value} on {split}, {row['status']} after {row['steps']} steps, {row['seconds']:.0f} s of training"


def tunes(row: Mapping[str, Any]) -> bool:
    """Whether a row of `runs` is a tuning trial: nothing of it on test is shown, even where an earlier version has evaluated it."""
    return bool(row.get("role") == "tune")


def result(plan: Plan, row: dict[str, Any]) -> None:
    """The table at the end of `clipbench run`."""
    steps = tables.read(plan.results, "steps", ["grad_norm", "clip_factor", "loss", "step"], [plan.run])
    evals = tables.read(plan.results, "evals", ["step", "split", "metric", "value"], [plan.run])
    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(row["headline"], _headline(row, evals))
    if row["baseline"] and not tunes(row):
        table.add_row("baseline", f"{row['baseline_test']:.3f} ({row['baseline']})")
    others = (
        [] if tunes(row) else [split for split in evals["split"].unique() if split not in ("train", "val")]
    )
    final = evals[evals["step"] == evals["step"].max()] if len(evals) else evals
    for split in others:
        pairs = final[(final["split"] == split) & ~((final["metric"] == row["headline"]) & (split == "test"))]
        table.add_row(
            f"on {split}",
            "  ".join(
                f"{metric} {value:.3f}" for metric, value in zip(pairs["metric"], pairs["value"], strict=True)
            ),
        )
    if row["status"] == "diverged":
        table.add_row(
            "diverged",
            f"at step {len(steps)}: the loss was {steps['loss'].iloc[-1]:g} (max_loss={plan.settings.max_loss:g})",
        )
    made = steps["clip_factor"][np.isfinite(steps["grad_norm"])]
    share = f"{is_clipped(made).mean():.0%}" if len(made) else "none"
    table.add_row("clipped", f"{share} of {len(made)} steps; {row['skipped']} more skipped")
    table.add_row(
        "time",
        f"{row['seconds']:.1f} s of training on {row['device']}, {row['threads']} threads; evaluation left out",
    )
    table.add_row("data", row["data"] + _full_scale(plan))
    table.add_row("rows", f"{plan.results}/{{steps,evals,runs}}/{plan.run}.parquet")
    table.add_row("figure", str(draw_run(plan.results, plan.run, plan.results / "figures")))
    Console(width=None if sys.stdout.isatty() else 140, highlight=False, markup=False).print(table)


def _headline(row: dict[str, Any], evals: pd.DataFrame) -> str:
    val = evals[(evals["split"] == "val") & (evals["metric"] == row["headline"])]
    column, split = ("final", "validation") if tunes(row) else ("final_test", "test")
    if pd.isna(row[column]):
        return f"no {split} value: {row['status']}"
    at = val["step"][val["value"] == row["best"]].iloc[0]
    test = "" if tunes(row) else f"{row['final_test']:.3f} on test; "
    return f"{test}{row['final']:.3f} on validation (best {row['best']:.3f} at step {at})"


def _full_scale(plan: Plan) -> str:
    name = plan.settings.task.name
    return (
        f". The full-scale data: clipbench prepare task={name} scale=full"
        if plan.settings.scale == "mini"
        else ""
    )


def summary(folder: Path, runs: Sequence[str]) -> None:
    """One line per method: seeds, test value, share clipped."""
    rows = tables.read(
        folder, "runs", runs=[run for run in runs if (folder / "runs" / f"{run}.parquet").exists()]
    )
    if rows.empty:
        return
    shared = [
        "task",
        "scale",
        "optimizer",
        "clipping_type",
        "clipping_level",
        "p_autoclip",
        "beta",
        "lr",
        "headline",
    ]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("task", "optimizer", "clipping", "lr", "n", "diverged", "test, mean (min to max)"):
        table.add_column(name, justify="right" if name in ("lr", "n", "diverged") else "left")
    for key, part in rows.groupby(shared, dropna=False, sort=False):
        group = dict(zip(shared, key, strict=True))
        fields = " ".join(
            f"{name}={group[name]:g}"
            for name in ("clipping_level", "p_autoclip", "beta")
            if pd.notna(group[name])
        )
        value = part["final_test"][part["role"] != "tune"].dropna()
        text = (
            f"{group['headline']} {value.mean():.3f} ({value.min():.3f} to {value.max():.3f})"
            if len(value)
            else "none"
        )
        diverged = int((part["status"] == "diverged").sum())
        lr = "default" if pd.isna(group["lr"]) else f"{group['lr']:g}"
        table.add_row(
            f"{group['task']} ({group['scale']})",
            group["optimizer"],
            f"{group['clipping_type']} {fields}".strip(),
            lr,
            str(len(part)),
            str(diverged),
            text,
        )
    Console(width=None if sys.stdout.isatty() else 140, highlight=False, markup=False).print(table)
    print(f"The figures: clipbench plot {folder}")
