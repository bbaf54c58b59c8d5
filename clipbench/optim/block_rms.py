"""`block_rms` clips Adam's update, which a rule on gradients never sees."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer

from clipbench.optim.rules import Rule, real, within


@dataclass(frozen=True)
class BlockRMS(Rule):
    """U_l ← U_l/max(1, RMS(U_l)/η) for each tensor of the update U = m̂/(√v̂ + ε) of Adam or AdamW

    The gradient, the moments and AdamW's weight decay stay as they are. RMS(U_l) is near 1 or below in calm training, more when a
    gradient outgrows what v remembers. `clip_factor` is ‖U after‖/‖U before‖. Adafactor, arXiv 1804.04235, section 6; as
    StableAdamW, arXiv 2304.13013.
    """

    clipping_level: float = 1.0
    tied_to: ClassVar = Adam

    def __call__(self, grads, params, state, rng):
        return torch.ones_like(grads.norm), state

    def after_step(
        self, optimizer: Optimizer, group: dict[str, Any], skipped: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Take back, after torch's own step, what of a group's step lies beyond the level. (‖U‖² before, after), both ()"""
        params = [p for p in group["params"] if p.grad is not None]
        before = after = torch.zeros((), device=skipped.device)
        for p in params:
            update = _update(optimizer.state[p], group)
            size = torch.linalg.vector_norm(update, dtype=torch.promote_types(update.dtype, torch.float32))
            factor = within(self.clipping_level, size / update.numel() ** 0.5)
            real(p).add_(torch.where(skipped, 0, group["lr"] * (1 - factor) * update).to(update.dtype))
            before, after = before + size**2, after + (factor * size) ** 2
        return before, after


def _update(state: dict[str, Tensor], group: dict[str, Any]) -> Tensor:
    """Adam's m̂/(√v̂ + ε) of the step that was just made."""
    beta1, beta2 = group["betas"]
    step = state["step"].clamp(min=1)  # 0 where the very first step was skipped
    mean, square = (
        real(state["exp_avg"]),
        real(state["max_exp_avg_sq"] if group["amsgrad"] else state["exp_avg_sq"]),
    )
    return mean / _missing(beta1, step) / ((square / _missing(beta2, step)).sqrt() + group["eps"])


def _missing(beta: Any, step: Tensor) -> Any:
    """1 − β^step, by expm1: β^step in float32 would cost four digits at step 1. A CPU tensor of one number goes with any device."""
    if isinstance(beta, Tensor):
        return 1 - beta**step
    return -torch.expm1(step * math.log(beta)) if beta else 1.0
