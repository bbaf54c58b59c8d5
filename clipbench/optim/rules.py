"""What to do with a gradient: clipping rules as pure functions, in order of complexity.

A rule maps gradients to factors; papers write clip(g) = α·g, so the code does too. Here g is the whole gradient (every tensor
of every parameter group), g_l one of its tensors, ‖·‖ the L2 norm, η the clipping level.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, reduce
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.optim import Optimizer

from clipbench.optim.checks import SHARED, check_small, check_switch

State = dict[str, Any]  # a Tensor, or a list of Tensors: see Rule.init
Factor = Tensor | Sequence[Tensor] | None
"""() for the whole gradient, (n,) for one factor per tensor, a sequence of n tensors that broadcast against their gradients,
or None where the rule has edited the gradients in place."""


class Gradients(list[Tensor]):
    """The gradients of one step, and their norms, which are summed once, in float32 or wider, and stay on the device."""

    @cached_property
    def norms(self) -> Tensor:
        """‖g_l‖ of each tensor. (n,)"""
        wide = reduce(torch.promote_types, {g.dtype for g in self}, torch.float32)
        return torch.stack(torch._foreach_norm(self, 2.0, dtype=wide))

    @cached_property
    def norm(self) -> Tensor:
        """‖g‖ over all tensors. ()"""
        return torch.linalg.vector_norm(self.norms)


def real(x: Tensor) -> Tensor:
    """A complex tensor as pairs of reals, which share its memory; any other as it is."""
    return torch.view_as_real(x) if x.is_complex() else x


@dataclass(frozen=True)
class Rule:
    """Base of all rules: a frozen dataclass whose fields are the method's hyper-parameters.

    Subclass it and write `__call__`; write `init` only for a rule with a memory. A rule never waits for the device: no `.item()`, no
    `if tensor:`.
    """

    clips: ClassVar[bool] = True  # False: levels and exemptions mean nothing to it
    tied_to: ClassVar[type[Optimizer] | None] = None  # acts on the update of this optimizer, in `after_step`
    spares_last_linear: ClassVar[bool] = (
        False  # its paper leaves the last linear layer unclipped; the bench does so by default
    )

    checks: ClassVar[
        Mapping[str, Callable[[str, Any], Any]]
    ] = {}  # of its own fields: name → (name, value) → the value, or ValueError

    def __post_init__(self) -> None:
        checks = {**SHARED, **self.checks}
        for field in fields(self):
            if field.name in checks:
                object.__setattr__(
                    self, field.name, checks[field.name](field.name, getattr(self, field.name))
                )

    def init(self, params: Sequence[Tensor]) -> State:
        """The memory before the first step, by name, on the device of `params`: every parameter, also one that has no gradient yet.

        An entry is a tensor, or a list of one tensor for each of `params`. Of such a list a step hands out and takes back the items
        of the parameters that have a gradient, in the order of `grads`: a gradient that is missing shifts nothing.
        """
        return {}

    def __call__(
        self, grads: Gradients, params: Sequence[Tensor], state: State, rng: torch.Generator
    ) -> tuple[Factor, State]:
        """(factor, new memory) for the parameters that have a gradient. `rng` lives on the gradients' device.

        Give back new tensors and leave those of `state` as they are: where a gradient is not finite the step is skipped, whatever the
        factor, and the old memory stays, so that no such norm enters it.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must define __call__(self, grads, params, state, rng)."
        )


def within(level: Tensor | float, norms: Tensor) -> Tensor:
    """min(1, level / norm), and exactly 1 for a norm at or below the level, 0 included. The shape of `norms`."""
    return torch.where(norms > level, level / norms, 1.0)


def toss(factor: Tensor, beta: float, power: int, rng: torch.Generator) -> Tensor:
    """`factor` with probability β^(factor^power), else 1. One coin for the whole gradient: its direction stays. ()"""
    coin = torch.rand((), generator=rng, device=factor.device)
    return torch.where(coin < torch.pow(beta, factor**power), factor, 1.0)


def clamp_(grads: list[Tensor], level: float) -> None:
    """Each entry into [−level, level], in place: one pass over memory on a CPU, two launches for all tensors elsewhere."""
    grads = [
        g for g in grads if level < torch.finfo(g.dtype).max
    ]  # float16 has no number for a level of 10⁵, and no entry above it
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

    def __call__(self, grads, params, state, rng):
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

    The first gives every step the same length, so small gradients grow; the second shrinks all of them a little and none beyond η.
    Zhang et al. 2020, arXiv 1905.11881.
    """

    clipping_level: float = 1.0
    smooth: bool = False
    eps: float = 1e-6
    checks: ClassVar = {"smooth": check_switch, "eps": check_small}

    def __call__(self, grads, params, state, rng):
        if math.isinf(self.clipping_level):
            return torch.ones_like(grads.norm), state
        if self.smooth:
            return (1 + (grads.norm / self.clipping_level) ** 2).rsqrt(), state
        return self.clipping_level / (grads.norm + self.eps), state


@dataclass(frozen=True)
class Auto(Rule):
    """α = min(1, η_t/‖g‖), η_t = p-quantile of the last norms, this step's included

    `p_autoclip` is a fraction; the share of steps clipped tends to 1 − p. The quantile is exact (numpy's linear interpolation) over
    the last `window` norms, whose two copies in float32 are the memory: 8·window bytes. Seetharaman et al. 2020,
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
        norm = (
            grads.norm.float()
        )  # as the memory's, or a wider norm would lie above the level that it is itself
        level, state = self.level(norm, state)
        return within(level, norm), state

    def level(self, norm: Tensor, state: State) -> tuple[Tensor, State]:
        """(η_t, memory with `norm` in the place of the oldest). Costs the same at every step: nothing is sorted anew."""
        norms, ranked, count = state["norms"], state["ranked"], state["count"]
        slot, newest, count = count % self.window, norm.float(), count + 1
        ranked = _exchange(
            ranked, norms.take(slot), newest
        )  # the oldest is infinite until the window is full; norms[slot] would wait
        state = {
            "norms": norms.scatter(0, slot.unsqueeze(0), newest.unsqueeze(0)),
            "ranked": ranked,
            "count": count,
        }
        return _quantile(ranked, count.clamp(max=self.window), self.p_autoclip), state


def _exchange(ranked: Tensor, old: Tensor, new: Tensor) -> Tensor:
    """Ascending `ranked` (k,) without one `old` and with `new`, both ()."""
    rest = torch.where(ranked[:-1] < old, ranked[:-1], ranked[1:])
    # what ends at rank i lies between the neighbours there: it is one of them, or `new` where that is between
    return torch.clamp(new, min=pad(rest, (1, 0), value=-math.inf), max=pad(rest, (0, 1), value=math.inf))


def _quantile(ranked: Tensor, count: Tensor, p: float) -> Tensor:
    """The p-quantile of the first `count` of ascending `ranked`, interpolated linearly: position p·(count − 1). ()"""
    last = (count - 1).clamp(min=0)
    position = p * last
    low = position.long()
    a, b = ranked.take(low), ranked.take(torch.minimum(low + 1, last))
    share = position - low
    return torch.where(share > 0, a + share * (b - a), a)


@dataclass(frozen=True)
class LinearRandAuto(Auto):
    """if ‖g‖ > η_t: α = η_t/‖g‖ with probability β^(η_t/‖g‖), else 1; η_t as in `auto`

    torch-clip, README.
    """

    beta: float = 0.85

    def __call__(self, grads, params, state, rng):
        factor, state = super().__call__(grads, params, state, rng)
        return toss(factor, self.beta, 1, rng), state


@dataclass(frozen=True)
class QuadraticRandAuto(Auto):
    """if ‖g‖ > η_t: α = η_t/‖g‖ with probability β^((η_t/‖g‖)²), else 1; η_t as in `auto`

    torch-clip, README.
    """

    beta: float = 0.85

    def __call__(self, grads, params, state, rng):
        factor, state = super().__call__(grads, params, state, rng)
        return toss(factor, self.beta, 2, rng), state
