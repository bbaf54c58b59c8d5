"""A factor that costs no pass over memory: torch's fused kernels divide by `grad_scale` while they update.

A GradScaler uses the same attribute, and `found_inf` beside it; both are given back as they were.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adagrad, Adam, Optimizer

from clipbench.optim.protocols import extra

ABSENT: Any = object()


def is_fused(optimizer: Optimizer) -> bool:
    """Whether its step runs torch's fused kernel, which takes `grad_scale` and `found_inf`."""
    if not isinstance(optimizer, (SGD, Adam, Adagrad)):
        return False
    for group in optimizer.param_groups:
        if not group.get("fused"):
            return False
        if group.get("momentum") and group.get("dampening"):
            # with dampening the first step differs from one with a zero buffer, and a skipped first step
            # would leave garbage in it
            return False
    return True


class FusedFactor:
    """What one step borrows of an optimizer's `grad_scale` and `found_inf`, until `release`."""

    def __init__(self) -> None:
        self._borrowed: dict[str, Any] = {}  # name → what it was

    def unscale(self, optimizer: Optimizer, grads: list[Tensor]) -> None:
        """Undo a GradScaler's factor now where the fused step would do so: rules need true gradients."""
        scale = extra(optimizer, "grad_scale")
        if scale is not None:
            torch._foreach_mul_(grads, scale.double().reciprocal().float())
            self._borrow(optimizer, "grad_scale", torch.ones_like(scale))

    def skip_where(self, optimizer: Optimizer, skipped: Tensor) -> None:
        """Let the fused step be left out where `skipped` (), or where a GradScaler says so."""
        _fill_momentum(optimizer)
        overflow = extra(optimizer, "found_inf")
        found = skipped.float()
        if overflow is not None:
            found = torch.maximum(found, overflow.to(skipped.device))
        self._borrow(optimizer, "found_inf", found)

    def hand_over(self, optimizer: Optimizer, factor: Tensor) -> None:
        """Let the fused step multiply the gradient by `factor` ()."""
        self._borrow(optimizer, "grad_scale", factor.float().reciprocal())

    def release(self, optimizer: Optimizer) -> None:
        """Give back what a GradScaler had set: it deletes the attributes itself and would miss them."""
        for name, value in self._borrowed.items():
            if value is ABSENT:
                delattr(optimizer, name)
            else:
                setattr(optimizer, name, value)
        self._borrowed.clear()

    def _borrow(self, optimizer: Optimizer, name: str, value: Tensor) -> None:
        self._borrowed.setdefault(name, getattr(optimizer, name, ABSENT))
        setattr(optimizer, name, value)


def left_out(optimizer: Optimizer, like: Tensor) -> Tensor:
    """Whether the step that was just made was left out, as a bool on the device of `like`. ()"""
    found = extra(optimizer, "found_inf") if is_fused(optimizer) else None
    if found is None:
        return torch.zeros_like(like, dtype=torch.bool)
    return (found > 0).reshape(())


def _fill_momentum(optimizer: Optimizer) -> None:
    """Zero buffers before the first step.

    Fused SGD allocates its own but does not write them in a step that is skipped.
    """
    if not isinstance(optimizer, SGD):
        return
    for group in optimizer.param_groups:
        if not group["momentum"]:
            continue
        for p in group["params"]:
            if p.grad is not None and optimizer.state[p].get("momentum_buffer") is None:
                optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
