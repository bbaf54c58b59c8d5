"""Restarts: now and then the mean of the weights takes their place and the optimizer begins anew."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adagrad, Optimizer

from clipbench.optim.checks import check_count
from clipbench.optim.gradients import wide_dtype
from clipbench.optim.inside import whole_inside
from clipbench.optim.memory import Memory
from clipbench.optim.protocols import extra


class OptimizerProperties:
    """torch-clip's pair of an optimizer's class and its keywords."""

    def __init__(self, optimizer_class: type[Optimizer], **optimizer_kwargs: Any) -> None:
        self.optimizer_class, self.optimizer_kwargs = optimizer_class, optimizer_kwargs


@dataclass
class Restarter:
    """After `first`·`coeff`^i steps since the last restart, i = 0, 1, …: weights ← their mean over these.

    Call `restarter.step(optimizer)` after every `optimizer.step()`; it says whether it restarted. The
    optimizer then begins anew, as if built at the new weights: moments, momentum, counters and the clipping
    rule's memory are gone; its settings, schedulers and the generator of random rules go on. A stretch
    longer than `max` steps is not begun, so there are no more restarts from there. The mean is one copy of
    the weights, in float32 or wider; buffers are not averaged. `state_dict` makes resuming exact.
    torch-clip's names for the settings and calls are taken too; its `optimizer_properties` is accepted and
    not needed, as the optimizer stays the same object.
    """

    first: int = 100
    coeff: float = 1.5
    max: int = 5000
    optimizer_properties: OptimizerProperties | None = None
    first_restart_steps_cnt: int | None = None
    restart_coeff: float | None = None
    max_steps_cnt: int | None = None

    def __post_init__(self) -> None:
        first = self.first if self.first_restart_steps_cnt is None else self.first_restart_steps_cnt
        longest = self.max if self.max_steps_cnt is None else self.max_steps_cnt
        self.coeff = self.coeff if self.restart_coeff is None else self.restart_coeff
        self.first = check_count("first", first)
        self.max = check_count("max", longest)
        number = isinstance(self.coeff, (int, float)) and not isinstance(self.coeff, bool)
        if not (number and 1 <= self.coeff < math.inf):
            raise ValueError(
                f"coeff must be a number of at least 1, got {self.coeff!r}: stretches between restarts do "
                "not shrink."
            )
        self.restarts, self.steps = 0, 0
        self.mean: list[Tensor] = []

    def step(self, optimizer: Optimizer) -> bool:
        """To be called after each optimizer step. Whether it was the last before a restart."""
        optimizer = whole_inside(optimizer)
        params = [p for group in optimizer.param_groups for p in group["params"]]
        self.add_coords(params)
        return self._restarted(params, optimizer)

    @property
    def length(self) -> int:
        """Of the present stretch, in steps."""
        # 50·1.4² is 98, and 97.99999999999999 in floating point
        return int(self.first * self.coeff**self.restarts + 1e-9)

    @torch.no_grad()
    def add_coords(self, params: Iterable[Tensor]) -> None:
        """Take the weights into the mean. (torch-clip's name)"""
        if self.length > self.max:
            return
        now = [p.detach().to(wide_dtype([p])) for p in params]
        self.steps += 1
        if self.steps == 1:
            self.mean = [value.clone() for value in now]
            return
        if len(self.mean) != len(now):
            raise RuntimeError(
                f"The restarter's mean is over {len(self.mean)} parameters, and now there are {len(now)}. "
                "Add groups right after a restart, or pass the same parameters at each step."
            )
        # one that was loaded may lie elsewhere
        self.mean = [mean.to(value.device) for mean, value in zip(self.mean, now, strict=True)]
        torch._foreach_lerp_(self.mean, now, 1 / self.steps)

    def make_restart(self, model: nn.Module, optimizer: Optimizer) -> Optimizer:
        """Restart if it is time, in place, with the same optimizer.

        (torch-clip's name, after `add_coords(model.parameters())`)
        """
        self._restarted(list(model.parameters()), optimizer)
        return optimizer

    def _restarted(self, params: list[Tensor], optimizer: Optimizer) -> bool:
        if self.steps < self.length or self.length > self.max:
            return False
        with torch.no_grad():
            for p, mean in zip(params, self.mean, strict=True):
                p.copy_(mean)
        start_afresh(optimizer)
        self.restarts, self.steps, self.mean = self.restarts + 1, 0, []
        return True

    def state_dict(self) -> dict[str, Any]:
        return {"restarts": self.restarts, "steps": self.steps, "mean": list(self.mean)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.restarts, self.steps = state["restarts"], state["steps"]
        self.mean = [mean.clone() for mean in state["mean"]]


def start_afresh(optimizer: Optimizer) -> None:
    """Empty the optimizer's state, the rule's memory included, as if newly built.

    The generator of random rules and the count of skipped steps go on. An optimizer that keeps numbers in its
    groups, or makes a state before its first step, has a `begin()`, which sets them back. A wrapper's is that
    of the optimizer inside.
    """
    optimizer = whole_inside(optimizer)
    Memory(optimizer).forget_all_but_counts()
    if isinstance(
        optimizer, Adagrad
    ):  # its constructor makes the state, and torch 2.11's step relies on that
        groups = [{**group} for group in optimizer.param_groups]
        start = optimizer.defaults["initial_accumulator_value"]
        optimizer.state.update(Adagrad(groups, initial_accumulator_value=start).state)
    begin = extra(optimizer, "begin")
    if begin is not None:
        begin()
