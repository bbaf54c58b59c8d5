"""Steps whose values are still on the device, and the rows that they become: of the bench's learners and of
anybody's loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from clipbench.record.rows import StepRow

READ_EVERY_STEPS, READ_EVERY_SECONDS = 64, 0.5
"""How long a step's three values may stay on the device before they become a row."""

STUCK = 3
"""So many skipped steps at the end of a run, or all of its steps, are a divergence: it does not train any
more. One or two may be bad batches.
"""


class UnreadStep(NamedTuple):
    """A step whose values are still on the device."""

    step: int
    epoch: float
    lr: float | Tensor
    values: Tensor  # loss, gradient norm, clipped norm (3,)
    took: Callable[[], float]  # seconds, to be asked once the device has been waited for


class UnreadSteps:
    """The steps since the last reading, and what was counted of those before. To add one waits for nothing.

    `seconds` of training, `skipped` steps whose gradient was not finite, and `skipped_last`, those in a row
    up to the last one read.
    """

    def __init__(self) -> None:
        self.steps: list[UnreadStep] = []
        self.seconds, self.skipped, self.skipped_last = 0.0, 0, 0

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[UnreadStep]:
        return iter(self.steps)

    def add(self, step: UnreadStep) -> None:
        self.steps.append(step)

    def read(self, max_loss: float | None = None) -> list[StepRow]:
        """The rows of all of them, by one wait for the device; none is unread afterwards.

        Where `max_loss` is given, the first whose loss is above it or not a number is the last that counts.
        """
        if not self.steps:
            return []
        unread, self.steps = self.steps, []
        rows = []
        numbers = torch.stack([each.values for each in unread]).tolist()
        for each, (loss, norm, clipped) in zip(unread, numbers, strict=True):
            self.seconds += each.took()
            factor = clip_factor(norm, clipped)
            lr = float(each.lr)
            rows.append(StepRow(each.step, each.epoch, self.seconds, loss, norm, clipped, factor, lr))
            is_skipped = not math.isfinite(norm)
            self.skipped += is_skipped
            self.skipped_last = self.skipped_last + 1 if is_skipped else 0
            if max_loss is not None and not loss <= max_loss:
                break
        return rows


def clip_factor(norm: float, clipped_norm: float) -> float:
    """clipped_norm / norm; 0 where the step was skipped, 1 where there is nothing to clip."""
    if not math.isfinite(norm):
        return 0.0
    return clipped_norm / norm if norm else 1.0


def is_stuck(steps: int, skipped_last: int) -> bool:
    """Whether a run of so many steps takes none any more: the last ones, or all of them, were skipped."""
    return steps > 0 and skipped_last >= min(STUCK, steps)
