"""What is shown of runs that have ended: one run's result, a line for a run of a sweep, a sweep's table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table

from clipbench.analysis.steps import clipped_share, without_skipped
from clipbench.cli.describe import last_lines, method_label, task_label, transform_label
from clipbench.cli.messages import console
from clipbench.output import only_shown
from clipbench.record import tables
from clipbench.record.files import table_path
from clipbench.record.rows import CLIP_KEYS
from clipbench.report.draw import draw_run
from clipbench.runs.config import options
from clipbench.runs.plan import Plan

SUMMARY = ("task", "optimizer", "clipping", "lr", "n", "diverged", "test, mean (min to max)")
TO_THE_RIGHT = ("lr", "n", "diverged")


def outcome(row: Mapping[str, Any]) -> str:
    """ "mcc 0.71 on test, done after 1500 steps, 28 s of training", on validation in tuning; of a failed run,
    the end of its traceback.
    """
    if row["status"] == "failed":
        return f"failed: {last_lines(row['error'] or '', 1)}"
    column, split = ("final", "validation") if is_trial(row) else ("final_test", "test")
    known = row.get(column)
    value = "no value" if pd.isna(known) else f"{known:.3f}"
    ended = f"{row['status']} after {row['steps']} steps, {row['seconds']:.0f} s of training"
    if row.get("parent"):
        ended = f"{row['status']}, of the weights of {row['parent']}"
    return f"{row['headline']} {value} on {split}, {ended}"


def is_trial(row: Mapping[str, Any]) -> bool:
    """Whether a row of `runs` is a tuning trial: nothing of it on test is shown, even where an earlier
    version has evaluated it.
    """
    return bool(row.get("role") == "tune")


def show_result(plan: Plan, row: Mapping[str, Any]) -> None:
    """The table at the end of `clipbench run`; draws the run's figure."""
    steps = tables.read(plan.results, "steps", ["grad_norm", "clip_factor", "loss", "step"], [plan.run])
    every = tables.read(plan.results, "evals", ["step", "split", "metric", "value", "condition"], [plan.run])
    every = every.fillna({"condition": ""})
    evals = every[every["condition"] == every["condition"].iloc[-1]] if len(every) else every
    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(row["headline"], _headline(row, evals))
    if not is_trial(row):
        if row["baseline"] and pd.notna(row["baseline_test"]):
            table.add_row("baseline", f"{row['baseline_test']:.3f} ({row['baseline']})")
        for split, values in _other_values(row, evals):
            table.add_row(f"on {split}", values)
        for condition, value in _under_conditions(row, every):
            table.add_row(f"under {condition}", value)
    written = "evals,runs" if row["parent"] else "steps,evals,runs"
    if row["parent"]:
        table.add_row("transform", f"{transform_label(row)}, of the weights of {row['parent']}")
        if row["status"] == "diverged":
            table.add_row("diverged", "in training")
    else:
        for name, text in _training(plan, row, steps):
            table.add_row(name, text)
    table.add_row("data", (row["data"] or "") + _full_scale(plan))
    table.add_row("rows", f"{plan.results}/{{{written}}}/{plan.run}.parquet")
    with only_shown("The figure is not drawn"):
        figure = draw_run(plan.results, plan.run, plan.results / "figures")
        if figure:
            table.add_row("figure", str(figure))
    console().print(table)


def _training(plan: Plan, row: Mapping[str, Any], steps: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """How the training went: what ended it early, how often it clipped, how long it took."""
    if row["status"] == "diverged":
        loss = steps["loss"].iloc[-1] if len(steps) else float("nan")
        bound = plan.settings.max_loss
        yield "diverged", f"at step {len(steps)}: the loss was {loss:g} (max_loss={bound:g})"
    yield "clipped", f"{_share_clipped(steps)}; {row['skipped']} more skipped"
    where = f"on {row['device']}, {row['threads']} threads"
    yield "time", f"{row['seconds']:.1f} s of training {where}; evaluation left out"


def _headline(row: Mapping[str, Any], evals: pd.DataFrame) -> str:
    """ "0.712 on test; 0.703 on validation (best 0.715 at step 1200)"."""
    column, split = ("final", "validation") if is_trial(row) else ("final_test", "test")
    if pd.isna(row[column]):
        return f"no {split} value: {row['status']}"
    val = evals[(evals["split"] == "val") & (evals["metric"] == row["headline"])]
    at = val["step"][val["value"] == row["best"]]
    if pd.isna(row["final"]) or at.empty:
        validation = "no validation value"
    else:
        validation = f"{row['final']:.3f} on validation (best {row['best']:.3f} at step {at.iloc[0]})"
    return validation if is_trial(row) else f"{row['final_test']:.3f} on test; {validation}"


def _other_values(row: Mapping[str, Any], evals: pd.DataFrame) -> list[tuple[str, str]]:
    """("test", "loss 0.512  accuracy 0.833") for each split that is neither trained nor tuned on, without the
    headline's test value.
    """
    final = evals[evals["step"] == evals["step"].max()]
    found = []
    for split in evals["split"].unique():
        if split in ("train", "val"):
            continue
        values = []
        for each in final[final["split"] == split].itertuples():
            if (split, each.metric) != ("test", row["headline"]):
                values.append(f"{each.metric} {each.value:.3f}")
        found.append((split, "  ".join(values)))
    return found


def _under_conditions(row: Mapping[str, Any], evals: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """("ber=1e-5", "mcc 0.512 on test") for each condition that has a name."""
    is_headline = (evals["metric"] == row["headline"]) & (evals["split"] == "test")
    for each in evals[is_headline & (evals["condition"] != "")].itertuples():
        yield each.condition, f"{each.metric} {each.value:.3f} on test"


def _share_clipped(steps: pd.DataFrame) -> str:
    """ "37% of 1500 steps"; steps that were skipped do not count."""
    count = len(without_skipped(steps))
    share = f"{clipped_share(steps['grad_norm'], steps['clip_factor']):.0%}" if count else "none"
    return f"{share} of {count} steps"


def _full_scale(plan: Plan) -> str:
    name = f"{plan.settings.task.name}_full"
    if plan.settings.scale != "mini" or name not in options("task_scale", plan.config_dir):
        return ""
    return f". The full-scale data: clipbench prepare task={plan.settings.task.name} scale=full"


def show_summary(folder: Path, runs: Sequence[str]) -> None:
    """A line for each method of a sweep: its runs, and their test values."""
    ended = [run for run in runs if table_path(folder, "runs", run).exists()]
    rows = tables.read(folder, "runs", runs=ended)
    if rows.empty:
        return
    shared = ["task", "scale", "optimizer", *CLIP_KEYS, "lr", "transform", "headline"]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in SUMMARY:
        table.add_column(name, justify="right" if name in TO_THE_RIGHT else "left")
    for key, part in rows.groupby(shared, dropna=False, sort=False):
        table.add_row(*_summary_of(dict(zip(shared, key, strict=True)), part))
    console().print(table)
    print(f"The figures: clipbench plot {folder}")


def _summary_of(shared: Mapping[str, Any], runs: pd.DataFrame) -> list[str]:
    """The cells of one method's line. `shared`: the columns that its `runs` agree in."""
    values = runs["final_test"][runs["role"] != "tune"].dropna()
    test = "none"
    if len(values):
        test = f"{shared['headline']} {values.mean():.3f} ({values.min():.3f} to {values.max():.3f})"
    diverged = int((runs["status"] == "diverged").sum())
    return [
        task_label(shared),
        shared["optimizer"],
        " · ".join(filter(None, [method_label(shared), transform_label(shared)])),
        "default" if pd.isna(shared["lr"]) else f"{shared['lr']:g}",
        str(len(runs)),
        str(diverged),
        test,
    ]
