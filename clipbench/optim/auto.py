"""Rules whose level is a quantile of the norms so far. Notation as in rules.py."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from clipbench.optim.gradients import Gradients
from clipbench.optim.rule import Rule, State, toss, within


@dataclass(frozen=True)
class Auto(Rule):
    """α = min(1, η_t/‖g‖), η_t = p-quantile of the last norms, this step's included

    `p_autoclip` is a fraction; the share of steps clipped tends to 1 − p. The quantile is exact (numpy's
    linear interpolation) over the last `window` norms, whose two copies in float32 are the memory: 8·window
    bytes. Seetharaman et al. 2020, arXiv 2007.14469, who recommend 0.1.
    """

    p_autoclip: float = 0.75
    window: int = 10_000

    def init(self, params: Sequence[Tensor]) -> State:
        device = params[0].device
        empty = torch.full((self.window,), math.inf, device=device)
        count = torch.zeros((), dtype=torch.int64, device=device)
        return {"norms": empty, "ranked": empty.clone(), "count": count}

    def __call__(
        self, grads: Gradients, params: Sequence[Tensor], state: State, rng: torch.Generator
    ) -> tuple[Tensor, State]:
        # in the memory's precision, or a wider norm would lie above the level that it is itself
        norm = grads.norm.float()
        level, state = self.level(norm, state)
        return within(level, norm), state

    def level_in_force(self, state: State) -> Tensor | None:
        """η_t of the latest step; before the first there is none."""
        if "ranked" not in state:
            return None
        count = state["count"].clamp(max=self.window)
        level = _quantile(state["ranked"], count, self.p_autoclip)
        return torch.where(count > 0, level, math.nan)

    def level(self, norm: Tensor, state: State) -> tuple[Tensor, State]:
        """(η_t, memory with `norm` in the place of the oldest). `norm` and η_t are ().

        Costs the same at every step: nothing is sorted anew.
        """
        norms, count = state["norms"], state["count"]
        newest = norm.float()
        slot = count % self.window
        count = count + 1
        # infinite until the window is full. `norms[slot]` would wait for the device
        oldest = norms.take(slot)
        ranked = _exchange(state["ranked"], oldest, newest)
        norms = norms.scatter(0, slot.unsqueeze(0), newest.unsqueeze(0))
        level = _quantile(ranked, count.clamp(max=self.window), self.p_autoclip)
        return level, {"norms": norms, "ranked": ranked, "count": count}


def _exchange(ranked: Tensor, old: Tensor, new: Tensor) -> Tensor:
    """Ascending `ranked` (k,) without one `old` and with `new`, both ()."""
    rest = torch.where(ranked[:-1] < old, ranked[:-1], ranked[1:])
    # what ends at rank i lies between the neighbours there: it is one of them, or `new` where that is between
    below = pad(rest, (1, 0), value=-math.inf)
    above = pad(rest, (0, 1), value=math.inf)
    return torch.clamp(new, min=below, max=above)


def _quantile(ranked: Tensor, count: Tensor, p: float) -> Tensor:
    """The p-quantile of the first `count` of ascending `ranked`, linear between ranks, at p·(count−1). ()"""
    last = (count - 1).clamp(min=0)
    position = p * last
    low = position.long()
    a = ranked.take(low)
    b = ranked.take(torch.minimum(low + 1, last))
    share = position - low
    return torch.where(share > 0, a + share * (b - a), a)


@dataclass(frozen=True)
class LinearRandAuto(Auto):
    """if ‖g‖ > η_t: α = η_t/‖g‖ with probability β^(η_t/‖g‖), else 1; η_t as in `auto`

    torch-clip, README.
    """

    beta: float = 0.85
    draws: ClassVar[bool] = True

    def __call__(
        self, grads: Gradients, params: Sequence[Tensor], state: State, rng: torch.Generator
    ) -> tuple[Tensor, State]:
        factor, state = super().__call__(grads, params, state, rng)
        return toss(factor, self.beta, 1, rng), state


@dataclass(frozen=True)
class QuadraticRandAuto(Auto):
    """if ‖g‖ > η_t: α = η_t/‖g‖ with probability β^((η_t/‖g‖)²), else 1; η_t as in `auto`

    torch-clip, README.
    """

    beta: float = 0.85
    draws: ClassVar[bool] = True

    def __call__(
        self, grads: Gradients, params: Sequence[Tensor], state: State, rng: torch.Generator
    ) -> tuple[Tensor, State]:
        factor, state = super().__call__(grads, params, state, rng)
        return toss(factor, self.beta, 2, rng), state
