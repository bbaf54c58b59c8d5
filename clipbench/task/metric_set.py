"""A task's metrics as one object: updated, read, moved and saved together, whatever kinds they are of."""

from __future__ import annotations

import math
import types
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor, nn

from clipbench.errors import UserError
from clipbench.task.metrics import ConfusionMetric, Metric, Resolution
from clipbench.task.tree import Tree, on_device

SETTINGS = (types.FunctionType, types.BuiltinFunctionType, type, torch.device, torch.dtype)
"""Types of attributes that are no part of a metric's state: they are there again when it is made again."""


class MetricSet:
    """What a task's `metrics()` gave, on `device`: a dict of metrics, or torchmetrics' MetricCollection.

    It alone asks which members of `MetricExtras` a metric has.
    """

    def __init__(self, metrics: Mapping[str, Metric], device: torch.device | None = None) -> None:
        # A MetricCollection shares counts among its metrics, and so is updated and read as a whole.
        self.is_collection = hasattr(metrics, "compute")
        self.parts: dict[str, Any] = {"": metrics} if self.is_collection else dict(metrics)
        self.device = device
        for metric in self.parts.values():
            if hasattr(metric, "persistent"):
                metric.persistent(True)  # of torchmetrics: else its state_dict is empty
        self._place()

    def update(self, outputs: Tree, targets: Tree) -> None:
        """Count what `forward` returned. Waits for nothing, unless a metric does."""
        for metric in self.parts.values():
            metric.update(outputs, targets)

    def values(self) -> dict[str, float]:
        """{name: value} over all batches since the last reset. Waits for the device."""
        if self.is_collection:
            computed = self.parts[""].compute()
        else:
            computed = {name: metric.compute() for name, metric in self.parts.items()}
        return {str(name): float(value) for name, value in computed.items()}

    def resolutions(self) -> dict[str, Resolution]:
        """Of what was counted since the last reset, of each metric that says it. Waits for the device."""
        found = {}
        for name, metric in self.parts.items():
            if hasattr(metric, "resolution"):
                resolution, worth = metric.resolution()
                found[name] = Resolution(_finite(resolution), _finite(worth))
        return found

    def reset(self) -> None:
        for metric in self.parts.values():
            metric.reset()
        self._place()  # one that makes new tensors makes them on the CPU

    def _place(self) -> None:
        if self.device is None:
            return
        for metric in self.parts.values():
            if hasattr(metric, "to"):
                metric.to(self.device)
            else:
                for name, value in _attributes(metric).items():
                    setattr(metric, name, on_device(value, self.device))

    def state_dict(self) -> dict[str, Any]:
        """Each metric's own state_dict, or its attributes where it has none.

        UserError names what cannot be saved.
        """
        return {name: _state(name, metric) for name, metric in self.parts.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """What `state_dict` gave, also that of version 0.1 for our own tasks' metrics and for collections."""
        if not self.parts.keys() <= state.keys():
            state = _of_version_0_1(self.parts, state)
        for name, metric in self.parts.items():
            if hasattr(metric, "load_state_dict"):
                metric.load_state_dict(state[name])
            else:
                for attribute, value in state[name].items():
                    setattr(metric, attribute, value)
        self._place()


def _finite(value: Any) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _attributes(metric: Any) -> dict[str, Any]:
    """A copy of them; those of a class with `__slots__` too."""
    if hasattr(metric, "__dict__"):
        return dict(vars(metric))
    return {name: getattr(metric, name) for name in metric.__slots__ if hasattr(metric, name)}


def _of_version_0_1(parts: Mapping[str, Any], flat: Mapping[str, Tensor]) -> dict[str, Any]:
    """The state of each metric out of a torchmetrics collection's, "top1.tp": what version 0.1 saved.

    KeyError where a metric's counts are not in it.
    """
    if "" in parts:
        return {"": dict(flat)}
    # of metrics that shared a matrix only the first had counted
    matrices = [value for key, value in flat.items() if key.endswith(".confmat")]
    state: dict[str, Any] = {}
    for name, metric in parts.items():
        if isinstance(metric, ConfusionMetric):
            counted = max(matrices, key=torch.sum) if matrices else flat[f"{name}.confmat"]
            state[name] = {} if metric.counted_by else {"matrix": counted}
        else:
            correct = flat[f"{name}.tp"].sum()
            state[name] = {"correct": correct, "total": correct + flat[f"{name}.fn"].sum()}
    return state


def _state(name: str, metric: Any) -> dict[str, Any]:
    if hasattr(metric, "state_dict"):
        return metric.state_dict()
    state = {}
    for attribute, value in _attributes(metric).items():
        if isinstance(value, SETTINGS):
            continue
        try:
            state[attribute] = _plain(value)
        except TypeError as error:
            raise UserError(
                f"The metric '{name}' ({type(metric).__name__}) keeps {error} in '{attribute}', which a "
                "checkpoint cannot hold. Keep tensors, numbers and texts, or lists, tuples and dicts of "
                "them; or give it state_dict() and load_state_dict()."
            ) from None
    return state


def _plain(value: Any) -> Any:
    """`value` as `torch.load(weights_only=True)` reads it. TypeError names the type that it does not read."""
    if value is None or isinstance(value, (bool, str)) or type(value) in (Tensor, nn.Parameter):
        return value
    if isinstance(value, Integral):
        return int(value)  # of numpy, perhaps
    if isinstance(value, Real):
        return float(value)
    if type(value) in (list, tuple):
        return type(value)(_plain(part) for part in value)
    if type(value) is dict:
        return {_plain(key): _plain(part) for key, part in value.items()}
    raise TypeError(f"a {type(value).__name__}")


def majority(
    metrics: Mapping[str, Metric],
    train_targets: Tensor,
    targets: Iterable[Tensor],
    classes: int,
    ignore: int = -100,
) -> dict[str, float]:
    """The metrics of always answering the most frequent training class.

    `targets`: batches of integer labels (N, …).
    """
    counted = train_targets[train_targets != ignore]
    winner = int(torch.bincount(counted.flatten().long(), minlength=classes).argmax())
    found = MetricSet(metrics)
    for batch in targets:
        answer = torch.full_like(batch, winner).long()
        outputs = nn.functional.one_hot(answer, classes).movedim(-1, 1).float()
        found.update(outputs, batch)
    return found.values()
