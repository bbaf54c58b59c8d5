"""A factor that costs no pass over memory: torch's fused kernels divide by `grad_scale` while they update.

They take weights, gradients and states for flat memory, so at each step it is looked whether they are. A
GradScaler uses the same attribute, and `found_inf` beside it; what is borrowed is given back as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adagrad, Adam, Optimizer

from clipbench.optim.protocols import extra
from clipbench.optim.ranks import PLAIN, is_dtensor, local

ABSENT: Any = object()


class FusedFactor:
    """What one step borrows of an optimizer, until `release`.

    `automatic`: an optimizer whose user left `fused` and `foreach` open takes the fused kernel where it can.
    """

    def __init__(self, automatic: bool = False) -> None:
        self.automatic = automatic
        self.is_used = False
        """Whether the step that is coming runs the fused kernel and takes what is handed over."""
        self.all_contiguous = False
        """Whether weights and gradients are known to be real and contiguous, so to be taken as they are."""
        self._borrowed: dict[str, Any] = {}  # name → what it was
        self._groups: list[tuple[dict[str, Any], Any, Any]] = []  # its "fused" before, and as lent

    def choose(self, optimizer: Optimizer, params: Sequence[Tensor]) -> None:
        """Decide which kernel makes the coming step, of `params`, which have a gradient."""
        self.is_used = self.all_contiguous = False
        if not isinstance(optimizer, (SGD, Adam, Adagrad)):
            return
        wanted = all(self._is_wanted(group) for group in optimizer.param_groups)
        given = any(group.get("fused") for group in optimizer.param_groups)
        if not wanted and not given:
            return
        params = [p for p in params if p.grad is not None]  # of others nothing is here
        self.all_contiguous = _all_contiguous(params, optimizer)
        flat = self.all_contiguous or all(_is_flat(p, optimizer) for p in params)
        flat = flat and len({is_dtensor(p) for p in params}) < 2  # no kernel takes both kinds
        if isinstance(optimizer, SGD) and params and params[0].device.type == "cpu":
            flat = flat and all(map(adds_momentum_right, {p.dtype for p in params}))
        self.is_used = wanted and flat and not any(_has_dampening(g) for g in optimizer.param_groups)
        for group in optimizer.param_groups:
            now = group.get("fused")
            use = (True if self.is_used else now) if flat else None
            if use is not now and bool(use) != bool(now):
                self._groups.append((group, now, use))
                group["fused"] = use
        if self.is_used:
            _move_steps(optimizer, params)

    def _is_wanted(self, group: dict[str, Any]) -> bool:
        if group.get("fused"):
            return True
        open_ = group.get("fused") is None and group.get("foreach") is None
        numbers = [group.get("weight_decay"), *(group.get("betas") or ())]
        tensors = any(isinstance(number, Tensor) for number in numbers)
        return self.automatic and open_ and not group.get("capturable") and not tensors

    def unscale(self, optimizer: Optimizer, grads: list[Tensor]) -> None:
        """Undo a GradScaler's factor now where the fused step would do so: rules need true gradients."""
        scale = extra(optimizer, "grad_scale")
        if scale is not None:
            torch._foreach_mul_(grads, scale.double().reciprocal().float().reshape(()))
            self._borrow(optimizer, "grad_scale", torch.ones_like(scale) if self.is_used else None)

    def overflow(self, optimizer: Optimizer) -> Tensor | None:
        """Whether a GradScaler wants the step left out. ()"""
        found = extra(optimizer, "found_inf")
        if found is None:
            return None
        if not self.is_used:
            self._borrow(optimizer, "found_inf", None)
        return (found > 0).reshape(())

    def skip_where(self, optimizer: Optimizer, skipped: Tensor) -> None:
        """Let the fused step be left out where `skipped` ()."""
        _fill_momentum(optimizer)
        self._borrow(optimizer, "found_inf", skipped.float())

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
        for group, fused, lent in self._groups:
            if group["fused"] is lent:  # else somebody has set it meanwhile
                group["fused"] = fused
        self._groups.clear()

    def left_out(self, optimizer: Optimizer, like: Tensor) -> Tensor:
        """Whether the step that was just made was left out, as a bool on the device of `like`. ()"""
        found = extra(optimizer, "found_inf") if self.is_used else None
        if found is None:
            return torch.zeros_like(like, dtype=torch.bool)
        return (found > 0).reshape(())

    def _borrow(self, optimizer: Optimizer, name: str, value: Tensor | None) -> None:
        self._borrowed.setdefault(name, getattr(optimizer, name, ABSENT))
        setattr(optimizer, name, value)


def _has_dampening(group: dict[str, Any]) -> bool:
    """With dampening the first step differs from one with a zero buffer, so none can be left out exactly."""
    return bool(group.get("momentum") and group.get("dampening"))


def _all_contiguous(params: Sequence[Tensor], optimizer: Optimizer) -> bool:
    """Whether all is contiguous and of one dtype: quick to see, and nearly always so."""
    tensors: list[Any] = [p.grad for p in params]
    for state in optimizer.state.values():
        for name, value in state.items():
            if name != "step" and isinstance(value, Tensor):
                tensors.append(value)
    tensors += params
    if not params:
        return False
    first = params[0]
    if not first.is_floating_point() or first.device.type not in ("cpu", "cuda"):
        return False
    if not PLAIN.issuperset(map(type, tensors)) or {value.dtype for value in tensors} != {first.dtype}:
        return False
    if {value.layout for value in tensors} != {torch.strided} or any(map(_is_neg, tensors)):
        return False
    return all(map(_is_contiguous, tensors))


_is_contiguous: Any = Tensor.is_contiguous
_is_neg: Any = Tensor.is_neg


def _is_flat(p: Tensor, optimizer: Optimizer) -> bool:
    """Whether a parameter, its gradient and its states are dense and lie alike, as fused kernels need."""
    grad = p.grad
    if grad is None or grad.dtype != p.dtype or not p.is_floating_point() or grad.layout != torch.strided:
        return False
    if grad.is_neg():  # a negation that is still to be made
        return False
    state = optimizer.state.get(p, {})
    if is_dtensor(p):
        if isinstance(optimizer, (SGD, Adagrad)):
            return False  # torch has no rule for sharding these kernels
        p, grad = local(p), local(grad)
    if p.device.type not in ("cpu", "cuda") or not _lie_alike(p, grad) or not is_dense(p):
        return False
    for name, value in state.items():
        if isinstance(value, Tensor) and name != "step" and not name.startswith("clipping_memory_"):
            value = local(value)
            if value.shape == p.shape and not (_lie_alike(p, value) and value.dtype == p.dtype):
                return False
    return True


@lru_cache
def adds_momentum_right(dtype: torch.dtype) -> bool:
    """Whether torch's fused SGD on a CPU does: in half precision that of torch 2.11 does not."""
    if dtype not in (torch.float16, torch.bfloat16):
        return True
    weight, gradient, momentum = (torch.full((64,), value, dtype=dtype) for value in (0.0, 1.0, 2.0))
    torch._fused_sgd_(
        [weight],
        [gradient],
        [momentum],
        weight_decay=0.0,
        momentum=0.5,
        lr=1.0,
        dampening=0.0,
        nesterov=False,
        maximize=False,
        is_first_step=False,
    )
    return bool((weight == -2).all()) and bool((momentum == 2).all())


def _lie_alike(one: Tensor, other: Tensor) -> bool:
    if one.is_contiguous() and other.is_contiguous():
        return True
    return one.stride() == other.stride()


def is_dense(x: Tensor) -> bool:
    """Whether the entries of `x` fill a run of memory, in whatever order, none of them twice."""
    if x.is_contiguous():
        return True
    expected = 1
    for step, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size == 1:
            continue
        if step != expected:
            return False
        expected *= size
    return True


def _move_steps(optimizer: Optimizer, params: Sequence[Tensor]) -> None:
    """Adam's counters to where the fused kernel wants them, where another kernel made them."""
    if params and params[0].device.type == "cpu":
        return
    for p in params:
        step = optimizer.state.get(p, {}).get("step")
        if isinstance(step, Tensor) and step.device != p.device:
            optimizer.state[p]["step"] = step.to(p.device, torch.float32)


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
