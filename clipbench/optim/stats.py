"""What clipping did to the latest gradient."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from clipbench.optim import gradients
from clipbench.optim.memory import Memory


class ClipStats(NamedTuple):
    """What clipping did to the latest gradient, on its device: to read it is to wait. Each ()."""

    grad_norm: Tensor
    clipped_norm: Tensor
    skipped: Tensor  # steps so far whose gradient was not finite


def clip_stats(optimizer: Optimizer) -> ClipStats:
    """Norm before and after clipping at the latest step, and the count of skipped ones.

    Call it before `zero_grad`: types that edit entries (coordinate_wise, uclip, …) leave the norm after to be
    measured now, and without gradients that is a RuntimeError.
    """
    memory = Memory(optimizer)
    norm, clipped = memory.grad_norm, memory.clipped_norm
    if norm is None:
        raise RuntimeError("clip_stats needs an optimizer that clips and has made a step.")
    if clipped is None:  # the rule edited entries: only the gradients themselves know
        params = [p for group in optimizer.param_groups for p in group["params"]]
        grads = gradients.gradients_of(params)
        if not grads:
            raise RuntimeError(
                "clip_stats needs the gradients of the latest step here: call it before zero_grad."
            )
        clipped = torch.where(gradients.is_finite(norm), grads.norm, 0.0)
    return ClipStats(norm, clipped, memory.skipped)
