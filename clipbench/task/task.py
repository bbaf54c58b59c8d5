"""What the bench asks of a task. One class, one file; nothing else in clipbench knows any task by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clipbench.errors import UserError
from clipbench.task.content import files_below
from clipbench.task.metrics import Metric
from clipbench.task.spikes import Spike, spoiled_pair
from clipbench.task.tree import Tree, on_device, tensors

Batch = Any
"""A tensor, a tuple, list or dict of batches, or anything with `.to(device)`; opaque to the loop."""


class Task(ABC):
    """Subclass it, and name the class in `conf/task/<name>.yaml` under `_target_`; its other keys are the
    constructor's keywords.

    Needed: `headline`, `model`, `train_batches`, `eval_batches`, `forward`, `loss`, `metrics`. Everything
    else has a default.

    All randomness comes from the generator that is handed in (on the CPU), so that two methods at one seed
    start from the same weights and see the same batches. `model` runs with torch's global generator seeded
    from `rng` too, so layers may be built as usual.
    """

    headline: str
    """The metric that verdicts are made of: a key of `metrics()`."""

    splits: tuple[str, ...] = ("val", "test")
    """ "val" is what tuning looks at; everything else is looked at once, at the end."""

    data: str = ""
    """Which data these are, with their sizes: "handwritten digits of scikit-learn, 1197/300/300 images"."""

    steps_per_epoch: float = float("nan")
    """Batches in one pass over the training set; NaN where there are no passes."""

    drawn: str = "augmentation or sampling, if the task has any,"
    """What `plain_batches` draws for an example; "" for nothing."""

    @classmethod
    def data_files(cls, key: str, path: Path) -> Iterable[Path]:
        """The files that are read of `path`, an existing file or folder that the setting `key` names.

        Their names and content are part of a run's id, so a task that lists files lists them here. By
        default every file in it that is not hidden. UserError where they are not as the task needs them.
        """
        return files_below(path)

    @abstractmethod
    def model(self, rng: torch.Generator) -> nn.Module:
        """A fresh model on the CPU."""

    @abstractmethod
    def train_batches(self, rng: torch.Generator) -> Iterator[Batch]:
        """Training batches without end: a generator, or a `Batches` where it can do more.

        The n-th depends on `rng` and n alone, not on devices or worker processes.
        """

    def plain_batches(self, rng: torch.Generator) -> Iterator[Batch]:
        """`train_batches` without augmentation: only the order is drawn.

        `clipbench tails` measures on them, and names `drawn` as noise.
        """
        return self.train_batches(rng)

    @abstractmethod
    def eval_batches(self, split: str) -> Iterable[Batch]:
        """Every batch of a split, once, always in the same order."""

    def finish(self, batch: Batch) -> Batch:
        """The batch as `forward` takes it, once it is on the device: what is faster there than in the
        workers, and smaller on the way.

        Draws nothing: what augmentation needs to know was drawn with the batch.
        """
        return batch

    def spoiled(self, batch: Batch, spike: Spike, rng: torch.Generator) -> Batch:
        """The batch, on its device and finished, as a bad one that `spike.at` plants. `rng` is on the CPU.

        By default for pairs (inputs, targets), of which each tensor has a row an example. UserError for a
        kind that has no meaning here.
        """
        if not (isinstance(batch, (tuple, list)) and len(batch) == 2):
            raise UserError(
                f"{type(self).__name__} does not say how a batch of its is spoiled, and they are no pairs "
                "(inputs, targets): spike.at needs its method spoiled(batch, spike, rng)."
            )
        inputs, targets = batch
        return spoiled_pair(inputs, targets, spike, rng)

    @abstractmethod
    def forward(self, model: nn.Module, batch: Batch) -> tuple[Tree, Tree]:
        """(outputs, targets), on the model's device: what `loss` and the metrics take.

        Each is a tensor, or a tuple, list or dict of tensors. Where scores are large and loss and metrics
        need their sums only, return these: `(loss_sum, tokens)` instead of scores (tokens, 50 000). Targets
        say at least how many there are.
        """

    @abstractmethod
    def loss(self, outputs: Tree, targets: Tree) -> Tensor:
        """Mean over the batch. ()"""

    def count(self, targets: Tree) -> int | Tensor:
        """How many things the mean of `loss` is over; by default the rows of the (first) target.

        Evaluation and accumulation weigh batches by it. A loss that leaves some out, as void pixels or masked
        tokens, says so: `return (targets != IGNORED).sum()`, a tensor () on the device, so that nobody waits
        for it.
        """
        found = tensors(targets)
        if not found or not found[0].ndim:
            raise TypeError(
                f"{type(self).__name__}.forward gives targets that have no rows to count. "
                "Give it count(targets): how many things the mean of `loss` is over."
            )
        return len(found[0])

    @abstractmethod
    def metrics(self) -> Mapping[str, Metric]:
        """Fresh metrics by name, each updated with (outputs, targets): see `clipbench.task.Metric`.
        torchmetrics' do as well.
        """

    def baseline(self) -> tuple[str, dict[str, float]]:
        """What anyone gets without learning, on the test split:

        ("majority class", {"accuracy": 0.7, …}). {} where there is none.
        """
        return "", {}

    def prepare(self) -> str:
        """Fetch the data set where that is possible, check it and say what is there (`clipbench prepare`).

        UserError with the remedy.
        """
        return self.data


class Batches(Iterator[Batch]):
    """Training batches that can do more than come one after the other.

    A generator is enough; these are what it may gain.
    """

    interval: float = 0.0
    """Seconds between batches when worker processes do nothing else; 0 without workers.

    It may change while they come.
    """

    def skip(self, number: int) -> None:
        """Leave out the next `number` batches: to resume.

        As cheaply as possible; by default they are drawn and dropped.
        """
        for _ in range(number):
            next(self)

    def close(self) -> None:
        """No more are needed: end worker processes, if there are any."""


class _Wrapped(Batches):
    """Any iterator as `Batches`; one written without this class may have its members all the same."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self.batches = batches

    def __next__(self) -> Batch:
        batch = next(self.batches)
        self.interval = getattr(self.batches, "interval", 0.0)
        return batch

    def skip(self, number: int) -> None:
        if hasattr(self.batches, "skip"):
            self.batches.skip(number)
        else:
            super().skip(number)

    def close(self) -> None:
        if hasattr(self.batches, "close"):
            self.batches.close()


def as_batches(batches: Iterator[Batch]) -> Batches:
    """What `train_batches` gave, with every member of `Batches`."""
    return batches if isinstance(batches, Batches) else _Wrapped(batches)


def prepare_on_device(task: Task, batch: Batch, device: torch.device) -> Batch:
    """The batch as `forward` takes it: on `device`, finished. Pinned memory is copied without waiting."""
    return task.finish(on_device(batch, device))
