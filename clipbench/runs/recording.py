"""From a run's rows to its row of `runs`, and into the three tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from clipbench.errors import UserError
from clipbench.record import tables
from clipbench.record.environment import environment, now
from clipbench.record.rows import RunRow
from clipbench.runs.checkpoint import RecordedRows
from clipbench.runs.plan import Plan
from clipbench.task import Task


def describe(task: Task) -> dict[str, Any]:
    """What is known of a run before its first step. Loads the data."""
    metrics = task.metrics()
    known = [str(name) for name in metrics]
    if task.headline not in known:
        raise UserError(
            f"{type(task).__name__}.headline is '{task.headline}', which is not among its metrics: "
            f"{', '.join(known)}."
        )
    if not isinstance(task.data, str):
        raise UserError(f"{type(task).__name__}.data must be a text that says which data, got {task.data!r}.")
    if task.steps_per_epoch <= 0:
        raise UserError(
            f"{type(task).__name__} has no batch in an epoch (steps_per_epoch={task.steps_per_epoch}): "
            "batch_size is above the number of its training examples. Lower it."
        )
    name, baseline = task.baseline()
    return {
        "headline": task.headline,
        "higher_is_better": bool(metrics[task.headline].higher_is_better),
        "data": task.data,
        "baseline": name,
        "baseline_test": baseline.get(task.headline),
    }


def record(plan: Plan, rows: RecordedRows, facts: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Write the three tables, `runs` last. Its row comes back.

    `facts`: what is known beside the plan, by column; TypeError for what is no column.
    """
    row = RunRow(
        **plan.facts,
        **facts,
        ended=now(),
        config=plan.settings.as_json(),
        overrides=json.dumps(plan.arguments),
        **environment(device),
    )
    tables.write_rows(plan.results, "steps", plan.run, (asdict(item) for item in rows))
    tables.write_rows(plan.results, "evals", plan.run, [asdict(item) for item in rows.evals])
    tables.write_rows(plan.results, "runs", plan.run, [asdict(row)])
    return {"run": plan.run, **asdict(row)}
