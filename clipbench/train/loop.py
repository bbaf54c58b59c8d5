"""The training loop. It takes batches and yields rows.

It trains any number of learners over one stream of batches. Each has its own model, optimizer, random state and rows, and none can
see the others: its rows are those of the same learner alone.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress

import torch

from clipbench.errors import UserError
from clipbench.optim import evaluation_weights
from clipbench.record.rows import EvalRow, Row, RunEnd
from clipbench.task import place
from clipbench.train.batches import Served
from clipbench.train.learner import Evaluation, Learner

READ_EVERY_STEPS, READ_EVERY_SECONDS = (
    64,
    0.5,
)  # how long a step's three values may stay on the device before they become a row


def train(
    learners: Sequence[Learner],
    batches: Iterator[Served],
    *,
    steps: int,
    eval_every: int,
    read: Callable[[int], bool] = lambda step: False,
) -> Iterator[dict[Learner, list[Row]]]:
    """Train to `steps` and yield once per step: the rows that have become readable, mostly none. A learner's last item is an RunEnd.

    Where `read(step)` is true, none is left unread: the moment for a checkpoint. `batches` start at the step of the learner that is
    furthest behind; others join when their step comes. Validation every `eval_every` steps and at the end, a learner's other `splits`
    once, at the end. Nothing in a step waits for the device, and clocks stand still during evaluation and while somebody else has the turn.
    """
    turns = Turns(learners)
    step, read_at = min(learner.step for learner in learners), time.perf_counter()
    while step < steps and turns.active:
        served, step = next(batches), step + 1
        present = [learner for learner in turns.active if learner.step == step - 1]
        turns.each(lambda learner: learner.learn(served), present)  # noqa: B023 (called at once)
        evaluate = step % eval_every == 0 or step == steps
        full = any(len(learner.unread) >= READ_EVERY_STEPS for learner in present)
        if read(step) or evaluate or full or time.perf_counter() - read_at > READ_EVERY_SECONDS:
            turns.each(Learner.read, present)
            read_at = time.perf_counter()
        if evaluate:
            turns.each(Learner.train_metrics, present)
            for split in learners[0].task.splits if step == steps else learners[0].task.splits[:1]:
                _evaluate(turns, [learner for learner in present if split in learner.splits], split)
        yield turns.taken()
    turns.each(
        lambda learner: [RunEnd("done", learner.step, learner.seconds, learner.skipped)], list(turns.active)
    )
    yield turns.taken()


def _evaluate(turns: Turns, learners: Sequence[Learner], split: str) -> None:
    """One pass over the split for all of them; none where none is left."""
    evaluations = {learner: Evaluation(learner) for learner in learners if learner in turns.active}
    if not evaluations:
        return
    with ExitStack() as stack:
        turns.each(lambda learner: stack.enter_context(evaluation_weights(learner.optimizer)), learners)
        for batch in learners[0].task.eval_batches(split):
            placed = place(learners[0].task, batch, learners[0].device)
            turns.each(lambda learner: evaluations[learner].update(placed), learners)  # noqa: B023 (called at once)

    def rows(learner: Learner) -> list[Row]:
        return [
            EvalRow(learner.step, learner.seconds, split, *item)
            for item in evaluations[learner].values().items()
        ]

    turns.each(rows, learners)


class Turns:
    """Learners that take turns at the same work. One that raises or diverges leaves with an RunEnd; the others go on."""

    def __init__(self, learners: Iterable[Learner]) -> None:
        self.active = list(learners)
        self.rows: dict[Learner, list[Row]] = {}

    def each(self, work: Callable[[Learner], Sequence[Row] | None], learners: Sequence[Learner]) -> None:
        """`work` for each of `learners` that is still active; the rows it returns are collected."""
        for learner in learners:
            if learner not in self.active:
                continue
            try:
                rows = work(learner) or ()
            except UserError:
                raise
            except Exception as error:  # as text: the error itself would keep the step's tensors alive
                status = "out of memory" if is_memory(error) else "failed"
                end, rows = (
                    RunEnd(status, learner.step, learner.seconds, learner.skipped, traceback.format_exc()),
                    [],
                )
                with suppress(Exception):  # a device that failed does not give its values
                    rows = learner.read()
                rows = rows if rows and isinstance(rows[-1], RunEnd) else [*rows, end]
            if rows:
                self.rows.setdefault(learner, []).extend(rows)
                if isinstance(rows[-1], RunEnd):
                    self.active.remove(learner)

    def taken(self) -> dict[Learner, list[Row]]:
        rows, self.rows = self.rows, {}
        return rows


def is_memory(error: Exception) -> bool:
    """torch has a type for it on a GPU only."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)
