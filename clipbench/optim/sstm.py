"""Clipped SSTM: similar triangles, an accelerated method, on clipped gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clipbench.optim.optimizers import Clipped, as_groups, loss_of
from clipbench.optim.ranks import local
from clipbench.optim.rule import Rule
from clipbench.optim.units import Group, at_level


class Triangle(NamedTuple):
    """What step k + 1 of a group goes by: α = α_{k+1} and A = A_k after the cap, numbers of the host.

    Kept as `group["triangle"]`.
    """

    k: int
    alpha: float
    A: float

    @property
    def share(self) -> float:
        """α_{k+1}/A_{k+1}, the weight of z in x and y."""
        return self.alpha / (self.A + self.alpha) if self.A else 1.0


class ClippedSSTM(Clipped):
    """z ← z − α·clip(∇f(x), B/α); y ← (A·y + α·z)/(A + α); next x = (A·y + α·z)/(A + α)

    Gradients are taken at x, the answer is y. α = (k+1)^{2ν/(1+ν)}·lr/(2L) in step k + 1 = 1, 2, …, and A
    is the sum of those before: steps grow, so with `lr` 1 (a = 1/lr in the papers) and `L` the smoothness
    of f, f(y) falls as 1/k². Between steps the parameters hold x: evaluate and save the model within
    `evaluation_weights(optimizer)`. `clipping_level` is B; types without a level (auto) clip as ever. `cap`
    r < 1 bounds A_k/A_{k+1}, as the step is too timid when it nears 1: where A_k > α/(1−r), A_k becomes
    (1/(1−r) − 1)·α. Each group may have lr, L, nu and cap of its own. A new `lr` acts on the x after the
    coming step. Memory: two copies of the weights, in their own precision: in pure bfloat16 small steps
    round to nothing, so keep float32 weights and use autocast. A parameter that has moved once goes on
    towards z at steps where it has no gradient. Gorbunov et al. 2020, arXiv 2005.10785, and 2106.05958.
    """

    answer = "y"
    state_names = ("y", "z")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        L: float = 10.0,
        nu: float = 1.0,
        cap: float = 1.0,
        *,
        clipping_type: str | Rule = "norm",
        clipping_level: float | None = None,
        nonfinite: str = "skip",
        rng: torch.Generator | None = None,
        **rule_settings: Any,
    ) -> None:
        for name, value in (("lr", lr), ("L", L), ("nu", nu), ("cap", cap)):
            _check(name, value)
        defaults = {"lr": float(lr), "L": float(L), "nu": float(nu), "cap": float(cap)}
        super().__init__(as_groups(params), defaults)
        self.join(clipping_type, nonfinite, rng, {"clipping_level": clipping_level, **rule_settings})

    def begin(self) -> None:
        """Back to k = 0, for a restart."""
        for group in self.param_groups:
            group["triangle"] = None

    def rule_at_step(self, rule: Rule, group: Group) -> Rule:
        """At level λ_{k+1} = B/α_{k+1}, so groups of another α are normed alone; `rule` if without level."""
        level = rule.level_or_none
        if level is None:
            return rule
        alpha = _coming(group).alpha
        return at_level(rule, level / alpha if alpha else math.inf)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = loss_of(closure)
        for group in self.param_groups:
            now = _coming(group)
            after = _next(group, now.k + 1, now.A + now.alpha)
            self._move(group["params"], now, after)
            group["triangle"] = tuple(after)
        return loss

    def _move(self, params: list[Tensor], now: Triangle, after: Triangle) -> None:
        """z by the gradient, y towards z, and the parameters to the x of the coming step."""
        moving, y, z, grads, pushed = [], [], [], [], []
        for p in params:
            if p.grad is not None and "y" not in self.state[p]:
                if "z" in self.state[p]:
                    raise RuntimeError(
                        "ClippedSSTM keeps z of its own in a parameter's state, and something around it does "
                        "too. Use it without a schedule-free wrapper: its answer is a mean already."
                    )
                self.state[p].update(y=p.detach().clone(), z=p.detach().clone())
            state = self.state.get(p)
            if not state:
                continue
            moving.append(local(p))
            y.append(local(state["y"]))
            z.append(local(state["z"]))
            if p.grad is not None:
                grads.append(local(p.grad))
                pushed.append(local(state["z"]))
        if not moving:
            return
        if pushed:
            torch._foreach_add_(pushed, grads, alpha=-now.alpha)
        torch._foreach_lerp_(y, z, now.share)
        torch._foreach_copy_(moving, torch._foreach_lerp(y, z, after.share))


def _check(name: str, value: Any) -> None:
    """ValueError unless it is a finite number within the bounds of the setting `name`."""
    number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if name == "nu":
        allowed, within = "0 <= nu <= 1", number and 0 <= value <= 1
    elif name == "cap":
        allowed, within = "0 < cap <= 1; 1 is no cap", number and 0 < value <= 1
    else:
        allowed, within = f"{name} > 0", number and value > 0
    if not within:
        raise ValueError(f"{name} must be a number with {allowed}, got {value!r}.")


def _coming(group: Group) -> Triangle:
    """What the coming step of `group` goes by."""
    if group.get("triangle"):
        return Triangle(*group["triangle"])
    return _next(group, 0, 0.0)


def _next(group: Group, k: int, total: float) -> Triangle:
    """α_{k+1} and A_k = `total`, which the cap may lower."""
    nu, cap = group["nu"], group["cap"]
    growth = (k + 1) ** (2 * nu / (1 + nu))
    alpha = growth * group["lr"] / (2 * group["L"])
    if alpha and cap < 1 and total > alpha / (1 - cap):
        total = (1 / (1 - cap) - 1) * alpha
    return Triangle(k, alpha, total)
