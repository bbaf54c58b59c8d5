"""Rules whose level follows the weights, the norms so far or what was cut before. Notation: see rules.py."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clipbench.optim.checks import check_bound, check_count, check_level, check_share, check_small
from clipbench.optim.gradients import Gradients, wide_dtype
from clipbench.optim.rule import EntryRule, Rule, State, within


@dataclass(frozen=True)
class AGC(Rule):
    """G_i ← G_i·min(1, η·max(‖W_i‖, ε)/‖G_i‖) for each unit i: a row of a weight W with gradient G

    η is relative to the weights, so it is far below a level for norms. All dimensions but the first make a
    row; a tensor of one dimension or none is one unit. The last linear layer is to be exempt: give its
    group clipping_level=inf (the bench does). Brock et al. 2021, arXiv 2102.06171.
    """

    clipping_level: float = 0.01
    eps: float = 1e-3
    checks: ClassVar = {"eps": check_small}
    spares_last_linear: ClassVar[bool] = True
    acts_on: ClassVar[tuple[str, ...]] = ("row",)

    def __call__(
        self, grads: Gradients, params: Sequence[Tensor], state: State, rng: torch.Generator
    ) -> tuple[list[Tensor], State]:
        factors = []
        weights, norms = grads.row_norms(params, grads)
        for weight, norm in zip(weights, norms, strict=True):
            levels = self.clipping_level * weight.clamp(min=self.eps)
            factors.append(within(levels, norm))
        return factors, state


@dataclass(frozen=True)
class ZClip(Rule):
    """z = (‖g‖−μ)/(√v + 1e-6); if z > z_threshold: α = min(1, (μ + z_threshold²/z·√v)/‖g‖); α·‖g‖ ≤ max_norm

    μ and v are the running mean and variance of the norm. They take in the threshold where it acted, else the
    norm, and v uses the new μ; they start as mean and variance of the first `warmup_steps` norms, which are
    clipped to max_norm alone. max_norm=inf or None: by z alone. ZClip 2025, arXiv 2504.02507.
    """

    z_threshold: float = 2.5
    decay: float = 0.97
    warmup_steps: int = 25
    max_norm: float | None = 1.0
    checks: ClassVar = {
        "z_threshold": check_level,
        "decay": check_share,
        "warmup_steps": check_count,
        "max_norm": check_bound,
    }

    def level_in_force(self, state: State) -> Tensor | float | None:
        """μ + z_threshold·(√v + 1e-6) after the latest step, at most max_norm; in the warm-up max_norm."""
        if "variance" not in state:
            return self.max_norm
        level = state["mean"] + self.z_threshold * (state["variance"].sqrt() + 1e-6)
        warm = state["count"] < self.warmup_steps
        return torch.where(warm, math.inf, level).clamp(max=self.max_norm)

    def init(self, params: Sequence[Tensor]) -> State:
        zero = torch.zeros((), device=params[0].device)
        count = torch.zeros((), dtype=torch.int64, device=zero.device)
        return {"mean": zero, "variance": zero.clone(), "count": count}

    def __call__(
        self, grads: Gradients, params: Sequence[Tensor], state: State, rng: torch.Generator
    ) -> tuple[Tensor, State]:
        """α (), and the memory with this step's norm in it, unless the square of that overflows."""
        norm = grads.norm.float()
        mean, variance, count = state["mean"], state["variance"], state["count"]
        deviation = variance.sqrt()
        z = (norm - mean) / (deviation + 1e-6)
        warm = count < self.warmup_steps
        acts = ~warm & (z > self.z_threshold)
        limit = mean + self.z_threshold**2 / z * deviation
        calm = torch.where(acts, limit, norm)
        # in the warm-up 1/(count + 1) makes them the plain mean and variance of all norms so far
        share = torch.where(warm, 1 / (count + 1), 1 - self.decay)
        new_mean = mean + share * (calm - mean)
        spread = torch.where(warm, (calm - mean) * (calm - new_mean), (calm - new_mean) ** 2)
        known = torch.isfinite(calm.square())  # a norm whose square overflows is clipped and not remembered
        new_mean = torch.where(known, new_mean, mean)
        new_variance = torch.where(known, variance + share * (spread - variance), variance)
        state = {"mean": new_mean, "variance": new_variance, "count": count + known}
        return within(calm.clamp(max=self.max_norm), norm), state


@dataclass(frozen=True)
class AdaGC(Rule):
    """α_l = min(1, λ_rel·γ_l/‖g_l‖), then γ_l ← decay·γ_l + (1 − decay)·‖α_l·g_l‖ for each parameter tensor

    In the first `warmup_steps` the whole gradient is clipped to λ_abs and γ_l is the smallest norm of g_l
    after that clipping. A gradient of zeros leaves γ_l alone: as a minimum it would stop the tensor for
    good. A tensor whose first gradient comes later starts with it, clipped as in the warm-up. AdaGC 2025,
    arXiv 2502.11034.
    """

    lambda_rel: float = 1.05
    lambda_abs: float = 1.0
    decay: float = 0.98
    warmup_steps: int = 100
    acts_on: ClassVar[tuple[str, ...]] = ("gradient", "tensor")
    checks: ClassVar = {
        "lambda_rel": check_level,
        "lambda_abs": check_level,
        "decay": check_share,
        "warmup_steps": check_count,
    }

    def init(self, params: Sequence[Tensor]) -> State:
        device = params[0].device
        count = torch.zeros((), dtype=torch.int64, device=device)
        gamma = [torch.full((), math.inf, device=device) for _ in params]
        return {"gamma": gamma, "count": count}

    def __call__(
        self, grads: Gradients, params: Sequence[Tensor], state: State, rng: torch.Generator
    ) -> tuple[Tensor, State]:
        norms, count = grads.norms.float(), state["count"]
        gamma = torch.stack(state["gamma"])
        warm = (count < self.warmup_steps) | gamma.isinf()
        in_warmup = within(self.lambda_abs, grads.norm)
        later = within(self.lambda_rel * gamma, norms)
        factors = torch.where(warm, in_warmup, later)
        after = factors * norms
        smallest = torch.minimum(gamma, after)
        mean = self.decay * gamma + (1 - self.decay) * after
        moved = torch.where(warm, smallest, mean)
        gamma = torch.where(norms > 0, moved, gamma)
        return factors, {"gamma": list(gamma.unbind()), "count": count + 1}


@dataclass(frozen=True)
class UClip(EntryRule):
    """u = α·(g + Δ) with α = min(1, η/‖g + Δ‖), Δ ← g + Δ − u: what was cut comes back later

    Its memory Δ is one copy of the gradient, in float32 or wider. Where the mean gradient is longer than η, Δ
    grows without end, and the steps keep going where it points. Elesedy and Hutter 2023, arXiv 2302.02971.
    """

    clipping_level: float = 1.0

    def init(self, params: Sequence[Tensor]) -> State:
        return {"carry": [torch.zeros_like(p, dtype=wide_dtype([p])) for p in params]}

    def __call__(
        self, grads: Gradients, params: Sequence[Tensor], state: State, rng: torch.Generator
    ) -> tuple[None, State]:
        carried = torch._foreach_add(state["carry"], grads)  # g + Δ
        norm = grads.like(carried).norm
        factor = within(self.clipping_level, norm)
        grads.norm_after = factor * norm
        torch._foreach_copy_(grads, torch._foreach_mul(carried, factor))
        return None, {"carry": torch._foreach_sub(carried, grads)}
