"""How well a text is predicted: bits per byte, and perplexity."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from clipbench.task import Resolution
from clipbench.task.metrics import SummedMetric

WORTH = 0.01  # of the nats of a token: the smallest difference worth telling
EPS = torch.finfo(torch.float32).eps


class BitsPerByte(SummedMetric):
    """Σ nats / (ln 2 · bytes), over all predicted tokens and the bytes that they stand for.

    Outputs: nats (N,); targets: how many tokens they are of, and how many bytes (N, 2).
    """

    higher_is_better = False

    def __init__(self) -> None:
        whole = torch.zeros((), dtype=torch.long)
        super().__init__(nats=torch.zeros(()), tokens=whole.clone(), bytes=whole.clone())

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.sums["nats"].add_(outputs.sum())
        tokens, size = targets.sum(0)
        self.sums["tokens"].add_(tokens)
        self.sums["bytes"].add_(size)

    def compute(self) -> Tensor:
        return self.sums["nats"] / (math.log(2) * self.sums["bytes"])

    def resolution(self) -> Resolution:
        value = float(self.compute())
        return Resolution(EPS * value, WORTH * value)


class Perplexity(SummedMetric):
    """exp(Σ nats / tokens), of what another metric has summed."""

    higher_is_better = False

    def __init__(self, counted_by: BitsPerByte) -> None:
        super().__init__()
        self.counted_by = counted_by

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        pass

    def compute(self) -> Tensor:
        return (self.counted_by.sums["nats"] / self.counted_by.sums["tokens"]).exp()

    def resolution(self) -> Resolution:
        """What changes the nats of a token by their resolution, and by what is worth telling."""
        value = float(self.compute())
        nats = math.log(value)
        return Resolution(value * math.expm1(EPS * nats), value * math.expm1(WORTH * nats))
