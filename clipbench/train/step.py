"""What stands between batches and `p.grad`. A learner calls one of these each step, and knows none of them.

Another one is a frozen dataclass with the two members of `Step`: per-example clipping, for instance, makes
the gradient of each example, clips it, and leaves the mean, with noise, in `p.grad`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from clipbench.task import Batch, Task
from clipbench.task.tree import Tree, detached, tensors, widened


class Measured(NamedTuple):
    """What was seen on the way to a gradient, on the device and without a graph."""

    loss: Tensor
    """The loss that the gradient is of. ()"""

    seen: list[tuple[Tree, Tree]]
    """(outputs, targets) of each batch, for the training metrics."""


class Step(Protocol):
    """From batches to `p.grad`."""

    @property
    def batches(self) -> int:
        """How many it takes."""

    def __call__(
        self,
        task: Task,
        model: nn.Module,
        optimizer: Optimizer,
        batches: Sequence[Batch],
        autocast: AbstractContextManager,
    ) -> Measured:
        """Leave a gradient in `p.grad` of the optimizer's parameters, which is None or zero before; do not
        take the step.

        `model` is in training mode, `batches` are on its device, `autocast` is to be entered around each
        `task.forward`. What is drawn is drawn from torch's global generators, which are the run's own here.
        Waits for nothing.
        """


@dataclass(frozen=True)
class Plain:
    """∇ loss(batch): one batch a step."""

    batches = 1

    def __call__(
        self,
        task: Task,
        model: nn.Module,
        optimizer: Optimizer,
        batches: Sequence[Batch],
        autocast: AbstractContextManager,
    ) -> Measured:
        [batch] = batches
        outputs, targets = forward(task, model, batch, autocast)
        loss = task.loss(outputs, targets)
        loss.backward()
        return Measured(loss.detach(), [(detached(outputs), targets)])


@dataclass(frozen=True)
class Accumulate:
    """Σ_i n_i ∇ loss(batch_i) / Σ_i n_i over k batches; n_i = `task.count(targets_i)` things that a batch's
    mean loss is over.

    So k batches give the gradient of one that is k times as large, whatever each of them counts, in the
    memory of one (batch normalisation apart, which sees each alone). The weights are known only after the
    last batch, so each batch is weighted by n_i / n_1 as it comes, which keeps gradients near their usual
    size, and the sum is divided once by Σ_i n_i / n_1. A batch that counts nothing has no part. The loss that
    is recorded is weighted alike.
    """

    batches: int

    def __call__(
        self,
        task: Task,
        model: nn.Module,
        optimizer: Optimizer,
        batches: Sequence[Batch],
        autocast: AbstractContextManager,
    ) -> Measured:
        """Backward after each batch; one division of all gradients at the end."""
        seen = []
        losses: list[Tensor] = []
        weights: list[Tensor] = []
        unit: Tensor | None = None
        for batch in batches:
            outputs, targets = forward(task, model, batch, autocast)
            loss = task.loss(outputs, targets)
            count = as_tensor(task.count(targets), like=loss)
            if unit is None:
                unit = count.clamp(min=1)
            weight = count / unit
            part = weighted(loss, weight)
            silence_where_empty(outputs, weight)
            part.backward()
            losses.append(part.detach())
            weights.append(weight)
            seen.append((detached(outputs), targets))
        scale = 1 / torch.stack(weights).sum()
        torch._foreach_mul_(list(gradients(optimizer)), scale)
        return Measured(torch.stack(losses).sum() * scale, seen)


def make_step(accumulate: int) -> Step:
    """The step of the key `accumulate`: so many batches a step.

    ValueError for what is no whole number of at least 1.
    """
    if isinstance(accumulate, bool) or not isinstance(accumulate, int) or accumulate < 1:
        raise ValueError(f"accumulate must be a whole number of at least 1, got {accumulate!r}.")
    return Plain() if accumulate == 1 else Accumulate(accumulate)


def forward(
    task: Task, model: nn.Module, batch: Batch, autocast: AbstractContextManager
) -> tuple[Tree, Tree]:
    """(outputs, targets) as losses and metrics take them: what autocast made narrow is float32 again."""
    with autocast:
        outputs, targets = task.forward(model, batch)
    return widened(outputs), targets


def weighted(loss: Tensor, weight: Tensor) -> Tensor:
    """loss · weight; 0 where the weight is 0, even if the loss, a mean over nothing, is NaN. ()"""
    return torch.where(weight > 0, loss * weight, 0.0)


def silence_where_empty(outputs: Tree, weight: Tensor) -> None:
    """Let no gradient pass back through `outputs` where the weight is 0: of a mean over nothing it is 0/0."""
    counts = weight > 0

    def silenced(gradient: Tensor) -> Tensor:
        return torch.where(counts, gradient, 0.0)

    for tensor in tensors(outputs):
        if tensor.requires_grad:
            tensor.register_hook(silenced)


def as_tensor(count: int | Tensor, like: Tensor) -> Tensor:
    """The count as a number of the loss's type, on its device, without a wait. ()"""
    return count.to(like.dtype) if isinstance(count, Tensor) else like.new_full((), count)


def gradients(optimizer: Optimizer) -> Iterator[Tensor]:
    """The gradients that a step of the optimizer will see."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p.grad is not None:
                yield p.grad
