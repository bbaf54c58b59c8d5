"""A model being trained: everything that a step changes, and the rows that it gives.

It prints nothing, opens no file and draws nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from clipbench.optim import Restarter, clip_stats, evaluation_weights
from clipbench.record.rows import EvalRow, RunEnd, StepRow
from clipbench.record.unread import UnreadStep, UnreadSteps, is_stuck
from clipbench.task import MetricSet, Resolution, Task
from clipbench.task.seeds import RandomState, generator
from clipbench.train.batches import BatchTiming, DeviceBatch, Stopwatch, waiting_time
from clipbench.train.metrics import BufferedMetrics
from clipbench.train.step import Plain, Step


class Learner:
    """One model being trained: everything that a step changes, and so everything that a checkpoint holds."""

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        seed: int,
        device: torch.device,
        precision: str,
        schedule: Callable[[int], float],
        max_loss: float,
        restarter: Restarter | None = None,
        splits: Sequence[str] | None = None,
        step: Step | None = None,
    ) -> None:
        """`model` on `device`, and an optimizer of its parameters that clips.

        `schedule`: the learning rate's factor by step. `max_loss`: a loss above it ends the run as diverged.
        `splits`: what it is evaluated on after its last step, of the task's; all of them by default. `step`:
        from batches to gradients, `Plain()` by default. UserError where a metric of the task cannot be saved.
        """
        self.task, self.model, self.optimizer, self.device = task, model, optimizer, device
        self.schedule, self.max_loss, self.restarter = schedule, max_loss, restarter
        self.splits = tuple(task.splits if splits is None else splits)
        self.take_gradient = Plain() if step is None else step
        self.base_lrs = [group["lr"] for group in optimizer.param_groups]
        self.autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
        self.random = RandomState(generator(seed, "dropout").initial_seed(), device)
        self.metrics = BufferedMetrics(MetricSet(task.metrics(), device))
        self.step = 0
        self.unread = UnreadSteps()

    @property
    def seconds(self) -> float:
        """Of training, up to the last step read."""
        return self.unread.seconds

    @property
    def skipped(self) -> int:
        """Steps whose gradient was not finite, of those read."""
        return self.unread.skipped

    @property
    def batches_per_step(self) -> int:
        return self.take_gradient.batches

    def learn(self, *batches: DeviceBatch) -> None:
        """One optimizer step on the next `batches_per_step` batches. Waits for nothing."""
        stopwatch = Stopwatch(self.device)
        with stopwatch:
            self._set_learning_rates()
            if not self.model.training:  # to walk over all modules takes some percent of a small model's step
                self.model.train()
            self.optimizer.zero_grad()
            on_device = [each.batch for each in batches]
            with self.random():
                measured = self.take_gradient(self.task, self.model, self.optimizer, on_device, self.autocast)
                self.optimizer.step()
            stats = clip_stats(self.optimizer)
            if self.restarter:
                self.restarter.step(self.optimizer)
            for outputs, targets in measured.seen:
                self.metrics.update(outputs, targets)
            self.step += 1
            numbers = (measured.loss, stats.grad_norm, stats.clipped_norm)
            values = torch.stack([number.float() for number in numbers])
        lr = self.optimizer.param_groups[0]["lr"]
        epoch = self.step * self.batches_per_step / self.task.steps_per_epoch
        took = partial(_seconds, stopwatch, [each.timing for each in batches])
        self.unread.add(UnreadStep(self.step, epoch, lr, values, took))

    def _set_learning_rates(self) -> None:
        factor = self.schedule(self.step)
        for group, lr in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = lr * factor

    def read(self) -> list[StepRow | RunEnd]:
        """The steps since the last reading, by one wait for the device.

        Where the run diverged, a RunEnd is the last.
        """
        steps = self.unread.read(self.max_loss)
        rows: list[StepRow | RunEnd] = [*steps]
        if steps and not steps[-1].loss <= self.max_loss:
            rows.append(RunEnd("diverged", steps[-1].step, self.seconds, self.skipped))
        return rows

    def end(self, steps: int) -> RunEnd:
        """How a run of so many steps ends here, all of them read: stopped before its last one, diverged where
        it has come to take no step any more, else done.
        """
        status = "done"
        if self.step < steps:
            status = "stopped"
        elif is_stuck(self.step, self.unread.skipped_last):
            status = "diverged"
        return RunEnd(status, self.step, self.seconds, self.skipped)

    def evaluation_weights(self) -> AbstractContextManager[None]:
        """Within, the model holds the optimizer's answer."""
        return evaluation_weights(self.optimizer)

    def train_metrics(self) -> list[EvalRow]:
        """Over the training batches since the last call."""
        return self.eval_rows("train", self.metrics.take_values())

    def eval_rows(
        self, split: str, values: Mapping[str, float], resolutions: Mapping[str, Resolution] | None = None
    ) -> list[EvalRow]:
        """A row for each value, at this step."""
        rows = []
        for name, value in values.items():
            known = (resolutions or {}).get(name, (None, None))
            rows.append(EvalRow(self.step, self.seconds, split, name, value, *known))
        return rows

    def state_dict(self) -> dict[str, Any]:
        """A checkpoint: what `load_state_dict` needs to resume bit for bit. Read the steps first."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "metrics": self.metrics.state_dict(),
            "random": self.random.state,
            "step": self.step,
            "seconds": self.seconds,
            "skipped": self.skipped,
            "skipped_last": self.unread.skipped_last,
        }
        if self.restarter:
            state["restarter"] = self.restarter.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.metrics.load_state_dict(state["metrics"], self.device)
        if self.restarter:
            self.restarter.load_state_dict(state["restarter"])
        self.random.state = [part.cpu() for part in state["random"]]
        self.step = state["step"]
        self.unread.seconds, self.unread.skipped = state["seconds"], state["skipped"]
        self.unread.skipped_last = state.get("skipped_last", 0)  # earlier versions did not count them


def _seconds(stopwatch: Stopwatch, timings: Sequence[BatchTiming]) -> float:
    """What a step took a run alone: its own work and its batches."""
    own = stopwatch.seconds
    return own + waiting_time(timings, own)
