"""The training loop. It takes batches and yields rows; it prints nothing, opens no file and draws nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from clipbench.optim import clip_stats
from clipbench.seeds import RandomState, generator
from clipbench.task import Batch, Task, move

READ_EVERY_STEPS, READ_EVERY_SECONDS = 64, 0.5  # how long values may stay on the device before they become rows


@dataclass(frozen=True)
class StepRow:
    """One training step: a row of the table `steps`. `seconds`: since the start, evaluation left out."""

    step: int
    epoch: float
    seconds: float
    loss: float
    grad_norm: float
    clipped_norm: float
    clip_factor: float
    lr: float


@dataclass(frozen=True)
class EvalRow:
    """One metric of one split: a row of the table `evals`. On "train" it is over the batches since the last evaluation."""

    step: int
    seconds: float
    split: str
    metric: str
    value: float


@dataclass(frozen=True)
class End:
    """The last item. `skipped`: steps whose gradient was not finite."""

    status: str  # "done", or "diverged": a loss that is not finite or above `max_loss`
    steps: int
    seconds: float
    skipped: int


Row = StepRow | EvalRow | End


@dataclass(frozen=True)
class Schedule:
    """Learning rate over time, as a factor in [0, 1]: `warmup` linear steps, then constant, or cosine or linear to 0 at the last step."""

    kind: str
    warmup: int
    steps: int

    def __call__(self, step: int) -> float:
        """Of step 0, 1, …, steps − 1."""
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[self.kind]


SCHEDULES = ("constant", "cosine", "linear")


class Learner:
    """One model being trained: everything that a step changes, and so everything that a checkpoint holds."""

    def __init__(self, task: Task, model: nn.Module, optimizer: Optimizer, *, seed: int, device: torch.device, precision: str) -> None:
        self.task, self.model, self.optimizer, self.device = task, model, optimizer, device
        self.base_lrs = [group["lr"] for group in optimizer.param_groups]
        self.autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
        self.random = RandomState(generator(seed, "dropout").initial_seed(), device)
        self.metrics = task.metrics().to(device)
        self.metrics.persistent(True)
        self.step, self.seconds, self.skipped = 0, 0.0, 0
        self.unread: list[tuple[int, float, float, Tensor]] = []  # (step, seconds, lr, [loss, norm, clipped norm] on the device)

    def learn(self, batch: Batch, factor: float) -> None:
        """One optimizer step at `factor` times the learning rate. Waits for nothing."""
        for group, lr in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = lr * factor
        self.model.train()
        self.optimizer.zero_grad()
        with self.random():
            with self.autocast:
                outputs, targets = self.task.forward(self.model, batch)
            loss = self.task.loss(outputs.float(), targets)
            loss.backward()
            self.optimizer.step()
        stats = clip_stats(self.optimizer)
        self.metrics.update(outputs.detach().float(), targets)
        self.step += 1
        values = torch.stack([loss.detach().float(), stats.grad_norm.float(), stats.clipped_norm.float()])
        self.unread.append((self.step, self.seconds, self.optimizer.param_groups[0]["lr"], values))

    def state_dict(self) -> dict[str, Any]:
        """A checkpoint: what `load_state_dict` needs to go on bit for bit. Read the steps first."""
        parts = {name: getattr(self, name).state_dict() for name in ("model", "optimizer", "metrics")}
        return {
            **parts,
            "random": self.random.state,
            "step": self.step,
            "seconds": self.seconds,
            "skipped": self.skipped,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in ("model", "optimizer", "metrics"):
            getattr(self, name).load_state_dict(state[name])
        self.random.state = [part.cpu() for part in state["random"]]
        self.step, self.seconds, self.skipped = state["step"], state["seconds"], state["skipped"]

    def read(self) -> list[StepRow]:
        """The steps since the last reading: one wait for the device."""
        if not self.unread:
            return []
        steps, seconds, rates, values = zip(*self.unread, strict=True)
        self.unread = []
        rows = []
        for step, second, lr, (loss, norm, clipped) in zip(steps, seconds, rates, torch.stack(values).tolist(), strict=True):
            factor = 0.0 if not math.isfinite(norm) else clipped / norm if norm else 1.0
            rows.append(StepRow(step, step / self.task.steps_per_epoch, second, loss, norm, clipped, factor, lr))
        return rows

    def train_metrics(self) -> dict[str, float]:
        """Over the training batches since the last call."""
        values = {name: float(value) for name, value in self.metrics.compute().items()}
        self.metrics.reset()
        return values

    @torch.no_grad()
    def evaluate(self, split: str) -> dict[str, float]:
        """The task's metrics and the mean loss over a split, in evaluation mode."""
        self.model.eval()
        metrics = self.task.metrics().to(self.device)
        loss, count = torch.zeros((), device=self.device), 0
        for batch in self.task.eval_batches(split):
            with self.autocast:
                outputs, targets = self.task.forward(self.model, move(batch, self.device))
            metrics.update(outputs.float(), targets)
            loss += self.task.loss(outputs.float(), targets) * len(targets)
            count += len(targets)
        return {"loss": float(loss) / count, **{name: float(value) for name, value in metrics.compute().items()}}


def train(
    learner: Learner, batches: Iterator[Batch], *, steps: int, eval_every: int, schedule: Schedule, max_loss: float
) -> Iterator[list[Row]]:
    """Train to `steps` and yield once per step: the rows that have become readable, mostly none. The last item is an End.

    Validation every `eval_every` steps and at the end, every other split once, at the end. Nothing in a step waits for the device,
    and the clock stands still during evaluation and while somebody else has the generator's turn.
    """
    read_at = time.perf_counter()
    while learner.step < steps:
        started = time.perf_counter()
        learner.learn(move(next(batches), learner.device), schedule(learner.step))
        learner.seconds += time.perf_counter() - started
        rows: list[Row] = []
        evaluate = learner.step % eval_every == 0 or learner.step == steps
        if evaluate or len(learner.unread) >= READ_EVERY_STEPS or time.perf_counter() - read_at > READ_EVERY_SECONDS:
            started = time.perf_counter()
            for row in learner.read():
                rows.append(row)
                learner.skipped += not math.isfinite(row.grad_norm)
                if not row.loss <= max_loss:
                    yield [*rows, End("diverged", row.step, row.seconds, learner.skipped)]
                    return
            learner.seconds += (read_at := time.perf_counter()) - started
        if evaluate:
            rows += [EvalRow(learner.step, learner.seconds, "train", *item) for item in learner.train_metrics().items()]
            for split in learner.task.splits if learner.step == steps else learner.task.splits[:1]:
                rows += [EvalRow(learner.step, learner.seconds, split, *item) for item in learner.evaluate(split).items()]
        yield rows
    yield [End("done", learner.step, learner.seconds, learner.skipped)]
