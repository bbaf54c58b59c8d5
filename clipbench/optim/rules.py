"""What to do with a gradient: clipping rules as pure functions, in order of complexity.

A rule maps gradients to factors; papers write clip(g) = α·g, so the code does too. Here g is the whole
gradient (every tensor of every parameter group), g_l one of its tensors, ‖·‖ the L2 norm, η the clipping
level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clipbench.optim.checks import check_small, check_switch
from clipbench.optim.gradients import Gradients
from clipbench.optim.rule import EntryRule, Rule, State, toss, within


def clamp_(grads: list[Tensor], level: float) -> None:
    """Each entry into [−level, level], in place.

    One pass over memory on a CPU, two launches for all tensors elsewhere.
    """
    # float16 has no number for a level of 10⁵, and no entry above it
    grads = [g for g in grads if level < torch.finfo(g.dtype).max]
    if not grads:
        return
    if grads[0].device.type == "cpu":
        for grad in grads:
            grad.clamp_(-level, level)
    else:
        torch._foreach_clamp_min_(grads, -level)
        torch._foreach_clamp_max_(grads, level)


@dataclass(frozen=True)
class NoClip(Rule):
    """α = 1

    Steps with a non-finite gradient are skipped as under every other type.
    """

    clips: ClassVar[bool] = False
    acts_on: ClassVar[tuple[str, ...]] = ("entry",)

    def level_in_force(self, state: State) -> float:
        return math.inf

    def __call__(
        self, grads: Gradients, params: Sequence[Tensor], state: State, rng: torch.Generator
    ) -> tuple[Tensor, State]:
        return grads.one, state


@dataclass(frozen=True)
class Norm(Rule):
    """α = min(1, η/‖g‖)

    The norm is over all parameter groups together. Pascanu et al. 2013, arXiv 1211.5063.
    """

    clipping_level: float = 1.0

    def __call__(
        self, grads: Gradients, params: Sequence[Tensor], state: State, rng: torch.Generator
    ) -> tuple[Tensor, State]:
        return within(self.clipping_level, grads.norm), state


@dataclass(frozen=True)
class LinearRandNorm(Rule):
    """if ‖g‖ > η: α = η/‖g‖ with probability β^(η/‖g‖), else 1

    With probability 1 − P a spike of any size passes whole: less bias, an unbounded tail. torch-clip, README.
    """

    clipping_level: float = 1.0
    beta: float = 0.85
    draws: ClassVar[bool] = True

    def __call__(
        self, grads: Gradients, params: Sequence[Tensor], state: State, rng: torch.Generator
    ) -> tuple[Tensor, State]:
        return toss(within(self.clipping_level, grads.norm), self.beta, 1, rng), state


@dataclass(frozen=True)
class QuadraticRandNorm(Rule):
    """if ‖g‖ > η: α = η/‖g‖ with probability β^((η/‖g‖)²), else 1

    Clips large gradients more surely than the linear form. torch-clip, README.
    """

    clipping_level: float = 1.0
    beta: float = 0.85
    draws: ClassVar[bool] = True

    def __call__(
        self, grads: Gradients, params: Sequence[Tensor], state: State, rng: torch.Generator
    ) -> tuple[Tensor, State]:
        return toss(within(self.clipping_level, grads.norm), self.beta, 2, rng), state


@dataclass(frozen=True)
class LayerWise(Rule):
    """α_l = min(1, η/‖g_l‖) for each parameter tensor on its own

    The whole gradient's norm may still reach η·√(number of tensors). torch-clip, README.
    """

    clipping_level: float = 1.0
    acts_on: ClassVar[tuple[str, ...]] = ("tensor",)

    def __call__(
        self, grads: Gradients, params: Sequence[Tensor], state: State, rng: torch.Generator
    ) -> tuple[Tensor, State]:
        return within(self.clipping_level, grads.norms), state


@dataclass(frozen=True)
class CoordinateWise(EntryRule):
    """g_w ← min(max(g_w, −η), η) for each entry

    The direction may change; η is in units of one entry, far below a level for norms. torch-clip, README.
    """

    clipping_level: float = 0.1
    acts_on: ClassVar[tuple[str, ...]] = ("entry",)

    def __call__(
        self, grads: Gradients, params: Sequence[Tensor], state: State, rng: torch.Generator
    ) -> tuple[None, State]:
        clamp_(grads, self.clipping_level)
        return None, state


@dataclass(frozen=True)
class Value(CoordinateWise):
    """g_w ← min(max(g_w, −η), η) for each entry: `coordinate_wise` under torch's name

    torch.nn.utils.clip_grad_value_.
    """


@dataclass(frozen=True)
class Normalize(Rule):
    """α = η/(‖g‖ + ε), or with smooth=True η/√(η² + ‖g‖²)

    The first gives every step the same length, so small gradients grow; the second shrinks all of them a
    little and none beyond η. Zhang et al. 2020, arXiv 1905.11881.
    """

    clipping_level: float = 1.0
    smooth: bool = False
    eps: float = 1e-6
    checks: ClassVar = {"smooth": check_switch, "eps": check_small}

    def __call__(
        self, grads: Gradients, params: Sequence[Tensor], state: State, rng: torch.Generator
    ) -> tuple[Tensor, State]:
        if math.isinf(self.clipping_level):
            return grads.one, state
        if self.smooth:
            return (1 + (grads.norm / self.clipping_level) ** 2).rsqrt(), state
        return self.clipping_level / (grads.norm + self.eps), state
