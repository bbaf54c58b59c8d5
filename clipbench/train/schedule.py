"""The learning rate over time."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Learning rate over time, as a factor in [0, 1].

    `warmup` linear steps, then by `kind` "constant", or "cosine" or "linear" to 0 at the last step.
    """

    kind: str
    warmup: int
    steps: int

    def __call__(self, step: int) -> float:
        """Of step 0, 1, …, steps − 1."""
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        if self.kind == "linear":
            return 1 - done
        if self.kind == "cosine":
            return (1 + math.cos(math.pi * done)) / 2
        return 1.0
