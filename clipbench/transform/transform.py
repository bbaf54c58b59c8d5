"""What a transform is, and what it may look at."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import torch
from torch import nn

from clipbench.task import Batch, Task
from clipbench.task.seeds import device_generator
from clipbench.task.seeds import generator as host_generator
from clipbench.train.batches import device_batches


@dataclass(frozen=True)
class Source:
    """What a transform may look at beside the model: the task's training data and randomness of its own.

    Both are the same for all transforms of one trained model, which pairs them.
    """

    task: Task
    device: torch.device
    seed: int

    def batches(self, count: int) -> Iterator[Batch]:
        """The first `count` training batches of a pass of their own, without augmentation, on the device: for
        calibration. The same at every call.
        """
        plain = self.task.plain_batches(host_generator(self.seed, "calibration"))
        with closing(device_batches(self.task, plain, self.device)) as placed:
            for each in islice(placed, count):
                yield each.batch

    def generator(self, name: str) -> torch.Generator:
        """For one use of randomness ("faults"), on the device; independent of every other use."""
        return device_generator(self.seed, name, self.device)


@dataclass(frozen=True)
class Transform(ABC):
    """A change to a trained model. A subclass is a frozen dataclass too: its fields are keys of `transform`,
    and its `__post_init__` raises ValueError for a value that is not allowed.
    """

    place: ClassVar[str]
    """What it acts on: "weight" or "activation"."""

    @abstractmethod
    def apply(self, model: nn.Module, source: Source) -> Iterator[str]:
        """Change `model` in place, and yield the name of a condition whenever it is to be evaluated as it
        then is: "" where there is but one. Names do not repeat.

        The model is on the source's device, in evaluation mode, and is this transform's own. It is evaluated
        on validation and test before the generator goes on; what the last condition gives is the run's
        result. What is drawn is drawn from `source`; torch's global generators are seeded alike for all
        transforms of one model.
        """
