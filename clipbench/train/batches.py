"""Batches on the device, and what each of them took."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch

from clipbench.errors import UserError
from clipbench.task import Batch, Task, place


class Span:
    """A stretch of work, `with span:`. Its seconds are those of the host or, where they are more, those of the GPU's queue."""

    def __init__(self, device: torch.device) -> None:
        self.events = (
            [torch.cuda.Event(enable_timing=True) for _ in range(2)] if device.type == "cuda" else []
        )

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
        return (
            max(self.host, self.events[0].elapsed_time(self.events[1]) / 1000) if self.events else self.host
        )


@dataclass(frozen=True)
class Supply:
    """What a batch took, and how often worker processes can make one: every `interval` seconds, 0 without them."""

    span: Span
    interval: float

    def wait(self, own: float) -> float:
        """Seconds that a run alone, which needs `own` for a step, waits for this batch: what other runs' steps hide is added again."""
        return max(self.span.seconds, self.interval - own)


class Served(NamedTuple):
    """A batch on the device."""

    batch: Batch
    supply: Supply


def serve(
    task: Task, batches: Iterator[Batch], device: torch.device, start: int = 0
) -> Generator[Served, None, None]:
    """The task's batches from number `start` on, finished on the device. Without their own `skip(n)` the earlier ones are drawn again."""
    if hasattr(batches, "skip"):
        batches.skip(start)
        start = 0
    try:
        while True:
            span = Span(device)
            with span:
                try:
                    batch = place(task, next(batches), device)
                except StopIteration:
                    raise UserError(
                        "The task's train_batches ended. They must go on without end; the run's `steps` ends them."
                    ) from None
            if start:
                start -= 1
            else:
                yield Served(batch, Supply(span, getattr(batches, "interval", 0.0)))
    finally:
        if hasattr(batches, "close"):
            batches.close()  # ends worker processes


DeviceBatch, device_batches = Served, serve
