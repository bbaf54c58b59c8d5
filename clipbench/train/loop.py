"""The training loop. It takes batches and yields rows.

It trains any number of learners over one stream of batches. Each has its own model, optimizer, random state
and rows, and none can see the others: its rows are those of the same learner alone.
"""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Generic, Protocol, TypeVar

import torch

from clipbench.errors import UserError
from clipbench.record.rows import Row, RunEnd
from clipbench.record.unread import READ_EVERY_SECONDS, READ_EVERY_STEPS
from clipbench.task import prepare_on_device
from clipbench.train.batches import DeviceBatch
from clipbench.train.evaluation import Evaluated, Evaluation
from clipbench.train.learner import Learner

T = TypeVar("T", bound=Evaluated)


class Readings(Protocol):
    """Which steps are to be read at once, whatever else would let them wait."""

    def reads_at(self, step: int) -> bool:
        """Whether no step is to be left unread after `step`. Asked once after each step, in their order."""


class NoReadings:
    """None."""

    def reads_at(self, step: int) -> bool:
        return False


def train(
    learners: Sequence[Learner],
    batches: Iterator[DeviceBatch],
    *,
    steps: int,
    eval_every: int,
    until: int | None = None,
    readings: Readings | None = None,
    most_seconds: float = math.inf,
) -> Iterator[dict[Learner, list[Row]]]:
    """Train to `steps` and yield once per step: the rows that have become readable, mostly none.

    A learner's last row is a RunEnd. `until`: the step to stop at for now, at an evaluation; whoever trains
    on from there gets the rows that an unbroken training would have given. Where `readings.reads_at(step)`,
    no step is left unread: the moment for a checkpoint. `batches` start at the step of the learner that is
    furthest behind; others join when their step comes. All take the same number of batches a step. A learner
    that has trained `most_seconds`, as far as they are read, ends before its last step. Validation
    every `eval_every` steps and at the end, a learner's other `splits` once, at the end. Nothing in a step
    waits for the device, and clocks stand still during evaluation and while somebody else has the turn.
    """
    readings = NoReadings() if readings is None else readings
    active = ActiveLearners(learners)
    batches_per_step = _shared_batches_per_step(learners)
    splits = learners[0].task.splits
    step, read_at = min(learner.step for learner in learners), time.perf_counter()
    last = steps if until is None else min(until, steps)
    while step < last and active.learners:
        step_batches = [next(batches) for _ in range(batches_per_step)]
        step += 1
        present = [learner for learner in active.learners if learner.step == step - 1]
        for learner in present:
            with active.turn(learner):
                learner.learn(*step_batches)
        evaluate = step % eval_every == 0 or step == steps
        full = any(len(learner.unread) >= READ_EVERY_STEPS for learner in present)
        late = time.perf_counter() - read_at > READ_EVERY_SECONDS
        if readings.reads_at(step) or evaluate or full or late or step == last:
            _read(active, present)
            read_at = time.perf_counter()
        if evaluate:
            _read_train_metrics(active, present)
            for split in splits if step == steps else splits[:1]:
                evaluate_side_by_side(active, active.among(present), split)
        if step < steps:
            _end_where_time_is_over(active, present, most_seconds)
        yield active.take_rows()
    for learner in list(active.learners):
        active.add(learner, [learner.end(steps)])
    yield active.take_rows()


def _shared_batches_per_step(learners: Sequence[Learner]) -> int:
    numbers = {learner.batches_per_step for learner in learners}
    if len(numbers) > 1:
        raise ValueError(
            f"Learners side by side take the same number of batches a step, got {sorted(numbers)}."
        )
    return numbers.pop()


def _read(active: ActiveLearners[Learner], learners: Sequence[Learner]) -> None:
    for learner in active.among(learners):
        with active.turn(learner):
            active.add(learner, learner.read())


def _read_train_metrics(active: ActiveLearners[Learner], learners: Sequence[Learner]) -> None:
    for learner in active.among(learners):
        with active.turn(learner):
            active.add(learner, learner.train_metrics())


def _end_where_time_is_over(
    active: ActiveLearners[Learner], learners: Sequence[Learner], most_seconds: float
) -> None:
    """Those of whom every step is read, so that whoever goes on from here misses none."""
    for learner in active.among(learners):
        if learner.seconds >= most_seconds and not learner.unread:
            active.add(learner, [RunEnd("timeout", learner.step, learner.seconds, learner.skipped)])


def evaluate_side_by_side(active: ActiveLearners[T], learners: Sequence[T], split: str) -> None:
    """One pass over the split for all of `learners` that look at it; none where there are none."""
    evaluations = {learner: Evaluation(learner) for learner in learners if split in learner.splits}
    if not evaluations:
        return
    task, device = learners[0].task, learners[0].device
    with ExitStack() as stack:
        for learner in evaluations:
            with active.turn(learner):
                stack.enter_context(learner.evaluation_weights())
        for batch in task.eval_batches(split):
            prepared = prepare_on_device(task, batch, device)
            for learner in active.among(evaluations):
                with active.turn(learner):
                    evaluations[learner].update(prepared)
    for learner in active.among(evaluations):
        with active.turn(learner):
            evaluation = evaluations[learner]
            active.add(learner, learner.eval_rows(split, evaluation.values(), evaluation.resolutions()))


class ActiveLearners(Generic[T]):
    """The learners that still train, and the rows that nobody has taken yet.

    One that raises or diverges leaves; the others go on.
    """

    def __init__(self, learners: Sequence[T]) -> None:
        self.learners = list(learners)
        self.rows: dict[T, list[Row]] = {}

    def among(self, learners: Iterable[T]) -> list[T]:
        """Those of `learners` that still train."""
        return [learner for learner in learners if learner in self.learners]

    @contextmanager
    def turn(self, learner: T) -> Iterator[None]:
        """`with active.turn(learner):` whatever is raised inside ends this learner alone.

        A UserError is raised on.
        """
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # as text: the error itself would keep the step's tensors alive
            self.add(learner, _rows_of_failure(learner, error))

    def add(self, learner: T, rows: Sequence[Row]) -> None:
        """Keep the rows until they are taken. A learner whose last row is a RunEnd leaves."""
        if not rows:
            return
        self.rows.setdefault(learner, []).extend(rows)
        if isinstance(rows[-1], RunEnd):
            self.learners.remove(learner)

    def take_rows(self) -> dict[T, list[Row]]:
        rows, self.rows = self.rows, {}
        return rows


def _rows_of_failure(learner: Evaluated, error: Exception) -> list[Row]:
    """The steps before it, as far as they can be read, and the end: "diverged" where they show that."""
    status = "out of memory" if is_memory(error) else "failed"
    text = traceback.format_exc()
    end = RunEnd(status, learner.step, learner.seconds, learner.skipped, text)
    rows: list[Row] = []
    with suppress(Exception):  # a device that failed does not give its values
        rows.extend(learner.read())
    if not (rows and isinstance(rows[-1], RunEnd)):
        rows.append(end)
    return rows


def is_memory(error: Exception) -> bool:
    """torch has a type for it on a GPU only."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)
