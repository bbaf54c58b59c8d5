"""How runs end: what is recorded of them, and what is kept."""

from __future__ import annotations

import math
import traceback
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import torch

from clipbench.errors import UserError
from clipbench.record import tables
from clipbench.record.environment import now
from clipbench.record.outcome import outcome
from clipbench.record.rows import TO_GO_ON, RunEnd
from clipbench.runs.build import find_device
from clipbench.runs.checkpoint import RecordedRows, checkpoint_rows
from clipbench.runs.events import Ended, MadeElsewhere, Refused
from clipbench.runs.plan import Plan, statuses
from clipbench.runs.recording import record
from clipbench.runs.weights import keep_weights
from clipbench.train.learner import Learner


class GroupTooLarge(Exception):
    """The memory does not hold this many runs side by side."""


def finished_status(plan: Plan) -> str:
    """With which it has come to the end that the plan asks for; "" where it is to be made."""
    status = statuses([plan]).get(plan.run, "")
    return "" if status == "failed" else status


def first_start(plan: Plan) -> str:
    """When the run was first started. Keeps in its folder what asked for it."""
    facts = {
        "label": plan.label,
        "overrides": plan.arguments,
        "steps": plan.settings.steps,
        "started": now(),
        "facts": plan.facts,
    }
    return plan.run_folder.write_plan(facts)["started"]


def taken_over(plan: Plan) -> MadeElsewhere:
    """We were stopped for so long that another process took the run over: it is that one's."""
    owner = plan.run_folder.owner or "another process"
    status = finished_status(plan)
    return MadeElsewhere(plan.run, "" if status else str(owner), status)


def ended(
    plan: Plan, rows: RecordedRows, facts: Mapping[str, Any], end: RunEnd, device: torch.device
) -> Ended | Refused:
    """Write the tables and clear the run's folder; that of a run which failed or was stopped stays, so that
    it can go on from there.

    What cannot be recorded keeps its folder too, and is this run's mistake alone.
    """
    if end.status == "out of memory":
        end = replace(end, status="failed")
    try:
        row = record(plan, rows, {**facts, **outcome(end, rows.evals, facts)}, device)
    except UserError as error:
        return Refused(plan.run, str(error))
    except (ValueError, TypeError, ArithmeticError) as error:  # of the values, whatever they are
        return Refused(plan.run, f"{plan.label} cannot be recorded: {error}")
    if end.status not in ("failed", *TO_GO_ON):
        plan.run_folder.clear()
    return Ended(plan.run, row)


def trained(
    plan: Plan,
    learner: Learner,
    rows: RecordedRows,
    facts: Mapping[str, Any],
    end: RunEnd,
    device: torch.device,
) -> Ended | Refused:
    """Record a run that trained, with its weights where they are to be kept."""
    try:
        before = tables.row_of(plan.results, plan.run)
        if before is not None and before["status"] == "done":
            return Ended(plan.run, _keep_later(plan, learner, before, outcome(end, rows.evals, facts)))
        if plan.settings.keep and end.status == "done":
            keep_weights(learner, plan.model_path)
            facts = {**facts, "model": str(plan.model_path.relative_to(plan.results))}
    except UserError as error:
        return Refused(plan.run, str(error))
    return ended(plan, rows, facts, end, device)


def _keep_later(
    plan: Plan, learner: Learner, before: Mapping[str, Any], again: Mapping[str, Any]
) -> dict[str, Any]:
    """The row `before` of a run that was finished without its weights, once it is trained again and they are
    kept. UserError, and the row stays, where it came out otherwise than recorded: they would be another's.
    """
    for name in ("status", "final", "final_test"):
        if again[name] != before[name]:
            plan.run_folder.clear()
            raise UserError(
                f"The weights of {plan.run} were not kept, and training it again gave {name}={again[name]}, "
                f"where its row has {before[name]} (device {before['device']}, threads {before['threads']}, "
                f"version {before['git']}). What starts from it needs it anew: another results folder, or "
                f"clipbench rm {plan.results} {plan.run}"
            )
    keep_weights(learner, plan.model_path)
    row = {**before, "model": str(plan.model_path.relative_to(plan.results))}
    tables.write_rows(plan.results, "runs", plan.run, [row])
    plan.run_folder.clear()
    return row


def at_recorded_threads(plan: Plan) -> Plan:
    """The plan of a run that is finished and is to be made again for its weights, at the threads that it was
    made with: sums differ with them. Any other plan as it is.
    """
    row = tables.row_of(plan.results, plan.run)
    if row is None or row["status"] != "done" or row["threads"] is None:
        return plan
    return replace(plan, settings=replace(plan.settings, threads=row["threads"]))


def orphaned(plan: Plan, mistake: str) -> Ended | Refused:
    """What becomes of a child whose parent was refused for `mistake`: it fails where the parent is recorded
    but could not be made again, and is not made where the user can mend what is wrong.
    """
    assert plan.parent is not None
    row = tables.row_of(plan.parent.results, plan.parent.run)
    if row is not None and row["status"] == "done":
        return Ended(plan.run, record_failure(plan, mistake))
    return Refused(plan.run, mistake)


def failure_now() -> RunEnd:
    """The end of a run for the exception at hand."""
    return RunEnd("failed", 0, 0.0, 0, traceback.format_exc())


def record_failure(plan: Plan, error: str) -> dict[str, Any]:
    """Record a run whose process was lost: what its checkpoint holds of it, and how it was lost (`error`).

    Its row of `runs` comes back: that of a run which was finished before something else failed stays.
    """
    before = tables.row_of(plan.results, plan.run)
    if before is not None and (before["status"] == "done" or plan.ends_with(before)):
        return before
    rows = checkpoint_rows(plan.run_folder)
    steps, seconds, skipped = 0, 0.0, 0
    for row in rows:
        steps, seconds = row.step, row.seconds
        if not math.isfinite(row.grad_norm):
            skipped += 1
    end = RunEnd("failed", steps, seconds, skipped, error)
    facts = {"started": first_start(plan), "lockstep": 1, **asdict(end)}
    return record(plan, rows, facts, find_device(plan.settings.device))
