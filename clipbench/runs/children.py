"""Runs with a transform: they take the weights that another run has kept, change them, and evaluate.

The children of one parent are made side by side, on the same batches. None trains, so none has steps: what is
interrupted begins anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch

from clipbench.errors import UserError
from clipbench.record import tables
from clipbench.record.lease import Lease
from clipbench.record.rows import TO_GO_ON, EvalRow, Row, RunEnd, StepRow
from clipbench.runs.build import build_model
from clipbench.runs.checkpoint import RecordedRows
from clipbench.runs.ending import GroupTooLarge, ended, failure_now, first_start, taken_over
from clipbench.runs.events import Begun, Event, Refused, Rows
from clipbench.runs.plan import Plan
from clipbench.runs.weights import KeptWeightsLost, load_weights
from clipbench.task import Resolution, Task
from clipbench.task.seeds import RandomState, generator
from clipbench.train.loop import ActiveLearners, evaluate_side_by_side
from clipbench.transform import Source


class Child:
    """A model whose weights are another run's, while it is changed and evaluated."""

    def __init__(self, plan: Plan, task: Task, device: torch.device, step: int, seconds: float) -> None:
        """`step`, `seconds`: of training, behind the parent's weights. KeptWeightsLost where they are not
        there.
        """
        settings = plan.settings
        assert plan.transform is not None
        assert plan.parent is not None
        self.plan, self.task, self.device = plan, task, device
        self.step, self.seconds, self.skipped = step, seconds, 0
        self.model = build_model(settings, task, device)
        load_weights(self.model, plan.parent.model_path)
        self.model.eval()
        self.autocast = torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16")
        self.random = RandomState(generator(settings.seed, "transform").initial_seed(), device)
        splits = tuple(task.splits)
        self.splits = splits[:1] if settings.tag.role == "tune" else splits
        self.conditions = plan.transform.apply(self.model, Source(task, device, settings.seed))
        self.condition = ""
        self.seen: set[str] = set()

    def go_on(self) -> bool:
        """Change the model until it is to be evaluated again. False where it is not."""
        with self.random():
            condition = next(self.conditions, None)
        if condition is None:
            if not self.seen:
                raise ValueError("the transform named no condition: it must yield at least once, as yield ''")
            return False
        if not isinstance(condition, str) or condition in self.seen:
            raise ValueError(f"a transform yields names of conditions, each once, got {condition!r}")
        self.condition = condition
        self.seen.add(condition)
        return True

    def evaluation_weights(self) -> AbstractContextManager[None]:
        return nullcontext()

    def read(self) -> list[StepRow | RunEnd]:
        return []

    def eval_rows(
        self, split: str, values: Mapping[str, float], resolutions: Mapping[str, Resolution] | None = None
    ) -> list[EvalRow]:
        """A row for each value, under the condition at hand."""
        rows = []
        for name, value in values.items():
            known = (resolutions or {}).get(name, (None, None))
            row = EvalRow(self.step, self.seconds, split, name, value, *known)
            rows.append(replace(row, condition=self.condition))
        return rows


def _evaluate(children: Sequence[Child], stopped: Callable[[], bool]) -> Iterator[dict[Child, list[Row]]]:
    """Change and evaluate them side by side, and yield the rows that have become readable.

    A child's last row is a RunEnd. Ends early, without one, once `stopped()`.
    """
    active: ActiveLearners[Child] = ActiveLearners(children)
    while active.learners and not stopped():
        for child in list(active.learners):
            with active.turn(child):
                if not child.go_on():
                    active.add(child, [RunEnd("done", child.step, child.seconds, 0)])
        for split in children[0].splits:
            evaluate_side_by_side(active, list(active.learners), split)
        yield active.take_rows()


def _begin(plan: Plan, task: Task, device: torch.device) -> Child | RunEnd:
    """The child at its parent's weights; its end, where its parent diverged or has failed. UserError where
    there is no parent yet.
    """
    assert plan.parent is not None
    parent = plan.parent
    row = tables.row_of(parent.results, parent.run)
    if row is None or row["status"] in TO_GO_ON:
        left = "has not been made" if row is None else f"is unfinished ({row['status']})"
        raise UserError(f"{plan.label}: the run that it starts from, {parent.run}, {left}.")
    if row["status"] == "diverged":
        return RunEnd("diverged", row["steps"], row["seconds"], row["skipped"])
    if row["status"] == "failed":
        return RunEnd(
            "failed", 0, 0.0, 0, f"The run that it starts from, {parent.run}, failed:\n{row['error']}"
        )
    try:
        return Child(plan, task, device, row["steps"], row["seconds"])
    except KeptWeightsLost as error:
        text = f"{error}. The same command trains {parent.run}, the run that it starts from, again."
        return RunEnd("failed", 0, 0.0, 0, text)


def make_children(
    plans: Sequence[Plan],
    leases: Mapping[str, Lease],
    task: Task,
    device: torch.device,
    facts: Mapping[str, Any],
    stopped: Callable[[], bool],
) -> Iterator[Event]:
    """The events of a group of such runs. `facts`: what is known of all of them before."""
    children: dict[Child, tuple[RecordedRows, dict[str, Any]]] = {}
    for plan in plans:
        known = {**facts, "started": first_start(plan)}
        try:
            found = _begin(plan, task, device)
        except UserError as error:
            yield Refused(plan.run, str(error))
            continue
        except Exception:
            found = failure_now()
        if isinstance(found, RunEnd):
            yield ended(plan, RecordedRows(), known, found, device)
        else:
            children[found] = (RecordedRows(), known)
            yield Begun(plan.run)
    for new in _evaluate(list(children), stopped):
        for child, new_rows in new.items():
            rows, known = children[child]
            rows.add(new_rows)
            end = new_rows[-1]
            readable = tuple(row for row in new_rows if not isinstance(row, RunEnd))
            if readable:
                yield Rows(child.plan.run, readable, 0.0)
            if not isinstance(end, RunEnd):
                continue
            if end.status == "out of memory" and facts["lockstep"] > 1:
                raise GroupTooLarge
            if leases[child.plan.run].is_ours:
                yield ended(child.plan, rows, known, end, device)
            else:
                yield taken_over(child.plan)
