"""What to do with a gradient: clipping rules as pure functions, in order of complexity.

A rule maps gradients to factors; papers write clip(g) = α·g, so the code does too. Here g is the whole gradient (every tensor
of every parameter group), g_l one of its tensors, ‖·‖ the L2 norm, η the clipping level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from clipbench.optim.checks import CHECKS

State = dict[str, Tensor]
Factor = Tensor | Sequence[Tensor] | None
"""() for the whole gradient, (n,) for one factor per tensor, a sequence of n tensors that broadcast against their gradients,
or None where the rule has edited the gradients in place."""


class Gradients(list[Tensor]):
    """The gradients of one step, and their norms, which are summed once, in float32 or wider, and stay on the device."""

    @cached_property
    def norms(self) -> Tensor:
        """‖g_l‖ of each tensor. (n,)"""
        wide = torch.promote_types(self[0].dtype, torch.float32)
        return torch.stack(torch._foreach_norm(self, 2.0, dtype=wide))

    @cached_property
    def norm(self) -> Tensor:
        """‖g‖ over all tensors. ()"""
        return torch.linalg.vector_norm(self.norms)


@dataclass(frozen=True)
class Rule:
    """Base of all rules: a frozen dataclass whose fields are the method's hyper-parameters.

    Subclass it and write `__call__`; write `init` only for a rule with a memory. A rule never waits for the device: no `.item()`, no
    `if tensor:`. One that edits entries in place sets `elementwise`.
    """

    elementwise: ClassVar[bool] = False  # changes the gradient's direction within a tensor, so no factor can describe it

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name in CHECKS:
                object.__setattr__(self, field.name, CHECKS[field.name](field.name, getattr(self, field.name)))

    @property
    def per_tensor(self) -> tuple[str, ...]:
        """The names of the memory's entries that hold one number for each tensor: (n,), with `__call__` seeing those of its gradients."""
        return ()

    def init(self, params: Sequence[Tensor]) -> State:
        """The memory before the first step: tensors on the device of `params`, by name."""
        return {}

    def __call__(self, grads: Gradients, params: Sequence[Tensor], state: State, rng: torch.Generator) -> tuple[Factor, State]:
        """(factor, new memory). `rng` lives on the gradients' device.

        Where the norm is not finite the step is skipped whatever the factor, but a memory must not take that norm in.
        """
        raise NotImplementedError(f"{type(self).__name__} must define __call__(self, grads, params, state, rng).")


def within(level: Tensor | float, norms: Tensor) -> Tensor:
    """min(1, level / norm), and exactly 1 for a norm at or below the level, 0 included. The shape of `norms`."""
    return torch.where(norms > level, level / norms, 1.0)


def toss(factor: Tensor, beta: float, power: int, rng: torch.Generator) -> Tensor:
    """`factor` with probability β^(factor^power), else 1. One coin for the whole gradient: its direction stays. ()"""
    coin = torch.rand((), generator=rng, device=factor.device)
    return torch.where(coin < torch.pow(beta, factor**power), factor, 1.0)


@dataclass(frozen=True)
class NoClip(Rule):
    """α = 1

    Steps with a non-finite gradient are skipped as under every other type.
    """

    def __call__(self, grads, params, state, rng):
        return torch.ones_like(grads.norm), state


@dataclass(frozen=True)
class Norm(Rule):
    """α = min(1, η/‖g‖)

    The norm is over all parameter groups together. Pascanu et al. 2013, arXiv 1211.5063.
    """

    clipping_level: float = 1.0

    def __call__(self, grads, params, state, rng):
        return within(self.clipping_level, grads.norm), state


@dataclass(frozen=True)
class LinearRandNorm(Rule):
    """if ‖g‖ > η: α = η/‖g‖ with probability β^(η/‖g‖), else 1

    With probability 1 − P a spike of any size passes whole: less bias, an unbounded tail. torch-clip, README.
    """

    clipping_level: float = 1.0
    beta: float = 0.85

    def __call__(self, grads, params, state, rng):
        return toss(within(self.clipping_level, grads.norm), self.beta, 1, rng), state


@dataclass(frozen=True)
class QuadraticRandNorm(Rule):
    """if ‖g‖ > η: α = η/‖g‖ with probability β^((η/‖g‖)²), else 1

    Clips large gradients more surely than the linear form. torch-clip, README.
    """

    clipping_level: float = 1.0
    beta: float = 0.85

    def __call__(self, grads, params, state, rng):
        return toss(within(self.clipping_level, grads.norm), self.beta, 2, rng), state


@dataclass(frozen=True)
class LayerWise(Rule):
    """α_l = min(1, η/‖g_l‖) for each parameter tensor on its own

    The whole gradient's norm may still reach η·√(number of tensors). torch-clip, README.
    """

    clipping_level: float = 1.0

    def __call__(self, grads, params, state, rng):
        return within(self.clipping_level, grads.norms), state


@dataclass(frozen=True)
class CoordinateWise(Rule):
    """g_w ← min(max(g_w, −η), η) for each entry

    The direction may change; η is in units of one entry, far below a level for norms. torch-clip, README.
    """

    clipping_level: float = 0.1
    elementwise: ClassVar[bool] = True

    def __call__(self, grads, params, state, rng):
        torch._foreach_clamp_min_(grads, -self.clipping_level)
        torch._foreach_clamp_max_(grads, self.clipping_level)
        return None, state


@dataclass(frozen=True)
class Auto(Rule):
    """α = min(1, η_t/‖g‖), η_t = p-quantile of the last norms, this step's included

    `p_autoclip` is a fraction; the share of steps clipped tends to 1 − p. The quantile is exact (numpy's linear interpolation) over
    the last `window` finite norms, whose two copies in float32 are the memory: 8·window bytes. Seetharaman et al. 2020,
    arXiv 2007.14469, who recommend 0.1.
    """

    p_autoclip: float = 0.75
    window: int = 10_000

    def init(self, params):
        empty = torch.full((self.window,), math.inf, device=params[0].device)
        return {
            "norms": empty,
            "ranked": empty.clone(),
            "count": torch.zeros((), dtype=torch.int64, device=empty.device),
        }

    def __call__(self, grads, params, state, rng):
        level, state = self.level(grads.norm, state)
        return within(level, grads.norm), state

    def level(self, norm: Tensor, state: State) -> tuple[Tensor, State]:
        """(η_t, memory with `norm` in the place of the oldest). Costs the same at every step: nothing is sorted anew."""
        norms, ranked, count = state["norms"], state["ranked"], state["count"]
        slot, finite = count % self.window, torch.isfinite(norm)
        oldest = norms.take(slot)  # infinite until the window is full; norms[slot] would wait for the device
        newest = torch.where(finite, norm.float(), oldest)  # a non-finite norm changes nothing
        ranked = _exchange(ranked, oldest, newest)
        count = count + finite
        state = {
            "norms": torch.where(torch.arange(self.window, device=norm.device) == slot, newest, norms),
            "ranked": ranked,
            "count": count,
        }
        return _quantile(ranked, count.clamp(max=self.window), self.p_autoclip), state


def _exchange(ranked: Tensor, old: Tensor, new: Tensor) -> Tensor:
    """Ascending `ranked` (k,) without one `old` and with `new`, both ()."""
    index = torch.arange(len(ranked), device=ranked.device)
    left = torch.searchsorted(ranked, old)
    entry = torch.searchsorted(ranked, new) - (old < new).long()
    source = index - (index > entry).long()  # where each rank comes from, counted without `old` …
    source = source + (source >= left).long()  # … and with it
    return torch.where(index == entry, new, ranked[source.clamp(max=len(ranked) - 1)])


def _quantile(ranked: Tensor, count: Tensor, p: float) -> Tensor:
    """The p-quantile of the first `count` of ascending `ranked`, interpolated linearly: position p·(count − 1). ()"""
    last = (count - 1).clamp(min=0)
    position = p * last
    low = position.floor().long()
    a, b = ranked.take(low), ranked.take(torch.minimum(low + 1, last))
    share = position - low
    return torch.where(share > 0, a + share * (b - a), a)


@dataclass(frozen=True)
class LinearRandAuto(Auto):
    """`linear_rand_norm` with η = η_t of `auto`

    torch-clip, README.
    """

    beta: float = 0.85

    def __call__(self, grads, params, state, rng):
        level, state = self.level(grads.norm, state)
        return toss(within(level, grads.norm), self.beta, 1, rng), state


@dataclass(frozen=True)
class QuadraticRandAuto(Auto):
    """`quadratic_rand_norm` with η = η_t of `auto`

    torch-clip, README.
    """

    beta: float = 0.85

    def __call__(self, grads, params, state, rng):
        level, state = self.level(grads.norm, state)
        return toss(within(level, grads.norm), self.beta, 2, rng), state


RULES: dict[str, type[Rule]] = {
    "none": NoClip,
    "norm": Norm,
    "linear_rand_norm": LinearRandNorm,
    "quadratic_rand_norm": QuadraticRandNorm,
    "layer_wise": LayerWise,
    "coordinate_wise": CoordinateWise,
    "auto": Auto,
    "linear_rand_auto": LinearRandAuto,
    "quadratic_rand_auto": QuadraticRandAuto,
}

ALIASES = {
    "no_clip": "none",
    "auto_clip": "auto",
    "linear_stoch_norm": "linear_rand_norm",
    "quadratic_stoch_norm": "quadratic_rand_norm",
    "linear_rand_autoclip": "linear_rand_auto",
    "linear_stoch_autoclip": "linear_rand_auto",
    "quadratic_rand_autoclip": "quadratic_rand_auto",
    "quadratic_stoch_autoclip": "quadratic_rand_auto",
}
