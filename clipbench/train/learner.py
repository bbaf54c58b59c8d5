"""A model being trained: everything that a step changes, and the rows that it gives. It prints nothing, opens no file and draws nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from clipbench.optim import Restarter, clip_stats, evaluation_weights
from clipbench.record.rows import EvalRow, RunEnd, StepRow
from clipbench.task import Batch, Task, place
from clipbench.task.seeds import RandomState, generator
from clipbench.train.batches import Served, Span, Supply

if TYPE_CHECKING:
    from torchmetrics import MetricCollection


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
    ) -> None:
        """`splits`: what it is evaluated on after its last step, of the task's; all of them by default."""
        self.task, self.model, self.optimizer, self.device = task, model, optimizer, device
        self.schedule, self.max_loss, self.restarter = schedule, max_loss, restarter
        self.splits = tuple(task.splits if splits is None else splits)
        self.base_lrs = [group["lr"] for group in optimizer.param_groups]
        self.autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
        self.random = RandomState(generator(seed, "dropout").initial_seed(), device)
        self.metrics = Together(task.metrics().to(device))
        self.step, self.seconds, self.skipped = 0, 0.0, 0
        self.unread: list[
            tuple[int, float, Tensor, Span, Supply]
        ] = []  # (step, lr, [loss, norm, clipped norm] on the device, …)

    def learn(self, served: Served) -> None:
        """One optimizer step. Waits for nothing."""
        with (span := Span(self.device)):
            factor = self.schedule(self.step)
            for group, lr in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
                group["lr"] = lr * factor
            if not self.model.training:  # to walk over all modules takes some percent of a small model's step
                self.model.train()
            self.optimizer.zero_grad()
            with self.random():
                with self.autocast:
                    outputs, targets = self.task.forward(self.model, served.batch)
                loss = self.task.loss(outputs.float(), targets)
                loss.backward()
                self.optimizer.step()
            stats = clip_stats(self.optimizer)
            if self.restarter:
                self.restarter.step(self.optimizer)
            self.metrics.update(outputs.detach().float(), targets)
            self.step += 1
            values = torch.stack([loss.detach().float(), stats.grad_norm.float(), stats.clipped_norm.float()])
        self.unread.append((self.step, self.optimizer.param_groups[0]["lr"], values, span, served.supply))

    def read(self) -> list[StepRow | RunEnd]:
        """The steps since the last reading, by one wait for the device. Where the run diverged, an RunEnd is the last."""
        if not self.unread:
            return []
        unread, self.unread = self.unread, []
        rows: list[StepRow | RunEnd] = []
        numbers = torch.stack([values for _, _, values, _, _ in unread]).tolist()
        for (step, lr, _, span, supply), (loss, norm, clipped) in zip(unread, numbers, strict=True):
            self.seconds += span.seconds + supply.wait(span.seconds)
            factor = 0.0 if not math.isfinite(norm) else clipped / norm if norm else 1.0
            rows.append(
                StepRow(step, step / self.task.steps_per_epoch, self.seconds, loss, norm, clipped, factor, lr)
            )
            self.skipped += not math.isfinite(norm)
            if not loss <= self.max_loss:
                return [*rows, RunEnd("diverged", step, self.seconds, self.skipped)]
        return rows

    def train_metrics(self) -> list[EvalRow]:
        """Over the training batches since the last call."""
        return [EvalRow(self.step, self.seconds, "train", *item) for item in self.metrics.taken().items()]

    def evaluate(self, split: str) -> dict[str, float]:
        """The task's metrics and the mean loss over a split."""
        evaluation = Evaluation(self)
        with evaluation_weights(self.optimizer):
            for batch in self.task.eval_batches(split):
                evaluation.update(place(self.task, batch, self.device))
        return evaluation.values()

    def state_dict(self) -> dict[str, Any]:
        """A checkpoint: what `load_state_dict` needs to go on bit for bit. Read the steps first."""
        names = ["model", "optimizer", "metrics", *(["restarter"] if self.restarter else [])]
        parts = {name: getattr(self, name).state_dict() for name in names}
        return {
            **parts,
            "random": self.random.state,
            "step": self.step,
            "seconds": self.seconds,
            "skipped": self.skipped,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.metrics.load_state_dict(state["metrics"], self.device)
        if self.restarter:
            self.restarter.load_state_dict(state["restarter"])
        self.random.state = [part.cpu() for part in state["random"]]
        self.step, self.seconds, self.skipped = state["step"], state["seconds"], state["skipped"]


class Evaluation:
    """A learner's metrics and mean loss over batches, in evaluation mode. To be used within the optimizer's `evaluation_weights`."""

    def __init__(self, learner: Learner) -> None:
        self.learner, self.metrics = learner, learner.task.metrics().to(learner.device)
        self.loss, self.count = torch.zeros((), device=learner.device), 0

    @torch.no_grad()
    def update(self, batch: Batch) -> None:
        learner = self.learner
        learner.model.eval()
        with learner.random(), learner.autocast:
            outputs, targets = learner.task.forward(learner.model, batch)
        self.metrics.update(outputs.float(), targets)
        self.loss += learner.task.loss(outputs.float(), targets) * len(targets)
        self.count += len(targets)

    def values(self) -> dict[str, float]:
        return {
            "loss": float(self.loss) / self.count,
            **{name: float(value) for name, value in self.metrics.compute().items()},
        }


class Together:
    """The task's metrics over training batches. Small batches are counted many at a time: an update takes as long for one as for many."""

    MOST, ENTRIES = 32, 2**16  # batches, and entries of their outputs, that may wait

    def __init__(self, metrics: MetricCollection) -> None:
        self.metrics = metrics
        self.metrics.persistent(True)
        self.waiting: list[tuple[Tensor, Tensor]] = []

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        if self.waiting and any(
            new.shape[1:] != old.shape[1:]
            for new, old in zip((outputs, targets), self.waiting[-1], strict=True)
        ):
            self._count()
        self.waiting.append((outputs, targets))
        if len(self.waiting) >= self.MOST or outputs.numel() * len(self.waiting) >= self.ENTRIES:
            self._count()

    def _count(self) -> None:
        if self.waiting:
            outputs, targets = (
                torch.cat(parts) if len(parts) > 1 else parts[0] for parts in zip(*self.waiting, strict=True)
            )
            self.waiting.clear()
            self.metrics.update(outputs, targets)

    def taken(self) -> dict[str, float]:
        """The values so far, and a new start."""
        self._count()
        values = {name: float(value) for name, value in self.metrics.compute().items()}
        self.metrics.reset()
        return values

    def state_dict(self) -> dict[str, Any]:
        """With what waits: to count it now would change the order of later sums."""
        return {"counted": self.metrics.state_dict(), "waiting": list(self.waiting)}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        self.metrics.load_state_dict(state["counted"])
        self.waiting = [(outputs.to(device), targets.to(device)) for outputs, targets in state["waiting"]]
