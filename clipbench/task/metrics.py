"""Metrics: what the bench asks of one, and the few that its own tasks need.

`Task.metrics()` gives them by name: `{"accuracy": Accuracy(3)}`. torchmetrics' metrics, in a dict or a
MetricCollection, do as well.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from clipbench.task.tree import Tree

POINT = 0.01
WORTH_OF_SHARES = 0.1 * POINT  # the smallest difference worth telling, or two predictions if that is more
WORTH_OF_ERRORS = 0.02  # of the value


class Resolution(NamedTuple):
    """`resolution`: the change of a metric's value from one prediction, or the rounding of a continuous one;
    `worth`: the smallest difference of two values that is worth telling, in the metric's unit. None: not
    known.
    """

    resolution: float | None
    worth: float | None


class Metric(Protocol):
    """A number over many batches. Anything with these four members is one; there is nothing to inherit:

        class MeanAbsoluteError:
            higher_is_better = False

            def __init__(self): self.reset()
            def reset(self): self.total, self.count = 0.0, 0

            def update(self, outputs, targets):
                self.total = self.total + (outputs - targets).abs().sum()  # a tensor on the device: no wait
                self.count += targets.numel()

            def compute(self): return self.total / self.count

    `outputs` and `targets` are what `Task.forward` returned, in float32 where they were half as wide, without
    a graph. Where both are tensors with a row an example, several training batches may come joined along the
    first dimension.

    What it may have beside them: `MetricExtras`.
    """

    @property
    def higher_is_better(self) -> bool | None:
        """The direction, True or False; torchmetrics has None where it does not know.

        The headline's must be known.
        """

    def update(self, outputs: Tree, targets: Tree) -> None:
        """Count one batch. Should wait for nothing: leave what is summed on the device."""

    def compute(self) -> Any:
        """The value over all batches since the start or the last reset: a number or a tensor (). May wait."""

    def reset(self) -> None:
        """Start anew."""


class MetricExtras(Protocol):
    """The members that `MetricSet` looks for in a metric. Each is optional; `state_dict` and
    `load_state_dict` go together.

    `metrics()` itself may return, in place of a dict, an object that has `compute` as well: torchmetrics'
    MetricCollection, which is updated, read, moved and saved as one metric.
    """

    def to(self, device: torch.device) -> Any:
        """Move it in place, as torch's modules do. Without it, the tensors among its attributes are moved."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds of it.

        Without it, a checkpoint holds the attributes: tensors, numbers, texts, None, and lists, tuples and
        dicts of these. Functions, classes, devices and dtypes are settings and left as they are; an attribute
        of any other type is refused before the first step.
        """

    def load_state_dict(self, state: dict[str, Any]) -> Any:
        """Resume from what `state_dict` gave."""

    def resolution(self) -> Resolution | tuple[float | None, float | None]:
        """(resolution, worth) of the value that `compute` gives now: what the verdict takes for a tie, and
        for a difference too small to matter. Without it the least gap between two runs is the resolution, and
        no difference is called too small.
        """

    def persistent(self, mode: bool) -> None:
        """Of torchmetrics: whether `state_dict` holds the counts. It is called with True at the start."""


class SummedMetric:
    """What our metrics share: they keep sums, tensors by name, and nothing else."""

    higher_is_better = True

    def __init__(self, **sums: Tensor) -> None:
        self.sums = sums

    def reset(self) -> None:
        for total in self.sums.values():
            total.zero_()

    def to(self, device: torch.device | str) -> SummedMetric:
        for name, total in self.sums.items():
            self.sums[name] = total.to(device)
        return self

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.sums)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, total in self.sums.items():
            total.copy_(state[name])


class ConfusionMetric(SummedMetric, ABC):
    """A metric that is read off the confusion matrix: how often a target of class i was answered by class j.
    (classes, classes)

    Scores (N, classes, …) against targets (N, …) of whole numbers; the answer is the class of the highest
    score. A target of `ignore_index` is not counted. `counted_by`: another such metric of the same task,
    whose matrix this one reads and does not count itself, so that several cost as much as one.
    """

    def __init__(
        self, classes: int, ignore_index: int | None = None, counted_by: ConfusionMetric | None = None
    ) -> None:
        self.classes, self.ignore_index, self.counted_by = classes, ignore_index, counted_by
        if counted_by is None:
            super().__init__(matrix=torch.zeros(classes, classes, dtype=torch.long))
        else:
            super().__init__()

    @property
    def matrix(self) -> Tensor:
        return self.sums["matrix"] if self.counted_by is None else self.counted_by.matrix

    @abstractmethod
    def score(self, matrices: Tensor) -> Tensor:
        """The metric of each matrix. (…, classes, classes) → (…)"""

    def compute(self) -> Tensor:
        return self.score(self.matrix)

    def resolution(self) -> Resolution:
        """The mean change of the metric when one answer becomes another, over all targets and answers."""
        matrix = self.matrix.double().cpu()
        total = float(matrix.sum())
        if not total:
            return Resolution(None, None)
        n = self.classes
        change = torch.zeros((), dtype=torch.double)
        here = self.score(matrix)
        for target in range(n):
            for answer in range(n):
                count = matrix[target, answer]
                if not count or n == 1:
                    continue
                flipped = matrix.repeat(n, 1, 1)
                flipped[:, target, answer] -= 1
                flipped[range(n), target, range(n)] += 1
                changes = (self.score(flipped) - here).abs()
                change += count / total * changes.sum() / (n - 1)  # its own answer is no change
        return _of_predictions(float(change))

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        if self.counted_by is not None:
            return
        n = self.classes
        answers = outputs.max(1).indices  # on a CPU argmax takes three times as long
        cells = targets * n + answers
        if self.ignore_index is not None:
            cells = torch.where(targets == self.ignore_index, n * n, cells)
        cells = cells.flatten()
        counts = torch.zeros(
            n * n + 1, dtype=torch.long, device=cells.device
        )  # the last cell is for the ignored
        counts.scatter_add_(0, cells, torch.ones_like(cells))
        self.matrix.add_(counts[:-1].view(n, n))


class Accuracy(ConfusionMetric):
    """Σ_i C_ii / Σ_ij C_ij: the share of the targets that get their class."""

    def score(self, matrices: Tensor) -> Tensor:
        return matrices.diagonal(dim1=-2, dim2=-1).sum(-1) / matrices.sum((-2, -1))

    def resolution(self) -> Resolution:
        return _of_predictions(1 / max(1, int(self.matrix.sum())))


class MatthewsCorrelation(ConfusionMetric):
    """(c·s − Σ_k t_k p_k) / √((s² − Σ p_k²)(s² − Σ t_k²)), from −1 to 1; 0 where it is undefined: all
    targets, or all answers, alike.

    c targets of s get their class; t_k targets and p_k answers are of class k. For two classes it is
    Matthews' φ. torchmetrics gives up to .03 where it is undefined.
    Gorodkin 2004, Computational Biology and Chemistry 28.
    """

    def score(self, matrices: Tensor) -> Tensor:
        counts = matrices if matrices.is_floating_point() else matrices.float()
        targets, answers = counts.sum(-1), counts.sum(-2)
        correct, total = counts.diagonal(dim1=-2, dim2=-1).sum(-1), targets.sum(-1)
        covariance = correct * total - (targets * answers).sum(-1)
        spread_of_answers = total**2 - (answers * answers).sum(-1)
        spread_of_targets = total**2 - (targets * targets).sum(-1)
        product = spread_of_answers * spread_of_targets
        return torch.where(product > 0, covariance / product.sqrt(), 0.0)


class MeanIoU(ConfusionMetric):
    """mean_k C_kk / (t_k + p_k − C_kk): intersection over union, over the classes that occur among targets or
    answers.

    t_k targets and p_k answers are of class k. Everingham et al. 2010, IJCV 88, section 4.2.
    """

    def score(self, matrices: Tensor) -> Tensor:
        counts = matrices if matrices.is_floating_point() else matrices.float()
        intersection = counts.diagonal(dim1=-2, dim2=-1)
        union = counts.sum(-2) + counts.sum(-1) - intersection
        occurs = union > 0
        shares = torch.where(occurs, intersection / union, 0.0)
        return (shares / occurs.sum(-1, keepdim=True)).sum(-1)


class TopKAccuracy(SummedMetric):
    """The share of the targets whose class is among the k highest scores.

    Scores (N, classes, …), targets (N, …).

    A target of `ignore_index` is not counted.
    """

    def __init__(self, k: int = 1, ignore_index: int | None = None) -> None:
        super().__init__(correct=torch.zeros((), dtype=torch.long), total=torch.zeros((), dtype=torch.long))
        self.k, self.ignore_index = k, ignore_index

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        # Of equal scores the first class is the answer to k = 1; topk leaves open which it is.
        answers = outputs.argmax(1, keepdim=True) if self.k == 1 else outputs.topk(self.k, dim=1).indices
        correct = (answers == targets.unsqueeze(1)).any(1)
        if self.ignore_index is None:
            self.sums["correct"].add_(correct.sum())
            self.sums["total"].add_(targets.numel())
        else:
            counts = targets != self.ignore_index
            self.sums["correct"].add_((correct & counts).sum())
            self.sums["total"].add_(counts.sum())

    def compute(self) -> Tensor:
        return self.sums["correct"] / self.sums["total"]

    def resolution(self) -> Resolution:
        return _of_predictions(1 / max(1, int(self.sums["total"])))


class MeanSquaredError(SummedMetric):
    """mean (output − target)² over all their numbers; the two are of one shape."""

    higher_is_better = False

    def __init__(self) -> None:
        super().__init__(squares=torch.zeros(()), total=torch.zeros((), dtype=torch.long))

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        if outputs.shape != targets.shape:
            raise ValueError(
                f"MeanSquaredError: outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)} differ "
                "in shape."
            )
        difference = (outputs - targets).flatten()
        self.sums["squares"].add_((difference * difference).sum())
        self.sums["total"].add_(difference.numel())

    def compute(self) -> Tensor:
        return self.sums["squares"] / self.sums["total"]

    def resolution(self) -> Resolution:
        value = float(self.compute())
        return Resolution(torch.finfo(torch.float32).eps * value, WORTH_OF_ERRORS * value)


def _of_predictions(change: float) -> Resolution:
    """Of a metric that one prediction changes by so much: worth telling is a tenth of a point, or two
    predictions if that is more.
    """
    return Resolution(change, max(WORTH_OF_SHARES, 2 * change))
