"""A batch's way from the task to the model, and what it took.

1. `Task.train_batches` draws it, in worker processes perhaps: `task/loading.py`.
2. `prepare_on_device`: every part of it is copied to the device, where `Task.finish` ends its preparation.
3. `device_batches` gives it out as a `DeviceBatch`, with what it took.
4. `Learner.learn` hands it to `Task.forward`, by `train/step.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from clipbench.errors import UserError
from clipbench.task import Batch, Task, prepare_on_device
from clipbench.task.task import as_batches


class Stopwatch:
    """`with stopwatch:` times a stretch of work: the host's seconds or, where they are more, those of the
    GPU's queue.
    """

    def __init__(self, device: torch.device) -> None:
        self.events: list[torch.cuda.Event] = []
        if device.type == "cuda":
            self.events = [torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)]

    def __enter__(self) -> None:
        self.host = time.perf_counter()
        if self.events:
            self.events[0].record()

    def __exit__(self, *_: object) -> None:
        if self.events:
            self.events[1].record()
        self.host = time.perf_counter() - self.host

    @property
    def seconds(self) -> float:
        """To be asked once the device has been waited for."""
        if not self.events:
            return self.host
        return max(self.host, self.events[0].elapsed_time(self.events[1]) / 1000)


@dataclass(frozen=True)
class BatchTiming:
    """What a batch took, and how often worker processes can make one: every `interval` seconds, 0 without
    them.
    """

    stopwatch: Stopwatch
    interval: float


class DeviceBatch(NamedTuple):
    """A batch on the device, as `Task.forward` takes it."""

    batch: Batch
    timing: BatchTiming


def waiting_time(timings: Sequence[BatchTiming], own: float) -> float:
    """Seconds that a run alone, which needs `own` for a step, waits for the step's batches.

    max(Σ what they took, Σ interval − own): what other runs' steps hide is added again.
    """
    took = sum(timing.stopwatch.seconds for timing in timings)
    interval = sum(timing.interval for timing in timings)
    return max(took, interval - own)


def device_batches(
    task: Task,
    batches: Iterator[Batch],
    device: torch.device,
    start: int = 0,
    spoil: Callable[[int, Batch], Batch] | None = None,
) -> Generator[DeviceBatch, None, None]:
    """The task's batches from number `start` on, on `device` and finished, each with what it took.

    `batches`: of `task.train_batches` or `plain_batches`; they are closed with this generator. `start`:
    batches that were trained on before, k times the steps where a step takes k. `spoil`: is given the number
    of each batch, from 0, and the batch, and gives the one that takes its place. UserError where the batches
    end.
    """
    source, number = as_batches(batches), start
    try:
        source.skip(start)
        while True:
            stopwatch = Stopwatch(device)
            with stopwatch:
                batch = prepare_on_device(task, next(source), device)
                if spoil is not None:
                    batch = spoil(number, batch)
            number += 1
            yield DeviceBatch(batch, BatchTiming(stopwatch, source.interval))
    except StopIteration:
        raise UserError(
            "The task's train_batches ended. They must go on without end; the run's `steps` ends them."
        ) from None
    finally:
        source.close()
