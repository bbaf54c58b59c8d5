"""A model's metrics and mean loss over a split."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from clipbench.record.rows import EvalRow, RunEnd, StepRow
from clipbench.task import Batch, MetricSet, Resolution, Task, prepare_on_device
from clipbench.task.seeds import RandomState
from clipbench.train.step import as_tensor, forward, weighted


class Evaluated(Protocol):
    """A model that can be evaluated: one that is being trained (`Learner`), or was (`Child`)."""

    task: Task
    model: nn.Module
    device: torch.device
    autocast: Any
    random: RandomState
    splits: tuple[str, ...]
    step: int

    @property
    def seconds(self) -> float:
        """Of training, up to the last step read."""

    @property
    def skipped(self) -> int:
        """Steps whose gradient was not finite, of those read."""

    def evaluation_weights(self) -> AbstractContextManager[None]:
        """Within, the model holds the weights that are to be evaluated."""

    def eval_rows(
        self, split: str, values: Mapping[str, float], resolutions: Mapping[str, Resolution] | None = None
    ) -> list[EvalRow]:
        """A row for each value."""

    def read(self) -> list[StepRow | RunEnd]:
        """The steps that are not read yet."""


def evaluate(evaluated: Evaluated, split: str) -> dict[str, float]:
    """{"loss": …, and each metric of the task} over a split, at the weights to be evaluated. Waits."""
    evaluation = Evaluation(evaluated)
    with evaluated.evaluation_weights():
        for batch in evaluated.task.eval_batches(split):
            evaluation.update(prepare_on_device(evaluated.task, batch, evaluated.device))
    return evaluation.values()


class Evaluation:
    """Σ_i n_i loss_i / Σ_i n_i over batches, n_i = `task.count(targets_i)`, and the task's metrics, in
    evaluation mode.

    To be used within its `evaluation_weights`.
    """

    def __init__(self, evaluated: Evaluated) -> None:
        self.evaluated = evaluated
        self.metrics = MetricSet(evaluated.task.metrics(), evaluated.device)
        self.loss = torch.zeros((), device=evaluated.device)
        self.count: int | Tensor = 0

    @torch.no_grad()
    def update(self, batch: Batch) -> None:
        """One batch, prepared on the device. Waits for nothing."""
        one = self.evaluated
        one.model.eval()
        with one.random():
            outputs, targets = forward(one.task, one.model, batch, one.autocast)
        self.metrics.update(outputs, targets)
        loss = one.task.loss(outputs, targets)
        count = one.task.count(targets)
        self.loss += weighted(loss, as_tensor(count, like=loss))
        self.count = self.count + count

    def values(self) -> dict[str, float]:
        """{"loss": …, and each metric}. Waits for the device. NaN for the loss where nothing was counted."""
        count = float(self.count)
        loss = float(self.loss) / count if count else float("nan")
        return {"loss": loss, **self.metrics.values()}

    def resolutions(self) -> dict[str, Resolution]:
        """{metric: its resolution and the smallest difference worth telling}, of those that say it. Waits."""
        return self.metrics.resolutions()
