"""Runs of somebody's own loop: from the rows that were kept to the tables."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from clipbench.record import tables
from clipbench.record.environment import now
from clipbench.record.files import is_recorded, table_path
from clipbench.record.folder import RunFolder, unfinished_runs
from clipbench.record.kept import KeptRows
from clipbench.record.outcome import outcome
from clipbench.record.rows import EvalRow, RunEnd, RunRow, StepRow
from clipbench.record.unread import is_stuck

KILLED = "The script ended without closing its Recorder: it was killed, or the machine went down."

LOWER = {
    "loss",
    "error",
    "err",
    "perplexity",
    "ppl",
    "entropy",
    "nll",
    "mse",
    "rmse",
    "mae",
    "bpb",
    "bpc",
    "wer",
    "cer",
    "fid",
}
"""A metric with one of these words in its name is better where it is lower."""


def lower_is_better(metric: str) -> bool:
    """Whether a name as "val_loss" or "perplexity" says so; what it does not say is taken for higher."""
    return not LOWER.isdisjoint(re.split(r"[^a-z0-9]+", metric.lower()))


def finish(folder: RunFolder, facts: Mapping[str, Any], error: str | None = None) -> None:
    """Write the run's three tables, `runs` last, and clear its folder. One without a step that did not fail
    leaves nothing.

    `facts`: its columns of `runs` that were known at the start. `error`: why it failed. UserError where the
    folder cannot be written; then nothing is lost.
    """
    kept = KeptRows(folder.path)
    evals = kept.evals()
    end = _end(kept.steps(), error)
    if end.steps or error:
        judged = _headline(facts, evals)
        row = RunRow(**{**facts, **judged, **outcome(end, evals, judged), "ended": now()})
        tables.write_rows(folder.results, "steps", folder.run, (asdict(step) for step in kept.steps()))
        tables.write_rows(folder.results, "evals", folder.run, [asdict(each) for each in evals])
        tables.write_rows(folder.results, "runs", folder.run, [asdict(row)])
    folder.clear()


def _end(steps: Iterable[StepRow], error: str | None) -> RunEnd:
    """Of a loop that nobody stopped: diverged where its last loss is not finite any more, or it takes no step
    any more.
    """
    step, seconds, skipped, skipped_last = 0, 0.0, 0, 0
    had_loss = lost = False
    for row in steps:
        step, seconds = row.step, row.seconds
        is_skipped = not math.isfinite(row.grad_norm)
        skipped += is_skipped
        skipped_last = skipped_last + 1 if is_skipped else 0
        lost = had_loss and not math.isfinite(row.loss)  # NaN from the first on: none was given
        had_loss = had_loss or math.isfinite(row.loss)
    status = "diverged" if lost or is_stuck(step, skipped_last) else "done"
    return RunEnd("failed" if error else status, step, seconds, skipped, error)


def _headline(facts: Mapping[str, Any], evals: Iterable[EvalRow]) -> dict[str, Any]:
    """The metric that was told, or the first that was evaluated on other data than the training's; "loss"
    where there is none.
    """
    name = facts.get("headline")
    if name is None:
        others = [row.metric for row in evals if row.split != "train"]
        name = others[0] if others else "loss"
    higher = facts.get("higher_is_better")
    if higher is None:
        higher = not lower_is_better(name)
    return {"headline": name, "higher_is_better": higher}


def finish_killed(results: Path) -> None:
    """Into the tables, as failed, what loops have left whose process is gone."""
    for run in unfinished_runs(results):
        folder = RunFolder(results, run)
        if not is_recorded(run) or folder.owner is not None:
            continue
        facts = folder.plan().get("facts", {})
        if not {"task", "scale", "optimizer"} <= facts.keys() or folder.lease.acquire():
            continue
        if table_path(results, "runs", run).exists():  # another was quicker
            folder.clear()
        else:
            finish(folder, facts, KILLED)
