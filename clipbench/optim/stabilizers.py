"""The two rules of Stable-SPAM, which hold each tensor to its own running means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clipbench.optim.checks import check_share, check_small
from clipbench.optim.gradients import Gradients, wide_dtype
from clipbench.optim.rule import EntryRule, Rule, State


@dataclass(frozen=True)
class AdaClip(EntryRule):
    """for each tensor, entries abs(g_w) > μ̂ become g_w·μ̂/M, where M = max abs(g_l), μ̂ = its running mean

    The mean has this step's M in it: μ ← γ3·μ + (1 − γ3)·M, and μ̂ = μ/(1 − γ3^t) with t its own count of
    steps: with Adam's, which Stable-SPAM's resets set to 0, the threshold would rise several-hundred-fold
    after each. Stable-SPAM, arXiv 2502.17055.
    """

    gamma3: float = 0.999
    acts_on: ClassVar[tuple[str, ...]] = ("tensor",)
    needs_largest: ClassVar[bool] = True
    checks: ClassVar = {"gamma3": check_share}

    def init(self, params: Sequence[Tensor]) -> State:
        return {"mean": _zeros(params), "count": _zeros(params)}

    def __call__(
        self, grads: Gradients, params: Sequence[Tensor], state: State, rng: torch.Generator
    ) -> tuple[None, State]:
        mean = torch.stack(state["mean"])
        count = torch.stack(state["count"]) + 1
        largest = grads.largest.to(mean.dtype)
        mean = mean.lerp(largest, 1 - self.gamma3)
        limits = mean / _unbiased(self.gamma3, count)
        shares = limits / largest
        for g, limit, share in zip(grads, limits.unbind(), shares.unbind(), strict=True):
            cut = torch.where(g.abs() > limit, g * share, g)
            g.copy_(cut)
        return None, _as_lists(mean=mean, count=count)


@dataclass(frozen=True)
class AdaGN(Rule):
    """α_l = â/(√b̂ + ε)/‖g_l‖ for each tensor: the running mean of norms over the root of that of squares

    a ← γ1·a + (1 − γ1)·‖g_l‖, b ← γ2·b + (1 − γ2)·‖g_l‖², both bias-corrected. The gradient's size is gone,
    so α may be above 1. Stable-SPAM, arXiv 2502.17055.
    """

    gamma1: float = 0.7
    gamma2: float = 0.9
    eps: float = 1e-8
    acts_on: ClassVar[tuple[str, ...]] = ("tensor",)
    checks: ClassVar = {"gamma1": check_share, "gamma2": check_share, "eps": check_small}

    def init(self, params: Sequence[Tensor]) -> State:
        return {"mean": _zeros(params), "square": _zeros(params), "count": _zeros(params)}

    def __call__(
        self, grads: Gradients, params: Sequence[Tensor], state: State, rng: torch.Generator
    ) -> tuple[Tensor, State]:
        mean = torch.stack(state["mean"])
        square = torch.stack(state["square"])
        count = torch.stack(state["count"])
        norms = grads.norms.to(mean.dtype)
        squares = norms.square()
        finite = torch.isfinite(squares)  # which can overflow where the norm does not
        mean = torch.where(finite, mean.lerp(norms, 1 - self.gamma1), mean)
        square = torch.where(finite, square.lerp(squares, 1 - self.gamma2), square)
        count = count + finite
        mean_norm = mean / _unbiased(self.gamma1, count)
        root = (square / _unbiased(self.gamma2, count)).sqrt()
        size = mean_norm / (root + self.eps)
        factors = torch.where(norms > 0, size / norms, 1.0)
        return factors, _as_lists(mean=mean, square=square, count=count)


def _zeros(params: Sequence[Tensor]) -> list[Tensor]:
    """One for each tensor, in float32 or wider. (), …"""
    wide = wide_dtype(params)
    return [torch.zeros((), dtype=wide, device=p.device) for p in params]


def _as_lists(**entries: Tensor) -> State:
    """A memory of vectors as one of lists, an item for each tensor."""
    return {name: list(values.unbind()) for name, values in entries.items()}


def _unbiased(decay: float, count: Tensor) -> Tensor:
    """1 − decay^count, exact also where that is small. The shape of `count`."""
    return -torch.expm1(count * math.log(decay)) if decay else torch.ones_like(count)
