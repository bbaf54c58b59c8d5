"""What the bench asks of a task. One class, one file; nothing else in clipbench knows any task by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

Batch = Any  # tensors, or (nested) tuples, lists and dicts of them, or anything with `.to(device)`; opaque to the loop


class Task(ABC):
    """Subclass it, and name the class in `conf/task/<name>.yaml` under `_target_`; its other keys are the constructor's keywords.

    All randomness comes from the generator that is handed in (on the CPU), so that two methods at one seed start from the same
    weights and see the same batches. `model` runs with torch's global generator seeded from `rng` too, so layers may be
    built as usual.
    """

    headline: str  # the metric that verdicts are made of: a key of `metrics()`
    splits: tuple[str, ...] = (
        "val",
        "test",
    )  # "val" is what tuning looks at; everything else is looked at once, at the end
    data: str = (
        ""  # which data this is, with its sizes: "handwritten digits of scikit-learn, 1197/300/300 images"
    )
    steps_per_epoch: float = float("nan")  # batches in one pass over the training set
    drawn: str = (
        "augmentation or sampling, if the task has any,"  # by `plain_batches`, for an example; "" for nothing
    )

    @abstractmethod
    def model(self, rng: torch.Generator) -> nn.Module:
        """A fresh model on the CPU."""

    @abstractmethod
    def train_batches(self, rng: torch.Generator) -> Iterator[Batch]:
        """Training batches without end. The n-th depends on `rng` and n alone, not on devices or worker processes."""

    def plain_batches(self, rng: torch.Generator) -> Iterator[Batch]:
        """`train_batches` without augmentation: only the order is drawn. `clipbench tails` measures on them, and names `drawn` as noise."""
        return self.train_batches(rng)

    @abstractmethod
    def eval_batches(self, split: str) -> Iterable[Batch]:
        """Every batch of a split, once, always in the same order."""

    def finish(self, batch: Batch) -> Batch:
        """The batch as `forward` takes it, once it is on the device: what is faster there than in the workers, and smaller on the way.

        Draws nothing: what augmentation needs to know was drawn with the batch.
        """
        return batch

    @abstractmethod
    def forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """(outputs, targets), on the model's device."""

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean over the batch. ()"""

    @abstractmethod
    def metrics(self) -> MetricCollection:
        """Fresh metrics, updated with (outputs, targets); each states its direction in `higher_is_better`."""

    def baseline(self) -> tuple[str, dict[str, float]]:
        """What anyone gets without learning, on the test split: ("majority class", {"accuracy": 0.7, …}). {} where there is none."""
        return "", {}

    def prepare(self) -> str:
        """Fetch the data set where that is possible, check it and say what is there (`clipbench prepare`). UserError with the remedy."""
        return self.data


def shuffled(n: int, batch_size: int, rng: torch.Generator) -> Iterator[Tensor]:
    """Index batches without end: a fresh permutation of range(n) every epoch, the incomplete last batch dropped. (batch_size,)"""
    size = min(batch_size, n)
    while True:
        order = torch.randperm(n, generator=rng)
        for start in range(0, n - size + 1, size):
            yield order[start : start + size]


def holdout(n: int, share: float = 0.1) -> tuple[Tensor, Tensor]:
    """(kept, held out): the same random `share` of range(n) on every machine, whatever the run's seed. Both sorted."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(20060421))
    cut = max(1, round(n * share))
    return order[cut:].sort().values, order[:cut].sort().values


def majority(
    metrics: MetricCollection,
    train_targets: Tensor,
    targets: Iterable[Tensor],
    classes: int,
    ignore: int = -100,
) -> dict[str, float]:
    """The metrics of always answering the most frequent training class. `targets`: batches of integer labels (N, …)."""
    kept = train_targets[train_targets != ignore]
    winner = int(torch.bincount(kept.flatten().long(), minlength=classes).argmax())
    for batch in targets:
        answer = torch.full_like(batch, winner)
        outputs = nn.functional.one_hot(answer.long(), classes).movedim(-1, 1).float()
        metrics.update(outputs, batch)
    return {name: float(value) for name, value in metrics.compute().items()}


def place(task: Task, batch: Batch, device: torch.device) -> Batch:
    """The batch on `device`, finished."""
    return task.finish(move(batch, device))


def move(batch: Batch, device: torch.device) -> Batch:
    """The batch on `device`; host memory that is pinned is copied without waiting."""
    if isinstance(batch, dict):
        return {key: move(value, device) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        moved = [move(value, device) for value in batch]
        return type(batch)(*moved) if hasattr(batch, "_fields") else type(batch)(moved)
    return batch.to(device, non_blocking=True) if hasattr(batch, "to") else batch
