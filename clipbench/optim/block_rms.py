"""`block_rms` clips Adam's update, which a rule on gradients never sees."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer

from clipbench.optim.gradients import gradients_like, real
from clipbench.optim.ranks import takes_part
from clipbench.optim.rule import UpdateRule, within


@dataclass(frozen=True)
class BlockRMS(UpdateRule):
    """U_l ← U_l/max(1, RMS(U_l)/η) for each tensor of the update U = m̂/(√v̂ + ε) of Adam or AdamW

    The gradient, the moments and AdamW's weight decay stay as they are. RMS(U_l) is near 1 or below in calm
    training, more when a gradient outgrows what v remembers. `clip_factor` is ‖U after‖/‖U before‖.
    Adafactor, arXiv 1804.04235, section 6; as StableAdamW, arXiv 2304.13013.
    """

    clipping_level: float = 1.0
    tied_to: ClassVar[type[Optimizer]] = Adam
    acts_on: ClassVar[tuple[str, ...]] = ("tensor",)

    def after_step(
        self, optimizer: Optimizer, group: dict[str, Any], skipped: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Take back what of the group's step lies beyond the level. (‖U‖² before, after), both ()"""
        params = [p for p in group["params"] if takes_part(p)]
        if not params:
            zero = torch.zeros((), device=skipped.device)
            return zero, zero
        updates = []
        for p in params:
            updates.append(real(p.detach()) if p.grad is None else _update(optimizer.state[p], group))
        measured = gradients_like(params, updates)
        factors = within(self.clipping_level, measured.rms())
        before = after = torch.zeros((), device=skipped.device)
        each = zip(params, updates, measured.norms.unbind(), factors.unbind(), strict=True)
        for p, update, size, factor in each:
            excess = group["lr"] * (1 - factor) * update
            real(p).add_(torch.where(skipped, 0, excess).to(update.dtype))
            before = before + size**2
            after = after + (factor * size) ** 2
        return before, after


def _update(state: dict[str, Tensor], group: dict[str, Any]) -> Tensor:
    """Adam's m̂/(√v̂ + ε) of the step that was just made."""
    beta1, beta2 = group["betas"]
    step = state["step"].clamp(min=1)  # 0 where the very first step was skipped
    mean = real(state["exp_avg"])
    square = real(state["max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"])
    root = (square / _missing(beta2, step)).sqrt()
    return mean / _missing(beta1, step) / (root + group["eps"])


def _missing(beta: Any, step: Tensor) -> Any:
    """1 − β^step, by expm1: β^step in float32 would cost four digits at step 1.

    A CPU tensor of one number goes with any device.
    """
    if isinstance(beta, Tensor):
        return 1 - beta**step
    return -torch.expm1(step * math.log(beta)) if beta else 1.0
