"""Resets of Adam's moments every so many steps, with a warm-up of the learning rate after each."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from clipbench.optim.ranks import local

STEPS = "started_steps"
"""Where the first parameter group counts calls of step(), on the host."""


class MomentResets:
    """Two hooks of a step of Adam: one sets the moments to zero where it is time, one gives the lr back.

    A group's keys are `reset_every`, in steps, and `warmup`, the steps after a reset in which its learning
    rate is lowered. `resets_counter`: whether Adam's own count of steps, which corrects its bias, begins
    anew too.
    """

    def __init__(self, resets_counter: bool) -> None:
        self.resets_counter = resets_counter
        self._lowered: list[tuple[dict[str, Any], Any, Any]] = []  # group, its lr, and the one it goes with

    def before_step(self, optimizer: Optimizer, *_: Any) -> None:
        """Count the step, reset, and lower the learning rates. To be registered before the clipping."""
        self.give_back()  # a step that raised never came to its post-hook
        steps = started_steps(optimizer)
        optimizer.param_groups[0][STEPS] = steps + 1
        for group in optimizer.param_groups:
            age = steps % group["reset_every"]
            if steps and age == 0:
                self._reset(optimizer, group["params"])
            if steps >= group["reset_every"] and age < group.get("warmup", 0):
                lowered = group["lr"] * warmup_factor(age, group["warmup"])
                self._lowered.append((group, group["lr"], lowered))
                group["lr"] = lowered

    def after_step(self, optimizer: Optimizer, *_: Any) -> None:
        """To be registered after the clipping, whose rule may look at the learning rates."""
        self.give_back()

    def give_back(self) -> None:
        """The learning rates that were lowered, unless somebody has set others meanwhile."""
        for group, lr, lowered in self._lowered:
            if group["lr"] is lowered:
                group["lr"] = lr
        self._lowered.clear()

    def _reset(self, optimizer: Optimizer, params: Iterable[Tensor]) -> None:
        names = ["exp_avg", "exp_avg_sq", "max_exp_avg_sq"]
        if self.resets_counter:
            names.append("step")
        tensors = []
        for p in params:
            state = optimizer.state.get(p, {})  # empty where somebody has only looked at it
            tensors += [local(state[name]) for name in names if name in state]
        if tensors:
            torch._foreach_zero_(tensors)


def started_steps(optimizer: Optimizer) -> int:
    """How many calls of step() `optimizer` has had, one that is going on or was skipped included."""
    return optimizer.param_groups[0].get(STEPS, 0)


def warmup_factor(k: int, warmup: int) -> float:
    """s(k) = 1 − 0.99·½(1 + cos(πk/(warmup+1))), for the lr of the k-th step after a reset, k = 0, 1, …"""
    return 1 - 0.99 * (1 + math.cos(math.pi * k / (warmup + 1))) / 2
