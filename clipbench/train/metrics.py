"""The task's metrics over training batches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from clipbench.task import MetricSet
from clipbench.task.tree import Tree, on_device

BATCHES_TO_COUNT, ENTRIES_TO_COUNT = 32, 2**16
"""So many batches, or so many entries of their outputs, are counted at once."""


class BufferedMetrics:
    """The task's metrics over training batches.

    Small batches are counted many at a time: an update takes as long for one as for many.

    Only batches whose outputs and targets are tensors with a row an example wait; others are counted at once.
    """

    def __init__(self, metrics: MetricSet) -> None:
        """UserError where a metric's state cannot be saved in a checkpoint: now, not at the first one."""
        metrics.state_dict()
        self.metrics = metrics
        self.waiting: list[tuple[Tensor, Tensor]] = []

    def update(self, outputs: Tree, targets: Tree) -> None:
        if not _has_rows(outputs, targets):
            self._count()
            self.metrics.update(outputs, targets)
            return
        if self.waiting and not _joinable(self.waiting[-1], (outputs, targets)):
            self._count()
        self.waiting.append((outputs, targets))
        entries = outputs.numel() * len(self.waiting)
        if len(self.waiting) >= BATCHES_TO_COUNT or entries >= ENTRIES_TO_COUNT:
            self._count()

    def _count(self) -> None:
        if not self.waiting:
            return
        outputs, targets = self.waiting[0]
        if len(self.waiting) > 1:
            outputs = torch.cat([pair[0] for pair in self.waiting])
            targets = torch.cat([pair[1] for pair in self.waiting])
        self.waiting.clear()
        self.metrics.update(outputs, targets)

    def take_values(self) -> dict[str, float]:
        """The values over the batches since the last call, and a new start. Waits for the device."""
        self._count()
        values = self.metrics.values()
        self.metrics.reset()
        return values

    def state_dict(self) -> dict[str, Any]:
        """With what waits: to count it now would change the order of later sums."""
        return {"counted": self.metrics.state_dict(), "waiting": list(self.waiting)}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        self.metrics.load_state_dict(state["counted"])
        self.waiting = on_device(state["waiting"], device)


def _has_rows(outputs: Tree, targets: Tree) -> bool:
    if not (isinstance(outputs, Tensor) and isinstance(targets, Tensor)):
        return False
    return outputs.ndim > 0 and targets.ndim > 0 and len(outputs) == len(targets)


def _joinable(old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor]) -> bool:
    return all(a.shape[1:] == b.shape[1:] for a, b in zip(old, new, strict=True))
