"""SPAM and Stable-SPAM: Adam that clips spikes and now and then forgets its moments."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from clipbench.optim.chain import chain
from clipbench.optim.checks import check_count, check_level
from clipbench.optim.gradients import real
from clipbench.optim.optimizers import ClippedAdamW
from clipbench.optim.resets import STEPS, MomentResets, started_steps
from clipbench.optim.rule import Rule
from clipbench.optim.stabilizers import AdaClip, AdaGN
from clipbench.optim.units import Group, is_exempt


class _ResettingAdamW(ClippedAdamW):
    """ClippedAdamW with resets of the moments, which begin before it clips and end after the step."""

    clips_by_itself = True  # so exemptions mean something to it under clipping_type "none" too
    resets_counter = False

    def begin(self) -> None:
        """Back to before the first step, for a restart."""
        self.param_groups[0][STEPS] = 0

    def attach_hooks(self) -> None:
        self.resets = MomentResets(self.resets_counter)
        self.register_step_pre_hook(torch.compiler.disable(self.resets.before_step))
        super().attach_hooks()
        self.register_step_post_hook(torch.compiler.disable(self.resets.after_step))
        self.register_state_dict_pre_hook(lambda _: self.resets.give_back())

    def __getstate__(self) -> dict[str, Any]:
        self.resets.give_back()
        return super().__getstate__()


class SPAM(_ResettingAdamW):
    """Adam with entries g² > θ·v cut to sign(g)·√(θv), and m = v = 0 every ΔT steps, then a warm-up.

    θ = `threshold`, against v before the step; ΔT = `reset_every`; in the first `pause` steps from the
    start and after each reset nothing is cut. Adam's step counter goes on over a reset, and s(k) = 1 −
    0.99·½(1 + cos(πk/(`warmup`+1))) scales the learning rate of the k-th step after it, k = 0, 1, …. By the
    formula an entry that had no gradient in the pause has v = 0 and stays still until the next reset. Steps
    are counted as calls: one that is skipped for a non-finite gradient counts. `clipping_type`, none unless
    given, clips before the spikes are cut; a group with clipping_level=inf is exempt from both, not from
    the resets. Weight decay is decoupled. Else as ClippedAdamW. Huang et al. 2025, arXiv 2501.06842,
    algorithm 1.
    """

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
        self.extend_groups(own)

    def edit_gradients(self) -> None:
        """Cut spikes, after the rule and before Adam takes the gradient in."""
        age = started_steps(self) - 1
        for group in self.param_groups:
            if not is_exempt(group, self.clipping.rule) and age % group["reset_every"] >= group["pause"]:
                self._cut_spikes(group)

    def _cut_spikes(self, group: Group) -> None:
        grads, moments = [], []
        for p in group["params"]:
            state = self.state.get(p, {})
            if p.grad is not None and "exp_avg_sq" in state:
                grads.append(real(p.grad))
                moments.append(real(state["exp_avg_sq"]))
        if grads:
            cut_spikes(grads, moments, group["threshold"])


def cut_spikes(grads: list[Tensor], moments: list[Tensor], threshold: float) -> None:
    """Entries with g² > θ·v become sign(g)·√(θv), in place: that is g clamped to ±√(θv)."""
    if math.isinf(threshold):
        return  # ∞·v is NaN where v is 0
    limits = torch._foreach_mul(moments, threshold)
    torch._foreach_sqrt_(limits)
    torch._foreach_clamp_max_(grads, limits)
    torch._foreach_neg_(limits)
    torch._foreach_clamp_min_(grads, limits)


class StableSPAM(_ResettingAdamW):
    """Adam behind AdaClip and AdaGN, with m = v = 0 and Adam's bias correction anew every ΔT steps (MoRet).

    ΔT = `reset_every`. `gamma1` and `gamma2` are AdaGN's, `gamma3` AdaClip's; their memories and counters
    go on over a reset. `clipping_type`, none unless given, clips before both; a group with
    clipping_level=inf is exempt from all three, so Adam sees its raw gradient, but not from the resets.
    Weight decay is decoupled. Else as ClippedAdamW. Huang et al. 2025, arXiv 2502.17055, algorithm 1.
    """

    resets_counter = True

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
        gammas = {"gamma1": gamma1, "gamma2": gamma2, "gamma3": gamma3}
        self.settings.update(gammas)
        self.defaults.update(gammas)
        self.extend_groups(own)

    def build_rule(self, clipping_type: str | Rule, settings: dict[str, Any]) -> Rule:
        return chain(super().build_rule(clipping_type, settings), *self.stabilizers)
