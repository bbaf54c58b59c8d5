"""Metrics that are read off the confusion matrix. In a MetricCollection they can share it: it is then counted once a batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.classification import (
    MulticlassConfusionMatrix,
    MulticlassJaccardIndex,
    MulticlassMatthewsCorrCoef,
)

VOID = 255  # a target without a class: not counted


class Confusion(MulticlassConfusionMatrix):
    """Counts (classes, classes) of scores (N, classes, …) against targets (N, …), void left out.

    torchmetrics' own update waits for the device where it ignores a class, and takes several times as long.
    """

    def update(self, preds: Tensor, target: Tensor) -> None:
        n = self.num_classes
        answers = preds.max(1).indices  # on a CPU argmax takes three times as long
        cells = torch.where(target == VOID, n * n, target * n + answers).flatten()
        counts = torch.zeros(n * n + 1, dtype=torch.long, device=cells.device)
        self.confmat += counts.scatter_add_(0, cells, torch.ones_like(cells))[:-1].view(n, n)


class Accuracy(Confusion):
    """Share of the targets that get their class."""

    higher_is_better = True

    def compute(self) -> Tensor:
        return self.confmat.diagonal().sum() / self.confmat.sum()


class MeanIoU(Confusion, MulticlassJaccardIndex):
    """Intersection over union, mean over the classes that occur in the targets or the answers."""


class Matthews(Confusion, MulticlassMatthewsCorrCoef):
    """0 where every answer, or every label, is the same: the convention. torchmetrics gives up to .03 there."""

    def compute(self) -> Tensor:
        undefined = (self.confmat.sum(0) == 0).any() | (self.confmat.sum(1) == 0).any()
        return super().compute().masked_fill(undefined, 0.0)
