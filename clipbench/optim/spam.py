"""SPAM and Stable-SPAM: Adam that clips spikes and now and then forgets its moments."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from clipbench.optim.chain import chain
from clipbench.optim.checks import check_count, check_level, check_share, check_small
from clipbench.optim.clip import Join, _memory, multiply
from clipbench.optim.make import make_rule
from clipbench.optim.optimizers import ClippedAdamW
from clipbench.optim.rules import Factor, Gradients, NoClip, Rule, real

STEPS = "steps"  # where `optimizer.state` counts calls of step(), on the host


@dataclass(frozen=True)
class AdaClip(Rule):
    """for each tensor, entries abs(g_w) > μ̂ become g_w·μ̂/M, where M = max abs(g_l) and μ̂ = its running mean, this step's included

    μ ← γ3·μ + (1 − γ3)·M, and μ̂ = μ/(1 − γ3^t) with t its own count of steps: with Adam's, which Stable-SPAM's resets set to 0, the
    threshold would rise several-hundred-fold after each. Stable-SPAM, arXiv 2502.17055.
    """

    gamma3: float = 0.999

    checks: ClassVar = {"gamma3": check_share}

    def init(self, params):
        return {"mean": _zeros(params), "count": _zeros(params)}

    def __call__(self, grads, params, state, rng):
        mean, count = torch.stack(state["mean"]), torch.stack(state["count"]) + 1
        largest = torch.stack(torch._foreach_norm(grads, math.inf, dtype=mean.dtype))
        mean = mean.lerp(largest, 1 - self.gamma3)
        limits = mean / _unbiased(self.gamma3, count)
        shares = limits / largest
        for g, limit, share in zip(grads, limits.unbind(), shares.unbind(), strict=True):
            g.copy_(torch.where(g.abs() > limit, g * share, g))
        return None, {"mean": list(mean.unbind()), "count": list(count.unbind())}


@dataclass(frozen=True)
class AdaGN(Rule):
    """α_l = â/(√b̂ + ε)/‖g_l‖ for each tensor: its norm becomes the running mean of norms over the root of that of their squares

    a ← γ1·a + (1 − γ1)·‖g_l‖, b ← γ2·b + (1 − γ2)·‖g_l‖², both bias-corrected. The gradient's size is gone, so α may be above 1.
    Stable-SPAM, arXiv 2502.17055.
    """

    gamma1: float = 0.7
    gamma2: float = 0.9
    eps: float = 1e-8

    checks: ClassVar = {"gamma1": check_share, "gamma2": check_share, "eps": check_small}

    def init(self, params):
        return {name: _zeros(params) for name in ("mean", "square", "count")}

    def __call__(self, grads, params, state, rng):
        mean, square, count = (torch.stack(state[name]) for name in ("mean", "square", "count"))
        norms = grads.norms.to(mean.dtype)
        finite = torch.isfinite(norms.square())  # which can overflow where the norm does not
        mean = torch.where(finite, mean.lerp(norms, 1 - self.gamma1), mean)
        square = torch.where(finite, square.lerp(norms.square(), 1 - self.gamma2), square)
        count = count + finite
        size = (
            mean
            / _unbiased(self.gamma1, count)
            / ((square / _unbiased(self.gamma2, count)).sqrt() + self.eps)
        )
        new = {"mean": mean, "square": square, "count": count}
        return torch.where(norms > 0, size / norms, 1.0), {
            name: list(value.unbind()) for name, value in new.items()
        }


def _zeros(params: Sequence[Tensor]) -> list[Tensor]:
    """One for each tensor, in float32 or wider."""
    wide = reduce(torch.promote_types, (p.dtype for p in params), torch.float32)
    return [torch.zeros((), dtype=wide, device=p.device) for p in params]


def _unbiased(decay: float, count: Tensor) -> Tensor:
    """1 − decay^count, exact also where that is small. The shape of `count`."""
    return -torch.expm1(count * math.log(decay)) if decay else torch.ones_like(count)


class _Resets(Join):
    """A join that also sets the moments to zero where it is time, and lowers the learning rate for the steps after that."""

    restarts_counter = False
    lrs: list[Any] | None = None  # the learning rates, while a step goes with lower ones

    def attach(self, optimizer: Optimizer) -> None:
        super().attach(optimizer)
        optimizer.register_step_post_hook(torch.compiler.disable(self._give_back))

    def before(self, optimizer: Optimizer, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        self._give_back(optimizer)  # a step that raised never came to its post-hook
        state: dict[Any, Any] = optimizer.state
        steps = state.get(STEPS, 0)
        state[STEPS] = steps + 1
        self.lrs = [group["lr"] for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            age = steps % group["reset_every"]
            if steps and age == 0:
                _forget(optimizer, group["params"], self.restarts_counter)
            if steps >= group["reset_every"] and age < group.get("warmup", 0):
                group["lr"] = group["lr"] * (
                    1 - 0.99 * (1 + math.cos(math.pi * age / (group["warmup"] + 1))) / 2
                )
        return super().before(optimizer, args, kwargs)

    def _give_back(self, optimizer: Optimizer, *_: Any) -> None:
        for group, lr in zip(optimizer.param_groups, self.lrs or [], strict=False):
            group["lr"] = lr
        self.lrs = None


def _forget(optimizer: Optimizer, params: Iterable[Tensor], counter: bool) -> None:
    """m = v = 0, and Adam's own count of steps, which corrects their bias, where `counter`."""
    names = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", *(["step"] if counter else []))
    known = [optimizer.state.get(p, {}) for p in params]  # empty where somebody has only looked at it
    if tensors := [state[name] for state in known for name in names if name in state]:
        torch._foreach_zero_(tensors)


class _Moret(_Resets):
    restarts_counter = True


class _Spikes(_Resets):
    """SPAM's: after the rule, entries that stand out against Adam's second moment are cut."""

    def _apply(
        self, optimizer: Optimizer, factors: list[Factor], grads: list[Gradients], bad: Tensor
    ) -> None:
        if not isinstance(self.rule, NoClip):
            for factor, part in zip(factors, grads, strict=True):
                multiply(part, factor)
        age = optimizer.state[STEPS] - 1  # type: ignore[index]
        for group in optimizer.param_groups:
            exempt = group.get("clipping_level") is not None and math.isinf(group["clipping_level"])
            # θ = ∞ is left out: ∞·v is NaN where v is 0
            if (
                not exempt
                and math.isfinite(group["threshold"])
                and age % group["reset_every"] >= group["pause"]
            ):
                known = [
                    p
                    for p in group["params"]
                    if p.grad is not None and "exp_avg_sq" in optimizer.state.get(p, {})
                ]
                if known:
                    _cut(
                        [real(p.grad) for p in known],
                        [real(optimizer.state[p]["exp_avg_sq"]) for p in known],
                        group["threshold"],
                    )
        _memory(optimizer)["clipped_norm"] = None  # to be measured
        super()._apply(optimizer, [None] * len(grads), grads, bad)


def _cut(grads: list[Tensor], moments: list[Tensor], threshold: float) -> None:
    """Entries with g² > θ·v become sign(g)·√(θv): that is g clamped to ±√(θv)."""
    limits = torch._foreach_mul(moments, threshold)
    torch._foreach_sqrt_(limits)
    torch._foreach_clamp_max_(grads, limits)
    torch._foreach_neg_(limits)
    torch._foreach_clamp_min_(grads, limits)


class SPAM(ClippedAdamW):
    """Adam with entries g² > θ·v cut to sign(g)·√(θv), and m = v = 0 every ΔT steps with a warm-up of the learning rate after that.

    θ = `threshold`, against v before the step; ΔT = `reset_every`; in the first `pause` steps from the start and after each reset nothing
    is cut. Adam's step counter goes on over a reset, and s(k) = 1 − 0.99·½(1 + cos(πk/(`warmup`+1))) scales the learning rate of the k-th
    step after it, k = 0, 1, …. By the formula an entry that had no gradient in the pause has v = 0 and stays still until the next reset.
    Steps are counted as calls: one that is skipped for a non-finite gradient counts. `clipping_type`, none unless given, clips before the
    spikes are cut; a group with clipping_level=inf is exempt from both, not from the resets. Weight decay is decoupled. Else as
    ClippedAdamW. Huang et al. 2025, arXiv 2501.06842, algorithm 1.
    """

    join_class = _Spikes
    clips_by_itself = True  # so exemptions mean something to it under clipping_type "none" too

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        *,
        threshold: float = 5000.0,
        reset_every: int = 500,
        warmup: int = 150,
        pause: int = 20,
        clipping_type: str | Rule = "none",
        **settings: Any,
    ) -> None:
        own = {
            "threshold": check_level("threshold", threshold),
            "reset_every": check_count("reset_every", reset_every),
            "warmup": warmup and check_count("warmup", warmup),
            "pause": check_count("pause", pause),
        }
        super().__init__(params, lr, betas, eps, weight_decay, clipping_type=clipping_type, **settings)
        _extend(self, own)


class StableSPAM(ClippedAdamW):
    """Adam behind AdaClip and AdaGN, with m = v = 0 and Adam's bias correction begun anew every ΔT = `reset_every` steps (MoRet).

    `gamma1` and `gamma2` are AdaGN's, `gamma3` AdaClip's; their memories and counters go on over a reset. `clipping_type`, none unless
    given, clips before both; a group with clipping_level=inf is exempt from all three, so Adam sees its raw gradient, but not from the
    resets. Weight decay is decoupled. Else as ClippedAdamW. Huang et al. 2025, arXiv 2502.17055, algorithm 1.
    """

    join_class = _Moret
    clips_by_itself = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        gamma1: float = 0.7,
        gamma2: float = 0.9,
        gamma3: float = 0.999,
        reset_every: int = 1000,
        clipping_type: str | Rule = "none",
        **settings: Any,
    ) -> None:
        own = {"reset_every": check_count("reset_every", reset_every)}
        self.stabilizers = AdaClip(gamma3), AdaGN(gamma1, gamma2, eps)
        super().__init__(params, lr, betas, eps, weight_decay, clipping_type=clipping_type, **settings)
        _extend(self, own)

    def _join(
        self, clipping_type: str | Rule, nonfinite: str, rng: torch.Generator | None, settings: dict[str, Any]
    ) -> None:
        super()._join(chain(make_rule(clipping_type, **settings), *self.stabilizers), nonfinite, rng, {})


def _extend(optimizer: Optimizer, settings: dict[str, Any]) -> None:
    """Settings that a parameter group may have of its own, as it may have torch's."""
    optimizer.defaults.update(settings)
    for group in optimizer.param_groups:
        for name, value in settings.items():
            group.setdefault(name, value)
