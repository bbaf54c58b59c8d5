"""A learner's metrics and mean loss over a split."""

from __future__ import annotations

import torch
from torch import Tensor

from clipbench.optim import evaluation_weights
from clipbench.task import Batch, MetricSet, Resolution, prepare_on_device
from clipbench.train.learner import Learner
from clipbench.train.step import as_tensor, forward, weighted


def evaluate(learner: Learner, split: str) -> dict[str, float]:
    """{"loss": …, and each metric of the task} over a split, at the optimizer's answer. Waits."""
    evaluation = Evaluation(learner)
    with evaluation_weights(learner.optimizer):
        for batch in learner.task.eval_batches(split):
            evaluation.update(prepare_on_device(learner.task, batch, learner.device))
    return evaluation.values()


class Evaluation:
    """Σ_i n_i loss_i / Σ_i n_i over batches, n_i = `task.count(targets_i)`, and the task's metrics, in
    evaluation mode.

    To be used within the optimizer's `evaluation_weights`.
    """

    def __init__(self, learner: Learner) -> None:
        self.learner = learner
        self.metrics = MetricSet(learner.task.metrics(), learner.device)
        self.loss = torch.zeros((), device=learner.device)
        self.count: int | Tensor = 0

    @torch.no_grad()
    def update(self, batch: Batch) -> None:
        """One batch, prepared on the device. Waits for nothing."""
        learner = self.learner
        learner.model.eval()
        with learner.random():
            outputs, targets = forward(learner.task, learner.model, batch, learner.autocast)
        self.metrics.update(outputs, targets)
        loss = learner.task.loss(outputs, targets)
        count = learner.task.count(targets)
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
